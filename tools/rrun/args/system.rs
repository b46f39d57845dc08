//! Arguments of the commands on volumes and on rrun itself.

use clap::Args;

// `rrun inspect [OPTIONS] NAME|ID [NAME|ID...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun inspect [OPTIONS] NAME|ID [NAME|ID...]")]
pub(crate) struct InspectArgs {
    /// Containers, images or volumes
    #[arg(value_name = "NAME|ID", required = true)]
    pub(crate) names: Vec<String>,
    /// json or a template such as '{{.State.Status}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Also show the sizes of containers
    #[arg(short = 's', long)]
    pub(crate) size: bool,
    /// container, image or volume
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
}

impl InspectArgs {
    /// `rrun image inspect` and its like.
    pub(crate) fn of_kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }
}

// `rrun OBJECT exists NAME`
#[derive(Debug, Args)]
pub(crate) struct ExistsArgs {
    /// Name or id
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

// `rrun version [OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun version [OPTIONS]")]
pub(crate) struct VersionArgs {
    /// json or a template such as '{{.Client.Version}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

// `rrun info [OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun info [OPTIONS]")]
pub(crate) struct InfoArgs {
    /// json or a template
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

// `rrun OBJECT prune [OPTIONS]`
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also images that have a name but no container
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Also volumes no container uses
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Only what matches: until=, label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
}

// `rrun store check [OPTIONS]`
#[derive(Debug, Args)]
pub(crate) struct StoreCheckArgs {
    /// Move damaged files aside and drop what depended on them
    #[arg(long)]
    pub(crate) repair: bool,
}

// `rrun volume create [OPTIONS] [VOLUME]`
#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// Name; a random one when absent
    #[arg(value_name = "VOLUME")]
    pub(crate) volume: Option<String>,
    /// Name, in the old form
    #[arg(long, value_name = "NAME", conflicts_with = "volume")]
    pub(crate) name: Option<String>,
    /// Only `local`
    #[arg(short = 'd', long, value_name = "DRIVER", default_value = "local")]
    pub(crate) driver: String,
    /// Label, KEY=VALUE
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: Vec<String>,
    /// Option of the driver, KEY=VALUE
    #[arg(short = 'o', long, value_name = "OPTION")]
    pub(crate) opt: Vec<String>,
}

// `rrun volume ls [OPTIONS]`
#[derive(Debug, Args)]
pub(crate) struct VolumeLsArgs {
    /// Only volumes that match: name=, dangling=, driver=, label=
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// table, json or a template such as '{{.Name}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Only names
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

// `rrun volume inspect [OPTIONS] VOLUME [VOLUME...]`
#[derive(Debug, Args)]
pub(crate) struct VolumeInspectArgs {
    /// Volumes by name
    #[arg(value_name = "VOLUME", required = true)]
    pub(crate) volumes: Vec<String>,
    /// json or a template such as '{{.Mountpoint}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

// `rrun volume rm [OPTIONS] VOLUME [VOLUME...]`
#[derive(Debug, Args)]
pub(crate) struct VolumeRmArgs {
    /// Volumes by name
    #[arg(value_name = "VOLUME", required = true)]
    pub(crate) volumes: Vec<String>,
    /// No error for a volume that does not exist
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
}

// `rrun volume prune [OPTIONS]`
#[derive(Debug, Args)]
pub(crate) struct VolumePruneArgs {
    /// Also volumes that were given a name
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Only volumes that match: label=, label!=, all=
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// Do not ask
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
}
