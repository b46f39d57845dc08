//! Bringing a lower file into the upper directory: complete under its name, or not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rrun_core::{Attr, Errno, FileType, NodeId};
use rustix::fs::{self as rfs, XattrFlags};

use crate::acl;
use crate::fds::Source;
use crate::fill::{Below, Fill};
use crate::meta::Virtual;
use crate::node::{Node, State, Where, lock};
use crate::options::IdStore;
use crate::types::{Ino, SetTime};
use crate::union::{Found, Union};
use crate::upper::{At, Place, Upper, errno};

/// Lower files up to this many bytes are copied whole when their contents change: one copy costs
/// less than remembering holes.
const WHOLE_COPY_MAX: u64 = 128 * 1024;

/// Why a file is copied up: how much of its contents is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Attributes or another name.
    Metadata,
    /// Contents will be written.
    Contents,
    /// Everything beyond this size will be cut off.
    Truncated(u64),
}

/// The lower file that is copied.
struct Origin {
    node: NodeId,
    attr: Attr,
    below: Below,
    /// Whether all contents are wanted at once.
    whole: bool,
}

/// A copy that has no name yet, or one in the work directory.
struct Staged {
    at: At,
    temporary: Option<Vec<u8>>,
    fill: Option<Arc<Fill>>,
}

impl Staged {
    /// The open file, when it can be written to from now on.
    fn source(&self) -> Option<Source> {
        match &self.at {
            At::Fd(file) => Some(Source::Upper {
                file: Arc::clone(file),
                fill: self.fill.clone(),
            }),
            At::Name(..) => None,
        }
    }
}

impl Union {
    /// Makes sure a directory is in the upper directory and returns its descriptor.
    pub(crate) fn upper_dir(&self, found: &Found) -> Result<(Arc<Node>, Arc<OwnedFd>), Errno> {
        let node = self.own(found)?;
        if node.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (in_upper, unlinked) = {
            let state = node.lock();
            (!matches!(state.place, Where::Lower), state.unlinked)
        };
        if unlinked {
            return Err(Errno::ENOENT);
        }
        if !in_upper {
            self.copy_up_dir(&node)?;
        }
        self.load(&node)?;
        let fd = self.dir_fd(&node)?;
        Ok((node, fd))
    }

    fn copy_up_dir(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let upper = self.upper()?;
        let _once = lock(&node.copy_up);
        let (parent, name) = {
            let state = node.lock();
            if !matches!(state.place, Where::Lower) {
                return Ok(());
            }
            state.links.first().cloned().ok_or(Errno::ENOENT)?
        };
        let (parent, parent_fd) = self.upper_dir(&self.find(Ino(parent))?)?;
        let lower = node.lower.ok_or(Errno::EIO)?;
        let attr = self.lower.attr(lower)?;
        let what = Virtual::of(&attr);
        let (temporary, at) = upper.dir_temporary(&what)?;
        let mut parent_state = parent.lock();
        let mut state = node.lock();
        let made = upper
            .dress(&at, &what)
            .and_then(|()| self.copy_attributes(upper, lower, &attr, &at, &mut state))
            .and_then(|()| {
                self.keeping_times(&parent_fd, || {
                    upper.place_temporary(&temporary, parent_fd.as_fd(), &name, Place::Free)
                })
            });
        if let Err(error) = made {
            upper.discard(&temporary);
            return Err(error);
        }
        let fd = Arc::new(Upper::open_dir(parent_fd.as_fd(), &name)?);
        state.place = Where::Upper;
        state.pretend = self.pretend(&what);
        *lock(&node.spot) = Some((parent.id, name.clone()));
        self.dir_fds.put(node.id, fd);
        if let Some(dir) = parent_state.dir.as_mut() {
            dir.put(&name, node.id, node.kind, true);
        }
        Ok(())
    }

    /// What is remembered of a file's owner and mode.
    pub(crate) fn pretend(&self, what: &Virtual) -> Option<Virtual> {
        (self.options.ids == IdStore::Virtual && !what.is_plain()).then_some(*what)
    }

