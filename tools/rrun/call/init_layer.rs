//! The files every container has, whatever its image says: mount points of /etc/hosts and its
//! like, /proc, /sys and /dev.
//!
//! They are added to the read-only tree, as Docker's init layer is, so that they need not be
//! made in the upper directory at each start and are no change of the container's.

use std::sync::Arc;

use rrun_core::{Attr, Data, Device, Errno, FileType, Lower, LowerEntry, NodeId, Time};

/// What is there when nothing else is: path (at most one directory deep) and type.
///
/// Source: moby daemon/initlayer; podman-run(1).
///
/// The order is that of the locators, which are kept on disk: new ones come last.
const WANTED: [(&str, &str, FileType); 10] = [
    ("", ".dockerenv", FileType::Regular),
    ("", "dev", FileType::Directory),
    ("", "etc", FileType::Directory),
    ("", "proc", FileType::Directory),
    ("", "sys", FileType::Directory),
    ("etc", "hostname", FileType::Regular),
    ("etc", "hosts", FileType::Regular),
    ("etc", "mtab", FileType::Symlink),
    ("etc", "resolv.conf", FileType::Regular),
    // Podman's; an image without /run goes without it, as with Docker.
    ("run", ".containerenv", FileType::Regular),
];

/// The one file that may have something in it.
const CONTAINERENV: &str = ".containerenv";
/// Where the one symbolic link, `/etc/mtab`, leads.
const MTAB: &[u8] = b"/proc/mounts";

/// Node ids of ours end here; trees number theirs from 1.
const FIRST_ID: u64 = NodeId::LIMIT - 64;
/// Positions of ours in a directory; trees count theirs from 1.
const FIRST_POSITION: u64 = 0xffff_ff00;
/// Begins the locators of ours; no tree's locator begins with NUL.
const LOCATOR: &[u8] = b"\0rrun-init:";

/// One added file.
#[derive(Debug, Clone, Copy)]
struct Added {
    parent: NodeId,
    name: &'static str,
    kind: FileType,
}

/// A tree with the missing ones of [`WANTED`] added.
#[derive(Debug)]
pub(crate) struct InitLayer {
    tree: Arc<dyn Lower>,
    /// By number: `FIRST_ID + index` is the node. `None` for what the tree has itself.
    added: Vec<Option<Added>>,
    /// What is in `/run/.containerenv`.
    containerenv: Vec<u8>,
}

impl InitLayer {
    /// Adds to `tree` what it lacks.
    pub(crate) fn on(tree: Arc<dyn Lower>, containerenv: &str) -> Result<Self, Errno> {
        let mut layer = Self {
            tree,
            added: Vec::new(),
            containerenv: containerenv.as_bytes().to_vec(),
        };
        for (dir, name, kind) in WANTED {
            let parent = match dir {
                "" => Some(NodeId::ROOT),
                _ => layer.directory(dir)?,
            };
            let added = match parent {
                Some(parent) if layer.lookup(parent, name.as_bytes())?.is_none() => {
                    Some(Added { parent, name, kind })
                }
                _ => None,
            };
            layer.added.push(added);
        }
        Ok(layer)
    }

    /// A directory of the root; `None` when it is something else, such as a symbolic link.
    fn directory(&self, name: &str) -> Result<Option<NodeId>, Errno> {
        let Some(node) = self.lookup(NodeId::ROOT, name.as_bytes())? else {
            return Ok(None);
        };
        let is_dir = self.attr(node)?.kind == FileType::Directory;
        Ok(is_dir.then_some(node))
    }

    fn own(&self, node: NodeId) -> Option<Added> {
        let index = usize::try_from(node.0.checked_sub(FIRST_ID)?).ok()?;
        self.added.get(index).copied().flatten()
    }

    /// What is in one of our files.
    fn content(&self, added: Added) -> &[u8] {
        if added.kind == FileType::Symlink {
            MTAB
        } else if added.name == CONTAINERENV {
            &self.containerenv
        } else {
            &[]
        }
    }

