//! What was typed, resolved: paths made absolute, files read, values parsed.

mod asked;
mod fs_mode;
mod lifecycle;
mod limits;
mod mount;
mod network;
mod podman;
mod rare;
mod security;
mod spaces;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::args::{self, CreateArgs, ExecArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::human;

pub(crate) use fs_mode::FsMode;
pub(crate) use lifecycle::{Life, restart};
pub(crate) use limits::changed as changed_limits;
pub(crate) use mount::{
    DEVICE, Mount, MountSource, PROPAGATIONS, VolumesFrom, clean_target, volume_name,
};
pub(crate) use network::{Mode, NetworkRequest, Port};
pub(crate) use podman::{Podman, Systemd};
pub(crate) use security::{Seccomp, Security};
pub(crate) use spaces::{Ipc, Pid, Spaces};

/// What a container stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Root {
    /// An image, by name or id as typed.
    Image(String),
    /// A directory of the host.
    Directory(PathBuf),
}

/// When to fetch the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullWhen {
    Always,
    Missing,
    Never,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ulimit {
    pub(crate) name: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// How names of hosts are found.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    pub(crate) hosts: Vec<(String, IpAddr)>,
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// A container to be made.
#[derive(Debug, Clone)]
pub(crate) struct CreateRequest {
    pub(crate) root: Root,
    pub(crate) command: Vec<String>,
    pub(crate) name: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Set variables; of two with one name the later wins.
    pub(crate) env: Vec<(String, String)>,
    /// Variables named without a value that the caller does not have: removed from the image's.
    pub(crate) env_unset: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) network: NetworkRequest,
    pub(crate) volumes_from: Vec<VolumesFrom>,
    pub(crate) life: Life,
    /// Streams named with `-a`.
    pub(crate) attach: Vec<String>,
    /// What `inspect` shows of the options, by Docker's names.
    pub(crate) asked: Map<String, Value>,
    pub(crate) spaces: Spaces,
    pub(crate) domainname: Option<String>,
    pub(crate) resolver: Resolver,
    pub(crate) security: Security,
    pub(crate) read_only: bool,
    pub(crate) tty: bool,
    pub(crate) interactive: bool,
    pub(crate) init: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) remove: bool,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) shm_size_bytes: Option<u64>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) stop_timeout_s: Option<u32>,
    pub(crate) podman: Podman,
    pub(crate) cidfile: Option<PathBuf>,
    pub(crate) pull: PullWhen,
    pub(crate) platform: Option<String>,
    pub(crate) dry_run: bool,
    pub(crate) fs_mode: FsMode,
}

/// A command to be run in a running container.
#[derive(Debug, Clone)]
pub(crate) struct ExecRequest {
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) tty: bool,
    pub(crate) interactive: bool,
    pub(crate) detach: bool,
    pub(crate) privileged: bool,
    pub(crate) preserved_fds: u32,
}

