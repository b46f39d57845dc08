//! The squash filter and its supervisor with a real kernel, as an ordinary user.
//!
//! The tests re-execute this program inside the example `squash`; what runs there is
//! `inside_the_namespace`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "test helpers and skip reasons"
)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, lgetxattr, makedev, mknodat, openat,
};
use rustix::io::Errno;

const WORKER: &str = "RRUN_TEST_INSIDE";

/// The example, or why it cannot be used here.
fn example() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().unwrap();
    let path = exe.ancestors().nth(2).unwrap().join("examples/squash");
    if !path.try_exists().unwrap() {
        return Err(format!("example not built: {}", path.display()));
    }
    let mut probe = unprivileged("unshare");
    probe.args(["--user", "--map-root-user", "--mount", "true"]);
    match probe.output() {
        Ok(output) if output.status.success() => Ok(path),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A command that runs as an ordinary user.
fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(program);
    command
}

/// Runs a part of `inside_the_namespace` under the example.
fn run_inside(part: &str) -> Option<Output> {
    let example = match example() {
        Ok(example) => example,
        Err(reason) => {
            eprintln!("skipped: no user namespaces: {reason}");
            return None;
        }
    };
    let output = unprivileged("timeout")
        .args(["-s", "KILL", "30"])
        .arg(example)
        .arg(std::env::current_exe().unwrap())
        .args([
            "inside_the_namespace",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(WORKER, part)
        .current_dir("/")
        .output()
        .unwrap();
    Some(output)
}

fn assert_inside(part: &str) {
    if let Some(output) = run_inside(part) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success() && out.contains("1 passed"),
            "{part}: {out}\n{err}"
        );
    }
}

#[test]
fn owners_are_granted_and_recorded() {
    assert_inside("owners");
}

#[test]
fn devices_are_made_and_recorded() {
    assert_inside("devices");
}

#[test]
fn processes_may_become_anyone() {
    assert_inside("processes");
}

#[test]
fn paths_mean_what_they_mean_to_the_caller() {
    assert_inside("paths");
}

#[test]
fn many_threads_are_served_and_errors_are_exact() {
    assert_inside("errors");
}

#[test]
#[ignore = "runs in the example, started by the other tests"]
fn inside_the_namespace() {
    match std::env::var(WORKER).unwrap_or_default().as_str() {
        "owners" => owners(),
        "devices" => devices(),
        "processes" => processes(),
        "paths" => paths(),
        "errors" => errors(),
        other => unreachable!("no part {other:?}"),
    }
}

/// A tmpfs of the namespace, which keeps `security.*`.
const ROOT: &str = "/mnt";

fn attribute(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let mut value = [0; 100];
    match lgetxattr(path.as_ref(), format!("security.rrun.{name}"), &mut value) {
        Ok(len) => Some(String::from_utf8(value[..len].to_vec()).unwrap()),
        Err(Errno::NODATA) => None,
        Err(error) => unreachable!("{}: {error}", path.as_ref().display()),
    }
}

fn owner(path: impl AsRef<Path>) -> Option<String> {
    attribute(path, "owner")
}

fn file(name: &str) -> PathBuf {
    let path = Path::new(ROOT).join(name);
    fs::write(&path, "x").unwrap();
    path
}

fn owners() {
    let plain = file("plain");
    chown(&plain, Some(0), Some(0)).unwrap();
    assert_eq!(owner(&plain), None);
    chown(&plain, Some(100), Some(200)).unwrap();
    assert_eq!(owner(&plain).unwrap(), "100:200");
    chown(&plain, None, Some(7)).unwrap();
    assert_eq!(owner(&plain).unwrap(), "-1:7");
    fchown(File::open(&plain).unwrap(), Some(4_000_000_000), None).unwrap();
    assert_eq!(owner(&plain).unwrap(), "4000000000:-1");
    let link = Path::new(ROOT).join("link");
    symlink("plain", &link).unwrap();
    lchown(&link, Some(1), Some(2)).unwrap();
    assert_eq!(owner(&link).unwrap(), "1:2");
    assert_eq!(owner(&plain).unwrap(), "4000000000:-1");
    chown(&link, Some(3), Some(4)).unwrap();
    assert_eq!(owner(&plain).unwrap(), "3:4");
    let fifo = Path::new(ROOT).join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    chown(&fifo, Some(8), Some(9)).unwrap();
    assert_eq!(owner(&fifo).unwrap(), "8:9");
    // A file system that is not of this namespace remembers nothing, but does not complain.
    let outside = std::env::temp_dir().join(format!("rrun-squash-{}", std::process::id()));
    fs::write(&outside, "x").unwrap();
    let result = chown(&outside, Some(100), Some(100));
    fs::remove_file(&outside).unwrap();
    result.unwrap();
}

