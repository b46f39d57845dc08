//! From a request and an image to a container directory.

mod devices;
mod health;
mod mounts;
mod podman;
mod single;
mod spaces;
mod spread;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rrun_core::Digest;
use rrun_image::ImageConfig;
use rrun_runner::{
    CapSet, ContainerConfig, GIVEN_VARIABLES, IdMap, Mount, MountKind, Network, Propagation,
    Rlimit, Root, Seccomp, container, names, subid,
};
use rrun_store::Store;
use serde_json::{Value, json};

use super::ground::Ground;
use super::hidden::Parts;
use super::mount_points;
use super::{etc, fs_mode, image, journal, network as net, volume};
use crate::environment::{Compat, Environment};
use crate::failure::{ExitCode, Failure};
use crate::request::{self, CreateRequest};

/// Seconds between the stop signal and the kill, unless told otherwise. Source: Docker.
const STOP_TIMEOUT_S: u32 = 10;
/// Size of /dev/shm unless told otherwise. Source: Docker.
const SHM_BYTES: u64 = 64 << 20;

/// A container that was made.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) dir: PathBuf,
    pub(crate) config: ContainerConfig,
}

/// What the container stands on and what its image says.
struct Source {
    ground: Ground,
    name: String,
    id: Option<Digest>,
    /// The `config` object of the image; `Null` without an image.
    defaults: Value,
}

/// Makes the container `id`, fetching its image when that is needed.
pub(crate) fn create(
    request: &CreateRequest,
    environment: &Environment,
    quiet: bool,
    id: String,
) -> Result<Created, Failure> {
    check_cidfile(request)?;
    let source = source(request, environment, quiet)?;
    let mut config = compose(request, environment, &source, id)?;
    let containers = environment.containers();
    let dir = containers.join(&config.id);
    // Who shares another's network shares its names too.
    let names = config.net.join.as_ref().map(|id| containers.join(id));
    source.ground.put(&mut config);
    config.id_map = single::id_map(&config, environment)?;
    files(request, &mut config, names.as_ref().unwrap_or(&dir));
    if request.dry_run {
        return Ok(Created { dir, config });
    }
    mount_points::put(&mut config, &[]);
    let before = config.clone();
    let dir = container::create(&containers, &config)
        .map_err(|error| Failure::from(error).code(ExitCode::ENGINE))?;
    let made = fill(request, &config, &dir)
        .and_then(|()| mounts::make(request, environment, &source.defaults, &mut config, &dir))
        .and_then(|()| {
            // Most have no mounts or volumes of their own: what was written says it all.
            if config != before {
                config.save(&dir)?;
            }
            Ok(())
        });
    if let Err(failure) = made {
        // The first failure is the one to tell.
        drop(container::remove(&dir, true));
        let points = mount_points::of_config(&config);
        drop(volume::remove_anonymous(environment, &points));
        return Err(failure.code(ExitCode::ENGINE));
    }
    if let Some(path) = &request.cidfile {
        fs::write(path, &config.id)
            .map_err(|error| Failure::of(&format!("could not write {}", path.display()), &error))?;
    }
    journal::container(&environment.data_dir, "create", &config, &[]);
    Ok(Created { dir, config })
}

fn check_cidfile(request: &CreateRequest) -> Result<(), Failure> {
    match &request.cidfile {
        Some(path) if fs::symlink_metadata(path).is_ok() => Err(Failure::new(
            ExitCode::ENGINE,
            format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            ),
        )),
        _ => Ok(()),
    }
}

