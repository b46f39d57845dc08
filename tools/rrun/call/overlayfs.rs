//! `rrun-overlayfs`: the union on plain directories, called as fuse-overlayfs is.
//!
//! `rrun-overlayfs [-f] [-o OPTIONS]... [SOURCE] MOUNTPOINT`. Source: fuse-overlayfs(1).

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rrun_core::Lower;
use rrun_image::images;
use rrun_mount::{IoUring, OpenMode, ServeOptions, Stats};
use rrun_runner::overlay::{self, Dialect, Manner};
use rrun_store::{Lease, Store};
use rrun_union::{
    AccessTimes, DirLayers, IdStore, IdView, Options, Union, UpperMount, Writer, XattrDialect,
};
use rustix::mount::{MountFlags, UnmountFlags};

use super::ground::Ground;
use crate::environment::{self, Environment};
use crate::failure::ExitCode;
use crate::report;

/// Set for the process that stays: it reports readiness on its standard output.
const READY_FLAG: &str = "--rrun-ready";

const USAGE: &str = "usage: rrun-overlayfs [-f] [-o OPTIONS]... [SOURCE] MOUNTPOINT
options: lowerdir=DIR[:DIR...][,upperdir=DIR,workdir=DIR][,ro][,OPTION...], as fuse-overlayfs;
image=NAME[,data_root=DIR] in place of lowerdir= takes an image that rrun has";

/// What was asked for.
#[derive(Debug)]
struct Request {
    foreground: bool,
    ready: bool,
    /// What the mount shows as its source.
    source: Option<OsString>,
    mountpoint: Option<PathBuf>,
    lower: Vec<PathBuf>,
    /// An image in the store, in place of `lower`.
    image: Option<String>,
    data_root: Option<PathBuf>,
    upper: Option<PathBuf>,
    work: Option<PathBuf>,
    read_only: bool,
    /// Those of mount(2), but read-only.
    flags: MountFlags,
    squash_uid: Option<u32>,
    squash_gid: Option<u32>,
    pretend: bool,
    volatile: bool,
    metacopy: bool,
    redirect: Option<bool>,
    user_xattrs: bool,
    /// Whether the kernel's overlayfs takes the writes.
    hybrid: bool,
    serve: ServeOptions,
    warnings: Vec<String>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            foreground: false,
            ready: false,
            source: None,
            mountpoint: None,
            lower: Vec::new(),
            image: None,
            data_root: None,
            upper: None,
            work: None,
            read_only: false,
            flags: MountFlags::empty(),
            squash_uid: None,
            squash_gid: None,
            pretend: false,
            volatile: false,
            metacopy: false,
            redirect: None,
            user_xattrs: false,
            hybrid: false,
            serve: ServeOptions::default(),
            warnings: Vec::new(),
        }
    }
}

/// Options that change nothing here, because what they ask for is always so.
const ALWAYS: [&str; 13] = [
    "allow_other",
    "allow_root",
    "default_permissions",
    "auto",
    "noauto",
    "user",
    "nouser",
    "fast_ino=1",
    "noacl=0",
    "static_nlink",
    "threaded=1",
    "index=on",
    "xino=on",
];

/// Options that mount(2) has a flag for, and whether they set it. Source: `mount(8)`.
const FLAGS: [(&str, MountFlags, bool); 16] = [
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("strictatime", MountFlags::STRICTATIME, true),
];

/// Options that are accepted and cannot be honoured.
const WITHOUT_EFFECT: [&str; 8] = [
    "uidmapping",
    "gidmapping",
    "timeout",
    "plugins",
    "noacl",
    "context",
    "index",
    "nfs_export",
];

