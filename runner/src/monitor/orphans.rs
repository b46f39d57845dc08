//! Ending what a container without a PID namespace of its own leaves.

use std::time::Duration;

use super::launch::Running;

/// Rounds of killing what a container among the host's processes left: each may leave more.
const ORPHAN_ROUNDS_MAX: usize = 100;

/// Kills and reaps what became our child when its parent in the container ended.
pub(super) fn end_children(running: &Running) {
    let own = |child: &Option<super::Child>| child.as_ref().map(|child| child.pid);
    let helpers = [own(&running.server), own(&running.supervisor)];
    let net = running.net.as_ref().map(|net| net.child.pid);
    let me = rustix::process::getpid().as_raw_nonzero().get();
    for _ in 0..ORPHAN_ROUNDS_MAX {
        let left: Vec<_> = crate::container::children(me)
            .into_iter()
            .filter_map(rustix::process::Pid::from_raw)
            .filter(|pid| !helpers.contains(&Some(*pid)) && net != Some(*pid))
            .collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            if let Ok(orphan) = super::Child::new(pid) {
                orphan.signal(libc::SIGKILL);
                orphan.reap();
            }
        }
    }
}

/// Kills what a container left in another's PID namespace. That one's first process reaps it.
pub(super) fn end_in(namespace: &std::path::Path) {
    for _ in 0..ORPHAN_ROUNDS_MAX {
        let left = crate::container::in_namespace("mnt", namespace);
        if left.is_empty() {
            return;
        }
        for pid in left.into_iter().filter_map(rustix::process::Pid::from_raw) {
            if let Ok(one) = super::Child::new(pid) {
                one.signal(libc::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