    /// The same of a copied file: a symbolic link is then kept as a regular file.
    fn pretend_copied(&self, what: &Virtual) -> Option<Virtual> {
        let as_file = self.options.ids == IdStore::Virtual && what.kind == FileType::Symlink;
        if as_file {
            Some(*what)
        } else {
            self.pretend(what)
        }
    }

    /// Runs `change` on a directory and gives it its times back: a copy-up is not a change.
    fn keeping_times(
        &self,
        dir: &Arc<OwnedFd>,
        change: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let before = crate::upper::stat_at(dir.as_fd(), b"")?.attr;
        change()?;
        let at = At::Name(Arc::clone(dir), b".".as_slice().into());
        at.set_times(
            Some(SetTime::At(before.atime)),
            Some(SetTime::At(before.mtime)),
        )
    }

    /// Copies extended attributes and times of a lower node.
    pub(crate) fn copy_attributes(
        &self,
        upper: &Upper,
        lower: NodeId,
        attr: &Attr,
        at: &At,
        state: &mut State,
    ) -> Result<(), Errno> {
        state.capable = Some(false);
        if self.lower.has_xattrs() {
            for name in self.lower.xattr_names(lower)? {
                let Some(value) = self.lower.xattr(lower, &name)? else {
                    continue;
                };
                if name == b"security.capability" {
                    state.capable = Some(true);
                }
                if name == acl::ACCESS || name == acl::DEFAULT {
                    upper.expect_acls();
                }
                let disk = upper
                    .marks
                    .disk_name(&name, self.options.ids == IdStore::Virtual);
                match at.set_xattr(&disk, &value, XattrFlags::empty()) {
                    // As kernel overlayfs: what the upper file system cannot hold is left out.
                    Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                    Err(Errno::EPERM)
                        if name.starts_with(b"security.") || name.starts_with(b"trusted.") => {}
                    Err(error) => return Err(error),
                }
            }
        }
        at.set_times(Some(SetTime::At(attr.atime)), Some(SetTime::At(attr.mtime)))
    }

    /// Makes sure a file that is not a directory is in the upper directory.
    pub(crate) fn copy_up(&self, found: &Found, need: Need) -> Result<Arc<Node>, Errno> {
        self.copy_up_as(found, need, None).map(|(node, _)| node)
    }

    /// The same, with permission bits of its own for the copy; also says whether it has them. It
    /// has not when there was a copy before, or when an ACL may have to follow.
    pub(crate) fn copy_up_as(
        &self,
        found: &Found,
        need: Need,
        perm: Option<u32>,
    ) -> Result<(Arc<Node>, bool), Errno> {
        let upper = self.upper()?;
        let node = self.own(found)?;
        if node.kind == FileType::Directory {
            let (node, _) = self.upper_dir(&Found::Own(node))?;
            return Ok((node, false));
        }
        let _once = lock(&node.copy_up);
        let (links, unlinked) = {
            let state = node.lock();
            if !matches!(state.place, Where::Lower) {
                drop(state);
                self.bring_contents(&node, need)?;
                return Ok((Arc::clone(&node), false));
            }
            (state.links.clone(), state.unlinked)
        };
        let lower = node.lower.ok_or(Errno::EIO)?;
        let mut attr = self.lower.attr(lower)?;
        let perm = perm.filter(|_| attr.kind == FileType::Regular);
        attr.perm = perm.unwrap_or(attr.perm);
        let below = match self.fds.get(node.id).as_deref() {
            Some(Source::Lower { data, .. }) => Below::open(Arc::clone(data)),
            Some(Source::Upper { .. } | Source::Guarded { .. }) | None => {
                Below::closed(&self.lower, lower)
            }
        };
        let origin = Origin {
            node: lower,
            attr,
            below,
            whole: need == Need::Contents && attr.size <= WHOLE_COPY_MAX,
        };
        let written = if unlinked {
            self.copy_up_unlinked(upper, &node, origin)?
        } else {
            self.copy_up_named(upper, &node, origin, &links)?
        };
        self.fds.remove(node.id);
        if let Some(source) = written {
            self.fds.put(node.id, Arc::new(source));
        }
        self.bring_contents(&node, need)?;
        Ok((Arc::clone(&node), perm.is_some() && !upper.may_have_acls()))
    }

