//! The OCI runtime: `rrun oci`, or `rrun-oci`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use rrun_runner::oci::{
    self, CreateOptions, ExecOptions, Registry, Resources, RunOptions, Stage, load_process,
};
use serde_json::{Value, json};

use crate::args::oci::{
    OciArgs, OciCommand, OciCreateArgs, OciDeleteArgs, OciExecArgs, OciKillArgs, OciListArgs,
    OciPsArgs, OciSpecArgs, OciUpdateArgs,
};
use crate::environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// The word, or the end of the program's name, that means this.
const WORD: &str = "oci";
/// Exit code of `exec` when there was no process whose code it could be, as with runc.
const EXEC_FAILED: ExitCode = ExitCode(255);

/// Runs the OCI runtime when the command line asks for it; `None` when it is for us.
pub(crate) fn run(argv: &[OsString]) -> Option<ExitCode> {
    let name = Path::new(argv.first()?).file_name()?;
    let words: Vec<&OsString> = if name == "rrun-oci" {
        argv.iter().skip(1).collect()
    } else if argv.get(1).is_some_and(|word| word == WORD) {
        argv.iter().skip(2).collect()
    } else {
        return None;
    };
    let program = OsString::from("rrun-oci");
    let parsed = OciArgs::try_parse_from(std::iter::once(&program).chain(words));
    let args = match parsed {
        Ok(args) => args,
        Err(error) => return Some(usage(&error)),
    };
    if let Err(failure) = check_log(&args) {
        report::failure(&failure);
        return Some(failure.exit_code());
    }
    let log = args.log.clone();
    let json = args.log_format == "json";
    Some(dispatch(args).unwrap_or_else(|failure| {
        if let Some(path) = log {
            write_log(&path, json, &failure.to_string());
        }
        report::failure(&failure);
        failure.exit_code()
    }))
}

fn usage(error: &clap::Error) -> ExitCode {
    let help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let text = error.to_string();
    if help && report::text_out(&text).is_ok() {
        return ExitCode::OK;
    }
    report::failure(&Failure::general(
        text.trim_start_matches("error: ").trim_end(),
    ));
    ExitCode::GENERAL
}

