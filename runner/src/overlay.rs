//! The kernel's overlayfs above a read-only tree: mounting it, and finding out whether this host
//! lets us, with all that our own union does.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::channel::{self, Message};
use crate::config::IdMap;
use crate::error::{At, Failure, RunnerError, Step as _};
use crate::monitor::Child;
use crate::plan::HostFacts;
use crate::{mounts, sys};

/// Which of overlayfs's ways are asked for.
///
/// Never its index, which would keep hard links together when one name is written: it names lower
/// files by handles, and since Linux 6.16 the kernel takes what a handle of FUSE leads to for
/// stale (`fuse_dentry_revalidate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Root of the machine: directories are renamed in place, a change of mode copies no data.
    Full,
    /// Root of a user namespace, whom the kernel gives none of these.
    User,
}

impl Dialect {
    /// The one a container with this id map can have; `None` when it can have neither: with a
    /// single id, owners would be lost.
    #[must_use]
    pub fn of(map: &IdMap) -> Option<Self> {
        match map {
            IdMap::Root => Some(Self::Full),
            IdMap::Range { .. } => Some(Self::User),
            IdMap::Squash | IdMap::Single { .. } => None,
        }
    }

    /// Options of mount. Source: kernel `Documentation/filesystems/overlayfs.rst`.
    fn options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Full => &[
                ("redirect_dir", "on"),
                ("metacopy", "on"),
                ("index", "off"),
                ("xino", "on"),
            ],
            Self::User => &[("userxattr", ""), ("index", "off"), ("xino", "on")],
        }
    }
}

/// Attempts while the upper directory is in use, and the pause after each: two seconds in all. The
/// kernel takes down the mount of a container that has just ended when it finds the time.
const BUSY_TRIES: u32 = 400;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What a mount is given beside its directories.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// What is listed as its source.
    pub source: &'a str,
    /// Those of mount(2).
    pub flags: MountFlags,
    /// Whether overlayfs may leave out what makes writes durable.
    pub volatile: bool,
}

impl Manner<'_> {
    /// That of a container's root.
    pub(crate) const PLAIN: Self = Self {
        source: "rrun",
        flags: MountFlags::empty(),
        volatile: false,
    };

    /// What the flags are for `fsmount(2)`. Of flags about access times the same one wins as in
    /// mount(2).
    fn attributes(&self) -> MountAttrFlags {
        const KNOWN: [(MountFlags, MountAttrFlags); 5] = [
            (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (
                MountFlags::NODIRATIME,
                MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            ),
        ];
        let times = if self.flags.contains(MountFlags::STRICTATIME) {
            MountAttrFlags::MOUNT_ATTR_STRICTATIME
        } else if self.flags.contains(MountFlags::NOATIME) {
            MountAttrFlags::MOUNT_ATTR_NOATIME
        } else {
            MountAttrFlags::empty()
        };
        KNOWN
            .iter()
            .filter(|(flag, _)| self.flags.contains(*flag))
            .fold(times, |all, (_, attribute)| all | *attribute)
    }

    /// What is set for the file system as a whole, by flags of `fsconfig(2)`.
    fn words(&self) -> Vec<(&'static str, &'static str)> {
        [
            ("ro", self.flags.contains(MountFlags::RDONLY)),
            ("sync", self.flags.contains(MountFlags::SYNCHRONOUS)),
            ("dirsync", self.flags.contains(MountFlags::DIRSYNC)),
            ("volatile", self.volatile),
        ]
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(word, _)| (word, ""))
        .collect()
    }
}

