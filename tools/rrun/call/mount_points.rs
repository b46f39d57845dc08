//! The mounts a user asked for, as `inspect` and `ps` show them.

use rrun_runner::{Container, ContainerConfig, MountKind};
use serde::{Deserialize, Serialize};

/// Where mount points are kept in a container's configuration.
const KEY: &str = "mounts";

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MountPoint {
    /// `bind`, `volume` or `tmpfs`.
    pub(crate) kind: String,
    /// The volume's name.
    pub(crate) name: Option<String>,
    /// On the host; empty for a tmpfs.
    pub(crate) source: String,
    /// Inside.
    pub(crate) destination: String,
    /// As typed after the second colon.
    pub(crate) mode: String,
    pub(crate) writable: bool,
    pub(crate) propagation: String,
    /// Whether it goes with the container.
    pub(crate) anonymous: bool,
    /// Whether mounts below it stay away.
    pub(crate) alone: bool,
}

impl MountPoint {
    /// What `inspect` shows.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        let mut put = |key: &str, value: serde_json::Value| {
            object.insert(key.to_owned(), value);
        };
        put("Type", self.kind.as_str().into());
        if let Some(name) = &self.name {
            put("Name", name.as_str().into());
        }
        put("Source", self.source.as_str().into());
        put("Destination", self.destination.as_str().into());
        if self.name.is_some() {
            put("Driver", "local".into());
        }
        put("Mode", self.mode.as_str().into());
        put("RW", self.writable.into());
        put("Propagation", self.propagation.as_str().into());
        serde_json::Value::Object(object)
    }
}

/// Keeps them with a container.
pub(crate) fn put(config: &mut ContainerConfig, points: &[MountPoint]) {
    let value = serde_json::to_value(points).unwrap_or_default();
    config.extra.insert(KEY.to_owned(), value);
}

/// Those of a configuration.
pub(crate) fn of_config(config: &ContainerConfig) -> Vec<MountPoint> {
    config
        .extra
        .get(KEY)
        .and_then(|value| serde_json::from_value(value.clone()).ok())
        .unwrap_or_default()
}

/// Those of a container, one without a record of them included.
pub(crate) fn of(one: &Container) -> Vec<MountPoint> {
    if one.config.extra.contains_key(KEY) {
        return of_config(&one.config);
    }
    let shown = one.config.mounts.iter().filter_map(|mount| {
        let (kind, source) = match &mount.kind {
            MountKind::Bind { source, .. } if source.starts_with(&one.dir) => return None,
            MountKind::Bind { source, .. } => ("bind", source.display().to_string()),
            MountKind::Device { .. } => return None,
            MountKind::Tmpfs { .. } => ("tmpfs", String::new()),
        };
        Some(MountPoint {
            kind: kind.to_owned(),
            source,
            destination: mount.target.display().to_string(),
            writable: !mount.read_only,
            ..MountPoint::default()
        })
    });
    shown.collect()
}
