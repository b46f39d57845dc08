//! The tree that layers are merged into, lowest first, as overlayfs would show them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rrun_core::Time;

use crate::error::StoreError;
use crate::layer::{EntryKind, LayerEntry, LayerIndex};

/// The number of the root in the file.
pub(super) const ROOT: u32 = 1;
/// Symbolic links followed in one path: as the kernel's `MAXSYMLINKS`.
const HOPS_MAX: usize = 40;

/// A node of the tree.
#[derive(Debug, Clone)]
pub(super) struct Merged<'a> {
    pub(super) entry: LayerEntry<'a>,
    pub(super) layer: u32,
}

/// Nodes and names. What loses its name stays as garbage that no walk from the root reaches, so
/// removing a subtree is removing one name.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<Merged<'a>>,
    names: HashMap<(usize, &'a [u8]), usize>,
    root: usize,
}

/// The names of all directories in order.
#[derive(Debug)]
pub(super) struct Sorted<'a> {
    starts: Vec<usize>,
    names: Vec<(&'a [u8], usize)>,
}

impl<'a> Sorted<'a> {
    /// The entries of a directory, sorted by name.
    pub(super) fn children(&self, dir: usize) -> &[(&'a [u8], usize)] {
        &self.names[self.starts[dir]..self.starts[dir + 1]]
    }
}

/// A layer being added.
struct Layer<'l, 'a> {
    index: &'l LayerIndex,
    number: u32,
    /// The directory that the last entry was in: most entries follow one of the same directory.
    last: Option<(&'a [u8], usize)>,
}

impl Layer<'_, '_> {
    fn error(&self, path: &[u8], reason: &'static str) -> StoreError {
        let entry = String::from_utf8_lossy(path).into_owned();
        StoreError::Merge {
            layer: self.index.diff_id(),
            entry,
            reason,
        }
    }
}

fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new() -> Self {
        let root = implicit_dir(0);
        Self {
            nodes: vec![root],
            names: HashMap::new(),
            root: 0,
        }
    }

    pub(super) fn root(&self) -> usize {
        self.root
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn node(&self, number: usize) -> &Merged<'a> {
        &self.nodes[number]
    }

    pub(super) fn is_dir(&self, number: usize) -> bool {
        self.nodes[number].entry.kind == EntryKind::Directory
    }

    pub(super) fn sorted(&self) -> Sorted<'a> {
        // By directory first, which is cheap, so that only short lists are left to sort.
        let mut starts = vec![0; self.nodes.len() + 1];
        for (dir, _) in self.names.keys() {
            starts[dir + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut names: Vec<(&[u8], usize)> = vec![(b"", 0); self.names.len()];
        for ((dir, name), node) in &self.names {
            names[next[*dir]] = (name, *node);
            next[*dir] += 1;
        }
        for ends in starts.windows(2) {
            names[ends[0]..ends[1]].sort_unstable();
        }
        Sorted { starts, names }
    }

    /// Puts a layer on top: first what it hides of those below, then what it has.
    pub(super) fn add(&mut self, index: &'a LayerIndex, number: u32) -> Result<(), StoreError> {
        let mut layer = Layer {
            index,
            number,
            last: None,
        };
        self.names.reserve(index.len());
        self.nodes.reserve(index.len());
        for entry in index.marks() {
            let entry = entry?;
            if entry.kind == EntryKind::Opaque {
                self.empty(entry.path);
            } else {
                self.remove(entry.path);
            }
        }
        for entry in index.entries() {
            let entry = entry?;
            if !matches!(entry.kind, EntryKind::Opaque | EntryKind::Whiteout) {
                self.place(entry, &mut layer)?;
            }
        }
        Ok(())
    }

    /// The directory with this very path, no links followed.
    fn plain_dir(&self, path: &[u8]) -> Option<usize> {
        let mut dir = self.root;
        for part in path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            dir = *self.names.get(&(dir, part))?;
        }
        self.is_dir(dir).then_some(dir)
    }

    /// Whiteout: the name goes.
    fn remove(&mut self, path: &'a [u8]) {
        let (parent, name) = split_path(path);
        if let Some(parent) = self.plain_dir(parent) {
            self.names.remove(&(parent, name));
        }
    }

    /// Opaque: a new directory with the attributes of the old takes its place.
    fn empty(&mut self, path: &'a [u8]) {
        let Some(old) = self.plain_dir(path) else {
            return;
        };
        let new = self.nodes.len();
        self.nodes.push(self.nodes[old].clone());
        if old == self.root {
            self.root = new;
            return;
        }
        let (parent, name) = split_path(path);
        if let Some(parent) = self.plain_dir(parent) {
            self.names.insert((parent, name), new);
        }
    }

