//! A container's tree as a tar stream: the changes for a commit, everything for an export.

use std::collections::HashMap;
use std::io::{self, Read};

use rrun_core::{Attr, Change, ChangeKind, Errno, FileType};
use rrun_union::{Ino, Union};

use crate::ImageError;
use crate::tarheader::{Record, Xattr, end_of_archive, padding};

/// The start of a whiteout's name. Source: OCI image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";
/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;
/// Attributes of this host or of our own book-keeping, which mean nothing in an image.
const XATTRS_HIDDEN: [&[u8]; 9] = [
    b"user.overlay.",
    b"trusted.overlay.",
    b"user.containers.",
    b"user.rrun.",
    b"security.rrun.",
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"system.nfs4_acl",
];

/// One entry to write.
#[derive(Debug, Clone)]
struct Item {
    path: Vec<u8>,
    /// `None` for a whiteout.
    ino: Option<Ino>,
    /// Whether a reference was counted for `ino`.
    counted: bool,
}

/// The entries of a stream, in order.
#[derive(Debug)]
enum Items {
    Changes(std::vec::IntoIter<Item>),
    Walk(Vec<std::vec::IntoIter<(Vec<u8>, Ino)>>),
}

/// Reads as a tar of a container's changes or of its whole tree; reproducible: the same tree
/// gives the same bytes.
#[derive(Debug)]
pub(crate) struct TarStream<'a> {
    union: &'a Union,
    items: Items,
    /// Where the first name of each hard-link group went, by `st_ino`.
    links: HashMap<u64, Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    body: Option<Body>,
    ended: bool,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Body {
    item: Item,
    ino: Ino,
    offset: u64,
    size: u64,
}

/// The changes of a container, as `docker diff` orders them.
///
/// # Errors
///
/// `Tree`.
pub fn diff(union: &Union) -> Result<Vec<Change>, ImageError> {
    let mut changes = Vec::new();
    union
        .changes(&mut |changed| {
            changes.push(changed.change);
            Ok(())
        })
        .map_err(|errno| tree_error("list the changes", b"", errno))?;
    Ok(changes)
}

fn tree_error(action: &'static str, path: &[u8], errno: Errno) -> ImageError {
    ImageError::Tree {
        action,
        path: format!("/{}", String::from_utf8_lossy(path)),
        errno,
    }
}

