//! Everything rrun reads from the environment, in one place.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::failure::Failure;

/// Whose ways are followed where Docker and podman do one thing differently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Compat {
    /// Docker's.
    #[default]
    Docker,
    /// Podman's, as far as docs/cli.md says.
    Podman,
}

/// Reads `RRUN_COMPAT`.
fn compat() -> Result<Compat, Failure> {
    match env::var("RRUN_COMPAT").unwrap_or_default().as_str() {
        "" | "docker" => Ok(Compat::Docker),
        "podman" => Ok(Compat::Podman),
        other => Err(Failure::general(format!(
            "RRUN_COMPAT is neither docker nor podman: {other}"
        ))),
    }
}

/// Where things are, for this user.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// Images, containers, volumes.
    pub(crate) data_dir: PathBuf,
    /// Sockets; gone after a reboot.
    pub(crate) runtime_dir: PathBuf,
    /// Credentials, most specific first.
    pub(crate) auth_files: Vec<PathBuf>,
    /// `registries.conf` files, first found wins.
    pub(crate) registries_files: Vec<PathBuf>,
    /// The client's own settings.
    pub(crate) client_config: Option<PathBuf>,
    /// Effective user.
    pub(crate) uid: u32,
    /// Its name; empty when it has none.
    pub(crate) user_name: String,
    /// Whether we are root of the whole machine, not of a user namespace.
    pub(crate) is_real_root: bool,
    /// Whether `newuidmap` and `newgidmap` are installed.
    pub(crate) has_map_helpers: bool,
    /// Whose ways are followed.
    pub(crate) compat: Compat,
}

/// An absolute path from a variable; the base directory specification says to ignore others.
fn absolute(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env::var_os(name)?);
    path.is_absolute().then_some(path)
}

fn non_empty(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The name of a user in /etc/passwd; `USER` for one that another directory knows.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    listed.or_else(|| env::var("USER").ok()).unwrap_or_default()
}

/// Where the states of containers made from bundles are; gone after a reboot.
pub(crate) fn oci_root() -> PathBuf {
    let uid = rustix::process::geteuid();
    let run = absolute("XDG_RUNTIME_DIR").filter(|_| !uid.is_root());
    match run {
        Some(dir) => dir.join("rrun-oci"),
        None if uid.is_root() => PathBuf::from("/run/rrun-oci"),
        None => env::temp_dir().join(format!("rrun-oci-{}", uid.as_raw())),
    }
}

/// Number of sockets a service manager hands to the process it starts. Source: `sd_listen_fds(3)`.
pub(crate) fn listen_fds() -> Result<u32, Failure> {
    match env::var("LISTEN_FDS") {
        Err(_) => Ok(0),
        Ok(text) => text
            .parse()
            .map_err(|_| Failure::general(format!("LISTEN_FDS is no number: {text}"))),
    }
}

/// The socket on which a service manager waits to hear that what it started is ready; empty without
/// one. Source: `sd_notify(3)`.
pub(crate) fn notify_socket() -> String {
    env::var("NOTIFY_SOCKET").unwrap_or_default()
}

/// Whether we are root of the whole machine, not of a user namespace.
pub(crate) fn is_real_root() -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_absolute() && path.is_file())
}

/// The programs on this host that connect containers to the outside.
pub(crate) fn uplink_programs() -> rrun_runner::net::Programs {
    rrun_runner::net::Programs {
        pasta: find_program("pasta"),
        slirp4netns: find_program("slirp4netns"),
    }
}

impl Environment {
    /// Reads the environment.
    ///
    /// Fails when neither `XDG_DATA_HOME` nor `HOME` says where to keep things.
    pub(crate) fn read(
        data_root: Option<PathBuf>,
        config: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let uid = rustix::process::geteuid().as_raw();
        let home = absolute("HOME");
        let data_dir = match (data_root, absolute("XDG_DATA_HOME"), &home) {
            (Some(dir), _, _) => std::path::absolute(&dir)?,
            (None, Some(dir), _) => dir.join("rrun"),
            (None, None, _) if uid == 0 => PathBuf::from("/var/lib/rrun"),
            (None, None, Some(home)) => home.join(".local/share/rrun"),
            (None, None, None) => {
                return Err(Failure::general(
                    "cannot tell where to keep images: neither XDG_DATA_HOME nor HOME is set",
                ));
            }
        };
        let xdg_runtime = absolute("XDG_RUNTIME_DIR");
        let runtime_dir = match &xdg_runtime {
            Some(dir) if dir.is_dir() => dir.join("rrun"),
            _ if uid == 0 => PathBuf::from("/run/rrun"),
            _ => PathBuf::from(format!("/tmp/rrun-{uid}")),
        };
        let config_dir =
            absolute("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let docker_config = config
            .or_else(|| non_empty("DOCKER_CONFIG"))
            .or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let client_config = docker_config.map(|dir| dir.join("config.json"));
        let auth_files = match non_empty("REGISTRY_AUTH_FILE") {
            Some(file) => vec![file],
            None => [
                xdg_runtime.map(|dir| dir.join("containers/auth.json")),
                config_dir
                    .as_ref()
                    .map(|dir| dir.join("containers/auth.json")),
                client_config.clone(),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        let registries_files = match non_empty("CONTAINERS_REGISTRIES_CONF") {
            Some(file) => vec![file],
            None => [
                config_dir.map(|dir| dir.join("containers/registries.conf")),
                Some(PathBuf::from("/etc/containers/registries.conf")),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        Ok(Self {
            data_dir,
            runtime_dir,
            auth_files,
            registries_files,
            client_config,
            user_name: user_name(uid),
            is_real_root: is_real_root(),
            has_map_helpers: ["newuidmap", "newgidmap"]
                .iter()
                .all(|name| find_program(name).is_some()),
            uid,
            compat: compat()?,
        })
    }

    /// Where images are.
    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// Where containers are.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// A text of the client's settings, such as `psFormat`.
    pub(crate) fn client_setting(&self, key: &str) -> Option<String> {
        let text = std::fs::read(self.client_config.as_ref()?).ok()?;
        // Credentials in the same file have their own reader, which tells what is wrong with it.
        let settings: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let setting = settings.get(key)?.as_str()?;
        (!setting.is_empty()).then(|| setting.to_owned())
    }

    /// The value of one variable, for `-e KEY`.
    pub(crate) fn variable(name: &str) -> Option<String> {
        env::var(name).ok()
    }

    /// The arguments, program name first.
    pub(crate) fn arguments() -> Vec<OsString> {
        env::args_os().collect()
    }
}
