//! Directories: loading what the upper directory says, finding a name, listing.

use std::os::fd::AsFd;
use std::sync::Arc;

use rrun_core::{Errno, FileType, NodeId};

use crate::cursor::Cursor;
use crate::fill::{Below, Fill};
use crate::meta::{OVERRIDE_STAT, Virtual};
use crate::node::{Dir, Node, Slot, State, Where};
use crate::types::{Entry, Ino};
use crate::union::{Found, Union};
use crate::upper::{At, DiskStat, Upper, is_opaque, read_names, redirect};

/// A name, what it names, and the cookie after it.
type Position = (Box<[u8]>, Found, u64);

/// One entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// `st_ino`.
    pub ino: u64,
    /// The type.
    pub kind: FileType,
    /// Where to go on after this entry.
    pub cookie: u64,
    /// The file, when asked for and neither `.` nor `..`; a reference is counted.
    pub entry: Option<Entry>,
}

impl Union {
    /// Reads the owner a file pretends to have.
    pub(crate) fn read_pretend(&self, at: &At, disk: FileType) -> Result<Option<Virtual>, Errno> {
        if self.options.ids == crate::IdStore::Real || disk == FileType::Symlink {
            return Ok(None);
        }
        match at.xattr(OVERRIDE_STAT.as_bytes())? {
            Some(text) => Virtual::decode(&text, disk).map(Some).ok_or(Errno::EIO),
            None => Ok(None),
        }
    }

    /// Registers the hard-link groups that the index names.
    pub(crate) fn load_index(&self) -> Result<(), Errno> {
        let Some(upper) = &self.upper else {
            return Ok(());
        };
        upper.index_entries(|ino, at| {
            let disk = at.stat()?;
            if disk.attr.nlink < 2 {
                if !self.options.read_only {
                    upper.unlink_index(ino);
                }
                return Ok(());
            }
            let Some((_, locator)) = upper.marks.origin(&at)? else {
                return Ok(());
            };
            let Some(lower) = self.lower.locate(&locator)? else {
                return Ok(());
            };
            let mut state = State::new(Where::Pinned(at.pin(disk.attr.kind)?));
            state.indexed = true;
            state.pretend = self.read_pretend(&at, disk.attr.kind)?;
            state.fill = self.read_fill(upper, &at, &disk, None)?;
            let kind = state.pretend.map_or(disk.attr.kind, |p| p.kind);
            self.nodes.get_or(lower.0, || {
                Node::new(lower.0, kind, Some(lower), Some(ino), state)
            });
            Ok(())
        })
    }

    /// What of an upper file is still in a lower one; `named` is the one that its name or redirect
    /// leads to.
    fn read_fill(
        &self,
        upper: &Upper,
        at: &At,
        disk: &DiskStat,
        named: Option<NodeId>,
    ) -> Result<Option<Arc<Fill>>, Errno> {
        if disk.attr.kind != FileType::Regular {
            return Ok(None);
        }
        let (size, lower) = if upper.marks.is_metacopy(at)? {
            (disk.attr.size, named)
        } else if let Some((size, locator)) = upper.marks.fill(at)? {
            (size, self.lower.locate(&locator)?)
        } else {
            return Ok(None);
        };
        let lower = lower.ok_or(Errno::EIO)?;
        Ok(Some(Arc::new(Fill::new(
            Below::closed(&self.lower, lower),
            size.min(disk.attr.size),
            false,
        ))))
    }

    /// Makes sure that everything the upper directory has for `node` is known.
    pub(crate) fn load(&self, node: &Node) -> Result<(), Errno> {
        let mut state = node.lock();
        if state.dir.as_ref().is_none_or(|dir| dir.loaded) {
            return Ok(());
        }
        let Some(upper) = &self.upper else {
            if let Some(dir) = state.dir.as_mut() {
                dir.loaded = true;
            }
            return Ok(());
        };
        let fd = self.dir_fd_in(node, &state)?;
        let lower = state.dir.as_ref().and_then(|dir| dir.lower);
        let mut names = Vec::new();
        read_names(fd.as_fd(), |name, _| {
            names.push(Box::<[u8]>::from(name));
            Ok(())
        })?;
        // In the order of names, so that a second process lists alike.
        names.sort_unstable();
        let mut dir = Dir {
            lower,
            ..Dir::default()
        };
        for name in names {
            self.load_name(upper, node, &fd, &name, &mut dir)?;
        }
        dir.loaded = true;
        state.dir = Some(Box::new(dir));
        Ok(())
    }