    /// Our additions to a directory, with their nodes.
    fn added_to(&self, dir: NodeId) -> impl Iterator<Item = (u64, NodeId, Added)> {
        (0_u64..)
            .zip(&self.added)
            .filter_map(move |(index, added)| {
                let added = (*added)?;
                (added.parent == dir).then_some((index, NodeId(FIRST_ID + index), added))
            })
    }
}

/// Attributes of an added file: as if made in 1970, root's.
fn attr_of(node: NodeId, kind: FileType, size: usize) -> Attr {
    let is_dir = kind == FileType::Directory;
    let is_link = kind == FileType::Symlink;
    Attr {
        ino: node.0,
        kind,
        perm: match (is_dir, is_link) {
            (true, _) => 0o755,
            (_, true) => 0o777,
            _ => 0o644,
        },
        uid: 0,
        gid: 0,
        nlink: if is_dir { 2 } else { 1 },
        rdev: Device::default(),
        size: size as u64,
        blocks: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        btime: Time::default(),
    }
}

impl Lower for InitLayer {
    fn attr(&self, node: NodeId) -> Result<Attr, Errno> {
        if let Some(added) = self.own(node) {
            return Ok(attr_of(node, added.kind, self.content(added).len()));
        }
        let mut attr = self.tree.attr(node)?;
        // 1 means that subdirectories are not counted.
        if attr.kind == FileType::Directory && attr.nlink > 1 {
            let more = self
                .added_to(node)
                .filter(|(_, _, added)| added.kind == FileType::Directory);
            attr.nlink += u32::try_from(more.count()).unwrap_or(0);
        }
        Ok(attr)
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<NodeId>, Errno> {
        let found = match self.own(dir) {
            Some(added) if added.kind == FileType::Directory => None,
            Some(_) => return Err(Errno::ENOTDIR),
            None => self.tree.lookup(dir, name)?,
        };
        Ok(found.or_else(|| {
            let mut ours = self.added_to(dir);
            ours.find(|(_, _, added)| added.name.as_bytes() == name)
                .map(|(_, node, _)| node)
        }))
    }

    fn entries(
        &self,
        dir: NodeId,
        from: u64,
        each: &mut dyn FnMut(LowerEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let mut going = true;
        match self.own(dir) {
            Some(added) if added.kind == FileType::Directory => {}
            Some(_) => return Err(Errno::ENOTDIR),
            None if from < FIRST_POSITION => {
                self.tree.entries(dir, from, &mut |entry| {
                    going = each(entry);
                    going
                })?;
            }
            None => {}
        }
        for (index, node, added) in self.added_to(dir) {
            let next = FIRST_POSITION + index + 1;
            if !going || next <= from {
                continue;
            }
            going = each(LowerEntry {
                name: added.name.as_bytes(),
                node,
                ino: node.0,
                kind: added.kind,
                next,
            });
        }
        Ok(())
    }

    fn readlink(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        match self.own(node) {
            Some(added) if added.kind == FileType::Symlink => Ok(self.content(added).to_vec()),
            Some(_) => Err(Errno::EINVAL),
            None => self.tree.readlink(node),
        }
    }

    fn xattr_names(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        match self.own(node) {
            Some(_) => Ok(Vec::new()),
            None => self.tree.xattr_names(node),
        }
    }

    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        match self.own(node) {
            Some(_) => Ok(None),
            None => self.tree.xattr(node, name),
        }
    }

    fn has_xattrs(&self) -> bool {
        self.tree.has_xattrs()
    }

    fn data(&self, node: NodeId) -> Result<Data, Errno> {
        match self.own(node) {
            Some(added) if added.kind == FileType::Regular => {
                Ok(Data::Bytes(self.content(added).into()))
            }
            Some(_) => Err(Errno::EINVAL),
            None => self.tree.data(node),
        }
    }

    fn names(&self, node: NodeId) -> Result<Vec<(NodeId, Vec<u8>)>, Errno> {
        match self.own(node) {
            Some(added) => Ok(vec![(added.parent, added.name.as_bytes().to_vec())]),
            None => self.tree.names(node),
        }
    }

    fn layer(&self, node: NodeId) -> Result<u32, Errno> {
        match self.own(node) {
            Some(_) => Ok(0),
            None => self.tree.layer(node),
        }
    }

    fn locator(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        match self.own(node) {
            Some(_) => {
                let index = u8::try_from(node.0 - FIRST_ID).map_err(|_| Errno::ESTALE)?;
                Ok([LOCATOR, &[b'0' + index][..]].concat())
            }
            None => self.tree.locator(node),
        }
    }

    fn locate(&self, locator: &[u8]) -> Result<Option<NodeId>, Errno> {
        match locator.strip_prefix(LOCATOR) {
            Some([digit]) => {
                let node = NodeId(FIRST_ID + u64::from(digit.saturating_sub(b'0')));
                Ok(self.own(node).map(|_| node))
            }
            Some(_) => Ok(None),
            None => self.tree.locate(locator),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_union::DirLayers;

    fn names(layer: &InitLayer, dir: NodeId, step: bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let (before, at) = (found.len(), from);
            let each = &mut |entry: LowerEntry<'_>| {
                found.push(String::from_utf8_lossy(entry.name).into_owned());
                from = entry.next;
                !step
            };
            layer.entries(dir, at, each).unwrap();
            if !step || found.len() == before {
                found.sort();
                return found;
            }
        }
    }

    #[test]
    fn what_is_missing_is_added_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("etc/hosts"), "own").unwrap();
        let tree = DirLayers::open(&[dir.path().to_owned()], false).unwrap();
        let layer = InitLayer::on(Arc::new(tree), "").unwrap();
        for step in [false, true] {
            assert_eq!(
                names(&layer, NodeId::ROOT, step),
                [".dockerenv", "dev", "etc", "proc", "sys"]
            );
            let etc = layer.lookup(NodeId::ROOT, b"etc").unwrap().unwrap();
            assert_eq!(
                names(&layer, etc, step),
                ["hostname", "hosts", "mtab", "resolv.conf"]
            );
        }
        let etc = layer.lookup(NodeId::ROOT, b"etc").unwrap().unwrap();
        let own = layer.lookup(etc, b"hosts").unwrap().unwrap();
        assert!(matches!(layer.data(own).unwrap(), Data::File(_)));
        let added = layer.lookup(etc, b"hostname").unwrap().unwrap();
        assert_eq!(layer.attr(added).unwrap().size, 0);
        let locator = layer.locator(added).unwrap();
        assert_eq!(layer.locate(&locator), Ok(Some(added)));
        assert_eq!(layer.names(added).unwrap(), [(etc, b"hostname".to_vec())]);
        assert_eq!(layer.lookup(added, b"x"), Err(Errno::ENOTDIR));
        let mtab = layer.lookup(etc, b"mtab").unwrap().unwrap();
        assert_eq!(layer.readlink(mtab).unwrap(), MTAB);
        assert_eq!(layer.attr(mtab).unwrap().size, 12);
    }

    #[test]
    fn what_the_container_is_told_of_itself_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run")).unwrap();
        let tree = DirLayers::open(&[dir.path().to_owned()], false).unwrap();
        let layer = InitLayer::on(Arc::new(tree), "engine").unwrap();
        let run = layer.lookup(NodeId::ROOT, b"run").unwrap().unwrap();
        let file = layer.lookup(run, b".containerenv").unwrap().unwrap();
        assert_eq!(layer.attr(file).unwrap().size, 6);
        match layer.data(file).unwrap() {
            Data::Bytes(bytes) => assert_eq!(&*bytes, b"engine"),
            other => panic!("{other:?}"),
        }
        let locator = layer.locator(file).unwrap();
        assert_eq!(layer.locate(&locator), Ok(Some(file)));
    }

    #[test]
    fn a_symbolic_link_in_place_of_a_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("etc")).unwrap();
        let tree = DirLayers::open(&[dir.path().to_owned()], false).unwrap();
        let layer = InitLayer::on(Arc::new(tree), "").unwrap();
        assert_eq!(
            names(&layer, NodeId::ROOT, true),
            [".dockerenv", "dev", "etc", "proc", "sys"]
        );
        let etc = layer.lookup(NodeId::ROOT, b"etc").unwrap().unwrap();
        assert_eq!(layer.attr(etc).unwrap().kind, FileType::Symlink);
    }
}
