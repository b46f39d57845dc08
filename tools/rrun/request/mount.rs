//! Volumes, binds and tmpfs mounts as typed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::engine;
use crate::args::CreateArgs;
use crate::failure::Failure;

/// Something mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) source: MountSource,
    /// Absolute path inside.
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Options beyond `ro` and `rw`, such as `size=64m` or `rslave`.
    pub(crate) options: Vec<String>,
    /// What stood after the second colon.
    pub(crate) mode: String,
    /// Whether an empty volume is filled with what the image has there.
    pub(crate) copies: bool,
    /// Labels of a volume that is made for it.
    pub(crate) labels: BTreeMap<String, String>,
}

/// `--volumes-from`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumesFrom {
    pub(crate) container: String,
    /// `Some(true)` makes them read-only, `Some(false)` writable.
    pub(crate) read_only: Option<bool>,
}

/// Reads `--volumes-from`.
pub(super) fn volumes_from(words: &[String]) -> Result<Vec<VolumesFrom>, Failure> {
    let one = |word: &String| {
        let (container, mode) = word.split_once(':').unwrap_or((word, ""));
        let mut read_only = None;
        for word in mode.split(',').filter(|word| !word.is_empty()) {
            match word {
                "ro" => read_only = Some(true),
                "rw" => read_only = Some(false),
                "z" | "Z" => {}
                _ => return Err(engine(format!("invalid mode: {mode}"))),
            }
        }
        if container.is_empty() {
            return Err(engine(format!("invalid volumes-from format: {word}")));
        }
        Ok(VolumesFrom {
            container: container.to_owned(),
            read_only,
        })
    };
    words.iter().map(one).collect()
}

/// Where the contents of a mount come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountSource {
    /// An absolute path of the host.
    Bind { path: PathBuf, create: bool },
    /// A named volume.
    Volume(String),
    /// A volume without a name, removed with its container.
    Anonymous,
    /// Memory.
    Tmpfs,
}

/// Every mount asked for; no two at one place.
pub(super) fn all(typed: &CreateArgs) -> Result<Vec<Mount>, Failure> {
    let mut mounts = Vec::new();
    for word in &typed.volume {
        mounts.push(volume(word)?);
    }
    for word in &typed.mount {
        mounts.push(mount(word)?);
    }
    for word in &typed.device {
        mounts.push(device(word)?);
    }
    for word in &typed.tmpfs {
        let (target, options) = word.split_once(':').unwrap_or((word, ""));
        mounts.push(Mount {
            source: MountSource::Tmpfs,
            target: clean_target(target, word)?,
            read_only: options.split(',').any(|option| option == "ro"),
            options: option_list(options),
            mode: options.to_owned(),
            copies: false,
            labels: BTreeMap::new(),
        });
    }
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index]
            .iter()
            .any(|other| other.target == mount.target)
        {
            return Err(engine(format!("duplicate mount point: {}", mount.target)));
        }
    }
    Ok(mounts)
}

/// A device of the host: its file, bound where it is wanted. What the host lets us do with it is
/// what the container may.
fn device(word: &str) -> Result<Mount, Failure> {
    let parts: Vec<&str> = word.split(':').collect();
    let access = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (path, target, mode) = match parts.as_slice() {
        [path] => (*path, *path, "rwm"),
        [path, mode] if access(mode) => (*path, *path, *mode),
        [path, target] => (*path, *target, "rwm"),
        [path, target, mode] if access(mode) => (*path, *target, *mode),
        _ => return Err(Failure::flags(format!("bad format for device: {word}"))),
    };
    if !path.starts_with('/') {
        return Err(Failure::flags(format!("{path} is not an absolute path")));
    }
    if let Err(error) = fs::metadata(path) {
        return Err(engine(format!(
            "error gathering device information while adding custom device \"{path}\": {error}"
        )));
    }
    Ok(Mount {
        source: MountSource::Bind {
            path: PathBuf::from(path),
            create: false,
        },
        target: clean_target(target, word)?,
        read_only: !mode.contains('w'),
        options: Vec::new(),
        mode: format!("{DEVICE}{mode}"),
        copies: false,
        labels: BTreeMap::new(),
    })
}

/// Start of the mode that tells a device from other mounts; its access follows.
pub(crate) const DEVICE: &str = "device:";

fn option_list(options: &str) -> Vec<String> {
    options
        .split(',')
        .filter(|option| !["", "ro", "rw"].contains(option))
        .map(ToOwned::to_owned)
        .collect()
}

