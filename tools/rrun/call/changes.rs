//! `diff`, `commit`, `export`: what a container changed, and taking it out.

use std::io::IsTerminal;

use rrun_image::create::{self, Commit, Labels};
use rrun_image::{Arch, Silent, images};
use rrun_runner::{ContainerConfig, container, names};
use serde_json::{Map, Value, json};

use super::image::{Doing, Show, failed, reference};
use super::images::store;
use super::{ground, within};
use crate::args::{CommitArgs, DiffArgs, ExportArgs};
use crate::environment::Environment;
use crate::failure::{ExitCode, Failure};
use crate::report;

/// A container whose files are on disk as its processes see them.
fn settled(
    name: &str,
    environment: &Environment,
) -> Result<(std::path::PathBuf, ContainerConfig), Failure> {
    let dir = names::resolve(&environment.containers(), name)?;
    let config = ContainerConfig::load(&dir)?;
    // A running container's latest writes may still be in the kernel's cache of its mount.
    container::sync(&dir, &super::hidden::Parts::of_self()?.sync())?;
    Ok((dir, config))
}

/// `rrun diff`.
pub(crate) fn diff(args: &DiffArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let (dir, config) = settled(&args.container, environment)?;
    if let Some(code) = within::again(&dir, &config, environment)? {
        return Ok(code);
    }
    let (union, _lease) = ground::read_only(&dir, &config)?;
    let changes = rrun_image::diff(&union).map_err(|error| failed(&error))?;
    let mut text = Vec::new();
    for change in changes {
        if args.format.as_deref() == Some("json") {
            let path = format!("/{}", String::from_utf8_lossy(&change.path));
            let object = json!({"Kind": change.kind.letter().to_string(), "Path": path});
            text.extend_from_slice(object.to_string().as_bytes());
        } else {
            text.extend_from_slice(format!("{} /", change.kind.letter()).as_bytes());
            text.extend_from_slice(&change.path);
        }
        text.push(b'\n');
    }
    report::bytes_out(&text)?;
    Ok(ExitCode::OK)
}

/// `rrun export`.
pub(crate) fn export(args: &ExportArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let (dir, config) = settled(&args.container, environment)?;
    if let Some(code) = within::again(&dir, &config, environment)? {
        return Ok(code);
    }
    let (union, _lease) = ground::read_only(&dir, &config)?;
    let show = Show::new(Doing::Loading, false);
    match &args.output {
        Some(path) => create::export_to_path(&union, path, &show),
        None if std::io::stdout().is_terminal() => {
            return Err(Failure::general("cowardly refusing to save to a terminal")
                .hint("use the -o flag or redirect"));
        }
        None => create::export(&union, &mut std::io::stdout().lock(), &show),
    }
    .map_err(|error| failed(&error))?;
    Ok(ExitCode::OK)
}

/// `rrun commit`.
pub(crate) fn commit(args: &CommitArgs, environment: &Environment) -> Result<ExitCode, Failure> {
    let conf = rrun_image::registry::RegistriesConf::default();
    let name = args
        .reference
        .as_deref()
        .map(|text| reference(text, &conf))
        .transpose()?;
    let (dir, config) = settled(&args.container, environment)?;
    if let Some(code) = within::again(&dir, &config, environment)? {
        return Ok(code);
    }
    let (union, _lease) = ground::read_only(&dir, &config)?;
    let store = store(environment)?;
    let parent = if config.image_id.is_empty() {
        None
    } else {
        let (record, _) = images::find(&store, &config.image_id).map_err(|error| failed(&error))?;
        Some(record)
    };
    let commit = Commit {
        parent: parent.as_ref(),
        config: own_config(&config),
        created_by: &config.argv.join(" "),
        labels: Labels {
            name: name.as_ref(),
            changes: &args.change,
            message: args.message.as_deref().unwrap_or_default(),
            author: args.author.as_deref().unwrap_or_default(),
        },
    };
    let id = create::commit(&store, &union, &commit, &Arch::native(), &Silent)
        .map_err(|error| failed(&error))?;
    report::line(&id.to_string())?;
    Ok(ExitCode::OK)
}

/// What the container's own settings change in the image's configuration, as Docker does.
fn own_config(config: &ContainerConfig) -> Map<String, Value> {
    let mut own = Map::new();
    if !config.env.is_empty() {
        // What was taken away from a container is none of its image.
        let set = config.env.iter().filter(|line| line.contains('='));
        own.insert("Env".to_owned(), set.cloned().collect());
    }
    let command = config.extra.get("command").and_then(Value::as_array);
    if let Some(command) = command
        && !command.is_empty()
    {
        own.insert("Cmd".to_owned(), json!(command));
    }
    if let Some(entrypoint) = config.extra.get("entrypoint")
        && entrypoint.is_array()
    {
        own.insert("Entrypoint".to_owned(), entrypoint.clone());
    }
    for (field, value) in [
        ("User", &config.user),
        ("WorkingDir", &config.cwd),
        ("StopSignal", &config.stop_signal),
    ] {
        if !value.is_empty() {
            own.insert(field.to_owned(), json!(value));
        }
    }
    if !config.labels.is_empty() {
        own.insert("Labels".to_owned(), json!(config.labels));
    }
    own
}
