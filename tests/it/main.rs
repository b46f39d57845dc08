//! The command line, from outside: every test runs the real binary.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why it skips"
)]

mod support;

mod choice;
mod cli_args;
mod crash;
mod hostile;
mod hybrid;
mod images;
mod midstart;
mod network;
mod oci;
mod option_table;
mod overlayfs;
mod peers;
mod podman;
mod registry;
mod run;
mod security;
mod squash;
mod stress;
mod terminal;
mod tmux;
mod truth;
mod walk;
mod walk_limits;
mod walk_options;
mod walk_spaces;
mod walk_volumes;
