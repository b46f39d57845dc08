//! Extended attributes.

use rrun_core::{Device, Errno, FileType};
use rustix::fs::XattrFlags;

use super::copy_up::Need;
use crate::acl;
use crate::meta::Virtual;
use crate::node::Where;
use crate::options::IdStore;
use crate::types::{Ino, XattrMode};
use crate::union::{Found, Union};

/// By this name the id supervisor of a container with one id tells us an owner: `UID:GID`
/// decimal, -1 keeps. It is write-only.
const RECORD_OWNER: &[u8] = b"security.rrun.owner";
/// The same for a device: `c MAJOR MINOR` or `b MAJOR MINOR`.
const RECORD_DEVICE: &[u8] = b"security.rrun.device";

/// What makes a program privileged; see `capabilities(7)`.
const CAPABILITY: &[u8] = b"security.capability";

impl Union {
    fn escapes(&self) -> bool {
        self.options.ids == IdStore::Virtual
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    ///
    /// `ENODATA` when it is not set.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let found = self.find(ino)?;
        let value = match &found {
            Found::Plain(lower) => self.lower_xattr(*lower, name)?,
            Found::Own(node) => {
                let state = node.lock();
                match (&state.place, node.lower) {
                    (Where::Lower, Some(lower)) => self.lower_xattr(lower, name)?,
                    // The kernel asks for it before the first write to each file.
                    _ if name == CAPABILITY && state.capable == Some(false) => None,
                    (Where::Lower | Where::Upper | Where::Pinned(_), _) => {
                        let marks = &self.upper.as_ref().ok_or(Errno::EIO)?.marks;
                        self.at(&state)?
                            .xattr(&marks.disk_name(name, self.escapes()))?
                    }
                }
            }
        };
        value.ok_or(Errno::ENODATA)
    }

    fn lower_xattr(&self, node: rrun_core::NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        if self.lower.has_xattrs() {
            self.lower.xattr(node, name)
        } else {
            Ok(None)
        }
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    ///
    /// Those of `listxattr(2)`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, Errno> {
        let lower_names = |node| {
            if self.lower.has_xattrs() {
                self.lower.xattr_names(node)
            } else {
                Ok(Vec::new())
            }
        };
        match &self.find(ino)? {
            Found::Plain(lower) => lower_names(*lower),
            Found::Own(node) => {
                let state = node.lock();
                match (&state.place, node.lower) {
                    (Where::Lower, Some(lower)) => lower_names(lower),
                    (Where::Lower | Where::Upper | Where::Pinned(_), _) => {
                        let marks = &self.upper.as_ref().ok_or(Errno::EIO)?.marks;
                        let names = self.at(&state)?.xattr_names()?;
                        Ok(names
                            .iter()
                            .filter_map(|name| marks.shown_name(name))
                            .collect())
                    }
                }
            }
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    ///
    /// `EEXIST` or `ENODATA` as `mode` says; those of `setxattr(2)`.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), Errno> {
        match name {
            RECORD_OWNER => return self.record_owner(ino, value),
            RECORD_DEVICE => return self.record_device(ino, value),
            _ => {}
        }
        if name == acl::ACCESS && value.is_empty() {
            return self.removexattr(ino, name);
        }
        let node = self.copy_up(&self.find(ino)?, Need::Metadata)?;
        let upper = self.upper()?;
        let mut state = node.lock();
        let at = self.at(&state)?;
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        if name == acl::ACCESS || name == acl::DEFAULT {
            self.note_acl();
        }
        let disk_name = upper.marks.disk_name(name, self.escapes());
        if name == acl::ACCESS && self.escapes() {
            let acl = acl::Acl::decode(value).ok_or(Errno::EINVAL)?;
            let attr = self.attr_of(&node, &state)?;
            let mut what = Virtual::of(&attr);
            what.perm = (what.perm & !0o777) | acl.mode();
            self.write_owner(&mut state, &at, &attr, &what)?;
            if acl.is_plain() {
                return match at.remove_xattr(&disk_name) {
                    Ok(()) | Err(Errno::ENODATA) => Ok(()),
                    Err(error) => Err(error),
                };
            }
        }
        if name == CAPABILITY {
            state.capable = Some(true);
        }
        at.set_xattr(&disk_name, value, flags)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    ///
    /// `ENODATA` when it is not set.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), Errno> {
        self.getxattr(ino, name)?;
        let node = self.copy_up(&self.find(ino)?, Need::Metadata)?;
        let state = node.lock();
        let disk = self.upper()?.marks.disk_name(name, self.escapes());
        self.at(&state)?.remove_xattr(&disk)
    }

    fn record_owner(&self, ino: Ino, value: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
        let (uid, gid) = text.split_once(':').ok_or(Errno::EINVAL)?;
        let id = |text: &str| match text {
            "-1" => Ok(None),
            text => text.parse::<u32>().map(Some).map_err(|_| Errno::EINVAL),
        };
        let (uid, gid) = (id(uid)?, id(gid)?);
        self.record(ino, |what| {
            what.uid = uid.unwrap_or(what.uid);
            what.gid = gid.unwrap_or(what.gid);
        })
    }

    /// The running container goes on seeing a regular file: its kernel could not open the device
    /// anyway. The next one, and every copy, sees the device.
    fn record_device(&self, ino: Ino, value: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
        let mut words = text.split(' ');
        let kind = match words.next() {
            Some("c") => FileType::CharDevice,
            Some("b") => FileType::BlockDevice,
            Some(_) | None => return Err(Errno::EINVAL),
        };
        let mut number = || {
            words
                .next()
                .and_then(|n| n.parse().ok())
                .ok_or(Errno::EINVAL)
        };
        let rdev = Device {
            major: number()?,
            minor: number()?,
        };
        self.record(ino, |what| {
            what.kind = kind;
            what.rdev = rdev;
        })
    }
}
