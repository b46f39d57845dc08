//! Making images: of a file tree (import), of a container's changes (commit).

use std::io::{Read, Write};
use std::path::Path;

use jiff::Timestamp;
use rrun_core::{Digest, ImageRef};
use rrun_store::{EntryKind, Expect, ImageLayer, ImageRecord, Store};
use rrun_union::Union;
use serde_json::{Map, Value, json};

use crate::archive::Input;
use crate::error::At as _;
use crate::layers::ingest;
use crate::registry::now;
use crate::spec::digest_of;
use crate::tree::TarStream;
use crate::{Arch, Event, ImageError, Progress, change};

/// Bytes moved at once by an export.
const EXPORT_BUFFER: usize = 256 << 10;

/// What an image made here says of itself.
#[derive(Debug, Clone, Default)]
pub struct Labels<'a> {
    /// The name it gets.
    pub name: Option<&'a ImageRef>,
    /// Instructions of `--change`.
    pub changes: &'a [String],
    /// `-m`.
    pub message: &'a str,
    /// `-a`.
    pub author: &'a str,
}

/// What a commit adds to the parent's configuration.
#[derive(Debug, Clone, Default)]
pub struct Commit<'a> {
    /// The image the container was made of; none for a plain directory.
    pub parent: Option<&'a ImageRecord>,
    /// Fields of the container's own configuration that replace the parent's (`Cmd`, `Env`...).
    pub config: Map<String, Value>,
    /// The command the container ran.
    pub created_by: &'a str,
    /// Name, message, author, changes.
    pub labels: Labels<'a>,
}

/// Makes an image of one layer of a tar, compressed or not. Returns its id.
///
/// # Errors
///
/// `SavedImage` for the output of `save`; `Layer`; `Change`; `Io`.
pub fn import(
    store: &Store,
    input: Input<'_>,
    labels: &Labels<'_>,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Digest, ImageError> {
    let mut config = Map::new();
    for text in labels.changes {
        change::apply(&mut config, text)?;
    }
    let (mut file, stream, origin): (_, &mut dyn Read, String);
    match input {
        Input::Path(path) => {
            file = std::fs::File::open(path).at("open", path.display())?;
            stream = &mut file;
            origin = path.display().to_string();
        }
        Input::Stream(given) => {
            stream = given;
            origin = "-".to_owned();
        }
    }
    import_stream(store, stream, &origin, &config, labels, arch, progress)
}

fn import_stream(
    store: &Store,
    stream: &mut dyn Read,
    origin: &str,
    config: &Map<String, Value>,
    labels: &Labels<'_>,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Digest, ImageError> {
    let shown = digest_of(origin.as_bytes());
    let info = ingest(store, stream, shown, &Expect::default(), progress)?;
    if is_saved_image(store, &info.diff_id)? {
        return Err(ImageError::SavedImage(origin.to_owned()));
    }
    let comment = if labels.message.is_empty() {
        format!("Imported from {origin}")
    } else {
        labels.message.to_owned()
    };
    let created = Timestamp::now().to_string();
    let mut value = json!({
        "created": created,
        "architecture": arch.architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [info.diff_id.to_string()]},
        "history": [{"created": created, "comment": comment}],
        "comment": comment,
    });
    if !labels.author.is_empty() {
        value["author"] = json!(labels.author);
    }
    keep(store, &value, vec![info.diff_id], labels.name)
}

/// Makes an image of one layer of a tar at an http or https address. Returns its id.
///
/// # Errors
///
/// As [`import`]; `Network`, `Registry` for the server's failures.
pub fn import_url(
    store: &Store,
    url: &str,
    labels: &Labels<'_>,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Digest, ImageError> {
    let mut config = Map::new();
    for text in labels.changes {
        change::apply(&mut config, text)?;
    }
    let mut body = crate::registry::fetch_url(url)?;
    import_stream(store, &mut body, url, &config, labels, arch, progress)
}

/// Whether a tree looks like the output of `save`: its files at the top, no system beside them.
fn is_saved_image(store: &Store, diff_id: &Digest) -> Result<bool, ImageError> {
    let mut marks = false;
    let mut system = false;
    let index = store.layer(diff_id)?;
    for entry in index.entries() {
        let entry = entry?;
        let is_dir = matches!(entry.kind, EntryKind::Directory);
        match entry.path {
            b"manifest.json" | b"oci-layout" if !is_dir => marks = true,
            b"bin" | b"etc" | b"usr" | b"lib" => system = true,
            _ => {}
        }
    }
    Ok(marks && !system)
}