/// An absolute path inside, without `.`, `..` and doubled slashes.
pub(crate) fn clean_target(target: &str, word: &str) -> Result<String, Failure> {
    if !target.starts_with('/') {
        return Err(engine(format!(
            "invalid volume specification: '{word}': mount path must be absolute"
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(engine(format!(
            "invalid volume specification: '{word}': destination can't be '/'"
        )));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn volume(word: &str) -> Result<Mount, Failure> {
    let parts: Vec<&str> = word.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => {
            return Err(engine(format!("invalid volume specification: '{word}'")));
        }
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(engine(format!("invalid volume specification: '{word}'")));
    }
    let source = match source {
        "" => MountSource::Anonymous,
        path if path.starts_with(['/', '.', '~']) => MountSource::Bind {
            path: std::path::absolute(path)?,
            create: true,
        },
        name => MountSource::Volume(volume_name(name)?),
    };
    check_mode(word, options, &source)?;
    Ok(Mount {
        source,
        target: clean_target(target, word)?,
        read_only: options.split(',').any(|option| option == "ro"),
        options: option_list(options),
        mode: options.to_owned(),
        copies: !options.split(',').any(|option| option == "nocopy"),
        labels: BTreeMap::new(),
    })
}

/// Words that say how mounts below spread.
pub(crate) const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Refuses what Docker refuses after the second colon.
///
/// Source: moby volume/mounts, linux_parser.go.
fn check_mode(word: &str, options: &str, source: &MountSource) -> Result<(), Failure> {
    let is_bind = matches!(source, MountSource::Bind { .. });
    let (mut access, mut spread, mut label, mut copy) = (0, 0, 0, 0);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" => access += 1,
            // Labels of SELinux; there is nothing to label where it is not in use.
            "z" | "Z" => label += 1,
            "nocopy" if !is_bind => copy += 1,
            "consistent" | "cached" | "delegated" => {}
            option if PROPAGATIONS.contains(&option) && is_bind => spread += 1,
            _ => {
                return Err(engine(format!(
                    "invalid volume specification: '{word}': invalid mode: {options}"
                )));
            }
        }
    }
    if access > 1 || spread > 1 || label > 1 || copy > 1 {
        return Err(engine(format!(
            "invalid volume specification: '{word}': invalid mode: {options}"
        )));
    }
    Ok(())
}

/// A volume's name, which becomes a directory's.
pub(crate) fn volume_name(name: &str) -> Result<String, Failure> {
    let mut letters = name.chars();
    let good = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
        && name.len() > 1
        && name.len() <= 255;
    if good {
        return Ok(name.to_owned());
    }
    Err(engine(format!(
        "{name:?} includes invalid characters for a volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"
    ))
    .hint("to pass a host directory, use an absolute path"))
}

/// The fields of `--mount`.
#[derive(Default)]
struct Fields<'w> {
    kind: &'w str,
    source: Option<&'w str>,
    target: Option<&'w str>,
    read_only: bool,
    options: Vec<String>,
    nocopy: bool,
    creates: bool,
    labels: BTreeMap<String, String>,
}

/// Splits at commas outside quotes. Source: Go `encoding/csv`, which Docker reads `--mount` with.
fn csv(word: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in word.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            letter => fields
                .iter_mut()
                .last()
                .into_iter()
                .for_each(|f| f.push(letter)),
        }
    }
    fields
}

fn mount(word: &str) -> Result<Mount, Failure> {
    let words = csv(word);
    let bad = |why: &str| {
        Failure::flags(format!(
            "invalid argument {word:?} for \"--mount\" flag: {why}"
        ))
    };
    let fields = mount_fields(&words, &bad)?;
    let target = fields.target.ok_or_else(|| bad("target is required"))?;
    let source = match (fields.kind, fields.source) {
        ("bind", Some(path)) => {
            let path = std::path::absolute(path)?;
            if fs::symlink_metadata(&path).is_err() && !fields.creates {
                return Err(engine(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    path.display()
                )));
            }
            MountSource::Bind {
                path,
                create: fields.creates,
            }
        }
        ("bind", None) => return Err(bad("source is required for type \"bind\"")),
        ("volume", Some(name)) if !name.is_empty() => MountSource::Volume(volume_name(name)?),
        ("volume", _) => MountSource::Anonymous,
        ("tmpfs", None) => MountSource::Tmpfs,
        ("tmpfs", Some(_)) => return Err(bad("source is not allowed for type \"tmpfs\"")),
        (other, _) => {
            return Err(bad(&format!("mount type unknown: {other:?}"))
                .hint("there are: bind, volume, tmpfs"));
        }
    };
    Ok(Mount {
        source,
        target: clean_target(target, word)?,
        read_only: fields.read_only,
        options: fields.options,
        mode: String::new(),
        copies: !fields.nocopy,
        labels: fields.labels,
    })
}

