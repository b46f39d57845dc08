//! `rrun update`: limits and restart policy of containers that exist.

use rrun_runner::{ContainerConfig, container, names};

use super::journal;
use crate::args::UpdateArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{report, request};

/// `rrun update`.
pub(crate) fn update(args: &UpdateArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let restart = request::restart(args.restart.as_deref())?;
    let limits = request::limits(
        args.memory.as_deref(),
        args.cpus.as_deref(),
        args.pids_limit,
    )?;
    if args.restart.is_none() && !limits.any() && args.pids_limit.is_none() {
        return Err(
            Failure::general("you must provide one or more flags when using this command")
                .hint("there are: --cpus, --memory, --pids-limit, --restart"),
        );
    }
    let mut code = ExitCode::OK;
    for name in &args.containers {
        let outcome = names::resolve(&environment.containers(), name)
            .map_err(Failure::from)
            .and_then(|dir| {
                let mut config = ContainerConfig::load(&dir)?;
                if args.restart.is_some() {
                    if config.auto_remove && restart.name != "no" {
                        return Err(Failure::general(
                            "restart policy cannot be updated because AutoRemove is enabled for the container",
                        ));
                    }
                    config.restart = restart.clone();
                }
                if args.memory.is_some() {
                    config.limits.memory_bytes = limits.memory_bytes;
                }
                if args.cpus.is_some() {
                    config.limits.cpu_milli = limits.cpu_milli;
                }
                if args.pids_limit.is_some() {
                    config.limits.pids = limits.pids;
                }
                config.save(&dir)?;
                for warning in container::update_limits(&dir)? {
                    report::warn(&warning);
                }
                journal::container(&environment.data_dir, "update", &config, &[]);
                Ok(())
            });
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
