//! From names, `--all` and filters to containers.

use rrun_runner::{Container, RunnerError, Status, container, names};

use super::ps::{self, Filters};
use crate::args::Choice;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};

/// The containers `--all` means: those a command would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Every,
    /// Running, paused or waiting to be started again.
    Up,
    Running,
    Paused,
    /// Created or ended.
    Down,
}

impl Which {
    fn includes(self, one: &Container) -> bool {
        let status = one.state.status;
        let up = matches!(
            status,
            Status::Running | Status::Paused | Status::Restarting
        );
        match self {
            Self::Every => true,
            Self::Up => up,
            Self::Running => status == Status::Running,
            Self::Paused => status == Status::Paused,
            Self::Down => !up,
        }
    }
}

/// Names to work on, in the order they were typed, else newest first.
///
/// # Errors
///
/// When names stand beside `--all`, a filter is wrong, or a file of an id cannot be read.
pub(super) fn names(
    choice: &Choice,
    which: Which,
    verb: &str,
    environment: &Environment,
) -> Result<Vec<String>, Failure> {
    let mut named = choice.containers.clone();
    for file in &choice.cidfile {
        match std::fs::read_to_string(file) {
            Ok(id) => named.push(id.trim().to_owned()),
            Err(error) if choice.ignore && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let action = format!("could not read the id in {}", file.display());
                return Err(Failure::of(&action, &error));
            }
        }
    }
    if choice.all && !named.is_empty() {
        return Err(Failure::flags(format!(
            "either {verb} all containers or the container(s) provided in the arguments"
        )));
    }
    let containers = environment.containers();
    if choice.ignore {
        let missing = |name: &String| {
            matches!(
                names::resolve(&containers, name),
                Err(RunnerError::NoSuchContainer(_))
            )
        };
        named.retain(|name| !missing(name));
    }
    if !choice.all && choice.filter.is_empty() {
        return Ok(named);
    }
    let mut all = container::list(&containers)?;
    ps::newest_first(&mut all);
    let filters = Filters::parse(&choice.filter, &all, environment)?;
    if named.is_empty() {
        all.retain(|one| which.includes(one) && filters.include(one));
        return Ok(all.into_iter().map(|one| one.config.id).collect());
    }
    let mut kept = Vec::new();
    for name in named {
        let dir = names::resolve(&containers, &name)?;
        if filters.include(&container::load(&dir)?) {
            kept.push(name);
        }
    }
    Ok(kept)
}

/// `rrun OBJECT exists NAME`: says it by the exit code alone.
pub(super) fn told(exists: bool) -> ExitCode {
    if exists {
        ExitCode::OK
    } else {
        ExitCode::GENERAL
    }
}

/// `rrun container exists NAME`.
pub(crate) fn container_exists(name: &str, environment: &Environment) -> Result<ExitCode, Failure> {
    match names::resolve(&environment.containers(), name) {
        Ok(_) => Ok(told(true)),
        Err(RunnerError::NoSuchContainer(_)) => Ok(told(false)),
        Err(error) => Err(error.into()),
    }
}
