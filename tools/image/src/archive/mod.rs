//! Images in files: docker-archive, OCI archive, OCI directory.

mod load;
mod save;
mod source;
mod write;

pub use load::{Loaded, load};
pub(crate) use save::to_path;
pub use save::{SaveFormat, save_to_path, save_to_stream};
pub use source::Input;
pub(crate) use source::spool;

#[cfg(test)]
mod tests;
