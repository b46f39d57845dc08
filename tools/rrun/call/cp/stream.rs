//! Trees as tar streams and back.

use std::io::{self, Read, Write};

use rrun_core::FileType;
use tar::{Archive, Builder, EntryType, Header};

use super::tree::{Found, Meta, Tree};

/// Directories inside each other; deeper ones no program can name.
const DEPTH_MAX: usize = 1000;

/// Writes a file, with all below it, under `name`; the bytes of its files.
pub(super) fn pack<T: Tree>(
    tree: &T,
    dir: Option<(&T::Node, &[u8])>,
    found: &Found<T::Node>,
    name: &[u8],
    out: &mut dyn Write,
) -> io::Result<u64> {
    let mut packer = Packer {
        tree,
        out: Builder::new(out),
        bytes: 0,
    };
    packer.one(dir, found, name, 0)?;
    packer.out.finish()?;
    Ok(packer.bytes)
}

struct Packer<'t, T: Tree, W: Write> {
    tree: &'t T,
    out: Builder<W>,
    bytes: u64,
}

fn path_of(name: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(name))
}

impl<T: Tree, W: Write> Packer<'_, T, W> {
    fn one(
        &mut self,
        place: Option<(&T::Node, &[u8])>,
        (node, meta): &Found<T::Node>,
        name: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other("directories are nested too deep"));
        }
        let mut header = Header::new_gnu();
        header.set_mode(meta.perm);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(u64::try_from(meta.mtime).unwrap_or(0));
        header.set_size(0);
        match meta.kind {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                let shown = [name, b"/"].concat();
                self.out
                    .append_data(&mut header, path_of(&shown), io::empty())?;
                for child in self.tree.names(node)? {
                    // Gone since the directory was read.
                    let Some(found) = self.tree.child(node, &child)? else {
                        continue;
                    };
                    let full = [name, b"/", &child].concat();
                    self.one(Some((node, &child)), &found, &full, depth + 1)?;
                }
                Ok(())
            }
            FileType::Regular => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(meta.size);
                let (tree, size) = (self.tree, meta.size);
                // The header says the length: a file that grows or shrinks meanwhile is cut or
                // filled up with zeros, as tar does.
                let mut data = Vec::new();
                if size <= WHOLE_BYTES_MAX {
                    tree.read(node, &mut data)?;
                    data.resize(usize::try_from(size).unwrap_or(0), 0);
                    self.bytes += size;
                    return self
                        .out
                        .append_data(&mut header, path_of(name), data.as_slice());
                }
                self.bytes += size;
                self.large(&mut header, name, node, size)
            }
            FileType::Symlink => {
                let Some((dir, child)) = place else {
                    return Ok(());
                };
                header.set_entry_type(EntryType::Symlink);
                let target = self.tree.link(dir, child)?;
                self.out
                    .append_link(&mut header, path_of(name), path_of(&target))
            }
            // As Docker: they mean nothing elsewhere.
            FileType::Fifo | FileType::Socket | FileType::CharDevice | FileType::BlockDevice => {
                Ok(())
            }
        }
    }

    fn large(
        &mut self,
        header: &mut Header,
        name: &[u8],
        node: &T::Node,
        size: u64,
    ) -> io::Result<()> {
        let mut file = std::fs::File::from(rustix::fs::memfd_create(
            "cp",
            rustix::fs::MemfdFlags::CLOEXEC,
        )?);
        self.tree.read(node, &mut file)?;
        file.set_len(size)?;
        io::Seek::rewind(&mut file)?;
        self.out.append_data(header, path_of(name), file)
    }
}

