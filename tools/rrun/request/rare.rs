//! Options of Docker's that have one answer here.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::engine;
use crate::args::CreateArgs;
use crate::failure::Failure;

/// Names under which Docker's default runtime and ours are known.
const RUNTIMES: [&str; 4] = ["", "rrun", "runc", "io.containerd.runc.v2"];

/// Refuses what there is no way to have, in Docker's words where it has some.
pub(super) fn check(typed: &CreateArgs) -> Result<(), Failure> {
    network(typed)?;
    let rare = &typed.rare;
    if let Some(wish) = &rare.gpus {
        return Err(engine(format!(
            "could not select device driver \"\" with capabilities: [[gpu]] (--gpus {wish})"
        ))
        .hint("pass the device files, such as --device /dev/dri"));
    }
    let isolation = rare.isolation.as_deref().unwrap_or_default();
    if !["", "default"].contains(&isolation.to_ascii_lowercase().as_str()) {
        return Err(engine(format!(
            "invalid isolation: \"{isolation}\": only \"default\" is available on Linux"
        )));
    }
    let runtime = rare.runtime.as_deref().unwrap_or_default();
    if !RUNTIMES.contains(&runtime) {
        return Err(
            engine(format!("unknown or invalid runtime name: {runtime}"))
                .hint("containers are run by rrun itself; leave --runtime out"),
        );
    }
    if let Some(option) = rare.storage_opt.first() {
        return Err(engine(format!(
            "--storage-opt is not available: the file system has no size of its own ({option})"
        ))
        .hint("bound a directory with --tmpfs PATH:size=BYTES or a volume of its own"));
    }
    if rare.use_api_socket {
        return Err(
            engine("--use-api-socket is not available: there is no daemon and no socket")
                .hint("run rrun inside the container, or share its data with -v"),
        );
    }
    match rare.volume_driver.as_deref() {
        None | Some("" | "local") => Ok(()),
        Some(name) => Err(engine(format!(
            "error looking up volume plugin {name}: plugin \"{name}\" not found"
        ))
        .hint("the driver there is: local")),
    }
}

/// What needs a network one makes oneself.
fn network(typed: &CreateArgs) -> Result<(), Failure> {
    let rare = &typed.rare;
    let bad = |flag: &str, text: &str| {
        Failure::flags(format!(
            "invalid argument {text:?} for \"--{flag}\": not an IP address"
        ))
    };
    if let Some(text) = &rare.ip6 {
        text.parse::<Ipv6Addr>().map_err(|_| bad("ip6", text))?;
        return Err(engine(
            "user specified IP address is supported on user defined networks only",
        ));
    }
    if let Some(text) = rare.link_local_ip.first() {
        let v4 = text.parse::<Ipv4Addr>().is_ok();
        if !v4 && text.parse::<Ipv6Addr>().is_err() {
            return Err(bad("link-local-ip", text));
        }
        return Err(engine(
            "link-local addresses are supported on user defined networks only",
        ));
    }
    if let Some(link) = rare.link.first() {
        return Err(engine(format!("--link is not available ({link})")).hint(
            "share the other's network with --network container:NAME, or publish its port and \
             use --add-host NAME:host-gateway",
        ));
    }
    if !rare.network_alias.is_empty() {
        return Err(engine(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    Ok(())
}
