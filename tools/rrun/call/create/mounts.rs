//! The mounts of a new container.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rrun_runner::{ContainerConfig, Mount, MountKind, Propagation, container, names};
use serde_json::{Map, Value};

use super::{devices, podman, spread};
use crate::call::mount_points::{self, MountPoint};
use crate::call::volume;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::request::{self, CreateRequest, MountSource};

/// Makes the mounts that were asked for, those of other containers and those of the image.
pub(super) fn make(
    request: &CreateRequest,
    environment: &Environment,
    defaults: &Value,
    config: &mut ContainerConfig,
    dir: &Path,
) -> Result<(), Failure> {
    let mut made = Made {
        environment,
        points: Vec::new(),
        fresh: Vec::new(),
    };
    for mount in &request.mounts {
        made.asked(mount, config)?;
    }
    for from in &request.volumes_from {
        made.of_container(from, config)?;
    }
    let declared = defaults.get("Volumes").and_then(Value::as_object);
    for target in declared.into_iter().flat_map(Map::keys) {
        made.of_image(target, config)?;
    }
    if config.host.ipc && !made.taken("/dev/shm") {
        config.mounts.push(Mount {
            target: PathBuf::from("/dev/shm"),
            kind: bind("/dev/shm"),
            read_only: false,
        });
    }
    podman::mounts(config, dir)?;
    devices::guard(config);
    mount_points::put(config, &made.points);
    if !made.fresh.is_empty() {
        // Copying needs the configuration: it says what the container stands on.
        config.save(dir)?;
    }
    for point in &made.fresh {
        volume::fill(environment, config, dir, point)?;
    }
    Ok(())
}

fn bind(path: &str) -> MountKind {
    MountKind::Bind {
        source: PathBuf::from(path),
        propagation: Propagation::Private,
        alone: false,
    }
}

fn propagation(word: &str) -> Propagation {
    match word.trim_start_matches('r') {
        "shared" => Propagation::Shared,
        "slave" => Propagation::Slave,
        _ => Propagation::Private,
    }
}

struct Made<'e> {
    environment: &'e Environment,
    points: Vec<MountPoint>,
    /// Volumes to fill from the image.
    fresh: Vec<MountPoint>,
}

impl Made<'_> {
    fn taken(&self, target: &str) -> bool {
        self.points.iter().any(|point| point.destination == target)
    }

    fn add(&mut self, point: MountPoint, config: &mut ContainerConfig) {
        let kind = MountKind::Bind {
            source: PathBuf::from(&point.source),
            propagation: propagation(&point.propagation),
            alone: point.alone,
        };
        config.mounts.push(Mount {
            target: PathBuf::from(&point.destination),
            kind,
            read_only: !point.writable,
        });
        self.points.push(point);
    }

    fn asked(
        &mut self,
        mount: &request::Mount,
        config: &mut ContainerConfig,
    ) -> Result<(), Failure> {
        let mut point = MountPoint {
            kind: "volume".to_owned(),
            destination: mount.target.clone(),
            mode: mount.mode.clone(),
            writable: !mount.read_only,
            ..MountPoint::default()
        };
        let volume = match &mount.source {
            MountSource::Bind { path, create } => {
                if *create && fs::symlink_metadata(path).is_err() {
                    fs::create_dir_all(path).map_err(|error| {
                        let action = format!("could not create {}", path.display());
                        Failure::of(&action, &error)
                    })?;
                }
                "bind".clone_into(&mut point.kind);
                point.source = path.display().to_string();
                if let Some(access) = mount.mode.strip_prefix(request::DEVICE) {
                    // A device is no mount point that users see.
                    devices::add(path, mount, access, config);
                    return Ok(());
                }
                let wish = mount.options.iter().map(String::as_str);
                let mut wish = wish.filter(|word| request::PROPAGATIONS.contains(word));
                point.propagation = wish.next().unwrap_or("rprivate").to_owned();
                point.alone = mount.options.iter().any(|word| word == "nonrecursive");
                spread::check(path, &mut point, config)?;
                self.add(point, config);
                return Ok(());
            }
            MountSource::Tmpfs => {
                config.mounts.push(Mount {
                    target: PathBuf::from(&mount.target),
                    kind: MountKind::Tmpfs {
                        options: mount.options.clone(),
                    },
                    read_only: mount.read_only,
                });
                "tmpfs".clone_into(&mut point.kind);
                // As Docker: those of --tmpfs are no mount points, only those of --mount.
                if mount.mode.is_empty() {
                    self.points.push(point);
                }
                return Ok(());
            }
            MountSource::Volume(name) => {
                volume::ensure(self.environment, name, &mount.labels, &BTreeMap::new())?
            }
            MountSource::Anonymous => {
                point.anonymous = true;
                volume::anonymous(self.environment, &mount.labels)?
            }
        };
        if point.mode.is_empty() {
            "z".clone_into(&mut point.mode);
        }
        self.volume(point, volume, mount.copies, config);
        Ok(())
    }

    fn volume(
        &mut self,
        mut point: MountPoint,
        volume: volume::Ensured,
        copies: bool,
        config: &mut ContainerConfig,
    ) {
        point.name = Some(volume.name);
        point.source = volume.data.display().to_string();
        if copies {
            self.fresh.push(point.clone());
        }
        self.add(point, config);
    }

    /// Mounts what another container mounts, where nothing was asked for.
    fn of_container(
        &mut self,
        from: &request::VolumesFrom,
        config: &mut ContainerConfig,
    ) -> Result<(), Failure> {
        let dir = names::resolve(&self.environment.containers(), &from.container)?;
        let other = container::load(&dir)?;
        for mut point in mount_points::of(&other) {
            if point.kind == "tmpfs" || self.taken(&point.destination) {
                continue;
            }
            if let Some(read_only) = from.read_only {
                point.writable = !read_only;
            }
            // Its own container, or the last that mounts it, removes it.
            self.add(point, config);
        }
        Ok(())
    }

    /// A volume of its own for a path the image names.
    fn of_image(&mut self, target: &str, config: &mut ContainerConfig) -> Result<(), Failure> {
        let target = request::clean_target(target, target)?;
        let covered = config
            .mounts
            .iter()
            .any(|mount| mount.target.as_os_str() == target.as_str());
        if covered || self.taken(&target) {
            return Ok(());
        }
        // An image must not put a volume where the runner's own mounts go.
        if ["/proc", "/sys", "/dev"]
            .iter()
            .any(|own| Path::new(&target).starts_with(own))
        {
            return Err(Failure::general(format!(
                "the image names {target} as a volume, which is not allowed"
            )));
        }
        let volume = volume::anonymous(self.environment, &BTreeMap::new())?;
        let point = MountPoint {
            kind: "volume".to_owned(),
            destination: target,
            writable: true,
            anonymous: true,
            ..MountPoint::default()
        };
        self.volume(point, volume, true, config);
        Ok(())
    }
}
