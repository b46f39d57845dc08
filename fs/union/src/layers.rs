//! Plain directories of the host as a lower tree, merged on demand.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use rrun_core::{Attr, Data, Errno, FileType, Lower, LowerEntry, NodeId};
use rustix::fs::{self as rfs, Mode, OFlags};

use crate::error::UnionError;
use crate::meta::{OVERRIDE_STAT, Virtual};
use crate::node::lock;
use crate::upper::{
    At, DiskStat, Upper, copy_mount, is_internal, is_opaque, read_names, redirect, stat_at,
};

/// Directories stacked in one merged directory at most: the kernel's limit for lower layers.
/// Source: `fs/overlayfs/params.c`, `OVL_MAX_STACK`.
const LAYERS_MAX: usize = 500;
/// Longest locator, in bytes; see [`Lower::locator`].
const LOCATOR_MAX: usize = 512;
/// Directories kept open: enough for the working set of a walk, far below usual limits.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Host directories as a read-only tree; the first is the uppermost.
///
/// Each directory is merged when it is first visited, and remembered. Whiteouts, opaque marks and
/// redirects of kernel overlayfs, fuse-overlayfs and OCI layers are honoured. The directories must
/// not change while in use.
#[derive(Debug)]
pub struct DirLayers {
    roots: Vec<Arc<OwnedFd>>,
    nodes: Mutex<Nodes>,
    /// Directories in use, opened by path and kept while they are used often.
    open: Mutex<LruCache<Part, Arc<OwnedFd>>>,
    /// The device of each layer, as a small number that goes above the inode number's bits.
    devices: Vec<u64>,
    pretend: bool,
}

#[derive(Debug, Default)]
struct Nodes {
    all: Vec<Arc<Merged>>,
    /// Files of more than one name, by layer device and inode.
    hard_links: HashMap<(u64, u64), NodeId>,
}

/// A directory of one layer, by its path from the layer's root.
type Part = (usize, Arc<[u8]>);

/// One node: the object that shows, and for a directory those it continues.
#[derive(Debug)]
struct Merged {
    kind: FileType,
    attr: Attr,
    layer: u32,
    names: Mutex<Vec<(NodeId, Box<[u8]>)>>,
    /// For a directory: each layer's part of it, uppermost first. For others, the directory it
    /// is in.
    parts: Vec<Part>,
    /// For others than directories: its name there.
    name: Option<Box<[u8]>>,
    children: Mutex<Option<Arc<Vec<Child>>>>,
}

#[derive(Debug)]
struct Child {
    name: Box<[u8]>,
    node: NodeId,
    ino: u64,
    kind: FileType,
}

