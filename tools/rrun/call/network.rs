//! Networks of containers as users see them: `port`, and the parts of `ps` and `inspect`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rrun_runner::net::{BoundPort, NetConfig, Protocol, Publish, UplinkChoice};
use rrun_runner::{Container, ContainerConfig, Network, Status, container, names};
use serde_json::{Map, Value, json};

use super::hidden::Parts;
use crate::args::PortArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;
use crate::request::{CreateRequest, Mode, Port};

/// Where the exposed ports are kept in a configuration.
const EXPOSED: &str = "exposed";

/// The exposed ports of an image and of the request.
fn exposed_ports(request: &CreateRequest, defaults: &Value) -> Vec<Port> {
    let image = defaults.get("ExposedPorts").and_then(Value::as_object);
    let names = image.into_iter().flat_map(Map::keys);
    let mut ports: Vec<Port> = names
        .filter_map(|name| Port::parse_range(name).ok())
        .flatten()
        .collect();
    ports.extend(&request.network.expose);
    ports.extend(request.network.publish.iter().map(|one| Port {
        number: one.container_port,
        protocol: one.protocol,
    }));
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// What the runner calls the network that is asked for.
pub(super) fn kind(request: &CreateRequest) -> Network {
    match &request.network.mode {
        Mode::Host => Network::Host,
        Mode::None => Network::None,
        Mode::Private(_) => Network::Private,
        Mode::Container(_) => Network::Container,
    }
}

/// The container whose network is to be shared.
pub(super) fn joined(
    request: &CreateRequest,
    environment: &Environment,
) -> Result<Option<ContainerConfig>, Failure> {
    let Mode::Container(name) = &request.network.mode else {
        return Ok(None);
    };
    let engine = |failure: Failure| failure.code(ExitCode::ENGINE);
    let dir = names::resolve(&environment.containers(), name)
        .map_err(|error| engine(Failure::from(error)))?;
    let other = ContainerConfig::load(&dir)?;
    match other.network {
        Network::Host => Err(Failure::new(
            ExitCode::ENGINE,
            format!("container {name} has the host's network: use --network host"),
        )),
        Network::Container => {
            let other = other.net.join.unwrap_or_default();
            Ok(Some(ContainerConfig::load(
                &environment.containers().join(other),
            )?))
        }
        Network::None | Network::Private | _ => Ok(Some(other)),
    }
}

/// Puts what is asked of the network into a configuration.
pub(crate) fn compose(
    request: &CreateRequest,
    defaults: &Value,
    joined: Option<&ContainerConfig>,
    config: &mut ContainerConfig,
) -> Result<(), Failure> {
    let asked = &request.network;
    let exposed = exposed_ports(request, defaults);
    let words: Vec<String> = exposed.iter().map(|port| port.text()).collect();
    config.extra.insert(EXPOSED.to_owned(), json!(words));
    let word = match joined {
        Some(other) => format!("container:{}", other.id),
        None => asked.mode.word(),
    };
    config.extra.insert("network".to_owned(), json!(word));
    config.net.join = joined.map(|other| other.id.clone());
    let Mode::Private(uplink) = asked.mode else {
        if asked.mode == Mode::Host && !asked.publish.is_empty() {
            report::warn("Published ports are discarded when using host network mode");
        }
        return Ok(());
    };
    let mut publish = asked.publish.clone();
    if asked.publish_all {
        config
            .extra
            .insert("publish-all".to_owned(), Value::Bool(true));
        for port in exposed {
            let named =
                |one: &Publish| one.container_port == port.number && one.protocol == port.protocol;
            if !asked.publish.iter().any(named) {
                publish.push(Publish {
                    protocol: port.protocol,
                    container_port: port.number,
                    host_ip: None,
                    host_port: 0,
                    host_port_last: 0,
                });
            }
        }
    }
    config.net = NetConfig {
        join: None,
        uplink,
        publish,
        mac: asked.mac,
        argv: Parts::of_self()?.net(&config.id),
    };
    Ok(())
}

fn exposed(one: &Container) -> Vec<Port> {
    let kept = one.config.extra.get(EXPOSED).and_then(Value::as_array);
    let words = kept.into_iter().flatten().filter_map(Value::as_str);
    words
        .filter_map(|word| Port::parse_range(word).ok())
        .flatten()
        .collect()
}

fn is_up(one: &Container) -> bool {
    matches!(one.state.status, Status::Running | Status::Paused)
}

/// The published ports, ordered as Docker orders them.
fn bound(one: &Container) -> Vec<&BoundPort> {
    let mut ports: Vec<&BoundPort> = one.state.network.ports.iter().collect();
    ports.sort_by_key(|port| {
        (
            port.container_port,
            port.protocol,
            port.host_ip,
            port.host_port,
        )
    });
    ports
}

/// `Config.ExposedPorts` of `inspect`.
pub(crate) fn exposed_object(one: &Container) -> Value {
    let ports = exposed(one);
    let list = ports.into_iter().map(|port| (port.text(), json!({})));
    Value::Object(list.collect())
}

/// `HostConfig.PortBindings` of `inspect`.
pub(crate) fn bindings_object(one: &Container) -> Value {
    let all = one.config.extra.contains_key("publish-all");
    let mut map = Map::new();
    for publish in &one.config.net.publish {
        let port = Port {
            number: publish.container_port,
            protocol: publish.protocol,
        };
        // What -P adds is not asked for by number.
        if all && publish.host_port == 0 && publish.host_ip.is_none() {
            continue;
        }
        let host_port = match (publish.host_port, publish.host_port_last) {
            (0, _) => String::new(),
            (first, last) if last > first => format!("{first}-{last}"),
            (first, _) => first.to_string(),
        };
        let host_ip = publish.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let binding = json!({"HostIp": host_ip, "HostPort": host_port});
        let list = map.entry(port.text()).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(binding);
        }
    }
    Value::Object(map)
}

