//! Homes for rrun, users to run it as, and ways to look at what it did.

pub(crate) mod archive;
mod user;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) use user::{User, is_root};

/// No command of ours takes longer; a test that hangs is a failure, not a lost machine.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// An installation of rrun that is empty at first and gone at the end.
#[derive(Debug)]
pub(crate) struct Home {
    dir: tempfile::TempDir,
    user: User,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output
                .status
                .code()
                .unwrap_or_else(|| 1000 + output.status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success and gives standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Asserts an exit code and that standard error says something.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(says), "no {says:?} in {self:?}");
    }
}

impl Home {
    /// A home of the user who runs the tests.
    pub(crate) fn new() -> Self {
        Self::of(User::Caller)
    }

    /// A home of `user`.
    pub(crate) fn of(user: User) -> Self {
        // Not under target/: the other user must be able to reach it.
        let dir = tempfile::Builder::new()
            .prefix("rrun-it-")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for part in ["data", "run", "config", "work"] {
            let path = dir.path().join(part);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            user.own(&path);
        }
        Self { dir, user }
    }

    /// A path in the home's scratch directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    /// Where images and containers are.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data/rrun")
    }

    /// Writes a file of the scratch directory.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        self.user.own(&path);
        path
    }

    /// Gives a path to the home's user.
    pub(crate) fn own(&self, path: &Path) {
        self.user.own(path);
    }

    /// `rrun` with this home, not started.
    pub(crate) fn command(&self) -> Command {
        self.command_of(&binary())
    }

    /// Another copy of `rrun` with this home, not started.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = self.user.command(program);
        command
            .env("XDG_DATA_HOME", self.dir.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env("HOME", self.dir.path().join("work"))
            .env_remove("CONTAINERS_REGISTRIES_CONF")
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("DOCKER_CONFIG")
            .current_dir(self.dir.path().join("work"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `rrun WORDS...` to its end.
    pub(crate) fn rrun(&self, words: &[&str]) -> Ran {
        let mut command = self.command();
        command.args(words);
        finish(command, words)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.data().join("containers").is_dir() {
            let listed = self.rrun(&["ps", "-aq"]);
            for id in listed.out.split_whitespace() {
                self.rrun(&["rm", "-f", id]);
            }
        }
    }
}

/// Runs a command to its end, killing it when that does not come.
pub(crate) fn finish(mut command: Command, words: &[&str]) -> Ran {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = drain(child.stdout.take().unwrap());
    let err = drain(child.stderr.take().unwrap());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > COMMAND_MAX {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{words:?} did not end within {COMMAND_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let output = Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    };
    Ran::of(&output)
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// The binary under test, at a place every user can reach.
pub(crate) fn binary() -> PathBuf {
    user::reachable(Path::new(env!("CARGO_BIN_EXE_rrun")))
}

/// A file of target/fixtures, or why there is none.
pub(crate) fn fixture(name: &str) -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_BIN_EXE_rrun"))
        .ancestors()
        .nth(2)
        .unwrap();
    let path = target.join("fixtures").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("no fixture {name}: cargo xtask fixtures makes it"))
    }
}

/// Whether a program can be run.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The processes that have `text` in their command line.
pub(crate) fn processes(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Ok(pid) = name.to_string_lossy().parse() else {
            continue;
        };
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words)
            .replace('\0', " ")
            .contains(text)
        {
            found.push(pid);
        }
    }
    found
}

/// How often something is to be tried: few times here, as often as `name` says where time is.
pub(crate) fn count(name: &str, default: usize) -> usize {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// Says why a test is not run here.
pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A home of `user` with the busybox image `bb:1`, or why there is none.
pub(crate) fn home_with_busybox(user: User) -> Result<Home, String> {
    let tar = fixture("busybox.tar")?;
    let home = Home::of(user);
    let copy = home.write("busybox.tar", &fs::read(tar).unwrap());
    home.rrun(&["import", copy.to_str().unwrap(), "bb:1"]).ok();
    Ok(home)
}

/// Whether containers can be run here, or why not.
pub(crate) fn can_run() -> Result<(), String> {
    match fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/fuse: {error}")),
    }
}

/// Runs `test` with a busybox home of every user there is.
pub(crate) fn for_all_users(test: impl Fn(&str, &Home)) {
    if let Err(why) = can_run() {
        skip(&why);
        return;
    }
    for (name, user) in User::all() {
        match home_with_busybox(user) {
            Ok(home) => test(name, &home),
            Err(why) => skip(&why),
        }
    }
}
