//! Commands on containers that exist.

use std::io::{BufRead, BufReader, IsTerminal, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use rrun_runner::exec::{self, ExecSpec};
use rrun_runner::{
    ContainerConfig, Record, RunnerError, StartOptions, Status, Stream, container, monitor_alive,
    names, parse_signal, read_state, start,
};

use super::hidden::Parts;
use super::run::failed;
use super::volume;
use crate::args::{ExecArgs, KillArgs, LogsArgs, RenameArgs, RmArgs, StopArgs, TopArgs, WaitArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{report, request};

/// Between two looks at a growing log: short enough to seem immediate.
const FOLLOW_MS: u64 = 50;

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
    if let Some(name) = &args.signal {
        match container::kill(dir, signal(name)?) {
            Ok(()) | Err(RunnerError::NotRunning(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(container::stop(dir, patience(args.time, &config))?)
}

/// `rrun stop`.
pub(crate) fn stop(args: &StopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    each(&args.containers, environment, |dir| stop_one(dir, args))
}

/// `rrun restart`.
pub(crate) fn restart(args: &StopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    each(&args.containers, environment, |dir| {
        stop_one(dir, args)?;
        container::cleanup(dir)?;
        start(
            dir,
            &Parts::of_self()?.monitor(dir),
            &StartOptions::default(),
        )?;
        Ok(())
    })
}

fn signal(name: &str) -> Result<i32, Failure> {
    parse_signal(name).ok_or_else(|| Failure::general(format!("invalid signal: {name}")))
}

/// `rrun kill`.
pub(crate) fn kill(args: &KillArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let signal = signal(&args.signal)?;
    each(&args.containers, environment, |dir| {
        Ok(container::kill(dir, signal)?)
    })
}

/// `rrun wait`: prints exit codes.
pub(crate) fn wait(args: &WaitArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    for name in &args.containers {
        let dir = names::resolve(&environment.containers(), name)?;
        report::line(&container::wait(&dir)?.to_string())?;
    }
    Ok(ExitCode::OK)
}

/// `rrun rm`.
pub(crate) fn rm(args: &RmArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::OK;
    for name in &args.containers {
        match rm_one(name, args, environment) {
            Ok(()) => report::line(name)?,
            Err(failure) => {
                report::failure(&failure);
                code = ExitCode::GENERAL;
            }
        }
    }
    Ok(code)
}

fn rm_one(name: &str, args: &RmArgs, environment: &Environment) -> Result<(), Failure> {
    let dir = match names::resolve(&environment.containers(), name) {
        // Docker too finds nothing wrong with forcing away what is not there.
        Err(RunnerError::NoSuchContainer(_)) if args.force => {
            report::note(&format!("rrun: no such container: {name}"));
            return Ok(());
        }
        other => other?,
    };
    let id = dir
        .file_name()
        .map(|id| id.to_string_lossy().into_owned())
        .unwrap_or_default();
    if let Err(error) = container::remove(&dir, args.force) {
        if matches!(error, RunnerError::Running(_)) {
            let text = format!("cannot remove container {name}: container is running");
            return Err(
                Failure::general(text).hint("stop it first, or remove it with 'rrun rm -f'")
            );
        }
        return Err(error.into());
    }
    if args.volumes {
        volume::remove_anonymous(environment, &id)?;
    }
    Ok(())
}

/// `rrun rename`.
pub(crate) fn rename(args: &RenameArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let containers = environment.containers();
    let dir = names::resolve(&containers, &args.container)?;
    let mut config = ContainerConfig::load(&dir)?;
    names::take(&containers, &args.name, &config.id)?;
    let old = std::mem::replace(&mut config.name, args.name.clone());
    if let Err(error) = config.save(&dir) {
        drop(names::release(&containers, &args.name, &config.id));
        return Err(error.into());
    }
    names::release(&containers, &old, &config.id)?;
    Ok(ExitCode::OK)
}

/// `rrun exec`.
pub(crate) fn exec_in(args: ExecArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let request = request::exec(args)?;
    let dir = names::resolve(&environment.containers(), &request.container)?;
    let state = read_state(&dir)?;
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
    };
    let code = exec::run(&dir, &spec).map_err(failed)?;
    Ok(ExitCode(u8::try_from(code).unwrap_or(255)))
}

/// `rrun logs`.
pub(crate) fn logs(args: &LogsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let dir = names::resolve(&environment.containers(), &args.container)?;
    let since = args.since.as_deref().map(moment).transpose()?;
    let until = args.until.as_deref().map(moment).transpose()?;
    let tail =
        match args.tail.as_str() {
            "all" => None,
            text => Some(text.parse::<usize>().map_err(|_| {
                Failure::general(format!("invalid argument {text:?} for \"--tail\""))
            })?),
        };
    let wanted = |record: &Record| {
        let time = record.time.parse::<jiff::Timestamp>().ok();
        let after = |bound: Option<jiff::Timestamp>| bound.zip(time).is_none_or(|(b, t)| t >= b);
        let before = |bound: Option<jiff::Timestamp>| bound.zip(time).is_none_or(|(b, t)| t <= b);
        after(since) && before(until)
    };
    let path = dir.join("log.json");
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !args.follow => {
            return Ok(ExitCode::OK);
        }
        Err(error) => return Err(Failure::of("could not open the log", &error)),
    };
    let mut reader = BufReader::new(file);
    let mut records = Vec::new();
    let mut position = 0;
    read_records(&mut reader, &mut position, &mut |record| {
        if wanted(&record) {
            records.push(record);
        }
        Ok(())
    })?;
    let skip = tail.map_or(0, |tail| records.len().saturating_sub(tail));
    for record in records.iter().skip(skip) {
        show(record, args.timestamps)?;
    }
    loop {
        let alive = monitor_alive(&dir)?;
        read_records(&mut reader, &mut position, &mut |record| {
            if wanted(&record) {
                show(&record, args.timestamps)
            } else {
                Ok(())
            }
        })?;
        // Looked at before the last read, so nothing written before the end is missed.
        if !alive || !args.follow {
            break;
        }
        std::thread::sleep(Duration::from_millis(FOLLOW_MS));
    }
    Ok(ExitCode::OK)
}

/// Reads whole records from `position` on; an unfinished line is left for the next time.
fn read_records(
    reader: &mut BufReader<std::fs::File>,
    position: &mut u64,
    each: &mut dyn FnMut(Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    reader.seek(SeekFrom::Start(*position))?;
    let mut line = String::new();
    loop {
        line.clear();
        let count = reader.read_line(&mut line)?;
        if count == 0 || !line.ends_with('\n') {
            return Ok(());
        }
        *position += u64::try_from(count).unwrap_or(0);
        // A damaged line hides itself, not the rest of the log.
        if let Ok(record) = serde_json::from_str(&line) {
            each(record)?;
        }
    }
}

fn show(record: &Record, timestamps: bool) -> Result<(), Failure> {
    let text = if timestamps {
        format!("{} {}", record.time, record.log)
    } else {
        record.log.clone()
    };
    match record.stream {
        Stream::Stdout => report::text_out(&text),
        Stream::Stderr => {
            // Nobody is left to tell when standard error is closed.
            drop(std::io::stderr().lock().write_all(text.as_bytes()));
            Ok(())
        }
    }
}

/// A time as `--since` takes it: RFC 3339, seconds since the epoch, or how long ago.
fn moment(text: &str) -> Result<jiff::Timestamp, Failure> {
    let bad = || Failure::general(format!("invalid time {text:?}"));
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return jiff::Timestamp::from_second(seconds).map_err(|_| bad());
    }
    let ago = duration(text).ok_or_else(bad)?;
    jiff::Timestamp::now().checked_sub(ago).map_err(|_| bad())
}

/// A duration such as `1h30m` or `10s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let (unit, used) = match tail.as_bytes() {
            [b'm', b's', ..] => (Duration::from_millis(1), 2),
            [b'h', ..] => (Duration::from_secs(3600), 1),
            [b'm', ..] => (Duration::from_secs(60), 1),
            [b's', ..] => (Duration::from_secs(1), 1),
            _ => return None,
        };
        total += unit.checked_mul(u32::try_from(number).ok()?)?;
        rest = &tail[used..];
    }
    (!text.is_empty()).then_some(total)
}

/// `rrun top`: the processes in the container's process namespace.
pub(crate) fn top(args: &TopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let dir = names::resolve(&environment.containers(), &args.container)?;
    let state = read_state(&dir)?;
    if state.status != Status::Running {
        return Err(Failure::general(format!(
            "container {} is not running",
            args.container
        )));
    }
    let mut rows = vec![
        ["UID", "PID", "PPID", "CMD"]
            .map(ToOwned::to_owned)
            .to_vec(),
    ];
    for pid in container::processes(&dir)? {
        rows.extend(process_row(&pid.to_string()));
    }
    report::text_out(&crate::table::columns(&rows))?;
    Ok(ExitCode::OK)
}

fn process_row(pid: &str) -> Option<Vec<String>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(ToOwned::to_owned)
    };
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    Some(vec![
        field("Uid:")?,
        pid.to_owned(),
        field("PPid:")?,
        words.join(" "),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "h", "1x"] {
            assert_eq!(duration(bad), None, "input {bad:?}");
        }
    }
}
