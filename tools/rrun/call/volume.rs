//! Named directories that outlive containers: `volumes/NAME/_data` under the data directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rrun_runner::{ContainerConfig, IdMap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::copy_up::{self, Owners};
use super::ground;
use super::hidden::Parts;
use super::journal;
use super::mount_points::{self, MountPoint};
use super::ps::{filter_pairs, label_matches};

use crate::args::{VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumeRmArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure, chain};
use crate::report::{self, Format};
use crate::request;

fn volumes_dir(environment: &Environment) -> PathBuf {
    environment.data_dir.join("volumes")
}

/// Docker's mark of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// The file beside `_data` with what was said of a volume.
const META: &str = "volume.json";

/// What was said of a volume when it was made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Meta {
    created: String,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
}

impl Meta {
    fn load(dir: &Path) -> Self {
        // A volume without it is one of labels and options alike.
        let text = fs::read(dir.join(META)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// A volume to mount.
#[derive(Debug)]
pub(crate) struct Ensured {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
}

/// The volume of this name, made when absent. `name` was checked.
pub(crate) fn ensure(
    environment: &Environment,
    name: &str,
    labels: &BTreeMap<String, String>,
    options: &BTreeMap<String, String>,
) -> Result<Ensured, Failure> {
    let failed =
        |error: std::io::Error| Failure::of(&format!("could not create volume {name}"), &error);
    let dir = volumes_dir(environment).join(name);
    let data = dir.join("_data");
    if !data.is_dir() {
        fs::create_dir_all(volumes_dir(environment)).map_err(failed)?;
        fs::DirBuilder::new()
            .mode(0o701)
            .recursive(true)
            .create(&dir)
            .map_err(failed)?;
        let meta = Meta {
            created: Timestamp::now().to_string(),
            labels: labels.clone(),
            options: options.clone(),
        };
        let text = serde_json::to_vec(&meta)?;
        fs::write(dir.join(META), text).map_err(failed)?;
        fs::DirBuilder::new()
            .mode(0o755)
            .recursive(true)
            .create(&data)
            .map_err(failed)?;
        journal::volume(environment, "create", name);
    }
    Ok(Ensured {
        name: name.to_owned(),
        data,
    })
}

/// Fills a volume that is empty with what the image has at its place.
pub(crate) fn fill(
    environment: &Environment,
    config: &ContainerConfig,
    container: &Path,
    point: &MountPoint,
) -> Result<(), Failure> {
    let data = Path::new(&point.source);
    let within = match fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
        Ok(true) => matches!(config.id_map, IdMap::Range { .. }),
        Ok(false) => return Ok(()),
        // A container has given it to another id of ours, or taken the permission: only root of a
        // namespace with those ids can tell whether it is empty.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => true,
        Err(error) => {
            return Err(Failure::of(
                &format!("could not list {}", data.display()),
                &error,
            ));
        }
    };
    if within && !environment.is_real_root {
        let argv = Parts::of_self()?.fill(container, &point.destination, data);
        return helper(&config.id_map, &argv);
    }
    let (union, _lease) = ground::read_only(container, config)?;
    copy_up::fill(&union, &point.destination, data, Owners::of(&config.id_map))
}

/// A new volume without a name of its own.
pub(crate) fn anonymous(
    environment: &Environment,
    labels: &BTreeMap<String, String>,
) -> Result<Ensured, Failure> {
    let mut labels = labels.clone();
    labels.insert(ANONYMOUS.to_owned(), String::new());
    ensure(environment, &random_name()?, &labels, &BTreeMap::new())
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
    let options = pairs(&args.opt);
    if let Some(key) = options
        .keys()
        .find(|key| !["type", "device", "o"].contains(&key.as_str()))
    {
        return Err(Failure::general(format!(
            "create {}: invalid option: \"{key}\"",
            args.volume.as_deref().unwrap_or_default()
        )));
    }
    if !options.is_empty() {
        return Err(
            Failure::general("volumes with mount options are not available")
                .hint("mount the directory with -v HOST:CONTAINER, or a tmpfs with --tmpfs"),
        );
    }
    let labels = pairs(&args.label);
    let made = match args.volume.as_ref().or(args.name.as_ref()) {
        Some(name) => {
            let name =
                request::volume_name(name).map_err(|failure| failure.code(ExitCode::GENERAL))?;
            ensure(environment, &name, &labels, &options)?
        }
        None => anonymous(environment, &labels)?,
    };
    report::line(&made.name)?;
    Ok(ExitCode::OK)
}

fn pairs(words: &[String]) -> BTreeMap<String, String> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// 64 hex digits, as anonymous volumes and containers are named.
fn random_name() -> Result<String, Failure> {
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

/// Keys of `volume ls --filter`.
const KEYS: [&str; 4] = ["dangling", "driver", "label", "name"];

fn truth(value: &str) -> Result<bool, Failure> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Failure::general(format!(
            "invalid filter 'dangling={value}'"
        ))),
    }
}

