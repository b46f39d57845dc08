//! What goes in and out of the union's operations.

use rrun_core::{Attr, Time};

/// The union's number for a file or directory; constant while the union is open.
///
/// It is not `st_ino`, which [`Attr::ino`] holds and which outlives the union.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// Who asks; ids are those of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Its file mode creation mask, to be applied by us when no default ACL decides.
    pub umask: u32,
}

/// An answer that names a file: its number and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The number.
    pub ino: Ino,
    /// The attributes as the viewer sees them.
    pub attr: Attr,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    At(Time),
}

/// Attributes to change; `None` keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits, 07777.
    pub perm: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Whether setuid and setgid must go, as for a truncation by one without `CAP_FSETID`.
    pub effect: OnWrite,
}

/// How a rename treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `EEXIST`.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// Whether an extended attribute may or must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Creates or replaces.
    Set,
    /// `EEXIST` when it exists.
    Create,
    /// `ENODATA` when it does not.
    Replace,
}

/// Where one who opens a file is going to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteWhere {
    /// Anywhere.
    Anywhere,
    /// Only at the end (`O_APPEND`).
    AtEnd,
}

/// Which inode flags may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagRules {
    /// All.
    All,
    /// None that protects a file from being written, because opens are not seen, or writes come
    /// late.
    Harmless,
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekTo {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

/// What `fallocate` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceMode {
    /// Reserves space, growing the file.
    Reserve,
    /// Reserves space, keeping the size.
    ReserveKeepSize,
    /// Deallocates, keeping the size.
    PunchHole,
    /// Zeroes, growing the file.
    Zero,
    /// Zeroes, keeping the size.
    ZeroKeepSize,
    /// Removes the range.
    Collapse,
    /// Inserts a hole.
    Insert,
}

/// What a write does to setuid and setgid bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnWrite {
    /// Keeps them: the writer may.
    #[default]
    Keep,
    /// Drops them as the kernel does for one of this group without `CAP_FSETID`.
    DropPrivileges {
        /// The writer's group.
        gid: u32,
    },
}

/// The answer to statfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceInfo {
    /// Unit of the block counts, in bytes.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for an ordinary user.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}
