//! `images`, `rmi`, `tag`, `history`.

use rrun_image::images::{self, Force, HistoryRow, ImageRow, ImageUser};
use rrun_runner::{Status, container};
use rrun_store::Store;
use serde_json::{Value, json};

use super::image::{failed, reference};
use super::prune;
use crate::args::{HistoryArgs, ImagesArgs, RmiArgs, TagArgs, UntagArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::human;
use crate::report::{self, Column, Format};

const COLUMNS: [Column; 5] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];

const DIGEST_COLUMNS: [Column; 6] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];

const HISTORY_COLUMNS: [Column; 5] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Width of CREATED BY. Source: docker/cli.
const CREATED_BY_WIDTH: usize = 45;

/// Opens the store of this user.
pub(crate) fn store(environment: &Environment) -> Result<Store, Failure> {
    Ok(Store::open(&environment.store())?)
}

/// The full id of an image by name or id; `None` when there is none.
pub(crate) fn id_of(environment: &Environment, name: &str) -> Option<String> {
    let (record, _) = images::find(&store(environment).ok()?, name).ok()?;
    Some(record.config.to_string())
}

/// Bytes of an image by id; 0 when there is none.
pub(crate) fn size_of(environment: &Environment, id: &str) -> u64 {
    let rows = store(environment)
        .ok()
        .and_then(|store| images::list(&store).ok());
    let found = rows
        .into_iter()
        .flatten()
        .find(|row| row.id.to_string() == id);
    found.map_or(0, |row| row.size)
}

fn since(secs: i64) -> String {
    let age = jiff::Timestamp::now().as_second() - secs;
    format!("{} ago", human::duration(u64::try_from(age).unwrap_or(0)))
}

/// `rrun images`.
pub(crate) fn ls(args: &ImagesArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    let store = store(environment)?;
    let all = images::list(&store).map_err(|error| failed(&error))?;
    let filter = Filter::parse(args, &all)?;
    let shown: Vec<&ImageRow> = all
        .iter()
        .filter(|row| filter.matches(row, &store))
        .collect();
    if args.quiet {
        for row in shown {
            report::line(&image_id(row, args.no_trunc))?;
        }
        return Ok(ExitCode::OK);
    }
    let rows: Vec<Value> = shown
        .into_iter()
        .map(|row| object(row, args.no_trunc))
        .collect();
    let columns: &[Column] = if args.digests {
        &DIGEST_COLUMNS
    } else {
        &COLUMNS
    };
    report::list(&format, columns, &rows)?;
    Ok(ExitCode::OK)
}

fn image_id(row: &ImageRow, whole: bool) -> String {
    if whole {
        row.id.to_string()
    } else {
        row.id.short()
    }
}

fn object(row: &ImageRow, whole: bool) -> Value {
    let none = || "<none>".to_owned();
    json!({
        "Containers": "N/A",
        "CreatedAt": row.created,
        "CreatedSince": since(row.created_secs),
        "Digest": row.digest.map_or_else(none, |digest| digest.to_string()),
        "ID": image_id(row, whole),
        "Repository": row.repository.clone().unwrap_or_else(none),
        "SharedSize": "N/A",
        "Size": human::size(row.size),
        "Tag": row.tag.clone().unwrap_or_else(none),
        "UniqueSize": "N/A",
        "VirtualSize": human::size(row.size),
    })
}

/// What `images` was asked to show.
struct Filter {
    references: Vec<String>,
    dangling: Option<bool>,
    labels: Vec<String>,
    before: Option<i64>,
    since: Option<i64>,
}

impl Filter {
    fn parse(args: &ImagesArgs, all: &[ImageRow]) -> Result<Self, Failure> {
        let mut filter = Self {
            references: args.reference.iter().cloned().collect(),
            dangling: None,
            labels: Vec::new(),
            before: None,
            since: None,
        };
        let time_of = |name: &str| {
            all.iter()
                .find(|row| {
                    row.id.hex().starts_with(name) || full_name(row).as_deref() == Some(name)
                })
                .map(|row| row.created_secs)
                .ok_or_else(|| Failure::general(format!("no such image: {name}")))
        };
        for word in &args.filter {
            match word.split_once('=') {
                Some(("reference", pattern)) => filter.references.push(pattern.to_owned()),
                Some(("dangling", value)) => filter.dangling = Some(matches!(value, "true" | "1")),
                Some(("label", label)) => filter.labels.push(label.to_owned()),
                Some(("before", name)) => filter.before = Some(time_of(name)?),
                Some(("since", name)) => filter.since = Some(time_of(name)?),
                _ => {
                    return Err(Failure::general(format!("invalid filter '{word}'"))
                        .hint("there are: reference, dangling, label, before, since"));
                }
            }
        }
        Ok(filter)
    }

    fn matches(&self, row: &ImageRow, store: &Store) -> bool {
        let named = row.repository.is_some();
        (self.references.is_empty() || self.references.iter().any(|one| is_reference(row, one)))
            && self.dangling.is_none_or(|dangling| dangling != named)
            && self.before.is_none_or(|bound| row.created_secs < bound)
            && self.since.is_none_or(|bound| row.created_secs > bound)
            && self.labels.iter().all(|label| has_label(store, row, label))
    }
}

