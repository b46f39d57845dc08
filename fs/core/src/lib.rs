//! Values every rrun crate shares: names, digests, attributes, changes. No I/O, no unsafe.
#![forbid(unsafe_code)]

mod attr;
mod change;
mod digest;
mod errno;
mod lower;
mod name;
mod reference;

pub use attr::{Attr, Device, FileType, Time};
pub use change::{Change, ChangeKind};
pub use digest::{Digest, ParseDigestError};
pub use errno::Errno;
pub use lower::{Data, Lower, LowerEntry, NodeId};
pub use name::{NAME_MAX, Name, NameError};
pub use reference::{DEFAULT_DOMAIN, DEFAULT_TAG, ImageRef, ParseRefError};
