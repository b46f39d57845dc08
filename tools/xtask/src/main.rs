//! The project's own checks: `cargo xtask ci`, `tidy`, `fixtures`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

mod ci;
mod fixtures;
mod pjdfstest;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a task ends with; the text says what failed.
type Outcome = Result<(), String>;

const HELP: &str = "\
Usage: cargo xtask TASK

  ci         everything continuous integration checks, in its order
  setup      install what the tests need (Debian, root), or say what is missing
  tidy       the house rules that compilers do not check
  pjdfstest  the POSIX suite on rrun-overlayfs, against kernel overlayfs (root);
             with the word userns in a user namespace: the caller's, root's is that of rrun-test
  fixtures   make the root file systems the tests use, in target/fixtures
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let task = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let root = root();
    let outcome = match task.as_str() {
        "ci" => ci::run(&root),
        "setup" => ci::setup(&root),
        "tidy" => tidy::run(&root),
        "pjdfstest" => pjdfstest::As::parse(&rest).and_then(|who| pjdfstest::run(&root, who)),
        "fixtures" => fixtures::run(&root),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask {task}: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo builds to.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
