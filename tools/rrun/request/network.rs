//! The network of a container as it was asked for: mode, published and exposed ports, names.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use rrun_runner::net::{BRIDGE_GATEWAY, Mac, Protocol, Publish, UplinkChoice};

use crate::args::CreateArgs;
use crate::failure::{ExitCode, Failure};

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A network namespace with nothing but loopback.
    None,
    /// A network namespace with an uplink.
    Private(UplinkChoice),
    /// The host's own.
    Host,
    /// Another container's, by name or id as typed.
    Container(String),
}

impl Mode {
    fn parse(word: Option<&str>) -> Result<Self, Failure> {
        Ok(match word {
            None | Some("private" | "default" | "bridge") => Self::Private(UplinkChoice::Auto),
            Some("none") => Self::None,
            Some("host") => Self::Host,
            Some("pasta") => Self::Private(UplinkChoice::Pasta),
            Some("slirp4netns") => Self::Private(UplinkChoice::Slirp4netns),
            Some("builtin") => Self::Private(UplinkChoice::Builtin),
            Some(other) => match other.strip_prefix("container:") {
                Some("") => {
                    return Err(Failure::flags(
                        "invalid container format container:<name|id>",
                    ));
                }
                Some(name) => Self::Container(name.to_owned()),
                None => {
                    return Err(Failure::new(
                        ExitCode::ENGINE,
                        format!("network {other} not found"),
                    )
                    .hint(
                        "available: bridge (the default), host, none, container:NAME, \
                         pasta, slirp4netns, builtin",
                    ));
                }
            },
        })
    }

    /// The word for it in `inspect`.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Private(UplinkChoice::Auto) => "bridge".to_owned(),
            Self::Private(uplink) => uplink.word().to_owned(),
            Self::Host => "host".to_owned(),
            Self::Container(name) => format!("container:{name}"),
        }
    }
}

/// A port inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

impl Port {
    /// As in `80/tcp`.
    pub(crate) fn text(self) -> String {
        format!("{}/{}", self.number, self.protocol)
    }

    /// Reads `80`, `80/tcp`, `80-82/udp`.
    pub(crate) fn parse_range(text: &str) -> Result<Vec<Self>, String> {
        let (numbers, protocol) = split_protocol(text)?;
        let (first, last) = range(numbers).map_err(|error| format!("invalid port: {error}"))?;
        Ok((first..=last)
            .map(|number| Self { number, protocol })
            .collect())
    }
}

/// What is asked of a container's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkRequest {
    pub(crate) mode: Mode,
    pub(crate) publish: Vec<Publish>,
    pub(crate) publish_all: bool,
    pub(crate) expose: Vec<Port>,
    pub(crate) mac: Option<Mac>,
}

impl NetworkRequest {
    /// Reads the options of `run` and `create`.
    pub(crate) fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let mode = Mode::parse(typed.network.as_deref())?;
        let mut publish = Vec::new();
        for word in &typed.publish {
            publish.extend(publish_word(word).map_err(|reason| {
                Failure::flags(format!(
                    "invalid argument {word:?} for \"-p, --publish\" flag: {reason}"
                ))
            })?);
        }
        let mut expose = Vec::new();
        for word in &typed.expose {
            expose.extend(Port::parse_range(word).map_err(|reason| {
                Failure::flags(format!(
                    "invalid range format for --expose: {word}, error: {reason}"
                ))
            })?);
        }
        let bad = |flag: &str, text: &str, reason: &str| {
            Failure::flags(format!(
                "invalid argument {text:?} for \"{flag}\": {reason}"
            ))
        };
        if let Some(text) = typed.ip.as_deref() {
            text.parse::<Ipv4Addr>()
                .map_err(|_| bad("--ip", text, "not an IPv4 address"))?;
            return Err(Failure::new(
                ExitCode::ENGINE,
                "user specified IP address is supported on user defined networks only",
            ));
        }
        let mac = typed.mac_address.as_deref().map(|text| {
            text.parse::<Mac>()
                .map_err(|error| bad("--mac-address", text, &error.to_string()))
        });
        let this = Self {
            mode,
            publish,
            publish_all: typed.publish_all,
            expose,
            mac: mac.transpose()?,
        };
        this.check(typed)?;
        Ok(this)
    }

    /// Refuses what cannot be had together. Source: Docker's `runconfig`.
    fn check(&self, typed: &CreateArgs) -> Result<(), Failure> {
        let conflicts: &[(bool, &str)] = if let Mode::Container(_) = self.mode {
            &[
                (typed.hostname.is_some(), "hostname and the network mode"),
                (!typed.dns.is_empty(), "dns and the network mode"),
                (
                    !typed.add_host.is_empty(),
                    "custom host-to-IP mapping and the network mode",
                ),
                (self.mac.is_some(), "mac-address and the network mode"),
                (
                    !self.publish.is_empty() || self.publish_all,
                    "port publishing and the container type network mode",
                ),
                (
                    !self.expose.is_empty(),
                    "port exposing and the container type network mode",
                ),
            ]
        } else {
            let own = matches!(self.mode, Mode::Private(_));
            &[(
                self.mac.is_some() && !own,
                "mac-address and the network mode",
            )]
        };
        match conflicts.iter().find(|(found, _)| *found) {
            Some((_, what)) => Err(Failure::flags(format!("conflicting options: {what}"))),
            None => Ok(()),
        }
    }
}

