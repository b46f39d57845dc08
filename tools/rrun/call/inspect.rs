//! `rrun inspect`.

use rrun_image::images;
use rrun_runner::{Container, MountKind, Status, container, names};
use serde_json::{Value, json};

use super::images::store;
use super::ps::state_word;
use super::{network, volume};
use crate::args::InspectArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// `rrun inspect`: containers first, then images, then volumes, as Docker looks.
pub(crate) fn inspect(args: &InspectArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let kind = args.kind.as_deref().unwrap_or("");
    if !["", "container", "image", "volume"].contains(&kind) {
        return Err(
            Failure::general(format!("\"{kind}\" is not a valid value for --type"))
                .hint("there are: container, image, volume"),
        );
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &args.names {
        match one(name, kind, environment)? {
            Some(object) => found.push(object),
            None => missing.push(name),
        }
    }
    report::objects(args.format.as_deref(), &found)?;
    let Some(first) = missing.first() else {
        return Ok(ExitCode::OK);
    };
    let what = if kind.is_empty() { "object" } else { kind };
    Err(Failure::general(format!("no such {what}: {first}")))
}

fn one(name: &str, kind: &str, environment: &Environment) -> Result<Option<Value>, Failure> {
    if matches!(kind, "" | "container")
        && let Ok(dir) = names::resolve(&environment.containers(), name)
    {
        return Ok(Some(describe(&container::load(&dir)?)));
    }
    if matches!(kind, "" | "image")
        && let Ok(object) = images::inspect(&store(environment)?, name)
    {
        return Ok(Some(object));
    }
    if matches!(kind, "" | "volume") {
        return Ok(volume::describe(environment, name));
    }
    Ok(None)
}

/// The moment that never was. Source: Docker prints Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn time(text: &str) -> &str {
    if text.is_empty() { NEVER } else { text }
}

fn describe(one: &Container) -> Value {
    let (config, state) = (&one.config, &one.state);
    let running = matches!(state.status, Status::Running | Status::Paused);
    json!({
        "Id": config.id,
        "Created": config.created,
        "Path": config.argv.first(),
        "Args": config.argv.get(1..).unwrap_or_default(),
        "State": {
            "Status": state_word(state.status),
            "Running": running,
            "Paused": state.status == Status::Paused,
            "Restarting": false,
            "OOMKilled": state.oom_killed,
            "Dead": false,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": time(&state.started_at),
            "FinishedAt": time(&state.finished_at),
        },
        "Image": config.image_id,
        "ResolvConfPath": one.dir.join("resolv.conf"),
        "HostnamePath": one.dir.join("hostname"),
        "HostsPath": one.dir.join("hosts"),
        "LogPath": one.dir.join("log.json"),
        "Name": format!("/{}", config.name),
        "RestartCount": 0,
        "Driver": "rrun-union",
        "Platform": "linux",
        "GraphDriver": {"Name": "rrun-union", "Data": {"UpperDir": one.dir.join("upper")}},
        "HostConfig": host_config(one),
        "Mounts": mounts(one),
        "Config": own_config(one),
        "NetworkSettings": network::settings(one),
    })
}

fn host_config(one: &Container) -> Value {
    let config = &one.config;
    json!({
        "NetworkMode": network::name(one),
        "PortBindings": network::bindings_object(one),
        "PublishAllPorts": network::publishes_all(one),
        "AutoRemove": config.auto_remove,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "ShmSize": config.shm_size_bytes,
        "CapabilitiesInEffect": config.caps.names(),
        "Ulimits": config.rlimits.iter().map(|limit| json!({
            "Name": limit.kind, "Soft": limit.soft, "Hard": limit.hard,
        })).collect::<Vec<_>>(),
    })
}

fn own_config(one: &Container) -> Value {
    let config = &one.config;
    json!({
        "Hostname": config.hostname,
        "User": config.user,
        "ExposedPorts": network::exposed_object(one),
        "Tty": config.tty,
        "OpenStdin": config.stdin_open,
        "Env": config.env,
        "Cmd": config.extra.get("command"),
        "Entrypoint": config.extra.get("entrypoint"),
        "Image": config.image,
        "WorkingDir": config.cwd,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
        "StopTimeout": config.stop_timeout_s,
    })
}

fn mounts(one: &Container) -> Vec<Value> {
    let own = |source: &std::path::Path| source.starts_with(&one.dir);
    let shown = one.config.mounts.iter().filter_map(|mount| {
        let (kind, source) = match &mount.kind {
            MountKind::Bind { source } if own(source) => return None,
            MountKind::Bind { source } if source.ends_with("_data") => {
                ("volume", source.display().to_string())
            }
            MountKind::Bind { source } => ("bind", source.display().to_string()),
            MountKind::Tmpfs { .. } => ("tmpfs", String::new()),
        };
        Some(json!({
            "Type": kind,
            "Source": source,
            "Destination": mount.target,
            "RW": !mount.read_only,
        }))
    });
    shown.collect()
}
