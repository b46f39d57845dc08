//! The command line of this process, as `ps(1)` shows it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::sys::arguments::{self, Layout};

/// Has this process shown with these words: a fork that goes on as something else is told apart by
/// them. Nothing happens without `/proc`, or where the kernel cannot (`CONFIG_CHECKPOINT_RESTORE`).
///
/// The caller must be single-threaded.
pub(crate) fn set(words: &[OsString]) {
    // It is for people and their tools only.
    let _unchanged = try_set(words);
}

fn try_set(words: &[OsString]) -> io::Result<()> {
    let stat = std::fs::read("/proc/self/stat")?;
    let layout = layout(&stat).ok_or(io::ErrorKind::InvalidData)?;
    let mut line = Vec::new();
    for word in words {
        line.extend_from_slice(word.as_bytes());
        line.push(0);
    }
    arguments::set(&layout, line.leak())
}

/// What `/proc/PID/stat` says of a process's memory. Source: `proc_pid_stat(5)`.
fn layout(stat: &[u8]) -> Option<Layout> {
    // The second field may hold blanks, and anything else.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first field after the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Layout {
        code: (field(26)?, field(27)?),
        stack: field(28)?,
        data: (field(45)?, field(46)?),
        heap: field(47)?,
        environment: (field(50)?, field(51)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_kernel_says() {
        let stat = std::fs::read("/proc/self/stat").unwrap();
        let layout = layout(&stat).unwrap();
        let here = the_layout_is_what_the_kernel_says as *const () as u64;
        assert!((layout.code.0..layout.code.1).contains(&here));
        assert!(layout.environment.0 <= layout.environment.1);
    }

    #[test]
    fn a_line_that_is_cut_has_no_layout() {
        assert!(layout(b"1 (a) b) S 0").is_none());
        assert!(layout(b"").is_none());
    }
}
