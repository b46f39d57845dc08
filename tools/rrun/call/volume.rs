//! Named directories that outlive containers: `volumes/NAME/_data` under the data directory.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use jiff::Timestamp;
use rrun_runner::MountKind;
use serde_json::{Value, json};

use crate::args::{VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumeRmArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure, chain};
use crate::report::{self, Format};
use crate::request;

fn volumes_dir(environment: &Environment) -> PathBuf {
    environment.data_dir.join("volumes")
}

/// The directory of a volume's contents, made when absent. `name` was checked.
pub(crate) fn ensure(environment: &Environment, name: &str) -> Result<PathBuf, Failure> {
    let data = volumes_dir(environment).join(name).join("_data");
    fs::create_dir_all(&data)
        .map_err(|error| Failure::of(&format!("could not create volume {name}"), &error))?;
    Ok(data)
}

/// `rrun volume create`.
pub(crate) fn create(
    args: &VolumeCreateArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    if args.driver != "local" {
        return Err(
            Failure::general(format!("volume driver {:?} not found", args.driver))
                .hint("only local volumes are available"),
        );
    }
    let name = match args.volume.as_ref().or(args.name.as_ref()) {
        Some(name) => {
            request::volume_name(name).map_err(|failure| failure.code(ExitCode::GENERAL))?
        }
        None => random_name()?,
    };
    ensure(environment, &name)?;
    report::line(&name)?;
    Ok(ExitCode::OK)
}

/// 64 hex digits, as anonymous volumes and containers are named.
pub(crate) fn random_name() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    let mut source = fs::File::open("/dev/urandom")
        .map_err(|error| Failure::of("could not open /dev/urandom", &error))?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(rrun_core::Digest::from_bytes(bytes).hex())
}

fn names(environment: &Environment) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    match fs::read_dir(volumes_dir(environment)) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::of("could not list volumes", &error)),
    }
    names.sort();
    Ok(names)
}

/// `rrun volume ls`.
pub(crate) fn ls(args: &VolumeLsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut wanted = names(environment)?;
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("name", part)) => wanted.retain(|name| name.contains(part)),
            _ => return Err(Failure::general(format!("invalid filter '{filter}'"))),
        }
    }
    if args.quiet {
        for name in wanted {
            report::line(&name)?;
        }
        return Ok(ExitCode::OK);
    }
    let rows: Vec<Value> = wanted
        .iter()
        .map(|name| {
            json!({"Driver": "local", "Name": name, "Scope": "local",
            "Mountpoint": mountpoint(environment, name), "Labels": ""})
        })
        .collect();
    let columns = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
    report::list(&Format::parse(args.format.as_deref())?, &columns, &rows)?;
    Ok(ExitCode::OK)
}

fn mountpoint(environment: &Environment, name: &str) -> String {
    volumes_dir(environment)
        .join(name)
        .join("_data")
        .display()
        .to_string()
}

/// What `inspect` shows of a volume; `None` when there is none.
pub(crate) fn describe(environment: &Environment, name: &str) -> Option<Value> {
    request::volume_name(name).ok()?;
    let data = fs::metadata(volumes_dir(environment).join(name)).ok()?;
    let created = data
        .modified()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok())
        .map(|time| time.to_string());
    Some(
        json!({"CreatedAt": created, "Driver": "local", "Labels": null,
        "Mountpoint": mountpoint(environment, name), "Name": name, "Options": null, "Scope": "local"}),
    )
}

/// `rrun volume inspect`.
pub(crate) fn inspect(
    args: &VolumeInspectArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &args.volumes {
        match describe(environment, name) {
            Some(object) => found.push(object),
            None => missing.push(name.as_str()),
        }
    }
    report::objects(args.format.as_deref(), &found)?;
    match missing.first() {
        Some(name) => Err(Failure::general(format!("get {name}: no such volume"))),
        None => Ok(ExitCode::OK),
    }
}

/// `rrun volume rm`.
pub(crate) fn rm(args: &VolumeRmArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    for name in &args.volumes {
        let result = match describe(environment, name) {
            Some(_) if used(environment)?.contains(&mountpoint(environment, name)) => {
                Err(Failure::general(format!("remove {name}: volume is in use")))
            }
            Some(_) => remove(environment, name),
            None if args.force => Ok(()),
            None => Err(Failure::general(format!("get {name}: no such volume"))),
        };
        match result {
            Ok(()) => report::line(name)?,
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

fn remove(environment: &Environment, name: &str) -> Result<(), Failure> {
    fs::remove_dir_all(volumes_dir(environment).join(name)).map_err(|error| {
        Failure::general(format!("could not remove volume {name}: {}", chain(&error)))
    })
}

/// Removes the volumes that were made for a container without a name of their own.
pub(crate) fn remove_anonymous(environment: &Environment, container: &str) -> Result<(), Failure> {
    let prefix = format!("{container}-");
    for name in names(environment)? {
        if name.starts_with(&prefix) {
            remove(environment, &name)?;
        }
    }
    Ok(())
}

/// Removes volumes that no container mounts: those without a name of their own, with `all` the
/// others too.
pub(crate) fn remove_unused(environment: &Environment, all: bool) -> Result<(), Failure> {
    let used = used(environment)?;
    for name in names(environment)? {
        if (all || is_anonymous(&name)) && !used.contains(&mountpoint(environment, &name)) {
            remove(environment, &name)?;
            report::line(&name)?;
        }
    }
    Ok(())
}

/// Containers' anonymous volumes begin with 64 hex digits.
fn is_anonymous(name: &str) -> bool {
    name.len() >= 64 && name.bytes().take(64).all(|byte| byte.is_ascii_hexdigit())
}

/// The directories of the host that containers mount.
fn used(environment: &Environment) -> Result<Vec<String>, Failure> {
    let all = rrun_runner::container::list(&environment.containers())?;
    let mounts = all.iter().flat_map(|one| &one.config.mounts);
    Ok(mounts
        .filter_map(|mount| match &mount.kind {
            MountKind::Bind { source } => Some(source.display().to_string()),
            MountKind::Tmpfs { .. } => None,
        })
        .collect())
}