/// Runs the command.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let asks = |names: [&str; 2]| args.iter().any(|arg| names.iter().any(|name| arg == name));
    if asks(["-V", "--version"]) || asks(["-h", "--help"]) {
        let text = if asks(["-V", "--version"]) {
            format!("rrun-overlayfs: version {}", super::VERSION)
        } else {
            USAGE.to_owned()
        };
        return match report::line(&text) {
            Ok(()) => ExitCode::OK,
            Err(_) => ExitCode::GENERAL,
        };
    }
    let request = match parse(args) {
        Ok(request) => request,
        Err(message) => {
            report::note(&format!("rrun-overlayfs: {message}"));
            return ExitCode::GENERAL;
        }
    };
    for warning in &request.warnings {
        report::note(&format!("rrun-overlayfs: warning: {warning}"));
    }
    let done = if request.foreground {
        serve(&request)
    } else {
        background(args)
    };
    match done {
        Ok(code) => ExitCode(u8::try_from(code).unwrap_or(1)),
        Err(message) => {
            report::note(&format!("rrun-overlayfs: {message}"));
            ExitCode::GENERAL
        }
    }
}

fn parse(args: &[OsString]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut places = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_bytes() {
            b"-f" | b"--foreground" | b"-d" | b"--debug" => request.foreground = true,
            flag if flag == READY_FLAG.as_bytes() => {
                request.foreground = true;
                request.ready = true;
            }
            b"-s" => request.serve.threads = 1,
            b"-o" => {
                let list = rest.next().ok_or("option -o needs an argument")?;
                options(&mut request, list.as_bytes())?;
            }
            [b'-', b'o', list @ ..] => options(&mut request, list)?,
            [b'-', _, ..] => return Err(format!("unknown option {}", arg.display())),
            _ => places.push(arg.clone()),
        }
    }
    match places.len() {
        1 => {}
        2 => {
            let source = places.remove(0);
            request.source.get_or_insert(source);
        }
        0 => return Err("no mount point given".to_owned()),
        _ => return Err(format!("unexpected argument {}", places[2].display())),
    }
    request.mountpoint = places.pop().map(PathBuf::from);
    match (request.lower.is_empty(), &request.image) {
        (true, None) => return Err("option lowerdir= is missing".to_owned()),
        (false, Some(_)) => {
            return Err("options lowerdir= and image= exclude each other".to_owned());
        }
        (true, Some(_)) | (false, None) => {}
    }
    let needs_work = !request.read_only || request.hybrid;
    if request.upper.is_some() && request.work.is_none() && needs_work {
        return Err("option workdir= is missing: upperdir= needs it".to_owned());
    }
    let other_owners = request.squash_uid.or(request.squash_gid).is_some() || request.pretend;
    if request.hybrid && request.upper.is_some() && other_owners {
        // The kernel's overlayfs gives new files the owners they really have.
        return Err("squash_to_* and xattr_permissions= exclude fs_mode=hybrid".to_owned());
    }
    Ok(request)
}

/// Splits at `separator` where no backslash stands before it, and drops the backslashes.
fn split(list: &[u8], separator: u8) -> Vec<Vec<u8>> {
    let mut out = vec![Vec::new()];
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = byte == b'\\'
            && bytes
                .peek()
                .is_some_and(|next| matches!(next, b',' | b':' | b'\\'));
        if escaped {
            if let (Some(next), Some(last)) = (bytes.next(), out.last_mut()) {
                // one level is taken off per split: the comma's first, then the colon's
                if next != separator {
                    last.push(b'\\');
                }
                last.push(next);
            }
        } else if byte == separator {
            out.push(Vec::new());
        } else if let Some(last) = out.last_mut() {
            last.push(byte);
        }
    }
    out
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn options(request: &mut Request, list: &[u8]) -> Result<(), String> {
    for option in split(list, b',') {
        if option.is_empty() {
            continue;
        }
        let (key, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (option[..at].to_vec(), Some(option[at + 1..].to_vec())),
            None => (option.clone(), None),
        };
        let key = String::from_utf8_lossy(&key).into_owned();
        let text = value
            .as_deref()
            .map(|v| String::from_utf8_lossy(v).into_owned());
        match (key.as_str(), value) {
            ("lowerdir", Some(value)) => {
                request.lower = split(&value, b':').into_iter().map(path).collect();
            }
            ("data_root", Some(value)) => request.data_root = Some(path(value)),
            ("upperdir", Some(value)) => request.upper = Some(path(value)),
            ("workdir", Some(value)) => request.work = Some(path(value)),
            ("fsname", Some(value)) => request.source = Some(OsString::from_vec(value)),
            ("ro", None) => request.read_only = true,
            ("rw", None) => request.read_only = false,
            _ => option_word(request, &key, text.as_deref())?,
        }
    }
    Ok(())
}

