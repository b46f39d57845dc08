//! The POSIX suite `pjdfstest` on our file system, with kernel overlayfs as the judge: no test may
//! fail here that passes there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::ci::{cargo, is_root};
use crate::{Outcome, target_dir};

/// The version whose tests were looked through.
const VERSION: &str = "0.2.2";
/// Seconds after which a hanging run is killed; it takes less than ten.
const TIMEOUT_SECS: &str = "120";
/// Mounts, makes a directory anyone may write to, runs the suite, and unmounts: a server that lives
/// in the namespace keeps it, and so its own mount, alive. `$0` is the program that mounts, `$1` the
/// suite, `$2` the place, `$3` and `$4` options for both and for the judge.
const SCRIPT: &str = "cd \"$2\" && chmod 755 . l u w m && \
    options=lowerdir=l,upperdir=u,workdir=w,$3 && \
    if [ \"$0\" = overlay ]; then mount -t overlay overlay -o \"$options$4\" m; \
    else \"$0\" pjdfstest m -o \"$options\"; fi || exit 77; \
    mkdir m/t && chmod 777 m/t && \
    { \"$1\" -c pjdfstest.toml -p \"$2/m/t\"; code=$?; umount m; exit $code; }";
/// What the script ends with when it could not mount.
const CANNOT_MOUNT: i32 = 77;
/// A user with a range of subordinate ids, whom the tests make.
const USER: &str = "rrun-test";
const SETTINGS: &str = "[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [ [\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"], [\"bin\", \"bin\"] ]
";

/// Who mounts and runs the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Root of the machine.
    Root,
    /// Root of a user namespace, which a user with a range of subordinate ids has made: the
    /// caller, or, when that is root, [`USER`].
    Namespace,
}

impl As {
    /// What the words after the task ask for.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        match words {
            [] => Ok(Self::Root),
            [word] if word == "userns" => Ok(Self::Namespace),
            _ => Err(format!("the only word after it is userns, not {words:?}")),
        }
    }

    /// Options of both mounts, and what the judge has beyond them.
    fn options(self) -> [&'static str; 2] {
        match self {
            Self::Root => ["redirect_dir=on", ",index=on"],
            Self::Namespace => ["userxattr", ""],
        }
    }

    /// The words that run a shell where it may mount.
    fn words(self) -> Vec<&'static str> {
        let mut words = Vec::new();
        if self == Self::Namespace {
            if is_root() {
                words.extend(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"]);
            }
            words.extend(["unshare", "--map-root-user", "--map-auto"]);
        } else {
            words.push("unshare");
        }
        words.extend(["-m", "--propagation", "private", "sh", "-c", SCRIPT]);
        words
    }
}

/// Runs the suite twice and compares.
pub(crate) fn run(root: &Path, who: As) -> Outcome {
    if who == As::Root && !is_root() {
        println!("pjdfstest: skipped: needs root");
        return Ok(());
    }
    let home = target_dir(root).join("pjdfstest");
    let suite = home.join("bin/pjdfstest");
    if !suite.is_file()
        && let Err(text) = install(root, &home)
    {
        println!("pjdfstest: skipped: {text}");
        return Ok(());
    }
    cargo(root, &["build", "--quiet", "--bin", "rrun-overlayfs"])?;
    let ours = target_dir(root).join("debug/rrun-overlayfs");
    let place = home.join("run");
    let Some(judge) = failures(who, "overlay".as_ref(), &suite, &place)? else {
        println!("pjdfstest: skipped: no kernel overlayfs to compare with");
        return Ok(());
    };
    let Some(got) = failures(who, &ours, &suite, &place)? else {
        return Err("pjdfstest: rrun-overlayfs could not mount".to_owned());
    };
    let worse: Vec<&String> = got.difference(&judge).collect();
    if worse.is_empty() {
        println!(
            "pjdfstest: {} tests fail here, {} on kernel overlayfs, none only here",
            got.len(),
            judge.len()
        );
        return Ok(());
    }
    Err(format!(
        "pjdfstest: fail only on our file system: {worse:?}"
    ))
}

fn install(root: &Path, home: &Path) -> Outcome {
    let (into, build) = (home.display().to_string(), home.join("build"));
    let arguments = [
        "install",
        "--quiet",
        "--locked",
        "--version",
        VERSION,
        "--root",
        &into,
    ];
    let build = build.display().to_string();
    let rest = ["--target-dir", &build, "pjdfstest"];
    cargo(root, &[&arguments[..], &rest[..]].concat())
}

/// Names of the tests that fail on what `mounter` mounts; `None` when it cannot mount.
fn failures(
    who: As,
    mounter: &Path,
    suite: &Path,
    place: &Path,
) -> Result<Option<BTreeSet<String>>, String> {
    let failed = |error: std::io::Error| format!("pjdfstest: {}: {error}", place.display());
    if place.is_dir() {
        fs::remove_dir_all(place).map_err(failed)?;
    }
    for name in ["l", "u", "w", "m"] {
        fs::create_dir_all(place.join(name)).map_err(failed)?;
    }
    if who == As::Namespace && is_root() {
        let owner = format!("{USER}:{USER}");
        let status = Command::new("chown")
            .arg("-R")
            .arg(owner)
            .arg(place)
            .status();
        if !status.map_err(failed)?.success() {
            return Err(format!("pjdfstest: no user {USER}; the tests make it"));
        }
    }
    // Other users must reach the mount.
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    fs::write(place.join("pjdfstest.toml"), SETTINGS).map_err(failed)?;
    let output = Command::new("timeout")
        .args(["-s", "KILL", TIMEOUT_SECS])
        .args(who.words())
        .args([mounter, suite, place])
        .args(who.options())
        .output()
        .map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(CANNOT_MOUNT) {
        println!("pjdfstest: {said}");
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.lines().any(|line| line.starts_with("Summary:")) {
        return Err(format!("pjdfstest: no summary: {}: {said}", output.status));
    }
    Ok(Some(
        text.lines()
            .filter(|line| line.trim_end().ends_with("FAILED"))
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect(),
    ))
}