    fn copy_up_named(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        origin: Origin,
        links: &[(u64, Box<[u8]>)],
    ) -> Result<Option<Source>, Errno> {
        let (lower, attr) = (origin.node, &origin.attr.clone());
        let mut dirs = Vec::new();
        for (parent, name) in links {
            dirs.push((self.upper_dir(&self.find(Ino(*parent))?)?, name.clone()));
        }
        // Also when only one of its names is known so far.
        let shared = attr.nlink > 1;
        let ((_, first_fd), first_name) = dirs.first().ok_or(Errno::ENOENT)?;
        let staged = self.stage(upper, first_fd, origin)?;
        let (source, temporary) = (&staged.at, &staged.temporary);
        let dressed = self.stage_attributes(upper, node, lower, attr, source);
        let finished = dressed.and_then(|()| {
            for ((parent, fd), name) in &dirs {
                let mut parent_state = parent.lock();
                let taken = parent_state
                    .dir
                    .as_ref()
                    .is_some_and(|dir| dir.slots.contains_key(name));
                if taken {
                    continue;
                }
                self.keeping_times(fd, || match temporary {
                    Some(temporary) if !shared => {
                        upper.place_temporary(temporary, fd.as_fd(), name, Place::Free)
                    }
                    Some(_) | None => upper.link(source, fd.as_fd(), name),
                })?;
                if let Some(dir) = parent_state.dir.as_mut() {
                    dir.put(name, node.id, node.kind, true);
                }
            }
            Ok(())
        });
        if let Some(temporary) = temporary
            && (finished.is_err() || shared)
        {
            upper.discard(temporary);
        }
        if finished.is_err() && shared {
            // or the next attempt would find the index naming a file that is gone
            upper.unlink_index(attr.ino);
        }
        finished?;
        let mut state = node.lock();
        state.place = Where::Upper;
        state.links = vec![(dirs[0].0.0.id, first_name.clone())];
        state.links.extend(
            dirs[1..]
                .iter()
                .map(|((dir, _), name)| (dir.id, name.clone())),
        );
        state.pretend = self.pretend_copied(&Virtual::of(attr));
        state.fill.clone_from(&staged.fill);
        state.indexed = shared;
        Ok(staged.source())
    }

    /// A file that lost its last name before it was written to: it gets a copy without a name.
    fn copy_up_unlinked(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        origin: Origin,
    ) -> Result<Option<Source>, Errno> {
        let (lower, attr) = (origin.node, &origin.attr.clone());
        let staged = self.stage(upper, upper.work()?, origin)?;
        let file = staged.at.pin(if self.options.ids == IdStore::Virtual {
            FileType::Regular
        } else {
            node.kind
        })?;
        let at = At::Fd(Arc::clone(&file));
        let mut state = node.lock();
        let dressed = self.copy_attributes(upper, lower, attr, &at, &mut state);
        if let Some(temporary) = &staged.temporary {
            upper.discard(temporary);
        }
        dressed?;
        state.place = Where::Pinned(file);
        state.pretend = self.pretend_copied(&Virtual::of(attr));
        state.fill.clone_from(&staged.fill);
        Ok(staged.source())
    }

    /// Makes the upper file, without a name or in the work directory, of the right size but with
    /// no contents unless they cannot be left below.
    fn stage(&self, upper: &Upper, near: &Arc<OwnedFd>, origin: Origin) -> Result<Staged, Errno> {
        let attr = &origin.attr;
        let what = Virtual::of(attr);
        if attr.kind != FileType::Regular {
            let target = if attr.kind == FileType::Symlink {
                self.lower.readlink(origin.node)?
            } else {
                Vec::new()
            };
            let (temporary, at) = upper.node_temporary(&what, &target)?;
            upper.dress(&at, &what)?;
            return Ok(Staged {
                at,
                temporary: Some(temporary),
                fill: None,
            });
        }
        // In a setgid directory a new file gets the directory's group, not that of the lower file.
        let near = match self.options.ids {
            IdStore::Real => upper.work()?,
            IdStore::Virtual => near,
        };
        let (at, temporary) = match upper.unnamed(near.as_fd(), &what)? {
            Some(file) => (At::Fd(Arc::new(file)), None),
            None => {
                let (temporary, at) = upper.node_temporary(&what, b"")?;
                (at, Some(temporary))
            }
        };
        let filled = upper
            .dress(&at, &what)
            .and_then(|()| self.stage_contents(upper, &at, origin));
        if filled.is_err()
            && let Some(temporary) = &temporary
        {
            upper.discard(temporary);
        }
        Ok(Staged {
            at,
            temporary,
            fill: filled?,
        })
    }

