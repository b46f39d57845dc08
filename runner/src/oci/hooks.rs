//! Programs run at points of a container's life.

use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::spec::Hook;
use crate::error::Failure;
use crate::monitor::Child;
use crate::sys;

/// Longest time a hook without a timeout may take, in milliseconds: 24 days, so no bound in practice.
const FOREVER_MS: u32 = u32::MAX >> 1;

/// Runs hooks one after the other; the container's state is their input.
///
/// # Errors
///
/// The first that cannot be run, fails or takes too long.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &str) -> Result<(), Failure> {
    for hook in hooks {
        run(hook, state).map_err(|reason| {
            let path = hook.path.display();
            Failure::setup(format!("{kind} hook failed with {reason}: {path}"))
        })?;
    }
    Ok(())
}

fn run(hook: &Hook, state: &str) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let argv: Vec<OsString> = if hook.args.is_empty() {
        vec![hook.path.clone().into()]
    } else {
        hook.args.iter().map(OsString::from).collect()
    };
    let env: Vec<CString> = hook
        .env
        .iter()
        .filter_map(|line| CString::new(line.as_str()).ok())
        .collect();
    let spawn = sys::Spawn {
        argv: &argv,
        fds: &[(read.as_fd(), 0)],
        session: false,
    };
    // A hook that says nothing of its environment has the runtime's, as with runc and crun.
    let env = (!env.is_empty()).then_some(env.as_slice());
    let pid = sys::spawn_program(hook.path.as_os_str(), &spawn, env).map_err(text)?;
    let child = Child::new(pid).map_err(text)?;
    drop(read);
    feed(write, state);
    let timeout_ms = hook.timeout.and_then(|s| u32::try_from(s).ok());
    let timeout_ms = timeout_ms.map_or(FOREVER_MS, |s| s.saturating_mul(1000));
    match child.wait(timeout_ms) {
        Some(0) => Ok(()),
        Some(code) => Err(format!("exit code {code}")),
        None => {
            child.signal(libc::SIGKILL);
            child.reap();
            Err(format!("a timeout after {timeout_ms} ms"))
        }
    }
}

/// Gives a hook its input. A hook that reads nothing or has ended is fine, and the state is far
/// smaller than a pipe holds, so this never waits.
fn feed(write: OwnedFd, state: &str) {
    let _unread = std::fs::File::from(write).write_all(state.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(str::to_owned).into(),
            env: vec!["WORD=yes".to_owned()],
            timeout,
        }
    }

    #[test]
    fn hooks_get_state_and_environment_and_fail_loudly() {
        let good = hook("read state; test \"$state$WORD\" = '{}yes'", Some(5));
        assert_eq!(run_all("prestart", &[good], "{}\n"), Ok(()));
        let bad = run_all("poststop", &[hook("exit 3", None)], "{}").unwrap_err();
        assert_eq!(bad.text, "poststop hook failed with exit code 3: /bin/sh");
        let slow = run_all("prestart", &[hook("exec sleep 9", Some(1))], "{}").unwrap_err();
        assert!(slow.text.contains("timeout"), "{}", slow.text);
    }
}