fn option_word(request: &mut Request, key: &str, value: Option<&str>) -> Result<(), String> {
    let number = || -> Result<u32, String> {
        let text = value.unwrap_or_default();
        text.parse()
            .map_err(|_| format!("option {key}= wants a number, not {text:?}"))
    };
    let on = matches!(value, None | Some("1" | "on" | "true"));
    match key {
        "squash_to_root" => {
            request.squash_uid = Some(0);
            request.squash_gid = Some(0);
        }
        "squash_to_uid" => request.squash_uid = Some(number()?),
        "squash_to_gid" => request.squash_gid = Some(number()?),
        "xattr_permissions" => request.pretend = number()? != 0,
        "image" => request.image = value.map(str::to_owned),
        "volatile" => request.volatile = true,
        "fsync" => request.volatile = !on,
        "metacopy" => request.metacopy = on,
        "redirect_dir" => request.redirect = Some(on),
        "fs_mode" => {
            request.hybrid = match value {
                Some("hybrid") => true,
                Some("fuse") => false,
                _ => return Err("option fs_mode= is fuse or hybrid".to_owned()),
            }
        }
        "userxattr" => request.user_xattrs = true,
        "writeback" => request.serve.writeback = on,
        "threaded" if !on => request.serve.threads = 1,
        "threads" | "max_idle_threads" => {
            request.serve.threads = usize::try_from(number()?.clamp(1, 64)).unwrap_or(1);
        }
        "follow" => request.serve.follow = on,
        "spin_us" => request.serve.spin_us = number()?,
        "io_uring" => {
            request.serve.io_uring = value
                .and_then(super::io_uring::parse)
                .ok_or("option io_uring= is on, off or auto")?;
        }
        "open" => {
            request.serve.open_mode = match value {
                Some("silent") => OpenMode::Silent,
                Some("keep-cache") => OpenMode::KeepCache,
                Some("passthrough") => OpenMode::Passthrough,
                _ => return Err("option open= is silent, keep-cache or passthrough".to_owned()),
            }
        }
        // As a mount helper this would mount once more, on top.
        "remount" => {
            return Err(
                "option remount: a server cannot be changed; 'mount -i -o remount,ro DIR' changes \
                 what the kernel does with it"
                    .to_owned(),
            );
        }
        _ if set_flag(&mut request.flags, key) => {}
        _ => {
            let whole = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
            if ALWAYS.contains(&whole.as_str()) || ALWAYS.contains(&key) {
            } else if WITHOUT_EFFECT.contains(&key) {
                request
                    .warnings
                    .push(format!("option {whole} has no effect"));
            } else {
                request
                    .warnings
                    .push(format!("unknown option {whole} ignored"));
            }
        }
    }
    Ok(())
}

/// Sets or clears the flag an option names; false when it names none.
fn set_flag(flags: &mut MountFlags, key: &str) -> bool {
    let Some((_, flag, on)) = FLAGS.iter().find(|known| known.0 == key) else {
        return false;
    };
    flags.set(*flag, *on);
    true
}

