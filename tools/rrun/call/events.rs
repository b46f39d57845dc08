//! `rrun events`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{journal, moment};
use crate::args::EventsArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;
use crate::template::{Missing, Template};

/// Keys of `--filter`.
const KEYS: [&str; 10] = [
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "scope",
    "type",
    "volume",
];
/// Between two looks at the file: short enough to seem immediate.
const LOOK_MS: u64 = 50;

/// What is wanted, and how it is shown.
struct Wanted {
    filters: Vec<(String, String)>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    template: Option<Template>,
    json: bool,
}

/// `rrun events`.
pub(crate) fn events(args: &EventsArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let json = matches!(format, Some("json" | "{{json .}}"));
    let wanted = Wanted {
        filters: super::ps::filter_pairs(&args.filter, &KEYS)?,
        since: args.since.as_deref().map(moment::parse).transpose()?,
        until: args.until.as_deref().map(moment::parse).transpose()?,
        template: match format {
            Some(text) if !json => Some(Template::parse(text)?),
            _ => None,
        },
        json,
    };
    let data = &environment.data_dir;
    // Without --since only what happens from now on is shown.
    let start = wanted.since.unwrap_or_else(Timestamp::now);
    if wanted.since.is_some() {
        let mut old = Source::default();
        old.read(&journal::old_file(data), &mut |event| {
            wanted.show(event, start)
        })?;
    }
    let mut source = Source::default();
    loop {
        source.read(&journal::file(data), &mut |event| wanted.show(event, start))?;
        let over = wanted.until.is_some_and(|until| Timestamp::now() >= until);
        if over || report::output_closed() {
            return Ok(ExitCode::OK);
        }
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
}

/// A journal being read as it grows, and when it is put aside.
#[derive(Default)]
struct Source {
    reader: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl Source {
    fn read(
        &mut self,
        path: &Path,
        each: &mut dyn FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let current = std::fs::metadata(path).ok();
            if self.reader.is_none() && current.is_some() {
                self.reader = File::open(path).ok().map(BufReader::new);
            }
            let Some(reader) = &mut self.reader else {
                return Ok(());
            };
            while reader.read_until(b'\n', &mut self.partial)? > 0 {
                if !self.partial.ends_with(b"\n") {
                    continue;
                }
                // A damaged line hides only itself.
                if let Ok(event) = serde_json::from_slice(&self.partial) {
                    each(&event)?;
                }
                self.partial.clear();
            }
            let ours = reader.get_ref().metadata()?.ino();
            if current.is_none_or(|current| current.ino() == ours) {
                return Ok(());
            }
            self.reader = None;
        }
    }
}

fn text<'v>(event: &'v Value, path: &str) -> &'v str {
    event.pointer(path).and_then(Value::as_str).unwrap_or("")
}

impl Wanted {
    fn show(&self, event: &Value, start: Timestamp) -> Result<(), Failure> {
        let nanos = event.get("timeNano").and_then(Value::as_i64).unwrap_or(0);
        let Ok(time) = Timestamp::from_nanosecond(i128::from(nanos)) else {
            return Ok(());
        };
        if time < start || self.until.is_some_and(|until| time > until) || !self.includes(event) {
            return Ok(());
        }
        if self.json {
            return report::line(&event.to_string());
        }
        match &self.template {
            Some(template) => report::line(&template.render(&go_names(event), EVENT)?),
            None => report::line(&plain(event, time)),
        }
    }

    /// One key given several times means any of the values; different keys must all match.
    fn includes(&self, event: &Value) -> bool {
        self.filters.iter().all(|(key, _)| {
            let mut same = self.filters.iter().filter(|(other, _)| other == key);
            same.any(|(_, value)| matches(event, key, value))
        })
    }
}

/// What Go calls an event.
const EVENT: Missing = Missing::Typed("events.Message");

fn matches(event: &Value, key: &str, value: &str) -> bool {
    let kind = text(event, "/Type");
    let id = text(event, "/Actor/ID");
    let attribute = |name: &str| {
        let attributes = event.pointer("/Actor/Attributes");
        attributes
            .and_then(|map| map.get(name))
            .and_then(Value::as_str)
    };
    let named = |kind_wanted: &str| {
        kind == kind_wanted
            && (id == value || id.starts_with(value) || attribute("name") == Some(value))
    };
    match key {
        "type" => kind == value,
        "event" => {
            let action = text(event, "/Action");
            action == value || action.split(':').next() == Some(value)
        }
        "container" => named("container"),
        "volume" | "network" => named(key),
        "image" => {
            let image = attribute("image").unwrap_or("");
            let bare = image.rsplit_once(':').map_or(image, |(name, _)| name);
            named("image") || image == value || bare == value
        }
        "label" => match value.split_once('=') {
            Some((key, value)) => attribute(key) == Some(value),
            None => attribute(value).is_some(),
        },
        "scope" => text(event, "/scope") == value,
        _ => false,
    }
}

/// The event with the names that templates use.
fn go_names(event: &Value) -> Value {
    let mut object = event.clone();
    if let Some(map) = object.as_object_mut() {
        for (json, go) in [
            ("status", "Status"),
            ("id", "ID"),
            ("from", "From"),
            ("scope", "Scope"),
            ("time", "Time"),
            ("timeNano", "TimeNano"),
        ] {
            if let Some(value) = map.get(json).cloned() {
                map.insert(go.to_owned(), value);
            }
        }
    }
    object
}

/// `TIME container start ID (image=x, name=y)`
fn plain(event: &Value, time: Timestamp) -> String {
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    let mut line = format!(
        "{} {} {} {}",
        zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z"),
        text(event, "/Type"),
        text(event, "/Action"),
        text(event, "/Actor/ID"),
    );
    let attributes = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object);
    let mut words: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    words.sort();
    if !words.is_empty() {
        line.push_str(&format!(" ({})", words.join(", ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_filtered_and_written_as_docker_does() {
        let event = json!({
            "status": "die", "id": "abc", "from": "bb:1", "Type": "container", "Action": "die",
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "bb:1", "l": "v"}},
            "scope": "local", "time": 0, "timeNano": 0,
        });
        for (key, value, expected) in [
            ("container", "web", true),
            ("container", "ab", true),
            ("container", "x", false),
            ("event", "die", true),
            ("event", "start", false),
            ("image", "bb", true),
            ("image", "bb:1", true),
            ("label", "l", true),
            ("label", "l=w", false),
            ("type", "volume", false),
        ] {
            assert_eq!(matches(&event, key, value), expected, "{key}={value}");
        }
        let line = plain(&event, Timestamp::UNIX_EPOCH);
        assert!(
            line.ends_with(" container die abc (image=bb:1, l=v, name=web)"),
            "{line}"
        );
        let template = Template::parse("{{.Action}} {{.ID}} {{.Actor.Attributes.name}}").unwrap();
        assert_eq!(
            template.render(&go_names(&event), EVENT).unwrap(),
            "die abc web"
        );
    }
}
