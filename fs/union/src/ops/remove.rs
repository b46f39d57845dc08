//! Taking names away.

use std::os::fd::AsFd;
use std::sync::Arc;

use rrun_core::{Errno, FileType};

use super::attributes::check_name;
use super::copy_up::Need;
use crate::node::{Dir, Node, Slot, State, Where, lock};
use crate::types::Ino;
use crate::union::{Found, Union};
use crate::upper::Upper;

impl Union {
    /// Removes a name of a file that is not a directory.
    ///
    /// # Errors
    ///
    /// Those of `unlink(2)`.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let upper = self.upper()?;
        let found = self.find_child(parent, name)?.ok_or(Errno::ENOENT)?;
        let attr_kind = self.kind(&found)?;
        if attr_kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let (parent, fd) = self.upper_dir(&self.find(parent)?)?;
        let node = self.prepare_unlink(&found)?;
        let mut parent_state = parent.lock();
        let dir = parent_state.dir.as_deref_mut().ok_or(Errno::ENOTDIR)?;
        match self.child(dir, name)? {
            Some(now) if now.id() == node.id => {}
            Some(_) | None => return Err(Errno::ENOENT),
        }
        let in_lower = self.lower_child(dir.lower, name)?.is_some();
        let mut state = node.lock();
        if matches!(state.place, Where::Lower) {
            upper.whiteout(fd.as_fd(), name)?;
        } else {
            let before = state.place.clone();
            self.pin_if_last(&node, &mut state)?;
            let gone = if in_lower {
                upper.replace_by_whiteout(fd.as_fd(), name)
            } else {
                Upper::unlink(fd.as_fd(), name)
            };
            if let Err(error) = gone {
                state.place = before;
                return Err(error);
            }
        }
        dir.take(name, in_lower);
        self.drop_link(&node, &mut state, parent.id, name);
        drop(state);
        drop(parent_state);
        self.release(&node);
        Ok(())
    }

    pub(crate) fn kind(&self, found: &Found) -> Result<FileType, Errno> {
        match found {
            Found::Own(node) => Ok(node.kind),
            Found::Plain(lower) => self.lower.attr(*lower).map(|attr| attr.kind),
        }
    }

    /// A file with several lower names is copied up first, so that its link count stays true.
    fn prepare_unlink(&self, found: &Found) -> Result<Arc<Node>, Errno> {
        let node = self.own(found)?;
        let several = {
            let state = node.lock();
            match (&state.place, node.lower) {
                (Where::Lower, Some(lower)) => self.lower.attr(lower)?.nlink > 1,
                (Where::Lower | Where::Upper | Where::Pinned(_), _) => false,
            }
        };
        if several && node.lock().links.len() > 1 {
            return self.copy_up(&Found::Own(node), Need::Metadata);
        }
        Ok(node)
    }

    /// Keeps a file that loses its last name reachable while the kernel knows it.
    fn pin_if_last(&self, node: &Node, state: &mut State) -> Result<(), Errno> {
        if state.links.len() > 1 || !matches!(state.place, Where::Upper) {
            return Ok(());
        }
        let cached = self.fds.get(node.id).and_then(|source| match &*source {
            crate::fds::Source::Upper { file, .. } => Some(Arc::clone(file)),
            crate::fds::Source::Guarded { .. } | crate::fds::Source::Lower { .. } => None,
        });
        let file = match cached {
            Some(file) => file,
            None => {
                let at = self.at(state)?;
                let disk = at.stat()?.attr.kind;
                at.pin(disk)?
            }
        };
        state.place = Where::Pinned(file);
        Ok(())
    }

    /// Notes that a name is gone.
    pub(crate) fn drop_link(&self, node: &Node, state: &mut State, parent: u64, name: &[u8]) {
        state
            .links
            .retain(|link| link.0 != parent || &*link.1 != name);
        if !state.links.is_empty() {
            return;
        }
        state.unlinked = true;
        if state.indexed
            && let (Some(upper), Some(ino)) = (&self.upper, node.ino)
        {
            upper.unlink_index(ino);
            state.indexed = false;
        }
    }

    /// Drops the state of a nameless node that the kernel does not know.
    pub(crate) fn release(&self, node: &Node) {
        if node.lock().unlinked && !self.held(node.id) {
            self.fds.remove(node.id);
            self.nodes.remove(node.id);
        }
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    ///
    /// Those of `rmdir(2)`.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let upper = self.upper()?;
        let found = self.find_child(parent, name)?.ok_or(Errno::ENOENT)?;
        if self.kind(&found)? != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (parent, fd) = self.upper_dir(&self.find(parent)?)?;
        let node = self.own(&found)?;
        self.load(&node)?;
        let mut parent_state = parent.lock();
        let dir = parent_state.dir.as_deref_mut().ok_or(Errno::ENOTDIR)?;
        let in_lower = self.lower_child(dir.lower, name)?.is_some();
        let mut state = node.lock();
        let own = state.dir.as_deref().ok_or(Errno::ENOTDIR)?;
        if !self.is_empty(own)? {
            // The kernel asks first whether the directory it is in lets anything go.
            return Err(if crate::upper::is_protected(fd.as_fd())? {
                Errno::EPERM
            } else {
                Errno::ENOTEMPTY
            });
        }
        if matches!(state.place, Where::Lower) {
            upper.whiteout(fd.as_fd(), name)?;
        } else {
            // The descriptor keeps the directory for those who are still in it.
            let kept = self.dir_fd_in(&node, &state)?;
            let has_whiteouts = state
                .dir
                .as_deref()
                .is_some_and(|own| !own.slots.is_empty());
            if has_whiteouts || in_lower {
                let taken = upper.take_dir(fd.as_fd(), name, in_lower)?;
                upper.discard_later(&taken);
            } else {
                Upper::rmdir(fd.as_fd(), name)?;
            }
            let file = std::fs::File::from(kept.try_clone()?);
            state.place = Where::Pinned(Arc::new(file));
        }
        dir.take(name, in_lower);
        dir.subdirs -= 1;
        *lock(&node.spot) = None;
        self.dir_fds.remove(node.id);
        state.unlinked = true;
        state.links.clear();
        state.dir = Some(Box::new(Dir {
            loaded: true,
            ..Dir::default()
        }));
        drop(state);
        drop(parent_state);
        self.release(&node);
        Ok(())
    }

    /// Whether a merged directory shows nothing.
    pub(crate) fn is_empty(&self, dir: &Dir) -> Result<bool, Errno> {
        if dir
            .slots
            .values()
            .any(|slot| matches!(slot, Slot::File { .. }))
        {
            return Ok(false);
        }
        let mut empty = true;
        if let Some(lower) = dir.lower {
            self.lower.entries(lower, 0, &mut |entry| {
                empty = dir.slots.contains_key(entry.name);
                empty
            })?;
        }
        Ok(empty)
    }
}
