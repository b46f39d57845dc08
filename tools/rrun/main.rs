//! The `rrun` command line: arguments, request, call, report.

mod overlayfs;
mod report;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = args.first().cloned().unwrap_or_default();
    args.remove(0);
    let named = std::path::Path::new(&name)
        .file_name()
        .is_some_and(|n| n == "rrun-overlayfs");
    if !named && args.first().is_some_and(|a| a == "overlayfs") {
        args.remove(0);
    }
    let code = overlayfs::main(&args);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
