//! Hands the listener of a system call filter to its supervisor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use super::registry::{Container, Stage};
use super::spec::Spec;
use crate::channel;
use crate::error::{At, Failure, RunnerError};

/// Version of the message's form, as the specification's example and crun have it.
const STATE_VERSION: &str = "0.2.0";

/// What of a filter is for its supervisor.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Supervision {
    listener_path: PathBuf,
    listener_metadata: String,
}

/// Sends the listener and the container's state.
///
/// Source: runtime-spec, `config-linux.md`, "The Container Process State".
pub(super) fn send(container: &Container, spec: &Spec, fds: &[OwnedFd]) -> Result<(), RunnerError> {
    let Some(listener) = fds.first() else {
        return Err(RunnerError::Failed(Failure::setup("init sent no listener")));
    };
    let profile = spec.linux.seccomp.as_ref().map_or("{}", |raw| raw.get());
    let supervision: Supervision = serde_json::from_str(profile).unwrap_or_default();
    let path = supervision.listener_path;
    let state = json!({
        "ociVersion": STATE_VERSION,
        "fds": ["seccompFd"],
        "pid": container.record.pid,
        "metadata": supervision.listener_metadata,
        "state": container.state(Stage::Creating),
    });
    let socket = super::launch::dial(&path).at("connect to the seccomp listener", &path)?;
    let bytes = state.to_string();
    channel::send_bytes(socket.as_fd(), bytes.as_bytes(), &[listener.as_fd()])
        .at("send the seccomp listener to", path)
}
