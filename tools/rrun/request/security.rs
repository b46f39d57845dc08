//! What the container's processes may do, as typed.

use std::path::Path;

use rrun_runner::CapSet;

use super::engine;
use crate::args::CreateArgs;
use crate::failure::Failure;

/// Largest profile read, in bytes; Docker's is 17 KB.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// What seccomp filter to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// Docker's default, unless privileged.
    Default,
    Unconfined,
    /// The text of a profile.
    Profile(String),
}

/// What the container's processes may do.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) privileged: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    /// Whether nothing of /proc and /sys is hidden or protected.
    pub(crate) bare_system: bool,
}

impl Security {
    /// Source of the words: docker/cli, `parseSecurityOpts`; moby, `parseSecurityOpt`.
    pub(super) fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let mut security = Self {
            cap_add: typed.cap_add.clone(),
            cap_drop: typed.cap_drop.clone(),
            privileged: typed.privileged,
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            bare_system: false,
        };
        for word in &typed.security_opt {
            security.option(word)?;
        }
        Ok(security)
    }

    fn option(&mut self, word: &str) -> Result<(), Failure> {
        if word == "no-new-privileges" {
            self.no_new_privileges = true;
            return Ok(());
        }
        let bad = || engine(format!("invalid --security-opt: {word:?}"));
        let (key, value) = word.split_once(['=', ':']).ok_or_else(bad)?;
        match (key, value) {
            ("no-new-privileges", value) => {
                self.no_new_privileges = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(bad()),
                }
            }
            ("seccomp", "unconfined") => self.seccomp = Seccomp::Unconfined,
            ("seccomp", "builtin" | "default") => self.seccomp = Seccomp::Default,
            ("seccomp", path) => self.seccomp = Seccomp::Profile(profile(path)?),
            ("systempaths", "unconfined") => self.bare_system = true,
            ("apparmor", name) => apparmor(name)?,
            // There is nothing to label where SELinux is not in use.
            ("label", _) => {}
            ("writable-cgroups", "false") => {}
            ("mask" | "unmask", _) => {
                return Err(bad().hint(
                    "systempaths=unconfined hides nothing; a --tmpfs or -v over a path hides it",
                ));
            }
            _ => return Err(bad()),
        }
        Ok(())
    }
}

/// Reads and tries a profile.
fn profile(path: &str) -> Result<String, Failure> {
    let failed = |why: &dyn std::fmt::Display| {
        engine(format!("opening seccomp profile ({path}) failed: {why}"))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| failed(&error))?
        .len();
    if size > PROFILE_BYTES_MAX {
        return Err(failed(&"it is too large"));
    }
    let text = std::fs::read_to_string(Path::new(path)).map_err(|error| failed(&error))?;
    rrun_runner::compile_seccomp(&text, CapSet::ALL.bits()).map_err(|error| {
        engine(format!("Decoding seccomp profile failed: {error}")).hint(path.to_owned())
    })?;
    Ok(text)
}

/// Hosts without the module behave as if every profile were unconfined, as Docker's do.
fn apparmor(name: &str) -> Result<(), Failure> {
    let module = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let enabled = module.is_ok_and(|text| text.trim() == "Y");
    match name {
        "" | "unconfined" | "docker-default" => Ok(()),
        _ if !enabled => Ok(()),
        name => Err(
            engine(format!("AppArmor profiles cannot be applied here: {name}"))
                .hint("use apparmor=unconfined"),
        ),
    }
}
