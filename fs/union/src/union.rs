//! The union itself: opening, finding nodes, attributes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rrun_core::{Attr, Errno, FileType, Lower, NodeId};

use crate::error::UnionError;
use crate::fds::{DirFds, Fds};
use crate::lookups::Lookups;
use crate::meta::Virtual;
use crate::node::{Dir, Node, State, Table, Where, lock};
use crate::options::{IdStore, Options};
use crate::types::{Entry, Ino};
use crate::upper::{At, Upper};

/// A read-only lower tree with a writable directory above it.
///
/// All operations may be called from any thread. Names are single components; the caller checks
/// permissions (the kernel does, with `default_permissions`).
#[derive(Debug)]
pub struct Union {
    pub(crate) lower: Arc<dyn Lower>,
    pub(crate) upper: Option<Upper>,
    pub(crate) options: Options,
    pub(crate) nodes: Table,
    pub(crate) lookups: Lookups,
    pub(crate) fds: Fds,
    pub(crate) dir_fds: DirFds,
    next_id: AtomicU64,
    /// Held by a rename that moves a directory, so that no two make a loop.
    pub(crate) tree_moves: Mutex<()>,
    /// The caller holds writes back, and keeps the times of modification.
    pub(crate) held_back: AtomicBool,
}

/// A node as found: with state of its own, or exactly as the lower tree has it.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Own(Arc<Node>),
    Plain(NodeId),
}

impl Found {
    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Own(node) => node.id,
            Self::Plain(node) => node.0,
        }
    }
}

impl Union {
    /// Opens a union of `lower` and, unless `upper` is `None`, the directory `upper.0` with the
    /// work directory `upper.1`, both existing and on one file system.
    ///
    /// What a killed process left in the work directory is removed, unless read-only.
    ///
    /// # Errors
    ///
    /// When a directory cannot be used, or another live process writes to it.
    pub fn open(
        lower: Arc<dyn Lower>,
        upper: Option<(&Path, &Path)>,
        options: Options,
    ) -> Result<Self, UnionError> {
        let path = upper.map(|(dir, _)| dir.to_owned());
        let upper = upper
            .map(|(dir, work)| Upper::open(dir, work, &options))
            .transpose()?;
        let root_dir = Dir {
            lower: Some(NodeId::ROOT),
            ..Dir::default()
        };
        let mut root = State::new(if upper.is_some() {
            Where::Upper
        } else {
            Where::Lower
        });
        root.dir = Some(Box::new(root_dir));
        let union = Self {
            lower,
            upper,
            options,
            nodes: Table::new(),
            lookups: Lookups::new(),
            fds: Fds::new(),
            dir_fds: DirFds::new(),
            next_id: AtomicU64::new(NodeId::LIMIT),
            tree_moves: Mutex::new(()),
            held_back: AtomicBool::new(false),
        };
        union.start(root).map_err(|errno| UnionError::Directory {
            action: "read",
            path: path.unwrap_or_default(),
            errno,
        })?;
        Ok(union)
    }

    fn start(&self, mut root: State) -> Result<(), Errno> {
        let attr = self.lower.attr(NodeId::ROOT)?;
        if let Some(upper) = &self.upper {
            let at = root_at(upper);
            root.pretend = self.read_pretend(&at, FileType::Directory)?;
            self.dress_root(upper, &mut root, &attr)?;
        }
        let ino = attr.ino;
        self.nodes.get_or(Ino::ROOT.0, || {
            Node::new(
                Ino::ROOT.0,
                FileType::Directory,
                Some(NodeId::ROOT),
                Some(ino),
                root,
            )
        });
        self.load_index()
    }

