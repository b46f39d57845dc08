//! `cargo xtask ci`: what continuous integration runs, and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::{Outcome, fixtures, pjdfstest, tidy};

/// Programs the tests use, and the Debian packages that bring them.
const NEEDED: &[(&str, &str)] = &[
    ("newuidmap", "uidmap"),
    ("mmdebstrap", "mmdebstrap"),
    ("busybox", "busybox-static"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("docker-registry", "docker-registry"),
    ("podman", "podman"),
    ("fuse-overlayfs", "fuse-overlayfs"),
    ("setfattr", "attr"),
    ("setfacl", "acl"),
    ("setcap", "libcap2-bin"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("setpriv", "util-linux"),
    ("zstd", "zstd"),
    ("cc", "gcc"),
];

/// Everything, in order; stops at the first failure.
pub(crate) fn run(root: &Path) -> Outcome {
    let started = Instant::now();
    setup(root)?;
    cargo(root, &["fmt", "--all", "--check"])?;
    tidy::run(root)?;
    cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    fixtures::run(root)?;
    if has("cargo-nextest") {
        cargo(root, &["nextest", "run", "--workspace", "--no-fail-fast"])?;
        cargo(root, &["test", "--workspace", "--doc"])?;
    } else {
        // Also runs the doc tests.
        cargo(root, &["test", "--workspace", "--no-fail-fast"])?;
    }
    pjdfstest::run(root, pjdfstest::As::Root)?;
    println!("ci: all passed in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Installs what is missing where it can, else says what the skipped tests would need.
pub(crate) fn setup(root: &Path) -> Outcome {
    let missing: Vec<&(&str, &str)> = NEEDED.iter().filter(|(name, _)| !has(name)).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        let can_install = has("apt-get") && is_root();
        if can_install {
            println!("setup: installing {}", packages.join(" "));
            // A machine without a network still passes what needs no packages.
            let outcome = command(root, "apt-get", &["-qq", "update"]).and_then(|()| {
                let mut arguments = vec!["-qq", "-y", "--no-install-recommends", "install"];
                arguments.extend(&packages);
                command(root, "apt-get", &arguments)
            });
            if let Err(text) = outcome {
                println!("setup: {text}; tests that need these are skipped");
            }
        } else {
            println!(
                "setup: missing, tests that need them are skipped; as root: apt-get install {}",
                packages.join(" ")
            );
        }
    }
    device(root)
}

/// Distributions give every user these; some minimal machines have them for root only.
fn device(root: &Path) -> Outcome {
    for path in ["/dev/fuse", "/dev/net/tun"] {
        if is_root() && Path::new(path).metadata().is_ok() {
            command(root, "chmod", &["0666", path])?;
        }
    }
    Ok(())
}

/// Whether this process is root's: the owner of its own /proc entry.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// Whether a program is in the search path.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Runs cargo, the one that runs us if there is one.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Outcome {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(root, &cargo, arguments)
}

/// Runs a program in `root`, its output going where ours goes.
pub(crate) fn command(root: &Path, program: &str, arguments: &[&str]) -> Outcome {
    println!("+ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .map_err(|error| format!("could not start {program}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!(
            "{program} {} failed: {status}",
            arguments.join(" ")
        ))
    }
}
