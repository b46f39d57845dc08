//! What a process gives back once its start is over.

use std::ops::Range;
use std::time::Duration;

use crate::sys;

/// A process that has lived this long goes on; what ends sooner need not give anything back.
pub const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Lets go of program text and of freed heap: most of what a start has touched is never touched
/// again. What is needed later comes back from the page cache, page by page. Nothing happens
/// without `/proc`.
pub fn give_back() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for range in maps.lines().filter_map(text_of_file) {
        sys::memory::forget_text(range);
    }
    sys::memory::trim_heap();
}

/// The addresses in a line of `/proc/PID/maps`, if they hold program text of a file. Data that may
/// not be written any more looks the same but for the right to execute, and may have been written
/// before. Source: `proc(5)`.
fn text_of_file(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (range, rights, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    if rights != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_let_go() {
        let rest = "00001000 fe:00 1234    /bin/rrun";
        let line = |rights| format!("55d0c000-55d0f000 {rights} {rest}");
        assert_eq!(text_of_file(&line("r-xp")), Some(0x55d0_c000..0x55d0_f000));
        for rights in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(text_of_file(&line(rights)), None, "{rights}");
        }
        let vdso = "7ffc0000-7ffc2000 r-xp 00000000 00:00 0    [vdso]";
        assert_eq!(text_of_file(vdso), None);
        assert_eq!(text_of_file(""), None);
    }

    #[test]
    fn a_process_goes_on_without_its_text() {
        give_back();
        let line = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(line.starts_with(&std::process::id().to_string()));
    }
}