/// Starts the process that stays and returns when it has mounted.
fn background(args: &[OsString]) -> Result<i32, String> {
    let exe = std::env::current_exe().map_err(|e| format!("could not find myself: {e}"))?;
    let mut child = Command::new(exe)
        .arg0("rrun-overlayfs")
        .arg(READY_FLAG)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("could not start the server: {error}"))?;
    let mut word = [0; 1];
    let ready = child
        .stdout
        .take()
        .is_some_and(|mut out| out.read_exact(&mut word).is_ok());
    if ready {
        return Ok(0);
    }
    let status = child
        .wait()
        .map_err(|error| format!("could not wait for the server: {error}"))?;
    Ok(status.code().unwrap_or(1))
}

fn serve(request: &Request) -> Result<i32, String> {
    let mountpoint = request.mountpoint.clone().ok_or("no mount point given")?;
    if request.serve.io_uring == IoUring::On {
        rrun_mount::io_uring_available().map_err(|error| error.to_string())?;
    }
    let mountpoint = std::path::absolute(&mountpoint)
        .map_err(|error| format!("{}: {error}", mountpoint.display()))?;
    let (lower, _lease) = open_lower(request)?;
    let union = open_union(request, lower).map_err(|error| error.to_string())?;
    let name = request
        .source
        .as_deref()
        .unwrap_or(OsStr::new("rrun-overlayfs"));
    let name = name.to_string_lossy();
    let mut flags = request.flags;
    flags.set(
        MountFlags::RDONLY,
        request.read_only || request.upper.is_none(),
    );
    let covered = covered(request);
    let below = match covered {
        Some(_) => flags | MountFlags::RDONLY,
        None => flags,
    };
    let mount = rrun_mount::mount(&mountpoint, &name, below)
        .map_err(|error| format!("could not mount on {}: {error}", mountpoint.display()))?;
    let connection = mount
        .connection()
        .map_err(|error| format!("could not use /dev/fuse: {error}"))?;
    mount.leave();
    rustix::process::umask(rustix::fs::Mode::empty());
    let stats = Stats::default();
    let union = Arc::new(union);
    let options = ServeOptions {
        handles: covered.is_none(),
        ..request.serve
    };
    let uncovered = AtomicBool::new(false);
    let serve = || {
        rrun_mount::serve(&connection, &union, &options, &stats, &|| {
            super::hidden::exit_now(uncovered.load(Ordering::Acquire));
        })
        .map(|()| 0)
        .map_err(|error| error.to_string())
    };
    let Some((places, dialect)) = covered else {
        tell_ready(request);
        return serve();
    };
    let manner = Manner {
        source: &name,
        flags,
        volatile: request.volatile,
    };
    // The kernel asks the server while it mounts what is above.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            match overlay::cover(&mountpoint, places, dialect, manner) {
                Ok(()) => tell_ready(request),
                Err(error) => {
                    report::note(&format!(
                        "rrun-overlayfs: could not mount the kernel's overlayfs: {error}"
                    ));
                    uncovered.store(true, Ordering::Release);
                    // Ends the server.
                    let _gone = rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH);
                }
            }
        });
        serve()
    })
}

/// The directories, upper and work, and the way in which the kernel's overlayfs takes the writes,
/// if it does.
fn covered(request: &Request) -> Option<([&Path; 2], Dialect)> {
    let dialect = if request.user_xattrs || !environment::is_real_root() {
        Dialect::User
    } else {
        Dialect::Full
    };
    let places = request.upper.as_deref().zip(request.work.as_deref());
    let (upper, work) = places.filter(|_| request.hybrid)?;
    Some(([upper, work], dialect))
}

/// Leaves the terminal and tells whoever waits that the file system is there.
fn tell_ready(request: &Request) {
    if !request.ready {
        return;
    }
    // A new session: the terminal that started us does not end us.
    let _session = rustix::process::setsid();
    let mut out = std::io::stdout();
    let _told = out.write_all(b"R").and_then(|()| out.flush());
    report::detach_output();
}