fn source(
    request: &CreateRequest,
    environment: &Environment,
    quiet: bool,
) -> Result<Source, Failure> {
    match &request.root {
        request::Root::Directory(path) => Ok(Source {
            ground: Ground::Directory(path.clone()),
            name: path.display().to_string(),
            id: None,
            defaults: Value::Null,
        }),
        request::Root::Image(name) => {
            let store = Store::open(&environment.store())?;
            let record = image::find_or_pull(&store, name, request, environment, quiet)
                .map_err(|failure| failure.code(ExitCode::ENGINE))?;
            let config = ImageConfig::parse(store.blob(&record.config)?)?;
            check_platform(request, name, &config.value)?;
            // Built now, where a failure has somebody to be told to.
            store.base(&record.diff_ids())?;
            Ok(Source {
                ground: Ground::Layers {
                    store: environment.store(),
                    diff_ids: record.diff_ids(),
                },
                name: name.clone(),
                id: Some(record.config),
                defaults: config.value.get("config").cloned().unwrap_or(Value::Null),
            })
        }
    }
}

/// Refuses an image that is for another platform than the one asked for.
///
/// Source of the words: moby daemon, `getImage`.
fn check_platform(request: &CreateRequest, name: &str, config: &Value) -> Result<(), Failure> {
    let Some(platform) = &request.platform else {
        return Ok(());
    };
    let mut asked = platform.split('/');
    let (os, arch) = (asked.next().unwrap_or_default(), asked.next());
    let arch = arch.map(|arch| match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    });
    let own = (text(config, "os"), text(config, "architecture"));
    let fits = |asked: &str, own: &str| own.is_empty() || asked.eq_ignore_ascii_case(own);
    if fits(os, own.0) && arch.is_none_or(|arch| fits(arch, own.1)) {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::ENGINE,
        format!(
            "image with reference {name} was found but its platform ({}/{}) does not match the \
             specified platform ({platform})",
            own.0, own.1
        ),
    )
    .hint(format!(
        "fetch the other with 'rrun pull --platform {platform} {name}'"
    )))
}

fn texts(defaults: &Value, field: &str) -> Vec<String> {
    let list = defaults.get(field).and_then(Value::as_array);
    list.map(|list| {
        list.iter()
            .filter_map(|word| word.as_str().map(ToOwned::to_owned))
            .collect()
    })
    .unwrap_or_default()
}

fn text<'v>(defaults: &'v Value, field: &str) -> &'v str {
    defaults.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Entry point and command. A new entry point also drops the image's command.
fn argv(request: &CreateRequest, defaults: &Value) -> Result<Vec<String>, Failure> {
    let (mut argv, command) = match &request.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (texts(defaults, "Entrypoint"), texts(defaults, "Cmd")),
    };
    argv.extend(if request.command.is_empty() {
        command
    } else {
        request.command.clone()
    });
    if argv.is_empty() {
        return Err(Failure::new(ExitCode::ENGINE, "no command specified")
            .hint("the image names none: give one after it"));
    }
    Ok(argv)
}

