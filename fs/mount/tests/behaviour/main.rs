//! One table of cases, run over our mount with both ways of keeping ids, and over kernel
//! overlayfs as the judge where that may be mounted.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "test code"
)]

mod attributes;
mod case;
#[path = "../common/mod.rs"]
mod common;
mod contents;
mod names;
mod suites;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rrun_mount::{IoUring, OpenMode, ServeOptions, Stats, mount, serve};
use rrun_union::{DirLayers, IdStore, Options, Union, XattrDialect};
use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags};

/// What is mounted under a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours(IdStore, OpenMode, IoUring),
    Kernel,
}

const TEST: &str = "every_case_has_the_expected_outcome";
/// What the copy of this process in namespaces of its own is told when it is root outside them too.
const ROOT: &str = "root";

fn set_perm(path: &Path, perm: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(perm)).unwrap();
}

/// Bytes that differ from block to block.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0_u32..)
        .map(|n| n.wrapping_mul(2_654_435_761).rotate_left(9).to_le_bytes()[1])
        .take(len)
        .collect()
}

fn lower(root: &Path) {
    for dir in [
        "l1", "l1/dir", "l1/a", "l1/a/b", "l1/sgid", "l0", "l0/dir", "l0/a", "l0/a/b", "u", "w",
        "m",
    ] {
        fs::create_dir(root.join(dir)).unwrap();
        set_perm(&root.join(dir), 0o755);
    }
    for (path, data) in [
        ("l1/file", pattern(100)),
        ("l1/big", pattern(300_000)),
        ("l1/h1", b"linked".to_vec()),
        ("l1/suid", b"suid".to_vec()),
        ("l1/dir/one", b"1".to_vec()),
        ("l1/dir/two", b"2".to_vec()),
        ("l0/dir/three", b"3".to_vec()),
        ("l0/a/b/c", b"deep".to_vec()),
    ] {
        fs::write(root.join(path), data).unwrap();
        set_perm(&root.join(path), 0o644);
    }
    fs::hard_link(root.join("l1/h1"), root.join("l1/dir/h2")).unwrap();
    if rustix::process::geteuid().is_root() {
        // In a user namespace with one id this fails, and the directory keeps its group.
        let _kept = std::os::unix::fs::chown(root.join("l1/sgid"), None, Some(1234));
    }
    set_perm(&root.join("l1/sgid"), 0o2777);
    set_perm(&root.join("l1/suid"), 0o6777);
}

/// Mounts, runs one case, unmounts; a panic becomes part of the outcome.
fn run(kind: Kind, case: fn(&Path) -> String) -> Result<String, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let root = dir.path();
    set_perm(root, 0o755);
    lower(root);
    let place = root.join("m");
    let outcome = |place: &Path| {
        let place = place.to_owned();
        std::panic::catch_unwind(|| case(&place)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            format!("panic: {}", text.unwrap_or_default())
        })
    };
    if kind == Kind::Kernel {
        let at = |name: &str| root.join(name).display().to_string();
        let data = format!(
            "lowerdir={}:{},upperdir={},workdir={},redirect_dir=on,index=on,xino=on",
            at("l1"),
            at("l0"),
            at("u"),
            at("w")
        );
        let data = std::ffi::CString::new(data).map_err(|e| e.to_string())?;
        rustix::mount::mount("overlay", &place, "overlay", MountFlags::empty(), &*data)
            .map_err(|e| format!("kernel overlayfs: {e}"))?;
        let out = outcome(&place);
        rustix::mount::unmount(&place, UnmountFlags::DETACH).map_err(|e| e.to_string())?;
        return Ok(out);
    }
    ours(kind, root, &place, outcome)
}

