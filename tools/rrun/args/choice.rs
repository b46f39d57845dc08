//! Which containers a command is for, besides those it names.
//!
//! Docker has none of these; users of podman type them, and they contradict nothing of Docker's.

use std::path::PathBuf;

use clap::Args;

// Containers by name, or by what they have in common.
#[derive(Debug, Default, Args)]
pub(crate) struct Choice {
    /// Containers by name or id
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "cidfile", "choose"])]
    pub(crate) containers: Vec<String>,
    /// All containers the command makes sense for
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Those whose id stands in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Vec<PathBuf>,
    /// Only containers that match, as with ps
    #[arg(id = "choose", long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Nothing is wrong with a container that does not exist
    #[arg(short = 'i', long)]
    pub(crate) ignore: bool,
}