/// The variables of the process. One that is only named takes away what every process has.
///
/// Source: moby, `ReplaceOrAppendEnvVars`.
fn env(request: &CreateRequest, defaults: &Value, compat: Compat) -> Vec<String> {
    let mut env: Vec<(String, String)> = texts(defaults, "Env")
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    podman::variables(request, compat, &mut env);
    env.retain(|(name, _)| !request.env_unset.contains(name));
    for (name, value) in &request.env {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    let unset = request.env_unset.iter();
    let taken_away = unset.filter(|name| GIVEN_VARIABLES.contains(&name.as_str()));
    let taken_away = taken_away.cloned().chain(podman::taken_away(request, &env));
    env.iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain(taken_away)
        .collect()
}

fn compose(
    request: &CreateRequest,
    environment: &Environment,
    source: &Source,
    id: String,
) -> Result<ContainerConfig, Failure> {
    let defaults = &source.defaults;
    let containers = environment.containers();
    let name = name(request, &containers)?;
    let parts = Parts::of_self()?;
    let map = id_map(environment);
    let root = Root::Fuse {
        server_argv: parts.serve(&containers.join(&id)),
        overlay: fs_mode::choose(request.fs_mode, &map, &source.ground, environment)?,
    };
    let joined = net::joined(request, environment)?;
    let network = net::kind(request);
    let own_name = match &joined {
        Some(other) => other.hostname.clone(),
        None if network == Network::Host || request.spaces.host_uts => host_name(),
        // The short id.
        None => id.chars().take(12).collect(),
    };
    let pick = |asked: &Option<String>, field: &str| {
        let default = || text(defaults, field).to_owned();
        asked.clone().unwrap_or_else(default)
    };
    let mut config = ContainerConfig {
        name,
        image: source.name.clone(),
        image_id: source.id.map(|id| id.to_string()).unwrap_or_default(),
        created: jiff::Timestamp::now().to_string(),
        argv: argv(request, defaults)?,
        env: env(request, defaults, environment.compat),
        cwd: pick(&request.workdir, "WorkingDir"),
        user: pick(&request.user, "User"),
        group_add: request.groups.clone(),
        hostname: request.hostname.clone().unwrap_or(own_name),
        tty: request.tty,
        stdin_open: request.interactive,
        root,
        read_only: request.read_only,
        shm_size_bytes: request.shm_size_bytes.unwrap_or(SHM_BYTES),
        network,
        id_map: map,
        caps: caps(request)?,
        privileged: request.security.privileged,
        bare_system: request.security.bare_system,
        no_new_privileges: request.security.no_new_privileges,
        rlimits: rlimits(request),
        stop_signal: pick(&request.stop_signal, "StopSignal"),
        stop_timeout_s: request.stop_timeout_s.unwrap_or(STOP_TIMEOUT_S),
        labels: labels(request, defaults),
        auto_remove: request.remove,
        domainname: request.domainname.clone().unwrap_or_default(),
        init: request.init,
        sysctls: request.sysctls.clone(),
        oom_score_adj: request.oom_score_adj,
        restart: request.life.restart.clone(),
        health: health::check(request, defaults, &parts)?,
        log: request.life.log.clone(),
        limits: request.life.limits.clone(),
        ids_argv: parts.ids(),
        id,
        ..ContainerConfig::default()
    };
    (config.seccomp, config.seccomp_profile) = seccomp(&request.security);
    spaces::compose(&request.spaces, environment, &mut config)?;
    extra(request, defaults, &mut config);
    net::compose(request, defaults, joined.as_ref(), &mut config)?;
    podman::compose(request, environment, &mut config);
    Ok(config)
}

fn name(request: &CreateRequest, containers: &Path) -> Result<String, Failure> {
    match &request.name {
        Some(name) => Ok(name.clone()),
        None => Ok(names::random_name(containers)?),
    }
}

fn host_name() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim().to_owned()
}

/// The filter, and the profile it is made of.
fn seccomp(security: &request::Security) -> (Seccomp, String) {
    match &security.seccomp {
        request::Seccomp::Default if !security.privileged => (Seccomp::Default, String::new()),
        request::Seccomp::Default | request::Seccomp::Unconfined => {
            (Seccomp::Unconfined, String::new())
        }
        request::Seccomp::Profile(text) => (Seccomp::Profile, text.clone()),
    }
}

fn caps(request: &CreateRequest) -> Result<CapSet, Failure> {
    let security = &request.security;
    if security.privileged {
        return Ok(CapSet::ALL);
    }
    CapSet::resolve(&security.cap_add, &security.cap_drop)
        .map_err(|error| Failure::new(ExitCode::ENGINE, format!("unknown capability: {}", error.0)))
}

/// The image's labels and those asked for.
fn labels(request: &CreateRequest, defaults: &Value) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = defaults
        .get("Labels")
        .and_then(|labels| serde_json::from_value(labels.clone()).ok())
        .unwrap_or_default();
    labels.extend(request.labels.clone());
    labels
}

pub(crate) use podman::CONTAINERENV;

/// Where the options for `inspect` are kept in a configuration.
pub(crate) const HOST_CONFIG: &str = "host";
/// How output is kept unless told otherwise.
pub(crate) const DEFAULT_LOG_DRIVER: &str = "json-file";

