//! Arguments of the commands on containers.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::Choice;
use super::limits::{DeviceLimitArgs, LimitArgs};
use super::podman::{InheritedArgs, PodmanArgs};
use super::rare::RareArgs;

// `rrun create [OPTIONS] IMAGE [COMMAND] [ARG...]`: everything that shapes a container.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "rrun create [OPTIONS] IMAGE [COMMAND] [ARG...]"
)]
pub(crate) struct CreateArgs {
    /// Image, command and its arguments; with --rootfs only the command
    #[arg(value_name = "IMAGE [COMMAND] [ARG...]", trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    pub(crate) words: Vec<String>,
    /// Bounds
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Bounds on devices
    #[command(flatten)]
    pub(crate) devices: DeviceLimitArgs,
    /// Rare ones
    #[command(flatten)]
    pub(crate) rare: RareArgs,
    /// Podman's
    #[command(flatten)]
    pub(crate) podman: PodmanArgs,
    /// Add a line to /etc/hosts (HOST:IP)
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Annotation kept with the container (KEY=VALUE)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Connect to stdin, stdout or stderr
    #[arg(short = 'a', long, value_name = "STREAM")]
    pub(crate) attach: Vec<String>,
    /// Give a capability
    #[arg(long = "cap-add", value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability
    #[arg(long = "cap-drop", value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// Control group namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub(crate) cgroupns: Option<String>,
    /// Write the container's id to a file that must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Use a host device (HOST[:CONTAINER[:rwm]])
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Name server
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<String>,
    /// Resolver option
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Search domain
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// Print what would be done, do nothing
    #[arg(long = "dry-run")]
    pub(crate) dry_run: bool,
    /// Who takes the writes: auto, fuse (our server), hybrid (the kernel's overlayfs)
    #[arg(long = "fs-mode", value_name = "MODE")]
    pub(crate) fs_mode: Option<String>,
    /// Replace the image's entry point; an empty word drops it
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Environment variable (KEY=VALUE, or KEY to pass the caller's)
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// File of environment variables
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Port the container listens on, for -P and to be shown (PORT[-PORT][/tcp|udp])
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// Additional group
    #[arg(long = "group-add", value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Command that tells whether the container is well
    #[arg(long = "health-cmd", value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks, such as 30s
    #[arg(long = "health-interval", value_name = "DURATION")]
    pub(crate) health_interval: Option<String>,
    /// Failures in a row that make a container unhealthy
    #[arg(long = "health-retries", value_name = "COUNT")]
    pub(crate) health_retries: Option<u32>,
    /// Time between checks while the container starts
    #[arg(long = "health-start-interval", value_name = "DURATION")]
    pub(crate) health_start_interval: Option<String>,
    /// Time in which failures do not count yet
    #[arg(long = "health-start-period", value_name = "DURATION")]
    pub(crate) health_start_period: Option<String>,
    /// Longest time a check may take
    #[arg(long = "health-timeout", value_name = "DURATION")]
    pub(crate) health_timeout: Option<String>,
    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Run a small init that reaps processes
    #[arg(long)]
    pub(crate) init: bool,
    /// Keep standard input open
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// IPv4 address
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// IPC namespace: private, shareable, none, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) ipc: Option<String>,
    /// Label (KEY=VALUE)
    #[arg(short = 'l', long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// File of labels
    #[arg(long = "label-file", value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Hardware address, such as 02:42:ac:11:00:02
    #[arg(long = "mac-address", value_name = "MAC")]
    pub(crate) mac_address: Option<String>,
    /// Where output is kept: json-file, local, k8s-file or none
    #[arg(long = "log-driver", value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// Option of the log (max-size=10m, max-file=3)
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Mount (type=bind|volume|tmpfs,source=,target=[,readonly])
    #[arg(long, value_name = "MOUNT")]
    pub(crate) mount: Vec<String>,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Network: bridge (the default), none, host, container:NAME, pasta, slirp4netns or builtin
    #[arg(long, alias = "net", value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// No health check, whatever the image says
    #[arg(long = "no-healthcheck")]
    pub(crate) no_healthcheck: bool,
    /// How willingly the kernel kills it when memory is short (-1000 to 1000)
    #[arg(
        long = "oom-score-adj",
        value_name = "NUMBER",
        allow_negative_numbers = true
    )]
    pub(crate) oom_score_adj: Option<i32>,
    /// PID namespace: private, host or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) pid: Option<String>,
    /// Operating system and architecture, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// All capabilities, no seccomp filter, nothing masked
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Publish a port to the host ([[IP:]HOST_PORT:]PORT[/tcp|udp], also ranges)
    #[arg(short = 'p', long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports to ports the host chooses
    #[arg(short = 'P', long = "publish-all")]
    pub(crate) publish_all: bool,
    /// Fetch the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(crate) pull: String,
    /// No progress of a pull
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Read-only root file system
    #[arg(long = "read-only")]
    pub(crate) read_only: bool,
    /// Remove the container when it ends
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    /// When to start it again: no, on-failure[:MAX], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<String>,
    /// Use a directory of the host, unchanged, in place of an image
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// no-new-privileges, seccomp=unconfined|FILE, ...
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long = "shm-size", value_name = "BYTES")]
    pub(crate) shm_size: Option<String>,
    /// Signal that stops the container
    #[arg(long = "stop-signal", value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Seconds to wait after that signal before killing
    #[arg(long = "stop-timeout", value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<u32>,
    /// Kernel parameter of a namespace (KEY=VALUE)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Mount a tmpfs (PATH[:OPTIONS])
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// Give a terminal
    #[arg(short = 't', long = "tty")]
    pub(crate) tty: bool,
    /// Limit (NAME=SOFT[:HARD])
    #[arg(long, value_name = "LIMIT")]
    pub(crate) ulimit: Vec<String>,
    /// User (NAME|UID[:GROUP|GID])
    #[arg(short = 'u', long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// User namespace: host, which changes nothing here
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    /// UTS namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub(crate) uts: Option<String>,
    /// Volume (HOST:CONTAINER[:ro], NAME:CONTAINER or CONTAINER)
    #[arg(short = 'v', long = "volume", value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// Mount the volumes of another container (NAME[:ro])
    #[arg(long = "volumes-from", value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Directory to start in
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    pub(crate) workdir: Option<String>,
}