impl DirLayers {
    /// Opens `layers`, the first uppermost. With `pretend`, owners and modes are taken from
    /// `user.containers.override_stat` where it is set.
    ///
    /// # Errors
    ///
    /// When a directory cannot be opened, or there are none or too many.
    pub fn open(layers: &[PathBuf], pretend: bool) -> Result<Self, UnionError> {
        if layers.is_empty() || layers.len() > LAYERS_MAX {
            let path = layers.first().cloned().unwrap_or_default();
            return Err(UnionError::Unusable {
                path,
                reason: "there must be 1 to 500 lower layers",
            });
        }
        let mut roots = Vec::new();
        let mut nodes = Nodes::default();
        let mut parts = Vec::new();
        let mut first: Option<DiskStat> = None;
        for (number, path) in layers.iter().enumerate() {
            let failed = |errno| UnionError::Directory {
                action: "open",
                path: path.clone(),
                errno,
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rfs::open(path, flags, Mode::empty())
                .map_err(|error| failed(crate::upper::errno(error)))?;
            let fd = Arc::new(fd);
            let disk = stat_at(fd.as_fd(), b"").map_err(failed)?;
            first.get_or_insert(disk);
            roots.push(fd);
            parts.push((number, Arc::from(&b""[..])));
        }
        let Some(disk) = first else {
            return Err(UnionError::Unusable {
                path: PathBuf::new(),
                reason: "no lower layer",
            });
        };
        let layers_count = parts.len();
        let devices = device_numbers(&roots);
        let device = devices[0];
        let open = Mutex::new(LruCache::new(OPEN_MAX));
        let top = Arc::clone(&roots[0]);
        let mut this = Self {
            roots,
            devices,
            nodes: Mutex::new(Nodes::default()),
            open,
            pretend,
        };
        let mut attr = this
            .attr_of(&At::Name(top, b".".as_slice().into()), &disk, device)
            .map_err(|errno| UnionError::Directory {
                action: "read",
                path: layers[0].clone(),
                errno,
            })?;
        if layers_count > 1 {
            attr.nlink = 1;
        }
        nodes.all.push(Arc::new(Merged {
            kind: FileType::Directory,
            attr,
            layer: u32::try_from(layers_count - 1).unwrap_or(0),
            names: Mutex::new(Vec::new()),
            parts,
            name: None,
            children: Mutex::new(None),
        }));
        this.nodes = Mutex::new(nodes);
        Ok(this)
    }

    /// Reads the layers through private copies of their mounts, without what is mounted below, as
    /// kernel overlayfs does: a union mounted inside its own layer does not then lead its server
    /// into its own mount, where it would wait for itself, and the layers' own mounts can go
    /// meanwhile. To be called before the union is mounted.
    ///
    /// Without the privilege to copy a mount nothing changes.
    #[must_use]
    pub fn apart(mut self) -> Self {
        for root in &mut self.roots {
            if let Ok(copy) = copy_mount(root.as_fd()) {
                *root = Arc::new(copy);
            }
        }
        self
    }

    fn node(&self, id: NodeId) -> Result<Arc<Merged>, Errno> {
        let index = usize::try_from(id.0)
            .ok()
            .and_then(|n| n.checked_sub(1))
            .ok_or(Errno::ESTALE)?;
        lock(&self.nodes)
            .all
            .get(index)
            .cloned()
            .ok_or(Errno::ESTALE)
    }

    /// Opens a directory of a layer, one component at a time: paths may be longer than `PATH_MAX`
    /// and no component may be a symbolic link.
    fn dir(&self, part: &Part) -> Result<Arc<OwnedFd>, Errno> {
        if part.1.is_empty() {
            return self.roots.get(part.0).cloned().ok_or(Errno::EIO);
        }
        if let Some(fd) = lock(&self.open).get(part) {
            return Ok(Arc::clone(fd));
        }
        let slash = part.1.iter().rposition(|byte| *byte == b'/');
        let (above, name) = match slash {
            Some(slash) => (&part.1[..slash], &part.1[slash + 1..]),
            None => (&b""[..], &part.1[..]),
        };
        let above = self.dir(&(part.0, Arc::from(above)))?;
        let fd = Arc::new(Upper::open_dir(above.as_fd(), name)?);
        lock(&self.open).put(part.clone(), Arc::clone(&fd));
        Ok(fd)
    }

    fn disk(&self, merged: &Merged) -> Result<At, Errno> {
        let fd = self.dir(merged.parts.first().ok_or(Errno::EIO)?)?;
        let name = merged
            .name
            .clone()
            .unwrap_or_else(|| b".".as_slice().into());
        Ok(At::Name(fd, name))
    }

    fn attr_of(&self, at: &At, disk: &DiskStat, device: u64) -> Result<Attr, Errno> {
        const INO_BITS: u32 = 56;
        let mut attr = disk.attr;
        attr.ino = disk.disk_ino | (device << INO_BITS);
        if self.pretend
            && disk.attr.kind != FileType::Symlink
            && let Some(text) = at.xattr(OVERRIDE_STAT.as_bytes())?
            && let Some(virt) = Virtual::decode(&text, disk.attr.kind)
        {
            virt.apply(&mut attr);
        }
        Ok(attr)
    }

    /// The merged listing of a directory, made once.
    fn children(&self, id: NodeId, dir: &Merged) -> Result<Arc<Vec<Child>>, Errno> {
        if dir.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut made = lock(&dir.children);
        if let Some(children) = &*made {
            return Ok(Arc::clone(children));
        }
        let mut seen: HashMap<Box<[u8]>, Seen> = HashMap::new();
        for part in &dir.parts {
            if self.merge_part(part, &mut seen)? {
                break;
            }
        }
        let mut names: Vec<(Box<[u8]>, Seen)> = seen.into_iter().collect();
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut children = Vec::with_capacity(names.len());
        for (name, seen) in names {
            if let Seen::File(found) = seen {
                children.push(self.child(id, dir, name, found)?);
            }
        }
        let children = Arc::new(children);
        *made = Some(Arc::clone(&children));
        Ok(children)
    }

    /// Adds one layer's part of a directory; true when it says that it hides those below.
    fn merge_part(&self, part: &Part, seen: &mut HashMap<Box<[u8]>, Seen>) -> Result<bool, Errno> {
        let fd = self.dir(part)?;
        let mut here = Vec::new();
        read_names(fd.as_fd(), |name, kind| {
            here.push((Box::<[u8]>::from(name), kind));
            Ok(())
        })?;
        let mut hidden = Vec::new();
        let mut opaque = false;
        for (name, kind) in here {
            if let Some(rest) = name.strip_prefix(b".wh.") {
                opaque |= *name == *b".wh..wh..opq";
                if !name.starts_with(b".wh..wh.") {
                    hidden.push(Box::<[u8]>::from(rest));
                }
                continue;
            }
            match seen.get_mut(&name) {
                Some(Seen::File(found)) if found.open => {
                    let at = At::Name(Arc::clone(&fd), name.clone());
                    if at.stat()?.attr.kind != FileType::Directory {
                        found.open = false;
                        continue;
                    }
                    found.parts.push(part.clone());
                    found.redirect = redirect(&at)?.map(|path| (part.0, path));
                    found.open = found.redirect.is_none() && !is_opaque(&at)?;
                }
                Some(_) => {}
                None => {
                    let at = At::Name(Arc::clone(&fd), name.clone());
                    let found = first_seen(part, &at, kind)?;
                    seen.insert(name, found);
                }
            }
        }
        for name in hidden {
            match seen.get_mut(&name) {
                // In the same layer a file wins over its whiteout, but hides what is below.
                Some(Seen::File(found)) => found.open = false,
                Some(Seen::Gone) => {}
                None => {
                    seen.insert(name, Seen::Gone);
                }
            }
        }
        Ok(opaque)
    }

    fn child(
        &self,
        parent: NodeId,
        dir: &Merged,
        name: Box<[u8]>,
        found: FoundChild,
    ) -> Result<Child, Errno> {
        let first = found.parts.first().ok_or(Errno::EIO)?.clone();
        let layer = first.0;
        let at = At::Name(self.dir(&first)?, name.clone());
        let disk = at.stat()?;
        let device = self.devices[layer];
        let key = (device, disk.disk_ino);
        let several = disk.attr.nlink > 1 && disk.attr.kind != FileType::Directory;
        // Not in the condition: the lock would be held throughout.
        let known = lock(&self.nodes).hard_links.get(&key).copied();
        if several && let Some(node) = known {
            let merged = self.node(node)?;
            lock(&merged.names).push((parent, name.clone()));
            return Ok(Child {
                name,
                node,
                ino: merged.attr.ino,
                kind: merged.kind,
            });
        }
        let mut attr = self.attr_of(&at, &disk, device)?;
        let mut parts = found.parts;
        if attr.kind == FileType::Directory && disk.mount_root {
            // What is mounted there is not the layer's: it shows as an empty directory.
            parts.clear();
            attr.nlink = 2;
        } else if attr.kind == FileType::Directory {
            for part in &mut parts {
                part.1 = join(&part.1, &name);
            }
            if let Some((layer, path)) = &found.redirect {
                self.follow(dir, path, *layer, &mut parts)?;
            }
            if parts.len() > 1 {
                attr.nlink = 1;
            }
        } else {
            parts.truncate(1);
        }
        let kind = attr.kind;
        let merged = Merged {
            kind,
            attr,
            layer: u32::try_from(self.roots.len() - 1 - layer).unwrap_or(0),
            names: Mutex::new(vec![(parent, name.clone())]),
            parts,
            name: (kind != FileType::Directory).then(|| name.clone()),
            children: Mutex::new(None),
        };
        let mut nodes = lock(&self.nodes);
        nodes.all.push(Arc::new(merged));
        let node = NodeId(nodes.all.len() as u64);
        if several {
            nodes.hard_links.insert(key, node);
        }
        Ok(Child {
            name,
            node,
            ino: attr.ino,
            kind,
        })
    }

    /// Adds what a redirect names in the layers below `layer`.
    fn follow(
        &self,
        dir: &Merged,
        path: &[u8],
        layer: usize,
        parts: &mut Vec<Part>,
    ) -> Result<(), Errno> {
        let from_root = path.first() == Some(&b'/');
        let mut below = if from_root {
            self.below(layer)
        } else {
            dir.parts.clone()
        };
        below.retain(|part| part.0 > layer);
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            below = self.step(&below, name)?;
        }
        parts.extend(below);
        Ok(())
    }

