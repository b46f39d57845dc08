//! Removing directories that were taken out of the tree: soon, all together, and by nobody who
//! waits for an answer.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::remove_tree;

/// How long what is to be removed is gathered. A thread for each directory of an `rm -r` took as
/// long as the request, and woke another processor each time, to which the scheduler then moved
/// the asker.
const GATHER: Duration = Duration::from_millis(20);

/// What is still to be removed from a work directory.
#[derive(Debug)]
pub(crate) struct Reaper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    work: OwnedFd,
    state: Mutex<State>,
    rested: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: Vec<Vec<u8>>,
    /// Whether a thread will look at `names`.
    awaited: bool,
    /// Whether it is removing some.
    busy: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, names: &[Vec<u8>]) {
        for name in names {
            // Best effort: the next start clears the work directory anyway.
            let _left = remove_tree(self.work.as_fd(), name, 0);
        }
    }

    /// Removes in batches until a batch is empty.
    fn run(&self) {
        loop {
            std::thread::sleep(GATHER);
            let mut state = self.state();
            let names = std::mem::take(&mut state.names);
            state.awaited = !names.is_empty();
            state.busy = state.awaited;
            drop(state);
            if names.is_empty() {
                return;
            }
            self.remove(&names);
            self.state().busy = false;
            self.rested.notify_all();
        }
    }
}

impl Reaper {
    pub(crate) fn new(work: OwnedFd) -> Self {
        Self(Arc::new(Shared {
            work,
            state: Mutex::default(),
            rested: Condvar::new(),
        }))
    }

    /// Removes `name` of the work directory later. When no thread can be had, the caller waits.
    pub(crate) fn remove_later(&self, name: &[u8]) {
        let mut state = self.0.state();
        state.names.push(name.to_vec());
        if state.awaited {
            return;
        }
        state.awaited = true;
        drop(state);
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("rrun-reap".into());
        if thread.spawn(move || shared.run()).is_err() {
            self.finish();
            self.0.state().awaited = false;
        }
    }

    /// Removes what is left, and waits for what is being removed.
    fn finish(&self) {
        let names = std::mem::take(&mut self.0.state().names);
        self.0.remove(&names);
        let state = self.0.state();
        let rested = self.0.rested.wait_while(state, |state| state.busy);
        drop(rested.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Instant;

    fn reaper(dir: &tempfile::TempDir) -> Reaper {
        Reaper::new(fs::File::open(dir.path()).unwrap().into())
    }

    fn fill(dir: &tempfile::TempDir, name: &str) {
        let sub = dir.path().join(name).join("below");
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join("file"), "x").unwrap();
    }

    fn count(dir: &tempfile::TempDir) -> usize {
        fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn what_is_taken_out_is_removed_by_itself_also_a_second_time() {
        let dir = tempfile::tempdir().unwrap();
        let reaper = reaper(&dir);
        for _ in 0..2 {
            for name in ["a", "b", "c"] {
                fill(&dir, name);
                reaper.remove_later(name.as_bytes());
            }
            let started = Instant::now();
            while count(&dir) > 0 || reaper.0.state().awaited {
                assert!(started.elapsed() < Duration::from_secs(20));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn nothing_is_left_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let reaper = reaper(&dir);
        for number in 0..50 {
            let name = number.to_string();
            fill(&dir, &name);
            reaper.remove_later(name.as_bytes());
        }
        drop(reaper);
        assert_eq!(count(&dir), 0);
    }
}