    fn stage_contents(
        &self,
        upper: &Upper,
        at: &At,
        origin: Origin,
    ) -> Result<Option<Arc<Fill>>, Errno> {
        let size = origin.attr.size;
        if size == 0 {
            return Ok(None);
        }
        let file = match at {
            At::Fd(file) => Arc::clone(file),
            At::Name(..) => Arc::new(at.open(true)?),
        };
        // Before any contents, so that a crash leaves no shorter file.
        rfs::ftruncate(&file, size).map_err(errno)?;
        let fill = Arc::new(Fill::new(origin.below, size, true));
        if upper.sparse
            && let Ok(locator) = self.lower.locator(origin.node)
        {
            upper.marks.set_fill(at, size, &locator)?;
            if origin.whole {
                fill.complete(&file)?;
            }
            return Ok(Some(fill));
        }
        fill.complete(&file)?;
        Ok(None)
    }

    fn stage_attributes(
        &self,
        upper: &Upper,
        node: &Arc<Node>,
        lower: NodeId,
        attr: &Attr,
        at: &At,
    ) -> Result<(), Errno> {
        self.copy_attributes(upper, lower, attr, at, &mut node.lock())?;
        match self.lower.locator(lower) {
            Ok(locator) => match upper.marks.set_origin(at, attr.ino, &locator) {
                // Symlinks and devices hold no user attributes: their number is then new after
                // a remount.
                Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            },
            Err(Errno::ENAMETOOLONG) => {}
            Err(error) => return Err(error),
        }
        if attr.nlink > 1 {
            upper.link_index(at, attr.ino)
        } else {
            Ok(())
        }
    }

    /// Gets as much of the contents as `need` says.
    fn bring_contents(&self, node: &Arc<Node>, need: Need) -> Result<(), Errno> {
        let (fill, at) = {
            let state = node.lock();
            let Some(fill) = state.fill.clone() else {
                return Ok(());
            };
            if fill.is_complete() {
                return Ok(());
            }
            (fill, self.at(&state)?)
        };
        match need {
            Need::Contents if fill.valid() <= WHOLE_COPY_MAX => fill.complete(&at.open(true)?),
            Need::Metadata | Need::Contents => Ok(()),
            Need::Truncated(size) => {
                if size > 0 && fill.valid() <= WHOLE_COPY_MAX {
                    fill.complete(&at.open(true)?)?;
                }
                Ok(())
            }
        }
    }

    /// Gets all contents.
    pub(crate) fn bring_all(&self, node: &Node) -> Result<(), Errno> {
        let (fill, at) = {
            let state = node.lock();
            (state.fill.clone(), self.at(&state)?)
        };
        match fill {
            Some(fill) if !fill.is_complete() => fill.complete(&at.open(true)?),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the lower tree or any file of ours may have a default ACL: asked at every create.
    pub(crate) fn default_acl(
        &self,
        state: &State,
        node: &Node,
    ) -> Result<Option<acl::Acl>, Errno> {
        let value = match &state.place {
            Where::Lower if !self.lower.has_xattrs() => None,
            Where::Lower => self
                .lower
                .xattr(node.lower.ok_or(Errno::EIO)?, acl::DEFAULT)?,
            Where::Upper | Where::Pinned(_) => {
                let upper = self.upper()?;
                if !upper.may_have_acls() {
                    return Ok(None);
                }
                let disk = upper
                    .marks
                    .disk_name(acl::DEFAULT, self.options.ids == IdStore::Virtual);
                self.at(state)?.xattr(&disk)?
            }
        };
        Ok(value.and_then(|value| acl::Acl::decode(&value)))
    }
}
