//! A container, field by field, in Docker's order.
//!
//! Source: moby api/types/container.

use rrun_runner::{Container, IdMap, LogDriver, Status, container};
use serde_json::{Map, Value, json};

use super::limits;
use crate::call::create::{DEFAULT_LOG_DRIVER, HOST_CONFIG};
use crate::call::ps::{Size, restarting, state_word};
use crate::call::{mount_points, network, within};
use crate::environment::Environment;

/// The moment that never was. Source: Docker prints Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";
fn time(text: &str) -> &str {
    if text.is_empty() { NEVER } else { text }
}

/// Who takes the container's writes.
fn driver(config: &rrun_runner::ContainerConfig) -> &'static str {
    match within::overlay(config) {
        Some(_) => "rrun-hybrid",
        None => "rrun-union",
    }
}

/// All that is known of a container.
pub(super) fn describe(one: &Container, size: bool, environment: &Environment) -> Value {
    let config = &one.config;
    let mut object = json!({
        "Id": config.id,
        "Created": config.created,
        "Path": config.argv.first(),
        "Args": config.argv.get(1..).unwrap_or_default(),
        "State": state(one),
        "Image": config.image_id,
        "ResolvConfPath": one.dir.join("resolv.conf"),
        "HostnamePath": one.dir.join("hostname"),
        "HostsPath": one.dir.join("hosts"),
        "LogPath": log_path(one),
        "Name": format!("/{}", config.name),
        "RestartCount": one.state.restart_count,
        "Driver": driver(config),
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host_config(one),
        "GraphDriver": {"Data": {"UpperDir": one.dir.join("upper")}, "Name": driver(config)},
    });
    if let Some(map) = object.as_object_mut() {
        if size {
            let size = Size::of(one, environment);
            map.insert("SizeRw".to_owned(), json!(size.own));
            map.insert("SizeRootFs".to_owned(), json!(size.all));
        }
        let points = mount_points::of(one);
        let points: Vec<Value> = points.iter().map(mount_points::MountPoint::json).collect();
        map.insert("Mounts".to_owned(), json!(points));
        map.insert("Config".to_owned(), own_config(one));
        map.insert("NetworkSettings".to_owned(), network::settings(one));
        let pidfiles = [
            ("PidFile", &config.pidfile),
            ("ConmonPidFile", &config.monitor_pidfile),
        ];
        for (name, path) in pidfiles {
            if let Some(path) = path {
                map.insert(name.to_owned(), json!(path));
            }
        }
    }
    object
}

/// Where the output is kept; nowhere is an empty word.
fn log_path(one: &Container) -> String {
    if one.config.log.driver == LogDriver::None {
        return String::new();
    }
    one.dir.join(rrun_runner::LOG_FILE).display().to_string()
}

fn state(one: &Container) -> Value {
    let state = &one.state;
    let up = matches!(state.status, Status::Running | Status::Paused) || restarting(one);
    let mut object = json!({
        "Status": state_word(one),
        "Running": up,
        "Paused": state.status == Status::Paused,
        "Restarting": restarting(one),
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(&state.started_at),
        "FinishedAt": time(&state.finished_at),
        "Health": state.health.as_ref().map(|health| json!({
            "Status": health.status,
            "FailingStreak": health.failing_streak,
            "Log": health.log.iter().map(|probe| json!({
                "Start": probe.start,
                "End": probe.end,
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })).collect::<Vec<_>>(),
        })),
    });
    if let Some(map) = object.as_object_mut() {
        // Podman's name for the process id of a container's monitor.
        let monitor = if up { state.monitor_pid } else { 0 };
        map.insert("ConmonPid".to_owned(), json!(monitor));
        if up && container::is_stopping(&one.dir) {
            map.insert("Stopping".to_owned(), json!(true));
        }
    }
    object
}

/// What was asked for, as `create` kept it.
pub(crate) fn asked(one: &Container) -> Map<String, Value> {
    let kept = one.config.extra.get(HOST_CONFIG).and_then(Value::as_object);
    kept.cloned().unwrap_or_default()
}

