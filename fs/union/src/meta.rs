//! The virtual owner, mode and device of a file whose real ones are the server's.
//!
//! Text form of `user.containers.override_stat`: `UID:GID:0MODE[:TYPE]`, mode in octal, TYPE one
//! of `file dir symlink pipe socket char-MAJ-MIN block-MAJ-MIN`.
//! Source: containers/storage, `idtools`; read by fuse-overlayfs with `xattr_permissions=2`.

use rrun_core::{Attr, Device, FileType};

/// The attribute that holds it.
pub(crate) const OVERRIDE_STAT: &str = "user.containers.override_stat";

/// Owner, mode and type that a file pretends to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Virtual {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) perm: u32,
    pub(crate) kind: FileType,
    pub(crate) rdev: Device,
}

impl Virtual {
    pub(crate) fn of(attr: &Attr) -> Self {
        Self {
            uid: attr.uid,
            gid: attr.gid,
            perm: attr.perm,
            kind: attr.kind,
            rdev: attr.rdev,
        }
    }

    /// The permission bits the file on disk gets: the server's user must always get in, and no
    /// setuid bit reaches the host.
    pub(crate) fn disk_perm(&self) -> u32 {
        let owner = if self.kind == FileType::Directory {
            0o700
        } else {
            0o600
        };
        (self.perm & 0o777) | owner
    }

    /// Whether plain attributes on disk say the same, so that no xattr is needed.
    pub(crate) fn is_plain(&self) -> bool {
        let plain_kind = match self.kind {
            FileType::Regular | FileType::Directory => self.perm == self.disk_perm(),
            FileType::Symlink => true,
            FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => {
                false
            }
        };
        self.uid == 0 && self.gid == 0 && plain_kind
    }

    pub(crate) fn encode(&self) -> String {
        let Self {
            uid,
            gid,
            perm,
            rdev: Device { major, minor },
            ..
        } = self;
        let kind = match self.kind {
            FileType::Regular | FileType::Directory => return format!("{uid}:{gid}:0{perm:o}"),
            FileType::Symlink => "symlink".to_owned(),
            FileType::Fifo => "pipe".to_owned(),
            FileType::Socket => "socket".to_owned(),
            FileType::CharDevice => format!("char-{major}-{minor}"),
            FileType::BlockDevice => format!("block-{major}-{minor}"),
        };
        format!("{uid}:{gid}:0{perm:o}:{kind}")
    }

    /// Reads the text; `disk` is the type of the file it hangs on. `None` when malformed.
    pub(crate) fn decode(text: &[u8], disk: FileType) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.trim_end_matches('\0');
        let mut parts = text.splitn(4, ':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let perm = u32::from_str_radix(parts.next()?, 8).ok()? & 0o7777;
        let mut rdev = Device::default();
        let kind = match parts.next() {
            None | Some("" | "file" | "dir") => disk,
            Some("symlink") => FileType::Symlink,
            Some("pipe") => FileType::Fifo,
            Some("socket") => FileType::Socket,
            Some(device) => {
                let mut fields = device.split('-');
                let kind = match fields.next()? {
                    "char" => FileType::CharDevice,
                    "block" => FileType::BlockDevice,
                    _ => return None,
                };
                rdev.major = fields.next()?.parse().ok()?;
                rdev.minor = fields.next()?.parse().ok()?;
                kind
            }
        };
        Some(Self {
            uid,
            gid,
            perm,
            kind,
            rdev,
        })
    }

    pub(crate) fn apply(&self, attr: &mut Attr) {
        attr.uid = self.uid;
        attr.gid = self.gid;
        attr.perm = self.perm;
        attr.kind = self.kind;
        attr.rdev = self.rdev;
        if !matches!(
            self.kind,
            FileType::Regular | FileType::Directory | FileType::Symlink
        ) {
            attr.size = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn override_text_round_trips_and_rejects_near_misses() {
        let base = Virtual {
            uid: 3_000_000,
            gid: 5,
            perm: 0o4755,
            kind: FileType::Regular,
            rdev: Device::default(),
        };
        let device = Device { major: 1, minor: 3 };
        for kind in [
            FileType::Regular,
            FileType::Symlink,
            FileType::Fifo,
            FileType::Socket,
            FileType::CharDevice,
            FileType::BlockDevice,
        ] {
            let rdev = if kind.is_device() {
                device
            } else {
                Device::default()
            };
            let value = Virtual { kind, rdev, ..base };
            let text = value.encode();
            assert_eq!(
                Virtual::decode(text.as_bytes(), FileType::Regular),
                Some(value),
                "text {text:?}"
            );
        }
        assert_eq!(base.encode(), "3000000:5:04755");
        for bad in [
            "",
            "1",
            "1:2",
            "1:2:9",
            "1:2:0755:what",
            "1:2:0755:char-1",
            "-1:0:0755",
        ] {
            assert_eq!(
                Virtual::decode(bad.as_bytes(), FileType::Regular),
                None,
                "text {bad:?}"
            );
        }
    }
}
