//! All devices of the host, for a privileged container that root runs.
//!
//! Source: runc libcontainer/devices, `GetDevices`.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chownat, mkdirat, openat, statat};
use rustix::io::Errno;

/// What of `/dev` is a mount of its own, or leads elsewhere.
const NOT_COPIED: [&[u8]; 6] = [b"console", b"fd", b"hugepages", b"mqueue", b"pts", b"shm"];
/// Nodes copied at most; hosts have some hundreds.
const NODES_MAX: usize = 8192;
/// How deep `/dev` is followed; real ones are two deep.
const DEPTH_MAX: usize = 4;
/// Whether a name at the top of `/dev` is wanted.
type Wanted = dyn Fn(&[u8]) -> bool;

const DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Makes in `dev`, a new and empty `/dev`, the nodes of the host's that it does not have yet; those
/// of consoles, on which a service manager would start logins, where they are wanted.
///
/// # Errors
///
/// Those of listing `/dev` and of making nodes.
pub(crate) fn copy_all(dev: &OwnedFd, consoles: bool) -> io::Result<()> {
    let host = openat(CWD, "/dev", OFlags::RDONLY | DIR, Mode::empty())?;
    let mut left = NODES_MAX;
    let wanted: &Wanted = match consoles {
        true => &|_| true,
        false => &|name| !is_console(name),
    };
    copy(&host, dev, (0, wanted), &mut left)
}

/// Whether a name in `/dev` is that of a virtual console or a serial line: `tty1`, `ttyS0`.
fn is_console(name: &[u8]) -> bool {
    name.starts_with(b"tty") && name != b"tty"
}

fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    (depth, wanted): (usize, &Wanted),
    left: &mut usize,
) -> io::Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        let own = matches!(bytes, b"." | b"..") || depth == 0 && NOT_COPIED.contains(&bytes);
        if own || *left == 0 || depth == 0 && !wanted(bytes) {
            continue;
        }
        let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Unplugged while we look.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match kind {
            FileType::Directory if depth < DEPTH_MAX => {
                let Ok(inner) = openat(from, name, OFlags::RDONLY | DIR, Mode::empty()) else {
                    continue;
                };
                if let Err(error) = mkdirat(to, name, mode)
                    && error != Errno::EXIST
                {
                    return Err(error.into());
                }
                let copied = openat(to, name, OFlags::RDONLY | DIR, Mode::empty())?;
                copy(&inner, &copied, (depth + 1, wanted), left)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                *left -= 1;
                match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => continue,
                    Err(error) => return Err(error.into()),
                }
                let owner = rustix::process::Uid::from_raw(stat.st_uid);
                let group = rustix::process::Gid::from_raw(stat.st_gid);
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                chownat(to, name, Some(owner), Some(group), flags)?;
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
            FileType::Directory
            | FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::Unknown => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_known_by_name() {
        for name in ["tty0", "tty63", "ttyS0"] {
            assert!(is_console(name.as_bytes()), "{name}");
        }
        for name in ["tty", "null", "ptmx", "console"] {
            assert!(!is_console(name.as_bytes()), "{name}");
        }
    }
}
