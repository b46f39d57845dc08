//! The union file system as an ordinary library: a read-only [`Lower`](rrun_core::Lower) tree
//! below, a directory on disk above, and the operations of a file system on the two.
//!
//! It knows neither FUSE nor the image store: it never fetches, prints or parses an image.
#![deny(unsafe_code)]

mod acl;
mod changes;
mod cursor;
mod dir;
mod error;
mod fds;
mod fill;
mod layers;
mod lookups;
mod meta;
mod node;
mod ops;
mod options;
mod sys;
mod types;
mod union;
mod upper;

pub use changes::Changed;
pub use dir::Listed;
pub use error::UnionError;
pub use layers::DirLayers;
pub use options::{
    AccessTimes, IdStore, IdView, IdWindow, Options, UpperMount, Writer, XattrDialect,
};
pub use types::{
    Caller, Entry, FlagRules, Ino, OnWrite, RenameMode, SeekTo, SetAttr, SetTime, SpaceInfo,
    SpaceMode, WriteWhere, XattrMode,
};
pub use union::Union;
