//! The network helper's own life: set up, say so, carry, end with the monitor.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::Signal;

use super::bridge;
use super::config::{Mac, NetState, UplinkChoice};
use super::inside::{Inside, within};
use super::listen::{self, Listener};
use super::poll::{Kind, Poller};
use super::proxy::Proxy;
use super::stack::Stack;
use super::uplink::{self, Place, Programs, Uplink};
use crate::channel::{self, Message};
use crate::config::ContainerConfig;
use crate::error::{Failure, Step as _};
use crate::sys;

/// The line to the monitor.
pub(super) const LINE_FD: i32 = 3;
/// The pid descriptor of the container's first process.
pub(super) const INIT_FD: i32 = 4;
/// The container's network namespace.
pub(super) const NETNS_FD: i32 = 5;
/// The file in the container directory on which the namespace is mounted, for programs that want
/// a path; in the helper's own mount namespace only.
const NETNS_FILE: &str = "netns";

/// Runs the network helper of the container in `dir`: the body of `rrun __net`. Expects a process
/// with one thread and what the monitor leaves.
///
/// # Errors
///
/// When the descriptors are not there. Other failures are told to the monitor.
pub fn serve(dir: &Path, programs: &Programs) -> Result<(), crate::RunnerError> {
    use crate::error::At;
    let take = |number: i32| sys::inherited(number).at("take over", "the network helper's lines");
    let (line, init, netns) = (take(LINE_FD)?, take(INIT_FD)?, take(NETNS_FD)?);
    let config = ContainerConfig::load(dir)?;
    let outcome = run(dir, &config, programs, &line, (&init, netns));
    if let Err(failure) = outcome {
        // A monitor that is gone needs no telling.
        let _gone = channel::send(line.as_fd(), &Message::Failed(failure), &[]);
    }
    Ok(())
}

fn run(
    dir: &Path,
    config: &ContainerConfig,
    programs: &Programs,
    line: &OwnedFd,
    (init, netns): (&OwnedFd, OwnedFd),
) -> Result<(), Failure> {
    // Where a helper died under a running container, the next one goes on.
    let before = crate::state::read_claim(dir).unwrap_or_default();
    let before = if before.status == crate::Status::Created {
        NetState::default()
    } else {
        before.network
    };
    let listeners = listen::all(dir, config, &before.ports)?;
    let mut state = NetState::default();
    let plugged_in = before.uplink == UplinkChoice::Bridge.word();
    let root = !config.has_user_namespace();
    if root && matches!(config.net.uplink, UplinkChoice::Auto | UplinkChoice::Bridge) {
        if plugged_in {
            state = before;
        } else {
            plug_in(dir, config, &netns, &mut state)?;
        }
        if listeners.is_empty() {
            return channel::send(line.as_fd(), &Message::Network(Box::new(state), false), &[])
                .step("speak to the monitor");
        }
    } else if !root {
        sys::setns(init.as_fd(), sys::CLONE_NEWUSER).step("join the user namespace")?;
    }
    sys::unshare(sys::CLONE_NEWPID).step("make a process namespace for the network helper")?;
    match sys::fork(sys::CLONE_PARENT).step("start the network helper")? {
        sys::Fork::Parent(pid) => {
            let raw = pid.as_raw_nonzero().get();
            let told = channel::send(line.as_fd(), &Message::Process(raw), &[]);
            told.step("speak to the monitor")
        }
        sys::Fork::Child => {
            let helper = Life {
                dir,
                config,
                programs,
                line,
                netns,
                listeners,
                state,
            };
            if let Err(failure) = helper.live() {
                let _gone = channel::send(line.as_fd(), &Message::Failed(failure), &[]);
            }
            sys::exit_now(0)
        }
    }
}

