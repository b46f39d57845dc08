//! The network of a container: its uplink and its published ports.
//!
//! A private network is a network namespace with loopback and, through an *uplink*, the outside.
//! One process, the *helper* (`rrun __net`), holds what lives in user space: the listening sockets
//! of published ports, our own network stack, or the program that is the uplink. The monitor
//! starts it beside the container and the container's process waits until it is ready.
//!
//! # What dies with what
//!
//! The helper is the first process of a process id namespace, so that whatever it started dies
//! with it, by the kernel's hand. It ends when its line to the monitor closes.

mod bridge;
mod config;
mod helper;
mod inside;
mod listen;
mod nat;
mod netlink;
mod poll;
mod proxy;
mod stack;
mod uplink;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::Pid;

pub use bridge::GATEWAY as BRIDGE_GATEWAY;
pub use config::{BadMac, BoundPort, Mac, NetConfig, NetState, Protocol, Publish, UplinkChoice};
pub use helper::serve;
pub use uplink::{NAME_SERVER, Programs};

use crate::channel::{self, Message};
use crate::config::{ContainerConfig, Network};
use crate::error::{At, Failure, RunnerError};
use crate::monitor::{Child, wait_readable};
use crate::{state, sys};

/// How long a network may take to be ready, in milliseconds: longer than any uplink may.
const READY_MS: u32 = 30_000;

/// The helper of a running container, as its monitor holds it.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) child: Child,
    /// Its end tells the helper to end.
    _line: OwnedFd,
}

impl Helper {
    /// Ends the helper and all it started.
    pub(crate) fn end(self) {
        self.child.signal(libc::SIGKILL);
        self.child.reap();
    }
}

/// Starts the helper of the container whose first process is `init`, and waits until the network
/// is ready. No helper comes back when nothing needs one.
///
/// # Errors
///
/// When a port is taken or the uplink that was asked for does not work.
pub(crate) fn start(
    dir: &Path,
    config: &ContainerConfig,
    init: &Child,
) -> Result<(Option<Helper>, NetState), RunnerError> {
    if config.network != Network::Private || config.net.argv.is_empty() {
        return Ok((None, NetState::default()));
    }
    let (ours, theirs) = channel::pair().at("make a line to the network helper of", dir)?;
    let path = format!("/proc/{}/ns/net", init.pid.as_raw_nonzero());
    let netns = File::open(&path).at("open", path)?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join(crate::monitor::SERVER_LOG));
    let log = log.at("open the log of", dir)?;
    let fds = [
        (log.as_fd(), 2),
        (theirs.as_fd(), helper::LINE_FD),
        (init.pidfd.as_fd(), helper::INIT_FD),
        (netns.as_fd(), helper::NETNS_FD),
    ];
    let program = config.net.argv.first().cloned().unwrap_or_default();
    let pid = sys::spawn(&sys::Spawn {
        argv: &config.net.argv,
        fds: &fds,
        session: false,
    })
    .at("execute the network helper", program)?;
    drop(theirs);
    let first = Child::new(pid).at("watch the network helper of", dir)?;
    let told = hear(&ours, dir);
    // The process we started has left its place to one in a namespace of its own, or has failed.
    let end = |child: Child| {
        child.signal(libc::SIGKILL);
        child.reap();
    };
    let (pid, state) = match told {
        Ok(told) => told,
        Err(error) => {
            end(first);
            // It may have been killed after it took an address and before it said which.
            forget(dir);
            return Err(error);
        }
    };
    end(first);
    // What lives in the kernel alone needs nobody to hold it.
    let Some(pid) = pid else {
        return Ok((None, state));
    };
    let child = Child::new(pid).at("watch the network helper of", dir)?;
    let raw = pid.as_raw_nonzero().get();
    let state = NetState {
        helper_pid: raw,
        helper_start: state::start_time(raw),
        ..state
    };
    let helper = Helper { child, _line: ours };
    Ok((Some(helper), state))
}

