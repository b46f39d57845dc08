//! The parts of a running container: programs that rrun starts of itself.
//!
//! They bypass the parsing of arguments, because every start of a container pays for them.

use std::ffi::OsString;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rrun_mount::{Connection, ServeOptions, Stats, serve};
use rrun_runner::monitor::{MonitorEvent, MonitorProgram};
use rrun_runner::{ContainerConfig, IdMap, State, ids, memory, monitor, net};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::within::overlay;
use super::{copy_up, cp, create, ground, journal, mount_points, overlayfs, ps, volume};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{report, sys};

/// The words that name a hidden program.
const MONITOR: &str = "__monitor";
const SERVE: &str = "__serve";
const IDS: &str = "__ids";
const NET: &str = "__net";
const SYNC: &str = "__sync";
const PROBE: &str = "__probe";
const FILL: &str = "__fill";
const COPY: &str = "__copy";
const SIZE: &str = "__size";
const WITHIN: &str = "__within";
const REMOVE_TREE: &str = "__rmtree";

/// Where the runner leaves the descriptors of a hidden program.
const FIRST_FD: i32 = 3;

/// The command lines by which containers start the parts of themselves.
#[derive(Debug)]
pub(crate) struct Parts {
    program: OsString,
}

impl Parts {
    /// Parts that are this very program.
    pub(crate) fn of_self() -> Result<Self, Failure> {
        // The link follows the file when an upgrade replaces it under a running container.
        // Started from a sealed copy the link says nothing, and whoever did it gave the path.
        let first = Environment::arguments().into_iter().next();
        if let (true, Some(program)) = (rrun_runner::seal::is_sealed(), first) {
            return Ok(Self { program });
        }
        let program = std::fs::read_link("/proc/self/exe")
            .map_err(|error| Failure::of("could not read /proc/self/exe", &error))?;
        Ok(Self {
            program: program.into_os_string(),
        })
    }

    /// The program.
    pub(crate) fn program(&self) -> OsString {
        self.program.clone()
    }

    /// The monitor of the container in `dir`.
    pub(crate) fn monitor(&self, dir: &Path) -> MonitorProgram {
        MonitorProgram {
            argv: vec![self.program.clone(), MONITOR.into(), dir.into()],
            body: Some(Box::new(|dir, line| {
                let done = monitor::run_on(dir, line, &monitor_options(dir));
                i32::from(exit_code(done.map_err(Failure::from)).0)
            })),
        }
    }

    /// Its file-system server.
    pub(crate) fn serve(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), SERVE.into(), dir.into()]
    }

    /// Its id supervisor.
    pub(crate) fn ids(&self) -> Vec<OsString> {
        vec![self.program.clone(), IDS.into()]
    }

    /// Its network helper; the container is found by its directory, which is where the monitor works.
    pub(crate) fn net(&self, id: &str) -> Vec<OsString> {
        vec![self.program.clone(), NET.into(), id.into()]
    }

    /// The helper that runs a health check; the container's directory is added.
    pub(crate) fn probe(&self) -> Vec<OsString> {
        vec![self.program.clone(), PROBE.into()]
    }

    /// The helper that fills a volume, as root of a user namespace.
    pub(crate) fn fill(&self, dir: &Path, target: &str, volume: &Path) -> Vec<OsString> {
        vec![
            self.program.clone(),
            FILL.into(),
            dir.into(),
            target.into(),
            volume.into(),
        ]
    }

    /// The container's side of a copy; what to do is added.
    pub(crate) fn copy(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), COPY.into(), dir.into()]
    }

    /// The helper that tells how many bytes are below a directory.
    pub(crate) fn size(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), SIZE.into(), dir.into()]
    }

    /// One of these helpers, as root of a namespace with the ids of the container in `dir`.
    pub(crate) fn within(&self, dir: &Path, helper: Vec<OsString>) -> Vec<OsString> {
        let mut argv = vec![self.program.clone(), WITHIN.into(), dir.into()];
        argv.extend(helper.into_iter().skip(1));
        argv
    }

    /// The helper that removes a directory, as root of a user namespace.
    pub(crate) fn remove_tree(&self, dir: &Path) -> Vec<OsString> {
        vec![self.program.clone(), REMOVE_TREE.into(), dir.into()]
    }

    /// The helper that makes a running container's files complete on disk.
    pub(crate) fn sync(&self) -> Vec<OsString> {
        vec![self.program.clone(), SYNC.into()]
    }
}

/// Words of commands that become a container's process themselves.
const BECOMING: [&str; 4] = ["exec", "create", "run", "restore"];
/// The command comes within so many words; what is taken for one by mistake costs a millisecond.
const COMMAND_WITHIN: usize = 12;

