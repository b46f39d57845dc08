//! Which id a container has that can have only one.

use rrun_runner::{ContainerConfig, IdMap, Network, resolve_user};
use rrun_union::Union;

use crate::call::{copy_up, ground};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

/// Largest passwd or group file read of an image, in bytes; beyond that it is not a user list.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The id map of a container whose configuration is complete but for it: where there is one id,
/// that of its user, who is then told who he is by the kernel.
pub(super) fn id_map(
    config: &ContainerConfig,
    environment: &Environment,
) -> Result<IdMap, Failure> {
    if config.id_map != IdMap::Squash {
        return Ok(config.id_map.clone());
    }
    let own = own(config)?;
    match joined(config, environment)? {
        // What it shares lies in a user namespace, which it must share too.
        Some(other) => check_joined(&own, other),
        None => Ok(own),
    }
}

/// The map for the container's user.
fn own(config: &ContainerConfig) -> Result<IdMap, Failure> {
    // These belong to root of the user namespace, who must exist to set them.
    let needs_root = config.sysctls.keys().any(|key| !key.starts_with("net."));
    if needs_root || config.user.is_empty() {
        return Ok(IdMap::Squash);
    }
    let (union, _lease) = ground::image(config)?;
    let passwd = read(&union, "/etc/passwd")?;
    let group = read(&union, "/etc/group")?;
    Ok(match resolve_user(&config.user, &[], &passwd, &group) {
        Ok(identity) if identity.uid != 0 => IdMap::Single {
            uid: identity.uid,
            gid: identity.gid,
        },
        // Whoever does not exist is told of at the start, which may find other files.
        Ok(_) | Err(_) => IdMap::Squash,
    })
}

/// A small text of the image; one that is not there is empty.
fn read(union: &Union, path: &str) -> Result<String, Failure> {
    let failed = |errno: rrun_core::Errno| {
        Failure::general(format!("could not read {path} of the image: {errno}"))
    };
    let Some(ino) = copy_up::find(union, path)? else {
        return Ok(String::new());
    };
    let size = union.getattr(ino).map_err(failed)?.size.min(FILE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset = u64::try_from(filled).unwrap_or(u64::MAX);
        match union.read(ino, offset, rest).map_err(failed)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A container whose namespaces are shared.
fn joined(
    config: &ContainerConfig,
    environment: &Environment,
) -> Result<Option<ContainerConfig>, Failure> {
    let network = config.net.join.as_ref();
    let network = network.filter(|_| config.network == Network::Container);
    let id = network
        .or(config.joins.pid.as_ref())
        .or(config.joins.ipc.as_ref());
    let load = |id| ContainerConfig::load(&environment.containers().join(id));
    Ok(id.map(load).transpose()?)
}

/// The map of a container that shares namespaces with `other`. Where that has root, one's own user
/// is a root that pretends; another cannot become root, or a third.
fn check_joined(own: &IdMap, other: ContainerConfig) -> Result<IdMap, Failure> {
    let IdMap::Single { uid, gid } = other.id_map else {
        return Ok(other.id_map);
    };
    if *own == other.id_map {
        return Ok(other.id_map);
    }
    Err(Failure::new(
        ExitCode::ENGINE,
        format!(
            "container {} has a single id, {uid}:{gid}, which whoever shares its namespaces has too",
            other.name
        ),
    )
    .hint(format!(
        "run as it with --user {uid}:{gid}, or have a range of ids in /etc/subuid and /etc/subgid \
         and make that container again"
    )))
}