    /// The roots of all layers below one.
    fn below(&self, layer: usize) -> Vec<Part> {
        (layer + 1..self.roots.len())
            .map(|number| (number, Arc::from(&b""[..])))
            .collect()
    }

    /// One component down in each of several parts of one directory, as deep as they continue
    /// each other.
    fn step(&self, dirs: &[Part], name: &[u8]) -> Result<Vec<Part>, Errno> {
        let mut next = Vec::new();
        for part in dirs {
            let at = At::Name(self.dir(part)?, name.into());
            match at.stat() {
                Ok(disk) if disk.attr.kind == FileType::Directory => {}
                Ok(_) => break,
                Err(Errno::ENOENT) => continue,
                Err(error) => return Err(error),
            }
            next.push((part.0, join(&part.1, name)));
            if let Some(further) = redirect(&at)? {
                // From here on the layers below are told by this layer's own redirect.
                let mut rest = if further.first() == Some(&b'/') {
                    self.below(part.0)
                } else {
                    dirs.to_vec()
                };
                rest.retain(|below| below.0 > part.0);
                for name in further
                    .split(|byte| *byte == b'/')
                    .filter(|name| !name.is_empty())
                {
                    rest = self.step(&rest, name)?;
                }
                next.extend(rest);
                break;
            }
            if is_opaque(&at)? {
                break;
            }
        }
        Ok(next)
    }
}

