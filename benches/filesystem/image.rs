//! The layers as an image in a store of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::options::Settings;
use crate::support::program;
use crate::tree;

/// Its name.
pub(crate) const NAME: &str = "bench:1";

/// Where the store is.
pub(crate) fn data_root(base: &Path) -> PathBuf {
    base.join("data")
}

/// Packs the layers as `docker save` does and loads them.
pub(crate) fn load(base: &Path, settings: &Settings) -> Result<(), String> {
    let stage = base.join("archive");
    fs::create_dir(&stage).map_err(|e| format!("could not create {}: {e}", stage.display()))?;
    let log = base.join("image-errors");
    let mut members = Vec::new();
    let mut diff_ids = Vec::new();
    for number in 0..settings.shape.layers {
        let name = format!("l{number}.tar");
        let mut command = program::limited("tar");
        command.arg("-C").arg(tree::layer(base, number));
        command.arg("-cf").arg(stage.join(&name));
        program::timed(command.args(["--owner=0", "--group=0", "."]), &log)?;
        diff_ids.push(format!("\"sha256:{}\"", sha256(&stage.join(&name))?));
        members.push(format!("\"{name}\""));
    }
    let config = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
        diff_ids.join(",")
    );
    let manifest = format!(
        "[{{\"Config\":\"config.json\",\"RepoTags\":[\"{NAME}\"],\"Layers\":[{}]}}]",
        members.join(",")
    );
    for (name, text) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(stage.join(name), text).map_err(|e| format!("could not write {name}: {e}"))?;
    }
    let archive = base.join("image.tar");
    let mut command = program::limited("tar");
    command
        .arg("-C")
        .arg(&stage)
        .arg("-cf")
        .arg(&archive)
        .arg(".");
    program::timed(&mut command, &log)?;
    let mut command = program::limited(&settings.rrun);
    command.arg("--data-root").arg(data_root(base));
    program::timed(command.args(["load", "-i"]).arg(&archive), &log)?;
    for path in [archive, base.join("archive")] {
        // Only space is lost if one stays.
        let _gone = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
    Ok(())
}

fn sha256(path: &Path) -> Result<String, String> {
    let output = program::limited("sha256sum")
        .arg(path)
        .stdout(Stdio::piped())
        .output()
        .map_err(|error| format!("could not start sha256sum: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split_once(' ') {
        Some((digest, _)) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => Err(format!("sha256sum said {text:?}")),
    }
}
