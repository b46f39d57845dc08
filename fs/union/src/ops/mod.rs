//! The operations, one file per kind.

mod attributes;
mod copy_up;
mod create;
mod data;
mod flags;
mod remove;
mod rename;
mod xattr;
