//! `rrun logs`.

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

    fn show(&self, record: &Record) -> Result<(), Failure> {
        let text = if self.timestamps {
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
}

/// `rrun logs`.
pub(crate) fn logs(args: &LogsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let dir = names::resolve(&environment.containers(), &args.container)?;
    let wanted = Wanted {
        since: args.since.as_deref().map(moment::parse).transpose()?,
        until: args.until.as_deref().map(moment::parse).transpose()?,
        timestamps: args.timestamps,
    };
    if ContainerConfig::load(&dir)?.log.driver == LogDriver::None {
        return Err(Failure::general(
            "configured logging driver does not support reading",
        ));
    }
    let tail = match args.tail.as_str() {
        "all" => None,
        // Docker takes what is no number, or a negative one, for everything.
        text => text.parse::<usize>().ok(),
    };
    let mut tape = Tape::open(&dir)?;
    let mut records = std::collections::VecDeque::new();
    tape.read(&mut |record| {
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
        wanted.show(record)?;
    }
    drop(records);
    while args.follow && !wanted.over() {
        let alive = monitor_alive(&dir)?;
        tape.read(&mut |record| {
            if wanted.includes(&record) {
                wanted.show(&record)?;
            }
            Ok(())
        })?;
        // Looked at before the last read, so nothing written before the end is missed.
        if !alive {
            break;
        }
        std::thread::sleep(Duration::from_millis(FOLLOW_MS));
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
