//! Keeping the leading worker on the processor of whoever asks.
//!
//! Asking and answering are a ping-pong: while one side works the other sleeps. On two processors
//! each of them falls idle in turn and has to be woken by an interrupt; on one they take turns by
//! two switches of context, which is several times cheaper (benches/RESULTS.md). The scheduler
//! would spread them, so the worker binds itself, and lets go as soon as several ask at a time.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{self as rfs, Mode, OFlags};

/// A pause this long between an answer and the next request is worth a look at where the asker
/// runs: asker and worker on one processor take a fraction of it.
const PAUSE_SLOW: Duration = Duration::from_micros(4);
/// Pauses longer than this are the asker's own work.
const PAUSE_THINKING: Duration = Duration::from_millis(2);
/// Requests of one asker in a row before it is followed.
const STREAK_MIN: u32 = 8;
/// Slow pauses between two looks at most.
const BACKOFF_MAX: u32 = 256;
/// Looks in a row that found an asker elsewhere while others ask as well: they work in parallel.
const STRANGERS_MAX: u32 = 4;

/// Moves that come sooner than this many requests after the last one do not pay.
const MOVE_PAYS_AFTER: u32 = 64;
/// So many of these, and the asker is not followed for [`REST`] requests, each time twice as many:
/// the scheduler moves it around faster than it can be followed.
const HASTY_MAX: u32 = 4;
const REST: std::ops::RangeInclusive<u32> = 128..=4096;
/// A stay of so many requests makes the next rest a short one again.
const STAY: u32 = 512;

/// A pause before the first request after a hasty move.
///
/// A processor that has just fallen idle is where the scheduler likes to wake whoever shares one
/// with us, and by moving we leave such a processor behind: asker and worker would chase each
/// other. On a virtual machine it is no such place any more when its host has taken it away, which
/// is after `halt_poll_ns`, by default 200 us. Source: `vcpu_is_preempted` in the scheduler.
pub(crate) const CALM: Duration = Duration::from_micros(300);

/// So many requests of one asker in a row before it is made to wait for that: a short one would
/// not get its time back.
const STREAK_CALM: u32 = 128;

/// What the leading worker is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Go on.
    Stay,
    /// Let a worker bound to this processor lead, a `calm` one only after [`CALM`].
    Move {
        /// Which processor.
        processor: usize,
        /// Whether to pause first.
        calm: bool,
    },
    /// Let any processor do.
    LetGo,
}

/// What is known about the askers.
#[derive(Debug)]
pub(crate) struct Follow {
    /// `/proc` of the process id namespace that requests count in.
    proc: Option<OwnedFd>,
    /// The asker of the last request.
    asker: u32,
    streak: u32,
    strangers: u32,
    /// Slow pauses still to pass before the next look, and after how many the one after it comes.
    wait: u32,
    backoff: u32,
    /// Requests since the last move, hasty moves on balance, and requests still not to follow.
    settled: u32,
    hasty: u32,
    rest: u32,
    /// How long the next rest is.
    next_rest: u32,
}

impl Follow {
    /// `proc` is `None` when processes cannot be looked up: nobody is followed then.
    pub(crate) fn new(proc: Option<OwnedFd>) -> Self {
        Self {
            proc,
            asker: 0,
            streak: 0,
            strangers: 0,
            wait: 0,
            backoff: 1,
            // The first move is none that follows another.
            settled: MOVE_PAYS_AFTER,
            hasty: 0,
            rest: 0,
            next_rest: *REST.start(),
        }
    }

    /// Takes note of a request that came `pause` after the last answer; `bound` is the processor
    /// the worker is bound to.
    pub(crate) fn advise(&mut self, asker: u32, pause: Duration, bound: Option<usize>) -> Advice {
        // What the kernel does by itself, such as forgetting, comes from nobody.
        if self.proc.is_none() || asker == 0 {
            return Advice::Stay;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Advice::Stay;
        }
        self.settled = self.settled.saturating_add(1);
        if asker == self.asker {
            self.streak = self.streak.saturating_add(1);
        } else {
            self.asker = asker;
            self.streak = 0;
        }
        if pause < PAUSE_SLOW || pause > PAUSE_THINKING {
            return Advice::Stay;
        }
        if self.wait > 0 {
            self.wait -= 1;
            return Advice::Stay;
        }
        let steady = self.streak >= STREAK_MIN;
        if !steady && bound.is_none() {
            return Advice::Stay;
        }
        let at = self.processor();
        self.judge(at, bound, steady)
    }

