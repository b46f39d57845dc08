//! The only place that prints.
#![expect(
    clippy::print_stderr,
    reason = "this module is where printing is allowed"
)]

/// Prints a line on standard error.
pub(crate) fn error(message: &str) {
    eprintln!("{message}");
}

/// Points standard input, output and error elsewhere, so that whoever waits for them is let go.
pub(crate) fn detach_output() {
    if let Ok(null) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _stdin = rustix::stdio::dup2_stdin(&null);
        let _stdout = rustix::stdio::dup2_stdout(&null);
        let _stderr = rustix::stdio::dup2_stderr(&null);
    }
}

/// Whether this process is root in the initial user namespace.
pub(crate) fn is_host_root() -> bool {
    let whole = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = whole.split_whitespace().eq(["0", "0", "4294967295"]);
    initial && rustix::process::geteuid().is_root()
}