/// Connects the container to the bridge; a default that does not work is a warning.
fn plug_in(
    dir: &Path,
    config: &ContainerConfig,
    netns: &OwnedFd,
    state: &mut NetState,
) -> Result<(), Failure> {
    let plugged = bridge::connect(dir, &config.id, config.net.mac, netns, state);
    let address = match (plugged, state.address) {
        (Ok(()), Some(address)) => address,
        (Ok(()), None) => return Ok(()),
        (Err(text), _) if config.net.uplink == UplinkChoice::Auto => {
            let text = format!("the container has no way to the outside: {text}");
            state.warnings.push(text);
            return Ok(());
        }
        (Err(text), _) => return Err(Failure::setup(text)),
    };
    UplinkChoice::Bridge.word().clone_into(&mut state.uplink);
    within(netns, || bridge::configure(address)).map_err(|error| {
        bridge::release(address, dir);
        Failure::setup(format!("could not give the container its address: {error}"))
    })
}

/// What the process that stays begins with.
struct Life<'a> {
    dir: &'a Path,
    config: &'a ContainerConfig,
    programs: &'a Programs,
    line: &'a OwnedFd,
    netns: OwnedFd,
    listeners: Vec<Listener>,
    state: NetState,
}

impl Life<'_> {
    fn live(mut self) -> Result<(), Failure> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .step("ask to die with the monitor")?;
        let poller = Poller::new().step("wait for events")?;
        poller
            .add(self.line, Kind::Line, 0)
            .step("watch the monitor")?;
        let mut state = std::mem::take(&mut self.state);
        let mut uplink = None;
        if state.uplink.is_empty() {
            uplink = self.connect(&poller, &mut state)?;
        }
        match &uplink {
            Some(Way::Program(program)) => poller.add(&program.pidfd, Kind::Child, 0),
            Some(Way::Builtin(_)) | None => Ok(()),
        }
        .step("watch the uplink")?;
        state.ports = self.listeners.iter().map(|one| one.port.clone()).collect();
        let target = state.address.unwrap_or(std::net::Ipv4Addr::LOCALHOST);
        let mut proxy = None;
        if !self.listeners.is_empty() {
            let inside = Inside::start(self.netns).step("join the container's network")?;
            let made = Proxy::new(inside, self.listeners, target, &poller);
            proxy = Some(made.step("watch the published ports")?);
        }
        channel::send(
            self.line.as_fd(),
            &Message::Network(Box::new(state), true),
            &[],
        )
        .step("speak to the monitor")?;
        carry(&poller, proxy, uplink)
    }
}

/// What carries a container's packets to the outside.
#[derive(Debug)]
enum Way {
    /// A program.
    Program(Uplink),
    /// Our own stack.
    Builtin(Box<Stack>),
}

/// Carries until the monitor is gone.
fn carry(
    poller: &Poller,
    mut proxy: Option<Proxy>,
    mut uplink: Option<Way>,
) -> Result<(), Failure> {
    let mut events = Vec::new();
    loop {
        let mut timeout_ms = proxy.as_ref().and_then(Proxy::timeout_ms);
        if let Some(Way::Builtin(stack)) = &mut uplink {
            timeout_ms = [timeout_ms, stack.timeout_ms()].into_iter().flatten().min();
        }
        poller
            .wait(timeout_ms, &mut events)
            .step("wait for events")?;
        for event in &events {
            match (event.kind, &mut proxy, &mut uplink) {
                // The monitor says nothing any more; this is its end.
                (Kind::Line, _, _) => return Ok(()),
                (Kind::Child, _, Some(Way::Program(program))) => {
                    let text = format!("the uplink {}", program.reap());
                    return Err(Failure::setup(text));
                }
                (Kind::Listener, Some(proxy), _) => proxy.listener(event.index, poller),
                (Kind::Stream, Some(proxy), _) => proxy.stream(event.index, poller),
                (Kind::Session, Some(proxy), _) => proxy.session(event.index),
                (Kind::Interface, _, Some(Way::Builtin(stack))) => stack.receive(poller),
                (Kind::Flow, _, Some(Way::Builtin(stack))) => stack.flow(event.index),
                (Kind::Datagram, _, Some(Way::Builtin(stack))) => stack.datagram(event.index),
                _ => {}
            }
        }
        if let Some(proxy) = &mut proxy {
            proxy.tick(poller);
        }
        if let Some(Way::Builtin(stack)) = &mut uplink {
            stack.tick(poller);
        }
    }
}