    /// The root has no copy-up of its own: an unmarked upper directory takes the lower root's
    /// attributes when it is first used.
    fn dress_root(&self, upper: &Upper, root: &mut State, attr: &Attr) -> Result<(), Errno> {
        let at = root_at(upper);
        if self.options.read_only || upper.marks.origin(&at)?.is_some() {
            return Ok(());
        }
        if !self.options.dress_root {
            return Ok(());
        }
        let what = Virtual::of(attr);
        upper.dress(&at, &what)?;
        match self.options.ids {
            crate::IdStore::Real => at.chmod(what.perm)?,
            crate::IdStore::Virtual => at.chmod(what.disk_perm())?,
        }
        root.pretend = self.pretend(&what);
        self.copy_attributes(upper, NodeId::ROOT, attr, &at, root)?;
        upper.marks.set_origin(&at, attr.ino, b"/")
    }

    pub(crate) fn upper(&self) -> Result<&Upper, Errno> {
        if self.options.read_only {
            return Err(Errno::EROFS);
        }
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Finds a node by number.
    pub(crate) fn find(&self, ino: Ino) -> Result<Found, Errno> {
        if let Some(node) = self.nodes.get(ino.0) {
            return Ok(Found::Own(node));
        }
        if ino.0 == 0 || ino.0 >= NodeId::LIMIT {
            return Err(Errno::ESTALE);
        }
        Ok(Found::Plain(NodeId(ino.0)))
    }

    /// Gives a node state of its own.
    pub(crate) fn own(&self, found: &Found) -> Result<Arc<Node>, Errno> {
        let lower = match found {
            Found::Own(node) => return Ok(Arc::clone(node)),
            Found::Plain(lower) => *lower,
        };
        let attr = self.lower.attr(lower)?;
        let mut state = State::new(Where::Lower);
        for (parent, name) in self.lower.names(lower)? {
            state.links.push((parent.0, name.into()));
        }
        if attr.kind == FileType::Directory {
            state.dir = Some(Box::new(Dir {
                lower: Some(lower),
                loaded: true,
                ..Dir::default()
            }));
        }
        let node = || Node::new(lower.0, attr.kind, Some(lower), Some(attr.ino), state);
        Ok(self.nodes.get_or(lower.0, node))
    }

    /// How the object of a node that is in the upper directory is reached.
    pub(crate) fn at(&self, state: &State) -> Result<At, Errno> {
        match &state.place {
            Where::Lower => Err(Errno::EIO),
            Where::Pinned(file) => Ok(At::Fd(Arc::clone(file))),
            Where::Upper => {
                let Some((parent, name)) = state.links.first() else {
                    return self.upper.as_ref().map(root_at).ok_or(Errno::EIO);
                };
                let parent = self.nodes.get(*parent).ok_or(Errno::ESTALE)?;
                Ok(At::Name(self.dir_fd(&parent)?, name.clone()))
            }
        }
    }

    /// The open upper directory of a directory node that is in the upper directory.
    pub(crate) fn dir_fd(&self, node: &Node) -> Result<Arc<OwnedFd>, Errno> {
        if node.id == Ino::ROOT.0 {
            return self
                .upper
                .as_ref()
                .map(|upper| Arc::clone(&upper.root))
                .ok_or(Errno::EIO);
        }
        if let Some(fd) = self.dir_fds.get(node.id) {
            return Ok(fd);
        }
        let _unmoved = self.dir_fds.no_moves();
        self.reopen_dir(node)
    }

    /// Opens a directory along its path, as far up as none is open; no directory moves meanwhile.
    fn reopen_dir(&self, node: &Node) -> Result<Arc<OwnedFd>, Errno> {
        let (parent, name) = lock(&node.spot).clone().ok_or(Errno::ESTALE)?;
        let parent_fd = match (parent == Ino::ROOT.0, &self.upper) {
            (true, Some(upper)) => Arc::clone(&upper.root),
            (true, None) => return Err(Errno::EIO),
            (false, _) => match self.dir_fds.get(parent) {
                Some(fd) => fd,
                None => self.reopen_dir(&*self.nodes.get(parent).ok_or(Errno::ESTALE)?)?,
            },
        };
        let fd = match Upper::open_dir(parent_fd.as_fd(), &name) {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.dir_fds.clear();
                self.fds.clear();
                Upper::open_dir(parent_fd.as_fd(), &name)?
            }
            opened => opened?,
        };
        let fd = Arc::new(fd);
        self.dir_fds.put(node.id, Arc::clone(&fd));
        Ok(fd)
    }

