//! What `ps` shows of one container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use rrun_runner::{Container, Status};
use serde_json::{Map, Value, json};

use crate::call::ground::Ground;
use crate::call::hidden::Parts;
use crate::call::{mount_points, network, within};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::human;
use crate::template;

/// Files looked at to tell a size; a container with more shows what was counted.
const FILES_MAX: usize = 5_000_000;

/// The word for a state, as filters and inspect use it.
pub(crate) fn state_word(one: &Container) -> &'static str {
    match one.state.status {
        Status::Restarting => "restarting",
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        // The runner may come to know more.
        Status::Exited | _ => "exited",
    }
}

/// Whether the monitor waits to start it again.
pub(crate) fn restarting(one: &Container) -> bool {
    one.state.status == Status::Restarting
}

pub(super) fn id(one: &Container, whole: bool) -> String {
    one.config
        .id
        .chars()
        .take(if whole { usize::MAX } else { 12 })
        .collect()
}

/// Seconds from an RFC 3339 time until now.
fn age(time: &str, now: jiff::Timestamp) -> u64 {
    let then: jiff::Timestamp = time.parse().unwrap_or(now);
    u64::try_from(now.as_second() - then.as_second()).unwrap_or(0)
}

/// The STATUS column.
///
/// Source: moby container/state.go, `String`.
fn status_text(one: &Container, now: jiff::Timestamp) -> String {
    let state = &one.state;
    let since = |time: &str| human::duration(age(time, now));
    match state.status {
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(&state.finished_at)
        ),
        Status::Created => "Created".to_owned(),
        Status::Running => match health_text(one) {
            Some(health) => format!("Up {} ({health})", since(&state.started_at)),
            None => format!("Up {}", since(&state.started_at)),
        },
        Status::Paused => format!("Up {} (Paused)", since(&state.started_at)),
        Status::Exited | _ => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(&state.finished_at)
        ),
    }
}

fn health_text(one: &Container) -> Option<String> {
    let health = one.state.health.as_ref()?;
    Some(match health.status.as_str() {
        "starting" => "health: starting".to_owned(),
        other => other.to_owned(),
    })
}

/// Source: moby daemon/container, `Path` and quoted `Args`.
fn command(one: &Container, whole: bool) -> String {
    let words: Vec<String> = one
        .config
        .argv
        .iter()
        .enumerate()
        .map(|(index, word)| {
            if index > 0 && word.contains(' ') {
                format!("'{word}'")
            } else {
                word.clone()
            }
        })
        .collect();
    let text = words.join(" ");
    template::quote(&if whole {
        text
    } else {
        human::ellipsis(&text, 20)
    })
}

fn image(one: &Container, whole: bool) -> String {
    let name = &one.config.image;
    let id = one.config.image_id.trim_start_matches("sha256:");
    let typed = name.trim_start_matches("sha256:");
    let is_id = typed.len() >= 12 && id.starts_with(typed);
    match (is_id, whole) {
        (true, false) => id.chars().take(12).collect(),
        _ => name.clone(),
    }
}

/// Bytes of a container's own changes and of all it stands on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) own: u64,
    pub(crate) all: u64,
}

impl Size {
    /// Counts.
    pub(crate) fn of(one: &Container, environment: &Environment) -> Self {
        let own = own_bytes(one);
        let ground = match Ground::of(&one.config) {
            Ok(Ground::Layers { .. }) => {
                crate::call::images::size_of(environment, &one.config.image_id)
            }
            Ok(Ground::Directory(_)) | Err(_) => 0,
        };
        Self {
            own,
            all: own.saturating_add(ground),
        }
    }

    fn text(self) -> String {
        let own = human::size(self.own);
        if self.all > 0 {
            return format!("{own} (virtual {})", human::size(self.all));
        }
        own
    }
}

/// Bytes of a container's own files.
pub(crate) fn own_bytes(one: &Container) -> u64 {
    let upper = one.dir.join("upper");
    if !within::is_elsewhere(&one.dir, &one.config) {
        return bytes_of(&upper);
    }
    let told = || -> Result<u64, Failure> {
        let parts = Parts::of_self()?;
        let argv = parts.within(&one.dir, parts.size(&upper));
        let output = Command::new(parts.program()).args(&argv[1..]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .map_err(|_| Failure::general("no size was told"))
    };
    // At least what can be seen from here.
    told().unwrap_or_else(|_| bytes_of(&upper))
}

/// Bytes of the files below a directory.
pub(crate) fn bytes_of(dir: &Path) -> u64 {
    let mut left = FILES_MAX;
    bytes_below(dir, &mut left)
}

/// Apparent bytes of the files below a directory; links are not followed.
fn bytes_below(dir: &Path, left: &mut usize) -> u64 {
    let mut total = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        // A directory of another owner, or one that just went, counts for nothing.
        let Ok(entries) = fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return total;
            }
            let Ok(data) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            if data.is_dir() {
                dirs.push(entry.path());
            } else {
                // Sparse files of the union hold only what was written.
                total = total.saturating_add(data.size().min(data.blocks().saturating_mul(512)));
            }
        }
    }
    total
}

/// `2026-01-02 03:04:05 +0000 UTC`: as Go prints a time.
pub(crate) fn local_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S %z %Z")
            .to_string(),
        Err(_) => text.to_owned(),
    }
}

pub(super) fn row(one: &Container, whole: bool, size: Option<Size>, now: jiff::Timestamp) -> Value {
    let config = &one.config;
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let points = mount_points::of(one);
    let mounts: Vec<String> = points
        .iter()
        .map(|point| {
            let name = point.name.as_deref().unwrap_or(&point.source);
            human::ellipsis(name, if whole { usize::MAX } else { 15 })
        })
        .collect();
    let local = points.iter().filter(|point| point.name.is_some()).count();
    let lookup: Map<String, Value> = config
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    json!({
        "Command": command(one, whole),
        "CreatedAt": local_time(&config.created),
        "HealthStatus": one.state.health.as_ref().map_or("", |health| health.status.as_str()),
        "ID": id(one, whole),
        "Image": image(one, whole),
        "Labels": labels.join(","),
        "LocalVolumes": local.to_string(),
        "Mounts": mounts.join(","),
        "Names": config.name,
        "Networks": network::name(one),
        "Ports": network::column(one),
        "RunningFor": format!("{} ago", human::duration(age(&config.created, now))),
        "Size": size.map_or_else(|| "0B".to_owned(), Size::text),
        "State": state_word(one),
        "Status": status_text(one, now),
        "Label": lookup,
    })
}
