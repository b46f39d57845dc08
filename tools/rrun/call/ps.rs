//! `rrun ps`.

use rrun_runner::{Container, Status, container};
use serde_json::{Value, json};

use super::network;
use crate::args::PsArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::human;
use crate::report::{self, Column, Format};

const COLUMNS: [Column; 7] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
];

/// Keys of `--filter`.
const KEYS: [&str; 11] = [
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network",
    "is-task",
];

/// `rrun ps`.
pub(crate) fn ps(args: &PsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    let filters = filters(&args.filter)?;
    let mut all = container::list(&environment.containers())?;
    all.sort_by(|left, right| right.config.created.cmp(&left.config.created));
    let asks_for_state = filters
        .iter()
        .any(|(key, _)| key == "status" || key == "exited");
    let last = if args.latest { Some(1) } else { args.last };
    let everything = args.all || last.is_some() || asks_for_state;
    let bounds = Bounds::of(&filters, &all)?;
    let shown = all
        .iter()
        .filter(|one| everything || is_up(one))
        .filter(|one| matches(one, &filters) && bounds.include(one))
        .take(last.unwrap_or(usize::MAX));
    if args.quiet {
        for one in shown {
            report::line(&id(one, args.no_trunc))?;
        }
        return Ok(ExitCode::OK);
    }
    let now = jiff::Timestamp::now();
    let rows: Vec<Value> = shown.map(|one| row(one, args.no_trunc, now)).collect();
    report::list(&format, &COLUMNS, &rows)?;
    Ok(ExitCode::OK)
}

fn is_up(one: &Container) -> bool {
    matches!(one.state.status, Status::Running | Status::Paused)
}

/// The word for a state, as filters and inspect use it.
pub(crate) fn state_word(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Exited => "exited",
        _ => "unknown",
    }
}

fn id(one: &Container, whole: bool) -> String {
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
fn status_text(one: &Container, now: jiff::Timestamp) -> String {
    let state = &one.state;
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", human::duration(age(&state.started_at, now))),
        Status::Paused => {
            format!(
                "Up {} (Paused)",
                human::duration(age(&state.started_at, now))
            )
        }
        Status::Exited => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            human::duration(age(&state.finished_at, now))
        ),
        _ => "Unknown".to_owned(),
    }
}

fn command(one: &Container, whole: bool) -> String {
    let text = one.config.argv.join(" ");
    let text = if whole {
        text
    } else {
        human::ellipsis(&text, 20)
    };
    format!("\"{text}\"")
}

fn row(one: &Container, whole: bool, now: jiff::Timestamp) -> Value {
    let config = &one.config;
    let labels: Vec<String> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mounts: Vec<String> = config
        .mounts
        .iter()
        .map(|mount| mount.target.display().to_string())
        .collect();
    json!({
        "Command": command(one, whole),
        "CreatedAt": config.created,
        "ID": id(one, whole),
        "Image": config.image,
        "Labels": labels.join(","),
        "LocalVolumes": "0",
        "Mounts": mounts.join(","),
        "Names": config.name,
        "Networks": network::name(one),
        "Ports": network::column(one),
        "RunningFor": format!("{} ago", human::duration(age(&config.created, now))),
        "Size": "0B",
        "State": state_word(one.state.status),
        "Status": status_text(one, now),
    })
}

fn filters(words: &[String]) -> Result<Vec<(String, String)>, Failure> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| Failure::general(format!("invalid filter '{word}'")))?;
            if KEYS.contains(&key) {
                Ok((key.to_owned(), value.to_owned()))
            } else {
                Err(Failure::general(format!("invalid filter '{key}'"))
                    .hint(format!("there are: {}", KEYS.join(", "))))
            }
        })
        .collect()
}

/// One key given several times means any of the values; different keys must all match.
fn matches(one: &Container, filters: &[(String, String)]) -> bool {
    filters.iter().all(|(key, _)| {
        filters
            .iter()
            .filter(|(other, _)| other == key)
            .any(|(_, value)| match_one(one, key, value))
    })
}

fn match_one(one: &Container, key: &str, value: &str) -> bool {
    let config = &one.config;
    match key {
        "id" => config.id.starts_with(value),
        "name" => match_name(&config.name, value),
        "label" => match value.split_once('=') {
            Some((key, value)) => config.labels.get(key).is_some_and(|found| found == value),
            None => config.labels.contains_key(value),
        },
        "status" => state_word(one.state.status) == value,
        "exited" => one.state.status == Status::Exited && one.state.exit_code.to_string() == value,
        "ancestor" => {
            config.image == value
                || config.image == format!("{value}:latest")
                || format!("{}:latest", config.image) == value
                || config
                    .image_id
                    .trim_start_matches("sha256:")
                    .starts_with(value)
        }
        "volume" => config
            .mounts
            .iter()
            .any(|mount| mount.target.as_os_str() == value),
        "network" => network::name(one) == value,
        _ => true,
    }
}

/// Docker's name filter is an unanchored regular expression; of these we know `^`, `$` and `*`
/// after a letter, and any other text is searched for as it is.
fn match_name(name: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('/');
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest.trim_start_matches('/')),
        None => (false, pattern),
    };
    let (end, rest) = match rest.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    // `x*` matches no x at all, so what stands before the x is all that must be there.
    let text = match rest.strip_suffix(".*") {
        Some(text) => text.to_owned(),
        None => match rest.strip_suffix('*') {
            Some(text) => text
                .chars()
                .take(text.chars().count().saturating_sub(1))
                .collect(),
            None => rest.to_owned(),
        },
    };
    match (start, end) {
        (true, true) => name == text,
        (true, false) => name.starts_with(&text),
        (false, true) => name.ends_with(&text),
        (false, false) => name.contains(&text),
    }
}

/// The times that `before` and `since` name.
struct Bounds {
    before: Option<String>,
    since: Option<String>,
}

impl Bounds {
    fn of(filters: &[(String, String)], all: &[Container]) -> Result<Self, Failure> {
        let time_of = |key: &str| {
            let Some((_, name)) = filters.iter().find(|(other, _)| other == key) else {
                return Ok(None);
            };
            all.iter()
                .find(|one| one.config.name == *name || one.config.id.starts_with(name.as_str()))
                .map(|one| Some(one.config.created.clone()))
                .ok_or_else(|| Failure::general(format!("no such container: {name}")))
        };
        Ok(Self {
            before: time_of("before")?,
            since: time_of("since")?,
        })
    }

    fn include(&self, one: &Container) -> bool {
        let created = &one.config.created;
        self.before.as_ref().is_none_or(|bound| created < bound)
            && self.since.as_ref().is_none_or(|bound| created > bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_filters_are_unanchored() {
        let cases = [
            ("web_1", "eb", true),
            ("web_1", "^eb", false),
            ("web_1", "^web", true),
            ("web_1", "1$", true),
            ("web_1", "^web$", false),
            ("prefix_9", "prefix_*", true),
            ("prefi", "prefix_*", false),
        ];
        for (name, pattern, expected) in cases {
            assert_eq!(match_name(name, pattern), expected, "{name} {pattern}");
        }
    }
}
