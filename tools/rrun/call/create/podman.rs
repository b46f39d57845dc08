//! What podman's options, and podman's ways where they are asked for, make of a container.

use std::fs;
use std::path::{Path, PathBuf};

use rrun_runner::{ContainerConfig, GIVEN_VARIABLES, Mount, MountKind, Propagation};
use serde_json::json;

use crate::environment::{Compat, Environment};
use crate::failure::Failure;
use crate::request::{CreateRequest, Systemd};

/// Where the text of `/run/.containerenv` is kept in a configuration.
pub(crate) const CONTAINERENV: &str = "containerenv";
/// That file.
const CONTAINERENV_PATH: &str = "/run/.containerenv";

/// Commands that are service managers, besides any `systemd`. Source: podman-run(1).
const INITS: [&str; 3] = ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init"];
/// What asks systemd to end. Source: systemd(1).
const STOP_SIGNAL: &str = "SIGRTMIN+3";
/// What systemd takes for "some manager of OCI containers". Source: systemd, "The Container
/// Interface".
const MANAGER: &str = "container=oci";
/// File systems in memory that systemd wants, and their modes. Source: podman-run(1).
const TMPFS: [(&str, &str); 4] = [
    ("/run", "mode=755"),
    ("/run/lock", "mode=755"),
    ("/tmp", "mode=1777"),
    ("/var/log/journal", "mode=755"),
];
/// The variables that podman gives every container.
const VARIABLES: [(&str, &str); 2] = [("TERM", "xterm"), ("container", "podman")];

/// Takes away variables of the image's that are not to be, and gives podman's.
pub(super) fn variables(request: &CreateRequest, compat: Compat, env: &mut Vec<(String, String)>) {
    let asked = &request.podman;
    if asked.unset_all {
        env.clear();
    }
    env.retain(|(name, _)| !asked.unsets(name));
    if compat == Compat::Podman {
        for (name, value) in VARIABLES {
            if !asked.unsets(name) && !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), value.to_owned()));
            }
        }
    }
}

/// Those of the variables that every process has which are taken away: names alone do that.
pub(super) fn taken_away(request: &CreateRequest, env: &[(String, String)]) -> Vec<String> {
    let asked = &request.podman;
    let set = |name: &str| env.iter().any(|(known, _)| known == name);
    let taken = GIVEN_VARIABLES
        .into_iter()
        .filter(|name| asked.unsets(name) && !set(name));
    taken.map(str::to_owned).collect()
}

/// Puts what is asked for into a configuration that is otherwise complete.
pub(super) fn compose(
    request: &CreateRequest,
    environment: &Environment,
    config: &mut ContainerConfig,
) {
    let asked = &request.podman;
    config.run_timeout_s = asked.run_timeout_s;
    config.monitor_pidfile.clone_from(&asked.monitor_pidfile);
    config.pidfile.clone_from(&asked.pidfile);
    config.cwd_required = environment.compat == Compat::Podman && request.workdir.is_some();
    config.service_manager = match asked.systemd {
        Systemd::Never => false,
        Systemd::ByName => config.argv.first().is_some_and(|word| is_manager(word)),
        Systemd::Always => true,
    };
    if config.service_manager {
        if config.stop_signal.is_empty() {
            STOP_SIGNAL.clone_into(&mut config.stop_signal);
        }
        let named = |line: &String| line.starts_with("container=");
        if !config.env.iter().any(named) && !asked.unsets("container") {
            config.env.push(MANAGER.to_owned());
        }
    }
    if config.privileged {
        let text = containerenv(config);
        config.extra.insert(CONTAINERENV.to_owned(), json!(text));
    }
}

fn is_manager(command: &str) -> bool {
    let name = Path::new(command).file_name();
    INITS.contains(&command) || name.is_some_and(|name| name == "systemd")
}

/// What programs in a privileged container can read about it.
///
/// Source: podman-run(1).
fn containerenv(config: &ContainerConfig) -> String {
    let id = config.image_id.as_str();
    format!(
        "engine=\"rrun-{}\"\nname={:?}\nid=\"{}\"\nimage={:?}\nimageid=\"{}\"\nrootless={}\n",
        crate::call::VERSION,
        config.name,
        config.id,
        config.image,
        id.strip_prefix("sha256:").unwrap_or(id),
        u8::from(config.has_user_namespace()),
    )
}

/// Mounts what a service manager needs where nothing else is to be mounted.
pub(super) fn mounts(config: &mut ContainerConfig, dir: &Path) -> Result<(), Failure> {
    if !config.service_manager {
        return Ok(());
    }
    let free = |config: &ContainerConfig, target: &str| {
        let mut mounts = config.mounts.iter();
        !mounts.any(|mount| mount.target == Path::new(target))
    };
    let hides = free(config, "/run");
    for (target, mode) in TMPFS {
        if free(config, target) {
            config.mounts.push(Mount {
                target: PathBuf::from(target),
                kind: MountKind::Tmpfs {
                    options: ["nosuid", "nodev", "exec", mode]
                        .map(str::to_owned)
                        .to_vec(),
                },
                read_only: false,
            });
        }
    }
    if hides && free(config, CONTAINERENV_PATH) {
        let source = dir.join(CONTAINERENV);
        let text = config.extra.get(CONTAINERENV);
        let text = text.and_then(|text| text.as_str()).unwrap_or_default();
        fs::write(&source, text)?;
        config.mounts.push(Mount {
            target: PathBuf::from(CONTAINERENV_PATH),
            kind: MountKind::Bind {
                source,
                propagation: Propagation::Private,
                alone: false,
            },
            read_only: false,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_managers_are_known_by_name() {
        for command in ["/sbin/init", "systemd", "/usr/lib/systemd/systemd"] {
            assert!(is_manager(command), "{command}");
        }
        for command in ["init", "/sbin/init2", "/bin/sh", "/systemd/x", ""] {
            assert!(!is_manager(command), "{command}");
        }
    }

    #[test]
    fn mounts_of_the_users_stay_in_place_of_a_managers() {
        let dir = tempfile::tempdir().unwrap();
        let own = Mount {
            target: PathBuf::from("/run"),
            kind: MountKind::Tmpfs { options: vec![] },
            read_only: false,
        };
        let mut config = ContainerConfig {
            service_manager: true,
            mounts: vec![own.clone()],
            ..ContainerConfig::default()
        };
        mounts(&mut config, dir.path()).unwrap();
        let targets: Vec<&str> = config
            .mounts
            .iter()
            .filter_map(|mount| mount.target.to_str())
            .collect();
        assert_eq!(targets, ["/run", "/run/lock", "/tmp", "/var/log/journal"]);
        assert_eq!(config.mounts.first(), Some(&own));
    }
}