/// What is asked for, kept for `inspect`, that the runner does not read.
fn extra(request: &CreateRequest, defaults: &Value, config: &mut ContainerConfig) {
    let list = |asked: Option<&Vec<String>>, field: &str| match asked {
        Some(words) => json!(words),
        None => defaults.get(field).cloned().unwrap_or_default(),
    };
    let command = Some(&request.command).filter(|words| !words.is_empty());
    // A new entry point also drops the image's command.
    let cmd = match (command, &request.entrypoint) {
        (None, Some(_)) => Value::Null,
        (command, _) => list(command, "Cmd"),
    };
    let kept = [
        ("annotations", json!(request.annotations)),
        ("command", json!(request.command)),
        ("cmd", cmd),
        (
            "entrypoint",
            list(request.entrypoint.as_ref(), "Entrypoint"),
        ),
        ("attach", json!(request.streams())),
        ("stop_timeout", json!(request.stop_timeout_s.is_some())),
        (
            "volumes",
            defaults.get("Volumes").cloned().unwrap_or_default(),
        ),
        (HOST_CONFIG, Value::Object(request.asked.clone())),
    ];
    for (key, value) in kept {
        config.extra.insert(key.to_owned(), value);
    }
    if let Some(check) = health::shown(request, defaults) {
        config.extra.insert("healthcheck".to_owned(), check);
    }
}

/// Real ids for root, a range where the user has one and the helpers are there, else one id.
pub(crate) fn id_map(environment: &Environment) -> IdMap {
    if environment.is_real_root {
        return IdMap::Root;
    }
    let user = &environment.user_name;
    let uids = subid::read(Path::new("/etc/subuid"), user, environment.uid);
    let gids = subid::read(Path::new("/etc/subgid"), user, environment.uid);
    if uids.is_empty() || gids.is_empty() || !environment.has_map_helpers {
        return IdMap::Squash;
    }
    IdMap::Range { uids, gids }
}

fn rlimits(request: &CreateRequest) -> Vec<Rlimit> {
    let bounded = |value: u64| (value != u64::MAX).then_some(value);
    request
        .ulimits
        .iter()
        .map(|limit| Rlimit {
            kind: limit.name.clone(),
            soft: bounded(limit.soft),
            hard: bounded(limit.hard),
            required: true,
        })
        .collect()
}

/// The three files of /etc that belong to the container rather than to its image.
const OWN_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

fn files(request: &CreateRequest, config: &mut ContainerConfig, dir: &Path) {
    for name in OWN_FILES {
        let target = format!("/etc/{name}");
        if request.mounts.iter().any(|mount| mount.target == target) || keeps_own(request, name) {
            continue;
        }
        config.mounts.push(Mount {
            target: target.into(),
            kind: MountKind::Bind {
                source: dir.join(name),
                propagation: Propagation::Private,
                alone: false,
            },
            read_only: false,
        });
    }
}

/// Whether a directory of the host brings a file that already says what ours would: it then
/// stays an ordinary file, which can be changed and removed inside.
fn keeps_own(request: &CreateRequest, name: &str) -> bool {
    let request::Root::Directory(root) = &request.root else {
        return false;
    };
    let resolver = &request.resolver;
    let asked = match name {
        "hosts" => !resolver.hosts.is_empty(),
        "resolv.conf" => {
            !(resolver.servers.is_empty()
                && resolver.search.is_empty()
                && resolver.options.is_empty())
        }
        _ => true,
    };
    !asked && fs::symlink_metadata(root.join("etc").join(name)).is_ok()
}

fn fill(request: &CreateRequest, config: &ContainerConfig, dir: &Path) -> Result<(), Failure> {
    for name in ["upper", "work"] {
        // The upper directory is the container's root, which everyone inside may enter; the
        // container's directory above it keeps the host's other users out.
        let mode = if name == "upper" { 0o755 } else { 0o700 };
        fs::DirBuilder::new().mode(mode).create(dir.join(name))?;
    }
    fs::write(dir.join("hosts"), etc::hosts(&request.resolver, config))?;
    fs::write(dir.join("hostname"), format!("{}\n", config.hostname))?;
    fs::write(
        dir.join("resolv.conf"),
        etc::resolv_conf(&request.resolver, config),
    )?;
    Ok(())
}
