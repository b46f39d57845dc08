//! Merges layers into a base.

mod merge;

use std::collections::HashMap;

use rrun_core::{Device, Digest, FileType};

use super::format::{FLAG_NO_MARKS, FLAG_XATTRS, Node, header};
use crate::error::StoreError;
use crate::layer::{EntryKind, LayerEntry, LayerIndex, encode_xattrs};
use merge::{Merged, ROOT, Tree};

/// The bytes of the base of these layers, lowest first.
///
/// Nodes are numbered breadth first, the entries of a directory by name: the same layers give the
/// same numbers at any time on any machine.
pub(super) fn build(chain: &Digest, layers: &[LayerIndex]) -> Result<Vec<u8>, StoreError> {
    let mut tree = Tree::new();
    for (number, layer) in layers.iter().enumerate() {
        let number = u32::try_from(number).map_err(|_| StoreError::TooBig("number of layers"))?;
        tree.add(layer, number)?;
    }
    let ids: Vec<Digest> = layers.iter().map(LayerIndex::diff_id).collect();
    Writer::default().write(chain, &ids, &tree)
}

/// The sections in the making.
#[derive(Default)]
struct Writer<'a> {
    nodes: Vec<Node>,
    entries: Vec<u8>,
    links: Vec<(u32, u32, u32)>,
    owners: HashMap<(u32, u32), u32>,
    owner_bytes: Vec<u8>,
    objects: HashMap<Digest, u32>,
    object_bytes: Vec<u8>,
    arena: Vec<u8>,
    names: HashMap<&'a [u8], u32>,
    contents: HashMap<&'a [u8], u32>,
    xattrs: HashMap<Vec<u8>, u32>,
    /// Some node is what the kernel's overlayfs would take for its own mark.
    marks: bool,
}

/// Whether the kernel's overlayfs, with this below it, would take it for a mark of its own.
/// Source: kernel `Documentation/filesystems/overlayfs.rst`, "whiteouts and opaque directories".
fn is_overlay_mark(entry: &LayerEntry<'_>) -> bool {
    let whiteout = match entry.kind {
        EntryKind::CharDevice(device) => device == Device::default(),
        EntryKind::Directory
        | EntryKind::Inline(_)
        | EntryKind::Object { .. }
        | EntryKind::Symlink(_)
        | EntryKind::HardLink(_)
        | EntryKind::BlockDevice(_)
        | EntryKind::Fifo
        | EntryKind::Whiteout
        | EntryKind::Opaque => false,
    };
    let prefixes: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    let marked = |name: &[u8]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    whiteout || entry.xattrs.iter().any(|(name, _)| marked(name))
}

/// A count or offset as the 32 bits the file has for it.
fn small(value: usize) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::TooBig("the merged tree"))
}

fn device_bits(device: Device) -> u64 {
    u64::from(device.major) << 32 | u64::from(device.minor)
}

impl<'a> Writer<'a> {
    fn write(
        mut self,
        chain: &Digest,
        layers: &[Digest],
        tree: &Tree<'a>,
    ) -> Result<Vec<u8>, StoreError> {
        let sorted = tree.sorted();
        let root = tree.node(tree.root());
        let first = self.node(root)?;
        self.nodes.push(Node {
            parent: ROOT,
            nlink: 2,
            ..first
        });
        self.names.reserve(tree.len());
        self.objects.reserve(tree.len());
        self.nodes.reserve(tree.len());
        // The number in the file of each node of the tree; 0 where it has none yet.
        let mut numbers = vec![0_u32; tree.len()];
        numbers[tree.root()] = ROOT;
        let mut dirs = vec![tree.root()];
        let mut next = 0;
        while let Some(dir) = dirs.get(next).copied() {
            next += 1;
            self.directory(dir, tree, &sorted, &mut numbers, &mut dirs)?;
        }
        self.links.sort_unstable();
        self.finish(chain, layers)
    }

    /// Writes the entries of one directory and the nodes that are new in it.
    fn directory(
        &mut self,
        dir: usize,
        tree: &Tree<'a>,
        sorted: &merge::Sorted<'a>,
        numbers: &mut [u32],
        dirs: &mut Vec<usize>,
    ) -> Result<(), StoreError> {
        let children = sorted.children(dir);
        let parent = numbers[dir];
        let first = small(self.entries.len() / super::format::ENTRY_LEN)?;
        let mut subdirs = 0;
        for (position, (name, child)) in (first..).zip(children) {
            if numbers[*child] == 0 {
                let node = self.node(tree.node(*child))?;
                self.nodes.push(Node {
                    parent,
                    entry: position,
                    nlink: 1,
                    ..node
                });
                numbers[*child] = small(self.nodes.len())?;
                if tree.is_dir(*child) {
                    subdirs += 1;
                    dirs.push(*child);
                }
            } else {
                self.links.push((numbers[*child], parent, position));
                self.record(numbers[*child]).nlink += 1;
            }
            let name = self.name(name)?;
            self.entries.extend_from_slice(&name.to_le_bytes());
            self.entries
                .extend_from_slice(&numbers[*child].to_le_bytes());
        }
        let count = small(children.len())?;
        let record = self.record(parent);
        record.nlink = 2 + subdirs;
        record.size = u64::from(count) << 32 | u64::from(first);
        Ok(())
    }