    fn judge(&mut self, at: Option<usize>, bound: Option<usize>, steady: bool) -> Advice {
        if at.is_none() || at == bound {
            self.strangers = 0;
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            self.wait = self.backoff;
            return Advice::Stay;
        }
        self.backoff = 1;
        if let Some(processor) = at
            && steady
        {
            self.strangers = 0;
            return self.move_to(processor);
        }
        self.strangers += 1;
        if self.strangers < STRANGERS_MAX {
            return Advice::Stay;
        }
        self.strangers = 0;
        Advice::LetGo
    }

    fn move_to(&mut self, processor: usize) -> Advice {
        if self.settled >= STAY {
            self.next_rest = *REST.start();
        }
        self.hasty = if self.settled < MOVE_PAYS_AFTER {
            self.hasty + 1
        } else {
            self.hasty.saturating_sub(1)
        };
        self.settled = 0;
        if self.hasty < HASTY_MAX {
            let calm = self.hasty > 0 && self.streak >= STREAK_CALM;
            return Advice::Move { processor, calm };
        }
        self.hasty = 0;
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(*REST.end());
        Advice::LetGo
    }

    /// The processor the asker last ran on.
    fn processor(&self) -> Option<usize> {
        let path = format!("{}/stat", self.asker);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rfs::openat(self.proc.as_ref()?, path, flags, Mode::empty()).ok()?;
        let mut text = [0; 1024];
        let len = File::from(fd).read(&mut text).ok()?;
        processor_of(text.get(..len)?)
    }
}

/// Field 39 of `/proc/PID/stat`. Source: `proc_pid_stat(5)`.
fn processor_of(stat: &[u8]) -> Option<usize> {
    const FIELDS_AFTER_NAME: usize = 36;
    // The second field is a name in parentheses that may hold anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace()
        .nth(FIELDS_AFTER_NAME)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_found_behind_any_name() {
        let fields: Vec<String> = (3..=52).map(|n| (n * 10).to_string()).collect();
        let text = format!("7 (a ) 1 (b) {}", fields.join(" "));
        assert_eq!(processor_of(text.as_bytes()), Some(390));
        assert_eq!(processor_of(b"7 (cut"), None);
        assert_eq!(processor_of(b""), None);
    }

    #[test]
    fn our_own_processor_is_known() {
        let proc = rfs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut follow = Follow::new(Some(proc));
        follow.asker = std::process::id();
        assert!(follow.processor().is_some());
    }

    #[test]
    fn one_who_never_stays_is_let_go_for_longer_each_time() {
        let mut follow = Follow::new(None);
        let mut rests = Vec::new();
        follow.settled = 0;
        while rests.len() < 8 {
            let mut moves = 0;
            while follow.judge(Some(moves % 2), None, true) != Advice::LetGo {
                moves += 1;
            }
            assert_eq!(moves + 1, usize::try_from(HASTY_MAX).unwrap());
            rests.push(std::mem::take(&mut follow.rest));
        }
        assert_eq!(rests, [128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        follow.settled = STAY;
        while follow.judge(Some(0), None, true) != Advice::LetGo {}
        assert_eq!(follow.rest, *REST.start(), "after a stay");
    }

    #[test]
    fn a_hasty_move_after_a_long_asker_is_a_calm_one() {
        let mut follow = Follow::new(None);
        let advice = |processor, calm| Advice::Move { processor, calm };
        assert_eq!(follow.judge(Some(0), None, true), advice(0, false));
        assert_eq!(follow.judge(Some(1), Some(0), true), advice(1, false));
        follow.streak = STREAK_CALM;
        assert_eq!(follow.judge(Some(0), Some(1), true), advice(0, true));
    }

    #[test]
    fn one_asker_is_followed_and_many_are_not() {
        let slow = PAUSE_SLOW * 2;
        let mut follow = Follow::new(None);
        assert_eq!(follow.advise(7, slow, None), Advice::Stay, "without /proc");

        let advice = Advice::Move {
            processor: 3,
            calm: false,
        };
        assert_eq!(follow.judge(Some(3), None, true), advice);
        assert_eq!(follow.judge(Some(3), Some(3), true), Advice::Stay);
        assert_eq!(follow.judge(None, Some(3), true), Advice::Stay);
        for _ in 1..STRANGERS_MAX {
            assert_eq!(follow.judge(Some(4), Some(3), false), Advice::Stay);
        }
        assert_eq!(follow.judge(Some(4), Some(3), false), Advice::LetGo);
    }
}
