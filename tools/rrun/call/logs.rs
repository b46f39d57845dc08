//! `rrun logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rrun_runner::{ContainerConfig, LOG_FILE, LogDriver, Record, Stream, monitor_alive, names};

use super::moment;
use crate::args::LogsArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// Between two looks at a growing log: short enough to seem immediate.
const FOLLOW_MS: u64 = 50;

/// What is wanted of a log.
struct Wanted {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    timestamps: bool,
}

impl Wanted {
    fn includes(&self, record: &Record) -> bool {
        let Ok(time) = record.time.parse::<Timestamp>() else {
            return true;
        };
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }

    /// Whether nothing more can be wanted.
    fn over(&self) -> bool {
        self.until.is_some_and(|until| Timestamp::now() > until)
    }
}

/// One container's log, being shown.
struct Shown {
    dir: PathBuf,
    tape: Tape,
    /// What each line begins with, when there are several logs.
    prefix: String,
    /// Whether the last line that was printed is whole.
    whole: bool,
    alive: bool,
}

impl Shown {
    fn open(name: &str, args: &LogsArgs, environment: &Environment) -> Result<Self, Failure> {
        let dir = names::resolve(&environment.containers(), name)?;
        let config = ContainerConfig::load(&dir)?;
        if config.log.driver == LogDriver::None {
            return Err(Failure::general(
                "configured logging driver does not support reading",
            ));
        }
        let prefix = match (args.containers.len(), args.names) {
            (1, false) => String::new(),
            (_, true) => format!("{} ", config.name),
            (_, false) => format!("{} ", config.id.get(..12).unwrap_or(&config.id)),
        };
        Ok(Self {
            tape: Tape::open(&dir)?,
            dir,
            prefix,
            whole: true,
            alive: true,
        })
    }

    /// What is there now, the last `tail` lines of it.
    fn first(&mut self, wanted: &Wanted, tail: Option<usize>) -> Result<(), Failure> {
        let mut records = VecDeque::new();
        self.tape.read(&mut |record| {
            if wanted.includes(&record) {
                records.push_back(record);
                // No more than asked for is kept, however long the log.
                if tail.is_some_and(|tail| records.len() > tail) {
                    records.pop_front();
                }
            }
            Ok(())
        })?;
        for record in &records {
            print(record, wanted, &self.prefix, &mut self.whole)?;
        }
        Ok(())
    }

    /// What was written since.
    fn more(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        // One that is gone was removed at its end; what it wrote is still open here.
        self.alive = monitor_alive(&self.dir).unwrap_or(false);
        let Self {
            tape,
            prefix,
            whole,
            ..
        } = self;
        tape.read(&mut |record| {
            if wanted.includes(&record) {
                print(&record, wanted, prefix, whole)?;
            }
            Ok(())
        })
    }
}

fn print(record: &Record, wanted: &Wanted, prefix: &str, whole: &mut bool) -> Result<(), Failure> {
    let mut text = String::new();
    if *whole {
        text.push_str(prefix);
    }
    if wanted.timestamps {
        text.push_str(&record.time);
        text.push(' ');
    }
    text.push_str(&record.log);
    *whole = record.log.ends_with('\n');
    match record.stream {
        Stream::Stdout => report::text_out(&text),
        Stream::Stderr => {
            // Nobody is left to tell when standard error is closed.
            drop(std::io::stderr().lock().write_all(text.as_bytes()));
            Ok(())
        }
    }
}

/// `rrun logs`.
pub(crate) fn logs(args: &LogsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let wanted = Wanted {
        since: args.since.as_deref().map(moment::parse).transpose()?,
        until: args.until.as_deref().map(moment::parse).transpose()?,
        timestamps: args.timestamps,
    };
    let tail = match args.tail.as_str() {
        "all" => None,
        // Docker takes what is no number, or a negative one, for everything.
        text => text.parse::<usize>().ok(),
    };
    let opened = args.containers.iter();
    let mut all = opened
        .map(|name| Shown::open(name, args, environment))
        .collect::<Result<Vec<_>, _>>()?;
    for one in &mut all {
        one.first(&wanted, tail)?;
    }
    while args.follow && !wanted.over() && !all.is_empty() {
        for one in &mut all {
            one.more(&wanted)?;
        }
        // Looked at before the last read, so nothing written before the end is missed.
        all.retain(|one| one.alive);
        if !all.is_empty() {
            std::thread::sleep(Duration::from_millis(FOLLOW_MS));
        }
    }
    Ok(ExitCode::OK)
}

/// A log read through all its files, from the oldest on.
struct Tape {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    /// Files that were put aside, the next one to read last.
    older: Vec<BufReader<File>>,
    /// Of a line that is not whole yet.
    partial: Vec<u8>,
}

fn open(path: &Path) -> Result<Option<BufReader<File>>, Failure> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::of("could not open the log", &error)),
    }
}

impl Tape {
    fn open(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(LOG_FILE);
        let mut tape = Self {
            reader: open(&path)?,
            path,
            older: Vec::new(),
            partial: Vec::new(),
        };
        for number in 1.. {
            match open(&dir.join(format!("{LOG_FILE}.{number}")))? {
                Some(reader) => tape.older.push(reader),
                None => break,
            }
        }
        Ok(tape)
    }

    /// Gives each whole record that was not given yet.
    fn read(&mut self, each: &mut dyn FnMut(Record) -> Result<(), Failure>) -> Result<(), Failure> {
        while let Some(mut reader) = self.older.pop() {
            lines(&mut reader, &mut self.partial, each)?;
        }
        loop {
            if self.reader.is_none() {
                self.reader = open(&self.path)?;
            }
            let Some(reader) = &mut self.reader else {
                return Ok(());
            };
            // Asked before reading: what a file that was put aside got until then is read.
            let current = std::fs::metadata(&self.path).map(|data| data.ino()).ok();
            let ours = reader.get_ref().metadata()?.ino();
            lines(reader, &mut self.partial, each)?;
            if current.is_none() || current == Some(ours) {
                return Ok(());
            }
            self.reader = None;
        }
    }
}

fn lines(
    reader: &mut BufReader<File>,
    partial: &mut Vec<u8>,
    each: &mut dyn FnMut(Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let count = reader.read_until(b'\n', partial)?;
        if !partial.ends_with(b"\n") {
            if count == 0 {
                return Ok(());
            }
            continue;
        }
        let line = String::from_utf8_lossy(partial).into_owned();
        partial.clear();
        // A damaged line hides itself, not the rest of the log.
        if let Some(record) = Record::parse(&line) {
            each(record)?;
        }
    }
}
