//! Commands on containers that exist.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use rrun_runner::container::Stopped;
use rrun_runner::exec::{self, ExecSpec, Outcome};
use rrun_runner::{
    ContainerConfig, RunnerError, StartOptions, Status, container, names, parse_signal, read_state,
    start,
};

use super::choice::{self, Which};
use super::hidden::Parts;
use super::run::failed;
use super::{journal, mount_points, volume};
use crate::args::{ExecArgs, KillArgs, PauseArgs, RenameArgs, RmArgs, StopArgs, WaitArgs};
use crate::environment::{Compat, Environment};
use crate::failure::{ExitCode, Failure};
use crate::{report, request};

/// Does something to each container, printing its name, going on after a failure.
fn each(
    names: &[String],
    environment: &Environment,
    mut act: impl FnMut(&Path) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    for name in names {
        let outcome = names::resolve(&environment.containers(), name)
            .map_err(Failure::from)
            .and_then(|dir| act(&dir));
        match outcome {
            Ok(()) => report::line(name)?,
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

/// How long to wait for an end; -1 is for ever.
fn patience(asked: Option<i64>, config: &ContainerConfig) -> Duration {
    match asked {
        Some(seconds) => u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs),
        None => Duration::from_secs(u64::from(config.stop_timeout_s)),
    }
}

fn stop_one(dir: &Path, args: &StopArgs) -> Result<(), Failure> {
    let config = ContainerConfig::load(dir)?;
    let number = args.signal.as_deref().map(signal).transpose()?;
    let patience = patience(args.time, &config);
    let stopped = container::stop(dir, patience, number)?;
    if stopped == Stopped::Killed && !patience.is_zero() {
        let own = Some(config.stop_signal.as_str()).filter(|name| !name.is_empty());
        let signal = args.signal.as_deref().or(own).unwrap_or("SIGTERM");
        report::warn(&format!(
            "StopSignal {signal} failed to stop container {} in {} seconds, resorting to SIGKILL",
            config.name,
            patience.as_secs()
        ));
    }
    Ok(())
}

/// What stops a container unless told otherwise.
const SIGTERM: i32 = libc::SIGTERM;

fn is_up(dir: &Path) -> Result<bool, Failure> {
    let status = read_state(dir)?.status;
    Ok(matches!(
        status,
        Status::Running | Status::Paused | Status::Restarting
    ))
}

/// `rrun stop`.
pub(crate) fn stop(args: &StopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let names = choice::names(&args.choice, Which::Up, "stop", environment)?;
    each(&names, environment, |dir| {
        let ran = is_up(dir)?;
        if ran {
            let config = ContainerConfig::load(dir)?;
            let number = config.stop_signal_number().unwrap_or(SIGTERM);
            let more = [("signal", number.to_string())];
            journal::of_dir(environment, "kill", dir, &more);
        }
        stop_one(dir, args)?;
        if ran {
            journal::of_dir(environment, "stop", dir, &[]);
        }
        Ok(())
    })
}

/// `rrun restart`.
pub(crate) fn restart(args: &StopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let names = choice::names(&args.choice, Which::Every, "restart", environment)?;
    each(&names, environment, |dir| {
        stop_one(dir, args)?;
        container::cleanup(dir)?;
        start(
            dir,
            &Parts::of_self()?.monitor(dir),
            &StartOptions::default(),
        )?;
        journal::of_dir(environment, "restart", dir, &[]);
        Ok(())
    })
}

/// `rrun pause`.
pub(crate) fn pause(args: &PauseArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let names = choice::names(&args.choice, Which::Running, "pause", environment)?;
    each(&names, environment, |dir| {
        container::pause(dir).map_err(general)?;
        journal::of_dir(environment, "pause", dir, &[]);
        Ok(())
    })
}

/// `rrun unpause`.
pub(crate) fn unpause(args: &PauseArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let names = choice::names(&args.choice, Which::Paused, "unpause", environment)?;
    each(&names, environment, |dir| {
        container::unpause(dir).map_err(general)?;
        journal::of_dir(environment, "unpause", dir, &[]);
        Ok(())
    })
}

fn general(error: RunnerError) -> Failure {
    Failure::from(error).code(ExitCode::GENERAL)
}

fn signal(name: &str) -> Result<i32, Failure> {
    parse_signal(name).ok_or_else(|| Failure::general(format!("invalid signal: {name}")))
}

/// `rrun kill`.
pub(crate) fn kill(args: &KillArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let signal = signal(&args.signal)?;
    let names = choice::names(&args.choice, Which::Up, "kill", environment)?;
    each(&names, environment, |dir| {
        // Told first: the end that it brings is told by the monitor.
        if is_up(dir)? {
            let more = [("signal", signal.to_string())];
            journal::of_dir(environment, "kill", dir, &more);
        }
        if signal == libc::SIGKILL {
            return Ok(container::end(dir)?);
        }
        Ok(container::kill(dir, signal)?)
    })
}

/// `rrun wait`: prints exit codes.
pub(crate) fn wait(args: &WaitArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    for name in &args.containers {
        let ended = names::resolve(&environment.containers(), name)
            .and_then(|dir| container::wait(&dir))
            .map_err(Failure::from);
        match ended {
            Ok(status) => report::line(&status.to_string())?,
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

/// `rrun rm`.
pub(crate) fn rm(args: &RmArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    let mut names = choice::names(&args.choice, Which::Every, "remove", environment)?;
    if args.depend {
        names = with_dependents(names, environment)?;
    }
    // Where all go, those that depend on others go too.
    let check = environment.compat == Compat::Podman && !args.choice.all;
    for name in &names {
        let may = if check {
            no_dependents(name, environment)
        } else {
            Ok(())
        };
        match may.and_then(|()| rm_one(name, args, environment)) {
            Ok(true) => report::line(name)?,
            Ok(false) => {}
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

/// Whether a container uses namespaces of another.
fn depends(one: &ContainerConfig, on: &str) -> bool {
    let joined = [&one.net.join, &one.joins.pid, &one.joins.ipc];
    joined.into_iter().flatten().any(|id| id == on)
}

/// Refuses to remove what others depend on, as podman does.
fn no_dependents(name: &str, environment: &Environment) -> Result<(), Failure> {
    let containers = environment.containers();
    let Ok(dir) = names::resolve(&containers, name) else {
        return Ok(());
    };
    let Ok(config) = ContainerConfig::load(&dir) else {
        return Ok(());
    };
    let all = container::list(&containers)?;
    let users = all.iter().map(|one| &one.config);
    let users = users.filter(|one| depends(one, &config.id));
    let users: Vec<&str> = users.map(|one| one.id.as_str()).collect();
    if users.is_empty() {
        return Ok(());
    }
    Err(Failure::general(format!(
        "container {} has dependent containers which must be removed before it: {}",
        config.id,
        users.join(", ")
    ))
    .hint("remove them too with 'rrun rm --depend'"))
}

/// The names, each after the containers that share namespaces of its.
fn with_dependents(names: Vec<String>, environment: &Environment) -> Result<Vec<String>, Failure> {
    let containers = environment.containers();
    let all = container::list(&containers)?;
    let mut wanted: Vec<String> = Vec::new();
    for name in names {
        if let Ok(dir) = names::resolve(&containers, &name) {
            let id = ContainerConfig::load(&dir)?.id;
            let users = all.iter().filter(|one| depends(&one.config, &id));
            wanted.extend(users.map(|one| one.config.id.clone()));
        }
        wanted.push(name);
    }
    let mut seen = std::collections::BTreeSet::new();
    wanted.retain(|name| seen.insert(name.clone()));
    Ok(wanted)
}

/// Whether there was something to remove.
fn rm_one(name: &str, args: &RmArgs, environment: &Environment) -> Result<bool, Failure> {
    let dir = match names::resolve(&environment.containers(), name) {
        // Docker too finds nothing wrong with forcing away what is not there.
        Err(RunnerError::NoSuchContainer(_)) if args.force => {
            names::forget(&environment.containers(), name)?;
            report::note(&format!("rrun: no such container: {name}"));
            return Ok(false);
        }
        other => other?,
    };
    // A damaged container is removed as well.
    let config = ContainerConfig::load(&dir).ok();
    if let (true, Some(seconds)) = (args.force && is_up(&dir)?, args.time) {
        let seconds = u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs);
        container::stop(&dir, seconds, None)?;
    }
    if let Err(error) = container::remove(&dir, args.force) {
        if matches!(error, RunnerError::Running(_)) {
            let text = format!("cannot remove container {name}: container is running");
            return Err(
                Failure::general(text).hint("stop it first, or remove it with 'rrun rm -f'")
            );
        }
        return Err(error.into());
    }
    if let Some(config) = config {
        journal::container(&environment.data_dir, "destroy", &config, &[]);
        if args.volumes {
            volume::remove_anonymous(environment, &mount_points::of_config(&config))?;
        }
    }
    Ok(true)
}

/// `rrun rename`.
pub(crate) fn rename(args: &RenameArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let containers = environment.containers();
    let dir = names::resolve(&containers, &args.container)?;
    let mut config = ContainerConfig::load(&dir)?;
    let _giving = names::take(&containers, &args.name, &config.id)?;
    let old = std::mem::replace(&mut config.name, args.name.clone());
    if let Err(error) = config.save(&dir) {
        drop(names::release(&containers, &args.name, &config.id));
        return Err(error.into());
    }
    names::release(&containers, &old, &config.id)?;
    let more = [("oldName", format!("/{old}"))];
    journal::container(&environment.data_dir, "rename", &config, &more);
    Ok(ExitCode::OK)
}

/// `rrun exec`.
pub(crate) fn exec_in(args: ExecArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let keys = super::run::detach_keys(args.detach_keys.as_deref(), environment)?;
    let request = request::exec(args)?;
    let dir = names::resolve(&environment.containers(), &request.container)?;
    let state = read_state(&dir)?;
    if state.status == Status::Paused {
        return Err(Failure::general(format!(
            "container {} is paused, unpause the container before exec",
            request.container
        )));
    }
    if state.status != Status::Running {
        return Err(
            Failure::general(format!("container {} is not running", request.container))
                .hint(format!("start it with 'rrun start {}'", request.container)),
        );
    }
    if request.tty && request.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::general("the input device is not a TTY")
            .hint("leave out -t when standard input is a pipe or a file"));
    }
    let spec = ExecSpec {
        argv: request.command,
        env: request
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        cwd: request.workdir.unwrap_or_default(),
        user: request.user.unwrap_or_default(),
        tty: request.tty,
        stdin: request.interactive,
        privileged: request.privileged,
        detach: request.detach,
        detach_keys: keys,
        preserved_fds: request.preserved_fds,
    };
    rrun_runner::check_preserved(spec.preserved_fds).map_err(failed)?;
    let action = format!("exec_start: {}", spec.argv.join(" "));
    journal::of_dir(environment, &action, &dir, &[]);
    let outcome = exec::run(&dir, &spec).map_err(failed)?;
    let Outcome::Exited(code) = outcome else {
        if !spec.detach {
            report::note("read escape sequence");
        }
        return Ok(ExitCode::OK);
    };
    let more = [("exitCode", code.to_string())];
    journal::of_dir(environment, "exec_die", &dir, &more);
    Ok(ExitCode(u8::try_from(code).unwrap_or(255)))
}
