//! Inode flags: the only control requests there are. Since Linux 5.13 the kernel makes them itself
//! for chattr(1) and lsattr(1), with the rights of the caller checked; what it sent before is the
//! same but unchecked, so the union checks again.
//!
//! Source: `fuse_fileattr_get` in `fs/fuse/ioctl.c`.

use rrun_core::Errno;
use rrun_union::{Caller, FlagRules, Ino, Union};

use crate::wire::{Body, Reply};

/// Source: `include/uapi/linux/fs.h`.
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
/// Most bytes a caller of these has room for; more is nonsense.
const ROOM_MAX: usize = 64;

/// Answers `struct fuse_ioctl_in` by `struct fuse_ioctl_out`; true when the file was changed.
///
/// # Errors
///
/// `ENOTTY` for other requests.
pub(crate) fn ioctl(
    union: &Union,
    ino: Ino,
    caller: &Caller,
    rules: FlagRules,
    mut body: Body<'_>,
    reply: &mut Reply,
) -> Result<bool, Errno> {
    body.skip(12)?;
    let command = body.u32()?;
    body.skip(12)?;
    let room = usize::try_from(body.u32()?).map_err(|_| Errno::EINVAL)?;
    if room > ROOM_MAX {
        return Err(Errno::EINVAL);
    }
    reply.zeros(16);
    match command {
        GETFLAGS => {
            reply.u32(union.flags(ino)?);
            reply.zeros(room.saturating_sub(4));
        }
        SETFLAGS => union.set_flags(ino, body.u32()?, caller, rules)?,
        FSGETXATTR => {
            let value = union.extended_flags(ino)?;
            reply.raw(&value);
            reply.zeros(room.saturating_sub(value.len()));
        }
        FSSETXATTR => {
            let value = body.array()?;
            union.set_extended_flags(ino, &value, caller, rules)?;
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(matches!(command, SETFLAGS | FSSETXATTR))
}
