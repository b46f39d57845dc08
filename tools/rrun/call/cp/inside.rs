//! The container's side of `cp`: a helper of its own, since it may join namespaces.

use std::ffi::OsString;
use std::path::Path;

use rrun_core::FileType;
use rrun_runner::{ContainerConfig, Status, container, read_state};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::tree::{Host, Stopped, Tree, find};
use super::{Seen, stream};
use crate::call::within::overlay;
use crate::call::{ground, mount_points};
use crate::failure::Failure;
use crate::report;

/// Does what `DIR VERB PATH [NAME]` say.
pub(crate) fn main(words: &[OsString]) -> Result<(), Failure> {
    let text = |index: usize| {
        let word = words
            .get(index)
            .map(|word| word.to_string_lossy().into_owned());
        word.unwrap_or_default()
    };
    let dir = words.first().map(Path::new).unwrap_or(Path::new(""));
    let (verb, path, name) = (text(1), text(2), text(3));
    let status = read_state(dir)?.status;
    if matches!(status, Status::Running | Status::Paused) {
        let root = container::enter(dir)?;
        return act(&Host(root), &verb, &path, &name);
    }
    let config = ContainerConfig::load(dir)?;
    // A volume is not part of the container's own files.
    let clean = format!("/{}", path.trim_start_matches('/'));
    for point in mount_points::of_config(&config) {
        if point.source.is_empty() {
            continue;
        }
        let below = clean.strip_prefix(&point.destination);
        if let Some(below) = below.filter(|below| below.is_empty() || below.starts_with('/')) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, point.source.as_str(), flags, Mode::empty())?;
            if verb.starts_with("in") && !point.writable {
                return Err(Failure::general("mounted volume is marked read-only"));
            }
            return act(&Host(root), &verb, below, &name);
        }
    }
    if verb.starts_with("in") {
        if config.read_only {
            return Err(Failure::general("container rootfs is marked read-only"));
        }
        if overlay(&config).is_some() {
            let mounted = container::mount(dir)?;
            let host = Host(mounted.root);
            act(&host, &verb, &path, &name)?;
            return Ok(rustix::fs::syncfs(&host.0)?);
        }
        let (union, _lease) = ground::served(dir, &config)?;
        act(&Stopped(union.clone()), &verb, &path, &name)?;
        return union
            .syncfs()
            .map_err(|errno| Failure::general(format!("could not write back: {errno}")));
    }
    let (union, _lease) = ground::read_only(dir, &config)?;
    act(&Stopped(union), &verb, &path, &name)
}

fn act<T: Tree>(tree: &T, verb: &str, path: &str, name: &str) -> Result<(), Failure> {
    let follow = verb.ends_with("-follow") || path.ends_with('/') || path.ends_with("/.");
    match verb {
        "stat" | "stat-follow" => {
            let found = find(tree, path.as_bytes(), follow)?;
            let seen = Seen {
                exists: found.is_some(),
                is_dir: found.is_some_and(|(_, meta)| meta.kind == FileType::Directory),
            };
            report::line(&serde_json::to_string(&seen)?)
        }
        "out" | "out-follow" => {
            let missing = || Failure::general(format!("could not find the file {path}"));
            let found = find(tree, path.as_bytes(), follow)?.ok_or_else(missing)?;
            // A link is read by its name in its directory.
            let (above, last) = path
                .trim_end_matches('/')
                .rsplit_once('/')
                .unwrap_or(("", path));
            let dir = find(tree, above.as_bytes(), true)?.ok_or_else(missing)?;
            let place = Some((&dir.0, last.as_bytes()));
            let mut out = std::io::stdout().lock();
            stream::pack(tree, place, &found, name.as_bytes(), &mut out)?;
            Ok(())
        }
        "in" | "in-archive" => {
            let mut input = std::io::stdin().lock();
            let archive = verb == "in-archive";
            stream::unpack(tree, path.as_bytes(), &mut input, archive)?;
            // What is left is padding; the writer must not find the pipe closed.
            std::io::copy(&mut input, &mut std::io::sink())?;
            Ok(())
        }
        _ => Err(Failure::general(format!("unknown verb {verb} of a copy"))),
    }
}
