//! The process that waits: its memory, its directories, its rights.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, pread, read};

/// The longest path the kernel takes, with its zero byte. Source: `linux/limits.h`.
const PATH_MAX: usize = 4096;

/// Memory is read up to multiples of this, so that a path before an unmapped page can be read.
/// The smallest page size of the supported architectures.
const PAGE: u64 = 4096;

/// `/proc/TID/status` is read to this many bytes; it is about 1.5 KiB, group lists make it longer
/// but come after nothing we need except the capabilities, and a single-id container has none.
const STATUS_MAX: usize = 16 * 1024;

/// A thread that waits for our answer, by its directory in `/proc`.
///
/// The directory stays that of the same thread for ever: once it died, opens below fail.
#[derive(Debug)]
pub(super) struct Caller {
    /// `/proc/TID`.
    dir: OwnedFd,
}

/// A directory argument: where relative paths start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// The working directory.
    Cwd,
    /// A descriptor.
    Fd(i32),
}

/// What we need to know of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    /// The effective capabilities.
    pub(super) capabilities: u64,
    /// The file creation mask.
    pub(super) umask: u32,
}

impl Caller {
    /// Opens the directory of thread `tid`. The caller must check afterwards that the call still
    /// waits: only then the directory is that of the right thread.
    pub(super) fn open(procfs: BorrowedFd<'_>, tid: u32) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(procfs, tid.to_string(), flags, Mode::empty())?;
        Ok(Self { dir })
    }

    /// Reads the path at `address` of the thread's memory.
    pub(super) fn path(&self, address: u64) -> Result<CString, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mem = openat(&self.dir, "mem", flags, Mode::empty())?;
        let mut path = Vec::new();
        let mut buf = [0_u8; PATH_MAX];
        let mut at = address;
        while path.len() < PATH_MAX {
            let to_page_end = usize::try_from(PAGE - at % PAGE).unwrap_or(PATH_MAX);
            let want = to_page_end.min(PATH_MAX - path.len());
            let chunk = buf.get_mut(..want).ok_or(Errno::FAULT)?;
            let got = pread(&mem, &mut *chunk, at).map_err(|_| Errno::FAULT)?;
            let chunk = chunk
                .get(..got)
                .filter(|chunk| !chunk.is_empty())
                .ok_or(Errno::FAULT)?;
            if let Some(end) = chunk.iter().position(|byte| *byte == 0) {
                path.extend_from_slice(chunk.get(..end).unwrap_or_default());
                return CString::new(path).map_err(|_| Errno::FAULT);
            }
            path.extend_from_slice(chunk);
            at = u64::try_from(got)
                .ok()
                .and_then(|got| at.checked_add(got))
                .ok_or(Errno::FAULT)?;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Opens the thread's root directory.
    pub(super) fn root(&self) -> Result<OwnedFd, Errno> {
        self.directory("root")
    }

    /// Opens where its relative paths start.
    pub(super) fn base(&self, base: Base) -> Result<OwnedFd, Errno> {
        match base {
            Base::Cwd => self.directory("cwd"),
            Base::Fd(fd) => self.descriptor(fd),
        }
    }

    /// Opens the object behind one of its descriptors, without rights to its content.
    pub(super) fn descriptor(&self, fd: i32) -> Result<OwnedFd, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat(&self.dir, format!("fd/{fd}"), flags, Mode::empty()).map_err(|error| {
            if error == Errno::NOENT {
                Errno::BADF
            } else {
                error
            }
        })
    }

    /// Whether a descriptor was opened with `O_PATH`, which `fchown` refuses.
    pub(super) fn is_path_only(&self, fd: i32) -> Result<bool, Errno> {
        let text = self.text(&format!("fdinfo/{fd}"))?;
        let flags = field(&text, "flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
        Ok(flags.is_some_and(|flags| flags & OFlags::PATH.bits() != 0))
    }

    /// Reads its capabilities and file creation mask.
    pub(super) fn rights(&self) -> Result<Rights, Errno> {
        parse_status(&self.text("status")?).ok_or(Errno::PERM)
    }

    /// Opens a directory the thread's `/proc` entry links to.
    fn directory(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.dir, name, flags, Mode::empty())
    }

    /// Reads a small file of the thread's `/proc` entry.
    fn text(&self, name: &str) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.dir, name, flags, Mode::empty())?;
        let mut buf = vec![0_u8; STATUS_MAX];
        let mut len = 0;
        while let Some(rest) = buf.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match read(&file, rest)? {
                0 => break,
                got => len += got,
            }
        }
        buf.truncate(len);
        Ok(String::from_utf8_lossy(&buf).into_owned())
    }
}

/// The value of a `key: value` line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
}

/// Takes what we need from `/proc/TID/status`. Source: `proc_pid_status(5)`.
fn parse_status(text: &str) -> Option<Rights> {
    let capabilities = u64::from_str_radix(field(text, "CapEff:")?, 16).ok()?;
    let umask = u32::from_str_radix(field(text, "Umask:")?, 8).ok()?;
    Some(Rights {
        capabilities,
        umask,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_come_from_the_status_file() {
        let text = "Name:\tsh\nUmask:\t0022\nUid:\t0\t0\nCapPrm:\t00\nCapEff:\t00000000a80425fb\n";
        let expected = Rights {
            capabilities: 0xa804_25fb,
            umask: 0o022,
        };
        assert_eq!(parse_status(text), Some(expected));
        for broken in [
            "",
            "Umask:\t0022\n",
            "Umask:\t9\nCapEff:\t0\n",
            "Umask:\t0\nCapEff:\tx\n",
        ] {
            assert_eq!(parse_status(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn paths_are_read_from_memory_and_bad_addresses_are_faults() {
        let procfs = openat(
            rustix::fs::CWD,
            "/proc",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let own = Caller::open(std::os::fd::AsFd::as_fd(&procfs), std::process::id()).unwrap();
        let near = CString::new(vec![b'a'; PATH_MAX - 1]).unwrap();
        let address = |text: &CString| u64::try_from(text.as_ptr().addr()).unwrap();
        assert_eq!(own.path(address(&near)), Ok(near));
        let long = CString::new(vec![b'a'; PATH_MAX]).unwrap();
        assert_eq!(own.path(address(&long)), Err(Errno::NAMETOOLONG));
        for bad in [0, 1, 4095, u64::MAX, 1 << 63] {
            assert_eq!(own.path(bad), Err(Errno::FAULT), "{bad:#x}");
        }
        assert!(own.root().is_ok() && own.base(Base::Cwd).is_ok());
        assert_eq!(own.descriptor(-5).unwrap_err(), Errno::BADF);
        assert_eq!(own.descriptor(1_000_000).unwrap_err(), Errno::BADF);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&procfs);
        assert_eq!(own.is_path_only(fd), Ok(true));
        assert!(own.rights().is_ok());
    }
}