    fn load_name(
        &self,
        upper: &Upper,
        parent: &Node,
        fd: &Arc<std::os::fd::OwnedFd>,
        name: &[u8],
        dir: &mut Dir,
    ) -> Result<(), Errno> {
        if name == b".wh..wh..opq" {
            return Ok(());
        }
        let at = At::Name(Arc::clone(fd), name.into());
        let disk = at.stat()?;
        let mut dotted = name
            .strip_prefix(b".wh.")
            .filter(|rest| !rest.is_empty() && disk.attr.kind == FileType::Regular);
        if dotted.is_some() && upper.marks.is_plain(&at)? {
            dotted = None;
        }
        if disk.is_whiteout() || dotted.is_some() {
            let hidden = dotted.unwrap_or(name);
            if let Some(below) = self.lower_child(dir.lower, hidden)? {
                dir.slots.insert(hidden.into(), Slot::Whiteout);
                dir.subdirs -= i64::from(self.lower.attr(below)?.kind == FileType::Directory);
            }
            return Ok(());
        }
        let below = self.lower_child(dir.lower, name)?;
        let below_kind = below
            .map(|node| self.lower.attr(node))
            .transpose()?
            .map(|attr| attr.kind);
        let node = self.load_node(upper, parent, &at, name, &disk, below, below_kind)?;
        if dir.slots.get(name) == Some(&Slot::Whiteout) && below_kind == Some(FileType::Directory) {
            // A dot-file whiteout that the file made its way over: not counted twice.
            dir.subdirs += 1;
        }
        dir.put(name, node.id, node.kind, below.is_some());
        dir.subdirs += i64::from(node.kind == FileType::Directory)
            - i64::from(below_kind == Some(FileType::Directory));
        Ok(())
    }