fn join(dir: &[u8], name: &[u8]) -> Arc<[u8]> {
    if dir.is_empty() {
        name.into()
    } else {
        [dir, b"/", name].concat().into()
    }
}

fn first_seen(part: &Part, at: &At, kind: rfs::FileType) -> Result<Seen, Errno> {
    if kind == rfs::FileType::CharacterDevice && at.stat()?.is_whiteout() {
        return Ok(Seen::Gone);
    }
    let mut found = FoundChild {
        parts: vec![part.clone()],
        open: false,
        redirect: None,
    };
    if kind == rfs::FileType::Directory || kind == rfs::FileType::Unknown {
        found.redirect = redirect(at)?.map(|path| (part.0, path));
        let is_dir =
            kind == rfs::FileType::Directory || at.stat()?.attr.kind == FileType::Directory;
        found.open = is_dir && found.redirect.is_none() && !is_opaque(at)?;
    }
    Ok(Seen::File(found))
}

#[derive(Debug)]
enum Seen {
    Gone,
    File(FoundChild),
}

#[derive(Debug)]
struct FoundChild {
    /// The directories that have it, uppermost first.
    parts: Vec<Part>,
    /// Whether layers further down may add to it.
    open: bool,
    /// Where it goes on below, and from which layer on.
    redirect: Option<(usize, Vec<u8>)>,
}

