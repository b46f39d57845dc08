//! Arguments of the commands that only look at containers.

use clap::Args;

// `rrun logs [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun logs [OPTIONS] CONTAINER [CONTAINER...]")]
pub(crate) struct LogsArgs {
    /// Containers by name or id; of several each line begins with the id
    #[arg(value_name = "CONTAINER", required = true)]
    pub(crate) containers: Vec<String>,
    /// Go on as the container writes
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// Only from this time on (RFC 3339, seconds, or 10m ago)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    pub(crate) tail: String,
    /// Show the time of each line
    #[arg(short = 't', long)]
    pub(crate) timestamps: bool,
    /// Only until this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// Accepted for compatibility
    #[arg(long)]
    pub(crate) details: bool,
    /// Of several containers each line begins with the name
    #[arg(long)]
    pub(crate) names: bool,
}

// `rrun ps [OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun ps [OPTIONS]")]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Only containers that match: id=, name=, label=, status=, exited=, health=, ancestor=, before=, since=, volume=, network=
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// table, json or a template such as '{{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// The newest N, whatever their state
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) last: Option<i64>,
    /// The newest one, whatever its state
    #[arg(short = 'l', long)]
    pub(crate) latest: bool,
    /// Do not shorten
    #[arg(long = "no-trunc")]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Show sizes
    #[arg(short = 's', long)]
    pub(crate) size: bool,
    /// No titles above the table
    #[arg(long)]
    pub(crate) noheading: bool,
    /// Order by command, created, id, image, names, size or status
    #[arg(long, value_name = "FIELD")]
    pub(crate) sort: Option<String>,
}

// `rrun top CONTAINER [ps OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun top CONTAINER [ps OPTIONS]")]
pub(crate) struct TopArgs {
    /// Container by name or id, then options of ps
    #[arg(value_name = "CONTAINER [ps OPTIONS]", trailing_var_arg = true, allow_hyphen_values = true, num_args = 1.., required = true)]
    pub(crate) words: Vec<String>,
}

// `rrun stats [OPTIONS] [CONTAINER...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun stats [OPTIONS] [CONTAINER...]")]
pub(crate) struct StatsArgs {
    /// Containers by name or id; all that run when absent
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Also those that do not run
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// table, json or a template such as '{{.Name}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print once
    #[arg(long = "no-stream")]
    pub(crate) no_stream: bool,
    /// Do not shorten
    #[arg(long = "no-trunc")]
    pub(crate) no_trunc: bool,
}

// `rrun events [OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun events [OPTIONS]")]
pub(crate) struct EventsArgs {
    /// Only events that match: container=, event=, image=, label=, type=, volume=
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// json or a template such as '{{.Action}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Also those from this time on (RFC 3339, seconds, or 10m ago)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Stop at this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}