fn mount_fields<'w>(
    words: &'w [String],
    bad: &dyn Fn(&str) -> Failure,
) -> Result<Fields<'w>, Failure> {
    let mut fields = Fields {
        kind: "volume",
        ..Fields::default()
    };
    for field in words {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        let lower = key.to_ascii_lowercase();
        let truth = || match value {
            None | Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(&format!("invalid value for {key}: {other}"))),
        };
        let text = || {
            value.ok_or_else(|| bad(&format!("invalid field '{field}' must be a key=value pair")))
        };
        match lower.as_str() {
            "type" => fields.kind = text()?,
            "source" | "src" => fields.source = Some(text()?),
            "target" | "destination" | "dst" => fields.target = Some(text()?),
            "readonly" | "ro" => fields.read_only = truth()?,
            "tmpfs-size" => fields.options.push(format!("size={}", text()?)),
            "tmpfs-mode" => fields.options.push(format!("mode={}", text()?)),
            "bind-propagation" if PROPAGATIONS.contains(&text()?) => {
                fields.options.push(text()?.to_owned());
            }
            "bind-propagation" => {
                return Err(bad(&format!("invalid value for {key}: {}", text()?)));
            }
            "bind-nonrecursive" if truth()? => fields.options.push("nonrecursive".to_owned()),
            "bind-recursive" if text()? == "disabled" => {
                fields.options.push("nonrecursive".to_owned());
            }
            "bind-create-src" => fields.creates = truth()?,
            "volume-nocopy" => fields.nocopy = truth()?,
            "volume-label" => {
                let text = text()?;
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                fields.labels.insert(key.to_owned(), value.to_owned());
            }
            "volume-driver" if !["", "local"].contains(&text()?) => {
                return Err(bad("only the volume driver local is available"));
            }
            "consistency" | "volume-driver" | "bind-nonrecursive" | "bind-recursive" => {}
            _ => return Err(bad(&format!("unexpected key '{key}' in '{field}'"))),
        }
        let prefix = lower.split('-').next().unwrap_or_default();
        let of_kind = ["bind", "volume", "tmpfs"].contains(&prefix) && lower.contains('-');
        let kinds = words.iter().find_map(|word| word.strip_prefix("type="));
        if of_kind && kinds.unwrap_or("volume") != prefix {
            return Err(bad(&format!(
                "cannot mix '{prefix}-*' options with mount type '{}'",
                kinds.unwrap_or("volume")
            )));
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_and_mounts_are_told_apart() {
        let bind = volume("/a:/b:ro,rslave").unwrap();
        assert!(bind.read_only);
        assert_eq!(bind.options, ["rslave"]);
        assert_eq!(volume("vol1://www/html").unwrap().target, "/www/html");
        assert_eq!(volume("/data").unwrap().source, MountSource::Anonymous);
        assert!(!volume("v1:/x:nocopy").unwrap().copies);
        for bad in [
            "a:b",
            ":/x",
            "/a:/",
            "a/b:/c",
            "x:/a:ro:y",
            "vol:/a:frob",
            "vol:/a:rshared",
            "/a:/b:nocopy",
            "/a:/b:ro,rw",
        ] {
            assert!(volume(bad).is_err(), "input {bad:?}");
        }
        let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=1m").unwrap();
        assert_eq!(tmpfs.options, ["size=1m"]);
        let labelled = mount("src=v1,\"dst=/a,b\",volume-label=k=v,readonly").unwrap();
        assert_eq!(
            (labelled.target.as_str(), labelled.read_only),
            ("/a,b", true)
        );
        assert_eq!(labelled.labels.get("k").map(String::as_str), Some("v"));
        for bad in [
            "type=bind,dst=/t",
            "type=frob,dst=/t",
            "type=tmpfs,src=x,dst=/t",
            "src=v1",
            "type=volume,dst=/t,tmpfs-size=1",
            "dst=/t,frob=1",
            "type=bind,src=/nonexistent-rrun,dst=/t",
        ] {
            assert!(mount(bad).is_err(), "input {bad}");
        }
        let from = volumes_from(&["web:ro".to_owned()]).unwrap();
        assert_eq!(from[0].read_only, Some(true));
        assert!(volumes_from(&["web:x".to_owned()]).is_err());
    }
}