    /// The same of a directory that may have lost its name.
    pub(crate) fn dir_fd_in(&self, node: &Node, state: &State) -> Result<Arc<OwnedFd>, Errno> {
        match &state.place {
            Where::Pinned(file) => Ok(Arc::new(file.try_clone()?.into())),
            Where::Lower | Where::Upper => self.dir_fd(node),
        }
    }

    /// True attributes of a node.
    pub(crate) fn true_attr(&self, found: &Found) -> Result<Attr, Errno> {
        match found {
            Found::Plain(lower) => self.lower.attr(*lower),
            Found::Own(node) => {
                if node.kind == FileType::Directory {
                    self.load(node)?;
                }
                self.attr_of(node, &node.lock())
            }
        }
    }

    /// True attributes of a node whose state is locked.
    pub(crate) fn attr_of(&self, node: &Node, state: &State) -> Result<Attr, Errno> {
        let mut attr = match state.place {
            Where::Lower => self.lower.attr(node.lower.ok_or(Errno::EIO)?)?,
            Where::Upper | Where::Pinned(_) => {
                let mut attr = self.at(state)?.stat()?.attr;
                if let Some(pretend) = &state.pretend {
                    pretend.apply(&mut attr);
                    // a type never changes while the kernel knows the file
                    attr.kind = node.kind;
                } else if self.options.ids == IdStore::Virtual {
                    // What is not written down is plain: the container's root owns it.
                    (attr.uid, attr.gid) = (0, 0);
                }
                attr.nlink -= u32::from(state.indexed).min(attr.nlink);
                attr
            }
        };
        if let Some(ino) = node.ino.or(state.kept_ino) {
            attr.ino = ino;
        }
        if let Some(dir) = &state.dir
            && let Some(lower) = dir.lower
        {
            let below = self.lower.attr(lower)?.nlink;
            // 1 means that the lower tree does not count subdirectories.
            attr.nlink = if below < 2 {
                1
            } else {
                u32::try_from((i64::from(below) + dir.subdirs).max(2)).unwrap_or(u32::MAX)
            };
        }
        if state.unlinked {
            attr.nlink = 0;
        }
        Ok(attr)
    }

    /// Attributes as the viewer sees them.
    pub(crate) fn shown(&self, mut attr: Attr) -> Attr {
        (attr.uid, attr.gid) = self.options.view.show(attr.uid, attr.gid);
        attr
    }

    pub(crate) fn entry(&self, found: &Found) -> Result<Entry, Errno> {
        let attr = self.true_attr(found)?;
        Ok(Entry {
            ino: Ino(found.id()),
            attr: self.shown(attr),
        })
    }

    /// Counts one reference that the answer to a lookup gives away.
    pub(crate) fn refer(&self, id: u64) {
        self.lookups.add(lookup_key(id));
    }

    /// Whether the kernel knows a node.
    pub(crate) fn held(&self, id: u64) -> bool {
        self.lookups.held(lookup_key(id))
    }

    /// Takes back `count` references; a node without a name goes with the last one.
    pub fn forget(&self, ino: Ino, count: u64) {
        if !self.lookups.forget(lookup_key(ino.0), count) || ino == Ino::ROOT {
            return;
        }
        let Some(node) = self.nodes.get(ino.0) else {
            return;
        };
        if node.lock().unlinked {
            self.fds.remove(ino.0);
            self.nodes.remove(ino.0);
        }
    }
}

/// New nodes are counted above the lower ones' usual numbers.
fn lookup_key(id: u64) -> u64 {
    const NEW_NODES_FROM: u64 = 1 << 25;
    if id < NodeId::LIMIT {
        id
    } else {
        NEW_NODES_FROM + (id - NodeId::LIMIT)
    }
}

pub(crate) fn root_at(upper: &Upper) -> At {
    At::Name(Arc::clone(&upper.root), b".".as_slice().into())
}