/// Resolves `run` and `create`; `verb` is the one typed, for messages.
pub(crate) fn create(mut typed: CreateArgs, verb: &str) -> Result<CreateRequest, Failure> {
    let (root, command) = root_and_command(&mut typed, verb)?;
    let env = Variables::parse(&typed.env_file, &typed.env)?;
    rare::check(&typed)?;
    let spaces = Spaces::parse(&typed)?;
    let labels = labels(&typed)?;
    let life = Life::parse(&typed)?;
    let attach = streams(&typed)?;
    let asked = asked::all(&typed);
    let mounts = mount::all(&typed)?;
    let network = NetworkRequest::parse(&typed)?;
    let resolver = Resolver::parse(&typed)?;
    let security = Security::parse(&typed)?;
    let sysctls = sysctls(&typed)?;
    Ok(CreateRequest {
        root,
        command,
        name: typed.name,
        hostname: typed.hostname,
        // An empty word drops the image's.
        entrypoint: typed
            .entrypoint
            .map(|word| Vec::from_iter((!word.is_empty()).then_some(word))),
        env: env.set,
        env_unset: env.unset,
        labels,
        annotations: pairs(&typed.annotation),
        workdir: typed.workdir,
        user: typed.user,
        groups: typed.group_add,
        mounts,
        network,
        volumes_from: mount::volumes_from(&typed.volumes_from)?,
        life,
        attach,
        asked,
        spaces,
        domainname: typed.domainname,
        resolver,
        security,
        read_only: typed.read_only,
        tty: typed.tty,
        interactive: typed.interactive,
        init: typed.init,
        oom_score_adj: typed.oom_score_adj,
        remove: typed.remove,
        ulimits: ulimits(&typed.ulimit)?,
        sysctls,
        shm_size_bytes: shm_size(typed.shm_size.as_deref())?,
        stop_signal: stop_signal(typed.stop_signal)?,
        stop_timeout_s: typed.stop_timeout,
        podman: Podman::parse(typed.podman)?,
        cidfile: typed.cidfile,
        pull: pull_when(&typed.pull)?,
        platform: typed.platform,
        dry_run: typed.dry_run,
        fs_mode: FsMode::parse(typed.fs_mode.as_deref())?,
    })
}

impl CreateRequest {
    /// The streams that are attached: those named, else all there are.
    pub(crate) fn streams(&self) -> Vec<String> {
        if !self.attach.is_empty() {
            return self.attach.clone();
        }
        let mut streams = vec!["stdout".to_owned(), "stderr".to_owned()];
        if self.interactive {
            streams.push("stdin".to_owned());
        }
        streams
    }
}

/// The streams of `-a`.
fn streams(typed: &CreateArgs) -> Result<Vec<String>, Failure> {
    let named = typed.attach.iter().map(|name| name.to_ascii_lowercase());
    let streams: Vec<String> = named.collect();
    match streams
        .iter()
        .find(|name| !["stdin", "stdout", "stderr"].contains(&name.as_str()))
    {
        Some(name) => Err(Failure::flags(format!(
            "invalid argument {name:?} for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
        ))),
        None => Ok(streams),
    }
}

fn root_and_command(typed: &mut CreateArgs, verb: &str) -> Result<(Root, Vec<String>), Failure> {
    let mut words = std::mem::take(&mut typed.words);
    if let Some(first) = words.first()
        && first.starts_with('-')
        && first.len() > 1
    {
        return Err(args::explain_leading_flag(first, &[verb]));
    }
    if let Some(dir) = &typed.rootfs {
        let path = std::path::absolute(dir)?;
        return match fs::metadata(&path) {
            Ok(data) if data.is_dir() => Ok((Root::Directory(path), words)),
            Ok(_) => Err(engine(format!(
                "--rootfs {} is not a directory",
                path.display()
            ))),
            Err(error) => Err(engine(format!(
                "could not use --rootfs {}: {error}",
                path.display()
            ))),
        };
    }
    if words.is_empty() || words[0].is_empty() {
        return Err(Failure::general(format!(
            "\"rrun {verb}\" requires at least 1 argument.\nSee 'rrun {verb} --help'.\n\n\
             Usage:  rrun {verb} [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n{}",
            if verb == "run" {
                "Create and run a new container from an image"
            } else {
                "Create a new container"
            }
        )));
    }
    let image = words.remove(0);
    Ok((Root::Image(image), words))
}

