//! Where saved images go: a tar stream or a directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::ImageError;
use crate::error::At as _;

/// A tar block.
const BLOCK: u64 = 512;

/// Receives the files of a saved image.
#[derive(Debug)]
pub(crate) enum Sink<W: Write> {
    Tar(TarSink<W>),
    Directory(PathBuf),
}

/// Writes a reproducible tar: no times, no names, owner 0.
#[derive(Debug)]
pub(crate) struct TarSink<W: Write> {
    pub(crate) out: W,
    /// What error texts call the output.
    pub(crate) name: String,
}

impl<W: Write> Sink<W> {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str) -> Result<(), ImageError> {
        match self {
            Self::Tar(tar) => {
                let name = format!("{path}/");
                let block = header(&name, tar::EntryType::Directory, 0o755, 0).at("name", path)?;
                tar.out.write_all(&block).at("write", &tar.name)
            }
            Self::Directory(root) => {
                let full = root.join(path);
                std::fs::create_dir_all(&full).at("make directory", full.display())
            }
        }
    }

    /// Adds a file of exactly `size` bytes.
    pub(crate) fn file(
        &mut self,
        path: &str,
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<(), ImageError> {
        match self {
            Self::Tar(tar) => {
                let block = header(path, tar::EntryType::Regular, 0o644, size).at("name", path)?;
                tar.out.write_all(&block).at("write", &tar.name)?;
                let object = format!("{path} to {}", tar.name);
                let count = io::copy(reader, &mut tar.out).at("write", object)?;
                check_size(path, size, count)?;
                let padding = usize::try_from((BLOCK - size % BLOCK) % BLOCK).unwrap_or(0);
                let zeros = &[0; 512][..padding];
                tar.out.write_all(zeros).at("write", &tar.name)
            }
            Self::Directory(root) => write_file(&root.join(path), size, reader),
        }
    }

    /// Adds a file with these bytes.
    pub(crate) fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.file(path, bytes.len() as u64, &mut &bytes[..])
    }

    /// Ends the output.
    pub(crate) fn finish(self) -> Result<(), ImageError> {
        match self {
            Self::Tar(mut tar) => {
                tar.out.write_all(&[0; 1024]).at("write", &tar.name)?;
                tar.out.flush().at("write", &tar.name)
            }
            Self::Directory(_) => Ok(()),
        }
    }
}

fn header(path: &str, kind: tar::EntryType, mode: u32, size: u64) -> io::Result<[u8; 512]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(*header.as_bytes())
}

fn check_size(object: &str, expected: u64, found: u64) -> Result<(), ImageError> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::SizeMismatch {
        object: object.to_owned(),
        expected,
        found,
    })
}

/// Writes beside the target and renames, so that a killed save leaves no half blob.
fn write_file(path: &Path, size: u64, reader: &mut dyn Read) -> Result<(), ImageError> {
    let object = &path.display();
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = File::create(&partial).at("write", object)?;
    let result = io::copy(reader, &mut file)
        .at("write", object)
        .and_then(|count| check_size(&object.to_string(), size, count))
        .and_then(|()| std::fs::rename(&partial, path).at("write", object));
    if result.is_err() {
        drop(std::fs::remove_file(&partial));
    }
    result
}
