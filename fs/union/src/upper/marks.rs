//! The extended attributes by which an upper directory says what it hides and where it came from.

use rrun_core::Errno;
use rustix::fs::XattrFlags;

use super::At;
use crate::meta::OVERRIDE_STAT;
use crate::options::{Writer, XattrDialect};

/// Names of our marks in one namespace.
#[derive(Debug)]
pub(crate) struct Marks {
    /// `y` on a directory that hides the lower one of its name. As in kernel overlayfs.
    opaque: &'static [u8],
    /// On a directory: path of the lower directory it continues. As in kernel overlayfs.
    redirect: &'static [u8],
    /// `INO LOCATOR`: the lower node this was copied from. Ours.
    origin: &'static [u8],
    /// `SIZE LOCATOR`: holes below SIZE are to be read from this lower file. Ours.
    fill: &'static [u8],
    /// On a file whose name starts with `.wh.` but that is no whiteout. Ours.
    plain: &'static [u8],
    /// Prefix under which names that would collide with the above, or that the server may not
    /// set, are kept.
    escape: &'static [u8],
    /// What the kernel's overlayfs writes besides, when it is the one who writes.
    kernel: Option<KernelMarks>,
}

/// Names of the marks that only the kernel's overlayfs writes.
/// Source: kernel `fs/overlayfs/overlayfs.h`.
#[derive(Debug, Clone, Copy)]
struct KernelMarks {
    /// On a file whose contents are still those of the lower one.
    metacopy: &'static [u8],
    /// Prefix of its own names; those of the container's say the last word of it twice.
    own: &'static [u8],
    escape: &'static [u8],
}

const KERNEL_TRUSTED: KernelMarks = KernelMarks {
    metacopy: b"trusted.overlay.metacopy",
    own: b"trusted.overlay.",
    escape: b"trusted.overlay.overlay.",
};
const KERNEL_USER: KernelMarks = KernelMarks {
    metacopy: b"user.overlay.metacopy",
    own: b"user.overlay.",
    escape: b"user.overlay.overlay.",
};

const TRUSTED: Marks = Marks {
    opaque: b"trusted.overlay.opaque",
    redirect: b"trusted.overlay.redirect",
    origin: b"trusted.rrun.origin",
    fill: b"trusted.rrun.fill",
    plain: b"trusted.rrun.plain",
    escape: b"trusted.rrun.x.",
    kernel: None,
};
const USER: Marks = Marks {
    opaque: b"user.overlay.opaque",
    redirect: b"user.overlay.redirect",
    origin: b"user.rrun.origin",
    fill: b"user.rrun.fill",
    plain: b"user.rrun.plain",
    escape: b"user.rrun.x.",
    kernel: None,
};

/// Other programs' marks for an opaque directory; read, never written.
/// Source: fuse-overlayfs(1), kernel overlayfs.
const FOREIGN_OPAQUE: [&[u8]; 3] = [
    b"trusted.overlay.opaque",
    b"user.overlay.opaque",
    b"user.fuseoverlayfs.opaque",
];

/// Prefixes of names that are never shown as they stand.
const INTERNAL: [&[u8]; 6] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"trusted.rrun.",
    b"user.rrun.",
    b"user.fuseoverlayfs.",
    OVERRIDE_STAT.as_bytes(),
];

