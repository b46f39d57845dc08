//! What was typed. Nothing here touches the system; `request` resolves it.
//!
//! Structures of options have plain comments: a doc comment would become the summary in the help of
//! the command that has them, in place of its own.

mod booleans;
mod choice;
mod container;
mod hints;
mod image;
mod limits;
mod look;
pub(crate) mod oci;
mod podman;
mod rare;
mod system;

use clap::{Args, Parser, Subcommand};

pub(crate) use booleans::{plain as plain_switches, plain_letters};
pub(crate) use choice::Choice;
pub(crate) use container::{
    AttachArgs, CpArgs, CreateArgs, DiffArgs, ExecArgs, ExportArgs, KillArgs, PauseArgs, PortArgs,
    RenameArgs, RmArgs, RunArgs, StartArgs, StopArgs, UpdateArgs, WaitArgs,
};
pub(crate) use hints::{explain, explain_leading_flag, mistaken};
pub(crate) use image::{
    CommitArgs, HistoryArgs, ImagesArgs, ImportArgs, LoadArgs, PullArgs, PushArgs, RmiArgs,
    SaveArgs, TagArgs, UntagArgs,
};
pub(crate) use limits::{DeviceLimitArgs, LimitArgs};
pub(crate) use look::{EventsArgs, LogsArgs, PsArgs, StatsArgs, TopArgs};
pub(crate) use podman::PodmanArgs;
pub(crate) use system::{
    ExistsArgs, InfoArgs, InspectArgs, PruneArgs, StoreCheckArgs, VersionArgs, VolumeCreateArgs,
    VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "rrun",
    about = "Stores, serves and runs container images as an ordinary user, with no daemon",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    args_conflicts_with_subcommands = false,
    subcommand_negates_reqs = true,
    override_help = TOP_HELP
)]
pub(crate) struct LowArgs {
    /// Print the version and quit
    #[arg(short = 'v', long = "version")]
    pub(crate) version: bool,
    /// Say more about what fails
    #[arg(short = 'D', long = "debug")]
    pub(crate) debug: bool,
    /// Level of messages: debug, info, warn, error, fatal
    #[arg(short = 'l', long = "log-level", value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Directory of the client's configuration files
    #[arg(long = "config", value_name = "DIR")]
    pub(crate) config: Option<std::path::PathBuf>,
    /// Directory of images and containers
    #[arg(long = "data-root", value_name = "DIR")]
    pub(crate) data_root: Option<std::path::PathBuf>,
    /// Accepted for compatibility: there is no daemon to talk to
    #[arg(short = 'H', long = "host", value_name = "LIST", hide = true)]
    pub(crate) host: Vec<String>,
    /// Accepted for compatibility: there is no daemon to talk to
    #[arg(short = 'c', long = "context", value_name = "NAME", hide = true)]
    pub(crate) context: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The help of `rrun` itself: Docker's order, management commands apart.
pub(crate) const TOP_HELP: &str = "\
Usage:  rrun [OPTIONS] COMMAND

Stores, serves and runs container images as an ordinary user, with no daemon

Management Commands:
  container   Manage containers
  image       Manage images
  oci         The OCI runtime: containers from bundles
  store       Check the image store
  system      Look at and tidy what rrun keeps
  volume      Manage volumes

Commands:
  attach      Attach to a running container
  commit      Create an image from a container's changes
  cp          Copy files between a container and the host
  create      Create a container
  diff        List what a container changed
  events      Show what happens as it happens
  exec        Run a command in a running container
  export      Write a container's file system as a tar archive
  history     Show how an image was made
  images      List images
  import      Create an image of one layer from a tar archive
  info        Show what this installation can do
  inspect     Show all that is known of a container, image or volume
  kill        Send a signal to containers
  load        Load images from an archive
  logs        Show what a container wrote
  pause       Freeze the processes of containers
  port        List the published ports of a container
  ps          List containers
  pull        Fetch an image from a registry
  push        Send an image to a registry
  rename      Rename a container
  restart     Stop and start containers
  rm          Remove containers
  rmi         Remove images
  run         Create and run a container
  save        Write images to an archive
  start       Start stopped containers
  stats       Show what containers use
  stop        Stop running containers
  tag         Give an image another name
  top         List the processes of a container
  untag       Take names from an image, which stays
  unpause     Let the processes of paused containers go on
  update      Change limits and restart policy of containers
  version     Show the version
  wait        Wait until containers stop, print their exit codes

Options:
      --config DIR      Directory of the client's configuration files
      --data-root DIR   Directory of images and containers
  -D, --debug           Say more about what fails
  -l, --log-level LEVEL Level of messages: debug, info, warn, error, fatal
  -v, --version         Print the version and quit
  -H, --host, -c, --context, --tls...
                        Accepted for compatibility: there is no daemon

Run 'rrun COMMAND --help' for more on a command.
";

/// A command as typed: short verbs and `object verb` alike.
///
/// The options of a command are put together when it is the one that was typed: all of them
/// together take longer than most commands.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Create and run a container
    Run(Box<RunArgs>),
    /// Create a container
    Create(Box<CreateArgs>),
    /// Start stopped containers
    Start(StartArgs),
    /// Stop running containers
    Stop(StopArgs),
    /// Stop and start containers
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Run a command in a running container
    Exec(ExecArgs),
    /// Attach to a running container
    Attach(AttachArgs),
    /// Show what a container wrote
    Logs(LogsArgs),
    /// Wait until containers stop, print their exit codes
    Wait(WaitArgs),
    /// List containers
    Ps(PsArgs),
    /// List the published ports of a container
    Port(PortArgs),
    /// Rename a container
    Rename(RenameArgs),
    /// Remove containers
    Rm(RmArgs),
    /// List the processes of a container
    Top(TopArgs),
    /// Copy files between a container and the host
    Cp(CpArgs),
    /// Show what happens as it happens
    Events(EventsArgs),
    /// Freeze the processes of containers
    Pause(PauseArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Let the processes of paused containers go on
    Unpause(PauseArgs),
    /// Change limits and restart policy of containers
    Update(UpdateArgs),
    /// List what a container changed
    Diff(DiffArgs),
    /// Write a container's file system as a tar archive
    Export(ExportArgs),
    /// Create an image from a container's changes
    Commit(CommitArgs),
    /// List images
    Images(ImagesArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Take names from an image, which stays
    Untag(UntagArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Create an image of one layer from a tar archive
    Import(ImportArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Show all that is known of a container, image or volume
    Inspect(InspectArgs),
    /// Show the version
    Version(VersionArgs),
    /// Show what this installation can do
    Info(InfoArgs),
    /// Manage images
    Image(Object<ImageVerb>),
    /// Manage containers
    Container(Object<ContainerVerb>),
    /// Manage volumes
    Volume(Object<VolumeVerb>),
    /// Look at and tidy what rrun keeps
    System(Object<SystemVerb>),
    /// Check the image store
    Store(Object<StoreVerb>),
}

// `rrun OBJECT VERB`.
#[derive(Debug, Args)]
pub(crate) struct Object<V: Subcommand> {
    /// What to do with the object
    #[command(subcommand)]
    pub(crate) verb: V,
}

// Verbs of `rrun image`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageVerb {
    /// List images
    #[command(alias = "list")]
    Ls(ImagesArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(RmiArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Create an image of one layer from a tar archive
    Import(ImportArgs),
    /// Show how an image was made
    History(HistoryArgs),
    /// Show all that is known of an image
    Inspect(InspectArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Take names from an image, which stays
    Untag(UntagArgs),
    /// Remove what no image uses
    Prune(PruneArgs),
    /// Say by the exit code whether an image exists
    Exists(ExistsArgs),
}

// Verbs of `rrun container`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum ContainerVerb {
    /// Create and run a container
    Run(Box<RunArgs>),
    /// Create a container
    Create(Box<CreateArgs>),
    /// Start stopped containers
    Start(StartArgs),
    /// Stop running containers
    Stop(StopArgs),
    /// Stop and start containers
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Run a command in a running container
    Exec(ExecArgs),
    /// Attach to a running container
    Attach(AttachArgs),
    /// Show what a container wrote
    Logs(LogsArgs),
    /// Wait until containers stop, print their exit codes
    Wait(WaitArgs),
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(PsArgs),
    /// List the published ports of a container
    Port(PortArgs),
    /// Rename a container
    Rename(RenameArgs),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(RmArgs),
    /// List the processes of a container
    Top(TopArgs),
    /// Copy files between a container and the host
    Cp(CpArgs),
    /// Show what happens as it happens
    Events(EventsArgs),
    /// Freeze the processes of containers
    Pause(PauseArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Let the processes of paused containers go on
    Unpause(PauseArgs),
    /// Change limits and restart policy of containers
    Update(UpdateArgs),
    /// List what a container changed
    Diff(DiffArgs),
    /// Write a container's file system as a tar archive
    Export(ExportArgs),
    /// Create an image from a container's changes
    Commit(CommitArgs),
    /// Show all that is known of a container
    Inspect(InspectArgs),
    /// Remove stopped containers
    Prune(PruneArgs),
    /// Say by the exit code whether a container exists
    Exists(ExistsArgs),
}

// Verbs of `rrun volume`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum VolumeVerb {
    /// Create a volume
    Create(VolumeCreateArgs),
    /// List volumes
    #[command(alias = "list")]
    Ls(VolumeLsArgs),
    /// Show all that is known of volumes
    Inspect(VolumeInspectArgs),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm(VolumeRmArgs),
    /// Remove volumes no container uses
    Prune(VolumePruneArgs),
    /// Say by the exit code whether a volume exists
    Exists(ExistsArgs),
}

// Verbs of `rrun system`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SystemVerb {
    /// Show what this installation can do
    Info(InfoArgs),
    /// Remove stopped containers and what no image uses
    Prune(PruneArgs),
}

// Verbs of `rrun store`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum StoreVerb {
    /// Hash everything again and say what is damaged
    Check(StoreCheckArgs),
}

/// What is to be done, with one spelling for each thing.
#[derive(Debug)]
pub(crate) enum Call {
    Run(Box<RunArgs>),
    Create(Box<CreateArgs>),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(StopArgs),
    Kill(KillArgs),
    Exec(ExecArgs),
    Attach(AttachArgs),
    Logs(LogsArgs),
    Wait(WaitArgs),
    Ps(PsArgs),
    Port(PortArgs),
    Rename(RenameArgs),
    Rm(RmArgs),
    Top(TopArgs),
    Cp(CpArgs),
    Events(EventsArgs),
    Pause(PauseArgs),
    Stats(StatsArgs),
    Unpause(PauseArgs),
    Update(UpdateArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
    Commit(CommitArgs),
    ContainerPrune(PruneArgs),
    ContainerExists(ExistsArgs),
    ImageExists(ExistsArgs),
    VolumeExists(ExistsArgs),
    Images(ImagesArgs),
    Rmi(RmiArgs),
    Tag(TagArgs),
    Untag(UntagArgs),
    Pull(PullArgs),
    Push(PushArgs),
    Load(LoadArgs),
    Save(SaveArgs),
    Import(ImportArgs),
    History(HistoryArgs),
    ImagePrune(PruneArgs),
    Inspect(InspectArgs),
    VolumeCreate(VolumeCreateArgs),
    VolumeLs(VolumeLsArgs),
    VolumeInspect(VolumeInspectArgs),
    VolumeRm(VolumeRmArgs),
    VolumePrune(VolumePruneArgs),
    Version(VersionArgs),
    Info(InfoArgs),
    SystemPrune(PruneArgs),
    StoreCheck(StoreCheckArgs),
}

impl Command {
    /// Folds `object verb` into the short verb.
    pub(crate) fn call(self) -> Call {
        match self {
            Self::Run(args) => Call::Run(args),
            Self::Create(args) => Call::Create(args),
            Self::Start(args) => Call::Start(args),
            Self::Stop(args) => Call::Stop(args),
            Self::Restart(args) => Call::Restart(args),
            Self::Kill(args) => Call::Kill(args),
            Self::Exec(args) => Call::Exec(args),
            Self::Attach(args) => Call::Attach(args),
            Self::Logs(args) => Call::Logs(args),
            Self::Wait(args) => Call::Wait(args),
            Self::Ps(args) => Call::Ps(args),
            Self::Port(args) => Call::Port(args),
            Self::Rename(args) => Call::Rename(args),
            Self::Rm(args) => Call::Rm(args),
            Self::Top(args) => Call::Top(args),
            Self::Cp(args) => Call::Cp(args),
            Self::Events(args) => Call::Events(args),
            Self::Pause(args) => Call::Pause(args),
            Self::Stats(args) => Call::Stats(args),
            Self::Unpause(args) => Call::Unpause(args),
            Self::Update(args) => Call::Update(args),
            Self::Diff(args) => Call::Diff(args),
            Self::Export(args) => Call::Export(args),
            Self::Commit(args) => Call::Commit(args),
            Self::Images(args) => Call::Images(args),
            Self::Rmi(args) => Call::Rmi(args),
            Self::Tag(args) => Call::Tag(args),
            Self::Untag(args) => Call::Untag(args),
            Self::Pull(args) => Call::Pull(args),
            Self::Push(args) => Call::Push(args),
            Self::Load(args) => Call::Load(args),
            Self::Save(args) => Call::Save(args),
            Self::Import(args) => Call::Import(args),
            Self::History(args) => Call::History(args),
            Self::Inspect(args) => Call::Inspect(args),
            Self::Version(args) => Call::Version(args),
            Self::Info(args) => Call::Info(args),
            Self::Image(object) => object.verb.call(),
            Self::Container(object) => object.verb.call(),
            Self::Volume(object) => object.verb.call(),
            Self::System(object) => object.verb.call(),
            Self::Store(object) => object.verb.call(),
        }
    }
}

impl ImageVerb {
    fn call(self) -> Call {
        match self {
            Self::Ls(args) => Call::Images(args),
            Self::Rm(args) => Call::Rmi(args),
            Self::Pull(args) => Call::Pull(args),
            Self::Push(args) => Call::Push(args),
            Self::Load(args) => Call::Load(args),
            Self::Save(args) => Call::Save(args),
            Self::Import(args) => Call::Import(args),
            Self::History(args) => Call::History(args),
            Self::Inspect(args) => Call::Inspect(args.of_kind("image")),
            Self::Tag(args) => Call::Tag(args),
            Self::Untag(args) => Call::Untag(args),
            Self::Prune(args) => Call::ImagePrune(args),
            Self::Exists(args) => Call::ImageExists(args),
        }
    }
}

impl ContainerVerb {
    fn call(self) -> Call {
        match self {
            Self::Run(args) => Call::Run(args),
            Self::Create(args) => Call::Create(args),
            Self::Start(args) => Call::Start(args),
            Self::Stop(args) => Call::Stop(args),
            Self::Restart(args) => Call::Restart(args),
            Self::Kill(args) => Call::Kill(args),
            Self::Exec(args) => Call::Exec(args),
            Self::Attach(args) => Call::Attach(args),
            Self::Logs(args) => Call::Logs(args),
            Self::Wait(args) => Call::Wait(args),
            Self::Ls(args) => Call::Ps(args),
            Self::Port(args) => Call::Port(args),
            Self::Rename(args) => Call::Rename(args),
            Self::Rm(args) => Call::Rm(args),
            Self::Top(args) => Call::Top(args),
            Self::Cp(args) => Call::Cp(args),
            Self::Events(args) => Call::Events(args),
            Self::Pause(args) => Call::Pause(args),
            Self::Stats(args) => Call::Stats(args),
            Self::Unpause(args) => Call::Unpause(args),
            Self::Update(args) => Call::Update(args),
            Self::Diff(args) => Call::Diff(args),
            Self::Export(args) => Call::Export(args),
            Self::Commit(args) => Call::Commit(args),
            Self::Inspect(args) => Call::Inspect(args.of_kind("container")),
            Self::Prune(args) => Call::ContainerPrune(args),
            Self::Exists(args) => Call::ContainerExists(args),
        }
    }
}

impl VolumeVerb {
    fn call(self) -> Call {
        match self {
            Self::Create(args) => Call::VolumeCreate(args),
            Self::Ls(args) => Call::VolumeLs(args),
            Self::Inspect(args) => Call::VolumeInspect(args),
            Self::Rm(args) => Call::VolumeRm(args),
            Self::Prune(args) => Call::VolumePrune(args),
            Self::Exists(args) => Call::VolumeExists(args),
        }
    }
}

impl SystemVerb {
    fn call(self) -> Call {
        match self {
            Self::Info(args) => Call::Info(args),
            Self::Prune(args) => Call::SystemPrune(args),
        }
    }
}

impl StoreVerb {
    fn call(self) -> Call {
        match self {
            Self::Check(args) => Call::StoreCheck(args),
        }
    }
}
