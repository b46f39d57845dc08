//! Containers whose files on disk belong to subordinate ids, because the kernel's overlayfs wrote
//! them: whoever looks at these does so as root of a user namespace with the container's ids.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rrun_runner::overlay::Dialect;
use rrun_runner::{ContainerConfig, Root, userns};

use super::hidden::Parts;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

/// In what way the kernel's overlayfs takes a container's writes; `None` when our server does.
pub(crate) fn overlay(config: &ContainerConfig) -> Option<Dialect> {
    match &config.root {
        Root::Fuse { overlay, .. } => *overlay,
        Root::Dir(_) => None,
    }
}

/// Whether a container's files can be read only from a user namespace, in which we are not.
pub(crate) fn is_elsewhere(dir: &Path, config: &ContainerConfig) -> bool {
    // There the upper directory, which is the user's own, is root's.
    let inside = || {
        rustix::process::geteuid().is_root()
            && std::fs::metadata(dir.join("upper")).is_ok_and(|data| data.uid() == 0)
    };
    overlay(config) == Some(Dialect::User) && !inside()
}

/// Runs this very command again where the container's files can be read; `None` when that is here.
pub(crate) fn again(
    dir: &Path,
    config: &ContainerConfig,
    environment: &Environment,
) -> Result<Option<ExitCode>, Failure> {
    if !is_elsewhere(dir, config) {
        return Ok(None);
    }
    let mut argv = vec![
        Parts::of_self()?.program(),
        OsString::from("--data-root"),
        environment.data_dir.clone().into_os_string(),
    ];
    argv.extend(without_data_root(&Environment::arguments()));
    let code = userns::run(&config.id_map, &argv)?;
    Ok(Some(ExitCode(u8::try_from(code).unwrap_or(1))))
}

/// The arguments after the program's name, but for where data is: inside, the user is another.
fn without_data_root(argv: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        if word == OsStr::new("--data-root") {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"--data-root=") {
            let option = word.as_encoded_bytes().starts_with(b"-");
            kept.push(word.clone());
            if !option {
                // The command; what follows is its own.
                break;
            }
        }
    }
    kept.extend(words.cloned());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_data_is_is_left_out() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(Into::into).collect() };
        for (line, kept) in [
            ("rrun diff x", "diff x"),
            ("rrun --data-root /d diff x", "diff x"),
            ("rrun --data-root=/d -D commit x y", "-D commit x y"),
            (
                "rrun commit -m --data-root x y",
                "commit -m --data-root x y",
            ),
        ] {
            assert_eq!(without_data_root(&words(line)), words(kept), "line {line}");
        }
    }
}
