//! What the union asks of the read-only tree it stands on.

use std::fmt::Debug;
use std::fs::File;

use crate::{Attr, Errno, FileType};

/// A node of a [`Lower`] tree. The root is [`NodeId::ROOT`]; 0 is never a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root directory of every tree.
    pub const ROOT: Self = Self(1);
    /// Node ids stay below this, so that the union can number its own nodes above.
    pub const LIMIT: u64 = 1 << 48;
}

/// One name in a directory of a [`Lower`] tree.
#[derive(Debug, Clone, Copy)]
pub struct LowerEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub node: NodeId,
    /// `st_ino` of that node.
    pub ino: u64,
    /// Its type.
    pub kind: FileType,
    /// The position to go on from after this entry; above 0, at most `u32::MAX`.
    pub next: u64,
}

/// Where the contents of a regular file are.
#[derive(Debug)]
pub enum Data {
    /// A file opened for reading whose bytes `0..size` are the contents; who reads it notices when
    /// some of them are missing.
    File(File),
    /// The contents themselves.
    Bytes(Box<[u8]>),
}

/// A read-only tree: an image's base, or directories merged on demand.
///
/// The tree does not change while it is in use: the same question has the same answer for as
/// long as the process lives. All names of a hard-link group lead to one node. Directories have
/// one parent. Every method may be called from any thread.
///
/// All methods answer `EIO` for a corrupt record and `ESTALE` for a node never handed out.
pub trait Lower: Send + Sync + Debug {
    /// The attributes of a node. `nlink` of a directory is 2 plus its subdirectories.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn attr(&self, node: NodeId) -> Result<Attr, Errno>;

    /// The node that `name` names in `dir`, if any.
    ///
    /// # Errors
    ///
    /// `ENOTDIR` when `dir` is not a directory.
    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<NodeId>, Errno>;

    /// Calls `each` for the entries of `dir` (without `.` and `..`), from position `from` on
    /// (0: from the start), until it returns false.
    ///
    /// # Errors
    ///
    /// `ENOTDIR` when `dir` is not a directory.
    fn entries(
        &self,
        dir: NodeId,
        from: u64,
        each: &mut dyn FnMut(LowerEntry<'_>) -> bool,
    ) -> Result<(), Errno>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the node is not a symbolic link.
    fn readlink(&self, node: NodeId) -> Result<Vec<u8>, Errno>;

    /// The names of a node's extended attributes.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn xattr_names(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno>;

    /// The value of one extended attribute, if it is set.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno>;

    /// Whether any node has extended attributes; false lets the union stop asking.
    fn has_xattrs(&self) -> bool {
        true
    }

    /// The contents of a regular file.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the node is not a regular file; `EIO` when the object is missing.
    fn data(&self, node: NodeId) -> Result<Data, Errno>;

    /// Every name of a node: its parent directory and the name there. The root has none.
    ///
    /// A tree merged on demand may know only the names it was asked for.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn names(&self, node: NodeId) -> Result<Vec<(NodeId, Vec<u8>)>, Errno>;

    /// The number of the layer the node came from, 0 lowest.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn layer(&self, node: NodeId) -> Result<u32, Errno>;

    /// Bytes that find the node again in a later process: at most 512.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` when the node has no locator that short.
    fn locator(&self, node: NodeId) -> Result<Vec<u8>, Errno>;

    /// The node a locator names; `None` when it names none of this tree's.
    ///
    /// # Errors
    ///
    /// See the trait.
    fn locate(&self, locator: &[u8]) -> Result<Option<NodeId>, Errno>;
}
