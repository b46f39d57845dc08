//! What the union remembers of a file that is, or was, in the upper directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rrun_core::{FileType, NodeId, Time};

use crate::fill::Fill;
use crate::meta::Virtual;

/// Locks, also after a thread died while holding it: every state is valid between statements.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that differs from the lower tree, or a directory in which something does.
///
/// Lock order: `copy_up` of one node, then `state` of directories in the order of their ids, then
/// `state` of one other file. No other lock of this crate is held while taking one of these.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) kind: FileType,
    /// The lower node whose identity this one has.
    pub(crate) lower: Option<NodeId>,
    /// `st_ino`; `None` means that of the upper file.
    pub(crate) ino: Option<u64>,
    /// Held while the file is brought into the upper directory.
    pub(crate) copy_up: Mutex<()>,
    pub(crate) state: Mutex<State>,
    /// Parent and name of a directory that is in the upper directory. Apart from `state`, so that
    /// a child's place is found with no state locked but the child's own; taken last.
    pub(crate) spot: Mutex<Option<Spot>>,
}

/// A directory's id and a name there.
pub(crate) type Spot = (u64, Box<[u8]>);

/// Where the file is.
#[derive(Debug, Clone)]
pub(crate) enum Where {
    /// Only in the lower tree.
    Lower,
    /// In the upper directory, under the first of its `links`.
    Upper,
    /// Without a name, kept by this descriptor.
    Pinned(Arc<File>),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) place: Where,
    /// Directory and name of each known name in the upper directory.
    pub(crate) links: Vec<(u64, Box<[u8]>)>,
    /// The last name is gone.
    pub(crate) unlinked: bool,
    /// Owner and mode when those on disk are not the true ones.
    pub(crate) pretend: Option<Virtual>,
    /// A sparse copy: what is still in the lower file.
    pub(crate) fill: Option<Arc<Fill>>,
    /// Whether the index holds a link to the upper file.
    pub(crate) indexed: bool,
    /// While held back writes arrive: how many, and the time of modification to keep, if it was
    /// just set.
    pub(crate) held: Option<(u32, Option<Time>)>,
    /// When the time of modification was last set, by the file's birth too: the kernel says nothing
    /// of a write that its coarse clock does not tell from that.
    pub(crate) dated: Option<Instant>,
    /// Whether the file may have `security.capability`; `None` when not yet known.
    pub(crate) capable: Option<bool>,
    /// `st_ino` of an upper file that took the place of another.
    pub(crate) kept_ino: Option<u64>,
    pub(crate) dir: Option<Box<Dir>>,
}

/// A directory's differences from the lower directory.
#[derive(Debug, Default)]
pub(crate) struct Dir {
    /// The lower directory it continues; `None` when opaque or new.
    pub(crate) lower: Option<NodeId>,
    /// Whether everything in the upper directory is in `slots`.
    pub(crate) loaded: bool,
    /// Every name in the upper directory.
    pub(crate) slots: HashMap<Box<[u8]>, Slot>,
    /// Names that are not in the lower directory, by the cookie that readdir gives them.
    pub(crate) order: BTreeMap<u64, Box<[u8]>>,
    pub(crate) next_cookie: u64,
    /// Subdirectories here minus subdirectories of the lower directory.
    pub(crate) subdirs: i64,
}

/// What the upper directory has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The lower file of this name is gone.
    Whiteout,
    /// A file; `cookie` is set when the lower directory has no such name.
    File {
        id: u64,
        kind: FileType,
        cookie: Option<u64>,
    },
}

impl State {
    pub(crate) fn new(place: Where) -> Self {
        Self {
            place,
            links: Vec::new(),
            unlinked: false,
            pretend: None,
            fill: None,
            indexed: false,
            held: None,
            dated: None,
            capable: None,
            kept_ino: None,
            dir: None,
        }
    }
}

impl Node {
    pub(crate) fn new(
        id: u64,
        kind: FileType,
        lower: Option<NodeId>,
        ino: Option<u64>,
        state: State,
    ) -> Self {
        let spot = match state.place {
            Where::Upper if kind == FileType::Directory => state.links.first().cloned(),
            Where::Upper | Where::Lower | Where::Pinned(_) => None,
        };
        Self {
            id,
            kind,
            lower,
            ino,
            copy_up: Mutex::new(()),
            state: Mutex::new(state),
            spot: Mutex::new(spot),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Dir {
    /// Puts a file under `name`; `in_lower` tells whether the lower directory has that name.
    pub(crate) fn put(&mut self, name: &[u8], id: u64, kind: FileType, in_lower: bool) {
        let old = self.slots.get(name).copied();
        let cookie = if in_lower {
            None
        } else if let Some(Slot::File {
            cookie: Some(cookie),
            ..
        }) = old
        {
            Some(cookie)
        } else {
            self.next_cookie += 1;
            self.order.insert(self.next_cookie, name.into());
            Some(self.next_cookie)
        };
        self.slots
            .insert(name.into(), Slot::File { id, kind, cookie });
    }

    /// Takes `name` out, leaving a whiteout if the lower directory has it.
    pub(crate) fn take(&mut self, name: &[u8], in_lower: bool) {
        if let Some(Slot::File {
            cookie: Some(cookie),
            ..
        }) = self.slots.remove(name)
        {
            self.order.remove(&cookie);
        }
        if in_lower {
            self.slots.insert(name.into(), Slot::Whiteout);
        }
    }
}

const SHARDS: usize = 64;

type Shard = Mutex<HashMap<u64, Arc<Node>>>;

/// All nodes that differ from the lower tree, by id.
#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[Shard]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        let number = usize::try_from(id % 64).unwrap_or(0);
        &self.shards[number]
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Node>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    /// Returns the node of `id`, made by `make` if there is none.
    pub(crate) fn get_or(&self, id: u64, make: impl FnOnce() -> Node) -> Arc<Node> {
        Arc::clone(
            lock(self.shard(id))
                .entry(id)
                .or_insert_with(|| Arc::new(make())),
        )
    }

    pub(crate) fn remove(&self, id: u64) {
        lock(self.shard(id)).remove(&id);
    }
}
