//! Capability names and sets.

use serde::{Deserialize, Serialize};

/// Names by number, without the `CAP_` prefix. Source: `capabilities(7)`.
const NAMES: [&str; 41] = [
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

/// What Docker gives a root process.
const DOCKER_DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities, bit `n` for number `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapSet(u64);

/// The text names no capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownCapability(pub String);

impl std::fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown capability: {}", self.0)
    }
}

impl std::error::Error for UnknownCapability {}

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);
    /// Every capability this program knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// Docker's default 14.
    #[must_use]
    pub fn docker_default() -> Self {
        DOCKER_DEFAULT
            .iter()
            .filter_map(|name| number(name))
            .fold(Self::EMPTY, Self::with)
    }

    /// The set after `--cap-add` and `--cap-drop`; `ALL` stands for every capability.
    ///
    /// # Errors
    ///
    /// When a name is not a capability's; case and the prefix `CAP_` do not matter.
    pub fn resolve(add: &[String], drop: &[String]) -> Result<Self, UnknownCapability> {
        let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let start = match (all(add), all(drop)) {
            (true, _) => Self::ALL,
            (false, true) => Self::EMPTY,
            (false, false) => Self::docker_default(),
        };
        let numbers = |list: &[String]| -> Result<Vec<u32>, UnknownCapability> {
            list.iter()
                .filter(|name| !name.eq_ignore_ascii_case("ALL"))
                .map(|name| number(name).ok_or_else(|| UnknownCapability(name.clone())))
                .collect()
        };
        let dropped = numbers(drop)?
            .into_iter()
            .fold(start, |set, n| Self(set.0 & !(1 << n)));
        Ok(numbers(add)?.into_iter().fold(dropped, Self::with))
    }

    /// The set as a bit mask.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether capability `number` is in the set.
    #[must_use]
    pub const fn contains(self, number: u32) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    /// The names in the set, with prefix.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        (0_u32..)
            .zip(NAMES)
            .filter(|(n, _)| self.contains(*n))
            .map(|(_, name)| format!("CAP_{name}"))
            .collect()
    }

    /// The named capabilities; those this program does not know are passed over, as the
    /// specification of bundles has it.
    #[must_use]
    pub fn named(names: &[String]) -> Self {
        let numbers = names.iter().filter_map(|name| number(name));
        numbers.fold(Self::EMPTY, Self::with)
    }

    fn with(self, number: u32) -> Self {
        Self(self.0 | (1 << number))
    }
}

/// The number of a capability by name, with or without `CAP_`, in either case.
pub(crate) fn number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_resolve_as_docker_resolves_them() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let resolve = |add: &[&str], drop: &[&str]| CapSet::resolve(&list(add), &list(drop));
        assert_eq!(CapSet::docker_default().bits(), 0xa804_25fb);
        assert_eq!(resolve(&[], &["ALL"]), Ok(CapSet::EMPTY));
        assert_eq!(resolve(&["cap_chown"], &["all"]).map(CapSet::bits), Ok(1));
        assert_eq!(
            resolve(&["ALL"], &["SYS_ADMIN"]).map(|s| s.contains(21)),
            Ok(false)
        );
        assert_eq!(
            resolve(&["NOPE"], &[]),
            Err(UnknownCapability("NOPE".to_owned()))
        );
    }
}
