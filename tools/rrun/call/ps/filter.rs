//! `--filter` of `ps`.
//!
//! Source: moby daemon/list.go; docker/cli opts, `FilterOpt`.

use regex_lite::Regex;
use rrun_runner::{Container, names};

use super::row::state_word;
use crate::call::{mount_points, network};
use crate::environment::Environment;
use crate::failure::Failure;

/// Keys of `--filter`.
const KEYS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "restart-policy",
    "since",
    "status",
    "volume",
];
/// Values of `status`.
const STATES: [&str; 7] = [
    "created",
    "dead",
    "exited",
    "paused",
    "removing",
    "restarting",
    "running",
];
/// Values of `health`.
const HEALTHS: [&str; 4] = ["healthy", "none", "starting", "unhealthy"];

/// Values of `restart-policy`, which podman has; `none` is its other word for `no`.
const POLICIES: [&str; 5] = ["always", "no", "none", "on-failure", "unless-stopped"];

/// Splits `key=value` words.
pub(crate) fn pairs(words: &[String], keys: &[&str]) -> Result<Vec<(String, String)>, Failure> {
    words
        .iter()
        .map(|word| {
            let Some((key, value)) = word.split_once('=') else {
                return Err(Failure::flags(format!(
                    "invalid argument {word:?} for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                )));
            };
            let key = key.trim().to_ascii_lowercase();
            if keys.contains(&key.as_str()) {
                return Ok((key, value.trim().to_owned()));
            }
            Err(Failure::general(format!("invalid filter '{key}'"))
                .hint(format!("there are: {}", keys.join(", "))))
        })
        .collect()
}

/// Whether `labels` has what `wanted`, `key` or `key=value`, asks for.
pub(crate) fn label_matches(
    labels: &std::collections::BTreeMap<String, String>,
    wanted: &str,
) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// Filters as typed, checked.
pub(crate) struct Filters {
    pairs: Vec<(String, String)>,
    before: Option<String>,
    since: Option<String>,
    /// Image ids that `ancestor` names, with the text that named them.
    ancestors: Vec<(String, String)>,
}

impl Filters {
    pub(crate) fn parse(
        words: &[String],
        all: &[Container],
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let pairs = pairs(words, &KEYS)?;
        for (key, value) in &pairs {
            let bad = match key.as_str() {
                "status" => !STATES.contains(&value.as_str()),
                "exited" => value.parse::<i32>().is_err(),
                "health" if !HEALTHS.contains(&value.as_str()) => {
                    return Err(Failure::general(format!(
                        "unrecognised filter value for health: {value}"
                    ))
                    .hint(format!("there are: {}", HEALTHS.join(", "))));
                }
                "restart-policy" if !POLICIES.contains(&value.as_str()) => {
                    return Err(Failure::flags(format!("{value} invalid restart policy"))
                        .hint(format!("there are: {}", POLICIES.join(", "))));
                }
                _ => false,
            };
            if bad {
                let failure = Failure::general(format!("invalid filter '{key}={value}'"));
                return Err(match key.as_str() {
                    "status" => failure.hint(format!("there are: {}", STATES.join(", "))),
                    _ => failure.hint("exited= takes an exit code"),
                });
            }
        }
        let created = |key: &str| {
            let Some((_, name)) = pairs.iter().find(|(other, _)| other == key) else {
                return Ok(None);
            };
            let dir = names::resolve(&environment.containers(), name)?;
            let found = all.iter().find(|one| one.dir == dir);
            Ok::<_, Failure>(found.map(|one| one.config.created.clone()))
        };
        let ancestors = pairs
            .iter()
            .filter(|(key, _)| key == "ancestor")
            .filter_map(|(_, name)| {
                let id = crate::call::images::id_of(environment, name)?;
                Some((name.clone(), id))
            })
            .collect();
        Ok(Self {
            before: created("before")?,
            since: created("since")?,
            ancestors,
            pairs,
        })
    }

    /// Whether containers that do not run are asked for.
    pub(super) fn ask_for_state(&self) -> bool {
        self.pairs.iter().any(|(key, _)| key == "status")
    }

    /// One key given several times means any of the values; different keys must all match.
    pub(crate) fn include(&self, one: &Container) -> bool {
        let created = &one.config.created;
        self.before.as_ref().is_none_or(|bound| created < bound)
            && self.since.as_ref().is_none_or(|bound| created > bound)
            && self.pairs.iter().all(|(key, _)| {
                let mut same = self.pairs.iter().filter(|(other, _)| other == key);
                // Several labels must all be there; of other keys one is enough.
                if key == "label" {
                    same.all(|(_, value)| self.matches(one, key, value))
                } else {
                    same.any(|(_, value)| self.matches(one, key, value))
                }
            })
    }

    fn matches(&self, one: &Container, key: &str, value: &str) -> bool {
        let config = &one.config;
        match key {
            "id" => matches_text(&config.id, value),
            "name" => match_name(&config.name, value),
            "label" => label_matches(&config.labels, value),
            "status" => state_word(one) == value,
            "exited" => {
                let ended = ["exited", "restarting"].contains(&state_word(one));
                ended && one.state.exit_code.to_string() == value
            }
            "health" => {
                let health = one.state.health.as_ref();
                health.map_or("none", |health| health.status.as_str()) == value
            }
            "ancestor" => self
                .ancestors
                .iter()
                .any(|(name, id)| name == value && *id == config.image_id),
            "volume" => mount_points::of(one).iter().any(|point| {
                point.name.as_deref() == Some(value)
                    || point.source == value
                    || point.destination == value
            }),
            "network" => network::name(one) == value,
            "publish" | "expose" => {
                let ports = if key == "publish" {
                    network::bindings_object(one)
                } else {
                    network::exposed_object(one)
                };
                let ports = ports.as_object().into_iter().flat_map(|ports| ports.keys());
                port_matches(&ports.cloned().collect::<Vec<_>>(), value)
            }
            "restart-policy" => {
                let wanted = if value == "none" { "no" } else { value };
                config.restart.name == wanted
            }
            "is-task" => value == "false" || value == "0",
            _ => true,
        }
    }
}

/// `80`, `80/udp`, `8000-8010/tcp` against `80/tcp` and its like.
fn port_matches(ports: &[String], wanted: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok();
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return false;
    };
    ports.iter().any(|port| {
        let (port, of) = port.split_once('/').unwrap_or((port, "tcp"));
        of == protocol && number(port).is_some_and(|port| (first..=last).contains(&port))
    })
}

/// Exact text or an unanchored regular expression.
fn matches_text(text: &str, pattern: &str) -> bool {
    text == pattern || Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

/// Docker knows names with and without their slash.
fn match_name(name: &str, pattern: &str) -> bool {
    matches_text(name, pattern) || matches_text(&format!("/{name}"), pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_filters_are_unanchored_regular_expressions() {
        let cases = [
            ("web_1", "eb", true),
            ("web_1", "^eb", false),
            ("web_1", "^web", true),
            ("web_1", "^/web", true),
            ("web_1", "1$", true),
            ("web_1", "^web$", false),
            ("prefix_9", "prefix_*", true),
            ("prefi", "prefix_*", false),
            ("web_1", "w.b_[0-9]", true),
            ("web_1", "db|web", true),
            ("a[", "a[", true),
        ];
        for (name, pattern, expected) in cases {
            assert_eq!(match_name(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn ports_match_by_number_range_and_protocol() {
        let ports = ["80/tcp".to_owned(), "53/udp".to_owned()];
        for (wanted, expected) in [
            ("80", true),
            ("80/tcp", true),
            ("53", false),
            ("53/udp", true),
            ("70-90", true),
            ("1-2", false),
            ("x", false),
        ] {
            assert_eq!(port_matches(&ports, wanted), expected, "input {wanted}");
        }
    }
}
