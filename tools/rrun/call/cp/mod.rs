//! `rrun cp`.
//!
//! What is in the container is read and written by a helper, as a tar stream: of a running
//! container from within its namespaces, of another through the union. The host's side is ours.

mod inside;
mod stream;
mod tree;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rrun_core::FileType;
use rrun_runner::{ContainerConfig, Status, names, read_state};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::hidden::Parts;
use super::within;
use crate::args::CpArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{human, report};

pub(crate) use inside::main as inside;
use tree::{Host, Tree};

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// `-`
    Stream,
    Host(String),
    Container {
        name: String,
        path: String,
    },
}

impl End {
    /// Source: docker/cli, `splitCpArg`.
    fn parse(word: &str) -> Self {
        if word == "-" {
            return Self::Stream;
        }
        match word.split_once(':') {
            Some((name, path))
                if !word.starts_with(['/', '.']) && !name.is_empty() && !name.contains('/') =>
            {
                Self::Container {
                    name: name.to_owned(),
                    path: path.to_owned(),
                }
            }
            _ => Self::Host(word.to_owned()),
        }
    }
}

/// What the helper found at a path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Seen {
    exists: bool,
    is_dir: bool,
}

/// `rrun cp`.
pub(crate) fn cp(args: &CpArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    match (End::parse(&args.source), End::parse(&args.destination)) {
        (End::Container { .. }, End::Container { .. }) => Err(Failure::general(
            "copying between containers is not supported",
        )),
        (End::Container { name, path }, end) => out(args, environment, &name, &path, &end),
        (end, End::Container { name, path }) => into(args, environment, &end, &name, &path),
        _ => Err(Failure::general(
            "must specify at least one container source",
        )),
    }
}

/// A container's side of a copy.
struct Inside {
    program: Vec<std::ffi::OsString>,
}

impl Inside {
    fn new(environment: &Environment, name: &str) -> Result<Self, Failure> {
        let dir = names::resolve(&environment.containers(), name)?;
        let parts = Parts::of_self()?;
        let config = ContainerConfig::load(&dir)?;
        let status = read_state(&dir)?.status;
        let runs = matches!(status, Status::Running | Status::Paused);
        let program = if !runs && within::is_elsewhere(&dir, &config) {
            parts.within(&dir, parts.copy(&dir))
        } else {
            parts.copy(&dir)
        };
        Ok(Self { program })
    }

    fn command(&self, words: &[&str]) -> Command {
        let (program, rest) = self.program.split_first().map_or_else(
            || (std::ffi::OsString::new(), &self.program[..]),
            |(program, rest)| (program.clone(), rest),
        );
        let mut command = Command::new(program);
        command.args(rest).args(words);
        command
    }

