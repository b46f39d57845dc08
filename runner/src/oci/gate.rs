//! Where a created process waits until it is started.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SocketFlags, accept_with};

use super::hooks;
use super::registry::Stage;
use super::spec::Hook;
use crate::channel::{self, Message};
use crate::error::{Failure, Step as _};

/// The door between `create` and `start`: a socket in the state directory on which the process
/// listens. Whoever connects starts it, and hears on the connection why that failed; the end of
/// the connection means that the program was executed.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The socket; without one the process does not wait.
    pub(crate) listener: Option<OwnedFd>,
    /// Run inside before the program is executed.
    pub(crate) hooks: Vec<Hook>,
    /// The container's state, for the hooks.
    pub(crate) state: RefCell<String>,
    /// Who started it.
    client: RefCell<Option<OwnedFd>>,
}

impl Gate {
    /// A gate with these parts.
    pub(crate) fn new(listener: Option<OwnedFd>, hooks: Vec<Hook>) -> Self {
        Self {
            listener,
            hooks,
            ..Self::default()
        }
    }

    /// Waits to be started and runs the last hooks. From here on the process lives by itself.
    pub(crate) fn pass(&self, line: BorrowedFd<'_>) -> Result<(), Failure> {
        rustix::process::set_parent_process_death_signal(None).step("live without the runtime")?;
        if let Some(listener) = &self.listener {
            channel::send(line, &Message::Ready, &[]).step("say that the container is made")?;
            let client = wait(listener).step("wait to be started")?;
            self.client.replace(Some(client));
        }
        hooks::run_all("startContainer", &self.hooks, &self.created_state())
    }

    /// The container's state as it is once it waits here.
    fn created_state(&self) -> String {
        let text = self.state.borrow();
        let Ok(mut state) = serde_json::from_str::<serde_json::Value>(&text) else {
            return text.clone();
        };
        if let Some(status) = state.get_mut("status") {
            *status = Stage::Created.word().into();
        }
        state.to_string()
    }

    /// Tells whoever started the process why it did not.
    pub(crate) fn report(&self, failure: &Failure) {
        if let Some(client) = self.client.take() {
            let message = Message::Failed(failure.clone());
            let _gone = channel::send(client.as_fd(), &message, &[]);
        }
    }
}

fn wait(listener: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            other => return Ok(other?),
        }
    }
}
