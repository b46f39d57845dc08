//! What the network of a container is to be, and what it became.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The network part of a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetConfig {
    /// What connects a private network to the outside.
    pub uplink: UplinkChoice,
    /// Ports of the host that lead into the container.
    pub publish: Vec<Publish>,
    /// The id of the container whose network is shared, with [`crate::Network::Container`].
    pub join: Option<String>,
    /// The hardware address asked for.
    pub mac: Option<Mac>,
    /// The command that runs the network helper.
    pub argv: Vec<OsString>,
}

/// What connects a private network to the outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum UplinkChoice {
    /// A bridge for root; for others the first that works of the rest, in this order.
    #[default]
    Auto,
    /// A bridge of the kernel, shared by the containers of root.
    Bridge,
    /// The program `pasta`.
    Pasta,
    /// The program `slirp4netns`.
    Slirp4netns,
    /// A network stack of our own.
    Builtin,
}

impl UplinkChoice {
    /// The word for it on the command line and in `inspect`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bridge => "bridge",
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
            Self::Builtin => "builtin",
        }
    }
}

/// A transport protocol that ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the container that is to be reached through the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Its transport.
    pub protocol: Protocol,
    /// Its number inside.
    pub container_port: u16,
    /// The host's address to listen on; `None` is every address of both families.
    pub host_ip: Option<IpAddr>,
    /// The first port of the host that will do; 0 lets the kernel choose.
    pub host_port: u16,
    /// The last port of the host that will do.
    pub host_port_last: u16,
}

/// A port that is published now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    /// Its transport.
    pub protocol: Protocol,
    /// Its number inside.
    pub container_port: u16,
    /// The host's address that is listened on.
    pub host_ip: IpAddr,
    /// The host's port that is listened on.
    pub host_port: u16,
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The text is not six pairs of hex digits of an address of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMac;

impl fmt::Display for BadMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a hardware address of one machine, such as 02:42:ac:11:00:02")
    }
}

impl std::error::Error for BadMac {}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl std::str::FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let mut bytes = [0_u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(BadMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| BadMac)?;
        }
        // The lowest bit marks a group of machines.
        let group = bytes.first().is_some_and(|byte| byte & 1 != 0);
        if parts.next().is_some() || group {
            return Err(BadMac);
        }
        Ok(Self(bytes))
    }
}

/// What the network of a running container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetState {
    /// What connects it to the outside: a word of [`UplinkChoice`], or nothing.
    pub uplink: String,
    /// Its address, when it has one beside loopback.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix in bits.
    pub prefix_bits: u8,
    /// Where packets for elsewhere go.
    pub gateway: Option<Ipv4Addr>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Ports of the host that lead into it.
    pub ports: Vec<BoundPort>,
    /// Host id of the network helper; 0 without one.
    pub helper_pid: i32,
    /// Start time of that process.
    pub helper_start: u64,
    /// What could not be honoured.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: Mac = "02:42:AC:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42",
            "01:00:5e:00:00:01",
            "02:42:ac:11:00:02:03",
            "02:42:ac:11:00:zz",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(BadMac), "input {bad:?}");
        }
    }
}
