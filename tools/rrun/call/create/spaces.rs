//! Whose namespaces a new container has.

use rrun_runner::{ContainerConfig, Shm, names};

use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::request::{Ipc, Pid, Spaces};

/// Puts what is asked of the namespaces into a configuration.
pub(super) fn compose(
    asked: &Spaces,
    environment: &Environment,
    config: &mut ContainerConfig,
) -> Result<(), Failure> {
    config.host.uts = asked.host_uts;
    config.host.cgroup = asked.host_cgroup;
    match &asked.pid {
        Pid::Own => {}
        Pid::Host => config.host.pid = true,
        Pid::Container(name) => {
            let other = other(name, environment)?;
            // What it has itself from the host is the host's here too.
            config.host.pid = other.host.pid;
            config.joins.pid = Some(other.id).filter(|_| !config.host.pid);
        }
    }
    match &asked.ipc {
        Ipc::Own => {}
        Ipc::Shareable => config.shareable_ipc = true,
        Ipc::None => config.shm = Shm::Absent,
        Ipc::Host => config.host.ipc = true,
        Ipc::Container(name) => {
            let other = other(name, environment)?;
            if other.host.ipc {
                config.host.ipc = true;
                return Ok(());
            }
            if !other.shareable_ipc {
                return Err(Failure::new(
                    ExitCode::ENGINE,
                    format!(
                        "cannot join IPC of container {name}: non-shareable IPC (hint: use \
                         IpcMode:shareable for the donor container)"
                    ),
                ));
            }
            config.shm = Shm::Joined;
            config.joins.ipc = Some(other.id);
        }
    }
    Ok(())
}

fn other(name: &str, environment: &Environment) -> Result<ContainerConfig, Failure> {
    let engine = |failure: Failure| failure.code(ExitCode::ENGINE);
    let dir = names::resolve(&environment.containers(), name)
        .map_err(|error| engine(Failure::from(error)))?;
    Ok(ContainerConfig::load(&dir)?)
}
