//! A base as the union sees it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::Mmap;
use rrun_core::{Attr, Data, Device, Digest, Errno, FileType, Lower, LowerEntry, NodeId, Time};

use super::format::{FLAG_NO_MARKS, FLAG_XATTRS, Node, View};
use crate::layer::{Xattrs, xattr_pairs};
use crate::store::open_object_at;

/// What directories say their size is: that of one block, as on most file systems.
const DIR_SIZE: u64 = 4096;

/// The merged, immutable tree of an image; cheap to clone.
#[derive(Debug, Clone)]
pub struct Base {
    map: Arc<Mmap>,
    view: View,
    objects: Arc<OwnedFd>,
}

impl Base {
    pub(super) fn new(map: Arc<Mmap>, view: View, objects: Arc<OwnedFd>) -> Self {
        Self { map, view, objects }
    }

    /// The chainID of the layers it was merged from.
    #[must_use]
    pub fn chain_id(&self) -> Digest {
        self.view.chain
    }

    /// The diffIDs of those layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> Vec<Digest> {
        self.view.layers(&self.map)
    }

    /// The digests of all objects, each once.
    #[must_use]
    pub fn objects(&self) -> Vec<Digest> {
        self.view.objects(&self.map)
    }

    /// Number of nodes; they are numbered from 1 to this.
    #[must_use]
    pub fn len(&self) -> usize {
        self.view.node_count()
    }

    /// Whether there is not even a root: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the base in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.map.len()
    }

    /// The object a regular file's contents are, for sharing and linking; `None` when they are
    /// in the base itself.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the node is not a regular file.
    pub fn object(&self, node: NodeId) -> Result<Option<Digest>, Errno> {
        let record = self.node(node)?;
        if kind(&record)? != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        if record.inline {
            return Ok(None);
        }
        self.view
            .object(&self.map, record.content)
            .map(Some)
            .ok_or(Errno::EIO)
    }

    /// Whether the kernel's overlayfs, with this tree below it, shows it as it is: it has nothing
    /// that would be taken for a whiteout or another mark.
    #[must_use]
    pub fn has_no_overlay_marks(&self) -> bool {
        self.view.flags & FLAG_NO_MARKS != 0
    }

    /// Every pair of uid and gid that owns something, each once.
    #[must_use]
    pub fn owners(&self) -> Vec<(u32, u32)> {
        self.view.owners(&self.map)
    }

    fn node(&self, node: NodeId) -> Result<Node, Errno> {
        let number = u32::try_from(node.0).map_err(|_| Errno::ESTALE)?;
        self.view.node(&self.map, number).ok_or(Errno::ESTALE)
    }

    /// The number of entries of a directory and the first of them.
    fn dir(&self, node: NodeId) -> Result<(u32, u32), Errno> {
        let record = self.node(node)?;
        if kind(&record)? != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (count, first) = record.halves();
        first.checked_add(count).ok_or(Errno::EIO)?;
        Ok((count, first))
    }

    fn entry(&self, number: u32) -> Result<(&[u8], u32), Errno> {
        self.view.entry(&self.map, number).ok_or(Errno::EIO)
    }

    fn xattrs(&self, node: NodeId) -> Result<Xattrs<'_>, Errno> {
        let Some(offset) = self.node(node)?.xattrs.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let bytes = self.view.xattrs(&self.map, offset).ok_or(Errno::EIO)?;
        xattr_pairs(bytes).ok_or(Errno::EIO)
    }

    /// The first of the extra names of `node`, which are sorted by node.
    fn first_link(&self, node: u32) -> Result<usize, Errno> {
        let (mut low, mut high) = (0, self.view.link_count());
        while low < high {
            let middle = low.midpoint(high);
            let (owner, _, _) = self.view.link(&self.map, middle).ok_or(Errno::EIO)?;
            if owner < node {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

fn kind(node: &Node) -> Result<FileType, Errno> {
    FileType::from_mode(node.mode).ok_or(Errno::EIO)
}

impl Lower for Base {
    fn attr(&self, node: NodeId) -> Result<Attr, Errno> {
        let record = self.node(node)?;
        let kind = kind(&record)?;
        let (uid, gid) = self.view.owner(&self.map, record.owner).ok_or(Errno::EIO)?;
        if record.nanos >= 1_000_000_000 {
            return Err(Errno::EIO);
        }
        let time = Time {
            secs: record.secs,
            nanos: record.nanos,
        };
        let size = match kind {
            FileType::Regular | FileType::Symlink => record.size,
            FileType::Directory => DIR_SIZE,
            FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => 0,
        };
        let (high, low) = record.halves();
        let rdev = if kind.is_device() {
            Device {
                major: high,
                minor: low,
            }
        } else {
            Device::default()
        };
        Ok(Attr {
            ino: node.0,
            kind,
            // Archives say what they like; on Linux a symbolic link always has all bits.
            perm: if kind == FileType::Symlink {
                0o777
            } else {
                record.mode & 0o7777
            },
            uid,
            gid,
            nlink: record.nlink,
            rdev,
            size,
            blocks: if kind == FileType::Symlink {
                0
            } else {
                size.div_ceil(512)
            },
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        })
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<NodeId>, Errno> {
        let (count, first) = self.dir(dir)?;
        let (mut low, mut high) = (first, first + count);
        while low < high {
            let middle = low.midpoint(high);
            let (there, node) = self.entry(middle)?;
            match there.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(NodeId(u64::from(node)))),
            }
        }
        Ok(None)
    }

    fn entries(
        &self,
        dir: NodeId,
        from: u64,
        each: &mut dyn FnMut(LowerEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let (count, first) = self.dir(dir)?;
        let Ok(from) = u32::try_from(from) else {
            return Ok(());
        };
        for position in from..count {
            let (name, number) = self.entry(first + position)?;
            let record = self.view.node(&self.map, number).ok_or(Errno::EIO)?;
            let entry = LowerEntry {
                name,
                node: NodeId(u64::from(number)),
                ino: u64::from(number),
                kind: kind(&record)?,
                next: u64::from(position) + 1,
            };
            if !each(entry) {
                break;
            }
        }
        Ok(())
    }

    fn readlink(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let record = self.node(node)?;
        if kind(&record)? != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = self.view.arena(&self.map, record.content, record.size);
        target.map(<[u8]>::to_vec).ok_or(Errno::EIO)
    }

    fn xattr_names(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self
            .xattrs(node)?
            .into_iter()
            .map(|(name, _)| name.to_vec())
            .collect())
    }

    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let pairs = self.xattrs(node)?;
        Ok(pairs
            .into_iter()
            .find(|(have, _)| *have == name)
            .map(|(_, value)| value.to_vec()))
    }

    fn has_xattrs(&self) -> bool {
        self.view.flags & FLAG_XATTRS != 0
    }

    fn data(&self, node: NodeId) -> Result<Data, Errno> {
        let record = self.node(node)?;
        let Some(digest) = self.object(node)? else {
            let bytes = self.view.arena(&self.map, record.content, record.size);
            return bytes
                .map(|bytes| Data::Bytes(bytes.into()))
                .ok_or(Errno::EIO);
        };
        let file = open_object_at(&self.objects, &digest).map_err(|errno| match errno {
            rustix::io::Errno::NOENT => Errno::EIO,
            other => Errno::from_raw(other.raw_os_error()),
        })?;
        Ok(Data::File(file))
    }

    fn names(&self, node: NodeId) -> Result<Vec<(NodeId, Vec<u8>)>, Errno> {
        let record = self.node(node)?;
        if node == NodeId::ROOT {
            return Ok(Vec::new());
        }
        let (name, _) = self.entry(record.entry)?;
        let mut names = vec![(NodeId(u64::from(record.parent)), name.to_vec())];
        if kind(&record)? == FileType::Directory || record.nlink < 2 {
            return Ok(names);
        }
        let number = u32::try_from(node.0).map_err(|_| Errno::ESTALE)?;
        for at in self.first_link(number)?..self.view.link_count() {
            let (owner, parent, entry) = self.view.link(&self.map, at).ok_or(Errno::EIO)?;
            if owner != number {
                break;
            }
            names.push((NodeId(u64::from(parent)), self.entry(entry)?.0.to_vec()));
        }
        Ok(names)
    }

    fn layer(&self, node: NodeId) -> Result<u32, Errno> {
        Ok(self.node(node)?.layer)
    }

    fn locator(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        self.node(node)?;
        Ok(node.0.to_string().into_bytes())
    }

    fn locate(&self, locator: &[u8]) -> Result<Option<NodeId>, Errno> {
        let text = std::str::from_utf8(locator).ok();
        let number = text.and_then(|text| text.parse::<u32>().ok());
        let known = number.filter(|number| self.view.node(&self.map, *number).is_some());
        Ok(known.map(|number| NodeId(u64::from(number))))
    }
}