/// The layers, and what keeps an image's from being collected.
fn open_lower(request: &Request) -> Result<(Arc<dyn Lower>, Option<Lease>), String> {
    let Some(name) = &request.image else {
        let layers =
            DirLayers::open(&request.lower, request.pretend).map_err(|error| error.to_string())?;
        return Ok((Arc::new(layers.apart()), None));
    };
    let environment = Environment::read(request.data_root.clone(), None)
        .map_err(|failure| failure.to_string())?;
    let path = environment.store();
    let store = Store::open(&path).map_err(|error| error.to_string())?;
    let (record, _) = images::find(&store, name).map_err(|error| error.to_string())?;
    let diff_ids = record.diff_ids();
    // The lease can only be taken on a base that exists.
    store.base(&diff_ids).map_err(|error| error.to_string())?;
    let store = path;
    let ground = Ground::Layers { store, diff_ids };
    ground.open().map_err(|failure| failure.to_string())
}

fn open_union(request: &Request, lower: Arc<dyn Lower>) -> Result<Union, rrun_union::UnionError> {
    let view = match (request.squash_uid, request.squash_gid) {
        (None, None) => IdView::True,
        (uid, gid) => IdView::Squash {
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
        },
    };
    let trusted = !request.user_xattrs && environment::is_real_root();
    let options = Options {
        ids: if request.pretend {
            IdStore::Virtual
        } else {
            IdStore::Real
        },
        view,
        xattrs: if trusted {
            XattrDialect::Trusted
        } else {
            XattrDialect::User
        },
        writer: Writer::Union,
        read_only: request.read_only || request.upper.is_none() || request.hybrid,
        sparse_copy_up: request.metacopy,
        redirect_dir: request.redirect.unwrap_or(false),
        volatile: request.volatile,
        dress_root: request.pretend,
        access_times: if request.flags.contains(MountFlags::NOATIME) {
            AccessTimes::Never
        } else if request.flags.contains(MountFlags::STRICTATIME) {
            AccessTimes::Strict
        } else {
            AccessTimes::Relative
        },
        upper_mount: UpperMount::Private,
    };
    let upper = request.upper.as_deref().zip(request.work.as_deref());
    Union::open(lower, upper.filter(|_| !request.hybrid), options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, String> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn fuse_overlayfs_command_lines_are_understood() {
        let got =
            request("-o lowerdir=/a:/b\\:c,upperdir=/u\\,v,workdir=/w,squash_to_uid=7 /m").unwrap();
        assert_eq!(got.lower, [PathBuf::from("/a"), PathBuf::from("/b:c")]);
        assert_eq!(got.upper, Some(PathBuf::from("/u,v")));
        assert_eq!(got.squash_uid, Some(7));
        assert_eq!(got.mountpoint, Some(PathBuf::from("/m")));
        assert!(got.warnings.is_empty(), "{:?}", got.warnings);
        let got = request("src /m -o lowerdir=/a,uidmapping=0:1:2,what").unwrap();
        assert_eq!(got.source, Some(OsString::from("src")));
        assert_eq!(got.warnings.len(), 2, "{:?}", got.warnings);
        let got =
            request("dev /m -o lowerdir=/a,fsname=name,nosuid,nodev,dev,relatime,ro").unwrap();
        assert_eq!(got.source, Some(OsString::from("name")));
        assert_eq!(got.flags, MountFlags::NOSUID | MountFlags::RELATIME);
        assert!(got.read_only && got.warnings.is_empty(), "{got:?}");
        for bad in [
            "/m",
            "-o",
            "-o lowerdir=/a",
            "-o lowerdir=/a,upperdir=/u /m",
            "-x /m",
            "src /m -o lowerdir=/a,remount,ro",
            "/m -o lowerdir=/a,upperdir=/u,ro,fs_mode=hybrid",
            "/m -o lowerdir=/a,upperdir=/u,workdir=/w,fs_mode=hybrid,squash_to_root",
        ] {
            assert!(request(bad).is_err(), "line {bad:?}");
        }
    }
}
