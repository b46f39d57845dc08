//! Names of the specification and the numbers of the kernel.

use crate::sys;

/// Scheduling policies. Source: `sched(7)`.
pub(crate) const POLICIES: [(&str, u16); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];
/// Source: `linux/sched.h`.
pub(crate) const SCHEDULER_FLAGS: [(&str, u16); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];
/// Source: `ioprio_set(2)`.
pub(crate) const IO_CLASSES: [(&str, u16); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];
/// Kinds of namespaces and their bits; mount last but for user, as entering it changes paths.
pub(crate) const NAMESPACES: [(&str, u64, &str); 8] = [
    ("user", sys::CLONE_NEWUSER, "user"),
    ("pid", sys::CLONE_NEWPID, "pid"),
    ("network", sys::CLONE_NEWNET, "net"),
    ("ipc", sys::CLONE_NEWIPC, "ipc"),
    ("uts", sys::CLONE_NEWUTS, "uts"),
    ("cgroup", sys::CLONE_NEWCGROUP, "cgroup"),
    ("time", sys::CLONE_NEWTIME, "time"),
    ("mount", sys::CLONE_NEWNS, "mnt"),
];

/// The number of a name.
pub(crate) fn number(table: &[(&str, u16)], name: &str) -> Option<u16> {
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}
