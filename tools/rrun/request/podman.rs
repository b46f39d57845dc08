//! What podman's options ask for.

use std::path::PathBuf;

use crate::args::PodmanArgs;
use crate::failure::Failure;

/// When a container is given what a service manager needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Systemd {
    /// Never, as with Docker.
    #[default]
    Never,
    /// Where the command is a service manager, by its name.
    ByName,
    /// Whatever the command is.
    Always,
}

/// Options of podman's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Podman {
    pub(crate) systemd: Systemd,
    pub(crate) monitor_pidfile: Option<PathBuf>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) run_timeout_s: u32,
    /// Variables taken away, unless they are set by `-e`.
    pub(crate) unset: Vec<String>,
    /// Whether all of the image's and [`DEFAULT_VARIABLES`] are.
    pub(crate) unset_all: bool,
}

/// What `--unsetenv-all` takes besides the image's variables. Source: podman-run(1).
pub(crate) const DEFAULT_VARIABLES: [&str; 3] = ["PATH", "TERM", "container"];

impl Podman {
    /// Resolves them.
    pub(super) fn parse(typed: PodmanArgs) -> Result<Self, Failure> {
        let systemd = match typed.systemd.as_deref() {
            None | Some("false") => Systemd::Never,
            Some("true") => Systemd::ByName,
            Some("always") => Systemd::Always,
            Some(other) => {
                return Err(Failure::flags(format!(
                    "invalid argument {other:?} for \"--systemd\": must be one of \"true\", \
                     \"false\" or \"always\""
                )));
            }
        };
        let bad = |name: &&String| name.is_empty() || name.contains('=');
        if let Some(name) = typed.unsetenv.iter().find(bad) {
            return Err(Failure::flags(format!(
                "invalid argument {name:?} for \"--unsetenv\": not the name of a variable"
            )));
        }
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Self {
            systemd,
            monitor_pidfile: absolute(typed.conmon_pidfile)?,
            pidfile: absolute(typed.pidfile)?,
            run_timeout_s: typed.timeout,
            unset: typed.unsetenv,
            unset_all: typed.unsetenv_all,
        })
    }

    /// Whether a variable that every container has, or the image gives, is taken away.
    pub(crate) fn unsets(&self, name: &str) -> bool {
        self.unset_all && DEFAULT_VARIABLES.contains(&name)
            || self.unset.iter().any(|unset| unset == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_others_are_named() {
        let parse = |systemd: &str| {
            Podman::parse(PodmanArgs {
                systemd: Some(systemd.to_owned()),
                ..PodmanArgs::default()
            })
        };
        assert_eq!(parse("always").unwrap().systemd, Systemd::Always);
        assert_eq!(parse("true").unwrap().systemd, Systemd::ByName);
        assert_eq!(parse("false").unwrap().systemd, Systemd::Never);
        let error = parse("frob").unwrap_err().to_string();
        assert!(error.contains("\"frob\""), "{error}");
        for name in ["", "A=1"] {
            let typed = PodmanArgs {
                unsetenv: vec![name.to_owned()],
                ..PodmanArgs::default()
            };
            let error = Podman::parse(typed).unwrap_err().to_string();
            assert!(error.contains("not the name"), "{name:?}: {error}");
        }
    }

    #[test]
    fn all_that_is_taken_away_is_what_podman_gives() {
        let all = Podman {
            unset_all: true,
            unset: vec!["A".to_owned()],
            ..Podman::default()
        };
        let taken = ["PATH", "TERM", "container", "A"];
        assert!(taken.iter().all(|name| all.unsets(name)));
        assert!(!all.unsets("HOSTNAME") && !all.unsets("HOME"));
    }
}