    fn place(
        &mut self,
        entry: LayerEntry<'a>,
        layer: &mut Layer<'_, 'a>,
    ) -> Result<(), StoreError> {
        if entry.path.is_empty() {
            if entry.kind != EntryKind::Directory {
                return Err(layer.error(b"/", "the root must be a directory"));
            }
            self.nodes[self.root] = Merged {
                entry,
                layer: layer.number,
            };
            return Ok(());
        }
        let (parent_path, name) = split_path(entry.path);
        let parent = match layer.last {
            Some((path, dir)) if path == parent_path => dir,
            Some(_) | None => self.make_dirs(parent_path, entry.path, layer)?,
        };
        layer.last = Some((parent_path, parent));
        let node = match entry.kind {
            EntryKind::HardLink(target) => self.link_target(target, entry.path, layer)?,
            EntryKind::Directory
            | EntryKind::Inline(_)
            | EntryKind::Object { .. }
            | EntryKind::Symlink(_)
            | EntryKind::CharDevice(_)
            | EntryKind::BlockDevice(_)
            | EntryKind::Fifo
            | EntryKind::Whiteout
            | EntryKind::Opaque => self.nodes.len(),
        };
        let merged = Merged {
            entry,
            layer: layer.number,
        };
        match self.names.entry((parent, name)) {
            Entry::Occupied(mut old) => {
                let there = *old.get();
                if self.nodes[there].entry.kind == EntryKind::Directory {
                    if merged.entry.kind == EntryKind::Directory {
                        self.nodes[there] = merged;
                        return Ok(());
                    }
                    // A directory goes away, perhaps the remembered one.
                    layer.last = None;
                }
                old.insert(node);
            }
            Entry::Vacant(free) => {
                free.insert(node);
            }
        }
        if node == self.nodes.len() {
            self.nodes.push(merged);
        }
        Ok(())
    }

    fn link_target(
        &self,
        target: &'a [u8],
        path: &[u8],
        layer: &Layer<'_, 'a>,
    ) -> Result<usize, StoreError> {
        let (parent, name) = split_path(target);
        let parent = self.find_dir(parent);
        let found = parent.and_then(|parent| self.names.get(&(parent, name)).copied());
        let Some(node) = found else {
            return Err(StoreError::LinkTargetMissing {
                layer: layer.index.diff_id(),
                entry: String::from_utf8_lossy(path).into_owned(),
                target: String::from_utf8_lossy(target).into_owned(),
            });
        };
        if self.is_dir(node) {
            return Err(layer.error(path, "a hard link must not lead to a directory"));
        }
        Ok(node)
    }

    /// The directory a path leads to, links followed within the tree.
    fn find_dir(&self, path: &'a [u8]) -> Option<usize> {
        let mut stack = vec![self.root];
        let mut todo: Vec<&[u8]> = path.split(|byte| *byte == b'/').rev().collect();
        let mut hops = 0;
        while let Some(part) = todo.pop() {
            let dir = *stack.last()?;
            match part {
                b"" | b"." => {}
                b".." if stack.len() > 1 => drop(stack.pop()),
                b".." => {}
                _ => {
                    let node = *self.names.get(&(dir, part))?;
                    match self.nodes[node].entry.kind {
                        EntryKind::Directory => stack.push(node),
                        EntryKind::Symlink(target) if hops < HOPS_MAX => {
                            hops += 1;
                            if target.starts_with(b"/") {
                                stack.truncate(1);
                            }
                            todo.extend(target.split(|byte| *byte == b'/').rev());
                        }
                        EntryKind::Symlink(_)
                        | EntryKind::Inline(_)
                        | EntryKind::Object { .. }
                        | EntryKind::HardLink(_)
                        | EntryKind::CharDevice(_)
                        | EntryKind::BlockDevice(_)
                        | EntryKind::Fifo
                        | EntryKind::Whiteout
                        | EntryKind::Opaque => return None,
                    }
                }
            }
        }
        stack.last().copied()
    }

    /// The directory a path leads to; directories that are not there are made.
    ///
    /// A symbolic link of the same layer is followed within the tree, as an extraction into an
    /// empty directory would; what a lower layer has in the place of a directory is replaced.
    fn make_dirs(
        &mut self,
        path: &'a [u8],
        entry: &[u8],
        layer: &Layer<'_, 'a>,
    ) -> Result<usize, StoreError> {
        let mut stack = vec![self.root];
        let mut todo: Vec<&'a [u8]> = path.split(|byte| *byte == b'/').rev().collect();
        let mut hops = 0;
        while let Some(part) = todo.pop() {
            let dir = stack.last().copied().unwrap_or(self.root);
            match part {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let there = self.names.get(&(dir, part)).copied();
            let own = there.filter(|node| self.nodes[*node].layer == layer.number);
            if let Some(node) = there.filter(|node| self.is_dir(*node)) {
                stack.push(node);
            } else if let Some(node) = own {
                let EntryKind::Symlink(target) = self.nodes[node].entry.kind else {
                    return Err(layer.error(entry, "its parent is not a directory"));
                };
                hops += 1;
                if hops > HOPS_MAX {
                    return Err(layer.error(entry, "too many symbolic links in its path"));
                }
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                todo.extend(target.split(|byte| *byte == b'/').rev());
            } else {
                if part.len() > rrun_core::NAME_MAX {
                    return Err(layer.error(entry, "a symbolic link in its path is too long"));
                }
                let node = self.nodes.len();
                self.nodes.push(implicit_dir(layer.number));
                self.names.insert((dir, part), node);
                stack.push(node);
            }
        }
        Ok(stack.last().copied().unwrap_or(self.root))
    }
}

/// A directory that no layer describes.
fn implicit_dir<'a>(layer: u32) -> Merged<'a> {
    let entry = LayerEntry {
        path: b"",
        kind: EntryKind::Directory,
        perm: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    };
    Merged { entry, layer }
}
