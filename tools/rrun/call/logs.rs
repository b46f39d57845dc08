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
    /// Lines that were read and not shown yet.
    ahead: VecDeque<Record>,
    /// What each line begins with, when there are several logs.
    prefix: String,
    /// Whether the last line that was printed is whole.
    whole: bool,
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
            ahead: VecDeque::new(),
            dir,
            prefix,
            whole: true,
        })
    }

    /// Skips all that is there now but the last `tail` lines.
    fn keep_last(&mut self, wanted: &Wanted, tail: usize) -> Result<(), Failure> {
        while let Some(record) = self.tape.next()? {
            if wanted.includes(&record) {
                self.ahead.push_back(record);
                // No more than asked for is kept, however long the log.
                if self.ahead.len() > tail {
                    self.ahead.pop_front();
                }
            }
        }
        Ok(())
    }

    /// The next line to be shown, and when it was written; it stays until it is shown.
    fn head(&mut self, wanted: &Wanted) -> Result<Option<Timestamp>, Failure> {
        while self.ahead.is_empty() {
            match self.tape.next()? {
                Some(record) if wanted.includes(&record) => self.ahead.push_back(record),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let time = self
            .ahead
            .front()
            .and_then(|record| record.time.parse().ok());
        // A line without a time waits for nobody.
        Ok(Some(time.unwrap_or(Timestamp::MIN)))
    }

    fn show_head(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        match self.ahead.pop_front() {
            Some(record) => print(&record, wanted, &self.prefix, &mut self.whole),
            None => Ok(()),
        }
    }
}

/// Shows what is there of all logs, in the order in which it was written, up to `bound`.
fn show(all: &mut [Shown], wanted: &Wanted, bound: Timestamp) -> Result<(), Failure> {
    loop {
        let mut first: Option<(Timestamp, usize)> = None;
        for (number, one) in all.iter_mut().enumerate() {
            if let Some(time) = one.head(wanted)?
                && time <= bound
                && first.is_none_or(|(before, _)| time < before)
            {
                first = Some((time, number));
            }
        }
        let next = first.and_then(|(_, number)| all.get_mut(number));
        let Some(next) = next else { return Ok(()) };
        next.show_head(wanted)?;
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
    if let Some(tail) = tail {
        for one in &mut all {
            one.keep_last(&wanted, tail)?;
        }
    }
    let several = all.len() > 1;
    let mut going = args.follow;
    while going && !wanted.over() {
        // What is written while we look is shown in the next look, when the others had theirs too.
        let bound = if several {
            Timestamp::now()
        } else {
            Timestamp::MAX
        };
        going = false;
        for one in &all {
            // One that is gone was removed at its end; what it wrote is still open here.
            going |= monitor_alive(&one.dir).unwrap_or(false);
        }
        show(&mut all, &wanted, bound)?;
        if going {
            std::thread::sleep(Duration::from_millis(FOLLOW_MS));
        }
    }
    // The monitors were looked at before the last look, so nothing written before an end is missed.
    show(&mut all, &wanted, Timestamp::MAX)?;
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

    /// The next whole record; `None` when there is none yet.
    fn next(&mut self) -> Result<Option<Record>, Failure> {
        while let Some(reader) = self.older.last_mut() {
            if let Some(record) = next_in(reader, &mut self.partial)? {
                return Ok(Some(record));
            }
            self.older.pop();
        }
        loop {
            if self.reader.is_none() {
                self.reader = open(&self.path)?;
            }
            let Some(reader) = &mut self.reader else {
                return Ok(None);
            };
            if let Some(record) = next_in(reader, &mut self.partial)? {
                return Ok(Some(record));
            }
            let current = std::fs::metadata(&self.path).map(|data| data.ino()).ok();
            let ours = reader.get_ref().metadata()?.ino();
            if current.is_none() || current == Some(ours) {
                return Ok(None);
            }
            // It was put aside, maybe after we looked: what it got until then is read.
            if let Some(record) = next_in(reader, &mut self.partial)? {
                return Ok(Some(record));
            }
            self.reader = None;
        }
    }
}

fn next_in(reader: &mut BufReader<File>, partial: &mut Vec<u8>) -> Result<Option<Record>, Failure> {
    loop {
        let count = reader.read_until(b'\n', partial)?;
        if !partial.ends_with(b"\n") {
            if count == 0 {
                return Ok(None);
            }
            continue;
        }
        let line = String::from_utf8_lossy(partial).into_owned();
        partial.clear();
        // A damaged line hides itself, not the rest of the log.
        if let Some(record) = Record::parse(&line) {
            return Ok(Some(record));
        }
    }
}
