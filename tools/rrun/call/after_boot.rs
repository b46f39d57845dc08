//! `rrun start --restart-policy`: what Docker's daemon does when it comes up.

use rrun_runner::{Container, Status, container};

use super::run::start_one;
use super::{mount_points, volume};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// Starts the containers whose policy wants them up, in the order in which they were made, and
/// removes what was to be removed at its end and ended with the host.
pub(super) fn start(environment: &Environment) -> Result<ExitCode, Failure> {
    let mut all = container::list(&environment.containers())?;
    all.sort_by(|one, other| one.config.created.cmp(&other.config.created));
    let mut code = ExitCode::OK;
    for one in &all {
        let done = if one.config.auto_remove && one.state.status == Status::Exited {
            remove(one, environment)
        } else if container::wants_restart(one) {
            start_one(&one.config.id, false, environment)
                .map_err(|failure| failure.code(ExitCode::GENERAL))
                .and_then(|_| report::line(&one.config.name))
        } else {
            Ok(())
        };
        if let Err(failure) = done {
            report::failure(&failure);
            code = ExitCode::GENERAL;
        }
    }
    Ok(code)
}

fn remove(one: &Container, environment: &Environment) -> Result<(), Failure> {
    container::remove(&one.dir, true)?;
    volume::remove_anonymous(environment, &mount_points::of_config(&one.config))
}