/// A small number for the device of each directory.
fn device_numbers(roots: &[Arc<OwnedFd>]) -> Vec<u64> {
    let mut known = Vec::new();
    let mut number = |fd: &Arc<OwnedFd>| {
        let device = rfs::fstat(fd).map_or(0, |st| st.st_dev);
        let found = known.iter().position(|seen| *seen == device);
        let index = found.unwrap_or_else(|| {
            known.push(device);
            known.len() - 1
        });
        // 1 is the upper directory's.
        match u64::try_from(index).unwrap_or(0) {
            0 => 0,
            more => more + 1,
        }
    };
    roots.iter().map(&mut number).collect()
}

impl Lower for DirLayers {
    fn attr(&self, node: NodeId) -> Result<Attr, Errno> {
        self.node(node).map(|merged| merged.attr)
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<NodeId>, Errno> {
        let merged = self.node(dir)?;
        let children = self.children(dir, &merged)?;
        Ok(children
            .binary_search_by(|child| (*child.name).cmp(name))
            .ok()
            .and_then(|index| children.get(index))
            .map(|child| child.node))
    }

    fn entries(
        &self,
        dir: NodeId,
        from: u64,
        each: &mut dyn FnMut(LowerEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let merged = self.node(dir)?;
        let children = self.children(dir, &merged)?;
        let start = usize::try_from(from)
            .unwrap_or(usize::MAX)
            .min(children.len());
        for (number, child) in (from + 1..).zip(&children[start..]) {
            let entry = LowerEntry {
                name: &child.name,
                node: child.node,
                ino: child.ino,
                kind: child.kind,
                next: number,
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let merged = self.node(node)?;
        if merged.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let at = self.disk(&merged)?;
        if at.stat()?.attr.kind == FileType::Symlink {
            return at.readlink();
        }
        let mut target = vec![0; 4096];
        let count = crate::fds::read_file(&at.open(false)?, 0, &mut target)?;
        target.truncate(count);
        Ok(target)
    }

    fn xattr_names(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        let merged = self.node(node)?;
        if merged.parts.is_empty() {
            return Ok(Vec::new());
        }
        let mut names = self.disk(&merged)?.xattr_names()?;
        names.retain(|name| !is_internal(name));
        Ok(names)
    }

    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let merged = self.node(node)?;
        if is_internal(name) || merged.parts.is_empty() {
            return Ok(None);
        }
        self.disk(&merged)?.xattr(name)
    }

    fn data(&self, node: NodeId) -> Result<Data, Errno> {
        let merged = self.node(node)?;
        if merged.kind != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        self.disk(&merged)?.open(false).map(Data::File)
    }

    fn names(&self, node: NodeId) -> Result<Vec<(NodeId, Vec<u8>)>, Errno> {
        let merged = self.node(node)?;
        let names = lock(&merged.names);
        Ok(names
            .iter()
            .map(|(dir, name)| (*dir, name.to_vec()))
            .collect())
    }

    fn layer(&self, node: NodeId) -> Result<u32, Errno> {
        self.node(node).map(|merged| merged.layer)
    }

    fn locator(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut at = node;
        while at != NodeId::ROOT {
            let (parent, name) = self.names(at)?.into_iter().next().ok_or(Errno::ESTALE)?;
            parts.push(name);
            at = parent;
        }
        parts.reverse();
        let path = [&b"/"[..], &parts.join(&b'/')].concat();
        if path.len() > LOCATOR_MAX {
            Err(Errno::ENAMETOOLONG)
        } else {
            Ok(path)
        }
    }

    fn locate(&self, locator: &[u8]) -> Result<Option<NodeId>, Errno> {
        let mut at = NodeId::ROOT;
        for part in locator
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            match self.lookup(at, part) {
                Ok(Some(node)) => at = node,
                Ok(None) | Err(Errno::ENOTDIR) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(at))
    }
}