/// `HostConfig.PublishAllPorts` of `inspect`.
pub(crate) fn publishes_all(one: &Container) -> bool {
    one.config.extra.contains_key("publish-all")
}

/// The name of a container's network: what it was asked to be.
pub(crate) fn name(one: &Container) -> String {
    let kept = one.config.extra.get("network").and_then(Value::as_str);
    match kept {
        Some("private") | None => match one.config.network {
            Network::Host => "host".to_owned(),
            Network::Private => "bridge".to_owned(),
            Network::None | _ => "none".to_owned(),
        },
        Some(name) => name.to_owned(),
    }
}

/// `NetworkSettings` of `inspect`.
pub(crate) fn settings(one: &Container) -> Value {
    let mut ports = Map::new();
    if is_up(one) {
        for port in exposed(one) {
            ports.insert(port.text(), Value::Null);
        }
        for port in bound(one) {
            let text = format!("{}/{}", port.container_port, port.protocol);
            let binding = json!({
                "HostIp": port.host_ip.to_string(),
                "HostPort": port.host_port.to_string(),
            });
            match ports.get_mut(&text).and_then(Value::as_array_mut) {
                Some(list) => list.push(binding),
                None => drop(ports.insert(text, json!([binding]))),
            }
        }
    }
    let net = &one.state.network;
    let text = |ip: Option<std::net::Ipv4Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let (address, gateway) = (text(net.address), text(net.gateway));
    let mac = net.mac.map(|mac| mac.to_string()).unwrap_or_default();
    let mut networks = Map::new();
    let name = name(one);
    if !name.starts_with("container:") {
        networks.insert(
            name,
            json!({
                "IPAMConfig": null,
                "Links": null,
                "Aliases": null,
                "MacAddress": mac,
                "DriverOpts": net_driver(one),
                "NetworkID": "",
                "EndpointID": "",
                "Gateway": gateway,
                "IPAddress": address,
                "IPPrefixLen": net.prefix_bits,
                "IPv6Gateway": "",
                "GlobalIPv6Address": "",
                "GlobalIPv6PrefixLen": 0,
                "DNSNames": null,
            }),
        );
    }
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": if is_up(one) { format!("/proc/{}/ns/net", one.state.pid) } else { String::new() },
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": gateway,
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": address,
        "IPPrefixLen": net.prefix_bits,
        "IPv6Gateway": "",
        "MacAddress": mac,
        "Networks": networks,
    })
}

/// What the network really runs on, where Docker has options of a driver.
fn net_driver(one: &Container) -> Value {
    let uplink = &one.state.network.uplink;
    if uplink.is_empty() {
        return Value::Null;
    }
    json!({"rrun.uplink": uplink})
}

