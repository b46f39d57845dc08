//! Does cost follow the change, or the size of the image?
//!
//! Mounting, memory, listing changes and idling of large images in our own store.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a program of its own, whose whole purpose is to print; no library runs in it"
)]

#[path = "../support/mod.rs"]
mod support;
mod tarball;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rrun_core::Digest;
use rrun_image::images;
use rrun_store::Store;
use rrun_union::{Options, Union};
use support::{figures, keeper, program};

/// Entries of the images that are compared.
const SMALL: usize = 1_000;
const MIDDLE: usize = 100_000;
const WALKED: usize = 200_000;
const LARGE: usize = 500_000;
/// Changes that are listed.
const CHANGES: usize = 100;
const ROUNDS: usize = 15;
const IDLE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        println!("skipped: this takes a minute; run it with `cargo bench --bench scale`");
        return ExitCode::SUCCESS;
    }
    let at = words.iter().position(|word| word == "--rrun");
    let rrun = at
        .and_then(|at| words.get(at + 1).cloned())
        .unwrap_or_else(|| {
            option_env!("CARGO_BIN_EXE_rrun")
                .unwrap_or("rrun")
                .to_owned()
        });
    let place = keeper::Place {
        parent: std::env::temp_dir(),
        user_namespace: true,
    };
    keeper::run(&place, |dir| Bench { dir, rrun: &rrun }.run())
}

struct Bench<'a> {
    dir: &'a Path,
    rrun: &'a str,
}

