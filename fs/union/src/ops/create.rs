//! New names: files, directories, links.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard};

use rrun_core::{Device, Errno, FileType};
use rustix::fs::XattrFlags;

use super::attributes::check_name;
use super::copy_up::Need;
use crate::acl;
use crate::fds::Source;
use crate::meta::Virtual;
use crate::node::{Dir, Node, Slot, State, Where};
use crate::options::IdStore;
use crate::types::{Caller, Entry, Ino};
use crate::union::{Found, Union};
use crate::upper::{At, Place};

/// A directory about to get a new name, locked.
struct Site<'a> {
    parent: &'a Arc<Node>,
    fd: &'a Arc<OwnedFd>,
    state: MutexGuard<'a, State>,
    place: Place,
    /// The lower directory has this name.
    in_lower: bool,
    /// The lower directory has a directory of this name.
    hides_dir: bool,
}

impl Union {
    /// Makes a regular file, FIFO, socket or device; counts a reference.
    ///
    /// # Errors
    ///
    /// Those of `mknod(2)`.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        rdev: Device,
        caller: &Caller,
    ) -> Result<Entry, Errno> {
        let kind = if mode & 0o170_000 == 0 {
            Some(FileType::Regular)
        } else {
            FileType::from_mode(mode)
        };
        let kind = kind.ok_or(Errno::EINVAL)?;
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            return Err(Errno::EPERM);
        }
        if kind == FileType::CharDevice && rdev == Device::default() {
            // it would be a whiteout
            return Err(Errno::EPERM);
        }
        self.create(
            parent,
            name,
            kind,
            mode,
            rdev,
            caller,
            |upper, site, what| upper.make_node(site.fd.as_fd(), name, what, site.place),
        )
    }

    /// Makes a directory; counts a reference.
    ///
    /// # Errors
    ///
    /// Those of `mkdir(2)`.
    pub fn mkdir(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        caller: &Caller,
    ) -> Result<Entry, Errno> {
        let kind = FileType::Directory;
        self.create(
            parent,
            name,
            kind,
            mode,
            Device::default(),
            caller,
            |upper, site, what| {
                upper.make_dir(site.fd.as_fd(), name, what, site.place, site.hides_dir)
            },
        )
    }

    /// Makes a symbolic link; counts a reference.
    ///
    /// # Errors
    ///
    /// Those of `symlink(2)`.
    pub fn symlink(
        &self,
        parent: Ino,
        name: &[u8],
        target: &[u8],
        caller: &Caller,
    ) -> Result<Entry, Errno> {
        let kind = FileType::Symlink;
        self.create(
            parent,
            name,
            kind,
            0o777,
            Device::default(),
            caller,
            |upper, site, what| upper.make_symlink(site.fd.as_fd(), name, target, what, site.place),
        )
    }

    fn site<'a>(
        &self,
        parent: &'a Arc<Node>,
        fd: &'a Arc<OwnedFd>,
        name: &[u8],
    ) -> Result<Site<'a>, Errno> {
        let state = parent.lock();
        if state.unlinked {
            return Err(Errno::ENOENT);
        }
        let dir = state.dir.as_deref().ok_or(Errno::ENOTDIR)?;
        let below = self.lower_child(dir.lower, name)?;
        let place = match dir.slots.get(name) {
            Some(Slot::File { .. }) => return Err(Errno::EEXIST),
            Some(Slot::Whiteout) => Place::Whiteout,
            None if below.is_some() => return Err(Errno::EEXIST),
            None => Place::Free,
        };
        let hides_dir = match below {
            Some(node) => self.lower.attr(node)?.kind == FileType::Directory,
            None => false,
        };
        Ok(Site {
            parent,
            fd,
            state,
            place,
            in_lower: below.is_some(),
            hides_dir,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what mknod, mkdir and symlink have in common"
    )]
    fn create(
        &self,
        parent: Ino,
        name: &[u8],
        kind: FileType,
        mode: u32,
        rdev: Device,
        caller: &Caller,
        make: impl FnOnce(&crate::upper::Upper, &Site<'_>, &Virtual) -> Result<(), Errno>,
    ) -> Result<Entry, Errno> {
        check_name(name)?;
        let upper = self.upper()?;
        let (parent, fd) = self.upper_dir(&self.find(parent)?)?;
        let mut site = self.site(&parent, &fd, name)?;
        let (what, default_acl) = self.newborn(&parent, &site.state, kind, mode, rdev, caller)?;
        make(upper, &site, &what)?;
        let at = At::Name(Arc::clone(&fd), name.into());
        upper.marks.set_plain(&at, name)?;
        if let Some(default) = default_acl {
            self.inherit_acl(&at, kind, &default, mode)?;
        }
        let mut state = self.newborn_state(&what, kind);
        state.links.push((parent.id, name.into()));
        let id = self.new_id();
        let node = self
            .nodes
            .get_or(id, || Node::new(id, kind, None, None, state));
        self.place_name(&mut site, name, &node);
        drop(site);
        let attr = self.attr_of(&node, &node.lock())?;
        self.refer(id);
        Ok(Entry {
            ino: Ino(id),
            attr: self.shown(attr),
        })
    }

    fn place_name(&self, site: &mut Site<'_>, name: &[u8], node: &Node) {
        debug_assert!(site.parent.kind == FileType::Directory);
        let in_lower = site.in_lower;
        if let Some(dir) = site.state.dir.as_mut() {
            dir.put(name, node.id, node.kind, in_lower);
            dir.subdirs += i64::from(node.kind == FileType::Directory);
        }
    }

    fn newborn_state(&self, what: &Virtual, kind: FileType) -> State {
        let mut state = State::new(Where::Upper);
        state.dated = Some(std::time::Instant::now());
        state.pretend = self.pretend(what);
        state.capable = Some(false);
        if kind == FileType::Directory {
            state.dir = Some(Box::new(Dir {
                loaded: true,
                ..Dir::default()
            }));
        }
        state
    }

    /// Owner and mode of a new file, and its directory's default ACL.
    ///
    /// Source: `inode(7)`, "The set-group-ID bit"; `acl(5)`.
    fn newborn(
        &self,
        parent: &Node,
        parent_state: &State,
        kind: FileType,
        mode: u32,
        rdev: Device,
        caller: &Caller,
    ) -> Result<(Virtual, Option<acl::Acl>), Errno> {
        let above = self.attr_of(parent, parent_state)?;
        let default_acl = self.default_acl(parent_state, parent)?;
        let mut perm = mode & 0o7777;
        if kind == FileType::Symlink {
            perm = 0o777;
        } else if let Some(default) = &default_acl {
            perm = default.inherit(perm).1;
        } else {
            perm &= !caller.umask;
        }
        let mut gid = caller.gid;
        if above.perm & 0o2000 != 0 {
            gid = above.gid;
            if kind == FileType::Directory {
                perm |= 0o2000;
            }
        }
        let default_acl = default_acl.filter(|_| kind != FileType::Symlink);
        Ok((
            Virtual {
                uid: caller.uid,
                gid,
                perm,
                kind,
                rdev,
            },
            default_acl,
        ))
    }

    fn inherit_acl(
        &self,
        at: &At,
        kind: FileType,
        default: &acl::Acl,
        mode: u32,
    ) -> Result<(), Errno> {
        let upper = self.upper()?;
        let escapes = self.options.ids == IdStore::Virtual;
        let (access, _) = default.inherit(mode & 0o777);
        if !access.is_plain() {
            let name = upper.marks.disk_name(acl::ACCESS, escapes);
            at.set_xattr(&name, &access.encode(), XattrFlags::empty())?;
        }
        if kind == FileType::Directory {
            let name = upper.marks.disk_name(acl::DEFAULT, escapes);
            at.set_xattr(&name, &default.encode(), XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Makes a regular file without a name, as `open(O_TMPFILE)` does; counts a reference.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` when the upper file system cannot.
    pub fn tmpfile(&self, parent: Ino, mode: u32, caller: &Caller) -> Result<Entry, Errno> {
        let upper = self.upper()?;
        let (parent, fd) = self.upper_dir(&self.find(parent)?)?;
        let parent_state = parent.lock();
        let kind = FileType::Regular;
        let (what, default_acl) = self.newborn(
            &parent,
            &parent_state,
            kind,
            mode,
            Device::default(),
            caller,
        )?;
        drop(parent_state);
        let file: File = upper.unnamed(fd.as_fd(), &what)?.ok_or(Errno::EOPNOTSUPP)?;
        let file = Arc::new(file);
        let at = At::Fd(Arc::clone(&file));
        upper.dress(&at, &what)?;
        if let Some(default) = default_acl {
            self.inherit_acl(&at, kind, &default, mode)?;
        }
        let mut state = self.newborn_state(&what, kind);
        state.place = Where::Pinned(Arc::clone(&file));
        state.unlinked = true;
        let id = self.new_id();
        let node = self
            .nodes
            .get_or(id, || Node::new(id, kind, None, None, state));
        self.fds
            .put(id, Arc::new(Source::Upper { file, fill: None }));
        self.refer(id);
        self.entry(&Found::Own(node))
    }

    /// Gives a file one more name; counts a reference.
    ///
    /// # Errors
    ///
    /// Those of `link(2)`.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &[u8]) -> Result<Entry, Errno> {
        check_name(new_name)?;
        let upper = self.upper()?;
        let found = self.find(ino)?;
        let (parent, fd) = self.upper_dir(&self.find(new_parent)?)?;
        let node = self.copy_up(&found, Need::Metadata)?;
        if node.kind == FileType::Directory {
            return Err(Errno::EPERM);
        }
        let mut site = self.site(&parent, &fd, new_name)?;
        let mut state = node.lock();
        let at = self.at(&state)?;
        self.hold_attributes(&node, &mut state, &at)?;
        upper.marks.set_plain(&at, new_name)?;
        upper.link_into(&at, fd.as_fd(), new_name, site.place)?;
        state.links.push((parent.id, new_name.into()));
        if state.unlinked {
            // an O_TMPFILE file gets its first name
            state.unlinked = false;
            state.place = Where::Upper;
        }
        self.place_name(&mut site, new_name, &node);
        let attr = self.attr_of(&node, &state)?;
        drop(state);
        drop(site);
        self.refer(node.id);
        Ok(Entry {
            ino: Ino(node.id),
            attr: self.shown(attr),
        })
    }
}
