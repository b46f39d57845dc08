//! `rrun stats`: what containers use, from /proc and, where there are some, control groups.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rrun_runner::{Container, Status, container, names};
use serde_json::{Value, json};

use super::ps::newest_first;
use super::top::{TICKS_PER_S, stat};
use crate::args::StatsArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::human;
use crate::report::{self, Column, Format};

const COLUMNS: [Column; 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// Between two looks, whose difference is the processor's share.
const PERIOD: Duration = Duration::from_secs(1);
/// The same when only one picture is wanted: long enough for a hundred ticks of two processors.
const ONCE: Duration = Duration::from_millis(500);

/// What a container has used at one moment.
#[derive(Debug, Clone, Default)]
struct Usage {
    cpu_us: u64,
    memory_bytes: u64,
    limit_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
    processes: usize,
}

/// `rrun stats`.
pub(crate) fn stats(args: &StatsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let kept = environment.client_setting("statsFormat");
    let format = Format::parse(args.format.as_deref().or(kept.as_deref()))?;
    let mut before: BTreeMap<String, (Instant, Usage)> = BTreeMap::new();
    for one in chosen(args, environment)? {
        before.insert(one.config.id.clone(), (Instant::now(), usage(&one)));
    }
    loop {
        std::thread::sleep(if args.no_stream { ONCE } else { PERIOD });
        let mut rows = Vec::new();
        let mut now = BTreeMap::new();
        for one in chosen(args, environment)? {
            let current = (Instant::now(), usage(&one));
            rows.push(row(
                &one,
                before.get(&one.config.id),
                &current,
                args.no_trunc,
            ));
            now.insert(one.config.id.clone(), current);
        }
        if !args.no_stream && matches!(format, Format::Table | Format::TableOf(_)) {
            report::text_out("\x1b[2J\x1b[H")?;
        }
        report::list(&format, &COLUMNS, &rows)?;
        if args.no_stream || report::output_closed() {
            return Ok(ExitCode::OK);
        }
        before = now;
    }
}

/// The containers to show.
fn chosen(args: &StatsArgs, environment: &Environment) -> Result<Vec<Container>, Failure> {
    if !args.containers.is_empty() {
        return args
            .containers
            .iter()
            .map(|name| {
                let dir = names::resolve(&environment.containers(), name)?;
                Ok(container::load(&dir)?)
            })
            .collect();
    }
    let mut all = container::list(&environment.containers())?;
    newest_first(&mut all);
    let up = |one: &Container| matches!(one.state.status, Status::Running | Status::Paused);
    all.retain(|one| args.all || up(one));
    Ok(all)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn usage(one: &Container) -> Usage {
    let Ok(pids) = container::processes(&one.dir) else {
        return Usage::default();
    };
    let mut usage = Usage {
        processes: pids.len(),
        ..Usage::default()
    };
    for pid in &pids {
        add_process(&mut usage, *pid);
    }
    if let Some(pid) = pids.first() {
        add_network(&mut usage, *pid);
    }
    add_groups(&mut usage, &one.state.cgroups);
    if usage.limit_bytes == 0 {
        usage.limit_bytes = host_memory();
    }
    usage
}

/// Adds what a process and its ended children used.
fn add_process(usage: &mut Usage, pid: i32) {
    let Some(fields) = stat(pid) else { return };
    // utime, stime, cutime, cstime
    for index in 11..15 {
        let ticks: u64 = fields.get(index).and_then(|f| f.parse().ok()).unwrap_or(0);
        usage.cpu_us += ticks * (1_000_000 / TICKS_PER_S);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    };
    usage.memory_bytes += (kib("RssAnon:") + kib("RssShmem:")) << 10;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    for line in io.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value: u64 = value.trim().parse().unwrap_or(0);
        match name {
            "read_bytes" => usage.read_bytes += value,
            "write_bytes" => usage.written_bytes += value,
            _ => {}
        }
    }
}

fn add_network(usage: &mut Usage, pid: i32) {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    for line in text.lines().skip(2) {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let fields: Vec<u64> = rest
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        usage.received_bytes += fields.first().copied().unwrap_or(0);
        usage.sent_bytes += fields.get(8).copied().unwrap_or(0);
    }
}

/// Groups know better than the sum over processes.
fn add_groups(usage: &mut Usage, groups: &[std::path::PathBuf]) {
    for group in groups {
        let first = |files: [&str; 2]| files.iter().find_map(|file| number(&group.join(file)));
        if let Some(bytes) = first(["memory.current", "memory.usage_in_bytes"]) {
            usage.memory_bytes = bytes;
        }
        let limit = first(["memory.max", "memory.limit_in_bytes"]);
        if let Some(limit) = limit.filter(|limit| *limit < host_memory()) {
            usage.limit_bytes = limit;
        }
        let text = fs::read_to_string(group.join("cpu.stat")).unwrap_or_default();
        let busy = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        if let Some(busy) = busy.and_then(|busy| busy.parse().ok()) {
            usage.cpu_us = busy;
        }
        if let Some(nanos) = number(&group.join("cpuacct.usage")) {
            usage.cpu_us = nanos / 1000;
        }
    }
}

/// All memory of the host in bytes.
pub(crate) fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Hundredths of a per cent as text; whole numbers keep it exact.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = part.saturating_mul(10_000) / whole.max(1);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

fn row(
    one: &Container,
    before: Option<&(Instant, Usage)>,
    (at, now): &(Instant, Usage),
    whole: bool,
) -> Value {
    let cpu = match before {
        Some((then, old)) if now.processes > 0 => {
            let wall = at.duration_since(*then).as_micros();
            percent(
                now.cpu_us.saturating_sub(old.cpu_us),
                u64::try_from(wall).unwrap_or(u64::MAX),
            )
        }
        _ => "0.00%".to_owned(),
    };
    let pair = |left: u64, right: u64| {
        format!(
            "{} / {}",
            human::size_with_precision(left, 3),
            human::size_with_precision(right, 3)
        )
    };
    let up = now.processes > 0;
    let id: String = one
        .config
        .id
        .chars()
        .take(if whole { usize::MAX } else { 12 })
        .collect();
    json!({
        "BlockIO": pair(now.read_bytes, now.written_bytes),
        "CPUPerc": cpu,
        "Container": id,
        "ID": id,
        "MemPerc": if up { percent(now.memory_bytes, now.limit_bytes) } else { "0.00%".to_owned() },
        "MemUsage": format!(
            "{} / {}",
            human::binary_size(now.memory_bytes),
            human::binary_size(if up { now.limit_bytes } else { 0 })
        ),
        "Name": one.config.name,
        "NetIO": pair(now.received_bytes, now.sent_bytes),
        "PIDs": now.processes.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_to_a_hundredth() {
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(5, 2), "250.00%");
        assert_eq!(percent(0, 0), "0.00%");
        let mut usage = Usage::default();
        add_process(&mut usage, i32::try_from(std::process::id()).unwrap());
        assert!(usage.memory_bytes > 0 && host_memory() > usage.memory_bytes);
    }
}
