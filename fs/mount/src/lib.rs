//! Serves a [`Union`](rrun_union::Union) over the FUSE protocol: decode, call the union, reply.
//! Decides nothing.
//!
//! The transport is our own: the `fuser` crate lacks `O_TMPFILE`, statx, syncfs and control over
//! how a worker waits, see docs/decisions.md.

mod dispatch;
mod flags;
mod follow;
mod lead;
mod mountpoint;
mod negotiate;
mod options;
mod passthrough;
mod ring;
mod seek;
mod server;
mod splice;
mod stats;
mod sys;
mod wire;

pub use mountpoint::{Mountpoint, mount};
pub use options::{IoUring, OpenMode, ServeOptions};
pub use ring::{IoUringError, io_uring_available};
pub use server::{Connection, ServeError, serve};
pub use stats::{OpCount, Stats};
