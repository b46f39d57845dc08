//! Doing what a caller asks for.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, mknodat, openat, setxattr, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{chroot, fchdir};

use super::OWNER;
use super::caller::{Base, Caller};
use super::request::{Device, Empty, LastLink, Object, Request};

/// The attribute that keeps a device.
const DEVICE: &str = "security.rrun.device";

/// Bit of `CAP_CHOWN`.
const CAP_CHOWN: u64 = 1;
/// Bit of `CAP_MKNOD`.
const CAP_MKNOD: u64 = 1 << 27;

/// Does what `caller` asks for.
pub(super) fn perform(
    procfs: BorrowedFd<'_>,
    caller: &Caller,
    request: Request,
) -> Result<(), Errno> {
    let rights = caller.rights()?;
    let needed = match request {
        Request::Chown { .. } => CAP_CHOWN,
        Request::Mknod { .. } => CAP_MKNOD,
    };
    if rights.capabilities & needed == 0 {
        return Err(Errno::PERM);
    }
    match request {
        Request::Chown { object, uid, gid } => {
            let object = open_object(caller, object)?;
            let text = |id: Option<u32>| id.map_or("-1".to_owned(), |id| id.to_string());
            let value = format!("{}:{}", text(uid), text(gid));
            record(procfs, &object, OWNER, &value)
        }
        Request::Mknod {
            base,
            path,
            permissions,
            device,
        } => {
            let mode = Mode::from_raw_mode(permissions & !rights.umask);
            make_device(procfs, caller, (base, &caller.path(path)?), mode, device)
        }
    }
}

/// Opens the object of a chown call.
fn open_object(caller: &Caller, object: Object) -> Result<OwnedFd, Errno> {
    match object {
        Object::Fd(fd) => {
            let object = caller.descriptor(fd)?;
            if caller.is_path_only(fd)? {
                Err(Errno::BADF)
            } else {
                Ok(object)
            }
        }
        Object::Path {
            base,
            address,
            empty,
            last,
        } => {
            let path = caller.path(address)?;
            match (path.is_empty(), empty) {
                (true, Empty::Missing) => Err(Errno::NOENT),
                (true, Empty::Base) => caller.base(base),
                (false, _) => resolve(caller, base, &path, last),
            }
        }
    }
}

/// Opens what `path` means to the caller.
fn resolve(caller: &Caller, base: Base, path: &CStr, last: LastLink) -> Result<OwnedFd, Errno> {
    let root = caller.root()?;
    fchdir(&root)?;
    chroot(".")?;
    let absolute = path.to_bytes().first() == Some(&b'/');
    let start = if absolute { root } else { caller.base(base)? };
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if last == LastLink::Keep {
        flags |= OFlags::NOFOLLOW;
    }
    match openat(start, path, flags, Mode::empty()) {
        // In the container's /proc there is no "self" for us, we are not in its process ids.
        Err(Errno::NOENT) => match own_descriptor(path.to_bytes()) {
            Some(fd) if last == LastLink::Follow => caller.descriptor(fd).map_err(|_| Errno::NOENT),
            _ => Err(Errno::NOENT),
        },
        other => other,
    }
}

/// The descriptor that a usual name for one of the caller's own descriptors means.
///
/// Only these exact forms: anything else below `/proc/self` could lead from the host's `/proc` to
/// the host's files.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => {}
    }
    let prefixes: [&[u8]; 3] = [b"/proc/self/fd/", b"/proc/thread-self/fd/", b"/dev/fd/"];
    let digits = prefixes
        .iter()
        .find_map(|prefix| path.strip_prefix(*prefix))?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits a path for creation into its directory and last name.
fn split(path: &CStr) -> Result<(CString, CString), Errno> {
    let bytes = path.to_bytes();
    let (dir, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], bytes.get(1..)),
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
        None => (&b"."[..], Some(bytes)),
    };
    let name = match name.unwrap_or_default() {
        b"" if bytes == b"/" => return Err(Errno::EXIST),
        b"" => return Err(Errno::NOENT),
        b"." | b".." => return Err(Errno::EXIST),
        name => name,
    };
    let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    Ok((c_string(dir)?, c_string(name)?))
}

/// Makes an empty file that stands for a device.
fn make_device(
    procfs: BorrowedFd<'_>,
    caller: &Caller,
    (base, path): (Base, &CStr),
    mode: Mode,
    device: Device,
) -> Result<(), Errno> {
    let (dir, name) = split(path)?;
    let dir = resolve(caller, base, &dir, LastLink::Follow)?;
    mknodat(&dir, &name, FileType::RegularFile, mode, 0)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(&dir, &name, flags, Mode::empty())?;
    let value = format!("{} {} {}", device.kind, device.major, device.minor);
    record(procfs, &made, DEVICE, &value).inspect_err(|_| {
        // The caller sees the first error; a file left behind is all a second one could mean.
        let _second = unlinkat(&dir, &name, AtFlags::empty());
    })
}

/// Writes an attribute of an object, if its file system keeps such attributes.
fn record(
    procfs: BorrowedFd<'_>,
    object: &OwnedFd,
    attribute: &str,
    value: &str,
) -> Result<(), Errno> {
    // An attribute cannot be set through an O_PATH descriptor itself, but through its link.
    fchdir(procfs)?;
    let link = format!("self/fd/{}", object.as_raw_fd());
    match setxattr(link, attribute, value.as_bytes(), XattrFlags::empty()) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_where_the_kernel_would_create() {
        let cases = [
            ("a", Ok((".", "a"))),
            ("/a", Ok(("/", "a"))),
            ("d/a", Ok(("d", "a"))),
            ("/d//a", Ok(("/d/", "a"))),
            ("../a", Ok(("..", "a"))),
            ("", Err(Errno::NOENT)),
            ("/", Err(Errno::EXIST)),
            ("a/", Err(Errno::NOENT)),
            ("a/.", Err(Errno::EXIST)),
            ("..", Err(Errno::EXIST)),
        ];
        let c_string = |text: &str| CString::new(text).unwrap();
        for (path, expected) in cases {
            let expected = expected.map(|(dir, name)| (c_string(dir), c_string(name)));
            assert_eq!(split(&c_string(path)), expected, "{path:?}");
        }
    }

    #[test]
    fn only_exact_names_of_own_descriptors_are_rewritten() {
        let cases: [(&[u8], Option<i32>); 9] = [
            (b"/dev/stdout", Some(1)),
            (b"/dev/fd/7", Some(7)),
            (b"/proc/self/fd/12", Some(12)),
            (b"/proc/self/fd/12/x", None),
            (b"/proc/self/fd/../../..", None),
            (b"/proc/self/fd/-1", None),
            (b"/proc/self/fd/", None),
            (b"/proc/self/fd/99999999999", None),
            (b"/proc/self/cwd", None),
        ];
        for (path, expected) in cases {
            assert_eq!(own_descriptor(path), expected, "{}", path.escape_ascii());
        }
    }
}