impl<'a> TarStream<'a> {
    /// The changes, or `None` when there are none.
    pub(crate) fn changes(union: &'a Union) -> Result<Option<Self>, ImageError> {
        let mut items = Vec::new();
        union
            .changes(&mut |changed| {
                let mut path = changed.change.path;
                if changed.change.kind == ChangeKind::Deleted {
                    path = whiteout_of(&path);
                }
                items.push(Item {
                    path,
                    ino: changed.now,
                    counted: false,
                });
                Ok(())
            })
            .map_err(|errno| tree_error("list the changes", b"", errno))?;
        if items.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self::new(union, Items::Changes(items.into_iter()))))
    }

    /// The whole tree.
    pub(crate) fn everything(union: &'a Union) -> Result<Self, ImageError> {
        let names = children(union, Ino::ROOT, b"").map_err(|e| tree_error("read", b"", e))?;
        Ok(Self::new(union, Items::Walk(vec![names.into_iter()])))
    }

    fn new(union: &'a Union, items: Items) -> Self {
        Self {
            union,
            items,
            links: HashMap::new(),
            buffer: Vec::new(),
            at: 0,
            body: None,
            ended: false,
            notes: Vec::new(),
        }
    }

    /// What was left out, one sentence each.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn next_item(&mut self) -> Option<Item> {
        match &mut self.items {
            Items::Changes(items) => items.next(),
            Items::Walk(stack) => loop {
                match stack.last_mut()?.next() {
                    Some((path, ino)) => {
                        return Some(Item {
                            path,
                            ino: Some(ino),
                            counted: true,
                        });
                    }
                    None => drop(stack.pop()),
                }
            },
        }
    }

    /// Puts the header of the next entry into the buffer.
    fn advance(&mut self) -> io::Result<()> {
        let Some(item) = self.next_item() else {
            self.buffer.extend_from_slice(end_of_archive());
            self.ended = true;
            return Ok(());
        };
        let failed = |errno: Errno| {
            let path = String::from_utf8_lossy(&item.path);
            io::Error::other(format!("could not read /{path}: {errno}"))
        };
        match item.ino {
            None => {
                let record = Record::new(&item.path, b'0');
                record.write(&mut self.buffer);
            }
            Some(ino) => {
                let attr = self.union.getattr(ino).map_err(failed)?;
                self.entry(&item, ino, &attr).map_err(failed)?;
            }
        }
        if self.body.is_none() {
            self.release(&item);
        }
        Ok(())
    }

    fn entry(&mut self, item: &Item, ino: Ino, attr: &Attr) -> Result<(), Errno> {
        let shared = attr.nlink > 1 && attr.kind != FileType::Directory;
        if shared && let Some(first) = self.links.get(&attr.ino) {
            let mut record = Record::new(&item.path, b'1').with(attr);
            record.link.clone_from(first);
            record.write(&mut self.buffer);
            return Ok(());
        }
        let kind = match attr.kind {
            FileType::Regular => b'0',
            FileType::Symlink => b'2',
            FileType::CharDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Directory => b'5',
            FileType::Fifo => b'6',
            FileType::Socket => {
                let path = String::from_utf8_lossy(&item.path);
                self.notes.push(format!("socket /{path} is left out"));
                return Ok(());
            }
        };
        let mut record = Record::new(&item.path, kind).with(attr);
        match attr.kind {
            FileType::Symlink => record.link = self.union.readlink(ino)?,
            FileType::Directory => record.path.push(b'/'),
            FileType::Regular => record.size = attr.size,
            FileType::CharDevice | FileType::BlockDevice => record.device = attr.rdev,
            FileType::Fifo | FileType::Socket => {}
        }
        record.xattrs = self.xattrs(item, ino)?;
        record.write(&mut self.buffer);
        if shared {
            self.links.insert(attr.ino, item.path.clone());
        }
        if attr.kind == FileType::Directory
            && let Items::Walk(stack) = &mut self.items
        {
            stack.push(children(self.union, ino, &item.path)?.into_iter());
        }
        if attr.kind == FileType::Regular && attr.size > 0 {
            self.body = Some(Body {
                item: item.clone(),
                ino,
                offset: 0,
                size: attr.size,
            });
        }
        Ok(())
    }

    fn xattrs(&mut self, item: &Item, ino: Ino) -> Result<Vec<Xattr>, Errno> {
        let mut names = match self.union.listxattr(ino) {
            Ok(names) => names,
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        names.sort_unstable();
        let mut found = Vec::new();
        for name in names {
            if XATTRS_HIDDEN.iter().any(|hidden| name.starts_with(hidden)) {
                continue;
            }
            if name.contains(&b'=') {
                let path = String::from_utf8_lossy(&item.path);
                let name = String::from_utf8_lossy(&name);
                let note = format!("attribute {name:?} of /{path} is left out: it has an =");
                self.notes.push(note);
                continue;
            }
            match self.union.getxattr(ino, &name) {
                Ok(value) => found.push((name, value)),
                Err(Errno::ENODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(found)
    }

    /// Reads the next piece of the current file into the buffer.
    fn continue_body(&mut self, mut body: Body) -> io::Result<()> {
        let left = usize::try_from(body.size - body.offset).unwrap_or(usize::MAX);
        let start = self.buffer.len();
        self.buffer.resize(start + left.min(READ_BYTES), 0);
        let result = self
            .union
            .read(body.ino, body.offset, &mut self.buffer[start..]);
        let count = result.map_err(|errno| {
            let path = String::from_utf8_lossy(&body.item.path);
            io::Error::other(format!("could not read /{path}: {errno}"))
        })?;
        // A file that shrank while being read is filled up with zeros, as tar does.
        let taken = if count == 0 {
            self.buffer.len() - start
        } else {
            count
        };
        self.buffer.truncate(start + taken);
        body.offset += taken as u64;
        if body.offset < body.size {
            self.body = Some(body);
            return Ok(());
        }
        self.buffer.extend_from_slice(padding(body.size));
        self.release(&body.item);
        Ok(())
    }

    fn release(&self, item: &Item) {
        if let Some(ino) = item.ino
            && item.counted
        {
            self.union.forget(ino, 1);
        }
    }
}

impl Read for TarStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            match self.body.take() {
                Some(body) => self.continue_body(body)?,
                None if self.ended => return Ok(0),
                None => self.advance()?,
            }
        }
        let count = buf.len().min(self.buffer.len() - self.at);
        buf[..count].copy_from_slice(&self.buffer[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// `a/b` becomes `a/.wh.b`.
fn whiteout_of(path: &[u8]) -> Vec<u8> {
    let split = path
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let mut name = path[..split].to_vec();
    name.extend_from_slice(WHITEOUT);
    name.extend_from_slice(&path[split..]);
    name
}

/// The entries of a directory, sorted, each with a counted reference.
fn children(union: &Union, dir: Ino, path: &[u8]) -> Result<Vec<(Vec<u8>, Ino)>, Errno> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    union.readdir(dir, 0, false, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        true
    })?;
    names.sort_unstable();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let entry = match union.lookup(dir, &name) {
            Ok(entry) => entry,
            // Gone since the directory was read.
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let mut full = path.to_vec();
        if !full.is_empty() {
            full.push(b'/');
        }
        full.extend_from_slice(&name);
        found.push((full, entry.ino));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_stand_beside_what_they_remove() {
        let cases: [(&[u8], &[u8]); 2] = [(b"a", b".wh.a"), (b"x/y/a", b"x/y/.wh.a")];
        for (path, expected) in cases {
            assert_eq!(whiteout_of(path), expected, "input {path:?}");
        }
    }
}
