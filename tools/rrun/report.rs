//! The only place that prints.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this module is for"
)]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use serde_json::Value;

use crate::failure::Failure;
use crate::human;
use crate::table;
use crate::template::{Data, Missing, Template};

/// One column of a table: the field it shows and its title.
pub(crate) type Column = (&'static str, &'static str);

/// What Go calls the rows of a list.
const ROW: Missing = Missing::Typed("*formatter.Context");

/// What the user asked lists to look like.
#[derive(Debug, Clone)]
pub(crate) enum Format {
    /// Docker's table.
    Table,
    /// The same without titles.
    Bare,
    /// One JSON object a line.
    Json,
    /// A table of chosen columns.
    TableOf(Template),
    /// Text per object.
    Text(Template),
}

impl Format {
    /// The same format; a table without its titles.
    pub(crate) fn bare(self) -> Self {
        if matches!(self, Self::Table) {
            return Self::Bare;
        }
        self
    }

    /// Reads `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        Ok(match text {
            None | Some("" | "table") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => {
                let template = |text: &str| {
                    let text = text.trim_matches(' ');
                    Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))
                };
                match text.strip_prefix("table") {
                    Some(rest) => Self::TableOf(template(rest)?),
                    None => Self::Text(template(text)?),
                }
            }
        })
    }
}

/// A line on standard output. A closed pipe ends the program quietly, as with any filter.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    text_out(&format!("{text}\n"))
}

/// Text on standard output, as it is.
pub(crate) fn text_out(text: &str) -> Result<(), Failure> {
    bytes_out(text.as_bytes())
}

/// Bytes on standard output, as they are.
pub(crate) fn bytes_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::of("could not write to standard output", &error)),
    }
}

/// Whether nobody reads standard output any more: what prints for ever must end then.
pub(crate) fn output_closed() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// A line on standard error.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when standard error is closed.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Points standard input, output and error elsewhere, so that whoever waits for them is let go.
pub(crate) fn detach_output() {
    if let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _stdin = rustix::stdio::dup2_stdin(&null);
        let _stdout = rustix::stdio::dup2_stdout(&null);
        let _stderr = rustix::stdio::dup2_stderr(&null);
    }
}

/// A line about something that goes on working, less well.
pub(crate) fn warn(text: &str) {
    note(&format!("WARNING: {text}"));
}

/// The last words of a command that failed.
pub(crate) fn failure(failure: &Failure) {
    note(&format!("rrun: {failure}"));
    if let Some(hint) = failure.hint_text() {
        note(&format!("hint: {hint}"));
    }
}