    fn seen(&self, path: &str, follow: bool) -> Result<Seen, Failure> {
        let verb = if follow { "stat-follow" } else { "stat" };
        let output = self.command(&[verb, path]).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(said(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What a helper said before it failed.
fn said(stderr: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim().trim_start_matches("rrun: ");
    Failure::general(if text.is_empty() {
        "the copy failed"
    } else {
        text
    })
}

fn finish(mut child: Child) -> Result<(), Failure> {
    let mut stderr = Vec::new();
    if let Some(mut pipe) = child.stderr.take() {
        std::io::Read::read_to_end(&mut pipe, &mut stderr)?;
    }
    if child.wait()?.success() {
        return Ok(());
    }
    Err(said(&stderr))
}

/// The last name of a path; `.` for one that ends in it or is the root.
fn base_name(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        None | Some("" | "." | "..") => ".".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn open_dir(path: &Path) -> Result<Host, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Failure::of(&format!("could not open {}", path.display()), &error))?;
    Ok(Host(fd))
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// From a container.
fn out(
    args: &CpArgs,
    environment: &Environment,
    name: &str,
    path: &str,
    to: &End,
) -> Result<ExitCode, Failure> {
    let inside = Inside::new(environment, name)?;
    let seen = inside.seen(path, args.follow_link)?;
    if !seen.exists {
        return Err(Failure::general(format!(
            "could not find the file {path} in container {name}"
        )));
    }
    let verb = if args.follow_link {
        "out-follow"
    } else {
        "out"
    };
    let End::Host(target) = to else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::general("cowardly refusing to copy to a terminal")
                .hint("redirect the output"));
        }
        let mut command = inside.command(&[verb, path, &base_name(path)]);
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        finish(child)?;
        return Ok(ExitCode::OK);
    };
    let place = Path::new(target);
    let (dir, new_name) = match fs::metadata(place) {
        Ok(data) if data.is_dir() => (place.to_owned(), base_name(path)),
        Ok(_) if seen.is_dir => {
            return Err(Failure::general("cannot copy a directory onto a file"));
        }
        Err(_) if target.ends_with('/') && !seen.is_dir => {
            return Err(Failure::general(format!(
                "invalid output path: directory {target:?} does not exist"
            )));
        }
        Ok(_) | Err(_) => (parent_of(place), base_name(target)),
    };
    if !dir.is_dir() {
        return Err(Failure::general(format!(
            "invalid output path: directory {:?} does not exist",
            dir.display().to_string()
        )));
    }
    let host = open_dir(&dir)?;
    let mut child = inside
        .command(&[verb, path, &new_name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut bytes = 0;
    if let Some(mut pipe) = child.stdout.take() {
        bytes = stream::unpack(&host, b"", &mut pipe, args.archive)
            .map_err(|error| Failure::of(&format!("could not copy to {target}"), &error))?;
    }
    finish(child)?;
    tell(args, bytes, target);
    Ok(ExitCode::OK)
}

/// Into a container.
fn into(
    args: &CpArgs,
    environment: &Environment,
    from: &End,
    name: &str,
    path: &str,
) -> Result<ExitCode, Failure> {
    let inside = Inside::new(environment, name)?;
    let seen = inside.seen(path, true)?;
    let verb = if args.archive { "in-archive" } else { "in" };
    let End::Host(source) = from else {
        if !seen.is_dir {
            return Err(Failure::general(
                "destination must be a directory of the container when the source is a stream",
            ));
        }
        let child = inside
            .command(&["in-archive", path])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        finish(child)?;
        return Ok(ExitCode::OK);
    };
    let place = Path::new(source);
    let data = if args.follow_link || source.ends_with('/') {
        fs::metadata(place)
    } else {
        fs::symlink_metadata(place)
    };
    let data = data.map_err(|error| Failure::of(&format!("lstat {source}"), &error))?;
    let (dir, new_name) = match (seen.exists, seen.is_dir) {
        (true, true) => (path.to_owned(), base_name(source)),
        (true, false) if data.is_dir() => {
            return Err(Failure::general("cannot copy a directory onto a file"));
        }
        (false, _) if path.ends_with('/') && !data.is_dir() => {
            return Err(Failure::general(format!(
                "destination directory {path:?} must exist in the container"
            )));
        }
        _ => {
            let parent = path.trim_end_matches('/').rsplit_once('/');
            let parent = parent.map_or("/", |(parent, _)| parent);
            (format!("{parent}/"), base_name(path))
        }
    };
    if !inside.seen(&dir, true)?.is_dir {
        return Err(Failure::general(format!(
            "could not find the file {dir} in container {name}"
        )));
    }
    let mut child = inside
        .command(&[verb, &dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let packed = match child.stdin.take() {
        Some(mut pipe) => pack(place, data.is_dir(), &new_name, args.follow_link, &mut pipe),
        None => Ok(0),
    };
    // The helper's failure is why the pipe broke.
    finish(child)?;
    let bytes = packed.map_err(|error| Failure::of(&format!("could not read {source}"), &error))?;
    tell(args, bytes, &format!("{name}:{path}"));
    Ok(ExitCode::OK)
}

fn pack(
    place: &Path,
    is_dir: bool,
    name: &str,
    follow: bool,
    out: &mut dyn std::io::Write,
) -> std::io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if is_dir {
        let host = Host(openat(CWD, place, flags, Mode::empty())?);
        let found = host.root()?;
        return stream::pack(&host, None, &found, name.as_bytes(), out);
    }
    let place = if follow {
        fs::canonicalize(place)?
    } else {
        place.to_owned()
    };
    let host = Host(openat(CWD, parent_of(&place), flags, Mode::empty())?);
    let child = place.file_name().unwrap_or_default().as_encoded_bytes();
    let (root, _) = host.root()?;
    let missing = || std::io::Error::from_raw_os_error(libc::ENOENT);
    let found = host.child(&root, child)?.ok_or_else(missing)?;
    if !matches!(found.1.kind, FileType::Regular | FileType::Symlink) {
        return Err(std::io::Error::other("it is no file, directory or link"));
    }
    stream::pack(&host, Some((&root, child)), &found, name.as_bytes(), out)
}

fn tell(args: &CpArgs, bytes: u64, target: &str) {
    if !args.quiet {
        report::note(&format!(
            "Successfully copied {} to {target}",
            human::size_with_precision(bytes, 3)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        let container = |name: &str, path: &str| End::Container {
            name: name.to_owned(),
            path: path.to_owned(),
        };
        for (word, expected) in [
            ("-", End::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:a:b", container("web", "a:b")),
            ("./a:b", End::Host("./a:b".to_owned())),
            ("/a:b", End::Host("/a:b".to_owned())),
            ("dir/a:b", End::Host("dir/a:b".to_owned())),
            ("file", End::Host("file".to_owned())),
        ] {
            assert_eq!(End::parse(word), expected, "input {word}");
        }
        for (path, name) in [
            ("/a/b", "b"),
            ("/a/b/", "b"),
            ("/a/.", "."),
            ("/", "."),
            ("b", "b"),
        ] {
            assert_eq!(base_name(path), name, "input {path}");
        }
    }
}