impl Bench<'_> {
    fn run(&self) -> Result<(), String> {
        let mut command = program::limited("mount");
        command.args(["-t", "tmpfs", "-o", "size=4g", "tmpfs"]);
        program::timed(command.arg(self.dir), Path::new("/dev/null"))?;
        let found = program::find(self.rrun).ok_or(format!("{} is not there", self.rrun))?;
        let whose = if keeper::is_root() { "root" } else { "a user" };
        println!("{}", program::machine());
        println!(
            "{}, in a user namespace of {whose}\n",
            program::version(&found, "--version")
        );
        println!("| what | figure |");
        println!("|---|---|");
        for entries in [SMALL, MIDDLE, WALKED, LARGE] {
            self.import(entries)?;
        }
        self.mounts()?;
        self.memory()?;
        self.changes()?;
        println!("\nAt the end: {}", program::machine());
        Ok(())
    }

    fn import(&self, entries: usize) -> Result<(), String> {
        let archive = self.dir.join("archive.tar");
        tarball::write(&archive, entries)
            .map_err(|e| format!("could not write {}: {e}", archive.display()))?;
        let mut command = program::limited(self.rrun);
        command.arg("--data-root").arg(self.dir).arg("import");
        command.arg(&archive).arg(name(entries));
        let took = program::timed(&mut command, &self.dir.join("errors"))?;
        println!(
            "| import of {entries} entries, ms | {} |",
            figures::milliseconds(took.as_secs_f64())
        );
        Ok(())
    }

    fn store(&self) -> Result<Store, String> {
        Store::open(&self.dir.join("store")).map_err(|error| error.to_string())
    }

    fn layers(&self, store: &Store, entries: usize) -> Result<Vec<Digest>, String> {
        let (record, _) = images::find(store, &name(entries)).map_err(|error| error.to_string())?;
        Ok(record.diff_ids())
    }

    /// Opening the index and the union and mounting them: all that a mount is but for the start
    /// of a process.
    fn mounts(&self) -> Result<(), String> {
        let mut medians = Vec::new();
        for entries in [SMALL, LARGE] {
            let store = self.store()?;
            let layers = self.layers(&store, entries)?;
            store.base(&layers).map_err(|error| error.to_string())?;
            let mut took = Vec::new();
            for round in 0..ROUNDS {
                let (upper, work) = self.upper(&format!("mount-{entries}-{round}"))?;
                let place = self.dir.join("place");
                fs::create_dir_all(&place).map_err(|e| e.to_string())?;
                let started = Instant::now();
                let base = store.base(&layers).map_err(|error| error.to_string())?;
                let union = Union::open(Arc::new(base), Some((&upper, &work)), Options::default())
                    .map_err(|error| error.to_string())?;
                let flags = rustix::mount::MountFlags::empty();
                let mounted = rrun_mount::mount(&place, "scale", flags)
                    .map_err(|error| format!("could not mount: {error}"))?;
                took.push(started.elapsed().as_secs_f64());
                drop((mounted, union));
            }
            let median = figures::median(&took);
            println!(
                "| open and mount an image of {entries} entries, ms | {} |",
                median.map_or("-".to_owned(), figures::milliseconds)
            );
            medians.push(median);
        }
        println!(
            "| {LARGE} entries / {SMALL} entries | {} |",
            figures::ratio(medians[1], medians[0])
        );
        Ok(())
    }

    fn upper(&self, label: &str) -> Result<(PathBuf, PathBuf), String> {
        let (upper, work) = (
            self.dir.join(format!("{label}-u")),
            self.dir.join(format!("{label}-w")),
        );
        for dir in [&upper, &work] {
            fs::create_dir(dir).map_err(|e| format!("could not create {}: {e}", dir.display()))?;
        }
        Ok((upper, work))
    }

    fn serve(&self, entries: usize, label: &str) -> Result<(Child, PathBuf), String> {
        let (upper, work) = self.upper(label)?;
        let place = self.dir.join(format!("{label}-m"));
        fs::create_dir(&place).map_err(|e| e.to_string())?;
        let options = format!(
            "image={},data_root={},upperdir={},workdir={},metacopy=on,redirect_dir=on",
            name(entries),
            self.dir.display(),
            upper.display(),
            work.display()
        );
        let child = Command::new(self.rrun)
            .args(["overlayfs", "-f", "-o", &options])
            .arg(&place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("could not start {}: {error}", self.rrun))?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::metadata(place.join("d0")).is_err() {
            if Instant::now() > deadline {
                return Err("the server did not mount in 10 s".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((child, place))
    }

    fn memory(&self) -> Result<(), String> {
        let bases = self.dir.join("store/bases");
        let largest = fs::read_dir(&bases)
            .map_err(|e| format!("could not read {}: {e}", bases.display()))?
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|found| found.len())
            .max()
            .unwrap_or(0);
        println!(
            "| index of {LARGE} entries, bytes per entry | {} |",
            largest / LARGE as u64
        );
        let (one, place) = self.serve(WALKED, "one")?;
        let (two, other) = self.serve(WALKED, "two")?;
        println!(
            "| server before a walk, own + mapped KiB | {} |",
            resident(one.id())
        );
        for place in [&place, &other] {
            let mut command = program::limited("find");
            command.arg(place).args(["-printf", "%s"]);
            program::timed(&mut command, &self.dir.join("errors"))?;
        }
        println!(
            "| server after a walk of {WALKED} entries, own + mapped KiB | {} |",
            resident(one.id())
        );
        println!(
            "| of two servers of one image, proportional KiB each | {} |",
            field(&format!("/proc/{}/smaps_rollup", one.id()), "Pss:")
        );
        std::thread::sleep(Duration::from_secs(1));
        let before = wakeups(one.id());
        std::thread::sleep(IDLE);
        println!(
            "| wake-ups of an idle server in {} s | {} |",
            IDLE.as_secs(),
            wakeups(one.id()) - before
        );
        self.end(one, &place)?;
        self.end(two, &other)
    }

    fn end(&self, mut server: Child, place: &Path) -> Result<(), String> {
        let mut command = program::limited("umount");
        program::timed(command.arg(place), &self.dir.join("errors"))?;
        server.wait().map(|_| ()).map_err(|e| e.to_string())
    }

    /// Listing what changed, next to a walk that would find it.
    fn changes(&self) -> Result<(), String> {
        let (server, place) = self.serve(MIDDLE, "changed")?;
        for number in 0..CHANGES {
            let path = place.join(tarball::path(number * (MIDDLE / CHANGES / 2)));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .map_err(|e| format!("could not chmod {}: {e}", path.display()))?;
        }
        let started = Instant::now();
        let mut command = program::limited("find");
        command.arg(&place).args(["-printf", "%p %s %m %T@\n"]);
        program::timed(&mut command, &self.dir.join("errors"))?;
        let walk = started.elapsed().as_secs_f64();
        self.end(server, &place)?;
        let store = self.store()?;
        let layers = self.layers(&store, MIDDLE)?;
        let (upper, work) = (self.dir.join("changed-u"), self.dir.join("changed-w"));
        let mut took = Vec::new();
        let mut count = 0;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let base = store.base(&layers).map_err(|error| error.to_string())?;
            let options = Options {
                read_only: true,
                ids: rrun_union::IdStore::Real,
                ..Options::default()
            };
            let union = Union::open(Arc::new(base), Some((&upper, &work)), options)
                .map_err(|error| error.to_string())?;
            count = 0;
            union
                .changes(&mut |_| {
                    count += 1;
                    Ok(())
                })
                .map_err(|error| format!("could not list changes: {error:?}"))?;
            took.push(started.elapsed().as_secs_f64());
        }
        let median = figures::median(&took);
        println!(
            "| changes of {CHANGES} files in {MIDDLE} entries ({count} with directories), ms | {} |",
            median.map_or("-".to_owned(), figures::milliseconds)
        );
        println!(
            "| a walk of the mount, ms | {} |",
            figures::milliseconds(walk)
        );
        println!(
            "| walk / changes | {} |",
            figures::ratio(Some(walk), median)
        );
        Ok(())
    }
}

fn name(entries: usize) -> String {
    format!("entries{entries}:1")
}

/// A line of a status file, without its name.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map_or("?".to_owned(), |rest| rest.trim().replace(" kB", ""))
}

fn resident(pid: u32) -> String {
    let path = format!("/proc/{pid}/status");
    let number = |name| field(&path, name).parse::<u64>().unwrap_or(0);
    // A mapped index on a tmpfs counts as shared memory.
    let mapped = number("RssFile:") + number("RssShmem:");
    format!("{} + {mapped}", number("RssAnon:"))
}

/// How often the threads of a process were given a processor after waiting.
fn wakeups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| {
            let path = task.path().join("status").display().to_string();
            field(&path, "voluntary_ctxt_switches:")
                .parse()
                .unwrap_or(0)
        })
        .sum()
}
