//! Small whole files: bounded reading, atomic writing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{At, RunnerError};

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
///
/// `EFBIG` when it is larger; those of `open(2)` and `read(2)`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    // Not `statx(2)` for all it has, which a file system in user space would be asked.
    let stat = rustix::fs::fstat(&file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let room = usize::try_from(size.min(bytes_max)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(room + 1);
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > bytes_max) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(bytes)
}

/// Replaces `dir/name` so that readers see the old or the new content, never a part.
///
/// # Errors
///
/// When the file cannot be written or renamed.
pub(crate) fn write_atomic(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), RunnerError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        drop(file);
        std::fs::rename(&temporary, &path)
    };
    write().at("write", &path)
}