impl Life<'_> {
    /// Makes the uplink that was asked for, or the first that works.
    fn connect(&self, poller: &Poller, state: &mut NetState) -> Result<Option<Way>, Failure> {
        let asked = self.config.net.uplink;
        let root = !self.config.has_user_namespace();
        let order = match asked {
            // Root's way was tried before.
            UplinkChoice::Auto if root => return Ok(None),
            UplinkChoice::Auto => self.programs.order(),
            UplinkChoice::Bridge
            | UplinkChoice::Pasta
            | UplinkChoice::Slirp4netns
            | UplinkChoice::Builtin => vec![asked],
        };
        if order.iter().any(|choice| *choice != UplinkChoice::Builtin) {
            show(&self.netns, &self.dir.join(NETNS_FILE))
                .step("show the uplink the network namespace")?;
        }
        // All containers behind such an uplink have one address; so they have one of these too.
        let mac = self.config.net.mac.unwrap_or(DEFAULT_MAC);
        let mut refused = Vec::new();
        for choice in order {
            match self.connect_by(choice, mac, poller) {
                Ok(uplink) => {
                    choice.word().clone_into(&mut state.uplink);
                    state.address = Some(uplink::ADDRESS);
                    state.prefix_bits = uplink::PREFIX_BITS;
                    state.gateway = Some(uplink::GATEWAY);
                    state.mac = Some(mac);
                    return Ok(Some(uplink));
                }
                Err(text) => refused.push(format!("{}: {text}", choice.word())),
            }
        }
        let refused = refused.join("; ");
        let text = format!("the container has no way to the outside: {refused}");
        if asked == UplinkChoice::Auto {
            state.warnings.push(text);
            return Ok(None);
        }
        Err(Failure::setup(text))
    }

    fn connect_by(&self, choice: UplinkChoice, mac: Mac, poller: &Poller) -> Result<Way, String> {
        let missing = || "not installed".to_owned();
        let (program, start): (_, Starter) = match choice {
            UplinkChoice::Pasta => {
                let program = self.programs.pasta.as_deref();
                (program.ok_or_else(missing)?, uplink::pasta)
            }
            UplinkChoice::Slirp4netns => {
                let program = self.programs.slirp4netns.as_deref();
                (program.ok_or_else(missing)?, uplink::slirp4netns)
            }
            UplinkChoice::Builtin => {
                // A choice of the user's own stays.
                let unpaced = !self.config.sysctls.contains_key(CONGESTION_KEY);
                let made = Stack::make_interface(&self.netns, mac, unpaced);
                let fd = made.map_err(|error| format!("could not make eth0: {error}"))?;
                let stack = Stack::new(fd, poller).map_err(|error| error.to_string())?;
                return Ok(Way::Builtin(Box::new(stack)));
            }
            UplinkChoice::Auto | UplinkChoice::Bridge => return Err("is root's alone".to_owned()),
        };
        let place = Place {
            netns: &self.dir.join(NETNS_FILE),
            dir: self.dir,
            mac,
        };
        start(program, &place).map(Way::Program)
    }
}

/// Starts a program that is an uplink.
type Starter = fn(&Path, &Place<'_>) -> Result<Uplink, String>;

/// The kernel parameter that is the congestion control of a network namespace's sockets.
const CONGESTION_KEY: &str = "net.ipv4.tcp_congestion_control";

/// The hardware address of a container whose address is [`uplink::ADDRESS`].
const DEFAULT_MAC: Mac = Mac([0x02, 0x42, 10, 0, 2, 100]);

/// Mounts a namespace on a file, where only this process and its children see it.
fn show(netns: &OwnedFd, file: &Path) -> std::io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    use std::os::fd::AsRawFd;
    let options = File::options().create(true).append(true).open(file)?;
    drop(options);
    sys::unshare(sys::CLONE_NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), file)?;
    Ok(())
}
