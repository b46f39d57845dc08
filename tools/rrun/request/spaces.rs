//! Namespaces as typed: of whom a container has which.

use crate::args::CreateArgs;
use crate::failure::Failure;

/// The PID namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pid {
    Own,
    Host,
    /// Another container's, by name or id as typed.
    Container(String),
}

/// The IPC namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ipc {
    /// Its own, for itself.
    Own,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    Host,
    /// Another container's, by name or id as typed.
    Container(String),
}

/// Namespaces besides the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spaces {
    pub(crate) pid: Pid,
    pub(crate) ipc: Ipc,
    pub(crate) host_uts: bool,
    pub(crate) host_cgroup: bool,
}

impl Spaces {
    /// Source of the words: docker/cli, `parse`; moby, `validateHostConfig`.
    pub(super) fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let container = |text: &str| {
            let name = text.strip_prefix("container:")?;
            (!name.is_empty()).then(|| name.to_owned())
        };
        let bad = |flag: &str, what: &str, there: &str| {
            Failure::flags(format!("--{flag}: invalid {what} mode"))
                .hint(format!("there are: {there}"))
        };
        let pid = match typed.pid.as_deref() {
            None | Some("" | "private") => Pid::Own,
            Some("host") => Pid::Host,
            Some(text) => Pid::Container(
                container(text).ok_or_else(|| bad("pid", "PID", "host, container:NAME"))?,
            ),
        };
        let ipc = match typed.ipc.as_deref() {
            None | Some("" | "private") => Ipc::Own,
            Some("shareable") => Ipc::Shareable,
            Some("none") => Ipc::None,
            Some("host") => Ipc::Host,
            Some(text) => Ipc::Container(container(text).ok_or_else(|| {
                bad(
                    "ipc",
                    "IPC",
                    "private, shareable, none, host, container:NAME",
                )
            })?),
        };
        let host = |mode: Option<&str>, flag: &str, what: &str| match mode {
            None | Some("" | "private") => Ok(false),
            Some("host") => Ok(true),
            Some(_) => Err(bad(flag, what, "host, private")),
        };
        let host_uts = host(typed.uts.as_deref(), "uts", "UTS")?;
        let host_cgroup = host(typed.cgroupns.as_deref(), "cgroupns", "CGROUP")?;
        // Ours is the user's own or root's, as that of Docker's daemon is; host leaves it so.
        host(typed.userns.as_deref(), "userns", "USER")?;
        if host_uts && (typed.hostname.is_some() || typed.domainname.is_some()) {
            return Err(Failure::flags(
                "conflicting options: hostname and the UTS mode",
            ));
        }
        if typed.init && pid != Pid::Own {
            // Docker's init would be started too, and reap nothing.
            crate::report::warn("--init reaps nothing in a PID namespace of others");
        }
        Ok(Self {
            pid,
            ipc,
            host_uts,
            host_cgroup,
        })
    }
}
