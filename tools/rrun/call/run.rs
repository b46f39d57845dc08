//! `run`, `create`, `start`, `attach`: containers and the terminal they are started from.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;

use rrun_runner::attach::{self, AttachOptions, Outcome};
use rrun_runner::monitor::{Waiting, prepare};
use rrun_runner::{ContainerConfig, RunnerError, StartOptions, container, names, start};

use super::choice::{self, Which};
use super::create::{self, Created};
use super::hidden::Parts;
use super::{after_boot, mount_points, volume};
use crate::args::{AttachArgs, Choice, CreateArgs, RunArgs, StartArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;
use crate::request::{self, CreateRequest};

/// `rrun create`.
pub(crate) fn create(args: CreateArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let quiet = args.quiet;
    let request = request::create(args, "create")?;
    let id = names::random_id()?;
    let created = create::create(&request, environment, quiet, id).map_err(Failure::engine)?;
    report::line(&created.config.id)?;
    Ok(ExitCode::OK)
}

/// What `run` has begun before its words are understood: a container's id, and its monitor, which
/// gets ready meanwhile. Dropping it undoes it.
#[derive(Debug)]
pub(crate) struct Early {
    id: String,
    waiting: Waiting,
}

impl Early {
    /// Begins a container.
    ///
    /// # Errors
    ///
    /// When the monitor cannot be executed.
    pub(crate) fn begin(environment: &Environment) -> Result<Self, Failure> {
        let id = names::random_id()?;
        let dir = environment.containers().join(&id);
        let waiting = prepare(&dir, &Parts::of_self()?.monitor(&dir)).map_err(failed)?;
        Ok(Self { id, waiting })
    }
}

/// `rrun run`.
pub(crate) fn run(
    args: RunArgs,
    environment: &Environment,
    early: Option<Early>,
) -> Result<ExitCode, Failure> {
    let keys = detach_keys(args.detach_keys.as_deref(), environment)?;
    let quiet = args.create.quiet;
    let request = request::create(args.create, "run")?;
    let attach = !args.detach;
    if args.detach && !request.attach.is_empty() {
        return Err(Failure::flags(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    check_preserved(args.inherited.preserve_fds, &request)?;
    check_terminal(request.tty && request.interactive && attach)?;
    let Early { id, waiting } = match early {
        Some(early) => early,
        None => Early::begin(environment)?,
    };
    let created = create::create(&request, environment, quiet, id).map_err(Failure::engine)?;
    if request.dry_run {
        return dry_run(&created);
    }
    let options = StartOptions {
        preserved_fds: args.inherited.preserve_fds,
        ..start_options(&created.config, attach)
    };
    let started = waiting.start(&options);
    let socket = match started.map(warned).map_err(failed) {
        Ok(socket) => socket,
        Err(failure) => {
            if request.remove {
                // A container that failed to start has no monitor to remove it.
                drop(container::remove(&created.dir, true));
                let points = mount_points::of_config(&created.config);
                drop(volume::remove_anonymous(environment, &points));
            }
            return Err(failure);
        }
    };
    let Some(socket) = socket else {
        report::line(&created.config.id)?;
        return Ok(ExitCode::OK);
    };
    let streams = request.streams();
    let named = |name: &str| streams.iter().any(|stream| stream == name);
    let options = AttachOptions {
        tty: created.config.tty,
        stdin: request.interactive && named("stdin"),
        stdout: named("stdout"),
        stderr: named("stderr"),
        forward_signals: args.sig_proxy,
        detach_keys: keys,
    };
    if !options.stdout && !options.stderr {
        // Docker too tells which container it is when nothing of its own is shown.
        report::line(&created.config.id)?;
    }
    follow(&socket, &options)
}

fn dry_run(created: &Created) -> Result<ExitCode, Failure> {
    report::line(&serde_json::to_string_pretty(&created.config)?)?;
    Ok(ExitCode::OK)
}

fn check_terminal(wanted: bool) -> Result<(), Failure> {
    if wanted && !std::io::stdin().is_terminal() {
        return Err(Failure::general("the input device is not a TTY")
            .hint("leave out -t when standard input is a pipe or a file"));
    }
    Ok(())
}

fn check_preserved(count: u32, request: &CreateRequest) -> Result<(), Failure> {
    if count > 0 && request.life.restart.name != "no" {
        return Err(Failure::flags(
            "conflicting options: --preserve-fds and --restart: a restarted container has nobody \
             to get file descriptors from",
        ));
    }
    rrun_runner::check_preserved(count).map_err(failed)
}

/// The bytes of `--detach-keys`, or of the client's settings; else ctrl-p ctrl-q.
pub(super) fn detach_keys(
    text: Option<&str>,
    environment: &Environment,
) -> Result<Vec<u8>, Failure> {
    let kept = environment.client_setting("detachKeys");
    match text.or(kept.as_deref()) {
        None => Ok(AttachOptions::default().detach_keys),
        Some("") => Ok(Vec::new()),
        Some(text) => attach::parse_detach_keys(text).ok_or_else(|| {
            Failure::flags(format!("invalid argument {text:?} for \"--detach-keys\""))
        }),
    }
}

fn start_options(config: &ContainerConfig, attach: bool) -> StartOptions {
    let (rows, columns) = if config.tty && attach {
        rrun_runner::terminal_size(std::io::stdout()).unwrap_or_default()
    } else {
        (0, 0)
    };
    StartOptions {
        rows,
        columns,
        attach,
        ..StartOptions::default()
    }
}

/// Tells what could not be honoured.
fn warned((socket, warnings): (Option<OwnedFd>, Vec<String>)) -> Option<OwnedFd> {
    for warning in warnings {
        report::warn(&warning);
    }
    socket
}

/// A runner's error with its exit code.
pub(crate) fn failed(error: RunnerError) -> Failure {
    let code = u8::try_from(error.exit_code()).unwrap_or(ExitCode::ENGINE.0);
    Failure::from(error).code(ExitCode(code))
}

/// Carries the streams until the container ends; its exit code is ours.
fn follow(socket: &OwnedFd, options: &AttachOptions) -> Result<ExitCode, Failure> {
    match attach::run(socket, options)? {
        Outcome::Exited { code, error } => {
            if !error.is_empty() {
                report::note(&format!("rrun: {error}"));
            }
            Ok(ExitCode(u8::try_from(code).unwrap_or(255)))
        }
        Outcome::Detached => {
            report::note("read escape sequence");
            Ok(ExitCode::OK)
        }
        Outcome::Lost => Err(Failure::new(
            ExitCode(137),
            "the container's monitor was killed, and the container with it",
        )),
    }
}

/// `rrun start`.
pub(crate) fn start_all(args: &StartArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    if args.restart_policy {
        return after_boot::start(environment);
    }
    let follow_one = args.attach || args.interactive;
    let choice = Choice {
        containers: args.containers.clone(),
        all: args.all,
        filter: args.filter.clone(),
        ..Choice::default()
    };
    let names = choice::names(&choice, Which::Down, "start", environment)?;
    if follow_one && names.len() > 1 {
        return Err(Failure::general(
            "you cannot start and attach multiple containers at once",
        ));
    }
    let keys = detach_keys(args.detach_keys.as_deref(), environment)?;
    let mut code = ExitCode::OK;
    for name in &names {
        match start_one(name, follow_one, environment) {
            Ok((Some(socket), config)) => {
                let options = AttachOptions {
                    tty: config.tty,
                    stdin: args.interactive && config.stdin_open,
                    detach_keys: keys.clone(),
                    ..AttachOptions::default()
                };
                return follow(&socket, &options);
            }
            Ok((None, _)) => report::line(name)?,
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

pub(super) fn start_one(
    name: &str,
    attach: bool,
    environment: &Environment,
) -> Result<(Option<OwnedFd>, ContainerConfig), Failure> {
    let dir = names::resolve(&environment.containers(), name)?;
    let config = ContainerConfig::load(&dir)?;
    container::cleanup(&dir)?;
    let monitor = Parts::of_self()?.monitor(&dir);
    match start(&dir, &monitor, &start_options(&config, attach)) {
        Ok(started) => Ok((warned(started), config)),
        // Docker too finds nothing wrong with starting what runs.
        Err(RunnerError::Running(_)) => {
            let socket = if attach {
                Some(attach::connect(&dir)?)
            } else {
                None
            };
            Ok((socket, config))
        }
        Err(error) => Err(failed(error)),
    }
}

/// `rrun attach`.
pub(crate) fn attach(args: &AttachArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let dir = names::resolve(&environment.containers(), &args.container)?;
    let config = ContainerConfig::load(&dir)?;
    check_terminal(config.tty && config.stdin_open && !args.no_stdin)?;
    let options = AttachOptions {
        tty: config.tty,
        stdin: config.stdin_open && !args.no_stdin,
        forward_signals: args.sig_proxy,
        detach_keys: detach_keys(args.detach_keys.as_deref(), environment)?,
        ..AttachOptions::default()
    };
    let socket = attach::connect(&dir).map_err(|error| {
        if matches!(error, RunnerError::NotRunning(_)) {
            return Failure::general("You cannot attach to a stopped container, start it first");
        }
        error.into()
    })?;
    follow(&socket, &options)
}