// `rrun run [OPTIONS] IMAGE [COMMAND] [ARG...]`
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "rrun run [OPTIONS] IMAGE [COMMAND] [ARG...]\n       rrun run [OPTIONS] --rootfs DIR COMMAND [ARG...]"
)]
pub(crate) struct RunArgs {
    /// The container
    #[command(flatten)]
    pub(crate) create: CreateArgs,
    /// Run in the background, print the id
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// Keys that detach, such as ctrl-p,ctrl-q
    #[arg(long = "detach-keys", value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// What it inherits
    #[command(flatten)]
    pub(crate) inherited: InheritedArgs,
    /// Pass signals on to the container
    #[arg(long = "sig-proxy", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    pub(crate) sig_proxy: bool,
}

// `rrun start [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun start [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct StartArgs {
    /// Containers by name or id
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "filter", "restart_policy"])]
    pub(crate) containers: Vec<String>,
    /// All containers that do not run
    #[arg(long)]
    pub(crate) all: bool,
    /// All containers whose restart policy wants them up: for the start of the host
    #[arg(long = "restart-policy", conflicts_with_all = ["containers", "all", "attach", "interactive"])]
    pub(crate) restart_policy: bool,
    /// Only containers that match, as with ps
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Connect to its output and wait for its end
    #[arg(short = 'a', long)]
    pub(crate) attach: bool,
    /// Connect to its standard input
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// Keys that detach, such as ctrl-p,ctrl-q
    #[arg(long = "detach-keys", value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
}

// `rrun stop [OPTIONS] CONTAINER [CONTAINER...]`, `rrun restart ...`
#[derive(Debug, Args)]
#[command(override_usage = "rrun stop|restart [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct StopArgs {
    /// Which containers
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Signal to send instead of its stop signal
    #[arg(
        short = 's',
        long,
        value_name = "SIGNAL",
        allow_negative_numbers = true
    )]
    pub(crate) signal: Option<String>,
    /// Seconds to wait before killing; -1 waits for ever
    #[arg(
        short = 't',
        long = "time",
        alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub(crate) time: Option<i64>,
}

// `rrun kill [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun kill [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct KillArgs {
    /// Which containers
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Signal to send
    #[arg(
        short = 's',
        long,
        value_name = "SIGNAL",
        default_value = "KILL",
        allow_negative_numbers = true
    )]
    pub(crate) signal: String,
}

