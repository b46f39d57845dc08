//! Runs a command in a plain directory: `rrun_dir [-t] [-i] [-u USER] [-w DIR] [--squash] ROOT CMD...`.
#![allow(clippy::print_stderr, clippy::exit, reason = "an example is a program")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rrun_runner::attach::{self, AttachOptions, Outcome};
use rrun_runner::{
    ContainerConfig, IdMap, Root, RunnerError, StartOptions, container, exec, monitor,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.as_slice() {
        [command, dir] if command == "__monitor" => {
            monitor::run(Path::new(dir), monitor::MonitorOptions::default()).map(|()| 0)
        }
        [command] if command == "__ids" => monitor::supervise().map(|()| 0),
        [command, flags, dir, argv @ ..] if command == "exec" => {
            let spec = exec::ExecSpec {
                argv: argv.to_vec(),
                tty: flags.contains('t'),
                stdin: flags.contains('i'),
                ..exec::ExecSpec::default()
            };
            exec::run(Path::new(dir), &spec)
        }
        _ => run(&args),
    };
    std::process::exit(result.unwrap_or_else(|error| {
        eprintln!("rrun_dir: {error}");
        error.exit_code()
    }));
}

fn run(args: &[String]) -> Result<i32, RunnerError> {
    let mut config = ContainerConfig {
        id: rrun_runner::names::random_id()?,
        hostname: "box".to_owned(),
        auto_remove: std::env::var_os("KEEP").is_none(),
        ..ContainerConfig::default()
    };
    if !rustix::process::geteuid().is_root() {
        config.id_map = IdMap::Squash;
    }
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-t" => config.tty = true,
            "-i" => config.stdin_open = true,
            "-u" => config.user = args.next().cloned().unwrap_or_default(),
            "-w" => config.cwd = args.next().cloned().unwrap_or_default(),
            "--squash" => config.id_map = IdMap::Squash,
            root => {
                config.root = Root::Dir(PathBuf::from(root));
                break;
            }
        }
    }
    config.argv = args.cloned().collect();
    let containers = std::env::var_os("CONTAINERS")
        .map_or_else(|| std::env::temp_dir().join("rrun-example"), PathBuf::from);
    config.ids_argv = vec!["/proc/self/exe".into(), "__ids".into()];
    let dir = container::create(&containers, &config)?;
    let monitor: Vec<OsString> = vec![
        "/proc/self/exe".into(),
        "__monitor".into(),
        dir.clone().into(),
    ];
    let (rows, columns) = rrun_runner::terminal_size(std::io::stdout()).unwrap_or_default();
    let options = StartOptions {
        rows,
        columns,
        attach: true,
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