/// The address by which containers reach the host: the bridge's for root, for others the host's
/// own, by which it is known outside.
pub(super) fn host_gateway() -> IpAddr {
    if crate::environment::is_real_root() {
        return BRIDGE_GATEWAY.into();
    }
    // Sends nothing: the kernel only says which of its addresses it would use. The address is one
    // that documentation uses. Source: RFC 5737.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("203.0.113.1:9")?;
        socket.local_addr()
    });
    own.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    let (rest, word) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Ok((rest, Protocol::Tcp)),
        "udp" => Ok((rest, Protocol::Udp)),
        "sctp" => Err("sctp ports cannot be published here".to_owned()),
        _ => Err(format!("invalid proto: {word}")),
    }
}

/// A port or `first-last`.
fn range(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("'{text}' is not a port"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("invalid range specified for port: {text}"));
    }
    Ok((first, last))
}

/// One `-p`. Source: `nat.ParsePortSpec` of docker/go-connections.
fn publish_word(word: &str) -> Result<Vec<Publish>, String> {
    if word.contains('=') {
        return publish_word(&long_form(word)?);
    }
    let (rest, protocol) = split_protocol(word)?;
    let mut parts = rest.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let host = parts.next().unwrap_or_default();
    let ip = parts.next().unwrap_or_default();
    if container.is_empty() {
        return Err(format!("no port specified: {word}<empty>"));
    }
    let inner = ip
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(ip);
    let host_ip: Option<IpAddr> = match inner {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| format!("invalid IP address: {ip}"))?,
        ),
    };
    let (first, last) =
        range(container).map_err(|_| format!("invalid containerPort: {container}"))?;
    if first == 0 {
        return Err(format!("invalid containerPort: {container}"));
    }
    let (host_first, host_last) = match host {
        "" => (0, 0),
        text => range(text).map_err(|_| format!("invalid hostPort: {text}"))?,
    };
    let one = |container_port, host_port, host_port_last| Publish {
        protocol,
        container_port,
        host_ip,
        host_port,
        host_port_last,
    };
    if first == last {
        return Ok(vec![one(first, host_first, host_last)]);
    }
    if host.is_empty() {
        return Ok((first..=last).map(|port| one(port, 0, 0)).collect());
    }
    if last - first != host_last - host_first {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    Ok((first..=last)
        .zip(host_first..=host_last)
        .map(|(port, host)| one(port, host, host))
        .collect())
}

/// Docker's long form: `published=8080,target=80,protocol=tcp`.
fn long_form(word: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in word.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode", _)) => {}
            _ => return Err(format!("invalid field: {field}")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(word: &str) -> Result<String, String> {
        let list = publish_word(word)?;
        let one = |p: &Publish| {
            let ip = p.host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
            let (first, last) = (p.host_port, p.host_port_last);
            format!("{ip}{first}-{last}>{}/{}", p.container_port, p.protocol)
        };
        Ok(list.iter().map(one).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn every_form_of_publish_is_read() {
        let cases = [
            ("80", "0-0>80/tcp"),
            ("8080:80", "8080-8080>80/tcp"),
            ("8080:80/UDP", "8080-8080>80/udp"),
            (":80", "0-0>80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080-8080>80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 0-0>80/tcp"),
            ("[::1]:8080:80", "::1 8080-8080>80/tcp"),
            ("::1:8080:80", "::1 8080-8080>80/tcp"),
            ("[::1]::53/udp", "::1 0-0>53/udp"),
            ("8000-8010:80", "8000-8010>80/tcp"),
            ("8000-8001:80-81", "8000-8000>80/tcp,8001-8001>81/tcp"),
            ("80-81", "0-0>80/tcp,0-0>81/tcp"),
            ("published=8080,target=80,protocol=udp", "8080-8080>80/udp"),
        ];
        for (word, expected) in cases {
            assert_eq!(short(word).as_deref(), Ok(expected), "input {word:?}");
        }
    }

    #[test]
    fn wrong_forms_are_refused_by_name() {
        let cases = [
            ("", "no port"),
            ("8080:", "no port"),
            ("x:80", "invalid hostPort: x"),
            ("8080:x", "invalid containerPort: x"),
            ("8080:0", "invalid containerPort: 0"),
            ("70000:80", "invalid hostPort"),
            ("80/tdp", "invalid proto: tdp"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("8000-8002:80-81", "invalid ranges"),
            ("8002-8000:80", "invalid hostPort"),
        ];
        for (word, part) in cases {
            let error = short(word).unwrap_err();
            assert!(error.contains(part), "input {word:?}: {error}");
        }
    }
}