/// Files up to this are held in memory while they are copied.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Reads a stream into a directory; `owners` says whether files keep theirs or are root's. The
/// bytes of its files.
pub(super) fn unpack<T: Tree>(
    tree: &T,
    top: &[u8],
    input: &mut dyn Read,
    keep_owners: bool,
) -> io::Result<u64> {
    let mut archive = Archive::new(input);
    let mut dirs: Vec<(Vec<u8>, Meta)> = Vec::new();
    let mut bytes = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let parts: Vec<&[u8]> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        if parts.contains(&&b".."[..]) {
            let shown = String::from_utf8_lossy(&path);
            return Err(io::Error::other(format!("the archive leads out: {shown}")));
        }
        let Some((name, above)) = parts.split_last() else {
            continue;
        };
        let header = entry.header();
        let of = header.entry_type();
        if of.is_hard_link() {
            let shown = String::from_utf8_lossy(&path);
            let text = format!("hard links cannot be copied into a container: {shown}");
            return Err(io::Error::other(text));
        }
        let kind = if of.is_file() || of.is_contiguous() {
            FileType::Regular
        } else if of.is_dir() {
            FileType::Directory
        } else if of.is_symlink() {
            FileType::Symlink
        } else {
            // Devices and FIFOs mean nothing elsewhere; the rest is the archive's own.
            continue;
        };
        let owner = |id: u64| {
            if keep_owners {
                u32::try_from(id).unwrap_or(0)
            } else {
                0
            }
        };
        let meta = Meta {
            kind,
            size: header.size()?,
            perm: header.mode()? & 0o7777,
            uid: owner(header.uid()?),
            gid: owner(header.gid()?),
            mtime: i64::try_from(header.mtime()?).unwrap_or(0),
        };
        let dir = directory(tree, top, above)?;
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        put(tree, &dir, name, &meta, target, &mut entry)?;
        if kind == FileType::Directory {
            dirs.push((parts.join(&b'/'), meta));
        } else {
            bytes += meta.size;
        }
    }
    // Last, since what is made in them changes their times, and a mode may forbid making it.
    for (path, meta) in dirs.iter().rev() {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if let Some((name, above)) = parts.split_last() {
            let dir = directory(tree, top, above)?;
            tree.dress(&dir, name, meta)?;
        }
    }
    Ok(bytes)
}

/// The directory that an entry goes to: only true directories on the way, made when missing.
fn directory<T: Tree>(tree: &T, top: &[u8], parts: &[&[u8]]) -> io::Result<T::Node> {
    let found = super::tree::find(tree, top, true)?;
    let (mut dir, _) = found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
    for part in parts {
        let next = match tree.child(&dir, part)? {
            Some(found) => found,
            None => {
                tree.make_dir(&dir, part)?;
                let made = tree.child(&dir, part)?;
                made.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?
            }
        };
        if next.1.kind != FileType::Directory {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
        dir = next.0;
    }
    Ok(dir)
}

fn put<T: Tree>(
    tree: &T,
    dir: &T::Node,
    name: &[u8],
    meta: &Meta,
    target: Option<Vec<u8>>,
    data: &mut dyn Read,
) -> io::Result<()> {
    let there = tree.child(dir, name)?.map(|(_, meta)| meta.kind);
    let is_dir = |kind: FileType| kind == FileType::Directory;
    match there {
        Some(kind) if is_dir(kind) && is_dir(meta.kind) => return Ok(()),
        Some(kind) if is_dir(kind) != is_dir(meta.kind) => {
            let shown = String::from_utf8_lossy(name);
            let what = if is_dir(kind) {
                "a directory with a file"
            } else {
                "a file with a directory"
            };
            return Err(io::Error::other(format!(
                "cannot overwrite {what}: {shown}"
            )));
        }
        Some(_) => tree.remove(dir, name)?,
        None => {}
    }
    match meta.kind {
        FileType::Directory => return tree.make_dir(dir, name),
        FileType::Symlink => tree.make_link(dir, name, &target.unwrap_or_default())?,
        FileType::Regular
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharDevice
        | FileType::BlockDevice => tree.make_file(dir, name, data)?,
    }
    tree.dress(dir, name, meta)
}
