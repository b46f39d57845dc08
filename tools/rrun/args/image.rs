//! Arguments of the commands on images.

use std::path::PathBuf;

use clap::Args;

// `rrun images [OPTIONS] [REPOSITORY[:TAG]]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun images [OPTIONS] [REPOSITORY[:TAG]]")]
pub(crate) struct ImagesArgs {
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
    /// Accepted for compatibility: there are no intermediate images
    #[arg(short = 'a', long = "all")]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Only images that match: dangling=, label=, before=, since=, reference=
    #[arg(short = 'f', long = "filter", value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// table, json or a template such as '{{.Repository}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Do not shorten ids
    #[arg(long = "no-trunc")]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

// `rrun rmi [OPTIONS] IMAGE [IMAGE...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun rmi [OPTIONS] IMAGE [IMAGE...]")]
pub(crate) struct RmiArgs {
    /// Images by name or id
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// Remove all names of the image, also when a stopped container uses it
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Accepted for compatibility
    #[arg(long = "no-prune")]
    pub(crate) no_prune: bool,
}

// `rrun tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]")]
pub(crate) struct TagArgs {
    /// Image by name or id
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub(crate) source: String,
    /// The new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    pub(crate) target: String,
}

// `rrun untag IMAGE [IMAGE...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun untag IMAGE [NAME[:TAG]...]")]
pub(crate) struct UntagArgs {
    /// Image by name or id
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Names to take from it; all when absent
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) names: Vec<String>,
}

// `rrun pull [OPTIONS] NAME[:TAG|@DIGEST]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun pull [OPTIONS] NAME[:TAG|@DIGEST]")]
pub(crate) struct PullArgs {
    /// What to fetch
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) image: String,
    /// Every tag of the repository
    #[arg(short = 'a', long = "all-tags")]
    pub(crate) all_tags: bool,
    /// Accepted for compatibility
    #[arg(long = "disable-content-trust", num_args = 0..=1, require_equals = true)]
    pub(crate) disable_content_trust: Option<Option<String>>,
    /// Operating system and architecture, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Print the name only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Check the registry's certificate
    #[arg(long = "tls-verify", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tls_verify: Option<String>,
}

// `rrun push [OPTIONS] NAME[:TAG]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun push [OPTIONS] NAME[:TAG]")]
pub(crate) struct PushArgs {
    /// What to send, and where to: the name says which registry
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) image: String,
    /// Accepted for compatibility
    #[arg(long = "disable-content-trust", num_args = 0..=1, require_equals = true)]
    pub(crate) disable_content_trust: Option<Option<String>>,
    /// Print the name only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    /// Check the registry's certificate
    #[arg(long = "tls-verify", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tls_verify: Option<String>,
}

// `rrun load [OPTIONS]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun load [OPTIONS]")]
pub(crate) struct LoadArgs {
    /// Archive file or OCI directory; standard input when absent
    #[arg(short = 'i', long = "input", value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// No progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

// `rrun save [OPTIONS] IMAGE [IMAGE...]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun save [OPTIONS] IMAGE [IMAGE...]")]
pub(crate) struct SaveArgs {
    /// Images by name or id
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<String>,
    /// docker-archive, oci-archive or oci-dir
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    pub(crate) format: String,
    /// File (or directory, for oci-dir) to write; standard output when absent
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

// `rrun import [OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun import [OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]")]
pub(crate) struct ImportArgs {
    /// A tar archive, compressed or not
    #[arg(value_name = "FILE|URL|-", allow_hyphen_values = false)]
    pub(crate) source: String,
    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long = "change", value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Message kept in the history
    #[arg(short = 'm', long = "message", value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Operating system and architecture, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
}

// `rrun commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]`
#[derive(Debug, Args)]
#[command(override_usage = "rrun commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]")]
pub(crate) struct CommitArgs {
    /// Container by name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Name of the new image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) reference: Option<String>,
    /// Author kept in the image
    #[arg(short = 'a', long, value_name = "TEXT")]
    pub(crate) author: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short = 'c', long = "change", value_name = "INSTRUCTION")]
    pub(crate) change: Vec<String>,
    /// Message kept in the history
    #[arg(short = 'm', long = "message", value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// Accepted for compatibility: a commit reads a consistent state without pausing
    #[arg(short = 'p', long = "pause", num_args = 0..=1, require_equals = true)]
    pub(crate) pause: Option<Option<String>>,
}

// `rrun history [OPTIONS] IMAGE`
#[derive(Debug, Args)]
#[command(override_usage = "rrun history [OPTIONS] IMAGE")]
pub(crate) struct HistoryArgs {
    /// Image by name or id
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// table, json or a template such as '{{.CreatedBy}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Sizes and dates for people (false: bytes and RFC 3339)
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    pub(crate) human: bool,
    /// Do not shorten
    #[arg(long = "no-trunc")]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}
