//! Whether mounts of the host can spread into a container the way that was asked for.

use std::fs;
use std::path::Path;

use rrun_runner::ContainerConfig;

use crate::call::mount_points::MountPoint;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// Refuses what Docker refuses, and says where less is possible.
///
/// Source of the words: moby, `ensureShared`, `ensureSharedOrSlave`.
pub(super) fn check(
    path: &Path,
    point: &mut MountPoint,
    config: &ContainerConfig,
) -> Result<(), Failure> {
    let word = point.propagation.clone();
    let kind = word.trim_start_matches('r');
    if kind == "private" {
        return Ok(());
    }
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let real = fs::canonicalize(path)
        .map_err(|error| Failure::of(&format!("could not use {}", path.display()), &error))?;
    let (place, tags) = mount_of(&real, &text);
    let shared = tags.contains("shared:");
    let bad = |what: &str| {
        let text = format!(
            "path {} is mounted on {place} but it is not a {what} mount",
            path.display()
        );
        let hint = format!("'mount --make-rshared {place}' makes it one, as root");
        Err(Failure::new(ExitCode::ENGINE, text).hint(hint))
    };
    match kind {
        "shared" if !shared => bad("shared"),
        "slave" if !shared && !tags.contains("master:") => bad("shared or slave"),
        "shared" if config.has_user_namespace() => {
            report::warn(&format!(
                "{word} works as rslave for {}: mounts made in a user namespace do not reach the \
                 host",
                path.display()
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The mount point a path is below, and the tags of that mount.
///
/// Source: `proc_pid_mountinfo(5)`.
fn mount_of(path: &Path, text: &str) -> (String, String) {
    let mut found = ("/".to_owned(), String::new());
    for line in text.lines() {
        let Some((head, _)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = head.split(' ');
        let Some(place) = fields.nth(4).map(unescape) else {
            continue;
        };
        // Of several at one place the last one counts.
        if path.starts_with(&place) && place.len() >= found.0.len() {
            let tags: Vec<&str> = fields.skip(1).collect();
            found = (place, tags.join(" "));
        }
    }
    found
}

/// Spaces and the like are written as octal numbers.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let text = "1 0 8:1 / / rw shared:1 - ext4 x rw\n\
                    2 1 8:2 / /mnt rw - ext4 x rw\n\
                    3 1 8:2 / /my\\040dir rw master:7 - ext4 x rw\n";
        let of = |path: &str| mount_of(Path::new(path), text);
        assert_eq!(of("/home"), ("/".to_owned(), "shared:1".to_owned()));
        assert_eq!(of("/mnt/x"), ("/mnt".to_owned(), String::new()));
        assert_eq!(of("/my dir/y").1, "master:7");
    }
}
