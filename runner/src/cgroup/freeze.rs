//! Stopping and resuming all processes of groups.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{PATIENCE_MS, PATIENCE_ROUNDS, ROOT, find};
use crate::error::{At, RunnerError};

/// Whether the processes in the groups are frozen.
pub(crate) fn frozen(dirs: &[PathBuf]) -> bool {
    if let Some(dir) = find(dirs, "freezer") {
        return std::fs::read_to_string(dir.join("freezer.state"))
            .is_ok_and(|text| text.trim() != "THAWED");
    }
    dirs.iter().any(|dir| {
        std::fs::read_to_string(dir.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
    })
}

/// Lets a process go on that somebody froze in another version 1 group: it could not even die.
pub(crate) fn thaw_process(pid: i32) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.split_once(":freezer:"));
    if let Some((_, path)) = path {
        let dir = Path::new(ROOT)
            .join("freezer")
            .join(path.trim_start_matches('/'));
        // The root group has no such file, and is never frozen.
        let _root = File::options()
            .write(true)
            .open(dir.join("freezer.state"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"THAWED"));
    }
}

/// Freezes the processes in the groups, or lets them go on.
///
/// # Errors
///
/// When there is no group that can be frozen, or it does not freeze in time.
pub(crate) fn freeze(dirs: &[PathBuf], freeze: bool) -> Result<(), RunnerError> {
    let unsupported = RunnerError::Unsupported("pause a container without a control group");
    if let Some(dir) = find(dirs, "freezer") {
        let path = dir.join("freezer.state");
        let word = if freeze { "FROZEN" } else { "THAWED" };
        for _ in 0..PATIENCE_ROUNDS {
            std::fs::write(&path, word).at("write", &path)?;
            let now = std::fs::read_to_string(&path).at("read", &path)?;
            if now.trim() == word {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(PATIENCE_MS));
        }
        return Err(RunnerError::Unsupported("freeze the container in time"));
    }
    let path = dirs.first().map(|dir| dir.join("cgroup.freeze"));
    let Some(path) = path.filter(|path| path.is_file()) else {
        return Err(unsupported);
    };
    std::fs::write(&path, if freeze { "1" } else { "0" }).at("write", &path)?;
    for _ in 0..PATIENCE_ROUNDS {
        if frozen(dirs) == freeze {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(PATIENCE_MS));
    }
    Err(RunnerError::Unsupported("freeze the container in time"))
}
