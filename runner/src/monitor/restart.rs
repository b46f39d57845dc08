//! Whether and when a container that ended is started again.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::launch::Running;
use crate::config::RestartPolicy;
use crate::sys;

/// The file in a container's directory that says that it was ended by hand.
const BY_HAND: &str = "stopped";
/// First wait before a start. Source: moby restartmanager.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// Longest wait. Source: moby restartmanager.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A run as long as this is taken for a success, and waits begin anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What a monitor remembers between the runs of its container.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    wait: Duration,
    /// Starts since the last one by hand.
    pub(super) count: u32,
}

impl Restarts {
    /// How long to wait for the next start; `None` when there is none.
    pub(super) fn after(
        &mut self,
        policy: &RestartPolicy,
        exit_code: i32,
        ran: Duration,
        by_hand: bool,
    ) -> Option<Duration> {
        let wanted = match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                exit_code != 0 && (policy.retries_max == 0 || self.count < policy.retries_max)
            }
            _ => false,
        };
        if by_hand || !wanted {
            return None;
        }
        self.wait = if ran >= GOOD_RUN || self.wait.is_zero() {
            WAIT_FIRST
        } else {
            (self.wait * 2).min(WAIT_MAX)
        };
        self.count = self.count.saturating_add(1);
        Some(self.wait)
    }
}

/// Waits before the next start; false when the container is to stay ended.
pub(super) fn pause(running: &Running, wait: Duration) -> bool {
    let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let woken = super::wait_readable(running.signals.as_fd(), millis);
    let mut record = [0_u8; 128];
    let signal = match woken.then(|| rustix::io::read(&running.signals, &mut record)) {
        Some(Ok(_)) => sys::signal_number(&record),
        _ => None,
    };
    signal != Some(libc::SIGTERM) && !stopped_by_hand(&running.dir) && running.dir.is_dir()
}

/// Notes that a user ended the container, so that no policy starts it again.
pub(crate) fn mark_stopped(dir: &Path) {
    // Without the note the container comes back, which the user sees.
    let _unwritten = std::fs::write(dir.join(BY_HAND), "");
}

/// Forgets the note: the user started it.
pub(crate) fn clear_stopped(dir: &Path) {
    let _absent = std::fs::remove_file(dir.join(BY_HAND));
}

/// Whether a user ended the container.
pub(crate) fn stopped_by_hand(dir: &Path) -> bool {
    dir.join(BY_HAND).try_exists().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, retries_max: u32) -> RestartPolicy {
        RestartPolicy {
            name: name.to_owned(),
            retries_max,
        }
    }

    #[test]
    fn policies_decide_as_docker_does() {
        let second = Duration::from_secs(1);
        let cases = [
            (policy("no", 0), 1, false, false),
            (policy("always", 0), 0, false, true),
            (policy("always", 0), 0, true, false),
            (policy("unless-stopped", 0), 0, true, false),
            (policy("on-failure", 0), 0, false, false),
            (policy("on-failure", 0), 3, false, true),
        ];
        for (policy, code, by_hand, expected) in cases {
            let wait = Restarts::default().after(&policy, code, second, by_hand);
            assert_eq!(wait.is_some(), expected, "{policy:?} {code} {by_hand}");
        }
    }

    #[test]
    fn waits_double_and_begin_anew_after_a_good_run() {
        let mut restarts = Restarts::default();
        let always = policy("always", 0);
        let mut next = |ran: u64| {
            let wait = restarts.after(&always, 0, Duration::from_secs(ran), false);
            wait.unwrap().as_millis()
        };
        assert_eq!([next(1), next(1), next(9)], [100, 200, 400]);
        assert_eq!([next(10), next(1)], [100, 200]);
        for _ in 0..20 {
            next(0);
        }
        assert_eq!(next(0), 60_000);
    }

    #[test]
    fn failures_are_counted() {
        let mut restarts = Restarts::default();
        let twice = policy("on-failure", 2);
        let mut next = || restarts.after(&twice, 1, Duration::ZERO, false).is_some();
        assert_eq!([next(), next(), next()], [true, true, false]);
    }
}
