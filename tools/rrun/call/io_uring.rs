//! The way requests come to a file-system server.

use rrun_mount::IoUring;

use crate::environment::Environment;
use crate::failure::Failure;

/// The variable that says it for the servers of containers, each time one starts.
const VARIABLE: &str = "RRUN_IO_URING";

/// The way of this name.
pub(crate) fn parse(word: &str) -> Option<IoUring> {
    match word {
        "on" => Some(IoUring::On),
        "off" => Some(IoUring::Off),
        "auto" => Some(IoUring::Auto),
        _ => None,
    }
}

/// The way the environment asks for; fails when this host does not have it.
pub(crate) fn asked_for() -> Result<IoUring, Failure> {
    let word = Environment::variable(VARIABLE).filter(|word| !word.is_empty());
    let Some(word) = word else {
        return Ok(IoUring::Off);
    };
    let way = parse(&word)
        .ok_or_else(|| Failure::general(format!("{VARIABLE} is on, off or auto, not {word}")))?;
    if way == IoUring::On {
        rrun_mount::io_uring_available()
            .map_err(|error| Failure::of(&format!("{VARIABLE}=on"), &error))?;
    }
    Ok(way)
}
