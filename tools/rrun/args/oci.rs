//! Arguments of the OCI runtime: `rrun oci`, or `rrun-oci`.
//!
//! A parser of its own, as engines start it for every container and pay for each option defined.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// The OCI runtime: containers from bundles, as podman and containerd use it
#[derive(Debug, Parser)]
#[command(
    name = "rrun oci",
    about = "The OCI runtime: containers from bundles, as podman and containerd use it",
    disable_version_flag = true,
    subcommand_required = false,
    arg_required_else_help = true
)]
pub(crate) struct OciArgs {
    /// Directory of the containers' states
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// File that errors are also written to
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Form of the log: text or json
    #[arg(long = "log-format", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: String,
    /// Level of messages
    #[arg(long = "log-level", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Who makes control groups; always this program, through the file system
    #[arg(long = "cgroup-manager", value_name = "MANAGER")]
    pub(crate) cgroup_manager: Option<String>,
    /// Control groups are named as systemd names them
    #[arg(long = "systemd-cgroup")]
    pub(crate) systemd_cgroup: bool,
    /// Accepted for compatibility: found out by itself
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    pub(crate) rootless: Option<Option<String>>,
    /// Say more
    #[arg(long)]
    pub(crate) debug: bool,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    pub(crate) version: bool,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Option<OciCommand>,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum OciCommand {
    /// Create a container; its process waits to be started
    Create(OciCreateArgs),
    /// Start the process of a created container
    Start(OciIdArgs),
    /// Create and start a container, and wait for its end
    Run(OciRunArgs),
    /// Print the state of a container
    State(OciIdArgs),
    /// Send a signal to a container
    Kill(OciKillArgs),
    /// Remove a container
    Delete(OciDeleteArgs),
    /// Run a further process in a container
    Exec(Box<OciExecArgs>),
    /// List the processes of a container
    Ps(OciPsArgs),
    /// List containers
    List(OciListArgs),
    /// Freeze the processes of a container
    Pause(OciIdArgs),
    /// Let the processes of a frozen container go on
    Resume(OciIdArgs),
    /// Change the bounds of a container
    Update(Box<OciUpdateArgs>),
    /// Print what this runtime can do
    Features,
    /// Write a configuration to start from
    Spec(OciSpecArgs),
}

/// How a container is made.
#[derive(Debug, Args)]
pub(crate) struct OciCreateArgs {
    /// Directory of the bundle
    #[arg(short = 'b', long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Configuration, when it is not config.json of the bundle
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Socket that gets the terminal
    #[arg(long = "console-socket", value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File that gets the process's id
    #[arg(long = "pid-file", value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Move the root instead of a pivot, as on an initial ramdisk
    #[arg(long = "no-pivot")]
    pub(crate) no_pivot: bool,
    /// Accepted for compatibility: no session keyring is made
    #[arg(long = "no-new-keyring")]
    pub(crate) no_new_keyring: bool,
    /// Accepted for compatibility: nothing is reaped that is not the container's
    #[arg(long = "no-subreaper")]
    pub(crate) no_subreaper: bool,
    /// Descriptors from 3 up that the process inherits
    #[arg(long = "preserve-fds", value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// How a container is made and run.
#[derive(Debug, Args)]
pub(crate) struct OciRunArgs {
    #[command(flatten)]
    pub(crate) create: OciCreateArgs,
    /// Return once it runs
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// Keep the container when its process ended
    #[arg(long)]
    pub(crate) keep: bool,
}

/// One container.
#[derive(Debug, Args)]
pub(crate) struct OciIdArgs {
    /// Accepted for compatibility: everything is shown
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// A signal for a container.
#[derive(Debug, Args)]
pub(crate) struct OciKillArgs {
    /// To all its processes
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Name or number
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    pub(crate) signal: String,
}

/// A container to remove.
#[derive(Debug, Args)]
pub(crate) struct OciDeleteArgs {
    /// Also when it runs, is damaged or is not there
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// The name is a pattern: `*` stands for any text
    #[arg(long)]
    pub(crate) regex: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// A further process.
#[derive(Debug, Args)]
pub(crate) struct OciExecArgs {
    /// File that describes the process
    #[arg(short = 'p', long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Environment variable
    #[arg(short = 'e', long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub(crate) tty: bool,
    /// User and group id
    #[arg(short = 'u', long, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// Supplementary group id
    #[arg(short = 'g', long = "additional-gids", value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// Capability to add
    #[arg(short = 'c', long, value_name = "CAP")]
    pub(crate) cap: Vec<String>,
    /// Forbid gaining privileges
    #[arg(long = "no-new-privs")]
    pub(crate) no_new_privs: bool,
    /// `AppArmor` profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// `SELinux` label
    #[arg(long = "process-label", value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Also in a frozen container: the process waits until it goes on
    #[arg(long = "ignore-paused")]
    pub(crate) ignore_paused: bool,
    /// Control group below the container's
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// Return once it runs
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// File that gets the process's id
    #[arg(long = "pid-file", value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that gets the terminal
    #[arg(long = "console-socket", value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Descriptors from 3 up that the process inherits
    #[arg(long = "preserve-fds", value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
    /// Accepted for compatibility: nothing is reaped that is not the container's
    #[arg(long = "no-subreaper")]
    pub(crate) no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Program and arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<String>,
}

/// A list of processes.
#[derive(Debug, Args)]
pub(crate) struct OciPsArgs {
    /// Form: table or json
    #[arg(short = 'f', long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Accepted for compatibility
    #[arg(
        value_name = "OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) options: Vec<String>,
}

/// A list of containers.
#[derive(Debug, Args)]
pub(crate) struct OciListArgs {
    /// Only names
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Form: table or json
    #[arg(short = 'f', long, value_name = "FORMAT", default_value = "table")]
    pub(crate) format: String,
}

/// New bounds.
#[derive(Debug, Args)]
pub(crate) struct OciUpdateArgs {
    /// File of resources; - is standard input
    #[arg(short = 'r', long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of block devices
    #[arg(long = "blkio-weight", value_name = "N")]
    pub(crate) blkio_weight: Option<u16>,
    /// Length of a scheduling period in microseconds
    #[arg(long = "cpu-period", value_name = "US")]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds per scheduling period
    #[arg(long = "cpu-quota", value_name = "US", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Length of a real-time period in microseconds
    #[arg(long = "cpu-rt-period", value_name = "US")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time microseconds per period
    #[arg(long = "cpu-rt-runtime", value_name = "US", allow_hyphen_values = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Weight of the processors
    #[arg(long = "cpu-share", alias = "cpu-shares", value_name = "N")]
    pub(crate) cpu_share: Option<u64>,
    /// Processors
    #[arg(long = "cpuset-cpus", value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long = "cpuset-mems", value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// Bytes of memory
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory: Option<i64>,
    /// Bytes of memory the container is asked to keep to
    #[arg(
        long = "memory-reservation",
        value_name = "BYTES",
        allow_hyphen_values = true
    )]
    pub(crate) memory_reservation: Option<i64>,
    /// Bytes of memory and swap
    #[arg(long = "memory-swap", value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<i64>,
    /// Bytes of kernel memory
    #[arg(
        long = "kernel-memory",
        value_name = "BYTES",
        allow_hyphen_values = true
    )]
    pub(crate) kernel_memory: Option<i64>,
    /// Bytes of kernel memory for TCP
    #[arg(
        long = "kernel-memory-tcp",
        value_name = "BYTES",
        allow_hyphen_values = true
    )]
    pub(crate) kernel_memory_tcp: Option<i64>,
    /// Number of tasks
    #[arg(long = "pids-limit", value_name = "N", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Name of the container
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// A configuration to start from.
#[derive(Debug, Args)]
pub(crate) struct OciSpecArgs {
    /// Directory of the bundle
    #[arg(short = 'b', long, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For an ordinary user
    #[arg(long)]
    pub(crate) rootless: bool,
}