// `rrun exec [OPTIONS] CONTAINER COMMAND [ARG...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub(crate) struct ExecArgs {
    /// Container, command and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    pub(crate) words: Vec<String>,
    /// Run in the background
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// Keys that detach, such as ctrl-p,ctrl-q
    #[arg(long = "detach-keys", value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Environment variable (KEY=VALUE, or KEY to pass the caller's)
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// File of environment variables
    #[arg(long = "env-file", value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short = 'i', long)]
    pub(crate) interactive: bool,
    /// What it inherits
    #[command(flatten)]
    pub(crate) inherited: InheritedArgs,
    /// All capabilities
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Give a terminal
    #[arg(short = 't', long = "tty")]
    pub(crate) tty: bool,
    /// User (NAME|UID[:GROUP|GID])
    #[arg(short = 'u', long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Directory to start in
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    pub(crate) workdir: Option<String>,
}

// `rrun attach [OPTIONS] CONTAINER`
#[derive(Debug, Args)]
#[command(override_usage = "rrun attach [OPTIONS] CONTAINER")]
pub(crate) struct AttachArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Keys that detach, such as ctrl-p,ctrl-q
    #[arg(long = "detach-keys", value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
    /// Leave standard input alone
    #[arg(long = "no-stdin")]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long = "sig-proxy", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    pub(crate) sig_proxy: bool,
}

// `rrun wait CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun wait CONTAINER [CONTAINER...]")]
pub(crate) struct WaitArgs {
    /// Containers by name or id
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) containers: Vec<String>,
}

// `rrun port CONTAINER [PORT[/PROTO]]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun port CONTAINER [PRIVATE_PORT[/PROTO]]")]
pub(crate) struct PortArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Port inside
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub(crate) port: Option<String>,
}

// `rrun rename CONTAINER NEW_NAME`
#[derive(Debug, Args)]
#[command(override_usage = "rrun rename CONTAINER NEW_NAME")]
pub(crate) struct RenameArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// The new name
    #[arg(value_name = "NEW_NAME")]
    pub(crate) name: String,
}

// `rrun rm [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun rm [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct RmArgs {
    /// Which containers
    #[command(flatten)]
    pub(crate) choice: Choice,
    /// Also remove the containers that use its namespaces
    #[arg(long)]
    pub(crate) depend: bool,
    /// Kill it first when it runs
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Seconds to wait for its end before killing, with --force
    #[arg(
        short = 't',
        long,
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub(crate) time: Option<i64>,
    /// Also remove its anonymous volumes
    #[arg(short = 'v', long)]
    pub(crate) volumes: bool,
}

// `rrun cp [OPTIONS] CONTAINER:SRC DEST|-` and `rrun cp [OPTIONS] SRC|- CONTAINER:DEST`
#[derive(Debug, Args)]
#[command(
    override_usage = "rrun cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       rrun cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
)]
pub(crate) struct CpArgs {
    /// What to copy
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    pub(crate) source: String,
    /// Where to
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    pub(crate) destination: String,
    /// Keep owners
    #[arg(short = 'a', long)]
    pub(crate) archive: bool,
    /// Follow a symbolic link given as the source
    #[arg(short = 'L', long = "follow-link")]
    pub(crate) follow_link: bool,
    /// Say nothing when it is done
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

// `rrun pause CONTAINER [CONTAINER...]`, `rrun unpause ...`
#[derive(Debug, Args)]
#[command(override_usage = "rrun pause|unpause CONTAINER [CONTAINER...]")]
pub(crate) struct PauseArgs {
    /// Which containers
    #[command(flatten)]
    pub(crate) choice: Choice,
}

// `rrun update [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun update [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct UpdateArgs {
    /// Containers by name or id
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) containers: Vec<String>,
    /// Bounds
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// When to start it again: no, on-failure[:MAX], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub(crate) restart: Option<String>,
}

// `rrun diff CONTAINER`
#[derive(Debug, Args)]
#[command(override_usage = "rrun diff CONTAINER")]
pub(crate) struct DiffArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// json: one object a line
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

// `rrun export [OPTIONS] CONTAINER`
#[derive(Debug, Args)]
#[command(override_usage = "rrun export [OPTIONS] CONTAINER")]
pub(crate) struct ExportArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// File to write; standard output when absent
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
