//! The host's side of published ports: sockets that are bound and listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};

use super::config::{BoundPort, NetConfig, Protocol, Publish};
use crate::config::ContainerConfig;
use crate::error::Failure;
use crate::state::{self, Status};

/// Connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How often a port that the kernel chose for one family may be taken in the other.
const TRIES_MAX: u32 = 32;

/// A bound socket of the host and what it stands for.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) port: BoundPort,
}

/// Binds every published port of a container, all or none.
///
/// `kept` are ports chosen earlier for the same run of the container: they are bound again.
///
/// # Errors
///
/// With Docker's words when a port is taken or not allowed.
pub(crate) fn all(
    dir: &Path,
    config: &ContainerConfig,
    kept: &[BoundPort],
) -> Result<Vec<Listener>, Failure> {
    let NetConfig { publish, .. } = &config.net;
    let mut listeners = Vec::new();
    for one in publish {
        let pinned = kept
            .iter()
            .find(|port| {
                port.protocol == one.protocol
                    && port.container_port == one.container_port
                    && one.host_ip.is_none_or(|ip| ip == port.host_ip)
                    && !listeners
                        .iter()
                        .any(|other: &Listener| other.port == **port)
            })
            .map(|port| port.host_port);
        let bound = bind_one(one, pinned).map_err(|refused| {
            let text = explain(dir, &refused, &listeners);
            Failure::setup(format!(
                "driver failed programming external connectivity on endpoint {} ({}): {text}",
                config.name, config.id
            ))
        })?;
        listeners.extend(bound);
    }
    Ok(listeners)
}

/// What could not be bound, and why.
#[derive(Debug)]
struct Refused {
    protocol: Protocol,
    address: SocketAddr,
    errno: Errno,
}

/// Docker's words for a port that cannot be had.
fn explain(dir: &Path, refused: &Refused, own: &[Listener]) -> String {
    let Refused {
        protocol,
        address,
        errno,
    } = refused;
    let same = |port: &BoundPort| {
        port.protocol == *protocol
            && port.host_port == address.port()
            && (port.host_ip == address.ip()
                || port.host_ip.is_unspecified()
                || address.ip().is_unspecified())
    };
    if *errno == Errno::ADDRINUSE
        && (own.iter().any(|listener| same(&listener.port)) || published_elsewhere(dir, &same))
    {
        return format!("Bind for {address} failed: port is already allocated");
    }
    let family = if address.is_ipv4() { "4" } else { "6" };
    let reason = match *errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::ACCESS => format!(
            "permission denied; ports below {} are root's here (sysctl net.ipv4.ip_unprivileged_port_start)",
            first_unprivileged_port()
        ),
        other => io::Error::from(other).to_string(),
    };
    format!("Error starting userland proxy: listen {protocol}{family} {address}: bind: {reason}")
}

fn first_unprivileged_port() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .map_or_else(|_| "1024".to_owned(), |text| text.trim().to_owned())
}

/// Whether a running container beside this one publishes a port that `same` knows.
fn published_elsewhere(dir: &Path, same: &dyn Fn(&BoundPort) -> bool) -> bool {
    let Some(Ok(entries)) = dir.parent().map(std::fs::read_dir) else {
        return false;
    };
    entries.flatten().any(|entry| {
        state::read(&entry.path()).is_ok_and(|state| {
            matches!(state.status, Status::Running | Status::Paused)
                && state.network.ports.iter().any(same)
        })
    })
}

fn bind_one(publish: &Publish, pinned: Option<u16>) -> Result<Vec<Listener>, Refused> {
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let ips = match publish.host_ip {
        Some(ip) => vec![ip],
        None => vec![v4, IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
    };
    let (first, last) = match pinned {
        Some(port) => (port, port),
        None => (
            publish.host_port,
            publish.host_port_last.max(publish.host_port),
        ),
    };
    let mut refused = None;
    for port in first..=last {
        match bind_port(publish, &ips, port) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or(Refused {
        protocol: publish.protocol,
        address: SocketAddr::new(v4, first),
        errno: Errno::INVAL,
    }))
}

/// Binds one port on all addresses; port 0 becomes the same number on all of them.
fn bind_port(publish: &Publish, ips: &[IpAddr], port: u16) -> Result<Vec<Listener>, Refused> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_same(publish, ips, port) {
            Err(refused) if port == 0 && refused.errno == Errno::ADDRINUSE && tries < TRIES_MAX => {
            }
            other => return other,
        }
    }
}

fn bind_same(publish: &Publish, ips: &[IpAddr], port: u16) -> Result<Vec<Listener>, Refused> {
    let mut port = port;
    let mut listeners: Vec<Listener> = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        let refused = |errno| Refused {
            protocol: publish.protocol,
            address,
            errno,
        };
        let socket = match open(publish.protocol, address) {
            Ok(socket) => socket,
            // A host without IPv6 publishes on IPv4 alone, unless IPv6 was asked for.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if !listeners.is_empty() => continue,
            Err(errno) => return Err(refused(errno)),
        };
        port = getsockname(&socket)
            .and_then(SocketAddr::try_from)
            .map_err(refused)?
            .port();
        listeners.push(Listener {
            socket,
            port: BoundPort {
                protocol: publish.protocol,
                container_port: publish.container_port,
                host_ip: *ip,
                host_port: port,
            },
        });
    }
    Ok(listeners)
}

fn open(protocol: Protocol, address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Lets a restart have the port of connections that are just ending.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if protocol == Protocol::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(host_port: u16, host_port_last: u16) -> Publish {
        Publish {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host_port,
            host_port_last,
        }
    }

    fn config(ports: Vec<Publish>) -> ContainerConfig {
        ContainerConfig {
            name: "web".to_owned(),
            net: NetConfig {
                publish: ports,
                ..NetConfig::default()
            },
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn a_taken_port_is_refused_in_dockers_words() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        let refused = all(dir.path(), &config(vec![publish(port, port)]), &[]).unwrap_err();
        let said = format!("listen tcp4 127.0.0.1:{port}: bind: address already in use");
        assert!(refused.text.contains(&said), "{}", refused.text);
        drop(foreign);
        let twice = config(vec![publish(port, port), publish(port, port)]);
        let refused = all(dir.path(), &twice, &[]).unwrap_err();
        let said = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
        assert!(refused.text.contains(&said), "{}", refused.text);
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_zero_any() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        if port < u16::MAX {
            let bound = all(dir.path(), &config(vec![publish(port, u16::MAX)]), &[]).unwrap();
            assert!(bound[0].port.host_port > port);
        }
        let mut any = publish(0, 0);
        any.host_ip = None;
        let bound = all(dir.path(), &config(vec![any.clone()]), &[]).unwrap();
        let first = bound[0].port.clone();
        assert!(
            bound
                .iter()
                .all(|one| one.port.host_port == first.host_port)
        );
        drop(bound);
        let again = all(dir.path(), &config(vec![any]), std::slice::from_ref(&first)).unwrap();
        assert_eq!(again[0].port.host_port, first.host_port);
    }
}
