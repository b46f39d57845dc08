//! `rrun top`: the processes of a container as the host sees them.

use std::fs;
use std::process::Command;

use rrun_runner::{Status, container, names, read_state};

use crate::args::TopArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::{report, table};

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

/// Clock ticks in a second, as /proc counts. Source: `proc_pid_stat(5)`; fixed since Linux 2.6.
pub(crate) const TICKS_PER_S: u64 = 100;

/// `rrun top`.
pub(crate) fn top(args: &TopArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let Some((name, options)) = args.words.split_first() else {
        return Ok(ExitCode::OK);
    };
    let dir = names::resolve(&environment.containers(), name)?;
    let status = read_state(&dir)?.status;
    if status != Status::Running && status != Status::Paused {
        return Err(Failure::general(format!("container {name} is not running")));
    }
    let pids = container::processes(&dir)?;
    let rows = if options.is_empty() {
        let mut rows = vec![TITLES.map(ToOwned::to_owned).to_vec()];
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        rows.extend(pids.iter().filter_map(|pid| row(*pid, &users)));
        rows
    } else {
        with_ps(options, &pids)?
    };
    report::text_out(&table::columns(&rows))?;
    Ok(ExitCode::OK)
}

/// What the host's `ps` says with these options, of our processes.
fn with_ps(options: &[String], pids: &[i32]) -> Result<Vec<Vec<String>>, Failure> {
    let output = Command::new("ps")
        .args(options)
        .output()
        .map_err(|error| Failure::of("could not run ps, which options of top are for", &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::general(format!("ps: {}", said.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(ToOwned::to_owned)
        .collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Failure::general("couldn't find PID field in ps output"));
    };
    let count = titles.len();
    let rows = lines.filter_map(|line| {
        let mut cells: Vec<String> = line.split_whitespace().map(ToOwned::to_owned).collect();
        let pid: i32 = cells.get(column)?.parse().ok()?;
        if !pids.contains(&pid) {
            return None;
        }
        // The last column is a command with spaces.
        let rest = cells.split_off(count.saturating_sub(1).min(cells.len()));
        cells.push(rest.join(" "));
        Some(cells)
    });
    Ok(std::iter::once(titles.clone()).chain(rows).collect())
}

/// Fields of /proc/PID/stat from the third on.
pub(crate) fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name, field 2, may hold spaces and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(ToOwned::to_owned).collect())
}

fn row(pid: i32, users: &str) -> Option<Vec<String>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(ToOwned::to_owned)
    };
    let stat = stat(pid)?;
    let number = |index: usize| stat.get(index).and_then(|text| text.parse::<u64>().ok());
    let uid = field("Uid:")?;
    let user = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    let busy = (number(11)? + number(12)?) / TICKS_PER_S;
    let started = started(number(19)?)?;
    let age = jiff::Timestamp::now().as_second() - started.as_second();
    let share = busy * 100 / u64::try_from(age.max(1)).unwrap_or(1);
    let clock = started
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime(if age < 86_400 { "%H:%M" } else { "%b%d" })
        .to_string();
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let command = if words.is_empty() {
        format!("[{}]", field("Name:")?)
    } else {
        words.join(" ")
    };
    Some(vec![
        user.unwrap_or(uid),
        pid.to_string(),
        field("PPid:")?,
        share.to_string(),
        clock,
        terminal(number(4)?),
        format!("{:02}:{:02}:{:02}", busy / 3600, busy / 60 % 60, busy % 60),
        command,
    ])
}

/// When a process started, from ticks since boot.
fn started(ticks: u64) -> Option<jiff::Timestamp> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: i64 = boot.trim().parse().ok()?;
    let seconds = i64::try_from(ticks / TICKS_PER_S).ok()?;
    jiff::Timestamp::from_second(boot + seconds).ok()
}

/// `pts/0`, or `?` for none. Source: `proc_pid_stat(5)`, `tty_nr`.
fn terminal(device: u64) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_a_row() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = row(pid, "root:x:0:0::/:/bin/sh\n").unwrap();
        assert_eq!(row.len(), TITLES.len());
        assert_eq!(row[1], pid.to_string());
        assert_eq!(terminal(0x8803), "pts/3");
        assert_eq!(terminal(0), "?");
    }
}
