//! The three files of /etc that belong to a container rather than to its image.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use rrun_runner::{ContainerConfig, Network, net};

use crate::request::Resolver;

/// Where systemd keeps the name servers that its own at 127.0.0.53 asks.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// Name servers when the host names none that can be reached from elsewhere. Source: Docker.
const PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
];

/// The container's /etc/hosts; its own address is added when it has one.
pub(super) fn hosts(resolver: &Resolver, config: &ContainerConfig) -> String {
    let mut text = match config.network {
        Network::Host => fs::read_to_string("/etc/hosts").unwrap_or_default(),
        Network::None | Network::Private | Network::Container | _ => {
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
              fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
              ff02::2\tip6-allrouters\n"
                .to_owned()
        }
    };
    for (host, address) in &resolver.hosts {
        text.push_str(&format!("{address}\t{host}\n"));
    }
    if config.network == Network::None {
        text.push_str(&format!("127.0.0.1\t{}\n", config.host_words()));
    }
    text
}

/// The container's /etc/resolv.conf.
pub(super) fn resolv_conf(resolver: &Resolver, config: &ContainerConfig) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let host = read("/etc/resolv.conf");
    if config.network == Network::Host {
        return adapted(&host, resolver, &[], false);
    }
    let stub = servers(&host).eq(["127.0.0.53"]);
    let upstream = if stub { read(UPSTREAM) } else { String::new() };
    let host = if upstream.is_empty() { host } else { upstream };
    let own = [IpAddr::V4(net::NAME_SERVER)];
    let other = if config.network == Network::Private && config.has_user_namespace() {
        // The uplink asks the host's, wherever that is.
        &own[..]
    } else {
        &PUBLIC[..]
    };
    adapted(&host, resolver, other, true)
}

fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim)
}

/// The host's file with what was asked for in place of what it says. Name servers on the host's
/// own loopback cannot be reached from elsewhere; without any others there are `other`.
fn adapted(host: &str, resolver: &Resolver, other: &[IpAddr], elsewhere: bool) -> String {
    let is_local = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let keep = |line: &&str| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().unwrap_or_default();
                resolver.servers.is_empty() && !(elsewhere && is_local(server))
            }
            Some("search" | "domain") => resolver.search.is_empty(),
            Some("options") => resolver.options.is_empty(),
            Some(word) => !word.starts_with(['#', ';']),
            None => false,
        }
    };
    let mut lines: Vec<String> = host.lines().filter(keep).map(str::to_owned).collect();
    let named = lines.iter().any(|line| line.starts_with("nameserver"));
    let more = if named || !resolver.servers.is_empty() {
        &resolver.servers
    } else {
        other
    };
    lines.extend(more.iter().map(|ip| format!("nameserver {ip}")));
    // A dot alone means none. Source: Docker.
    if !resolver.search.is_empty() && resolver.search != ["."] {
        lines.push(format!("search {}", resolver.search.join(" ")));
    }
    if !resolver.options.is_empty() {
        lines.push(format!("options {}", resolver.options.join(" ")));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(servers: &[&str], search: &[&str]) -> Resolver {
        Resolver {
            hosts: Vec::new(),
            servers: servers.iter().map(|text| text.parse().unwrap()).collect(),
            search: search.iter().map(|text| (*text).to_owned()).collect(),
            options: Vec::new(),
        }
    }

    #[test]
    fn name_servers_of_the_hosts_loopback_are_replaced() {
        let none = asked(&[], &[]);
        let host = "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nsearch lan\n";
        assert_eq!(
            adapted(host, &none, &PUBLIC, true),
            "nameserver 9.9.9.9\nsearch lan\n"
        );
        let local = "nameserver 127.0.0.1\nnameserver ::1\noptions edns0\n";
        assert_eq!(
            adapted(local, &none, &PUBLIC, true),
            "options edns0\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert_eq!(adapted(local, &none, &[], false), local);
    }

    #[test]
    fn what_is_asked_for_wins() {
        let host = "nameserver 9.9.9.9\nsearch lan\n";
        let own = asked(&["1.2.3.4"], &["a", "b"]);
        assert_eq!(
            adapted(host, &own, &PUBLIC, true),
            "nameserver 1.2.3.4\nsearch a b\n"
        );
        assert_eq!(
            adapted(host, &asked(&[], &["."]), &[], true),
            "nameserver 9.9.9.9\n"
        );
    }
}