/// Every field of Docker's with the value of a container that asked for nothing.
fn host_defaults() -> Vec<(&'static str, Value)> {
    vec![
        ("Binds", json!(null)),
        ("ContainerIDFile", json!("")),
        (
            "LogConfig",
            json!({"Type": DEFAULT_LOG_DRIVER, "Config": {}}),
        ),
        ("NetworkMode", json!("default")),
        ("PortBindings", json!({})),
        (
            "RestartPolicy",
            json!({"Name": "no", "MaximumRetryCount": 0}),
        ),
        ("AutoRemove", json!(false)),
        ("VolumeDriver", json!("")),
        ("VolumesFrom", json!(null)),
        ("ConsoleSize", json!([0, 0])),
        ("CapAdd", json!(null)),
        ("CapDrop", json!(null)),
        ("CgroupnsMode", json!("private")),
        ("Dns", json!([])),
        ("DnsOptions", json!([])),
        ("DnsSearch", json!([])),
        ("ExtraHosts", json!(null)),
        ("GroupAdd", json!(null)),
        ("IpcMode", json!("private")),
        ("Cgroup", json!("")),
        ("Links", json!(null)),
        ("OomScoreAdj", json!(0)),
        ("PidMode", json!("")),
        ("Privileged", json!(false)),
        ("PublishAllPorts", json!(false)),
        ("ReadonlyRootfs", json!(false)),
        ("SecurityOpt", json!(null)),
        ("UTSMode", json!("")),
        ("UsernsMode", json!("")),
        ("ShmSize", json!(67_108_864)),
        ("Runtime", json!("rrun")),
        ("Isolation", json!("")),
    ]
}

fn host_config(one: &Container) -> Value {
    let config = &one.config;
    let mut map: Map<String, Value> = host_defaults()
        .into_iter()
        .chain(limits::defaults())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let bound = |value: Option<u64>| json!(value.map_or(-1, |v| i64::try_from(v).unwrap_or(-1)));
    let ulimits: Vec<Value> = config
        .rlimits
        .iter()
        .map(|limit| {
            json!({"Name": limit.kind, "Hard": bound(limit.hard), "Soft": bound(limit.soft)})
        })
        .collect();
    let policy = &config.restart;
    let known = [
        ("NetworkMode", json!(network::name(one))),
        ("PortBindings", json!(network::bindings_object(one))),
        ("PublishAllPorts", json!(network::publishes_all(one))),
        (
            "RestartPolicy",
            json!({"Name": policy.name, "MaximumRetryCount": policy.retries_max}),
        ),
        ("AutoRemove", json!(config.auto_remove)),
        ("Privileged", json!(config.privileged)),
        ("ReadonlyRootfs", json!(config.read_only)),
        ("ShmSize", json!(config.shm_size_bytes)),
        ("Ulimits", json!(ulimits)),
        (
            "UsernsMode",
            json!(if matches!(config.id_map, IdMap::Root) {
                "host"
            } else {
                ""
            }),
        ),
    ];
    for (name, value) in known.into_iter().chain(limits::known(&config.limits)) {
        map.insert(name.to_owned(), value);
    }
    if config.privileged || config.bare_system {
        for name in ["MaskedPaths", "ReadonlyPaths"] {
            map.insert(name.to_owned(), Value::Null);
        }
    }
    // What Docker leaves out when it is empty comes last.
    for (name, value) in asked(one) {
        map.insert(name, value);
    }
    Value::Object(map)
}

fn own_config(one: &Container) -> Value {
    let config = &one.config;
    let extra = |name: &str| config.extra.get(name).cloned().unwrap_or_default();
    let attached = extra("attach");
    let attach = |name: &str| {
        let list = attached.as_array();
        json!(list.is_some_and(|list| list.iter().any(|one| one == name)))
    };
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| {
        object.insert(name.to_owned(), value);
    };
    put("Hostname", json!(config.hostname));
    put("Domainname", json!(config.domainname));
    put("User", json!(config.user));
    put("AttachStdin", attach("stdin"));
    put("AttachStdout", attach("stdout"));
    put("AttachStderr", attach("stderr"));
    let ports = json!(network::exposed_object(one));
    if ports.as_object().is_some_and(|ports| !ports.is_empty()) {
        put("ExposedPorts", ports);
    }
    put("Tty", json!(config.tty));
    put("OpenStdin", json!(config.stdin_open));
    put(
        "StdinOnce",
        json!(config.stdin_open && attach("stdin") == json!(true)),
    );
    put("Env", json!(config.env));
    put("Cmd", extra("cmd"));
    if let Some(health) = config.extra.get("healthcheck") {
        put("Healthcheck", health.clone());
    }
    put("Image", json!(config.image));
    put("Volumes", extra("volumes"));
    put("WorkingDir", json!(config.cwd));
    put("Entrypoint", extra("entrypoint"));
    put("OnBuild", Value::Null);
    put("Labels", json!(config.labels));
    if !config.stop_signal.is_empty() {
        put("StopSignal", json!(config.stop_signal));
    }
    if config.extra.get("stop_timeout") == Some(&json!(true)) {
        put("StopTimeout", json!(config.stop_timeout_s));
    }
    // Podman's, where they were asked for.
    if config.run_timeout_s != 0 {
        put("Timeout", json!(config.run_timeout_s));
    }
    if config.service_manager {
        put("SystemdMode", json!(true));
    }
    Value::Object(object)
}
