//! How fast is the union file system, next to what else there is?
//!
//! Baselines: a native directory, the kernel's overlayfs, fuse-overlayfs; all in one interleaved
//! run on the same layers. README.md beside this directory says how to repeat and read it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a program of its own, whose whole purpose is to print; no library runs in it"
)]

mod counts;
mod data;
mod image;
mod mounts;
mod options;
#[path = "../support/mod.rs"]
mod support;
mod tree;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mounts::{Contender, Kind};
use options::Settings;
use support::{figures, keeper, program};
use work::{Stage, WORKLOADS, Workload};

/// Room for the layers, a native copy and the uppers, several times over.
const TMPFS_SIZE: &str = "size=8g";
const MOUNT_ROW: &str = "mount";
const KINDS: usize = Kind::ALL.len();

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        println!("{}", options::USAGE);
        return ExitCode::SUCCESS;
    }
    if !words.iter().any(|word| word == "--bench") {
        println!("skipped: this takes minutes; run it with `cargo bench --bench filesystem`");
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::parse(words.into_iter()) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("bench: {message}");
            return ExitCode::FAILURE;
        }
    };
    let place = keeper::Place {
        parent: settings.disk.clone().unwrap_or_else(std::env::temp_dir),
        user_namespace: settings.user_namespace,
    };
    keeper::run(&place, |dir| measure(dir, &settings))
}

fn measure(dir: &Path, settings: &Settings) -> Result<(), String> {
    if settings.disk.is_none() {
        let mut command = program::limited("mount");
        command
            .args(["-t", "tmpfs", "-o", TMPFS_SIZE, "tmpfs"])
            .arg(dir);
        program::timed(&mut command, Path::new("/dev/null"))?;
    }
    tree::generate(dir, settings.shape)?;
    let mut contenders: Vec<Contender> = Kind::ALL
        .iter()
        .map(|kind| Contender::new(*kind, dir, settings))
        .collect();
    if let Some(ours) = contenders
        .iter_mut()
        .find(|one| one.kind == Kind::OurImage && one.missing.is_none())
    {
        ours.missing = image::load(dir, settings).err();
    }
    heading(settings);
    if settings.counts {
        return counts::measure(dir, settings, &mut contenders);
    }
    let stage = stage(dir, settings)?;
    let mut table = Table::new(settings);
    for round in 0..settings.rounds {
        one_round(round, dir, settings, &stage, &mut contenders, &mut table)?;
        eprintln!("round {} of {} done", round + 1, settings.rounds);
    }
    table.print();
    println!("\nAt the end: {}", program::machine());
    Ok(())
}

/// Packs the archive that is unpacked later.
fn stage(dir: &Path, settings: &Settings) -> Result<Stage, String> {
    let stage = Stage {
        shape: settings.shape,
        archive: dir.join("quarter.tar"),
        log: dir.join("errors"),
    };
    let mut native = Contender::new(Kind::Native, dir, settings);
    native.refresh(dir, settings)?;
    let tops = (tree::TOPS - tree::TOPS / 4..tree::TOPS).map(tree::top_name);
    let mut command = program::limited("tar");
    command
        .arg("-C")
        .arg(native.root())
        .arg("-cf")
        .arg(&stage.archive);
    program::timed(command.args(tops), &stage.log)?;
    Ok(stage)
}

fn heading(settings: &Settings) {
    println!("{}", program::machine());
    let version = |name: &str, argument: &str| {
        program::find(name).map_or("not installed".to_owned(), |p| {
            program::version(&p, argument)
        })
    };
    println!("fuse-overlayfs: {}", version(&settings.peer, "--version"));
    println!(
        "ours: {} ({})",
        version(&settings.rrun, "--version"),
        settings.rrun_options
    );
    println!(
        "{} small files in {} directories, {} layers, large file {} MiB; upper on {}; {}; overlay options {:?}",
        settings.shape.files,
        settings.shape.dirs_per_top * tree::TOPS,
        settings.shape.layers,
        settings.shape.big_bytes >> 20,
        settings
            .disk
            .as_ref()
            .map_or("tmpfs".to_owned(), |dir| dir.display().to_string()),
        if settings.user_namespace {
            "user namespace"
        } else {
            "root"
        },
        settings.overlay_options,
    );
    println!();
}