/// Makes an image of a container: the parent's layers and one of the changes. Returns its id.
///
/// Fields of the parent's configuration that nothing here changes stay as they are, in their
/// order. Without changes no layer is added, as Docker does.
///
/// # Errors
///
/// `Tree` for the container's file system; `Change`; `Layer`; `Store`.
pub fn commit(
    store: &Store,
    union: &Union,
    commit: &Commit<'_>,
    arch: &Arch,
    progress: &dyn Progress,
) -> Result<Digest, ImageError> {
    let labels = &commit.labels;
    let mut value = match commit.parent {
        Some(parent) => serde_json::from_slice(&store.blob(&parent.config)?)
            .map_err(|error| ImageError::malformed("the parent's configuration", error))?,
        None => json!({
            "created": "", "architecture": arch.architecture, "os": "linux",
            "config": {}, "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
        }),
    };
    let mut config = match value.get("config") {
        Some(Value::Object(config)) => config.clone(),
        Some(_) | None => Map::new(),
    };
    config.extend(commit.config.clone());
    for text in labels.changes {
        change::apply(&mut config, text)?;
    }
    let mut diff_ids = commit.parent.map(ImageRecord::diff_ids).unwrap_or_default();
    let added = add_layer(store, union, progress)?;
    diff_ids.extend(added);
    let created = Timestamp::now().to_string();
    let mut step = json!({"created": created, "created_by": commit.created_by});
    if !labels.author.is_empty() {
        step["author"] = json!(labels.author);
        value["author"] = json!(labels.author);
    }
    if !labels.message.is_empty() {
        step["comment"] = json!(labels.message);
    }
    if added.is_none() {
        step["empty_layer"] = json!(true);
    }
    value["created"] = json!(created);
    value["config"] = Value::Object(config);
    let texts: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    value["rootfs"] = json!({"type": "layers", "diff_ids": texts});
    match value.get_mut("history").and_then(Value::as_array_mut) {
        Some(history) => history.push(step),
        None => value["history"] = json!([step]),
    }
    keep(store, &value, diff_ids, labels.name)
}

fn add_layer(
    store: &Store,
    union: &Union,
    progress: &dyn Progress,
) -> Result<Option<Digest>, ImageError> {
    let Some(mut stream) = TarStream::changes(union)? else {
        return Ok(None);
    };
    let shown = digest_of(b"changes");
    let info = ingest(store, &mut stream, shown, &Expect::default(), progress)?;
    for note in stream.notes() {
        progress.event(&Event::Note(note));
    }
    Ok(Some(info.diff_id))
}

/// Stores a new configuration and names the image.
fn keep(
    store: &Store,
    config: &Value,
    diff_ids: Vec<Digest>,
    name: Option<&ImageRef>,
) -> Result<Digest, ImageError> {
    let bytes = serde_json::to_vec(config)
        .map_err(|error| ImageError::malformed("the new configuration", error))?;
    let id = store.put_blob(&bytes, None)?;
    let layer = |diff_id| ImageLayer {
        diff_id,
        blob: None,
    };
    let record = ImageRecord {
        config: id,
        manifest: None,
        manifest_media_type: String::new(),
        extra_blobs: Vec::new(),
        layers: diff_ids.into_iter().map(layer).collect(),
        repo_digests: Vec::new(),
        tagged: now(),
    };
    match name {
        Some(name) => store.set_ref(&name.clone().or_latest().canonical(), &record)?,
        None => store.set_untagged(&record)?,
    }
    Ok(id)
}

/// Writes the whole tree of a container as a flat tar.
///
/// # Errors
///
/// `Tree`; `Io`.
pub fn export(
    union: &Union,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let mut stream = TarStream::everything(union)?;
    let mut buffer = vec![0; EXPORT_BUFFER];
    loop {
        let count = stream.read(&mut buffer).at("read", "the container")?;
        if count == 0 {
            break;
        }
        out.write_all(&buffer[..count]).at("write", "the output")?;
    }
    for note in stream.notes() {
        progress.event(&Event::Note(note));
    }
    out.flush().at("write", "the output")
}

/// As [`export`], to a file that appears when it is complete.
///
/// # Errors
///
/// As [`export`].
pub fn export_to_path(
    union: &Union,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    crate::archive::to_path(path, &mut |out| export(union, out, progress))
}

#[cfg(test)]
mod tests;
