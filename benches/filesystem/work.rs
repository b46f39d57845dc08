//! The workloads. Each is called on the root of a contender and gives the time it took; what it
//! needs beforehand is prepared outside that time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::data;
use crate::support::program;
use crate::tree::{self, Shape};

pub(crate) type Outcome = Result<Duration, String>;
type Run = fn(&Path, &Stage) -> Outcome;

/// What workloads may use besides the tree.
pub(crate) struct Stage {
    pub(crate) shape: Shape,
    /// A tar archive of a quarter of the small files.
    pub(crate) archive: PathBuf,
    /// Where errors of programs go.
    pub(crate) log: PathBuf,
}

/// One row of the table.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Whether every contender is mounted anew before it.
    pub(crate) fresh_mount: bool,
    pub(crate) run: Run,
}

const fn row(name: &'static str, fresh_mount: bool, run: Run) -> Workload {
    Workload {
        name,
        fresh_mount,
        run,
    }
}

/// All rows, in the order they are run.
pub(crate) const WORKLOADS: [Workload; 23] = [
    row("find -printf, fresh mount", true, find),
    row("find -printf, again", false, find),
    row("lstat of everything, fresh mount", true, lstat),
    row("statx with birth time, fresh mount", true, statx),
    row("tar of all small files, fresh mount", true, tar),
    row(
        "open+read+close of 1/4 of the files, again",
        false,
        read_again,
    ),
    row("first read of the large file, fresh mount", true, read_big),
    row("second read of the large file", false, read_big),
    row("create+write of 3/20, 1 KiB each", true, create),
    row("unlink of those", false, unlink_created),
    row("rm -rf of 3/20 of the files, lower", false, remove_lower),
    row(
        "append 1 byte to the large lower file, fsync",
        false,
        append,
    ),
    row("chmod -R of 3/20 of the files, lower", false, chmod),
    row(
        "append 1 byte to 1/20 of the files, lower",
        false,
        append_small,
    ),
    row("untar of 1/4 of the files", false, untar),
    row("mv of a lower directory (1/20)", false, rename),
    row("cc of 200 files, two jobs", true, data::compile),
    row("1,000 starts of a program", true, data::start_programs),
    row(
        "4 KiB random reads, 1 thread, fresh mount",
        true,
        data::read_randomly,
    ),
    row(
        "4 KiB random reads, 4 threads, fresh mount",
        true,
        data::read_in_parallel,
    ),
    row(
        "4 KiB random writes to the large lower file, fsync",
        true,
        data::write_randomly,
    ),
    row(
        "write of a new file of 256 MiB, fsync",
        true,
        data::write_long,
    ),
    row(
        "4 KiB random writes to that file, fsync",
        false,
        data::rewrite_randomly,
    ),
];

pub(crate) fn fault(action: &str, path: &Path) -> impl Fn(std::io::Error) -> String {
    let (action, path) = (action.to_owned(), path.to_owned());
    move |error| format!("could not {action} {}: {error}", path.display())
}

/// Runs a program whose output is read and thrown away, as a user's pipe would.
fn drained(command: &mut Command, stage: &Stage) -> Outcome {
    let log = File::create(&stage.log).map_err(fault("create", &stage.log))?;
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("could not start {command:?}: {error}"))?;
    if let Some(mut out) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 16];
        while matches!(out.read(&mut buffer), Ok(count) if count > 0) {}
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let took = started.elapsed();
    if status.success() {
        return Ok(took);
    }
    let text = fs::read_to_string(&stage.log).unwrap_or_default();
    Err(format!(
        "{status}: {}",
        text.lines().last().unwrap_or_default()
    ))
}

fn find(root: &Path, stage: &Stage) -> Outcome {
    // Numbers of owners: for a name find(1) opens /etc/passwd once a file, which takes longer than the file.
    let format = "%p %s %m %U %T@ %n\n";
    drained(
        program::limited("find").arg(root).args(["-printf", format]),
        stage,
    )
}

fn every_path(root: &Path, stage: &Stage) -> Vec<PathBuf> {
    let paths = stage.shape.everything();
    paths.iter().map(|path| root.join(path)).collect()
}

/// By stat(1), which asks the kernel for the size alone: no server needs to be asked twice.
fn lstat(root: &Path, stage: &Stage) -> Outcome {
    let mut list = Vec::new();
    for path in every_path(root, stage) {
        list.extend_from_slice(path.as_os_str().as_encoded_bytes());
        list.push(0);
    }
    let file = stage.log.with_extension("list");
    fs::write(&file, list).map_err(fault("write", &file))?;
    let list = File::open(&file).map_err(fault("open", &file))?;
    let mut command = program::limited("xargs");
    drained(command.args(["-0", "stat", "-c", "%s"]).stdin(list), stage)
}