/// Every workload on every contender in turn, each round beginning with another one.
fn one_round(
    round: usize,
    dir: &Path,
    settings: &Settings,
    stage: &Stage,
    contenders: &mut [Contender],
    table: &mut Table,
) -> Result<(), String> {
    for contender in contenders.iter_mut().filter(|one| one.missing.is_none()) {
        contender.refresh(dir, settings)?;
    }
    let count = contenders.len();
    for (number, workload) in WORKLOADS.iter().enumerate() {
        if workload.fresh_mount {
            for turn in 0..count {
                let at = (turn + round) % count;
                remount(&mut contenders[at], at, dir, settings, table);
            }
        }
        if !table.wants(workload.name) {
            continue;
        }
        for turn in 0..count {
            let at = (turn + round) % count;
            if contenders[at].missing.is_none() {
                let outcome = settled(&contenders[at], workload, stage);
                table.add(number + 1, at, outcome);
            }
        }
    }
    for contender in contenders.iter_mut() {
        contender.unmount()?;
    }
    Ok(())
}

fn remount(
    contender: &mut Contender,
    at: usize,
    dir: &Path,
    settings: &Settings,
    table: &mut Table,
) {
    if contender.kind == Kind::Native || contender.missing.is_some() {
        return;
    }
    match contender.mount(dir, settings) {
        Ok(took) => table.add(0, at, Ok(took)),
        Err(message) => contender.missing = Some(message),
    }
    table.missing[at].clone_from(&contender.missing);
}

/// Runs a workload after everything written before it has reached the disk.
fn settled(
    contender: &Contender,
    workload: &Workload,
    stage: &Stage,
) -> Result<std::time::Duration, String> {
    let root: PathBuf = contender.root();
    program::timed(program::limited("sync").arg("-f").arg(&root), &stage.log)?;
    (workload.run)(&root, stage)
}

/// What was measured: seconds by row and contender.
struct Table {
    rows: Vec<(&'static str, [Vec<f64>; KINDS])>,
    faults: Vec<String>,
    missing: [Option<String>; KINDS],
    filter: Option<String>,
}

impl Table {
    fn new(settings: &Settings) -> Self {
        let names = std::iter::once(MOUNT_ROW).chain(WORKLOADS.iter().map(|one| one.name));
        Self {
            rows: names.map(|name| (name, Default::default())).collect(),
            faults: Vec::new(),
            missing: Default::default(),
            filter: settings.rows.clone(),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|text| name.contains(text.as_str()))
    }

    fn add(&mut self, row: usize, contender: usize, outcome: Result<std::time::Duration, String>) {
        let (name, cells) = &mut self.rows[row];
        match outcome {
            Ok(took) => cells[contender].push(took.as_secs_f64()),
            Err(message) => {
                let fault = format!("{}, {name}: {message}", Kind::ALL[contender].name());
                if !self.faults.contains(&fault) {
                    self.faults.push(fault);
                }
            }
        }
    }

    fn print(&self) {
        println!(
            "| median, ms | native | overlay | fuse-overlayfs | ours | our image | hybrid | ours / fuse-overlayfs | ours / overlay | our image / fuse-overlayfs | our image / overlay | hybrid / fuse-overlayfs | hybrid / overlay |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for (name, cells) in self.rows.iter().filter(|(name, _)| self.wants(name)) {
            let medians: Vec<Option<f64>> =
                cells.iter().map(|values| figures::median(values)).collect();
            let mut line = format!("| {name} |");
            for median in &medians {
                let text = median.map_or("-".to_owned(), figures::milliseconds);
                line.push_str(&format!(" {text} |"));
            }
            println!(
                "{line} {} | {} | {} | {} | {} | {} |",
                figures::ratio(medians[3], medians[2]),
                figures::ratio(medians[3], medians[1]),
                figures::ratio(medians[4], medians[2]),
                figures::ratio(medians[4], medians[1]),
                figures::ratio(medians[5], medians[2]),
                figures::ratio(medians[5], medians[1])
            );
        }
        println!();
        for (kind, missing) in Kind::ALL.iter().zip(&self.missing) {
            if let Some(reason) = missing {
                println!("{} is missing: {reason}", kind.name());
            }
        }
        for fault in &self.faults {
            println!("failed: {fault}");
        }
    }
}