/// Resolves `exec`.
pub(crate) fn exec(typed: ExecArgs) -> Result<ExecRequest, Failure> {
    let mut words = typed.words;
    if let Some(first) = words.first()
        && first.starts_with('-')
        && first.len() > 1
    {
        return Err(args::explain_leading_flag(first, &["exec"]));
    }
    if words.len() < 2 {
        return Err(Failure::general(
            "\"rrun exec\" requires at least 2 arguments.\nSee 'rrun exec --help'.\n\n\
             Usage:  rrun exec [OPTIONS] CONTAINER COMMAND [ARG...]\n\n\
             Execute a command in a running container",
        ));
    }
    let env = Variables::parse(&typed.env_file, &typed.env)?;
    let container = words.remove(0);
    Ok(ExecRequest {
        container,
        command: words,
        env: env.set,
        user: typed.user,
        workdir: typed.workdir,
        tty: typed.tty,
        interactive: typed.interactive,
        detach: typed.detach,
        privileged: typed.privileged,
        preserved_fds: typed.inherited.preserve_fds,
    })
}

fn labels(typed: &CreateArgs) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for file in &typed.label_file {
        labels.extend(pairs(&lines_of(file)?));
    }
    labels.extend(pairs(&typed.label));
    Ok(labels)
}

fn stop_signal(name: Option<String>) -> Result<Option<String>, Failure> {
    match name {
        Some(name) if rrun_runner::parse_signal(&name).is_none() => {
            Err(engine(format!("Invalid signal: {name}")))
        }
        other => Ok(other),
    }
}

fn shm_size(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let bad = |text| Failure::flags(format!("invalid argument {text:?} for \"--shm-size\""));
    text.map(|text| human::parse_bytes(text).ok_or_else(|| bad(text)))
        .transpose()
}

impl Resolver {
    fn parse(typed: &CreateArgs) -> Result<Self, Failure> {
        let hosts = typed.add_host.iter().map(|word| host_line(word));
        let servers = typed.dns.iter().map(|word| address(word, "--dns"));
        Ok(Self {
            hosts: hosts.collect::<Result<_, _>>()?,
            servers: servers.collect::<Result<_, _>>()?,
            search: typed.dns_search.clone(),
            options: typed.dns_option.clone(),
        })
    }
}

fn engine(text: impl Into<String>) -> Failure {
    Failure::new(ExitCode::ENGINE, text)
}

#[derive(Debug, Default)]
struct Variables {
    set: Vec<(String, String)>,
    unset: Vec<String>,
}

impl Variables {
    fn parse(files: &[PathBuf], words: &[String]) -> Result<Self, Failure> {
        let mut variables = Self::default();
        for file in files {
            variables.file(file)?;
        }
        for word in words {
            variables.word(word)?;
        }
        Ok(variables)
    }

    fn word(&mut self, word: &str) -> Result<(), Failure> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, Environment::variable(word)),
        };
        if name.is_empty() {
            return Err(Failure::flags(format!(
                "invalid argument {word:?} for \"-e, --env\" flag: no variable name"
            )));
        }
        match value {
            Some(value) => self.set.push((name.to_owned(), value)),
            None => self.unset.push(name.to_owned()),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        for line in lines_of(path)? {
            if line
                .split('=')
                .next()
                .is_some_and(|name| name.trim_end().contains(char::is_whitespace))
            {
                return Err(engine(format!(
                    "poorly formatted environment: variable {:?} contains whitespace",
                    line.split('=').next().unwrap_or_default()
                )));
            }
            self.word(&line)?;
        }
        Ok(())
    }
}

/// The lines of a file that are neither empty nor comments.
fn lines_of(path: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| engine(format!("could not open {}: {error}", path.display())))?;
    Ok(text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(ToOwned::to_owned)
        .collect())
}

fn pairs(words: &[String]) -> BTreeMap<String, String> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or((word, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn pull_when(text: &str) -> Result<PullWhen, Failure> {
    match text {
        "always" => Ok(PullWhen::Always),
        "missing" => Ok(PullWhen::Missing),
        "never" => Ok(PullWhen::Never),
        _ => Err(Failure::flags(format!(
            "invalid pull option: '{text}': must be one of \"always\", \"missing\" or \"never\""
        ))),
    }
}

fn address(text: &str, flag: &str) -> Result<IpAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::flags(format!(
            "invalid argument {text:?} for \"{flag}\": not an IP address"
        ))
    })
}

