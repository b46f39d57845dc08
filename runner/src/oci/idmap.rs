//! Id maps: of a container's user namespace, and of id-mapped mounts.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Pid;

use super::place;
use super::spec::{IdMapping, Spec};
use super::step::{BundleStep, Source};
use crate::error::{At, Failure, RunnerError};
use crate::monitor::Child;
use crate::plan::{Plan, Step};
use crate::{mounts, sys};

/// The text of `uid_map` or `gid_map`.
fn lines(map: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping {
        container,
        host,
        size,
    } in map
    {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{container} {host} {size}");
    }
    text
}

/// Makes a user namespace with these maps and returns its file.
///
/// # Errors
///
/// Those of `clone(2)` and of writing the maps.
fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> io::Result<OwnedFd> {
    let (keep, wait) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map(|(read, write)| (write, read))?;
    let pid = match sys::fork(sys::CLONE_NEWUSER)? {
        sys::Fork::Child => {
            drop(keep);
            let _closed = rustix::io::read(&wait, &mut [0_u8; 1]);
            sys::exit_now(0);
        }
        sys::Fork::Parent(pid) => pid,
    };
    let child = Child::new(pid)?;
    let open = || -> io::Result<OwnedFd> {
        let dir = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        std::fs::write(dir.join("uid_map"), lines(uids))?;
        std::fs::write(dir.join("gid_map"), lines(gids))?;
        Ok(File::open(dir.join("ns/user"))?.into())
    };
    let opened = open();
    child.signal(libc::SIGKILL);
    child.reap();
    opened
}

/// `MOUNT_ATTR_IDMAP`. Source: `linux/mount.h`.
const ATTR_IDMAP: u64 = 0x10_0000;

/// What is bound as id-mapped mounts, by the mounts' numbers: made on the host's side, since root of
/// the container's user namespace may not map the ids of a file system that is not its own.
///
/// # Errors
///
/// When a source is not there, its file system has no such mounts, or this user may not make them.
pub(crate) fn trees(spec: &Spec, plan: &Plan) -> Result<Vec<Option<OwnedFd>>, RunnerError> {
    let mut sources: &[Option<Source>] = &[];
    let mut trees = Vec::with_capacity(spec.mounts.len());
    for step in &plan.steps {
        if let Step::Bundle(BundleStep::OpenSources { sources: list, .. }) = step {
            sources = list;
        }
        let Step::Bundle(BundleStep::Mount(number, mount)) = step else {
            continue;
        };
        let source = sources.get(*number).and_then(Option::as_ref);
        let wanted = source.zip(mount.options.id_mapped);
        let tree = wanted.map(|(source, recursive)| {
            let own = spec.mounts.get(*number);
            let own = own.filter(|own| !own.uid_mappings.is_empty());
            let container = (&spec.linux.uid_mappings, &spec.linux.gid_mappings);
            let (uids, gids) = own.map_or(container, |own| (&own.uid_mappings, &own.gid_mappings));
            tree(source, &user_namespace(uids, gids)?, recursive)
        });
        let what = "map the ids of what is mounted on";
        trees.push(tree.transpose().at(what, &mount.destination)?);
    }
    Ok(trees)
}

/// A detached copy of what is mounted at a source, with its ids as in a user namespace; of all
/// mounts below too when `recursive`.
///
/// # Errors
///
/// Those of `open_tree(2)` and `mount_setattr(2)`.
fn tree(source: &Source, namespace: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let place::Opened::Path(path, below) = place::open_source(source)? else {
        return Err(io::Error::other("a link has no ids to map"));
    };
    let tree = mounts::copy(path.as_fd(), below)?;
    // The host's mounts go on there, those of the container stay in it.
    let apart = sys::MountChange {
        propagation: libc::MS_SLAVE,
        ..sys::MountChange::default()
    };
    sys::mount_setattr(tree.as_fd(), apart, true)?;
    let shift = sys::MountChange {
        set: ATTR_IDMAP,
        user_namespace: u64::try_from(namespace.as_raw_fd()).unwrap_or_default(),
        ..sys::MountChange::default()
    };
    sys::mount_setattr(tree.as_fd(), shift, recursive)?;
    Ok(tree)
}

/// Writes the maps of a container's first process: ourselves where we may, else through
/// `newuidmap` and `newgidmap`.
pub(crate) fn write(pid: Pid, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), RunnerError> {
    let dir = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let privileged = rustix::process::geteuid().is_root();
    for (file, helper, map, own) in [
        (
            "uid_map",
            "newuidmap",
            uids,
            rustix::process::geteuid().as_raw(),
        ),
        (
            "gid_map",
            "newgidmap",
            gids,
            rustix::process::getegid().as_raw(),
        ),
    ] {
        let path = dir.join(file);
        if privileged {
            std::fs::write(&path, lines(map)).at("write", &path)?;
            continue;
        }
        let [only] = map else {
            run_helper(helper, pid, map)?;
            continue;
        };
        if only.size == 1 && only.host == own {
            if file == "gid_map" {
                let path = dir.join("setgroups");
                std::fs::write(&path, "deny").at("write", &path)?;
            }
            std::fs::write(&path, lines(map)).at("write", &path)?;
        } else {
            run_helper(helper, pid, map)?;
        }
    }
    Ok(())
}

fn run_helper(helper: &str, pid: Pid, map: &[IdMapping]) -> Result<(), RunnerError> {
    let mut argv: Vec<std::ffi::OsString> =
        vec![helper.into(), pid.as_raw_nonzero().to_string().into()];
    for entry in map {
        for number in [entry.container, entry.host, entry.size] {
            argv.push(number.to_string().into());
        }
    }
    let child = sys::spawn(&sys::Spawn {
        argv: &argv,
        fds: &[],
        session: false,
    })
    .and_then(Child::new)
    .at("run", helper)?;
    let code = child.reap();
    if code == 0 {
        return Ok(());
    }
    Err(RunnerError::Failed(Failure::setup(format!(
        "{helper} ended with {code}: are the mapped ids in /etc/subuid and /etc/subgid?"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_written_line_by_line() {
        let entry = |container, host, size| IdMapping {
            container,
            host,
            size,
        };
        let map = [entry(0, 1000, 1), entry(1, 100_000, 65536)];
        assert_eq!(lines(&map), "0 1000 1\n1 100000 65536\n");
    }
}