/// Starts this program anew from its sealed copy, where a container could come to see it.
pub(crate) fn seal(argv: &[OsString]) {
    use std::os::unix::process::CommandExt;
    let words = argv.iter().take(COMMAND_WITHIN);
    let mut words = words.filter_map(|word| word.to_str());
    let oci = words.next().is_some_and(|name| name.ends_with("rrun-oci"))
        || argv.get(1).is_some_and(|word| word == "oci");
    let becomes = words.any(|word| word == "exec" || oci && BECOMING.contains(&word));
    if !becomes {
        return;
    }
    if rrun_runner::seal::is_sealed() {
        rrun_runner::seal::take_name();
        return;
    }
    let (Some(sealed), Ok(program)) = (
        rrun_runner::seal::program(),
        std::fs::read_link("/proc/self/exe"),
    ) else {
        return;
    };
    // The name decides what the program does; the sealed one is found by the true path.
    let name = if oci && argv.get(1).is_none_or(|word| word != "oci") {
        argv.first().cloned().unwrap_or_default()
    } else {
        program.into_os_string()
    };
    let mut command = std::process::Command::new(sealed.path());
    // Only a failure returns; this process then does the work itself.
    let _error = command
        .arg0(name)
        .args(argv.get(1..).unwrap_or_default())
        .exec();
}

/// Runs a hidden program if `argv` names one.
pub(crate) fn run(argv: &[OsString]) -> Option<ExitCode> {
    let program = argv.first().map(PathBuf::from)?;
    if program
        .file_name()
        .is_some_and(|name| name == "rrun-overlayfs")
    {
        return Some(overlayfs::main(&argv[1..]));
    }
    let word = argv.get(1)?;
    let dir = || argv.get(2).map(PathBuf::from).unwrap_or_default();
    let outcome = if word == MONITOR {
        monitor_main(&dir())
    } else if word == SERVE {
        serve_main(&dir())
    } else if word == IDS {
        ids_main()
    } else if word == NET {
        net_main()
    } else if word == PROBE {
        return Some(probe_main(&dir()));
    } else if word == FILL {
        fill_main(argv)
    } else if word == COPY {
        cp::inside(argv.get(2..).unwrap_or_default())
    } else if word == SIZE {
        report::line(&ps::bytes_of(&dir()).to_string())
    } else if word == WITHIN {
        return Some(within_main(argv));
    } else if word == REMOVE_TREE {
        std::fs::remove_dir_all(dir()).map_err(Failure::from)
    } else if word == SYNC {
        ids::enter_and_sync(std::io::stdin().as_fd()).map_err(Failure::from)
    } else if word == "overlayfs" {
        return Some(overlayfs::main(&argv[2..]));
    } else {
        return None;
    };
    Some(exit_code(outcome))
}

/// Tells a failure on standard error, which is the container's server.log that the starter quotes.
fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::OK,
        Err(failure) => {
            report::failure(&failure);
            failure.exit_code()
        }
    }
}

fn monitor_main(dir: &Path) -> Result<(), Failure> {
    monitor::run(dir, &monitor_options(dir))?;
    Ok(())
}

fn monitor_options(dir: &Path) -> monitor::MonitorOptions {
    let data_dir = dir
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .unwrap_or_default();
    let expected_ids = expected_ids(dir, &data_dir);
    let on_event = move |config: &ContainerConfig, state: &State, event: MonitorEvent| {
        tell(&data_dir, config, state, event);
    };
    monitor::MonitorOptions {
        on_event: Some(Box::new(on_event)),
        expected_ids,
        server: Some(Box::new(|dir, line| {
            i32::from(exit_code(serve_on(dir, &line)).0)
        })),
    }
}

/// The ids of the container in `dir`; of one that is not there yet, those that containers have
/// unless they are asked for others.
fn expected_ids(dir: &Path, data_dir: &Path) -> Option<IdMap> {
    if let Ok(config) = ContainerConfig::load(dir) {
        return Some(config.id_map);
    }
    let environment = Environment::read(Some(data_dir.to_owned()), None);
    Some(create::id_map(&environment.ok()?))
}

/// Notes what the monitor tells, and removes with a container what is its alone.
fn tell(data_dir: &Path, config: &ContainerConfig, state: &State, event: MonitorEvent) {
    let code = [("exitCode", state.exit_code.to_string())];
    let health = state
        .health
        .as_ref()
        .map_or("", |health| health.status.as_str());
    let status = format!("health_status: {health}");
    let (action, more): (&str, &[(&str, String)]) = match event {
        MonitorEvent::Start => ("start", &[]),
        MonitorEvent::Die => ("die", &code),
        MonitorEvent::OutOfMemory => ("oom", &[]),
        MonitorEvent::Health => (&status, &[]),
        MonitorEvent::Destroy => ("destroy", &[]),
    };
    journal::container(data_dir, action, config, more);
    if event == MonitorEvent::Destroy {
        let points = mount_points::of_config(config);
        if points.iter().any(|point| point.anonymous)
            && let Ok(environment) = Environment::read(Some(data_dir.to_owned()), None)
        {
            // Volumes that stay are seen in their list.
            drop(volume::remove_anonymous(&environment, &points));
        }
    }
}