/// Hears from the helper until the network is ready.
fn hear(line: &OwnedFd, dir: &Path) -> Result<(Option<Pid>, NetState), RunnerError> {
    let failed = |text: String| RunnerError::Failed(Failure::setup(text));
    // Two processes speak, each when it comes to it.
    let (mut pid, mut network) = (None, None);
    loop {
        match network.take() {
            Some((state, false)) => return Ok((None, state)),
            Some((state, true)) if pid.is_some() => return Ok((pid, state)),
            other => network = other,
        }
        if !wait_readable(line.as_fd(), READY_MS) {
            return Err(failed("the network was not ready in time".to_owned()));
        }
        match channel::receive(line).at("hear from the network helper of", dir)? {
            Some((Message::Process(raw), _)) => pid = Pid::from_raw(raw),
            Some((Message::Failed(failure), _)) => return Err(RunnerError::Failed(failure)),
            Some((Message::Network(state, stays), _)) => network = Some((*state, stays)),
            Some(_) | None => {
                let said = crate::monitor::last_line(&dir.join(crate::monitor::SERVER_LOG));
                return Err(failed(match said {
                    Some(said) => format!("the network helper failed: {said}"),
                    None => "the network helper ended without a word".to_owned(),
                }));
            }
        }
    }
}

/// Largest /etc/hosts that is rewritten.
const HOSTS_BYTES_MAX: u64 = 1 << 20;

/// Writes the container's address into its /etc/hosts, in place: it is mounted already.
pub(crate) fn name_itself(dir: &Path, config: &ContainerConfig, state: &NetState) {
    let path = dir.join("hosts");
    let Ok(bytes) = crate::files::read_bounded(&path, HOSTS_BYTES_MAX) else {
        return;
    };
    let text = with_own_line(
        &String::from_utf8_lossy(&bytes),
        &config.host_words(),
        state.address,
    );
    // A container without its own name in its file works.
    let _left = std::fs::write(path, text);
}

/// A hosts file whose last line names the container itself.
fn with_own_line(text: &str, name: &str, address: Option<Ipv4Addr>) -> String {
    let own = |line: &&str| {
        let is_ours = line
            .strip_suffix(name)
            .and_then(|line| line.strip_suffix('\t'))
            .and_then(|ip| ip.parse::<Ipv4Addr>().ok())
            .is_some_and(|ip| bridge::is_ours(ip) || ip == uplink::ADDRESS || ip.is_loopback());
        !is_ours
    };
    let mut lines: String = text
        .lines()
        .filter(own)
        .map(|line| format!("{line}\n"))
        .collect();
    let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
    lines.push_str(&format!("{address}\t{name}\n"));
    lines
}

/// Ends the network of a container that did not start: its ports are free when this returns.
pub(crate) fn abandon((helper, state): (Option<Helper>, NetState), dir: &Path) {
    if let Some(helper) = helper {
        helper.end();
    }
    release(&state, dir);
}

/// Gives back what the network of a container took of the host.
pub(crate) fn release(state: &NetState, dir: &Path) {
    if let (true, Some(address)) = (state.uplink == UplinkChoice::Bridge.word(), state.address) {
        bridge::release(address, dir);
    }
}

/// Gives back what a start took that was killed before it was written down.
pub(crate) fn forget(dir: &Path) {
    if rustix::process::geteuid().is_root() {
        bridge::forget(dir);
    }
}

/// Ends what a killed monitor left of a network.
pub(crate) fn cleanup(state: &NetState, dir: &Path) {
    release(state, dir);
    if let Some((_, pidfd)) = state::open_process(state.helper_pid, state.helper_start) {
        let _ended = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        // Its ports are free when it is gone, which takes a while: the kernel waits for all
        // processors before its interface is.
        crate::monitor::wait_readable(pidfd.as_fd(), GONE_MS);
    }
}

/// How long a helper that was killed may take to be gone, in milliseconds.
const GONE_MS: u32 = 2000;

/// Moves an interface of the host into a network namespace, where it is up and has another name
/// and its old addresses.
///
/// # Errors
///
/// When there is none of this name, or the caller has no `CAP_NET_ADMIN` on both sides.
pub(crate) fn give_device(
    outside: &str,
    inside: &str,
    netns: &std::os::fd::OwnedFd,
) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    let here = netlink::Route::open()?;
    let index = here.index(outside)?;
    let addresses = here.addresses(index)?;
    here.give(index, inside, netns.as_fd())?;
    inside::within(netns, || {
        let there = netlink::Route::open()?;
        let index = there.index(inside)?;
        there.set_up(index, None, None)?;
        addresses
            .iter()
            .try_for_each(|address| there.put_address(index, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_names_the_container_once() {
        let text = "127.0.0.1\tlocalhost\n1.2.3.4\tbox\n10.87.0.9\tbox\n";
        let now = with_own_line(text, "box", Some(Ipv4Addr::new(10, 87, 0, 2)));
        assert_eq!(now, "127.0.0.1\tlocalhost\n1.2.3.4\tbox\n10.87.0.2\tbox\n");
        assert_eq!(with_own_line("", "box", None), "127.0.0.1\tbox\n");
    }
}
