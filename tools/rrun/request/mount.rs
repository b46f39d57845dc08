//! Volumes, binds and tmpfs mounts as typed.

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
    for word in &typed.tmpfs {
        let (target, options) = word.split_once(':').unwrap_or((word, ""));
        mounts.push(Mount {
            source: MountSource::Tmpfs,
            target: clean_target(target, word)?,
            read_only: options.split(',').any(|option| option == "ro"),
            options: option_list(options),
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

fn option_list(options: &str) -> Vec<String> {
    options
        .split(',')
        .filter(|option| !["", "ro", "rw"].contains(option))
        .map(ToOwned::to_owned)
        .collect()
}

/// An absolute path inside, without `.`, `..` and doubled slashes.
fn clean_target(target: &str, word: &str) -> Result<String, Failure> {
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
    Ok(Mount {
        source,
        target: clean_target(target, word)?,
        read_only: options.split(',').any(|option| option == "ro"),
        options: option_list(options),
    })
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

fn mount(word: &str) -> Result<Mount, Failure> {
    let bad =
        |why: &str| Failure::flags(format!("invalid argument {word:?} for \"--mount\": {why}"));
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut options) = (false, Vec::new());
    for field in word.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "type" => kind = value,
            "source" | "src" => source = Some(value),
            "target" | "destination" | "dst" => target = Some(value),
            "readonly" | "ro" => read_only = matches!(value, "" | "true" | "1"),
            "tmpfs-size" => options.push(format!("size={value}")),
            "tmpfs-mode" => options.push(format!("mode={value}")),
            "bind-propagation" => options.push(value.to_owned()),
            "volume-nocopy" => options.push("nocopy".to_owned()),
            "consistency" => {}
            _ => return Err(bad(&format!("unexpected key '{key}'"))),
        }
    }
    let target = target.ok_or_else(|| bad("field target must not be empty"))?;
    let source = match (kind, source) {
        ("bind", Some(path)) => {
            let path = std::path::absolute(path)?;
            if fs::symlink_metadata(&path).is_err() {
                return Err(engine(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    path.display()
                )));
            }
            MountSource::Bind {
                path,
                create: false,
            }
        }
        ("bind", None) => return Err(bad("field source must not be empty")),
        ("volume", Some(name)) => MountSource::Volume(volume_name(name)?),
        ("volume", None) => MountSource::Anonymous,
        ("tmpfs", None) => MountSource::Tmpfs,
        ("tmpfs", Some(_)) => return Err(bad("a tmpfs has no source")),
        (other, _) => return Err(bad(&format!("unknown mount type {other:?}"))),
    };
    Ok(Mount {
        source,
        target: clean_target(target, word)?,
        read_only,
        options,
    })
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
        for bad in ["a:b", ":/x", "/a:/", "a/b:/c", "x:/a:ro:y"] {
            assert!(volume(bad).is_err(), "input {bad:?}");
        }
        let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=1m").unwrap();
        assert_eq!(tmpfs.options, ["size=1m"]);
        assert!(mount("type=bind,dst=/t").is_err());
    }
}
