//! The container's output as Docker's json-file lines, or as lines of the CRI.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{LogConfig, LogDriver};

/// Longest text of one record in bytes; longer lines are split, as Docker splits them.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Most files a log is kept in, whatever was asked for.
const LOG_FILES_MAX: u32 = 1000;

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of `log.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The text; ends with a line feed unless the line goes on in the next record.
    pub log: String,
    /// Where it came from.
    pub stream: Stream,
    /// When it was read, RFC 3339 with nanoseconds.
    pub time: String,
}

/// The file of a container's directory that holds its output.
pub const LOG_FILE: &str = "log.json";

/// Writes the log: whole lines, an unfinished one at the end of its stream.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: Option<File>,
    config: LogConfig,
    size_bytes: u64,
    partial: [Vec<u8>; 2],
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl LogWriter {
    pub(crate) fn open(path: &Path, config: &LogConfig) -> io::Result<Self> {
        let file = match config.driver {
            LogDriver::None => None,
            LogDriver::JsonFile | LogDriver::K8sFile => Some(append_to(path)?),
        };
        let size_bytes = match &file {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            config: config.clone(),
            size_bytes,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes output; writes the lines it completes.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], time: &str) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let driver = self.config.driver;
        let mut out = Vec::with_capacity(bytes.len() + 128);
        let mut ends = Vec::new();
        let partial = self.partial_of(stream);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = line;
            loop {
                let room = LINE_BYTES_MAX.saturating_sub(partial.len());
                let (now, later) = rest.split_at(room.min(rest.len()));
                partial.extend_from_slice(now);
                let complete = partial.ends_with(b"\n") || partial.len() >= LINE_BYTES_MAX;
                if !complete {
                    break;
                }
                record(&mut out, driver, stream, partial, time)?;
                ends.push(out.len());
                partial.clear();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        }
        if self.config.size_max_bytes.is_none() {
            return self.put(&out);
        }
        let mut start = 0;
        for end in ends {
            self.put(out.get(start..end).unwrap_or_default())?;
            start = end;
        }
        Ok(())
    }

    /// Writes what a stream left unfinished.
    pub(crate) fn finish(&mut self, stream: Stream, time: &str) -> io::Result<()> {
        let partial = std::mem::take(self.partial_of(stream));
        let mut out = Vec::new();
        if !partial.is_empty() && self.file.is_some() {
            record(&mut out, self.config.driver, stream, &partial, time)?;
        }
        self.put(&out)
    }

    /// Writes whole records, to a new file when the old one is full.
    fn put(&mut self, records: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let length = u64::try_from(records.len()).unwrap_or(u64::MAX);
        if let Some(bound) = self.config.size_max_bytes
            && self.size_bytes > 0
            && self.size_bytes.saturating_add(length) > bound
        {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.write_all(records)?;
        self.size_bytes = self.size_bytes.saturating_add(length);
        Ok(())
    }

    /// `log.json` becomes `log.json.1`, that `log.json.2`; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let kept = self.config.files_max.saturating_sub(1).min(LOG_FILES_MAX);
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..kept).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if kept > 0 {
            std::fs::rename(&self.path, numbered(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        self.file = Some(append_to(&self.path)?);
        self.size_bytes = 0;
        Ok(())
    }

    fn partial_of(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.partial;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

fn record(
    out: &mut Vec<u8>,
    driver: LogDriver,
    stream: Stream,
    text: &[u8],
    time: &str,
) -> io::Result<()> {
    if driver == LogDriver::K8sFile {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let (text, tag) = match text.strip_suffix(b"\n") {
            Some(text) => (text, 'F'),
            None => (text, 'P'),
        };
        write!(out, "{time} {name} {tag} ")?;
        out.extend_from_slice(text);
        out.push(b'\n');
        return Ok(());
    }
    let log = String::from_utf8_lossy(text).into_owned();
    let record = Record {
        log,
        stream,
        time: time.to_owned(),
    };
    serde_json::to_writer(&mut *out, &record)?;
    out.push(b'\n');
    Ok(())
}

impl Record {
    /// Reads a line of a log of either form; `None` when it is damaged.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        if line.starts_with('{') {
            return serde_json::from_str(line).ok();
        }
        let mut words = line.splitn(4, ' ');
        let time = words.next()?.to_owned();
        let stream = match words.next()? {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = match words.next()? {
            "F" => true,
            "P" => false,
            _ => return None,
        };
        let text = words.next().unwrap_or_default();
        let text = text.strip_suffix('\n').unwrap_or(text);
        let end = if whole { "\n" } else { "" };
        Some(Self {
            log: format!("{text}{end}"),
            stream,
            time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_split_and_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path, &LogConfig::default()).unwrap();
        log.write(Stream::Stdout, b"one\ntw", "T").unwrap();
        log.write(Stream::Stderr, b"err\n", "T").unwrap();
        log.write(Stream::Stdout, b"o\n", "T").unwrap();
        log.write(Stream::Stdout, &vec![b'x'; LINE_BYTES_MAX + 3], "T")
            .unwrap();
        log.finish(Stream::Stdout, "T").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<Record> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let logs: Vec<(usize, Stream)> = records.iter().map(|r| (r.log.len(), r.stream)).collect();
        let out = Stream::Stdout;
        assert_eq!(
            logs,
            [
                (4, out),
                (4, Stream::Stderr),
                (4, out),
                (LINE_BYTES_MAX, out),
                (3, out)
            ]
        );
        assert!(text.starts_with("{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n"));
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let config = LogConfig {
            driver: LogDriver::K8sFile,
            size_max_bytes: Some(40),
            files_max: 3,
        };
        let mut log = LogWriter::open(&path, &config).unwrap();
        for number in 0..9 {
            let line = format!("line {number}\n");
            log.write(Stream::Stdout, line.as_bytes(), "T").unwrap();
        }
        log.write(Stream::Stderr, b"rest", "T").unwrap();
        log.finish(Stream::Stderr, "T").unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name));
        assert_eq!(
            read("log.json").unwrap(),
            "T stdout F line 8\nT stderr P rest\n"
        );
        assert_eq!(
            read("log.json.1").unwrap(),
            "T stdout F line 6\nT stdout F line 7\n"
        );
        assert_eq!(
            read("log.json.2").unwrap(),
            "T stdout F line 4\nT stdout F line 5\n"
        );
        assert!(read("log.json.3").is_err());
        let record = Record::parse("T stderr P rest\n").unwrap();
        assert_eq!(
            (record.log.as_str(), record.stream),
            ("rest", Stream::Stderr)
        );
        assert_eq!(Record::parse("T stdout F a b\n").unwrap().log, "a b\n");
        assert_eq!(Record::parse("junk"), None);
    }
}