fn has_label(store: &Store, row: &ImageRow, label: &str) -> bool {
    let Ok(value) = images::inspect(store, &row.id.to_string()) else {
        return false;
    };
    let labels = value.pointer("/Config/Labels");
    let (key, wanted) = match label.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (label, None),
    };
    let found = labels
        .and_then(|labels| labels.get(key))
        .and_then(Value::as_str);
    found.is_some_and(|found| wanted.is_none_or(|wanted| wanted == found))
}

fn full_name(row: &ImageRow) -> Option<String> {
    Some(format!(
        "{}:{}",
        row.repository.as_ref()?,
        row.tag.as_ref()?
    ))
}

/// Whether a row has the name, or fits the pattern with `*` and `?`.
fn is_reference(row: &ImageRow, pattern: &str) -> bool {
    let Some(repository) = &row.repository else {
        return false;
    };
    let last = pattern.rsplit('/').next().unwrap_or(pattern);
    let name = full_name(row).unwrap_or_default();
    if last.contains(':') {
        glob(pattern, &name)
    } else {
        glob(pattern, repository)
    }
}

/// Matches `*` (not across slashes) and `?`.
fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), next) => {
            glob(&pattern[1..], text)
                || next.is_some_and(|letter| {
                    letter != '/' && glob(pattern, &text[letter.len_utf8()..])
                })
        }
        (Some('?'), Some(letter)) => glob(&pattern[1..], &text[letter.len_utf8()..]),
        (Some(wanted), Some(letter)) if wanted == letter => {
            glob(&pattern[wanted.len_utf8()..], &text[letter.len_utf8()..])
        }
        _ => false,
    }
}

/// The containers that stand on images.
pub(crate) fn users(environment: &Environment) -> Result<Vec<ImageUser>, Failure> {
    let all = container::list(&environment.containers())?;
    Ok(all
        .into_iter()
        .filter_map(|one| {
            Some(ImageUser {
                image: one.config.image_id.parse().ok()?,
                container: one.config.id.chars().take(12).collect(),
                running: matches!(one.state.status, Status::Running | Status::Paused),
            })
        })
        .collect())
}

/// `rrun rmi`.
pub(crate) fn rm(args: &RmiArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let store = store(environment)?;
    let users = users(environment)?;
    let force = if args.force { Force::Yes } else { Force::No };
    let mut code = ExitCode::OK;
    for name in &args.images {
        match images::remove(&store, name, force, &users) {
            Ok(lines) => {
                for line in lines {
                    report::line(&line.to_string())?;
                }
            }
            Err(rrun_image::ImageError::NoSuchImage(name)) if args.force => {
                report::note(&format!("rrun: no such image: {name}"));
            }
            Err(error) => {
                report::failure(&failed(&error));
                code = ExitCode::GENERAL;
            }
        }
    }
    prune::collect(&store, environment)?;
    Ok(code)
}

/// `rrun tag`.
pub(crate) fn tag(args: &TagArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let name = reference(
        &args.target,
        &rrun_image::registry::RegistriesConf::default(),
    )?;
    images::tag(&store(environment)?, &args.source, &name).map_err(|error| failed(&error))?;
    Ok(ExitCode::OK)
}

/// `rrun untag`.
pub(crate) fn untag(args: &UntagArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    images::untag(&store(environment)?, &args.image, &args.names)
        .map_err(|error| failed(&error))?;
    Ok(ExitCode::OK)
}

/// `rrun history`.
pub(crate) fn history(args: &HistoryArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    let store = store(environment)?;
    let (image, _) = images::find(&store, &args.image).map_err(|error| failed(&error))?;
    let rows = images::history(&store, &image).map_err(|error| failed(&error))?;
    if args.quiet {
        for row in &rows {
            report::line(&step_id(row, args.no_trunc))?;
        }
        return Ok(ExitCode::OK);
    }
    let rows: Vec<Value> = rows.iter().map(|row| step(row, args)).collect();
    report::list(&format, &HISTORY_COLUMNS, &rows)?;
    Ok(ExitCode::OK)
}

fn step_id(row: &HistoryRow, whole: bool) -> String {
    match row.id {
        Some(id) if whole => id.to_string(),
        Some(id) => id.short(),
        None => "<missing>".to_owned(),
    }
}

fn step(row: &HistoryRow, args: &HistoryArgs) -> Value {
    let by = row.created_by.replace('\t', " ");
    let by = if args.no_trunc {
        by
    } else {
        human::ellipsis(&by, CREATED_BY_WIDTH)
    };
    let created: Option<jiff::Timestamp> = row.created.parse().ok();
    let (when, size) = if args.human {
        let when = created
            .map(|time| since(time.as_second()))
            .unwrap_or_default();
        (when, human::size(row.size))
    } else {
        (row.created.clone(), row.size.to_string())
    };
    json!({
        "Comment": row.comment,
        "CreatedAt": row.created,
        "CreatedBy": by,
        "CreatedSince": when,
        "ID": step_id(row, args.no_trunc),
        "Size": size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        let cases = [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("busy*:l?test", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("busy", "busybox", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
