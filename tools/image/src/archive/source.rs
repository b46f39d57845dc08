//! The members of an archive or directory, in any order.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::ImageError;
use crate::error::At as _;

/// Members of an outer archive: saved images have thousands; a file tree of a whole
/// distribution stays below, so that one given by mistake is still recognised.
const MEMBERS_MAX: usize = 4_000_000;
/// Links followed from one member to another: podman uses one.
const LINKS_MAX: usize = 8;
/// Bytes moved at once while spooling: large enough that system calls do not count.
const SPOOL_BUFFER: usize = 1 << 20;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Where an image or a file tree comes from.
pub enum Input<'a> {
    /// A file or, for an OCI layout, a directory.
    Path(&'a Path),
    /// A stream, such as standard input.
    Stream(&'a mut dyn Read),
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Stream(_) => f.write_str("Stream(..)"),
        }
    }
}

/// The members of an archive or directory.
#[derive(Debug)]
pub(crate) struct Source {
    /// What error texts call it.
    pub(crate) name: String,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Tar {
        file: File,
        members: HashMap<String, Member>,
    },
    Directory(File),
}

#[derive(Debug, Clone)]
enum Member {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

/// A member being read.
#[derive(Debug)]
pub(crate) struct MemberReader {
    file: File,
    at: u64,
    end: u64,
}

impl MemberReader {
    /// Bytes left.
    pub(crate) const fn size(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for MemberReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let count = self.file.read_at(&mut buf[..want], self.at)?;
        if count == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Source {
    /// Opens an input; `tmp` is the directory for what must be spooled.
    pub(crate) fn open(input: Input<'_>, tmp: &Path) -> Result<Self, ImageError> {
        match input {
            Input::Path(path) => {
                let name = path.display().to_string();
                let mut file = File::open(path).at("open", &name)?;
                let kind = file.metadata().at("look at", &name)?.file_type();
                if kind.is_dir() {
                    return Ok(Self {
                        name,
                        form: Form::Directory(file),
                    });
                }
                if !kind.is_file() {
                    file = spool(&mut file, &name, tmp)?;
                }
                Self::from_file(file, name, tmp)
            }
            Input::Stream(stream) => {
                let name = "standard input".to_owned();
                let file = spool(stream, &name, tmp)?;
                Self::from_file(file, name, tmp)
            }
        }
    }

    fn from_file(file: File, name: String, tmp: &Path) -> Result<Self, ImageError> {
        let mut magic = [0; 4];
        let count = file.read_at(&mut magic, 0).at("read", &name)?;
        let magic = &magic[..count];
        let file = if magic.starts_with(GZIP_MAGIC) {
            spool(&mut MultiGzDecoder::new(file), &name, tmp)?
        } else if magic.starts_with(ZSTD_MAGIC) {
            let mut plain = zstd::Decoder::new(file).at("read", &name)?;
            spool(&mut plain, &name, tmp)?
        } else {
            file
        };
        let members = list(&file, &name)?;
        Ok(Self {
            name,
            form: Form::Tar { file, members },
        })
    }

    /// Opens a member, following links inside the archive.
    pub(crate) fn member(&self, path: &str) -> Result<MemberReader, ImageError> {
        self.find(path)?.ok_or_else(|| ImageError::MissingMember {
            archive: self.name.clone(),
            member: path.to_owned(),
        })
    }

    /// Whether there is such a member.
    pub(crate) fn has(&self, path: &str) -> Result<bool, ImageError> {
        Ok(self.find(path)?.is_some())
    }

    fn find(&self, path: &str) -> Result<Option<MemberReader>, ImageError> {
        let (file, members) = match &self.form {
            Form::Tar { file, members } => (file, members),
            Form::Directory(dir) => {
                return open_in(dir, path).at("open", format!("{}/{path}", self.name));
            }
        };
        let mut path = normalize("", path);
        for _ in 0..LINKS_MAX {
            match members.get(&path) {
                Some(Member::Bytes { offset, size }) => {
                    let file = file.try_clone().at("open", &self.name)?;
                    return Ok(Some(MemberReader {
                        file,
                        at: *offset,
                        end: offset.saturating_add(*size),
                    }));
                }
                Some(Member::Link(target)) => path.clone_from(target),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The bytes of a small member.
    pub(crate) fn document(&self, path: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut reader = self.member(path)?;
        let object = || format!("{path} in {}", self.name);
        if reader.size() > limit {
            return Err(ImageError::TooBig {
                object: object(),
                limit_bytes: limit,
            });
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).at("read", object())?;
        Ok(bytes)
    }
}

fn open_in(dir: &File, path: &str) -> io::Result<Option<MemberReader>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve) {
        Ok(fd) => {
            let file = File::from(fd);
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            Ok(Some(MemberReader {
                file,
                at: 0,
                end: meta.len(),
            }))
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies a stream to a file without a name, which goes with the process.
pub(crate) fn spool(stream: &mut dyn Read, name: &str, tmp: &Path) -> Result<File, ImageError> {
    let mut file = unnamed(tmp).at("make a temporary file in", tmp.display())?;
    let mut buffer = vec![0; SPOOL_BUFFER];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).at("read", name),
        };
        file.write_all(&buffer[..count])
            .at("write a temporary file in", tmp.display())?;
    }
    file.seek(SeekFrom::Start(0)).at("read", name)?;
    Ok(file)
}

/// A file without a name in `dir`; where the file system cannot make one, its name is removed.
fn unnamed(dir: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, dir, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => return Ok(File::from(fd)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let path = dir.join(format!("spool-{}", std::process::id()));
    let fd = rustix::fs::openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    std::fs::remove_file(&path)?;
    Ok(File::from(fd))
}

fn list(file: &File, name: &str) -> Result<HashMap<String, Member>, ImageError> {
    let len = file.metadata().at("look at", name)?.len();
    let mut members = HashMap::new();
    let mut last = "its first header".to_owned();
    let mut reader = file.try_clone().at("open", name)?;
    reader.seek(SeekFrom::Start(0)).at("read", name)?;
    let mut archive = tar::Archive::new(reader);
    let truncated = |member: &str| ImageError::Truncated {
        archive: name.to_owned(),
        member: member.to_owned(),
    };
    for entry in archive.entries_with_seek().at("read", name)? {
        let entry = entry.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof || error.to_string().contains("EOF") {
                return truncated(&last);
            }
            ImageError::malformed(name, format!("not a tar archive: {error}"))
        })?;
        let path = normalize("", &String::from_utf8_lossy(&entry.path_bytes()));
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let link = entry
            .link_name_bytes()
            .map(|target| String::from_utf8_lossy(&target).into_owned())
            .unwrap_or_default();
        let kind = entry.header().entry_type();
        let member = if kind.is_symlink() {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            Member::Link(normalize(parent, &link))
        } else if kind.is_hard_link() {
            Member::Link(normalize("", &link))
        } else if offset.saturating_add(size) > len {
            return Err(truncated(&path));
        } else if kind.is_file() || kind.is_contiguous() {
            Member::Bytes { offset, size }
        } else {
            continue;
        };
        if members.len() >= MEMBERS_MAX {
            return Err(ImageError::malformed(name, "it has too many members"));
        }
        last.clone_from(&path);
        members.insert(path, member);
    }
    Ok(members)
}

/// Resolves `path` against `parent` by its text alone; `..` stops at the root.
fn normalize(parent: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { parent };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_are_normalized() {
        let cases = [
            ("", "./a/b", "a/b"),
            ("", "a//b/", "a/b"),
            ("x", "../y/l.tar", "y/l.tar"),
            ("x", "/y", "y"),
            ("x/z", "../../../../y", "y"),
            ("", "", ""),
        ];
        for (parent, path, expected) in cases {
            assert_eq!(
                normalize(parent, path),
                expected,
                "input {parent:?} {path:?}"
            );
        }
    }
}