fn ours(
    kind: Kind,
    root: &Path,
    place: &Path,
    outcome: impl Fn(&Path) -> String,
) -> Result<String, String> {
    let (ids, open_mode, io_uring) = match kind {
        Kind::Ours(ids, open_mode, io_uring) => (ids, open_mode, io_uring),
        Kind::Kernel => return Err("not ours".to_owned()),
    };
    let layers: [PathBuf; 2] = [root.join("l1"), root.join("l0")];
    let lower = DirLayers::open(&layers, false).map_err(|e| e.to_string())?;
    let options = Options {
        ids,
        xattrs: match ids {
            IdStore::Real => XattrDialect::Trusted,
            IdStore::Virtual => XattrDialect::User,
        },
        ..Options::default()
    };
    let (upper, work) = (root.join("u"), root.join("w"));
    let union =
        Union::open(Arc::new(lower), Some((&upper, &work)), options).map_err(|e| e.to_string())?;
    let mounted =
        mount(place, "behaviour", MountFlags::empty()).map_err(|e| format!("/dev/fuse: {e}"))?;
    let connection = mounted.connection().map_err(|e| e.to_string())?;
    let server = std::thread::spawn(move || {
        let union = Arc::new(union);
        serve(
            &connection,
            &union,
            &ServeOptions {
                open_mode,
                ..common::options(io_uring)
            },
            &Stats::default(),
            &|| {},
        )
        .map_err(|error| error.to_string())
    });
    let out = outcome(place);
    drop(mounted);
    let start = Instant::now();
    while !server.is_finished() {
        if start.elapsed() > Duration::from_secs(10) {
            return Ok(format!("{out}; the server does not end"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match server.join() {
        Ok(Ok(())) => Ok(out),
        Ok(Err(error)) => Ok(format!("{out}; server: {error}")),
        Err(_) => Ok(format!("{out}; the server panicked")),
    }
}

/// Runs the table; returns what is wrong.
fn run_all() -> Result<Vec<String>, String> {
    let inner = common::told().is_none_or(|told| told != ROOT);
    let mut kinds = vec![
        Kind::Ours(IdStore::Virtual, OpenMode::Silent, IoUring::Off),
        Kind::Ours(IdStore::Virtual, OpenMode::KeepCache, IoUring::Off),
    ];
    if !inner {
        kinds.push(Kind::Ours(IdStore::Real, OpenMode::Silent, IoUring::Off));
        let passthrough = OpenMode::Passthrough;
        kinds.push(Kind::Ours(IdStore::Real, passthrough, IoUring::Off));
        kinds.push(Kind::Kernel);
    }
    if common::transports().contains(&IoUring::On) {
        let (ids, silent) = (IdStore::Virtual, OpenMode::Silent);
        kinds.push(Kind::Ours(ids, silent, IoUring::On));
        if !inner {
            let (ids, passthrough) = (IdStore::Real, OpenMode::Passthrough);
            kinds.push(Kind::Ours(ids, passthrough, IoUring::On));
        }
    }
    let only = std::env::var("RRUN_BEHAVIOUR_CASE").ok();
    let mut wrong = Vec::new();
    let mut count = 0;
    let cases = [
        names::CASES,
        contents::CASES,
        attributes::CASES,
        suites::CASES,
    ];
    for case in cases.into_iter().flatten() {
        if only.as_ref().is_some_and(|only| only != case.name) || (case.needs_users && inner) {
            continue;
        }
        for kind in &kinds {
            // the last line tells where a hang is
            eprintln!("{} on {kind:?}", case.name);
            let got = match run(*kind, case.run) {
                Ok(got) => got,
                Err(reason) if *kind == Kind::Kernel => {
                    eprintln!("skipped: {}: {reason}", case.name);
                    continue;
                }
                Err(reason) => return Err(reason),
            };
            count += 1;
            let expected = match kind {
                Kind::Kernel => case.kernel.unwrap_or(case.expect),
                Kind::Ours(_, OpenMode::Silent, IoUring::On) => case.rings.unwrap_or(case.expect),
                Kind::Ours(..) => case.expect,
            };
            if got != expected {
                wrong.push(format!(
                    "{} on {kind:?}:\n  got      {got}\n  expected {expected}",
                    case.name
                ));
            }
        }
    }
    eprintln!("{count} outcomes compared, {} wrong", wrong.len());
    Ok(wrong)
}

#[test]
fn every_case_has_the_expected_outcome() {
    if let Some(place) = std::env::var_os(contents::MAPPING) {
        eprintln!("mapping: {}", contents::map(Path::new(&place)));
        return;
    }
    let _old = rustix::process::umask(Mode::empty());
    if common::told().is_none() {
        if rustix::process::geteuid().is_root() {
            common::run_unshared("-m", TEST, ROOT, None);
        } else {
            common::run_unshared("-Urm", TEST, "user", None);
        }
        return;
    }
    match run_all() {
        Ok(wrong) => assert!(wrong.is_empty(), "{}", wrong.join("\n")),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}