/// An engine that looks for errors in a log must be told when there can be none.
fn check_log(args: &OciArgs) -> Result<(), Failure> {
    if !matches!(args.log_format.as_str(), "text" | "json") {
        let text = format!("unknown log format {}, use text or json", args.log_format);
        return Err(Failure::general(text));
    }
    let Some(path) = &args.log else {
        return Ok(());
    };
    let what = format!("could not open the log {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o644).open(path);
    opened.map(drop).map_err(|error| Failure::of(&what, &error))
}

/// Writes an error where the engine looks for it. A log that cannot be written changes nothing:
/// the error is also on standard error.
fn write_log(path: &Path, as_json: bool, text: &str) {
    let time = jiff::Timestamp::now().to_string();
    let line = if as_json {
        json!({"level": "error", "msg": text, "time": time}).to_string()
    } else {
        let quoted = Value::from(text);
        format!("time=\"{time}\" level=error msg={quoted}")
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.append(true).create(true).mode(0o644).open(path);
    let _unwritten = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn dispatch(args: OciArgs) -> Result<ExitCode, Failure> {
    if args.version {
        let version = format!("rrun-oci version {}\nspec: 1.2.0", super::VERSION);
        return report::line(&version).map(|()| ExitCode::OK);
    }
    let Some(command) = args.command else {
        return Err(Failure::general("no command given").hint("see 'rrun oci --help'"));
    };
    let registry = Registry::new(args.root.unwrap_or_else(environment::oci_root));
    match command {
        OciCommand::Create(create) => {
            oci::create(&registry, &create.id, &create_options(&create)?)?;
        }
        OciCommand::Start(start) => oci::start(&registry, &start.id)?,
        OciCommand::Run(run) => {
            let how = RunOptions {
                detach: run.detach,
                keep: run.keep,
            };
            let options = create_options(&run.create)?;
            let outcome = oci::run(&registry, &run.create.id, &options, how)?;
            warn(&outcome.warnings);
            return code(outcome.code);
        }
        OciCommand::State(state) => {
            let container = registry.load(&state.id)?;
            let stage = container.stage();
            if stage == Stage::Creating && container.record.pid == 0 {
                let text = format!("container {} is not created yet", state.id);
                return Err(Failure::general(text));
            }
            print_json(&container.state(stage))?;
        }
        OciCommand::Kill(kill) => send_signal(&registry, &kill)?,
        OciCommand::Delete(delete) => remove(&registry, &delete)?,
        OciCommand::Exec(exec) => {
            return exec_in(&registry, *exec).map_err(|failure| failure.code(EXEC_FAILED));
        }
        OciCommand::Ps(ps) => processes(&registry, &ps)?,
        OciCommand::List(list) => containers(&registry, &list)?,
        OciCommand::Pause(pause) => oci::freeze(&registry, &pause.id, true)?,
        OciCommand::Resume(resume) => oci::freeze(&registry, &resume.id, false)?,
        OciCommand::Update(update) => {
            oci::update(&registry, &update.id, &bounds(&update)?)?;
        }
        OciCommand::Features => print_json(&oci::features())?,
        OciCommand::Spec(spec) => write_spec(&spec)?,
    }
    Ok(ExitCode::OK)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        report::warn(warning);
    }
}

fn code(code: i32) -> Result<ExitCode, Failure> {
    Ok(ExitCode(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)?;
    report::line(&text)
}

fn create_options(args: &OciCreateArgs) -> Result<CreateOptions, Failure> {
    Ok(CreateOptions {
        bundle: args.bundle.clone(),
        config: args.config.clone(),
        pid_file: args.pid_file.clone(),
        console_socket: args.console_socket.clone(),
        no_pivot: args.no_pivot,
        preserved_fds: args.preserve_fds,
        listen_fds: environment::listen_fds()?,
        notify_socket: environment::notify_socket(),
    })
}

fn send_signal(registry: &Registry, args: &OciKillArgs) -> Result<(), Failure> {
    let signal = rrun_runner::parse_signal(&args.signal)
        .ok_or_else(|| Failure::general(format!("unknown signal {}", args.signal)))?;
    Ok(oci::kill(registry, &args.id, signal, args.all)?)
}

fn remove(registry: &Registry, args: &OciDeleteArgs) -> Result<(), Failure> {
    if !args.regex {
        warn(&oci::delete(registry, &args.id, args.force)?);
        return Ok(());
    }
    for id in registry.ids()? {
        if matches(&args.id, &id) {
            warn(&oci::delete(registry, &id, args.force)?);
        }
    }
    Ok(())
}

/// Whether a name fits a pattern in which `*` and `.*` stand for any text. What follows the last
/// `*` may be missing, as a regular expression finds its match anywhere.
fn matches(pattern: &str, name: &str) -> bool {
    let plain = pattern.trim_start_matches('^').trim_end_matches('$');
    let mut rest = name;
    for (position, part) in plain.split('*').enumerate() {
        let part = part.trim_end_matches('.');
        let Some(at) = rest.find(part) else {
            return false;
        };
        if position == 0 && at > 0 && pattern.starts_with('^') {
            return false;
        }
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    true
}

fn exec_in(registry: &Registry, args: OciExecArgs) -> Result<ExitCode, Failure> {
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| Failure::general(format!("invalid user id {text}")))
    };
    let user = args.user.as_deref().map(|user| match user.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok::<_, Failure>((number(user)?, None)),
    });
    let options = ExecOptions {
        process: args.process.as_deref().map(load_process).transpose()?,
        args: args.command,
        env: args.env,
        cwd: args.cwd,
        user: user.transpose()?,
        additional_gids: args.additional_gids,
        capabilities: args.cap,
        no_new_privileges: args.no_new_privs,
        terminal: args.tty,
        apparmor_profile: args.apparmor,
        process_label: args.process_label,
        cgroup: args.cgroup,
        ignore_paused: args.ignore_paused,
        detach: args.detach,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        preserved_fds: args.preserve_fds,
    };
    code(oci::exec(registry, &args.id, &options)?)
}

fn processes(registry: &Registry, args: &OciPsArgs) -> Result<(), Failure> {
    let pids = oci::processes(registry, &args.id)?;
    if args.format == "json" {
        return print_json(&json!(pids));
    }
    let lines: Vec<String> = pids.iter().map(i32::to_string).collect();
    report::line(
        &std::iter::once("PID".to_owned())
            .chain(lines)
            .collect::<Vec<_>>()
            .join("\n"),
    )
}

fn containers(registry: &Registry, args: &OciListArgs) -> Result<(), Failure> {
    let ids = registry.ids()?;
    if args.quiet {
        return ids.iter().try_for_each(|id| report::line(id));
    }
    let states: Vec<Value> = ids
        .iter()
        // One that goes meanwhile is not listed.
        .filter_map(|id| registry.load(id).ok())
        .map(|container| container.state(container.stage()))
        .collect();
    if args.format == "json" {
        return print_json(&Value::from(states));
    }
    report::line(&format!(
        "{:<16} {:<8} {:<9} BUNDLE",
        "NAME", "PID", "STATUS"
    ))?;
    for state in states {
        let field = |name: &str| match state.get(name) {
            Some(Value::String(text)) => text.clone(),
            other => other.map(ToString::to_string).unwrap_or_default(),
        };
        let (id, pid, status) = (field("id"), field("pid"), field("status"));
        report::line(&format!(
            "{id:<16} {pid:<8} {status:<9} {}",
            field("bundle")
        ))?;
    }
    Ok(())
}

/// The bounds of a file, or of options; options win.
fn bounds(args: &OciUpdateArgs) -> Result<Resources, Failure> {
    let mut resources = match args.resources.as_deref() {
        None => Resources::default(),
        Some(path) if path == Path::new("-") => serde_json::from_reader(std::io::stdin().lock())?,
        Some(path) => oci::load_resources(path)?,
    };
    let own: Value = json!({
        "memory": {
            "limit": args.memory,
            "reservation": args.memory_reservation,
            "swap": args.memory_swap,
            "kernel": args.kernel_memory,
            "kernelTCP": args.kernel_memory_tcp,
        },
        "cpu": {
            "shares": args.cpu_share,
            "quota": args.cpu_quota,
            "period": args.cpu_period,
            "realtimeRuntime": args.cpu_rt_runtime,
            "realtimePeriod": args.cpu_rt_period,
            "cpus": args.cpuset_cpus,
            "mems": args.cpuset_mems,
        },
        "pids": { "limit": args.pids_limit },
        "blockIO": { "weight": args.blkio_weight },
    });
    let some = |name: &str| {
        let fields = own.get(name).and_then(Value::as_object);
        fields.is_some_and(|fields| fields.values().any(|value| !value.is_null()))
    };
    let typed: Resources = serde_json::from_value(own.clone())?;
    if some("memory") {
        resources.memory = typed.memory;
    }
    if some("cpu") {
        resources.cpu = typed.cpu;
    }
    if some("pids") {
        resources.pids = typed.pids;
    }
    if some("blockIO") {
        resources.block_io = typed.block_io;
    }
    Ok(resources)
}

fn write_spec(args: &OciSpecArgs) -> Result<(), Failure> {
    let ids = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let text = serde_json::to_string_pretty(&oci::template(args.rootless.then_some(ids)))?;
    let path: PathBuf = args.bundle.join("config.json");
    let mut options = std::fs::OpenOptions::new();
    let what = format!("could not write {}", path.display());
    let file = options.write(true).create_new(true).mode(0o644).open(&path);
    let written = file.and_then(|mut file| writeln!(file, "{text}"));
    written.map_err(|error| Failure::of(&what, &error))
}

#[cfg(test)]
mod tests {
    #[test]
    fn patterns_match_as_crun_matches_them() {
        let cases = [
            ("test-*", "test-1", true),
            ("test-.*", "test-1", true),
            ("^b", "ab", false),
            ("b", "ab", true),
            ("x*y", "axbyc", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(
                super::matches(pattern, name),
                expected,
                "input {pattern} {name}"
            );
        }
    }
}