/// Mounts, nowhere yet, `upper` above `lower`; `work` is the upper's work directory. The names
/// are relative to the working directory, so they need no escaping.
///
/// # Errors
///
/// Those of `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`.
pub(crate) fn mount(
    [lower, upper, work]: [&str; 3],
    dialect: Dialect,
    manner: Manner<'_>,
) -> io::Result<OwnedFd> {
    let mut options = vec![
        ("source", manner.source),
        ("lowerdir", lower),
        ("upperdir", upper),
        ("workdir", work),
    ];
    options.extend(dialect.options());
    options.extend(manner.words());
    let mut tries = BUSY_TRIES;
    loop {
        match mounts::new("overlay", &options, manner.attributes()) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => {
                tries -= 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Replaces what is mounted on `target` by the kernel's overlayfs on it.
///
/// # Errors
///
/// Those of `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `move_mount(2)`; what was mounted then still
/// is.
pub fn cover(
    target: &Path,
    [upper, work]: [&Path; 2],
    dialect: Dialect,
    manner: Manner<'_>,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| openat(CWD, path, flags, Mode::empty());
    let places = [open(target)?, open(upper)?, open(work)?];
    // Paths that need no escaping, whatever the directories are called.
    let [lower, upper, work] = places
        .each_ref()
        .map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let mount = mount([&lower, &upper, &work], dialect, manner)?;
    drop(places);
    rustix::mount::unmount(target, UnmountFlags::DETACH)?;
    mounts::attach(mount.as_fd(), open(target)?.as_fd())
}

/// Tries whether overlayfs can be mounted here with its upper directory on the file system of
/// `dir`, in the way of `dialect`, and keeps what it is asked to: copies up, deletes, answers with
/// the options it was given.
///
/// The calling process must be single-threaded.
///
/// # Errors
///
/// [`RunnerError::Failed`] that says what the kernel refused; others when it could not be tried.
pub fn probe(dir: &Path, dialect: Dialect) -> Result<(), RunnerError> {
    let place = Scratch::new(dir)?;
    let host = HostFacts::detect();
    let (ours, theirs) = channel::pair().at("make a line to", "a probe")?;
    let flags = match dialect {
        Dialect::Full => sys::CLONE_NEWNS,
        Dialect::User => sys::CLONE_NEWNS | sys::CLONE_NEWUSER,
    };
    let child = match sys::fork(flags).at("make namespaces for", "a probe of overlayfs")? {
        sys::Fork::Child => {
            drop(ours);
            if let Err(failure) = try_it(&place.0, dialect, &host) {
                // Whoever waits sees the exit code in any case.
                let _gone = channel::send(theirs.as_fd(), &Message::Failed(failure), &[]);
                sys::exit_now(1);
            }
            sys::exit_now(0);
        }
        sys::Fork::Parent(pid) => Child::new(pid).at("watch", "a probe of overlayfs")?,
    };
    drop(theirs);
    let heard = channel::receive(&ours).at("hear from", "a probe of overlayfs")?;
    match (child.reap(), heard) {
        (0, None) => Ok(()),
        (_, Some((Message::Failed(failure), _))) => Err(RunnerError::Failed(failure)),
        (code, _) => Err(RunnerError::Failed(Failure::setup(format!(
            "the probe of overlayfs ended with {code}"
        )))),
    }
}

/// A directory for a probe that goes with it.
struct Scratch(PathBuf);

const LOWER: &str = "lower";
const UPPER: &str = "upper";
const WORK: &str = "work";

impl Scratch {
    fn new(dir: &Path) -> Result<Self, RunnerError> {
        let path = dir.join(format!(".fs-probe-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .at("create", &path)?;
        let place = Self(path);
        for name in [LOWER, UPPER, WORK] {
            let path = place.0.join(name);
            fs::create_dir(&path).at("create", path)?;
        }
        for name in ["changed", "deleted"] {
            let path = place.0.join(LOWER).join(name);
            fs::write(&path, name).at("write", path)?;
        }
        Ok(place)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is found by its name.
        let _left = crate::tree::remove(&self.0);
    }
}

/// In the child: mounts, changes, looks.
fn try_it(place: &Path, dialect: Dialect, host: &HostFacts) -> Result<(), Failure> {
    if dialect == Dialect::User {
        map_to_root(host).step("map ourselves to root")?;
    }
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .step("make the mounts private")?;
    rustix::process::chdir(place).step("enter the probe's directory")?;
    let mount = mount([LOWER, UPPER, WORK], dialect, Manner::PLAIN).step("mount overlayfs")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let point = openat(CWD, LOWER, flags, Mode::empty()).step("open the mount point")?;
    mounts::attach(mount.as_fd(), point.as_fd()).step("attach overlayfs")?;
    use_it().step("change files on overlayfs")?;
    if dialect == Dialect::Full {
        return confirm(&fs::read_to_string("/proc/self/mountinfo").step("list the mounts")?);
    }
    Ok(())
}

fn map_to_root(host: &HostFacts) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1\n", host.euid))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1\n", host.egid))
}

/// A copy-up, a whiteout, a new file.
fn use_it() -> io::Result<()> {
    let at = |name: &str| Path::new(LOWER).join(name);
    fs::set_permissions(at("changed"), fs::Permissions::from_mode(0o600))?;
    fs::remove_file(at("deleted"))?;
    File::create(at("new"))?;
    let changed = fs::metadata(at("changed"))?;
    let gone = matches!(at("deleted").try_exists(), Ok(false));
    if changed.mode() & 0o777 == 0o600 && gone {
        Ok(())
    } else {
        Err(io::Error::other("what was changed is as before"))
    }
}

/// The kernel drops what the upper file system cannot do, and says so only in what it lists.
fn confirm(mountinfo: &str) -> Result<(), Failure> {
    let line = mountinfo
        .lines()
        .rev()
        .find(|line| line.contains(" - overlay rrun "))
        .ok_or_else(|| Failure::setup("overlayfs is not in the list of mounts"))?;
    let given: Vec<&str> = line.rsplit(' ').next().unwrap_or("").split(',').collect();
    for (key, value) in Dialect::Full.options() {
        // Listed only where it is not what this kernel does by default.
        let refused = ["off", "on", "nofollow", "auto"].map(|other| format!("{key}={other}"));
        let wanted = format!("{key}={value}");
        if !given.contains(&wanted.as_str()) && refused.iter().any(|r| given.contains(&r.as_str()))
        {
            return Err(Failure::setup(format!(
                "the kernel's overlayfs has no {wanted} on this file system"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_were_dropped_are_noticed() {
        let line = |options: &str| format!("1 2 0:3 / /p rw - overlay rrun rw,{options}\n");
        let kept = line("lowerdir=l,redirect_dir=on,index=off,xino=on,metacopy=on");
        assert!(confirm(&kept).is_ok());
        // Defaults of the kernel's own are not listed.
        assert!(confirm(&line("lowerdir=l")).is_ok());
        for dropped in ["metacopy=off", "redirect_dir=nofollow", "xino=off"] {
            let error = confirm(&line(dropped)).unwrap_err();
            let key = dropped.split('=').next().unwrap();
            assert!(error.text.contains(key), "{dropped}: {}", error.text);
        }
        assert!(confirm("").is_err());
    }

    #[test]
    fn one_id_gets_no_overlay() {
        assert_eq!(Dialect::of(&IdMap::Squash), None);
        assert_eq!(Dialect::of(&IdMap::Root), Some(Dialect::Full));
    }
}
