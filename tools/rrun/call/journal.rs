//! What happened: a bounded file of events, written by whoever makes them happen.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rrun_runner::ContainerConfig;
use serde_json::{Map, Value, json};

use crate::environment::Environment;

/// The current file, in the data directory; the one before it has `.1` after its name.
const FILE: &str = "events.jsonl";
/// A file this large is put aside: some thousand events, so that at least as many are kept.
const BYTES_MAX: u64 = 1 << 20;

/// Where events of this user are.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

/// The file before the current one.
pub(crate) fn old_file(data_dir: &Path) -> PathBuf {
    data_dir.join(format!("{FILE}.1"))
}

/// Notes an event. An event that cannot be written is lost: what happened has happened.
pub(crate) fn record(
    data_dir: &Path,
    kind: &str,
    action: &str,
    id: &str,
    attributes: &Map<String, Value>,
) {
    let now = jiff::Timestamp::now();
    let mut event = Map::new();
    if kind == "container" {
        event.insert("status".to_owned(), action.into());
        event.insert("id".to_owned(), id.into());
        event.insert(
            "from".to_owned(),
            attributes.get("image").cloned().unwrap_or_default(),
        );
    }
    event.insert("Type".to_owned(), kind.into());
    event.insert("Action".to_owned(), action.into());
    event.insert(
        "Actor".to_owned(),
        json!({"ID": id, "Attributes": attributes}),
    );
    event.insert("scope".to_owned(), "local".into());
    event.insert("time".to_owned(), now.as_second().into());
    let nanos = i64::try_from(now.as_nanosecond()).unwrap_or(0);
    event.insert("timeNano".to_owned(), nanos.into());
    let line = format!("{}\n", Value::Object(event));
    let _lost = append(data_dir, line.as_bytes());
}

fn append(data_dir: &Path, line: &[u8]) -> std::io::Result<()> {
    let path = file(data_dir);
    let open = || {
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
    };
    let mut file = open()?;
    if file.metadata()?.size() > BYTES_MAX {
        // One of several that find it full moves it; the others would move what it began anew.
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
        let same = fs::metadata(&path)
            .is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
        if same {
            fs::rename(&path, old_file(data_dir))?;
        }
        file = open()?;
    }
    // One write of a line: appends do not mix.
    file.write_all(line)
}

/// Notes an event of a container; `more` are attributes besides image, name and labels.
pub(crate) fn container(
    data_dir: &Path,
    action: &str,
    config: &ContainerConfig,
    more: &[(&str, String)],
) {
    let mut attributes: Map<String, Value> = config
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    attributes.insert("image".to_owned(), json!(config.image));
    attributes.insert("name".to_owned(), json!(config.name));
    for (key, value) in more {
        attributes.insert((*key).to_owned(), json!(value));
    }
    record(data_dir, "container", action, &config.id, &attributes);
}

/// Notes an event of a container whose directory is known.
pub(crate) fn of_dir(environment: &Environment, action: &str, dir: &Path, more: &[(&str, String)]) {
    if let Ok(config) = ContainerConfig::load(dir) {
        container(&environment.data_dir, action, &config, more);
    }
}

/// Notes an event of a volume.
pub(crate) fn volume(environment: &Environment, action: &str, name: &str) {
    let mut attributes = Map::new();
    attributes.insert("driver".to_owned(), "local".into());
    record(&environment.data_dir, "volume", action, name, &attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        let line = vec![b'x'; usize::try_from(BYTES_MAX + 1).unwrap()];
        append(dir.path(), &line).unwrap();
        append(dir.path(), b"next\n").unwrap();
        append(dir.path(), b"last\n").unwrap();
        assert_eq!(fs::read(file(dir.path())).unwrap(), b"next\nlast\n");
        assert_eq!(fs::read(old_file(dir.path())).unwrap(), line);
    }
}