fn host_line(word: &str) -> Result<(String, IpAddr), Failure> {
    let (host, ip) = word
        .split_once(['=', ':'])
        .ok_or_else(|| Failure::flags(format!("bad format for add-host: {word:?}")))?;
    let ip = match ip {
        "host-gateway" => network::host_gateway(),
        ip => address(ip.trim_matches(['[', ']']), "--add-host")?,
    };
    Ok((host.to_owned(), ip))
}

/// Kernel parameters, of the namespaces the container has of its own.
///
/// Source: moby daemon, `verifyPlatformContainerSettings`; runc validator, `sysctl`.
fn sysctls(typed: &CreateArgs) -> Result<BTreeMap<String, String>, Failure> {
    let sysctls = pairs(&typed.sysctl);
    let shares = |mode: &Option<String>| mode.as_deref() == Some("host");
    for key in sysctls.keys() {
        let ipc = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
        let of_network = key.starts_with("net.");
        let of_ipc = ipc.iter().any(|prefix| key.starts_with(prefix));
        if !of_network && !of_ipc {
            return Err(engine(format!("sysctl '{key}' is not allowed")));
        }
        if of_network && shares(&typed.network) || of_ipc && shares(&typed.ipc) {
            return Err(engine(format!(
                "sysctl '{key}' is not allowed in the host's namespace"
            )));
        }
    }
    Ok(sysctls)
}

fn ulimits(words: &[String]) -> Result<Vec<Ulimit>, Failure> {
    words.iter().map(|word| ulimit(word)).collect()
}

fn ulimit(word: &str) -> Result<Ulimit, Failure> {
    let bad = || Failure::flags(format!("invalid argument {word:?} for \"--ulimit\""));
    let (name, limits) = word.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| bad()),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(bad().hint("the soft limit is above the hard one"));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<CreateRequest, Failure> {
        let low = args::LowArgs::try_parse_from(words).unwrap();
        let args::Call::Run(run) = low.command.unwrap().call() else {
            panic!("not a run: {words:?}");
        };
        create(run.create, "run")
    }

    #[test]
    fn options_end_at_the_image() {
        let request = parse(&[
            "rrun", "run", "--rm", "-it", "-h", "box", "img", "sh", "-c", "x", "--rm",
        ])
        .unwrap();
        assert_eq!(request.root, Root::Image("img".into()));
        assert_eq!(request.command, ["sh", "-c", "x", "--rm"]);
        assert_eq!(request.hostname.as_deref(), Some("box"));
        assert!(request.tty && request.interactive && request.remove);
        let request = parse(&["rrun", "run", "--rootfs", "/", "sh", "-c", "ls"]).unwrap();
        assert_eq!(request.root, Root::Directory("/".into()));
        assert_eq!(request.command, ["sh", "-c", "ls"]);
    }

    #[test]
    fn unknown_flags_are_named_with_the_form_that_was_meant() {
        let cases = [
            (
                vec!["rrun", "run", "-rm", "img"],
                "unknown shorthand flag: 'r' in -rm",
                Some("did you mean --rm?"),
            ),
            (
                vec!["rrun", "run", "--frob", "img"],
                "unknown flag: --frob",
                None,
            ),
            (
                vec!["rrun", "run", "--nmae", "x", "img"],
                "unknown flag: --nmae",
                None,
            ),
            (
                vec!["rrun", "run", "--names", "x", "img"],
                "unknown flag: --names",
                Some("did you mean --name?"),
            ),
        ];
        for (words, text, hint) in cases {
            let failure = parse(&words).unwrap_err();
            assert_eq!(
                failure.to_string(),
                format!("{text}\nSee 'rrun run --help'."),
                "input {words:?}"
            );
            assert_eq!(failure.hint_text(), hint, "input {words:?}");
            assert_eq!(failure.exit_code(), ExitCode::FLAGS, "input {words:?}");
        }
    }
}
