//! Options of Docker's that have one answer here: nothing to do, or why not.

use clap::Args;

// Options of `run` and `create`.
#[derive(Debug, Default, Args)]
pub(crate) struct RareArgs {
    /// Accepted: Windows only
    #[arg(long = "cpu-count", value_name = "COUNT", hide = true)]
    pub(crate) cpu_count: Option<i64>,
    /// Accepted: Windows only
    #[arg(long = "cpu-percent", value_name = "PERCENT", hide = true)]
    pub(crate) cpu_percent: Option<i64>,
    /// Accepted: images are not signed here
    #[arg(long = "disable-content-trust", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", hide = true)]
    pub(crate) disable_content_trust: Option<bool>,
    /// Graphics processors; pass their device files with --device instead
    #[arg(long, value_name = "GPUS")]
    pub(crate) gpus: Option<String>,
    /// Accepted: Windows only
    #[arg(long = "io-maxbandwidth", value_name = "BYTES", hide = true)]
    pub(crate) io_maxbandwidth: Option<String>,
    /// Accepted: Windows only
    #[arg(long = "io-maxiops", value_name = "COUNT", hide = true)]
    pub(crate) io_maxiops: Option<u64>,
    /// IPv6 address, on networks one makes oneself
    #[arg(long, value_name = "IP")]
    pub(crate) ip6: Option<String>,
    /// Isolation technology: default
    #[arg(long, value_name = "NAME")]
    pub(crate) isolation: Option<String>,
    /// Link to another container; share its network with --network container:NAME instead
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) link: Vec<String>,
    /// Link-local address, on networks one makes oneself
    #[arg(long = "link-local-ip", value_name = "IP")]
    pub(crate) link_local_ip: Vec<String>,
    /// Further name, on networks one makes oneself
    #[arg(long = "network-alias", alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// OCI runtime: rrun
    #[arg(long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Option of the storage
    #[arg(long = "storage-opt", value_name = "KEY=VALUE")]
    pub(crate) storage_opt: Vec<String>,
    /// Docker's API socket, which is not there without a daemon
    #[arg(long = "use-api-socket", hide = true)]
    pub(crate) use_api_socket: bool,
    /// Driver of volumes: local
    #[arg(long = "volume-driver", value_name = "NAME")]
    pub(crate) volume_driver: Option<String>,
}
