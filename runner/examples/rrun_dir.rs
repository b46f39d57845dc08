//! Runs a command in a plain directory: `rrun_dir [-t] [-i] [-u USER] [-w DIR] [--squash] ROOT CMD...`.
#![allow(clippy::print_stderr, clippy::exit, reason = "an example is a program")]

use std::path::{Path, PathBuf};

use rrun_runner::attach::{self, AttachOptions, Outcome};
use rrun_runner::{
    ContainerConfig, IdMap, Mount, MountKind, Network, Root, RunnerError, StartOptions, container,
    exec, monitor,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.as_slice() {
        [command, dir] if command == "__monitor" => {
            monitor::run(Path::new(dir), &monitor::MonitorOptions::default()).map(|()| 0)
        }
        [command] if command == "__ids" => monitor::supervise().map(|()| 0),
        [command, flags, dir, argv @ ..] if command == "exec" => {
            let spec = exec::ExecSpec {
                argv: argv.to_vec(),
                tty: flags.contains('t'),
                stdin: flags.contains('i'),
                ..exec::ExecSpec::default()
            };
            exec::run(Path::new(dir), &spec).map(exec::Outcome::code)
        }
        _ => run(&args),
    };
    std::process::exit(result.unwrap_or_else(|error| {
        eprintln!("rrun_dir: {error}");
        error.exit_code()
    }));
}

/// The caller's ranges of /etc/subuid and /etc/subgid.
fn own_ranges() -> IdMap {
    let uid = rustix::process::getuid().as_raw();
    let name = std::env::var("USER").unwrap_or_default();
    let read = |path: &str| rrun_runner::subid::read(Path::new(path), &name, uid);
    IdMap::Range {
        uids: read("/etc/subuid"),
        gids: read("/etc/subgid"),
    }
}

fn bind(text: &str) -> Option<Mount> {
    let (source, target) = text.split_once(':')?;
    let (target, options) = target.split_once(':').unwrap_or((target, ""));
    let kind = MountKind::Bind {
        source: source.into(),
        propagation: rrun_runner::Propagation::Private,
        alone: false,
    };
    Some(Mount {
        target: target.into(),
        kind,
        read_only: options == "ro",
    })
}

fn configure(args: &[String]) -> Result<ContainerConfig, RunnerError> {
    let mut config = ContainerConfig {
        id: rrun_runner::names::random_id()?,
        hostname: "box".to_owned(),
        auto_remove: std::env::var_os("KEEP").is_none(),
        ..ContainerConfig::default()
    };
    if !rustix::process::geteuid().is_root() {
        config.id_map = IdMap::Squash;
    }
    let mut server = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-t" => config.tty = true,
            "-i" => config.stdin_open = true,
            "-u" => config.user = args.next().cloned().unwrap_or_default(),
            "-w" => config.cwd = args.next().cloned().unwrap_or_default(),
            "--squash" => config.id_map = IdMap::Squash,
            "--range" => config.id_map = own_ranges(),
            "--ro" => config.read_only = true,
            "--host-net" => config.network = Network::Host,
            "--id" => config.id = args.next().cloned().unwrap_or_default(),
            "-v" => config
                .mounts
                .extend(args.next().and_then(|text| bind(text))),
            "--server" => server = args.next(),
            root => {
                config.root = Root::Dir(PathBuf::from(root));
                break;
            }
        }
    }
    if let Some(script) = server {
        let server_argv = vec!["sh".into(), "-c".into(), script.into()];
        config.root = Root::Fuse {
            server_argv,
            overlay: None,
        };
    }
    config.argv = args.cloned().collect();
    Ok(config)
}

fn run(args: &[String]) -> Result<i32, RunnerError> {
    let mut config = configure(args)?;
    let containers = std::env::var_os("CONTAINERS")
        .map_or_else(|| std::env::temp_dir().join("rrun-example"), PathBuf::from);
    config.ids_argv = vec!["/proc/self/exe".into(), "__ids".into()];
    let dir = container::create(&containers, &config)?;
    let monitor = monitor::MonitorProgram {
        argv: vec![
            "/proc/self/exe".into(),
            "__monitor".into(),
            dir.clone().into(),
        ],
        body: None,
    };
    let (rows, columns) = rrun_runner::terminal_size(std::io::stdout()).unwrap_or_default();
    let options = StartOptions {
        rows,
        columns,
        attach: true,
        ..StartOptions::default()
    };
    let (socket, warnings) = rrun_runner::start(&dir, &monitor, &options)?;
    warnings
        .iter()
        .for_each(|warning| eprintln!("warning: {warning}"));
    let Some(socket) = socket else { return Ok(0) };
    let options = AttachOptions {
        tty: config.tty,
        stdin: config.stdin_open,
        ..AttachOptions::default()
    };
    match attach::run(&socket, &options)? {
        Outcome::Exited { code, error } => {
            if !error.is_empty() {
                eprintln!("rrun_dir: {error}");
            }
            Ok(code)
        }
        Outcome::Detached => Ok(0),
        Outcome::Lost => Ok(137),
    }
}
