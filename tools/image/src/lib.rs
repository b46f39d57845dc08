//! Images: registry, archives, import, export, commit, history.
//!
//! Nothing here prints, reads the environment or exits. Progress goes to a [`Progress`] the
//! caller gives; files of credentials and registries are named by the caller.
#![forbid(unsafe_code)]

pub mod archive;
pub mod change;
pub mod create;
mod error;
pub mod images;
mod layers;
mod parallel;
mod progress;
pub mod registry;
mod spec;
mod tarheader;
#[cfg(test)]
mod testing;
mod tree;

pub use error::{ExitClass, ImageError};
pub use progress::{Event, LayerState, Progress, Silent};
pub use spec::{Arch, Descriptor, ImageConfig, Index, Manifest, ManifestKind, PlatformSpec, media};
pub use tree::diff;
