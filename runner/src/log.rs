//! The container's output as Docker's json-file lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Longest text of one record in bytes; longer lines are split, as Docker splits them.
const LINE_BYTES_MAX: usize = 16 << 10;

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

/// Writes `log.json`: whole lines, an unfinished one at the end of its stream.
#[derive(Debug)]
pub(crate) struct LogWriter {
    file: File,
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            file,
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Takes output; writes the lines it completes.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], time: &str) -> io::Result<()> {
        let mut out = Vec::with_capacity(bytes.len() + 128);
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
                record(&mut out, stream, partial, time)?;
                partial.clear();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        }
        self.file.write_all(&out)
    }

    /// Writes what a stream left unfinished.
    pub(crate) fn finish(&mut self, stream: Stream, time: &str) -> io::Result<()> {
        let partial = std::mem::take(self.partial_of(stream));
        let mut out = Vec::new();
        if !partial.is_empty() {
            record(&mut out, stream, &partial, time)?;
        }
        self.file.write_all(&out)
    }

    fn partial_of(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.partial;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

fn record(out: &mut Vec<u8>, stream: Stream, text: &[u8], time: &str) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_split_and_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let mut log = LogWriter::open(&path).unwrap();
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
}
