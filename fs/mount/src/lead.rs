//! Which worker leads, and on which processor.

use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::thread::{self, CpuSet, Pid};

use crate::follow::Follow;

/// The right to take requests: one worker has it, and passes it on.
#[derive(Debug)]
pub(crate) struct Lead {
    state: Mutex<State>,
    vacancy: Condvar,
    /// Processors we may run on; `None` when that cannot be told, and workers are never bound.
    all: Option<CpuSet>,
}

#[derive(Debug)]
struct State {
    /// What the last leader knew; `None` while somebody leads.
    vacant: Option<Vacant>,
    /// Workers without anything to do; they may run anywhere.
    waiting: Vec<Pid>,
    closed: bool,
}

#[derive(Debug)]
struct Vacant {
    follow: Follow,
    /// Who is meant, and the processor it was bound to.
    chosen: Option<(Pid, usize)>,
    /// Whether it is to wait before it begins.
    calm: bool,
}

/// The lead, taken.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) follow: Follow,
    bound: Option<usize>,
    calm: bool,
}

impl Seat {
    /// Whether this worker is to pause before its first request.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm
    }

    /// The processor this worker is bound to.
    pub(crate) fn bound(&self) -> Option<usize> {
        self.bound
    }
}

impl Lead {
    /// `proc` is where the askers' processors are looked up.
    pub(crate) fn new(proc: Option<OwnedFd>) -> Self {
        let all = thread::sched_getaffinity(None).ok();
        let several = all.as_ref().is_some_and(|set| set.count() > 1);
        let follow = Follow::new(proc.filter(|_| several));
        Self {
            state: Mutex::new(State {
                vacant: Some(Vacant {
                    follow,
                    chosen: None,
                    calm: false,
                }),
                waiting: Vec::new(),
                closed: false,
            }),
            vacancy: Condvar::new(),
            all: all.filter(|_| several),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lead; `None` when there will be no more requests.
    pub(crate) fn take(&self) -> Option<Seat> {
        let me = thread::gettid();
        let mut state = self.state();
        state.waiting.push(me);
        let vacant = loop {
            if state.closed {
                return None;
            }
            let meant = state
                .vacant
                .take_if(|vacant| vacant.chosen.is_none_or(|(worker, _)| worker == me));
            if let Some(vacant) = meant {
                break vacant;
            }
            state = self
                .vacancy
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        state.waiting.retain(|worker| *worker != me);
        Some(Seat {
            follow: vacant.follow,
            bound: vacant.chosen.map(|(_, processor)| processor),
            calm: vacant.calm,
        })
    }

    /// Passes the lead on, to a worker bound to `processor` if there is one to be had.
    pub(crate) fn give(&self, seat: Seat, processor: Option<usize>) {
        self.pass(seat, processor, false);
    }

    fn pass(&self, seat: Seat, processor: Option<usize>, calm: bool) {
        self.unbind(seat.bound);
        let mut state = self.state();
        let chosen = processor.and_then(|processor| {
            let worker = *state.waiting.first()?;
            bind(Some(worker), processor).then_some((worker, processor))
        });
        state.vacant = Some(Vacant {
            follow: seat.follow,
            chosen,
            calm,
        });
        drop(state);
        if chosen.is_some() {
            self.vacancy.notify_all();
        } else {
            self.vacancy.notify_one();
        }
    }

    /// Moves the leader to a processor: another worker when one waits, since a running one is
    /// moved at a higher price. Gives back the seat when this worker goes on leading. A `calm` one
    /// pauses first.
    pub(crate) fn move_to(&self, mut seat: Seat, processor: usize, calm: bool) -> Option<Seat> {
        if !self.state().waiting.is_empty() {
            self.pass(seat, Some(processor), calm);
            return None;
        }
        if bind(None, processor) {
            seat.bound = Some(processor);
        }
        Some(seat)
    }

    /// Lets the leader run anywhere.
    pub(crate) fn let_go(&self, seat: &mut Seat) {
        self.unbind(seat.bound.take());
    }

    fn unbind(&self, bound: Option<usize>) {
        if bound.is_some()
            && let Some(all) = &self.all
        {
            // Refused only if our processors were changed meanwhile; the kernel then chose.
            let _refused = thread::sched_setaffinity(None, all);
        }
    }

    /// Sends everybody home.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.vacancy.notify_all();
    }
}

/// Binds a worker, or this one; false when the processor is not ours.
fn bind(worker: Option<Pid>, processor: usize) -> bool {
    let mut set = CpuSet::new();
    if processor >= CpuSet::MAX_CPU {
        return false;
    }
    set.set(processor);
    thread::sched_setaffinity(worker, &set).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lead_passes_from_one_to_the_next() {
        let lead = Lead::new(None);
        let seat = lead.take().unwrap();
        assert_eq!(seat.bound(), None);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| lead.take().is_some());
            lead.give(seat, None);
            assert!(next.join().unwrap());
            let last = scope.spawn(|| lead.take().is_none());
            lead.close();
            assert!(last.join().unwrap());
        });
    }

    #[test]
    fn a_worker_is_bound_when_it_is_given_the_lead() {
        let lead = Lead::new(None);
        let Ok(all) = thread::sched_getaffinity(None) else {
            return;
        };
        let Some(processor) = (0..CpuSet::MAX_CPU).find(|n| all.is_set(*n)) else {
            return;
        };
        let seat = lead.take().unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                let seat = lead.take().unwrap();
                let mine = thread::sched_getaffinity(None).unwrap();
                (seat.bound(), mine.count())
            });
            while lead.state().waiting.is_empty() {
                std::thread::yield_now();
            }
            assert!(lead.move_to(seat, processor, false).is_none());
            assert_eq!(next.join().unwrap(), (Some(processor), 1));
        });
    }
}