/// As the Rust library's `symlink_metadata` does.
fn statx(root: &Path, stage: &Stage) -> Outcome {
    let paths = every_path(root, stage);
    let started = Instant::now();
    for path in &paths {
        fs::symlink_metadata(path).map_err(fault("stat", path))?;
    }
    Ok(started.elapsed())
}

fn tar(root: &Path, stage: &Stage) -> Outcome {
    let tops = (0..tree::TOPS).map(tree::top_name);
    drained(
        program::limited("tar")
            .arg("-C")
            .arg(root)
            .args(["-cf", "-"])
            .args(tops),
        stage,
    )
}

fn read_again(root: &Path, stage: &Stage) -> Outcome {
    let paths = stage.shape.files_of(0..tree::TOPS / 4);
    let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
    let mut buffer = vec![0; 1 << 16];
    let started = Instant::now();
    for path in &paths {
        let mut file = File::open(path).map_err(fault("open", path))?;
        while file.read(&mut buffer).map_err(fault("read", path))? > 0 {}
    }
    Ok(started.elapsed())
}

fn read_big(root: &Path, _stage: &Stage) -> Outcome {
    let path = root.join(tree::BIG);
    let mut buffer = vec![0; 1 << 17];
    let started = Instant::now();
    let mut file = File::open(&path).map_err(fault("open", &path))?;
    while file.read(&mut buffer).map_err(fault("read", &path))? > 0 {}
    Ok(started.elapsed())
}

fn created(root: &Path, stage: &Stage) -> Vec<PathBuf> {
    (0..3 * stage.shape.files_per_top())
        .map(|number| root.join("created").join(format!("file-{number:06}")))
        .collect()
}

fn create(root: &Path, stage: &Stage) -> Outcome {
    let dir = root.join("created");
    fs::create_dir(&dir).map_err(fault("create", &dir))?;
    let paths = created(root, stage);
    let content = [b'x'; 1024];
    let started = Instant::now();
    for path in &paths {
        fs::write(path, content).map_err(fault("write", path))?;
    }
    Ok(started.elapsed())
}

fn unlink_created(root: &Path, stage: &Stage) -> Outcome {
    let paths = created(root, stage);
    let started = Instant::now();
    for path in &paths {
        fs::remove_file(path).map_err(fault("unlink", path))?;
    }
    Ok(started.elapsed())
}

fn remove_lower(root: &Path, stage: &Stage) -> Outcome {
    let tops = (0..3).map(|top| root.join(tree::top_name(top)));
    program::timed(program::limited("rm").arg("-rf").args(tops), &stage.log)
}

fn append(root: &Path, _stage: &Stage) -> Outcome {
    let path = root.join(tree::BIG);
    let started = Instant::now();
    append_to(&path, true)?;
    Ok(started.elapsed())
}

pub(crate) fn append_to(path: &Path, durable: bool) -> Result<(), String> {
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(fault("open", path))?;
    file.write_all(b"!").map_err(fault("append to", path))?;
    if durable {
        file.sync_all().map_err(fault("fsync", path))?;
    }
    Ok(())
}

fn chmod(root: &Path, stage: &Stage) -> Outcome {
    let tops = (3..6).map(|top| root.join(tree::top_name(top)));
    let mut command = program::limited("chmod");
    program::timed(command.args(["-R", "o-r,u+x"]).args(tops), &stage.log)
}

fn append_small(root: &Path, stage: &Stage) -> Outcome {
    let paths = stage.shape.files_of(7..8);
    let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
    let started = Instant::now();
    for path in &paths {
        append_to(path, false)?;
    }
    Ok(started.elapsed())
}

fn untar(root: &Path, stage: &Stage) -> Outcome {
    let dir = root.join("unpacked");
    fs::create_dir(&dir).map_err(fault("create", &dir))?;
    let mut command = program::limited("tar");
    command.arg("-C").arg(&dir).arg("-xf").arg(&stage.archive);
    program::timed(&mut command, &stage.log)
}

fn rename(root: &Path, stage: &Stage) -> Outcome {
    let (from, to) = (root.join(tree::top_name(6)), root.join("moved"));
    program::timed(program::limited("mv").arg(from).arg(to), &stage.log)
}