/// The PORTS column of `ps`. Source: `DisplayablePorts` of docker/cli.
pub(crate) fn column(one: &Container) -> String {
    if !is_up(one) {
        return String::new();
    }
    let mut ports: Vec<(u16, String, u16, Protocol)> = bound(one)
        .iter()
        .map(|port| {
            let ip = port.host_ip.to_string();
            (port.container_port, ip, port.host_port, port.protocol)
        })
        .collect();
    for port in exposed(one) {
        let is_bound = |(number, _, _, protocol): &(u16, String, u16, Protocol)| {
            *number == port.number && *protocol == port.protocol
        };
        if !ports.iter().any(is_bound) {
            ports.push((port.number, String::new(), 0, port.protocol));
        }
    }
    ports.sort();
    grouped(&ports)
}

/// Joins runs of ports that keep their number.
fn grouped(ports: &[(u16, String, u16, Protocol)]) -> String {
    let mut result = Vec::new();
    let mut moved = Vec::new();
    let mut groups: BTreeMap<(usize, String, Protocol), (u16, u16)> = BTreeMap::new();
    let mut order: Vec<(String, Protocol)> = Vec::new();
    for (port, ip, host_port, protocol) in ports {
        if !ip.is_empty() && host_port != port {
            let host = address(ip, &host_port.to_string());
            moved.push(format!("{host}->{port}/{protocol}"));
            continue;
        }
        let key = (ip.clone(), *protocol);
        let position = order.iter().position(|known| *known == key);
        let position = position.unwrap_or_else(|| {
            order.push(key);
            order.len() - 1
        });
        let group = groups
            .entry((position, ip.clone(), *protocol))
            .or_insert((*port, *port));
        if *port == group.1 || group.1.checked_add(1) == Some(*port) {
            group.1 = *port;
        } else {
            result.push(group_text(ip, *protocol, *group));
            *group = (*port, *port);
        }
    }
    for ((_, ip, protocol), group) in &groups {
        result.push(group_text(ip, *protocol, *group));
    }
    result.extend(moved);
    result.join(", ")
}

fn address(ip: &str, port: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn group_text(ip: &str, protocol: Protocol, (first, last): (u16, u16)) -> String {
    let numbers = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    if ip.is_empty() {
        format!("{numbers}/{protocol}")
    } else {
        format!("{}->{numbers}/{protocol}", address(ip, &numbers))
    }
}

/// What connects containers of this user to the outside, first choice first.
pub(super) fn uplinks(environment: &Environment) -> Vec<&'static str> {
    let mut list = Vec::new();
    if environment.is_real_root {
        list.push(UplinkChoice::Bridge.word());
    }
    let programs = crate::environment::uplink_programs();
    list.extend(programs.order().into_iter().map(UplinkChoice::word));
    list
}

/// `rrun port`.
pub(crate) fn port(args: &PortArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let dir = names::resolve(&environment.containers(), &args.container)?;
    let one = container::load(&dir)?;
    let wanted = match args.port.as_deref() {
        None => None,
        Some(text) => match Port::parse_range(text).as_deref() {
            Ok([port]) => Some(*port),
            _ => return Err(Failure::general(format!("invalid port: '{text}'"))),
        },
    };
    let mut found = false;
    for port in bound(&one) {
        let host = SocketAddr::new(port.host_ip, port.host_port);
        match wanted {
            None => report::line(&format!(
                "{}/{} -> {host}",
                port.container_port, port.protocol
            ))?,
            Some(wanted)
                if wanted.number == port.container_port && wanted.protocol == port.protocol =>
            {
                report::line(&host.to_string())?;
            }
            Some(_) => continue,
        }
        found = true;
    }
    match args.port.as_deref() {
        Some(text) if !found => Err(Failure::general(format!(
            "no public port '{text}' published for {}",
            args.container
        ))),
        _ => Ok(ExitCode::OK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_grouped_as_docker_does() {
        let one = |port, ip: &str, host| (port, ip.to_owned(), host, Protocol::Tcp);
        let cases: [(&[_], &str); 4] = [
            (&[one(80, "", 0)], "80/tcp"),
            (
                &[one(80, "0.0.0.0", 8080), one(80, "::", 8080)],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                &[
                    one(80, "0.0.0.0", 80),
                    one(81, "0.0.0.0", 81),
                    one(90, "0.0.0.0", 90),
                ],
                "0.0.0.0:80-81->80-81/tcp, 0.0.0.0:90->90/tcp",
            ),
            (
                &[one(80, "", 0), one(90, "::1", 91)],
                "80/tcp, [::1]:91->90/tcp",
            ),
        ];
        for (ports, expected) in cases {
            assert_eq!(grouped(ports), expected);
        }
    }
}
