//! Real root file systems for the tests, made once and kept in `target/fixtures`.
//!
//! `debian.tar` is what mmdebstrap makes from the machine's own package sources; `busybox.tar`
//! is a file system with nothing but a static busybox. A fixture that cannot be made is
//! reported and its tests skip.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::ci::{command, has, is_root};
use crate::{Outcome, target_dir};

/// Debian release of the fixture.
const SUITE: &str = "bookworm";

/// Packages beyond a minimal system: enough for the acceptance tests of `run`.
const PACKAGES: &str = "python3-minimal,gcc,libc6-dev,libcap2-bin,attr";

/// Makes what is missing.
pub(crate) fn run(root: &Path) -> Outcome {
    let dir = target_dir(root).join("fixtures");
    fs::create_dir_all(&dir)
        .map_err(|error| format!("could not make {}: {error}", dir.display()))?;
    if let Err(text) = busybox(&dir) {
        println!("fixtures: busybox: {text}; its tests are skipped");
    }
    if let Err(text) = debian(root, &dir) {
        println!("fixtures: debian: {text}; its tests are skipped");
    }
    Ok(())
}

fn present(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.len() > 0)
}

fn busybox(dir: &Path) -> Outcome {
    let tar = dir.join("busybox.tar");
    if present(&tar) {
        return Ok(());
    }
    let binary = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .ok_or("there is no static busybox")?;
    let stage = dir.join("busybox.stage");
    busybox_tree(&stage, Path::new(binary)).map_err(|error| format!("could not stage: {error}"))?;
    let done = archive(dir, &stage, &tar);
    fs::remove_dir_all(&stage).map_err(|error| format!("could not clean up: {error}"))?;
    done
}

fn busybox_tree(stage: &Path, binary: &Path) -> io::Result<()> {
    for part in [
        "bin", "etc", "proc", "sys", "dev", "root", "tmp", "var/tmp", "usr/bin",
    ] {
        fs::create_dir_all(stage.join(part))?;
    }
    fs::set_permissions(stage.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy(binary, stage.join("bin/busybox"))?;
    fs::set_permissions(stage.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    let applets = Command::new(binary).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        if applet != "busybox" {
            symlink("busybox", stage.join("bin").join(applet))?;
        }
    }
    fs::write(
        stage.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nbin:x:2:2:bin:/bin:/bin/false\nguest:x:1000:1000::/tmp:/bin/sh\n",
    )?;
    fs::write(
        stage.join("etc/group"),
        "root:x:0:\nbin:x:2:\nwheel:x:10:guest\nguest:x:1000:\n",
    )
}

fn archive(dir: &Path, stage: &Path, tar: &Path) -> Outcome {
    let partial = tar.with_extension("partial");
    command(
        dir,
        "tar",
        &[
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--sort=name",
            "-C",
            &stage.display().to_string(),
            "-cf",
            &partial.display().to_string(),
            ".",
        ],
    )?;
    fs::rename(&partial, tar).map_err(|error| format!("could not name {}: {error}", tar.display()))
}

fn debian(root: &Path, dir: &Path) -> Outcome {
    let tar = dir.join("debian.tar");
    if present(&tar) {
        return Ok(());
    }
    if !has("mmdebstrap") {
        return Err("mmdebstrap is not installed".to_owned());
    }
    if !is_root() && !has("newuidmap") {
        return Err("mmdebstrap needs root or newuidmap".to_owned());
    }
    // The suffix decides that mmdebstrap writes a tar archive.
    let partial = dir.join("debian.partial.tar");
    command(
        root,
        "mmdebstrap",
        &[
            "--quiet",
            "--variant=minbase",
            &format!("--include={PACKAGES}"),
            "--aptopt=Apt::Install-Recommends \"false\"",
            SUITE,
            &partial.display().to_string(),
        ],
    )?;
    fs::rename(&partial, &tar).map_err(|error| format!("could not name {}: {error}", tar.display()))
}