/// `rrun volume ls`.
pub(crate) fn ls(args: &VolumeLsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let kept = environment.client_setting("volumesFormat");
    let format = Format::parse(args.format.as_deref().or(kept.as_deref()))?;
    let filters = filter_pairs(&args.filter, &KEYS)?;
    let used = used(environment)?;
    let mut rows: Vec<Value> = Vec::new();
    for name in names(environment)? {
        let meta = Meta::load(&volumes_dir(environment).join(&name));
        let mut shown = true;
        for key in KEYS {
            let mut values = filters.iter().filter(|(other, _)| other == key).peekable();
            if values.peek().is_none() {
                continue;
            }
            let mut any = false;
            let mut all = true;
            for (_, value) in values {
                let one = match key {
                    "dangling" => truth(value)? != used.contains(&name),
                    "driver" => value == "local",
                    "label" => label_matches(&meta.labels, value),
                    _ => name.contains(value.as_str()),
                };
                any |= one;
                all &= one;
            }
            shown &= if key == "label" { all } else { any };
        }
        if shown {
            rows.push(row(environment, &name, &meta, &used));
        }
    }
    if args.quiet && args.format.is_none() {
        for name in rows.iter().filter_map(|row| row.get("Name")?.as_str()) {
            report::line(name)?;
        }
        return Ok(ExitCode::OK);
    }
    let columns = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
    report::list(&format, &columns, &rows)?;
    Ok(ExitCode::OK)
}

fn row(environment: &Environment, name: &str, meta: &Meta, used: &[String]) -> Value {
    let labels: Vec<String> = meta
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let links = used.iter().filter(|other| *other == name).count();
    json!({
        "Availability": "N/A",
        "Driver": "local",
        "Group": "N/A",
        "Labels": labels.join(","),
        "Links": links.to_string(),
        "Mountpoint": mountpoint(environment, name),
        "Name": name,
        "Scope": "local",
        "Size": "N/A",
        "Status": "N/A",
        "Label": meta.labels,
    })
}

fn mountpoint(environment: &Environment, name: &str) -> String {
    volumes_dir(environment)
        .join(name)
        .join("_data")
        .display()
        .to_string()
}

/// What `inspect` shows of a volume; `None` when there is none.
pub(crate) fn describe(environment: &Environment, name: &str) -> Result<Option<Value>, Failure> {
    let dir = volumes_dir(environment).join(name);
    if request::volume_name(name).is_err() || !dir.join("_data").is_dir() {
        return Ok(None);
    }
    let meta = Meta::load(&dir);
    let or_null = |map: &BTreeMap<String, String>| {
        if map.is_empty() {
            Value::Null
        } else {
            json!(map)
        }
    };
    let created: String = match meta.created.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => meta.created.clone(),
    };
    Ok(Some(json!({
        "CreatedAt": created,
        "Driver": "local",
        "Labels": or_null(&meta.labels),
        "Mountpoint": mountpoint(environment, name),
        "Name": name,
        "Options": or_null(&meta.options),
        "Scope": "local",
    })))
}

