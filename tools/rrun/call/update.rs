//! `rrun update`: limits and restart policy of containers that exist.

use rrun_runner::{ContainerConfig, container, names};

use super::journal;
use crate::args::{LimitArgs, UpdateArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{report, request};

/// `rrun update`.
pub(crate) fn update(args: &UpdateArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let restart = request::restart(args.restart.as_deref())?;
    if args.restart.is_none() && !asks(&args.limits) {
        return Err(
            Failure::general("you must provide one or more flags when using this command")
                .hint("see 'rrun update --help' for the limits there are, and --restart"),
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
                config.limits = request::changed_limits(&args.limits, config.limits)
                    .map_err(|failure| failure.code(ExitCode::GENERAL))?;
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

/// Whether any limit is named.
fn asks(typed: &LimitArgs) -> bool {
    let texts = [
        &typed.cpus,
        &typed.cpuset_cpus,
        &typed.cpuset_mems,
        &typed.kernel_memory,
        &typed.memory,
        &typed.memory_reservation,
        &typed.memory_swap,
    ];
    let numbers = [
        typed.cpu_quota,
        typed.cpu_rt_runtime,
        typed.pids_limit,
        typed.blkio_weight.map(i64::from),
    ];
    let counts = [typed.cpu_period, typed.cpu_rt_period, typed.cpu_shares];
    texts.into_iter().any(Option::is_some)
        || numbers.into_iter().any(|number| number.is_some())
        || counts.into_iter().any(|count| count.is_some())
}