fn devices() {
    let made = |name: &str, kind, mode: u32, device| {
        let path = Path::new(ROOT).join(name);
        mknodat(CWD, &path, kind, Mode::from_raw_mode(mode), device).map(|()| path)
    };
    let old = rustix::process::umask(Mode::from_raw_mode(0o027));
    let null = made("null", FileType::CharacterDevice, 0o666, makedev(1, 3)).unwrap();
    rustix::process::umask(old);
    assert_eq!(attribute(&null, "device").unwrap(), "c 1 3");
    let metadata = fs::symlink_metadata(&null).unwrap();
    assert!(metadata.file_type().is_file() && metadata.len() == 0);
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    let disk = made(
        "disk",
        FileType::BlockDevice,
        0o600,
        makedev(259, 1_048_575),
    )
    .unwrap();
    assert_eq!(attribute(&disk, "device").unwrap(), "b 259 1048575");
    let again = made("null", FileType::CharacterDevice, 0o666, makedev(1, 3));
    assert_eq!(again.unwrap_err(), Errno::EXIST);
    let missing = made("no/null", FileType::CharacterDevice, 0o666, makedev(1, 3));
    assert_eq!(missing.unwrap_err(), Errno::NOENT);
    let whiteout = made("whiteout", FileType::CharacterDevice, 0, 0).unwrap();
    assert!(
        fs::symlink_metadata(&whiteout)
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let dir = openat(CWD, ROOT, OFlags::DIRECTORY | OFlags::PATH, Mode::empty()).unwrap();
    mknodat(
        &dir,
        "at",
        FileType::CharacterDevice,
        Mode::RUSR,
        makedev(5, 1),
    )
    .unwrap();
    assert_eq!(
        attribute(Path::new(ROOT).join("at"), "device").unwrap(),
        "c 5 1"
    );
}

fn processes() {
    // The standard library calls setgroups, setgid and setuid.
    let status = Command::new("true").uid(33).gid(33).status().unwrap();
    assert!(status.success());
    // Set-user-id programs must keep working, and both filters must be there.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let has = |line: &str| {
        own.lines()
            .any(|known| known.split_whitespace().eq(line.split(' ')))
    };
    assert!(
        has("NoNewPrivs: 0") && has("Seccomp: 2") && has("Seccomp_filters: 2"),
        "{own}"
    );
    // What the default profile denies stays denied.
    let denied = Command::new("unshare")
        .args(["--uts", "true"])
        .output()
        .unwrap();
    assert!(!denied.status.success());
    // A caller killed while it waits, or right after, does not disturb the others.
    for round in 0..20_u64 {
        let mut child = Command::new("sh")
            .args(["-c", "while :; do chown 1:1 /mnt; done"])
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(round));
        // The shell alone would leave a chown that comes after ours.
        let group = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        child.wait().unwrap();
    }
    chown(ROOT, Some(2), Some(2)).unwrap();
    assert_eq!(owner(ROOT).unwrap(), "2:2");
}

fn paths() {
    let dir = Path::new(ROOT).join("dir");
    fs::create_dir(&dir).unwrap();
    let target = file("dir/target");
    symlink("/dir/target", Path::new(ROOT).join("absolute")).unwrap();
    let opened = openat(CWD, &dir, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
    let change = |base: std::os::fd::BorrowedFd<'_>, path: &str, uid: u32, flags| {
        chownat(
            base,
            path,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(uid)),
            flags,
        )
    };
    change(opened.as_fd(), "target", 11, AtFlags::empty()).unwrap();
    assert_eq!(owner(&target).unwrap(), "11:11");
    change(opened.as_fd(), "", 12, AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(owner(&dir).unwrap(), "12:12");
    assert_eq!(
        change(opened.as_fd(), "", 12, AtFlags::empty()).unwrap_err(),
        Errno::NOENT
    );
    std::env::set_current_dir(&dir).unwrap();
    chown("target", Some(13), Some(13)).unwrap();
    assert_eq!(owner(&target).unwrap(), "13:13");
    change(CWD, "", 14, AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(owner(&dir).unwrap(), "14:14");
    // Inside another root, absolute links and ".." stay below it.
    rustix::process::chroot(ROOT).unwrap();
    chown("/absolute", Some(15), Some(15)).unwrap();
    assert_eq!(owner("/dir/target").unwrap(), "15:15");
    std::env::set_current_dir("/dir").unwrap();
    chown("../../../../absolute", Some(16), Some(16)).unwrap();
    assert_eq!(owner("/dir/target").unwrap(), "16:16");
}

fn errors() {
    let missing = Path::new(ROOT).join("missing");
    assert_eq!(
        chown(&missing, Some(1), Some(1))
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ENOENT)
    );
    let plain = file("plain");
    let below = plain.join("below");
    assert_eq!(
        chown(below, Some(1), Some(1)).unwrap_err().raw_os_error(),
        Some(libc::ENOTDIR)
    );
    let handle = openat(CWD, &plain, OFlags::PATH, Mode::empty()).unwrap();
    let refused = fchown(&handle, Some(1), Some(1)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
    let long = "a/".repeat(3000);
    assert_eq!(
        chown(long, Some(1), None).unwrap_err().raw_os_error(),
        Some(libc::ENAMETOOLONG)
    );
    let threads: Vec<_> = (1..=8_u32)
        .map(|at| {
            std::thread::spawn(move || {
                let path = file(&format!("thread{at}"));
                for round in 1..=100 {
                    chown(&path, Some(at), Some(round)).unwrap();
                }
                assert_eq!(owner(&path).unwrap(), format!("{at}:100"));
                assert_eq!(fs::metadata(&path).unwrap().uid(), 0);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
