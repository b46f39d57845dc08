//! Renaming.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard};

use rrun_core::{Errno, FileType, Time};

use super::attributes::check_name;
use super::copy_up::Need;
use crate::node::{Dir, Node, Slot, State, Where, lock};
use crate::types::{Ino, RenameMode, SetTime};
use crate::union::{Found, Union};
use crate::upper::{At, Upper};

/// One end of a rename: a directory in the upper tree and a name there.
struct End<'a> {
    parent: &'a Arc<Node>,
    fd: &'a Arc<OwnedFd>,
    name: &'a [u8],
}

impl End<'_> {
    fn disk(&self) -> (std::os::fd::BorrowedFd<'_>, &[u8]) {
        (self.fd.as_fd(), self.name)
    }

    /// The times that the directory here keeps when it moves, where it would not by itself.
    fn times(&self, upper: &Upper, node: &Node) -> Result<Option<(Time, Time)>, Errno> {
        if node.kind != FileType::Directory || !upper.moves_touch {
            return Ok(None);
        }
        let attr = crate::upper::stat_at(self.fd.as_fd(), self.name)?.attr;
        Ok(Some((attr.atime, attr.mtime)))
    }

    /// Gives them to what is here now.
    fn restore(&self, times: Option<(Time, Time)>) -> Result<(), Errno> {
        let Some((atime, mtime)) = times else {
            return Ok(());
        };
        At::Name(Arc::clone(self.fd), self.name.into())
            .set_times(Some(SetTime::At(atime)), Some(SetTime::At(mtime)))
    }
}

/// The states of one or two directories, locked in the order of their ids.
struct Pair<'a> {
    first: MutexGuard<'a, State>,
    second: Option<MutexGuard<'a, State>>,
    swapped: bool,
}

impl<'a> Pair<'a> {
    fn lock(a: &'a Node, b: &'a Node) -> Self {
        if a.id == b.id {
            return Self {
                first: a.lock(),
                second: None,
                swapped: false,
            };
        }
        let swapped = a.id > b.id;
        let (low, high) = if swapped { (b, a) } else { (a, b) };
        Self {
            first: low.lock(),
            second: Some(high.lock()),
            swapped,
        }
    }

    fn from(&mut self) -> Result<&mut Dir, Errno> {
        let state = match &mut self.second {
            Some(second) if self.swapped => second,
            Some(_) | None => &mut self.first,
        };
        state.dir.as_deref_mut().ok_or(Errno::ENOTDIR)
    }

    fn to(&mut self) -> Result<&mut Dir, Errno> {
        let state = match &mut self.second {
            Some(second) if !self.swapped => second,
            Some(_) | None => &mut self.first,
        };
        state.dir.as_deref_mut().ok_or(Errno::ENOTDIR)
    }
}

/// Locks one file or two different ones, in the order of their ids: whoever asks for their
/// attributes during a rename waits, and does not look under a name that is another's by now.
fn lock_two<'a>(
    one: &'a Node,
    other: Option<&'a Node>,
) -> (MutexGuard<'a, State>, Option<MutexGuard<'a, State>>) {
    match other {
        None => (one.lock(), None),
        Some(other) if one.id < other.id => {
            let state = one.lock();
            (state, Some(other.lock()))
        }
        Some(other) => {
            let state = other.lock();
            (one.lock(), Some(state))
        }
    }
}

fn move_link(state: &mut State, from: &End<'_>, to: &End<'_>) {
    for link in &mut state.links {
        if link.0 == from.parent.id && &*link.1 == from.name {
            *link = (to.parent.id, to.name.into());
            return;
        }
    }
}

fn move_spot(node: &Node, to: &End<'_>) {
    if node.kind == FileType::Directory {
        *lock(&node.spot) = Some((to.parent.id, to.name.into()));
    }
}

