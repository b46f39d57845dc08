//! `rrun-overlayfs`: the union on plain directories, called as fuse-overlayfs is.
//!
//! `rrun-overlayfs [SRC] MNT -o lowerdir=a:b,upperdir=u,workdir=w,...` mounts and returns; the
//! server is a process of its own, which is this program again with `-f`.
//!
//! Source: fuse-overlayfs(1).

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rrun_mount::{ServeOptions, Stats, serve};
use rrun_union::{DirLayers, IdStore, IdView, Options, Union, XattrDialect};

use crate::environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// Says on standard output that the mount is there; only we pass it, to our own child.
const READY: &str = "--rrun-ready";

/// What was asked for.
#[derive(Debug, Default)]
struct Typed {
    lower: Vec<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    mountpoint: Option<PathBuf>,
    source: Option<String>,
    foreground: bool,
    ready: bool,
    read_only: bool,
    squash_uid: Option<u32>,
    squash_gid: Option<u32>,
    /// Owners kept in an attribute instead of in the files.
    pretend: bool,
    volatile: bool,
    no_redirect: bool,
    no_writeback: bool,
    help: bool,
    version: bool,
    warnings: Vec<String>,
}

/// Runs `rrun-overlayfs`; `words` without the program's name.
pub(crate) fn main(words: &[OsString]) -> ExitCode {
    let outcome = parse(words).and_then(|typed| {
        if typed.version {
            return report::line(&format!(
                "rrun-overlayfs: version {}\nFUSE library: none, protocol 7.31 and above",
                super::VERSION
            ));
        }
        if typed.help {
            return report::line(
                "usage: rrun-overlayfs [-f] MOUNTPOINT -o \
                 lowerdir=DIR[:DIR...][,upperdir=DIR,workdir=DIR][,OPTION...]",
            );
        }
        if typed.foreground {
            foreground(&typed)
        } else {
            background(words, &typed)
        }
    });
    match outcome {
        Ok(()) => ExitCode::OK,
        Err(failure) => {
            report::note(&format!("rrun-overlayfs: {failure}"));
            ExitCode::GENERAL
        }
    }
}

/// Starts the server and waits until it has mounted.
fn background(words: &[OsString], typed: &Typed) -> Result<(), Failure> {
    for warning in &typed.warnings {
        report::note(&format!("rrun-overlayfs: {warning}"));
    }
    let mut child = Command::new("/proc/self/exe")
        .arg("overlayfs")
        .args(["-f", READY])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::of("could not start the server", &error))?;
    let mut byte = [0];
    let ready = match child.stdout.take() {
        Some(mut pipe) => pipe.read(&mut byte)?,
        None => 0,
    };
    if ready == 1 {
        return Ok(());
    }
    let status = child.wait()?;
    // The child has said why.
    Err(Failure::general(format!("could not mount ({status})")))
}

fn foreground(typed: &Typed) -> Result<(), Failure> {
    if !typed.ready {
        for warning in &typed.warnings {
            report::note(&format!("rrun-overlayfs: {warning}"));
        }
    }
    let Some(mountpoint) = &typed.mountpoint else {
        return Err(Failure::general("no mount point given"));
    };
    if typed.lower.is_empty() {
        return Err(Failure::general("option lowerdir= is missing"));
    }
    let mountpoint = std::path::absolute(mountpoint)?;
    let union = open(typed)?;
    let name = typed.source.as_deref().unwrap_or("rrun-overlayfs");
    let read_only = typed.read_only || typed.upper.is_none();
    let mount = rrun_mount::mount(&mountpoint, name, read_only).map_err(|error| {
        let action = format!("could not mount on {}", mountpoint.display());
        Failure::of(&action, &error).hint("this needs CAP_SYS_ADMIN in a user namespace")
    })?;
    let device = mount.device()?;
    if typed.ready {
        detach()?;
    }
    let options = ServeOptions { writeback: !typed.no_writeback, ..ServeOptions::default() };
    let served = serve(&device, &union, &options, &Stats::default());
    // Whoever unmounted it has done what our drop would do, perhaps to another mount.
    mount.leave();
    Ok(served?)
}

fn open(typed: &Typed) -> Result<Arc<Union>, Failure> {
    let layers = DirLayers::open(&typed.lower, typed.pretend)?;
    let upper = match (&typed.upper, &typed.work) {
        (Some(upper), Some(work)) => Some((upper.as_path(), work.as_path())),
        (Some(_), None) => return Err(Failure::general("option workdir= is missing")),
        (None, _) => None,
    };
    let view = if typed.squash_uid.is_some() || typed.squash_gid.is_some() {
        IdView::Squash {
            uid: typed.squash_uid.unwrap_or(0),
            gid: typed.squash_gid.unwrap_or(0),
        }
    } else {
        IdView::True
    };
    let options = Options {
        ids: if typed.pretend { IdStore::Virtual } else { IdStore::Real },
        view,
        xattrs: if environment::is_real_root() { XattrDialect::Trusted } else { XattrDialect::User },
        read_only: typed.read_only,
        redirect_dir: !typed.no_redirect,
        volatile: typed.volatile,
        ..Options::default()
    };
    Ok(Arc::new(Union::open(Arc::new(layers), upper, options)?))
}

