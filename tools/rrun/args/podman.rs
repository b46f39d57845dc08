//! Options of podman's, where Docker has none.

use std::path::PathBuf;

use clap::Args;

// Options of `run` and `create`.
#[derive(Debug, Default, Args)]
pub(crate) struct PodmanArgs {
    /// Write the process id of the container's monitor to a file at each start
    #[arg(long = "conmon-pidfile", value_name = "FILE")]
    pub(crate) conmon_pidfile: Option<PathBuf>,
    /// Write the process id of the container's process to a file at each start
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// What a service manager needs: always, true (where the command is one) or false
    #[arg(long, value_name = "WHEN")]
    pub(crate) systemd: Option<String>,
    /// Seconds after which it is killed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) timeout: u32,
    /// Take away a variable of the image or one that every container has
    #[arg(long, value_name = "NAME")]
    pub(crate) unsetenv: Vec<String>,
    /// Take all of these away
    #[arg(long = "unsetenv-all")]
    pub(crate) unsetenv_all: bool,
}

// What a process of `run` or `exec` gets of its caller.
#[derive(Debug, Args)]
pub(crate) struct InheritedArgs {
    /// Give it this many of the caller's file descriptors, from 3 on
    #[arg(
        long = "preserve-fds",
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(crate) preserve_fds: u32,
}
