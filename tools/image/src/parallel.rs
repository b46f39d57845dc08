//! A few jobs at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ImageError;

/// Layers moved at once: what Docker does; more only share the same link and disk.
pub(crate) const LAYERS_AT_ONCE: usize = 3;

/// Runs `work` on every job, at most `width` at once; after the first failure no new job starts
/// and that failure is returned.
pub(crate) fn for_each<J: Send>(
    jobs: Vec<J>,
    width: usize,
    work: impl Fn(J) -> Result<(), ImageError> + Sync,
) -> Result<(), ImageError> {
    let width = width.min(jobs.len());
    if width <= 1 {
        return jobs.into_iter().try_for_each(work);
    }
    let queue = Mutex::new(jobs.into_iter());
    let failure = Mutex::new(None);
    let failed = AtomicBool::new(false);
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let job = queue.lock().ok().and_then(|mut jobs| jobs.next());
            let Some(job) = job else { return };
            if let Err(error) = work(job) {
                failed.store(true, Ordering::Relaxed);
                if let Ok(mut first) = failure.lock() {
                    first.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(worker);
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        Ok(None) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_job_runs_once_and_the_first_failure_comes_back() {
        let sum = AtomicU32::new(0);
        for_each((1..=100).collect(), 3, |job: u32| {
            sum.fetch_add(job, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(sum.into_inner(), 5050);
        let result = for_each(vec![1, 2, 3], 2, |job| {
            if job == 2 {
                return Err(ImageError::NoSuchImage("two".into()));
            }
            Ok(())
        });
        assert_eq!(result.unwrap_err().to_string(), "no such image: two");
    }
}
