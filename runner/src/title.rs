//! The command line of this process, as `ps(1)` shows it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// Replaces word `index` in place, the others staying where they are; a word that is longer than
/// the one there is cut. Nothing happens without `/proc`.
///
/// A fork that goes on as something else is told apart by it. The words lie on the stack, where
/// `/proc/PID/cmdline` reads them. Source: `proc(5)`.
pub(crate) fn replace_word(index: usize, word: &OsStr) {
    // It is for people and their tools only.
    let _unchanged = try_replace(index, word);
}

fn try_replace(index: usize, word: &OsStr) -> io::Result<()> {
    let line = std::fs::read("/proc/self/cmdline")?;
    let stat = std::fs::read("/proc/self/stat")?;
    let Some(((at, room), start)) = place(&line, index).zip(arguments_start(&stat)) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut bytes = word.as_bytes().to_vec();
    bytes.resize(room, 0);
    let memory = File::options().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&bytes, start + u64::try_from(at).unwrap_or_default())
}

/// Offset and length of a word of a command line.
fn place(line: &[u8], index: usize) -> Option<(usize, usize)> {
    let mut at = 0;
    for (number, word) in line.split(|byte| *byte == 0).enumerate() {
        if number == index {
            return Some((at, word.len()));
        }
        at += word.len() + 1;
    }
    None
}

/// Where the arguments begin: field 48 of `/proc/PID/stat`, whose second one may hold blanks.
fn arguments_start(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    // The first field after the name is the third.
    rest.split_ascii_whitespace().nth(48 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_where_they_lie() {
        let line = b"/bin/rrun\0__monitor\0/dir\0";
        assert_eq!(place(line, 0), Some((0, 9)));
        assert_eq!(place(line, 1), Some((10, 9)));
        assert_eq!(place(line, 2), Some((20, 4)));
        assert_eq!(place(line, 9), None);
    }

    #[test]
    fn arguments_begin_where_the_kernel_says() {
        let stat = std::fs::read("/proc/self/stat").unwrap();
        let start = arguments_start(&stat).unwrap();
        let mut first = vec![0; std::env::args_os().next().unwrap().len()];
        let memory = File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut first, start).unwrap();
        assert_eq!(
            OsStr::from_bytes(&first),
            std::env::args_os().next().unwrap()
        );
        assert_eq!(arguments_start(b"1 (a) b) S 0"), None);
    }
}
