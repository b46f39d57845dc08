//! What a caller asks for.

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::caller::Base;

/// A call handed to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Change an owner.
    Chown {
        /// Of what.
        object: Object,
        /// The user id; `None` keeps it.
        uid: Option<u32>,
        /// The group id; `None` keeps it.
        gid: Option<u32>,
    },
    /// Make a device file.
    Mknod {
        /// Where a relative path starts.
        base: Base,
        /// Address of the path.
        path: u64,
        /// Permission bits, before the file creation mask.
        permissions: u32,
        /// The device.
        device: Device,
    },
}

/// A device number with its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    /// `c` or `b`.
    pub(super) kind: char,
    /// The major number, 12 bits.
    pub(super) major: u32,
    /// The minor number, 20 bits.
    pub(super) minor: u32,
}

/// The object a call names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// By a descriptor open for something.
    Fd(i32),
    /// By a path.
    Path {
        /// Where it starts when relative.
        base: Base,
        /// Its address.
        address: u64,
        /// Whether the path may be empty and then means `base`.
        empty: Empty,
        /// Whether a symbolic link at the end is followed.
        last: LastLink,
    },
}

/// What an empty path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// `ENOENT`.
    Missing,
    /// The base itself (`AT_EMPTY_PATH`).
    Base,
}

/// What a symbolic link at the end of a path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLink {
    /// Its target.
    Follow,
    /// The link itself.
    Keep,
}

/// Reads a waiting call. A name we do not serve is `ENOSYS`.
pub(super) fn parse(name: &str, args: [u64; 6]) -> Result<Request, Errno> {
    let [a, b, c, d, e, _] = args;
    let path = |base, address, empty, last| Object::Path {
        base,
        address,
        empty,
        last,
    };
    match name {
        "chown" => Ok(chown(
            path(Base::Cwd, a, Empty::Missing, LastLink::Follow),
            b,
            c,
        )),
        "lchown" => Ok(chown(
            path(Base::Cwd, a, Empty::Missing, LastLink::Keep),
            b,
            c,
        )),
        "fchown" => Ok(chown(Object::Fd(signed(a)), b, c)),
        "fchownat" => {
            let flags = AtFlags::from_bits_retain(low(e));
            if !(AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH).contains(flags) {
                return Err(Errno::INVAL);
            }
            let keep = flags.contains(AtFlags::SYMLINK_NOFOLLOW);
            let empty = flags.contains(AtFlags::EMPTY_PATH);
            let last = if keep {
                LastLink::Keep
            } else {
                LastLink::Follow
            };
            let empty = if empty { Empty::Base } else { Empty::Missing };
            Ok(chown(path(base(a), b, empty, last), c, d))
        }
        "mknod" => mknod(Base::Cwd, a, b, c),
        "mknodat" => mknod(base(a), b, c, d),
        _ => Err(Errno::NOSYS),
    }
}

/// The low half: what the kernel reads of a 32-bit parameter.
fn low(arg: u64) -> u32 {
    let [a, b, c, d, ..] = arg.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The low half, signed.
fn signed(arg: u64) -> i32 {
    low(arg).cast_signed()
}

/// A directory descriptor argument.
fn base(arg: u64) -> Base {
    match signed(arg) {
        libc::AT_FDCWD => Base::Cwd,
        fd => Base::Fd(fd),
    }
}

/// An id argument.
fn id(arg: u64) -> Option<u32> {
    Some(low(arg)).filter(|id| *id != u32::MAX)
}

/// Any of the chown calls.
fn chown(object: Object, uid: u64, gid: u64) -> Request {
    Request::Chown {
        object,
        uid: id(uid),
        gid: id(gid),
    }
}

/// Any of the mknod calls.
fn mknod(base: Base, path: u64, mode: u64, device: u64) -> Result<Request, Errno> {
    let mode = low(mode);
    let kind = match mode & libc::S_IFMT {
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        _ => return Err(Errno::INVAL),
    };
    // The system call's packing, which is not the C library's. Source: `linux/kdev_t.h`.
    let packed = low(device);
    let major = (packed >> 8) & 0xfff;
    let minor = (packed & 0xff) | ((packed >> 12) & 0xf_ff00);
    let device = Device { kind, major, minor };
    Ok(Request::Mknod {
        base,
        path,
        permissions: mode & 0o7777,
        device,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_the_kernel_reads_them() {
        let at = |base, address, empty, last| Object::Path {
            base,
            address,
            empty,
            last,
        };
        let chown = |object, uid, gid| Ok(Request::Chown { object, uid, gid });
        let cwd = u64::from((-100_i32).cast_unsigned());
        let node = |base, kind, major, minor| {
            let device = Device { kind, major, minor };
            Ok(Request::Mknod {
                base,
                path: 9,
                permissions: 0o640,
                device,
            })
        };
        let (follow, keep) = (LastLink::Follow, LastLink::Keep);
        let cases = [
            ("chown", [9, 1, 2, 0, 0, 0], {
                chown(at(Base::Cwd, 9, Empty::Missing, follow), Some(1), Some(2))
            }),
            ("lchown", [9, u64::MAX, 2, 0, 0, 0], {
                chown(at(Base::Cwd, 9, Empty::Missing, keep), None, Some(2))
            }),
            (
                "fchown",
                [7, 3, 0xffff_ffff, 0, 0, 0],
                chown(Object::Fd(7), Some(3), None),
            ),
            ("fchownat", [cwd, 9, 1, 2, 0, 0], {
                chown(at(Base::Cwd, 9, Empty::Missing, follow), Some(1), Some(2))
            }),
            ("fchownat", [5, 9, 1, 2, 0x1100, 0], {
                chown(at(Base::Fd(5), 9, Empty::Base, keep), Some(1), Some(2))
            }),
            ("fchownat", [5, 9, 1, 2, 0x400, 0], Err(Errno::INVAL)),
            (
                "mknod",
                [9, 0o020_640, 0x103, 0, 0, 0],
                node(Base::Cwd, 'c', 1, 3),
            ),
            ("mknodat", [4, 9, 0o060_640, 0x1234_5678, 0, 0], {
                node(Base::Fd(4), 'b', 0x456, 0x1_2378)
            }),
            ("mknod", [9, 0o100_640, 0, 0, 0, 0], Err(Errno::INVAL)),
            ("open", [0; 6], Err(Errno::NOSYS)),
        ];
        for (name, args, expected) in cases {
            assert_eq!(parse(name, args), expected, "{name} {args:x?}");
        }
    }
}
