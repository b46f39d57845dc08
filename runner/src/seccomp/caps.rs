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

/// The bit of a capability by name, with or without `CAP_`; 0 for an unknown one.
pub(crate) fn bit(name: &str) -> u64 {
    crate::caps::number(name).map_or(0, |number| 1 << number)
}
