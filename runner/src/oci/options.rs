//! The words of `mount -o`, as a bundle's mounts have them.

use serde::{Deserialize, Serialize};

/// `MOUNT_ATTR_RDONLY`. Source: `linux/mount.h`.
pub(crate) const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub(crate) const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub(crate) const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub(crate) const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the bits of which only one may be set.
const ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`.
const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
const NOSYMFOLLOW: u64 = 0x20_0000;

/// What a word does to a mount's attributes: its name, bits it sets, bits it clears. Each also
/// exists with an `r` before it, meaning all mounts below too.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", RDONLY, 0),
    ("rw", 0, RDONLY),
    ("nosuid", NOSUID, 0),
    ("suid", 0, NOSUID),
    ("nodev", NODEV, 0),
    ("dev", 0, NODEV),
    ("noexec", NOEXEC, 0),
    ("exec", 0, NOEXEC),
    ("noatime", NOATIME, ATIME),
    ("atime", 0, ATIME),
    ("relatime", 0, ATIME),
    ("norelatime", 0, ATIME),
    ("strictatime", STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
    ("nodiratime", NODIRATIME, 0),
    ("diratime", 0, NODIRATIME),
    ("nosymfollow", NOSYMFOLLOW, 0),
    ("symfollow", 0, NOSYMFOLLOW),
];

/// Propagation words and their `MS_*` bits. Each also exists with an `r` before it.
const PROPAGATION: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that the file system itself gets, as flags without a value.
const SUPERBLOCK: [&str; 5] = ["sync", "dirsync", "lazytime", "mand", "iversion"];

/// Words that say what is the case anyway.
const NOTHING: [&str; 10] = [
    "defaults",
    "async",
    "nolazytime",
    "nomand",
    "noiversion",
    "loud",
    "silent",
    "acl",
    "noacl",
    "auto",
];

/// What a mount's options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// Attributes to set on the mount.
    pub set: u64,
    /// Attributes to clear first.
    pub clear: u64,
    /// Attributes to set on it and all below.
    pub set_all: u64,
    /// Attributes to clear there first.
    pub clear_all: u64,
    /// Propagation to set, in order; true means all below too.
    pub propagation: Vec<(u64, bool)>,
    /// Whether it is a bind mount; true means with all mounts below.
    pub bind: Option<bool>,
    /// Whether what is mounted there is only to be changed.
    pub remount: bool,
    /// Whether a new tmpfs starts with what it hides.
    pub copy_up: bool,
    /// Whether a link is copied instead of followed.
    pub copy_symlink: bool,
    /// Whether the last part of the source is not followed.
    pub source_nofollow: bool,
    /// Whether the mount is id-mapped; true means with all below.
    pub id_mapped: Option<bool>,
    /// What the file system itself gets, as keys and values.
    pub data: Vec<(String, String)>,
}

impl MountOptions {
    /// Reads a mount's options. What is no known word is for the file system.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut options = Self::default();
        for word in words.iter().filter(|word| !word.is_empty()) {
            options.word(word);
        }
        options
    }

    fn word(&mut self, word: &str) {
        match word {
            "bind" => self.bind = Some(self.bind == Some(true)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.copy_symlink = true,
            "src-nofollow" => self.source_nofollow = true,
            "idmap" => self.id_mapped = Some(false),
            "ridmap" => self.id_mapped = Some(true),
            _ if NOTHING.contains(&word) => {}
            _ if SUPERBLOCK.contains(&word) => self.data.push((word.to_owned(), String::new())),
            _ => {
                if !self.attribute(word) && !self.propagate(word) {
                    let (key, value) = word.split_once('=').unwrap_or((word, ""));
                    self.data.push((key.to_owned(), value.to_owned()));
                }
            }
        }
    }

    fn attribute(&mut self, word: &str) -> bool {
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        if let Some((_, set, clear)) = find(word) {
            self.set = (self.set & !clear) | set;
            self.clear = (self.clear & !set) | clear;
            return true;
        }
        let Some((_, set, clear)) = word.strip_prefix('r').and_then(find) else {
            return false;
        };
        self.set_all = (self.set_all & !clear) | set;
        self.clear_all = (self.clear_all & !set) | clear;
        true
    }

    fn propagate(&mut self, word: &str) -> bool {
        let (bits, all) = propagation(word);
        if bits != 0 {
            self.propagation.push((bits, all));
        }
        bits != 0
    }
}

/// The `MS_*` bits of a propagation word and whether it means all mounts below; 0 for another word.
pub(crate) fn propagation(word: &str) -> (u64, bool) {
    let find = |name: &str| PROPAGATION.iter().find(|(known, _)| *known == name);
    if let Some((_, bits)) = find(word) {
        return (*bits, false);
    }
    let recursive = word.strip_prefix('r').and_then(find);
    recursive.map_or((0, false), |(_, bits)| (*bits, true))
}

/// Every word with a meaning of its own, for `features`.
pub(crate) fn known_words() -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for name in ATTRIBUTES.iter().map(|(name, ..)| *name) {
        words.extend([name.to_owned(), format!("r{name}")]);
    }
    for name in PROPAGATION.iter().map(|(name, _)| *name) {
        words.extend([name.to_owned(), format!("r{name}")]);
    }
    let others = [
        "bind",
        "rbind",
        "remount",
        "tmpcopyup",
        "copy-symlink",
        "src-nofollow",
        "idmap",
        "ridmap",
    ];
    let plain = others.iter().chain(&SUPERBLOCK).chain(&NOTHING);
    words.extend(plain.map(|word| (*word).to_owned()));
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> MountOptions {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        MountOptions::parse(&words)
    }

    #[test]
    fn words_become_attributes_propagation_or_data() {
        let options = parse(&["rbind", "ro", "nosuid", "rprivate", "size=5", "noswap"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!(options.set, RDONLY | NOSUID);
        assert_eq!(options.propagation, [(libc::MS_PRIVATE, true)]);
        let data: Vec<_> = options
            .data
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(data, [("size", "5"), ("noswap", "")]);
    }

    #[test]
    fn the_last_of_opposite_words_wins() {
        assert_eq!(parse(&["ro", "rw"]).set & RDONLY, 0);
        assert_eq!(parse(&["rw", "ro"]).set & RDONLY, RDONLY);
        assert_eq!(parse(&["bind", "rbind"]).bind, Some(true));
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(true));
        let options = parse(&["rro", "strictatime", "noatime"]);
        assert_eq!((options.set_all, options.set), (RDONLY, NOATIME));
        assert_eq!(options.clear & ATIME, ATIME);
    }
}
