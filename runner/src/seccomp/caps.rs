//! The capability bits the default profile looks at.
//!
//! Source: `capabilities(7)`, `linux/capability.h`.

/// `CAP_DAC_READ_SEARCH`.
pub const DAC_READ_SEARCH: u64 = 1 << 2;
/// `CAP_SYS_MODULE`.
pub const SYS_MODULE: u64 = 1 << 16;
/// `CAP_SYS_RAWIO`.
pub const SYS_RAWIO: u64 = 1 << 17;
/// `CAP_SYS_CHROOT`.
pub const SYS_CHROOT: u64 = 1 << 18;
/// `CAP_SYS_PTRACE`.
pub const SYS_PTRACE: u64 = 1 << 19;
/// `CAP_SYS_PACCT`.
pub const SYS_PACCT: u64 = 1 << 20;
/// `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: u64 = 1 << 21;
/// `CAP_SYS_BOOT`.
pub const SYS_BOOT: u64 = 1 << 22;
/// `CAP_SYS_NICE`.
pub const SYS_NICE: u64 = 1 << 23;
/// `CAP_SYS_TIME`.
pub const SYS_TIME: u64 = 1 << 25;
/// `CAP_SYS_TTY_CONFIG`.
pub const SYS_TTY_CONFIG: u64 = 1 << 26;
/// `CAP_SYSLOG`.
pub const SYSLOG: u64 = 1 << 34;
/// `CAP_PERFMON`.
pub const PERFMON: u64 = 1 << 38;
/// `CAP_BPF`.
pub const BPF: u64 = 1 << 39;

/// The name of each bit of a capability mask, lowest first, without `CAP_`.
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of a capability by name, with or without `CAP_`; 0 for an unknown one.
pub(crate) fn bit(name: &str) -> u64 {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    let at = NAMES.iter().position(|known| *known == short);
    at.and_then(|at| u32::try_from(at).ok())
        .map_or(0, |at| 1 << at)
}