/// Runs a container's health check; its exit code is ours.
fn probe_main(dir: &Path) -> ExitCode {
    let run = || -> Result<i32, Failure> {
        let config = ContainerConfig::load(dir)?;
        let check = config.health.unwrap_or_default();
        let spec = rrun_runner::exec::ExecSpec {
            argv: check.argv,
            ..Default::default()
        };
        Ok(rrun_runner::exec::run(dir, &spec)?.code())
    };
    match run() {
        Ok(code) => ExitCode(u8::try_from(code).unwrap_or(1)),
        Err(failure) => {
            report::failure(&failure);
            ExitCode::GENERAL
        }
    }
}

/// Runs a helper as root of a namespace with a container's ids.
fn within_main(argv: &[OsString]) -> ExitCode {
    let dir = argv.get(2).map(PathBuf::from).unwrap_or_default();
    let run = || -> Result<i32, Failure> {
        let config = ContainerConfig::load(&dir)?;
        let mut helper = vec![Parts::of_self()?.program()];
        helper.extend_from_slice(argv.get(3..).unwrap_or_default());
        Ok(rrun_runner::userns::run(&config.id_map, &helper)?)
    };
    match run() {
        Ok(code) => ExitCode(u8::try_from(code).unwrap_or(1)),
        Err(failure) => {
            report::failure(&failure);
            ExitCode::GENERAL
        }
    }
}

fn fill_main(argv: &[OsString]) -> Result<(), Failure> {
    let (Some(dir), Some(target), Some(volume)) = (argv.get(2), argv.get(3), argv.get(4)) else {
        return Err(Failure::general("not all of a volume's places were told"));
    };
    let config = ContainerConfig::load(Path::new(dir))?;
    let (union, _lease) = ground::read_only(Path::new(dir), &config)?;
    let target = target.to_string_lossy();
    let owners = copy_up::Owners::of(&config.id_map);
    copy_up::fill(&union, &target, Path::new(volume), owners)
}

/// Runs the network helper of the container whose directory we are in.
fn net_main() -> Result<(), Failure> {
    let dir = std::env::current_dir()
        .map_err(|error| Failure::of("could not tell the container's directory", &error))?;
    net::serve(&dir, &crate::environment::uplink_programs())?;
    Ok(())
}

fn serve_main(dir: &Path) -> Result<(), Failure> {
    serve_on(dir, &sys::inherited(FIRST_FD)?)
}

/// Serves the container's file system until the kernel says that it is unmounted. The device comes
/// on `line`.
fn serve_on(dir: &Path, line: &OwnedFd) -> Result<(), Failure> {
    let config = ContainerConfig::load(dir)?;
    // Before the device comes: whatever is wrong is then told instead of hanging the start.
    let io_uring = super::io_uring::asked_for()?;
    let (union, lease) = ground::served(dir, &config)?;
    let settling = settle();
    let mut connection = receive_connection(line)?;
    let procfs = connection.proc.take();
    connection.proc = procfs.as_ref().and_then(|mount| reopen(mount).ok());
    // Modes come from the kernel with the asker's mask applied.
    rustix::process::umask(rustix::fs::Mode::empty());
    // Where there is no such thread it is let go here.
    drop(settling.send(procfs));
    serve(
        &connection,
        &union,
        &ServeOptions {
            handles: overlay(&config).is_none(),
            io_uring,
            ..ServeOptions::default()
        },
        &Stats::default(),
        &|| exit_now(false),
    )?;
    // Held until here: nothing the container reads may be collected.
    drop(lease);
    Ok(())
}

/// A second way to a mount. It stays usable when the first, which made the mount, is closed: that
/// takes the mount apart and waits until all processors have noticed.
fn reopen(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(mount, ".", flags, Mode::empty())
}

/// Starts who gives back what the start took, once the server goes on: first the mount that is
/// sent, which nobody is to wait for. Not to be able to is no error.
///
/// It is there before the kernel asks anything: threads that begin hold up those that answer.
fn settle() -> mpsc::Sender<Option<OwnedFd>> {
    let (sender, mounts) = mpsc::channel();
    let thread = std::thread::Builder::new().name("rrun-settle".into());
    drop(thread.stack_size(64 << 10).spawn(move || {
        let Ok(mount) = mounts.recv() else { return };
        drop(mount);
        std::thread::sleep(memory::SETTLED_AFTER);
        memory::give_back();
    }));
    sender
}

/// Ends the process: everything is on disk, and the kernel releases what is held soonest so.
#[expect(
    clippy::exit,
    reason = "a server has nothing left to do once it is unmounted"
)]
pub(crate) fn exit_now(failed: bool) {
    std::process::exit(i32::from(failed));
}

fn receive_connection(line: &OwnedFd) -> Result<Connection, Failure> {
    let mut byte = [0; 16];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        line.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(device) = fds.next()
        {
            return Ok(Connection {
                device: File::from(device),
                proc: fds.next(),
            });
        }
    }
    Err(Failure::general(
        "the container ended before its root was mounted",
    ))
}

fn ids_main() -> Result<(), Failure> {
    let listener = sys::inherited(FIRST_FD)?;
    let procfs = sys::inherited(FIRST_FD + 1)?;
    let process = sys::inherited(FIRST_FD + 2)?;
    ids::enter_and_supervise(&ids::Entry::Process(process.as_fd()), listener, procfs)?;
    Ok(())
}
