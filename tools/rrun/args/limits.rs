//! Options that bound what a container uses.

use clap::Args;

// Those that `run`, `create` and `update` share.
#[derive(Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// Weight of block input and output, 10 to 1000; 0 for none
    #[arg(long = "blkio-weight", value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Length of a scheduling period in microseconds
    #[arg(long = "cpu-period", value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of processor time in each period; -1 for no limit
    #[arg(
        long = "cpu-quota",
        value_name = "MICROSECONDS",
        allow_negative_numbers = true
    )]
    pub(crate) cpu_quota: Option<i64>,
    /// Length of a real-time period in microseconds
    #[arg(long = "cpu-rt-period", value_name = "MICROSECONDS")]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time microseconds in each such period
    #[arg(
        long = "cpu-rt-runtime",
        value_name = "MICROSECONDS",
        allow_negative_numbers = true
    )]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Relative processor weight
    #[arg(short = 'c', long = "cpu-shares", value_name = "SHARES")]
    pub(crate) cpu_shares: Option<u64>,
    /// Number of processors, such as 1.5
    #[arg(long, value_name = "DECIMAL")]
    pub(crate) cpus: Option<String>,
    /// Processors to run on, such as 0-3 or 0,1
    #[arg(long = "cpuset-cpus", value_name = "LIST")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use, such as 0-3 or 0,1
    #[arg(long = "cpuset-mems", value_name = "LIST")]
    pub(crate) cpuset_mems: Option<String>,
    /// No longer in kernels
    #[arg(long = "kernel-memory", value_name = "BYTES", hide = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Limit of memory, such as 512m
    #[arg(short = 'm', long, value_name = "BYTES")]
    pub(crate) memory: Option<String>,
    /// Memory that stays when memory is short
    #[arg(long = "memory-reservation", value_name = "BYTES")]
    pub(crate) memory_reservation: Option<String>,
    /// Limit of memory and swap together; -1 for no limit
    #[arg(long = "memory-swap", value_name = "BYTES", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Limit of processes; -1 for no limit
    #[arg(
        long = "pids-limit",
        value_name = "COUNT",
        allow_negative_numbers = true
    )]
    pub(crate) pids_limit: Option<i64>,
}

// Those of `run` and `create` alone.
#[derive(Debug, Default, Args)]
pub(crate) struct DeviceLimitArgs {
    /// Weight of a block device (DEVICE:WEIGHT)
    #[arg(long = "blkio-weight-device", value_name = "DEVICE:WEIGHT")]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Control group in which the container's is made
    #[arg(long = "cgroup-parent", value_name = "GROUP")]
    pub(crate) cgroup_parent: Option<String>,
    /// Devices that may be used, such as 'c 42:* rwm'
    #[arg(long = "device-cgroup-rule", value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Bytes per second read from a device (DEVICE:RATE)
    #[arg(long = "device-read-bps", value_name = "DEVICE:RATE")]
    pub(crate) device_read_bps: Vec<String>,
    /// Reads per second from a device (DEVICE:RATE)
    #[arg(long = "device-read-iops", value_name = "DEVICE:RATE")]
    pub(crate) device_read_iops: Vec<String>,
    /// Bytes per second written to a device (DEVICE:RATE)
    #[arg(long = "device-write-bps", value_name = "DEVICE:RATE")]
    pub(crate) device_write_bps: Vec<String>,
    /// Writes per second to a device (DEVICE:RATE)
    #[arg(long = "device-write-iops", value_name = "DEVICE:RATE")]
    pub(crate) device_write_iops: Vec<String>,
    /// Tendency to swap, 0 to 100; -1 for the host's
    #[arg(
        long = "memory-swappiness",
        value_name = "NUMBER",
        allow_negative_numbers = true
    )]
    pub(crate) memory_swappiness: Option<i64>,
    /// Kill nothing for lack of memory
    #[arg(long = "oom-kill-disable")]
    pub(crate) oom_kill_disable: bool,
}
