//! Running a container's health check now and then.
//!
//! Source: moby daemon/health.go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use super::Child;
use crate::config::HealthCheck;
use crate::state::{Health, PROBES_MAX, Probe};
use crate::sys;

/// Bytes of a check's output that are kept. Source: Docker.
const OUTPUT_BYTES_MAX: usize = 4096;

/// A check that is under way.
#[derive(Debug)]
struct Run {
    child: Child,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    started: String,
    ends_at: Instant,
}

/// The checks of a running container.
#[derive(Debug)]
pub(super) struct Checks {
    check: HealthCheck,
    since: Instant,
    due: Instant,
    run: Option<Run>,
}

impl Checks {
    pub(super) fn new(check: &HealthCheck) -> Self {
        let now = Instant::now();
        let mut checks = Self {
            check: check.clone(),
            since: now,
            due: now,
            run: None,
        };
        checks.due = now + checks.interval(true);
        checks
    }

    fn starting(&self) -> bool {
        self.since.elapsed() < Duration::from_millis(self.check.start_period_ms)
    }

    fn interval(&self, starting: bool) -> Duration {
        let millis = if starting && self.starting() && self.check.start_interval_ms > 0 {
            self.check.start_interval_ms
        } else {
            self.check.interval_ms
        };
        Duration::from_millis(millis.max(1))
    }

    /// When something is to be done next.
    pub(super) fn next(&self) -> Instant {
        self.run.as_ref().map_or(self.due, |run| run.ends_at)
    }

    /// What to wait for: the end of a check, and its output.
    pub(super) fn descriptors(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        let run = self.run.as_ref();
        (
            run.map(|run| run.child.pidfd.as_fd()),
            run.and_then(|run| run.output.as_ref()).map(AsFd::as_fd),
        )
    }

    /// Begins a check when one is due and ends one that takes too long; true when `health`
    /// changed.
    pub(super) fn tick(&mut self, dir: &Path, health: &mut Health) -> bool {
        let now = Instant::now();
        if let Some(run) = &self.run {
            if now < run.ends_at {
                return false;
            }
            run.child.signal(libc::SIGKILL);
            let timeout = Duration::from_millis(self.check.timeout_ms);
            let text = format!("Health check exceeded timeout ({timeout:?})");
            return self.finish(health, Some(text));
        }
        if now < self.due {
            return false;
        }
        match begin(&self.check, dir) {
            Ok(run) => {
                self.run = Some(run);
                false
            }
            Err(error) => {
                self.due = now + self.interval(health.status == "starting");
                let time = crate::time::now();
                self.note(
                    health,
                    Probe {
                        start: time.clone(),
                        end: time,
                        exit_code: -1,
                        output: error.to_string(),
                    },
                );
                true
            }
        }
    }

    /// Takes output of the check.
    pub(super) fn read(&mut self) {
        let Some(run) = &mut self.run else { return };
        let mut buffer = [0_u8; 4096];
        let count = match run
            .output
            .as_ref()
            .map(|fd| rustix::io::read(fd, &mut buffer))
        {
            Some(Ok(count)) if count > 0 => count,
            Some(Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)) => return,
            _ => {
                run.output = None;
                return;
            }
        };
        let room = OUTPUT_BYTES_MAX.saturating_sub(run.text.len());
        let bytes = buffer.get(..count.min(room)).unwrap_or_default();
        run.text.extend_from_slice(bytes);
    }

    /// The check has ended, or is given up for `why`; true when `health` changed.
    pub(super) fn finish(&mut self, health: &mut Health, why: Option<String>) -> bool {
        for _ in 0..16 {
            self.read();
        }
        let Some(run) = self.run.take() else {
            return false;
        };
        let code = run.child.reap();
        let probe = Probe {
            start: run.started,
            end: crate::time::now(),
            exit_code: if why.is_some() { -1 } else { code },
            output: why.unwrap_or_else(|| String::from_utf8_lossy(&run.text).into_owned()),
        };
        self.note(health, probe);
        self.due = Instant::now() + self.interval(health.status == "starting");
        true
    }

    fn note(&self, health: &mut Health, probe: Probe) {
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            "healthy".clone_into(&mut health.status);
        } else if health.status != "starting" || !self.starting() {
            health.failing_streak = health.failing_streak.saturating_add(1);
            if health.failing_streak >= self.check.retries.max(1) {
                "unhealthy".clone_into(&mut health.status);
            }
        }
        health.log.push(probe);
        let surplus = health.log.len().saturating_sub(PROBES_MAX);
        health.log.drain(..surplus);
    }

    /// Ends a check that is under way: the container is gone.
    pub(super) fn abandon(&mut self) {
        if let Some(run) = self.run.take() {
            run.child.signal(libc::SIGKILL);
            run.child.reap();
        }
    }
}

fn begin(check: &HealthCheck, dir: &Path) -> std::io::Result<Run> {
    let (near, far) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&near, true)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let mut argv = check.probe_argv.clone();
    argv.push(dir.into());
    let fds = [(null.as_fd(), 0), (far.as_fd(), 1), (far.as_fd(), 2)];
    let pid = sys::spawn(&sys::Spawn {
        argv: &argv,
        fds: &fds,
        session: false,
    })?;
    Ok(Run {
        child: Child::new(pid)?,
        output: Some(near),
        text: Vec::new(),
        started: crate::time::now(),
        ends_at: Instant::now() + Duration::from_millis(check.timeout_ms.max(1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(check: &HealthCheck, codes: &[i32]) -> Health {
        let checks = Checks::new(check);
        let mut health = Health {
            status: "starting".to_owned(),
            ..Health::default()
        };
        for code in codes {
            let probe = Probe {
                exit_code: *code,
                ..Probe::default()
            };
            checks.note(&mut health, probe);
        }
        health
    }

    #[test]
    fn failures_in_a_row_make_a_container_unhealthy() {
        let check = HealthCheck {
            retries: 3,
            ..HealthCheck::default()
        };
        let cases: [(&[i32], &str, u32); 5] = [
            (&[], "starting", 0),
            (&[1, 1], "starting", 2),
            (&[1, 1, -1], "unhealthy", 3),
            (&[1, 1, 1, 0], "healthy", 0),
            (&[0, 1, 1], "healthy", 2),
        ];
        for (codes, status, streak) in cases {
            let health = noted(&check, codes);
            assert_eq!(health.status, status, "input {codes:?}");
            assert_eq!(health.failing_streak, streak, "input {codes:?}");
        }
        assert_eq!(noted(&check, &[0; 9]).log.len(), PROBES_MAX);
    }

    #[test]
    fn failures_do_not_count_while_it_starts() {
        let check = HealthCheck {
            retries: 1,
            start_period_ms: 600_000,
            ..HealthCheck::default()
        };
        assert_eq!(noted(&check, &[1, 1]).status, "starting");
        assert_eq!(noted(&check, &[0, 1]).status, "unhealthy");
    }
}