pub(crate) fn is_internal(name: &[u8]) -> bool {
    INTERNAL.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a directory is marked opaque in any dialect.
pub(crate) fn is_opaque(at: &At) -> Result<bool, Errno> {
    if !at.has_xattrs() {
        return Ok(false);
    }
    for name in FOREIGN_OPAQUE {
        match at.xattr(name) {
            Ok(Some(value)) if value == b"y" => return Ok(true),
            Ok(_) | Err(Errno::EPERM | Errno::EACCES) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads a redirect in either namespace.
pub(crate) fn redirect(at: &At) -> Result<Option<Vec<u8>>, Errno> {
    if !at.has_xattrs() {
        return Ok(None);
    }
    for name in [TRUSTED.redirect, USER.redirect] {
        match at.xattr(name) {
            Ok(Some(value)) => return Ok(Some(value)),
            Ok(None) | Err(Errno::EPERM | Errno::EACCES) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn join(number: u64, locator: &[u8]) -> Vec<u8> {
    [number.to_string().as_bytes(), b" ", locator].concat()
}

fn split(value: &[u8]) -> Option<(u64, &[u8])> {
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (number, rest) = value.split_at(space);
    Some((
        std::str::from_utf8(number).ok()?.parse().ok()?,
        rest.get(1..)?,
    ))
}

impl Marks {
    pub(crate) fn of(dialect: XattrDialect, writer: Writer) -> Self {
        let (marks, kernel) = match dialect {
            XattrDialect::Trusted => (TRUSTED, KERNEL_TRUSTED),
            XattrDialect::User => (USER, KERNEL_USER),
        };
        Self {
            kernel: (writer == Writer::Kernel).then_some(kernel),
            ..marks
        }
    }

    /// Whether a regular file's contents are still those of the lower one that the kernel's
    /// overlayfs finds by the file's name or redirect.
    pub(crate) fn is_metacopy(&self, at: &At) -> Result<bool, Errno> {
        match &self.kernel {
            Some(kernel) => Ok(at.xattr(kernel.metacopy)?.is_some()),
            None => Ok(false),
        }
    }

    pub(crate) fn set_opaque(&self, at: &At) -> Result<(), Errno> {
        at.set_xattr(self.opaque, b"y", XattrFlags::empty())
    }

    /// Marks a file that is given a name which looks like a whiteout's.
    pub(crate) fn set_plain(&self, at: &At, name: &[u8]) -> Result<(), Errno> {
        if !name.starts_with(b".wh.") {
            return Ok(());
        }
        match at.set_xattr(self.plain, b"y", XattrFlags::empty()) {
            // Only a regular file is taken for a whiteout; the others cannot be marked.
            Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn is_plain(&self, at: &At) -> Result<bool, Errno> {
        Ok(at.xattr(self.plain)?.is_some())
    }

    pub(crate) fn set_redirect(&self, at: &At, path: &[u8]) -> Result<(), Errno> {
        at.set_xattr(self.redirect, path, XattrFlags::empty())
    }

    pub(crate) fn set_origin(&self, at: &At, ino: u64, locator: &[u8]) -> Result<(), Errno> {
        at.set_xattr(self.origin, &join(ino, locator), XattrFlags::empty())
    }

    pub(crate) fn origin(&self, at: &At) -> Result<Option<(u64, Vec<u8>)>, Errno> {
        let value = at.xattr(self.origin)?;
        Ok(value.and_then(|v| split(&v).map(|(ino, locator)| (ino, locator.to_vec()))))
    }

    pub(crate) fn set_fill(&self, at: &At, size: u64, locator: &[u8]) -> Result<(), Errno> {
        at.set_xattr(self.fill, &join(size, locator), XattrFlags::empty())
    }

    pub(crate) fn fill(&self, at: &At) -> Result<Option<(u64, Vec<u8>)>, Errno> {
        let value = at.xattr(self.fill)?;
        Ok(value.and_then(|v| split(&v).map(|(size, locator)| (size, locator.to_vec()))))
    }

    pub(crate) fn remove_fill(&self, at: &At) -> Result<(), Errno> {
        match at.remove_xattr(self.fill) {
            Ok(()) | Err(Errno::ENODATA) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The name under which a container's attribute is kept on disk.
    pub(crate) fn disk_name(&self, name: &[u8], escape_all: bool) -> Vec<u8> {
        if let Some(kernel) = &self.kernel {
            return match name.strip_prefix(kernel.own) {
                Some(rest) => [kernel.escape, rest].concat(),
                None => name.to_vec(),
            };
        }
        let escape = is_internal(name) || (escape_all && !name.starts_with(b"user."));
        if escape {
            [self.escape, name].concat()
        } else {
            name.to_vec()
        }
    }

    /// The container's name of an attribute on disk; `None` when it is a mark.
    pub(crate) fn shown_name(&self, disk: &[u8]) -> Option<Vec<u8>> {
        if let Some(kernel) = &self.kernel {
            return match disk.strip_prefix(kernel.escape) {
                Some(rest) => Some([kernel.own, rest].concat()),
                None => (!disk.starts_with(kernel.own)).then(|| disk.to_vec()),
            };
        }
        if let Some(rest) = disk.strip_prefix(self.escape) {
            return Some(rest.to_vec());
        }
        if is_internal(disk) {
            None
        } else {
            Some(disk.to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_shown_again() {
        for (name, escape_all, disk) in [
            (&b"user.a"[..], true, &b"user.a"[..]),
            (b"security.capability", false, b"security.capability"),
            (
                b"security.capability",
                true,
                b"user.rrun.x.security.capability",
            ),
            (
                b"user.overlay.opaque",
                false,
                b"user.rrun.x.user.overlay.opaque",
            ),
        ] {
            assert_eq!(USER.disk_name(name, escape_all), disk, "name {name:?}");
            assert_eq!(
                USER.shown_name(disk).as_deref(),
                Some(name),
                "disk {disk:?}"
            );
        }
        for mark in [
            USER.opaque,
            USER.fill,
            USER.origin,
            OVERRIDE_STAT.as_bytes(),
        ] {
            assert_eq!(USER.shown_name(mark), None, "mark {mark:?}");
        }
    }

    #[test]
    fn the_kernels_own_names_are_hidden_and_its_escapes_undone() {
        let marks = Marks::of(XattrDialect::Trusted, Writer::Kernel);
        for (disk, shown) in [
            (&b"trusted.overlay.origin"[..], None),
            (
                b"trusted.overlay.overlay.opaque",
                Some(&b"trusted.overlay.opaque"[..]),
            ),
            (b"security.capability", Some(b"security.capability")),
            (b"user.overlay.opaque", Some(b"user.overlay.opaque")),
        ] {
            assert_eq!(marks.shown_name(disk).as_deref(), shown, "disk {disk:?}");
            if let Some(shown) = shown {
                assert_eq!(marks.disk_name(shown, false), disk, "name {shown:?}");
            }
        }
    }

    #[test]
    fn origins_are_a_number_and_a_locator() {
        assert_eq!(split(b"12 a b"), Some((12, &b"a b"[..])));
        for bad in [&b""[..], b"12", b"x y", b" a"] {
            assert_eq!(split(bad), None, "value {bad:?}");
        }
    }
}