    /// Makes the node of an upper object seen for the first time.
    #[expect(
        clippy::too_many_arguments,
        reason = "everything known of one object, used once"
    )]
    fn load_node(
        &self,
        upper: &Upper,
        parent: &Node,
        at: &At,
        name: &[u8],
        disk: &DiskStat,
        below: Option<NodeId>,
        below_kind: Option<FileType>,
    ) -> Result<Arc<Node>, Errno> {
        let pretend = self.read_pretend(at, disk.attr.kind)?;
        let kind = pretend.map_or(disk.attr.kind, |p| p.kind);
        let mut state = State::new(Where::Upper);
        state.pretend = pretend;
        state.links.push((parent.id, name.into()));
        if kind == FileType::Directory {
            let lower = if let Some(path) = redirect(at)? {
                self.resolve_lower(parent, &path)?
                    .filter(|node| self.is_dir(*node))
            } else if below_kind == Some(FileType::Directory) && !self.hides_lower(at)? {
                below
            } else {
                None
            };
            state.dir = Some(Box::new(Dir {
                lower,
                ..Dir::default()
            }));
            let id = lower.map_or_else(|| self.new_id(), |node| node.0);
            let ino = lower
                .map(|node| self.lower.attr(node))
                .transpose()?
                .map(|attr| attr.ino);
            return Ok(self
                .nodes
                .get_or(id, || Node::new(id, kind, lower, ino, state)));
        }
        let named = match redirect(at)? {
            Some(path) => self.resolve_lower(parent, &path)?,
            None => below,
        };
        state.fill = self.read_fill(upper, at, disk, named)?;
        let origin = match upper.marks.origin(at)? {
            Some((ino, locator)) => Some((ino, self.lower.locate(&locator)?)),
            None => None,
        };
        let id = match origin {
            Some((_, Some(lower))) => lower.0,
            Some((_, None)) | None => self.new_id_of(disk),
        };
        let lower = origin.and_then(|(_, lower)| lower);
        let link = (parent.id, Box::<[u8]>::from(name));
        let node = self.nodes.get_or(id, || {
            Node::new(id, kind, lower, origin.map(|(ino, _)| ino), state)
        });
        let mut state = node.lock();
        if !state.links.contains(&link) {
            state.links.push(link);
        }
        if matches!(state.place, Where::Pinned(_)) && !state.unlinked {
            state.place = Where::Upper;
        }
        drop(state);
        Ok(node)
    }

    /// The id of an upper file without a lower one: the same for all its names.
    fn new_id_of(&self, disk: &DiskStat) -> u64 {
        const HARD_LINKS: u64 = 1 << 56;
        if disk.attr.nlink > 1 {
            HARD_LINKS | disk.disk_ino
        } else {
            self.new_id()
        }
    }

    fn hides_lower(&self, at: &At) -> Result<bool, Errno> {
        if is_opaque(at)? {
            return Ok(true);
        }
        let At::Name(parent, name) = at else {
            return Ok(false);
        };
        let fd = Upper::open_dir(parent.as_fd(), name)?;
        match crate::upper::stat_at(fd.as_fd(), b".wh..wh..opq") {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lower file a redirect names: absolute, or a sibling of where it is.
    fn resolve_lower(&self, parent: &Node, path: &[u8]) -> Result<Option<NodeId>, Errno> {
        let (mut at, rest) = match path.strip_prefix(b"/") {
            Some(rest) => (Some(NodeId::ROOT), rest),
            None => (parent.lower, path),
        };
        for part in rest
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            at = self.lower_child(at, part)?;
        }
        Ok(at)
    }

    /// The path of a lower directory from the lower root, with a leading slash.
    pub(crate) fn lower_path(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let mut parts = Vec::new();
        let mut at = node;
        while at != NodeId::ROOT {
            let (parent, name) = self
                .lower
                .names(at)?
                .into_iter()
                .next()
                .ok_or(Errno::ESTALE)?;
            parts.push(name);
            at = parent;
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        Ok(path)
    }

    pub(crate) fn lower_child(
        &self,
        dir: Option<NodeId>,
        name: &[u8],
    ) -> Result<Option<NodeId>, Errno> {
        dir.map_or(Ok(None), |dir| self.lower.lookup(dir, name))
    }

    /// The node of a lower child, with its state if it has any.
    pub(crate) fn lower_found(&self, node: NodeId) -> Found {
        self.nodes
            .get(node.0)
            .map_or(Found::Plain(node), Found::Own)
    }

    /// Finds a name in a directory whose state is locked and loaded.
    pub(crate) fn child(&self, dir: &Dir, name: &[u8]) -> Result<Option<Found>, Errno> {
        match dir.slots.get(name) {
            Some(Slot::Whiteout) => Ok(None),
            Some(Slot::File { id, .. }) => self
                .nodes
                .get(*id)
                .map(Found::Own)
                .map(Some)
                .ok_or(Errno::EIO),
            None => Ok(self
                .lower_child(dir.lower, name)?
                .map(|node| self.lower_found(node))),
        }
    }

    /// Finds a name in a directory.
    pub(crate) fn find_child(&self, parent: Ino, name: &[u8]) -> Result<Option<Found>, Errno> {
        match self.find(parent)? {
            Found::Plain(lower) => Ok(self
                .lower
                .lookup(lower, name)?
                .map(|node| self.lower_found(node))),
            Found::Own(node) => {
                self.load(&node)?;
                let state = node.lock();
                self.child(state.dir.as_deref().ok_or(Errno::ENOTDIR)?, name)
            }
        }
    }

    /// The id of the directory above a directory.
    pub(crate) fn parent_id(&self, found: &Found) -> u64 {
        let parent = match found {
            Found::Own(node) => node.lock().links.first().map(|link| link.0),
            Found::Plain(node) => self
                .lower
                .names(*node)
                .ok()
                .and_then(|names| names.first().map(|n| n.0.0)),
        };
        parent.unwrap_or(Ino::ROOT.0)
    }

    /// `st_ino` of the directory above a directory.
    fn parent_ino(&self, found: &Found) -> u64 {
        let parent = self.parent_id(found);
        let found = self.find(Ino(parent));
        found
            .and_then(|found| match found {
                Found::Own(node) => node
                    .ino
                    .map_or_else(|| self.attr_of(&node, &node.lock()).map(|a| a.ino), Ok),
                Found::Plain(node) => self.lower.attr(node).map(|attr| attr.ino),
            })
            .unwrap_or(parent)
    }

    /// Calls `each` for the entries of a directory after `cookie` (0: from the start) until it
    /// returns false. Entries that stay are listed once, whatever comes and goes meanwhile;
    /// those that come after the start are not listed.
    ///
    /// With `full`, each entry carries attributes and counts as looked up; an entry for which
    /// `each` returned false does not.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`; errors of reading the upper directory.
    pub fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        full: bool,
        each: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<(), Errno> {
        let found = self.find(ino)?;
        let own = match &found {
            Found::Own(node) => {
                self.load(node)?;
                node.ino
                    .map_or_else(|| self.true_attr(&found).map(|attr| attr.ino), Ok)?
            }
            Found::Plain(lower) => self.lower.attr(*lower)?.ino,
        };
        let cursor = match (cookie, &found) {
            (0, Found::Own(node)) => {
                let state = node.lock();
                Cursor::start(state.dir.as_deref().map_or(0, |dir| dir.next_cookie))
            }
            (0, Found::Plain(_)) => Cursor::start(0),
            (_, Found::Own(_) | Found::Plain(_)) => Cursor::decode(cookie),
        };
        for (number, name) in [(1, &b"."[..]), (2, b"..")] {
            if !cursor.before_dot(number) {
                continue;
            }
            let ino = if number == 1 {
                own
            } else {
                self.parent_ino(&found)
            };
            let kind = FileType::Directory;
            if !each(&Listed {
                name,
                ino,
                kind,
                cookie: cursor.after_dot(number),
                entry: None,
            }) {
                return Ok(());
            }
        }
        match &found {
            Found::Plain(lower) => self.list_plain(*lower, cursor, full, each),
            Found::Own(node) => self.list_merged(node, cursor, full, each),
        }
    }

    fn list_plain(
        &self,
        dir: NodeId,
        cursor: Cursor,
        full: bool,
        each: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut failed = None;
        let Some(from) = cursor.lower() else {
            return Ok(());
        };
        self.lower.entries(dir, from, &mut |entry| {
            let found = self.lower_found(entry.node);
            let listed = (entry.name, cursor.after_lower(entry.next));
            match self.give(&found, entry.ino, entry.kind, listed, full, each) {
                Ok(more) => more,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Offers one entry; counts the reference if it was taken.
    fn give(
        &self,
        found: &Found,
        ino: u64,
        kind: FileType,
        (name, cookie): (&[u8], u64),
        full: bool,
        each: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<bool, Errno> {
        let entry = if full {
            match self.entry(found) {
                Ok(entry) => Some(entry),
                // gone since it was listed
                Err(Errno::ENOENT | Errno::ESTALE) => return Ok(true),
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let ino = entry.map_or(ino, |entry| entry.attr.ino);
        let taken = each(&Listed {
            name,
            ino,
            kind,
            cookie,
            entry,
        });
        if taken && let Some(entry) = entry {
            self.refer(entry.ino.0);
        }
        Ok(taken)
    }

    fn list_merged(
        &self,
        node: &Node,
        mut at: Cursor,
        full: bool,
        each: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<(), Errno> {
        /// Entries looked at under the directory's lock at a time.
        const BATCH: usize = 128;
        loop {
            let batch = self.batch(node, at, BATCH)?;
            let Some(last) = batch.last() else {
                return Ok(());
            };
            at = Cursor::decode(last.2);
            for (name, found, cookie) in &batch {
                let (ino, kind) = match found {
                    Found::Own(child) => match child.ino {
                        Some(ino) => (ino, child.kind),
                        None if full => (0, child.kind),
                        None => match self.true_attr(found) {
                            Ok(attr) => (attr.ino, child.kind),
                            Err(_) => continue,
                        },
                    },
                    Found::Plain(lower) => {
                        let attr = self.lower.attr(*lower)?;
                        (attr.ino, attr.kind)
                    }
                };
                if !self.give(found, ino, kind, (name, *cookie), full, each)? {
                    return Ok(());
                }
            }
        }
    }

    /// The next entries of a merged directory after `cursor`.
    fn batch(&self, node: &Node, cursor: Cursor, count: usize) -> Result<Vec<Position>, Errno> {
        let state = node.lock();
        let dir = state.dir.as_deref().ok_or(Errno::ENOTDIR)?;
        let mut out = Vec::new();
        if let Some(lower) = dir.lower
            && let Some(from) = cursor.lower()
        {
            self.lower.entries(lower, from, &mut |entry| {
                let found = match dir.slots.get(entry.name) {
                    Some(Slot::Whiteout) => return true,
                    Some(Slot::File { id, .. }) => match self.nodes.get(*id) {
                        Some(node) => Found::Own(node),
                        None => return true,
                    },
                    None => self.lower_found(entry.node),
                };
                out.push((entry.name.into(), found, cursor.after_lower(entry.next)));
                out.len() < count
            })?;
        }
        let (first, last) = cursor.upper();
        for (number, name) in dir
            .order
            .range(first..)
            .take_while(|entry| *entry.0 <= last)
            .take(count.saturating_sub(out.len()))
        {
            if let Some(Slot::File { id, .. }) = dir.slots.get(name)
                && let Some(node) = self.nodes.get(*id)
            {
                out.push((name.clone(), Found::Own(node), cursor.after_upper(*number)));
            }
        }
        Ok(out)
    }
}