/// Tells the waiting parent, then lets go of its session and standard streams: it may wait for
/// their end.
fn detach() -> Result<(), Failure> {
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    let mut out = std::io::stdout().lock();
    out.write_all(b".")?;
    out.flush()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn parse(words: &[OsString]) -> Result<Typed, Failure> {
    let mut typed = Typed::default();
    let mut places: Vec<OsString> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("-f") => typed.foreground = true,
            Some("-d" | "--debug") => typed.foreground = true,
            Some("-s") => {}
            Some("-h" | "--help") => typed.help = true,
            Some("-V" | "--version") => typed.version = true,
            Some(READY) => typed.ready = true,
            Some("-o") => match words.next() {
                Some(list) => options(list, &mut typed)?,
                None => return Err(Failure::general("-o needs an argument")),
            },
            Some(text) if text.starts_with("-o") => options(OsStr::new(&text[2..]), &mut typed)?,
            Some(text) if text.starts_with('-') && text.len() > 1 => {
                typed.warnings.push(format!("unknown argument {text} ignored"));
            }
            _ => places.push(word.clone()),
        }
    }
    typed.mountpoint = places.pop().map(PathBuf::from);
    typed.source = places.pop().and_then(|source| source.into_string().ok());
    Ok(typed)
}

/// Splits at `separator`, taking what follows a backslash literally.
fn split(text: &OsStr, separator: u8, keep_escapes: bool) -> Vec<OsString> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        let Some(part) = parts.last_mut() else { break };
        if byte == b'\\' {
            if keep_escapes {
                part.push(byte);
            }
            part.extend(bytes.next());
        } else if byte == separator {
            parts.push(Vec::new());
        } else {
            part.push(byte);
        }
    }
    parts.into_iter().map(OsString::from_vec).collect()
}

fn options(list: &OsStr, typed: &mut Typed) -> Result<(), Failure> {
    // Escapes in a value belong to the value: lowerdir is split again.
    for option in split(list, b',', true) {
        let bytes = option.as_bytes();
        let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
            None => (bytes, None),
        };
        let key = String::from_utf8_lossy(key).into_owned();
        option_of(&key, value, typed)?;
    }
    Ok(())
}

fn option_of(key: &str, value: Option<&OsStr>, typed: &mut Typed) -> Result<(), Failure> {
    let text = value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    let path = || value.map(|value| split(value, 0, false)).and_then(|mut parts| parts.pop()).map(PathBuf::from);
    let number = || {
        text.parse()
            .map_err(|_| Failure::general(format!("invalid argument for {key}: {text:?}")))
    };
    match key {
        "lowerdir" => {
            let dirs = value.map(|value| split(value, b':', false)).unwrap_or_default();
            typed.lower = dirs.into_iter().filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
        }
        "upperdir" => typed.upper = path(),
        "workdir" => typed.work = path(),
        "ro" => typed.read_only = true,
        "squash_to_root" => (typed.squash_uid, typed.squash_gid) = (Some(0), Some(0)),
        "squash_to_uid" => typed.squash_uid = Some(number()?),
        "squash_to_gid" => typed.squash_gid = Some(number()?),
        "xattr_permissions" => typed.pretend = number()? != 0,
        "volatile" => typed.volatile = true,
        "fsync" => typed.volatile = text == "0",
        "redirect_dir" => typed.no_redirect = matches!(text.as_str(), "off" | "nofollow"),
        "writeback" => typed.no_writeback = text == "0",
        // What these ask for is so in any case: ACLs, threads, stable inode and link numbers
        // cost nothing here, and the kernel checks permissions.
        "" | "rw" | "threaded" | "fast_ino" | "timeout" | "allow_other" | "default_permissions"
        | "suid" | "dev" | "exec" | "async" | "atime" | "userxattr" | "index" | "metacopy"
        | "xino" | "nfs_export" | "debug" | "max_write" | "clone_fd" | "fsname" | "subtype" => {}
        _ => typed.warnings.push(format!("option {key} is not supported and was ignored")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Typed {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&words).unwrap()
    }

    #[test]
    fn options_are_those_of_fuse_overlayfs() {
        let seen = typed(&["-o", "lowerdir=/a:/b\\:c,upperdir=/u,workdir=/w,squash_to_root", "/m"]);
        assert_eq!(seen.lower, [PathBuf::from("/a"), PathBuf::from("/b:c")]);
        assert_eq!(seen.upper, Some("/u".into()));
        assert_eq!(seen.mountpoint, Some("/m".into()));
        assert_eq!(seen.squash_uid, Some(0));
        assert!(seen.warnings.is_empty(), "{seen:?}");
        let seen = typed(&["none", "/m", "-olowerdir=/a,plugins=x,noacl"]);
        assert_eq!(seen.source.as_deref(), Some("none"));
        assert_eq!(seen.warnings.len(), 2, "{seen:?}");
        assert!(parse(&["-o".into(), "squash_to_uid=x".into()]).is_err());
    }
}