impl Union {
    /// Renames a file or directory.
    ///
    /// # Errors
    ///
    /// Those of `renameat2(2)`; `EXDEV` for a lower directory when redirects are off.
    pub fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        check_name(from.1)?;
        check_name(to.1)?;
        self.upper()?;
        let moving = self.find_child(from.0, from.1)?.ok_or(Errno::ENOENT)?;
        let target = self.find_child(to.0, to.1)?;
        match (&target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            (Some(target), _) if target.id() == moving.id() => return Ok(()),
            (Some(_) | None, _) => {}
        }
        let is_dir = self.kind(&moving)? == FileType::Directory;
        let _moves = is_dir.then(|| lock(&self.tree_moves));
        let (from_parent, from_fd) = self.upper_dir(&self.find(from.0)?)?;
        let (to_parent, to_fd) = self.upper_dir(&self.find(to.0)?)?;
        let moving = self.ready_to_move(&moving)?;
        let target = target
            .map(|found| self.ready_target(&found, mode))
            .transpose()?;
        if target
            .as_ref()
            .is_some_and(|node| node.id == from_parent.id)
        {
            return Err(Errno::ENOTEMPTY);
        }
        let from = End {
            parent: &from_parent,
            fd: &from_fd,
            name: from.1,
        };
        let to = End {
            parent: &to_parent,
            fd: &to_fd,
            name: to.1,
        };
        let mut dirs = Pair::lock(&from_parent, &to_parent);
        let now = self.child(dirs.from()?, from.name)?.ok_or(Errno::ENOENT)?;
        let now_target = self.child(dirs.to()?, to.name)?;
        if now.id() != moving.id
            || now_target.as_ref().map(Found::id) != target.as_ref().map(|node| node.id)
        {
            return Err(Errno::ENOENT);
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                self.swap(&from, &to, &moving, &target, &mut dirs)
            }
            (RenameMode::Replace | RenameMode::NoReplace | RenameMode::Exchange, target) => {
                self.replace(&from, &to, &moving, target.as_ref(), &mut dirs)?;
                drop(dirs);
                if let Some(target) = target {
                    self.release(&target);
                }
                Ok(())
            }
        }
    }

    /// What moves must be in the upper directory; a lower directory only as a redirect.
    fn ready_to_move(&self, found: &Found) -> Result<Arc<Node>, Errno> {
        if self.kind(found)? != FileType::Directory {
            return self.copy_up(found, Need::Metadata);
        }
        let own = self.own(found)?;
        let has_lower = own
            .lock()
            .dir
            .as_ref()
            .is_some_and(|dir| dir.lower.is_some());
        if has_lower && !self.options.redirect_dir {
            return Err(Errno::EXDEV);
        }
        self.upper_dir(found).map(|(node, _)| node)
    }

    fn ready_target(&self, found: &Found, mode: RenameMode) -> Result<Arc<Node>, Errno> {
        if mode == RenameMode::Exchange {
            return self.ready_to_move(found);
        }
        let node = self.own(found)?;
        if node.kind == FileType::Directory {
            self.load(&node)?;
            return Ok(node);
        }
        let several = node.lock().links.len() > 1;
        if several {
            self.copy_up(&Found::Own(node), Need::Metadata)
        } else {
            Ok(node)
        }
    }

    /// Marks a directory so that it means the same under its new name.
    fn mark_moved(
        &self,
        node: &Node,
        parent_fd: &Arc<OwnedFd>,
        name: &[u8],
        (new_name, new_below): (&[u8], bool),
    ) -> Result<(), Errno> {
        let upper = self.upper()?;
        let at = At::Name(Arc::clone(parent_fd), name.into());
        if node.kind != FileType::Directory {
            return upper.marks.set_plain(&at, new_name);
        }
        let lower = node.lock().dir.as_ref().and_then(|dir| dir.lower);
        match lower {
            Some(lower) => {
                let path = self.lower_path(lower)?;
                upper
                    .marks
                    .set_redirect(&at, &path)
                    .map_err(|error| match error {
                        // a path that does not fit in an attribute
                        Errno::ENOSPC | Errno::E2BIG | Errno::ERANGE => Errno::EXDEV,
                        other => other,
                    })
            }
            None if new_below => upper.marks.set_opaque(&at),
            None => Ok(()),
        }
    }

    fn is_lower_dir(&self, dir: &Dir, name: &[u8]) -> Result<(bool, bool), Errno> {
        match self.lower_child(dir.lower, name)? {
            Some(node) => Ok((true, self.lower.attr(node)?.kind == FileType::Directory)),
            None => Ok((false, false)),
        }
    }

    fn replace(
        &self,
        from: &End<'_>,
        to: &End<'_>,
        moving: &Arc<Node>,
        target: Option<&Arc<Node>>,
        dirs: &mut Pair<'_>,
    ) -> Result<(), Errno> {
        let upper = self.upper()?;
        let (from_in_lower, _) = self.is_lower_dir(dirs.from()?, from.name)?;
        let (to_in_lower, to_dir_below) = self.is_lower_dir(dirs.to()?, to.name)?;
        let whiteout_there = dirs.to()?.slots.get(to.name) == Some(&Slot::Whiteout);
        if let Some(target) = target {
            self.clear_target(upper, to, moving, target)?;
        }
        self.mark_moved(moving, from.fd, from.name, (to.name, to_dir_below))?;
        let is_dir = moving.kind == FileType::Directory;
        let (mut moved, mut gone) = lock_two(moving, target.map(|target| &**target));
        let moves = is_dir.then(|| self.dir_fds.moving());
        let times = from.times(upper, moving)?;
        let renamed = if whiteout_there {
            upper.rename_to_whiteout(from.disk(), to.disk(), is_dir, from_in_lower)
        } else {
            upper.rename(from.disk(), to.disk(), from_in_lower)
        };
        if let Err(error) = renamed {
            // The target was got ready to go, but stays.
            if let Some(state) = &mut gone
                && !state.unlinked
                && matches!(state.place, Where::Pinned(_))
            {
                state.place = Where::Upper;
            }
            return Err(error);
        }
        to.restore(times)?;
        move_spot(moving, to);
        drop(moves);
        move_link(&mut moved, from, to);
        drop(moved);
        if let (Some(target), Some(mut state)) = (target, gone) {
            if target.kind == FileType::Directory {
                state.unlinked = true;
                state.links.clear();
            } else {
                self.drop_link(target, &mut state, to.parent.id, to.name);
            }
            if target.kind == FileType::Directory {
                *lock(&target.spot) = None;
                self.dir_fds.remove(target.id);
                dirs.to()?.subdirs -= 1;
            }
        }
        dirs.from()?.take(from.name, from_in_lower);
        dirs.to()?.put(to.name, moving.id, moving.kind, to_in_lower);
        dirs.from()?.subdirs -= i64::from(is_dir);
        dirs.to()?.subdirs += i64::from(is_dir);
        Ok(())
    }

    /// Makes what a rename replaces ready to go: a directory must show nothing and hold nothing,
    /// a file stays reachable for those who have it open.
    fn clear_target(
        &self,
        upper: &Upper,
        to: &End<'_>,
        moving: &Node,
        target: &Arc<Node>,
    ) -> Result<(), Errno> {
        let mut state = target.lock();
        if target.kind == FileType::Directory {
            if moving.kind != FileType::Directory {
                return Err(Errno::EISDIR);
            }
            let dir = state.dir.as_deref().ok_or(Errno::ENOTDIR)?;
            if !self.is_empty(dir)? {
                return Err(Errno::ENOTEMPTY);
            }
            if matches!(state.place, Where::Lower) {
                return Ok(());
            }
            // Opaque first: it shows nothing with its whiteouts, and nothing without them.
            let names: Vec<Box<[u8]>> = dir.slots.keys().cloned().collect();
            let fd = self.dir_fd_in(target, &state)?;
            if !names.is_empty() {
                let at = At::Name(Arc::clone(to.fd), to.name.into());
                upper.marks.set_opaque(&at)?;
                for name in names {
                    upper.remove_whiteout(fd.as_fd(), &name)?;
                }
            }
            state.place = Where::Pinned(Arc::new(fd.try_clone()?.into()));
            state.dir = Some(Box::new(Dir {
                loaded: true,
                ..Dir::default()
            }));
            return Ok(());
        }
        if moving.kind == FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if matches!(state.place, Where::Upper) && state.links.len() == 1 {
            let at = self.at(&state)?;
            let disk = at.stat()?.attr.kind;
            state.place = Where::Pinned(at.pin(disk)?);
        }
        Ok(())
    }

    fn swap(
        &self,
        from: &End<'_>,
        to: &End<'_>,
        moving: &Arc<Node>,
        target: &Arc<Node>,
        dirs: &mut Pair<'_>,
    ) -> Result<(), Errno> {
        let (from_in_lower, from_dir_below) = self.is_lower_dir(dirs.from()?, from.name)?;
        let (to_in_lower, to_dir_below) = self.is_lower_dir(dirs.to()?, to.name)?;
        self.mark_moved(moving, from.fd, from.name, (to.name, to_dir_below))?;
        self.mark_moved(target, to.fd, to.name, (from.name, from_dir_below))?;
        let (mut moved, other) = lock_two(moving, Some(target));
        let moves = self.dir_fds.moving();
        let upper = self.upper()?;
        let times = (from.times(upper, moving)?, to.times(upper, target)?);
        Upper::exchange(from.disk(), to.disk())?;
        to.restore(times.0)?;
        from.restore(times.1)?;
        move_spot(moving, to);
        move_spot(target, from);
        drop(moves);
        move_link(&mut moved, from, to);
        if let Some(mut other) = other {
            move_link(&mut other, to, from);
        }
        drop(moved);
        let (moving_dir, target_dir) = (
            i64::from(moving.kind == FileType::Directory),
            i64::from(target.kind == FileType::Directory),
        );
        dirs.from()?
            .put(from.name, target.id, target.kind, from_in_lower);
        dirs.to()?.put(to.name, moving.id, moving.kind, to_in_lower);
        dirs.from()?.subdirs += target_dir - moving_dir;
        dirs.to()?.subdirs += moving_dir - target_dir;
        Ok(())
    }
}
