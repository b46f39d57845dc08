//! Who runs rrun: us, or unprivileged users made for the tests when we are root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One who runs rrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Caller,
    /// An unprivileged user with these ids.
    Other { uid: u32, gid: u32 },
}

/// A user with a range of subordinate ids.
const WITH_RANGE: &str = "rrun-test";
/// A user without one.
const WITHOUT_RANGE: &str = "rrun-test0";

impl User {
    /// The unprivileged user with a range, made if we may; or why there is none.
    pub(crate) fn with_range() -> Result<Self, String> {
        static MADE: OnceLock<Result<User, String>> = OnceLock::new();
        MADE.get_or_init(|| made(WITH_RANGE, true)).clone()
    }

    /// The unprivileged user without a range, made if we may; or why there is none.
    pub(crate) fn without_range() -> Result<Self, String> {
        static MADE: OnceLock<Result<User, String>> = OnceLock::new();
        MADE.get_or_init(|| made(WITHOUT_RANGE, false)).clone()
    }

    /// Everyone there is to test with: the caller, and as root also the two others.
    pub(crate) fn all() -> Vec<(&'static str, Self)> {
        let mut users = vec![("caller", Self::Caller)];
        for (name, user) in [
            ("user with a range", Self::with_range()),
            ("user without a range", Self::without_range()),
        ] {
            match user {
                Ok(user) => users.push((name, user)),
                Err(why) => super::skip(&format!("{name}: {why}")),
            }
        }
        users
    }

    /// Makes a path this user's.
    pub(crate) fn own(self, path: &Path) {
        if let Self::Other { uid, gid } = self {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A program to be run as this user.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Self::Caller => Command::new(program),
            Self::Other { uid, gid } => {
                let mut command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={uid}"))
                    .arg(format!("--regid={gid}"))
                    .arg("--clear-groups")
                    .arg("--inh-caps=-all")
                    .arg("--")
                    .arg(program);
                command
            }
        }
    }
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn made(name: &str, range: bool) -> Result<User, String> {
    if !is_root() {
        return Err("only root can run as another user".to_owned());
    }
    if !super::has("setpriv") {
        return Err("setpriv is not installed".to_owned());
    }
    // Test binaries run at the same time; two useradds would refuse each other.
    let _lock = Lock::take();
    if ids(name).is_none() {
        run("useradd", &["--no-create-home", "--shell", "/bin/sh", name])?;
    }
    let has_range = fs::read_to_string("/etc/subuid")
        .unwrap_or_default()
        .lines()
        .any(|line| line.starts_with(&format!("{name}:")));
    let span = "2000000000-2000065535";
    match (range, has_range) {
        (true, false) => run(
            "usermod",
            &["--add-subuids", span, "--add-subgids", span, name],
        )?,
        (false, true) => without(name)?,
        _ => {}
    }
    let (uid, gid) = ids(name).ok_or("the new user is not in /etc/passwd")?;
    Ok(User::Other { uid, gid })
}

/// Takes away the range useradd gave.
fn without(name: &str) -> Result<(), String> {
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let kept: String = text
            .lines()
            .filter(|line| !line.starts_with(&format!("{name}:")))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(file, kept).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn ids(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd
        .lines()
        .find(|line| line.starts_with(&format!("{name}:")))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A directory is made by exactly one process: a lock that needs no unsafe code.
struct Lock(PathBuf);

impl Lock {
    fn take() -> Self {
        let path = PathBuf::from("/tmp/rrun-it-users.lock");
        for _ in 0..1000 {
            if fs::create_dir(&path).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self(path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

/// `binary` or, when its directories keep other users out, a copy that does not.
pub(crate) fn reachable(binary: &Path) -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let open = binary
            .ancestors()
            .skip(1)
            .all(|dir| fs::metadata(dir).is_ok_and(|data| data.mode() & 0o001 != 0));
        if open || !is_root() {
            return binary.to_path_buf();
        }
        let stamp = fs::metadata(binary).unwrap().mtime_nsec();
        let dir = PathBuf::from(format!("/var/tmp/rrun-it-bin-{stamp}"));
        fs::create_dir_all(&dir).unwrap();
        let copy = dir.join("rrun");
        let partial = dir.join(format!("rrun.{}", std::process::id()));
        fs::copy(binary, &partial).unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&partial, &copy).unwrap();
        copy
    })
    .clone()
}
