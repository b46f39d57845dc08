//! `rrun inspect`.

mod container;
mod limits;

use rrun_image::images;
use rrun_runner::{RunnerError, container as containers, names};
use serde_json::Value;

use super::images::store;
use super::volume;
use crate::args::InspectArgs;
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;
use crate::template::Template;

/// Values of `--type`.
const KINDS: [&str; 3] = ["container", "image", "volume"];

/// `rrun inspect`: containers first, then images, then volumes, as Docker looks.
pub(crate) fn inspect(args: &InspectArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let kind = args.kind.as_deref().unwrap_or("");
    if !kind.is_empty() && !KINDS.contains(&kind) {
        return Err(
            Failure::general(format!("\"{kind}\" is not a valid value for --type"))
                .hint(format!("there are: {}", KINDS.join(", "))),
        );
    }
    if args.size && !["", "container"].contains(&kind) {
        return Err(Failure::general(format!(
            "--size is not supported for type \"{kind}\""
        )));
    }
    // A template that does not parse is told before anything is looked for.
    if let Some(text) = args.format.as_deref().filter(|text| *text != "json") {
        Template::parse(text)?;
    }
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for name in &args.names {
        match one(name, kind, args.size, environment) {
            Ok(Some(object)) => found.push(object),
            Ok(None) => errors.push(missing(name, kind)),
            Err(failure) => errors.push(failure),
        }
    }
    if !found.is_empty() || args.format.is_none() {
        report::objects(args.format.as_deref(), &found)?;
    }
    for failure in &errors {
        report::failure(failure);
    }
    Ok(if errors.is_empty() {
        ExitCode::OK
    } else {
        ExitCode::GENERAL
    })
}

fn missing(name: &str, kind: &str) -> Failure {
    Failure::general(match kind {
        "volume" => format!("get {name}: no such volume"),
        "" => format!("no such object: {name}"),
        kind => format!("no such {kind}: {name}"),
    })
}

fn one(
    name: &str,
    kind: &str,
    size: bool,
    environment: &Environment,
) -> Result<Option<Value>, Failure> {
    if matches!(kind, "" | "container") {
        match names::resolve(&environment.containers(), name) {
            Ok(dir) => {
                let one = containers::load(&dir)?;
                return Ok(Some(container::describe(&one, size, environment)));
            }
            Err(RunnerError::NoSuchContainer(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if matches!(kind, "" | "image")
        && let Ok(object) = images::inspect(&store(environment)?, name)
    {
        return Ok(Some(object));
    }
    if matches!(kind, "" | "volume") {
        return volume::describe(environment, name);
    }
    Ok(None)
}