/// `rrun volume inspect`.
pub(crate) fn inspect(
    args: &VolumeInspectArgs,
    environment: &Environment,
) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for name in &args.volumes {
        match describe(environment, name)? {
            Some(object) => found.push(object),
            None => errors.push(Failure::general(format!("get {name}: no such volume"))),
        }
    }
    report::objects(args.format.as_deref(), &found)?;
    for failure in &errors {
        report::failure(failure);
    }
    Ok(if errors.is_empty() {
        ExitCode::OK
    } else {
        ExitCode::GENERAL
    })
}

/// `rrun volume rm`.
pub(crate) fn rm(args: &VolumeRmArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    let users = users(environment)?;
    for name in &args.volumes {
        let holders: Vec<&str> = users
            .iter()
            .filter(|(volume, _)| volume == name)
            .map(|(_, id)| id.as_str())
            .collect();
        let result = match describe(environment, name)? {
            Some(_) if !holders.is_empty() => Err(Failure::general(format!(
                "remove {name}: volume is in use - [{}]",
                holders.join(", ")
            ))),
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

/// Runs a helper with a container's ids; it says itself what went wrong.
fn helper(map: &IdMap, argv: &[std::ffi::OsString]) -> Result<(), Failure> {
    match rrun_runner::userns::run(map, argv)? {
        0 => Ok(()),
        code => Err(Failure::general(format!(
            "a helper in a user namespace ended with {code}"
        ))),
    }
}

/// Removes a volume; what only a container's ids may list or remove goes by its eyes.
fn remove(environment: &Environment, name: &str) -> Result<(), Failure> {
    let dir = volumes_dir(environment).join(name);
    if let Err(error) = fs::remove_dir_all(&dir) {
        let map = super::create::id_map(environment);
        if !matches!(map, IdMap::Root) {
            let argv = Parts::of_self()?.remove_tree(&dir);
            helper(&map, &argv)?;
        }
        if dir.is_dir() {
            return Err(Failure::general(format!(
                "could not remove volume {name}: {}",
                chain(&error)
            )));
        }
    }
    journal::volume(environment, "destroy", name);
    Ok(())
}

/// Removes the volumes among these mounts that were made for their container alone and that no
/// other uses.
pub(crate) fn remove_anonymous(
    environment: &Environment,
    points: &[MountPoint],
) -> Result<(), Failure> {
    let used = used(environment)?;
    for point in points.iter().filter(|point| point.anonymous) {
        if let Some(name) = &point.name
            && !used.contains(name)
            && describe(environment, name)?.is_some()
        {
            remove(environment, name)?;
        }
    }
    Ok(())
}

/// Removes volumes that no container mounts: those without a name of their own, with `all` the
/// others too. The bytes given back.
pub(crate) fn remove_unused(
    environment: &Environment,
    all: bool,
    keep: &dyn Fn(&BTreeMap<String, String>) -> bool,
) -> Result<u64, Failure> {
    let used = used(environment)?;
    let mut removed = Vec::new();
    let mut bytes = 0_u64;
    for name in names(environment)? {
        let dir = volumes_dir(environment).join(&name);
        let meta = Meta::load(&dir);
        let wanted = all || meta.labels.contains_key(ANONYMOUS);
        if wanted && !used.contains(&name) && !keep(&meta.labels) {
            let size = super::ps::bytes_of(&dir.join("_data"));
            remove(environment, &name)?;
            bytes = bytes.saturating_add(size);
            removed.push(name);
        }
    }
    if !removed.is_empty() {
        report::line(&format!("Deleted Volumes:\n{}\n", removed.join("\n")))?;
    }
    Ok(bytes)
}

/// Volumes and the containers that mount them.
fn users(environment: &Environment) -> Result<Vec<(String, String)>, Failure> {
    let all = rrun_runner::container::list(&environment.containers())?;
    let mut found = Vec::new();
    for one in &all {
        for point in mount_points::of(one) {
            found.extend(point.name.map(|name| (name, one.config.id.clone())));
        }
    }
    Ok(found)
}

/// Names of the volumes that containers mount.
fn used(environment: &Environment) -> Result<Vec<String>, Failure> {
    Ok(users(environment)?
        .into_iter()
        .map(|(name, _)| name)
        .collect())
}