/// Titles of fields that no table shows unless asked to.
const TITLES: [Column; 24] = [
    ("Availability", "AVAILABILITY"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Containers", "CONTAINERS"),
    ("Digest", "DIGEST"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("HealthStatus", "HEALTH"),
    ("ID", "ID"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Mounts", "MOUNTS"),
    ("Name", "NAME"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Repository", "REPOSITORY"),
    ("Scope", "SCOPE"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// Prints a list.
pub(crate) fn list(format: &Format, columns: &[Column], rows: &[Value]) -> Result<(), Failure> {
    match format {
        Format::Json => {
            for row in rows {
                line(&Data::typed(row).json().to_string())?;
            }
            Ok(())
        }
        Format::Text(template) => {
            for row in rows {
                line(&template.render(row, ROW)?)?;
            }
            Ok(())
        }
        Format::TableOf(template) => {
            let all = [columns, &TITLES].concat();
            let mut cells = vec![split(&template.header(&all, ROW)?)];
            for row in rows {
                cells.push(split(&template.render(row, ROW)?));
            }
            text_out(&table::columns(&cells))
        }
        Format::Table | Format::Bare => {
            let mut cells: Vec<Vec<String>> = Vec::new();
            if matches!(format, Format::Table) {
                let titles = columns.iter().map(|(_, title)| (*title).to_owned());
                cells.push(titles.collect());
            }
            for row in rows {
                cells.push(columns.iter().map(|(field, _)| cell(row, field)).collect());
            }
            text_out(&table::columns(&cells))
        }
    }
}

fn split(text: &str) -> Vec<String> {
    text.split('\t').map(ToOwned::to_owned).collect()
}

fn cell(row: &Value, field: &str) -> String {
    match row.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// Prints objects as `inspect` does: a JSON array, or a template per object.
pub(crate) fn objects(format: Option<&str>, objects: &[Value]) -> Result<(), Failure> {
    let shown = || -> Value { objects.iter().map(|one| Data::typed(one).json()).collect() };
    match format {
        None | Some("") => {
            let text = serde_json::to_string_pretty(&shown())?;
            line(&four_spaces(&text))
        }
        Some("json") => line(&shown().to_string()),
        Some(text) => {
            let template = Template::parse(text)?;
            for object in objects {
                line(&template.render(object, Missing::Raw)?)?;
            }
            Ok(())
        }
    }
}

/// Doubles the indentation of pretty JSON: Docker indents by four.
fn four_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let rest = line.trim_start_matches(' ');
        out.extend(std::iter::repeat_n(' ', 2 * (line.len() - rest.len())));
        out.push_str(rest);
    }
    out
}

/// Progress of work in parts, such as the layers of a pull, on standard error.
///
/// On a terminal each part has a line that is redrawn; elsewhere a line is printed when the
/// state of a part changes, never for mere bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    quiet: bool,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    order: Vec<String>,
    texts: BTreeMap<String, String>,
    drawn: usize,
    last_draw: Option<std::time::Instant>,
}

/// Redrawing more often than this only costs time.
const REDRAW_MS: u128 = 80;

impl Progress {
    /// Progress that prints, unless `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            quiet,
            parts: Mutex::new(Parts::default()),
        }
    }

    /// A line above the parts.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            let mut parts = self.lock();
            parts.drawn = 0;
            note(text);
        }
    }

    /// The state of a part changed.
    pub(crate) fn state(&self, part: &str, text: &str) {
        if self.quiet {
            return;
        }
        let mut parts = self.lock();
        let changed = parts.set(part, text);
        if self.terminal {
            parts.draw(true);
        } else if changed {
            note(&format!("{part}: {text}"));
        }
    }

    /// So many bytes of a part are done.
    pub(crate) fn bytes(&self, part: &str, action: &str, done: u64, total: Option<u64>) {
        if self.quiet || !self.terminal {
            return;
        }
        let text = match total {
            Some(total) if total > 0 => format!(
                "{action} {} {}/{}",
                bar(done, total),
                human::size(done),
                human::size(total)
            ),
            _ => format!("{action} {}", human::size(done)),
        };
        let mut parts = self.lock();
        parts.set(part, &text);
        parts.draw(false);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        // A poisoned lock only means that a thread died between two lines of text.
        self.parts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn bar(done: u64, total: u64) -> String {
    const WIDTH: u64 = 25;
    let filled = (done.min(total).saturating_mul(WIDTH) / total).min(WIDTH);
    let filled = usize::try_from(filled).unwrap_or(0);
    let empty = usize::try_from(WIDTH).unwrap_or(0) - filled;
    format!("[{}>{}]", "=".repeat(filled), " ".repeat(empty))
}

impl Parts {
    fn set(&mut self, part: &str, text: &str) -> bool {
        if !self.texts.contains_key(part) {
            self.order.push(part.to_owned());
        }
        self.texts
            .insert(part.to_owned(), text.to_owned())
            .as_deref()
            != Some(text)
    }

    fn draw(&mut self, now: bool) {
        let recent = self
            .last_draw
            .is_some_and(|last| last.elapsed().as_millis() < REDRAW_MS);
        if recent && !now {
            return;
        }
        self.last_draw = Some(std::time::Instant::now());
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for part in &self.order {
            let text = self.texts.get(part).map_or("", String::as_str);
            out.push_str(&format!("\r\x1b[2K{part}: {text}\n"));
        }
        self.drawn = self.order.len();
        eprint!("{out}");
    }
}

/// Asks a yes/no question; anything but `y` or `yes` is no.
pub(crate) fn confirm(question: &str) -> bool {
    print!("{question} [y/N] ");
    drop(std::io::stdout().flush());
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(_) => matches!(answer.trim(), "y" | "Y" | "yes"),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspect_is_indented_by_four() {
        assert_eq!(
            four_spaces("[\n  {\n    \"a\": 1\n"),
            "[\n    {\n        \"a\": 1"
        );
        assert_eq!(bar(1, 2).len(), 28);
    }
}