    fn record(&mut self, number: u32) -> &mut Node {
        // Numbers start at 1 and every number given out has its record.
        let at = usize::try_from(number).unwrap_or(usize::MAX) - 1;
        &mut self.nodes[at]
    }

    /// The record of a node but for its place in the tree.
    fn node(&mut self, merged: &Merged<'a>) -> Result<Node, StoreError> {
        let entry = &merged.entry;
        self.marks |= is_overlay_mark(entry);
        let mut node = Node {
            layer: merged.layer,
            owner: self.owner(entry.uid, entry.gid)?,
            secs: entry.mtime.secs,
            nanos: entry.mtime.nanos,
            xattrs: self.xattr_set(&entry.xattrs)?,
            ..Node::default()
        };
        let kind = match entry.kind {
            EntryKind::Inline(bytes) => {
                node.inline = true;
                node.size = bytes.len() as u64;
                node.content = self.content(bytes)?;
                FileType::Regular
            }
            EntryKind::Object { digest, size } => {
                node.size = size;
                node.content = self.object(digest)?;
                FileType::Regular
            }
            EntryKind::Symlink(target) => {
                node.size = target.len() as u64;
                node.content = self.content(target)?;
                FileType::Symlink
            }
            EntryKind::CharDevice(device) => {
                node.size = device_bits(device);
                FileType::CharDevice
            }
            EntryKind::BlockDevice(device) => {
                node.size = device_bits(device);
                FileType::BlockDevice
            }
            EntryKind::Fifo => FileType::Fifo,
            EntryKind::Directory
            | EntryKind::HardLink(_)
            | EntryKind::Whiteout
            | EntryKind::Opaque => FileType::Directory,
        };
        node.mode = kind.mode_bits() | (entry.perm & 0o7777);
        Ok(node)
    }

    fn owner(&mut self, uid: u32, gid: u32) -> Result<u32, StoreError> {
        if let Some(number) = self.owners.get(&(uid, gid)) {
            return Ok(*number);
        }
        let number = small(self.owners.len())?;
        self.owners.insert((uid, gid), number);
        self.owner_bytes.extend_from_slice(&uid.to_le_bytes());
        self.owner_bytes.extend_from_slice(&gid.to_le_bytes());
        Ok(number)
    }

    fn object(&mut self, digest: Digest) -> Result<u32, StoreError> {
        if let Some(number) = self.objects.get(&digest) {
            return Ok(*number);
        }
        let number = small(self.objects.len())?;
        self.objects.insert(digest, number);
        self.object_bytes.extend_from_slice(digest.as_bytes());
        Ok(number)
    }

    fn name(&mut self, name: &'a [u8]) -> Result<u32, StoreError> {
        if let Some(offset) = self.names.get(name) {
            return Ok(*offset);
        }
        let offset = small(self.arena.len())?;
        let len = u8::try_from(name.len()).map_err(|_| StoreError::TooBig("a name"))?;
        self.arena.push(len);
        self.arena.extend_from_slice(name);
        self.names.insert(name, offset);
        Ok(offset)
    }

    fn content(&mut self, bytes: &'a [u8]) -> Result<u32, StoreError> {
        if let Some(offset) = self.contents.get(bytes) {
            return Ok(*offset);
        }
        let offset = small(self.arena.len())?;
        self.arena.extend_from_slice(bytes);
        self.contents.insert(bytes, offset);
        Ok(offset)
    }

    fn xattr_set(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<u32, StoreError> {
        if pairs.is_empty() {
            return Ok(0);
        }
        let bytes = encode_xattrs(pairs)?;
        if let Some(place) = self.xattrs.get(&bytes) {
            return Ok(*place);
        }
        let place = small(self.arena.len() + 1)?;
        self.arena
            .extend_from_slice(&small(bytes.len())?.to_le_bytes());
        self.arena.extend_from_slice(&bytes);
        self.xattrs.insert(bytes, place);
        Ok(place)
    }

    fn finish(self, chain: &Digest, layers: &[Digest]) -> Result<Vec<u8>, StoreError> {
        small(self.arena.len())?;
        small(self.entries.len())?;
        let mut body = Vec::new();
        for id in layers {
            body.extend_from_slice(id.as_bytes());
        }
        body.extend_from_slice(&self.owner_bytes);
        for node in &self.nodes {
            node.encode(&mut body);
        }
        body.extend_from_slice(&self.entries);
        for (node, parent, entry) in &self.links {
            for value in [node, parent, entry] {
                body.extend_from_slice(&value.to_le_bytes());
            }
        }
        body.extend_from_slice(&self.object_bytes);
        body.extend_from_slice(&self.arena);
        let counts = [
            layers.len(),
            self.owners.len(),
            self.nodes.len(),
            self.entries.len() / super::format::ENTRY_LEN,
            self.links.len(),
            self.objects.len(),
            self.arena.len(),
        ];
        let mut flags = 0;
        if !self.xattrs.is_empty() {
            flags |= FLAG_XATTRS;
        }
        if !self.marks {
            flags |= FLAG_NO_MARKS;
        }
        let mut out = header(chain, flags, counts.map(|count| count as u64), &body);
        out.extend_from_slice(&body);
        Ok(out)
    }
}
