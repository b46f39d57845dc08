//! Devices of a new container, and what keeps the others from it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rrun_runner::oci::DeviceRule;
use rrun_runner::{CapSet, ContainerConfig, IdMap, Mount, MountKind};

use crate::request;

/// Number of `CAP_SYS_ADMIN`. Source: `linux/capability.h`.
const SYS_ADMIN: u32 = 21;

/// Adds a device of the host.
pub(super) fn add(path: &Path, mount: &request::Mount, access: &str, config: &mut ContainerConfig) {
    config.mounts.push(Mount {
        target: PathBuf::from(&mount.target),
        kind: MountKind::Device {
            source: path.to_owned(),
        },
        read_only: mount.read_only,
    });
    // A rule for it is of use only where there are rules.
    let rule = rule(path, access).filter(|_| !config.limits.devices.is_empty());
    config.limits.devices.extend(rule);
}

fn rule(path: &Path, access: &str) -> Option<DeviceRule> {
    let data = fs::metadata(path).ok()?;
    let kind = if data.file_type().is_block_device() {
        "b"
    } else if data.file_type().is_char_device() {
        "c"
    } else {
        return None;
    };
    let number = data.rdev();
    Some(DeviceRule {
        allow: true,
        kind: Some(kind.to_owned()),
        major: Some(rustix::fs::major(number).into()),
        minor: Some(rustix::fs::minor(number).into()),
        access: Some(access.to_owned()),
    })
}

/// Decides what keeps root's container from the devices of the host: mounts on which no node
/// works, which cost nothing, or a control group where the container could make other mounts or
/// is given the host's `/dev`.
pub(super) fn guard(config: &mut ContainerConfig) {
    let guarded = matches!(config.id_map, IdMap::Root) && !config.privileged;
    if !guarded || !config.limits.devices.is_empty() {
        return;
    }
    let mounts = can_mount(config.caps);
    let has_dev = config.mounts.iter().any(|mount| match &mount.kind {
        MountKind::Bind { source, .. } => source.is_dir() && shows_dev(source),
        MountKind::Device { .. } | MountKind::Tmpfs { .. } => false,
    });
    if !mounts && !has_dev {
        return;
    }
    config.limits.devices.push(DeviceRule::default());
    let devices = config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Device { source } if mount.read_only => rule(source, "rm"),
        MountKind::Device { source } => rule(source, "rwm"),
        MountKind::Bind { .. } | MountKind::Tmpfs { .. } => None,
    });
    let rules: Vec<DeviceRule> = devices.collect();
    config.limits.devices.extend(rules);
}

fn can_mount(caps: CapSet) -> bool {
    caps.contains(SYS_ADMIN)
}

/// Whether the host's devices are at or below a directory.
fn shows_dev(dir: &Path) -> bool {
    let dev = Path::new("/dev");
    // Memory that is shared with the host's programs holds no devices.
    let shm = Path::new("/dev/shm");
    (dir.starts_with(dev) && !dir.starts_with(shm)) || dev.starts_with(dir)
}
