//! How long until a container's first program has run, next to podman, crun and runc?
//!
//! Each command is run in turn, many rounds. The benchmark is the first process of a process id
//! namespace, so that it reaps whatever a command leaves behind and counts that too.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a program of its own, whose whole purpose is to print; no library runs in it"
)]

mod crowd;
mod ports;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod sys;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stage::{IMAGE, Stage, User};
use support::{figures, keeper, program};
use sys::Waited;

const USAGE: &str = "cargo bench --bench start -- [OPTIONS]   (as root)
  --quick        3 rounds
  --rounds N     interleaved rounds (20)
  --rrun PATH    the binary to measure (the one cargo just built)
  --rows TEXT    only commands whose description contains TEXT
  --ports        only the throughput of ports and uplinks, which else is not measured";

/// A command never takes this long unless it hangs; then the whole benchmark is ended.
const STEP_SECONDS_MAX: u64 = 60;
/// How long to wait for what a command leaves behind when nothing ends any more.
const QUIET: Duration = Duration::from_millis(300);

struct Settings {
    rounds: usize,
    rrun: String,
    rows: Option<String>,
    ports: bool,
}

fn settings(mut words: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        rounds: 20,
        rrun: option_env!("CARGO_BIN_EXE_rrun")
            .unwrap_or("rrun")
            .to_owned(),
        rows: None,
        ports: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("option {word} needs a value"));
        match word.as_str() {
            "--bench" => {}
            "--quick" => settings.rounds = 3,
            "--rounds" => {
                let text = value()?;
                settings.rounds = text.parse().map_err(|_| format!("bad number {text:?}"))?;
            }
            "--rrun" => settings.rrun = value()?,
            "--rows" => settings.rows = Some(value()?),
            "--ports" => settings.ports = true,
            _ => return Err(format!("unknown option {word}\n{USAGE}")),
        }
    }
    Ok(settings)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if !words.iter().any(|word| word == "--bench") {
        println!("skipped: this takes minutes; run it with `cargo bench --bench start`");
        return ExitCode::SUCCESS;
    }
    if !keeper::is_root() {
        println!("skipped: comparing with root's podman and crun needs root");
        return ExitCode::SUCCESS;
    }
    let settings = match settings(words.into_iter()) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("bench: {message}");
            return ExitCode::FAILURE;
        }
    };
    let place = keeper::Place {
        parent: std::env::temp_dir(),
        user_namespace: false,
    };
    keeper::run(&place, |dir| measure(dir, &settings))
}

/// Makes the command of a round.
type Build = Box<dyn Fn(&Stage, usize) -> Command>;

/// One line of the table.
struct Case {
    name: String,
    build: Build,
    wall: Vec<f64>,
    gone: Vec<f64>,
    cpu: Vec<f64>,
    peak_kib: u64,
    fault: Option<String>,
}

impl Case {
    fn new(name: &str, build: impl Fn(&Stage, usize) -> Command + 'static) -> Self {
        Self {
            name: name.to_owned(),
            build: Box::new(build),
            wall: Vec::new(),
            gone: Vec::new(),
            cpu: Vec::new(),
            peak_kib: 0,
            fault: None,
        }
    }
}

/// `rrun` or podman with these arguments.
fn tool(name: &str, user: User, program: Option<PathBuf>, arguments: &[&str]) -> Case {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let missing = program.is_none();
    let mut case = Case::new(name, move |stage, _round| {
        let program = program.clone().unwrap_or_default();
        let mut command = stage.command(user, program);
        command.args(&arguments);
        command
    });
    if missing {
        case.fault = Some("not installed".to_owned());
    }
    case
}

/// An OCI runtime; `words` come before its command.
fn runtime(
    name: &str,
    program: Option<PathBuf>,
    words: &'static [&'static str],
    bundle: Option<PathBuf>,
) -> Case {
    let missing = program.is_none() || bundle.is_none();
    let mut case = Case::new(
        &format!("{name} run of a bundle, root"),
        move |stage, round| {
            let mut command = stage.command(User::Root, program.clone().unwrap_or_default());
            command.args(words);
            command.args(["run", &format!("bench{round}")]);
            command.current_dir(bundle.clone().unwrap_or_default());
            command
        },
    );
    if missing {
        case.fault = Some("not installed".to_owned());
    }
    case
}

fn cases(rrun: &Path, bundle: Option<PathBuf>) -> Vec<Case> {
    let ours = || Some(rrun.to_owned());
    let podman = || program::find("podman");
    let run = ["run", "--rm", "--network", "none", IMAGE, "true"];
    let net = ["run", "--rm", IMAGE, "true"];
    let exec = ["exec", "stays", "true"];
    vec![
        tool("rrun run, root", User::Root, ours(), &run),
        tool("rrun run, user with subuids", User::Ranged, ours(), &run),
        tool("rrun run, user without subuids", User::Single, ours(), &run),
        tool(
            "podman run, root, kernel overlay",
            User::Root,
            podman(),
            &run,
        ),
        tool(
            "podman run, user, fuse-overlayfs",
            User::Ranged,
            podman(),
            &run,
        ),
        runtime("rrun oci", ours(), &["oci"], bundle.clone()),
        runtime("crun", program::find("crun"), &[], bundle.clone()),
        runtime("runc", program::find("runc"), &[], bundle),
        tool("rrun run, default network, root", User::Root, ours(), &net),
        tool(
            "podman run, default network, root",
            User::Root,
            podman(),
            &net,
        ),
        tool(
            "rrun run, default network, user",
            User::Ranged,
            ours(),
            &net,
        ),
        tool(
            "podman run, default network, user",
            User::Ranged,
            podman(),
            &net,
        ),
        tool("rrun exec, root", User::Root, ours(), &exec),
        tool("podman exec, root", User::Root, podman(), &exec),
        tool("rrun ps, root", User::Root, ours(), &["ps"]),
        tool("podman ps, root", User::Root, podman(), &["ps"]),
        tool("rrun images, root", User::Root, ours(), &["images"]),
        tool("podman images, root", User::Root, podman(), &["images"]),
        tool("rrun --version", User::Root, ours(), &["--version"]),
        tool("podman --version", User::Root, podman(), &["--version"]),
    ]
}

fn measure(dir: &Path, settings: &Settings) -> Result<(), String> {
    let rrun = program::find(&settings.rrun).ok_or(format!("no {}", settings.rrun))?;
    let rrun = std::path::absolute(rrun).map_err(|error| error.to_string())?;
    let clock = watchdog();
    println!("{}", program::machine());
    println!("rrun: {}", program::version(&rrun, "--version"));
    for name in ["podman", "crun", "runc", "fuse-overlayfs"] {
        if let Some(path) = program::find(name) {
            println!("{name}: {}", program::version(&path, "--version"));
        }
    }
    println!();
    let stage = Stage::prepare(dir, &rrun)?;
    if settings.ports {
        ports::measure(&stage, settings.rounds, &clock)?;
        println!("\nAt the end: {}", program::machine());
        return Ok(());
    }
    let mut cases = cases(&rrun, stage.bundle().ok());
    cases.retain(|case| {
        let wanted = |text: &String| case.name.contains(text.as_str());
        settings.rows.as_ref().is_none_or(wanted)
    });
    set_up(&stage, &clock);
    let count = cases.len();
    for round in 0..=settings.rounds {
        for turn in 0..count {
            let at = (turn + round) % count;
            // The first round warms caches and finds what does not work here.
            once(&stage, round, &mut cases[at], round > 0, &clock);
        }
    }
    for program in [Some(stage.rrun.clone()), program::find("podman")] {
        let Some(program) = program else { continue };
        let mut command = stage.command(User::Root, program);
        finish(command.args(["rm", "-f", "stays"]), &clock)?;
    }
    print(&cases);
    if settings.rows.is_none() {
        crowd::measure(&stage, settings.rounds, &clock)?;
    }
    println!("\nAt the end: {}", program::machine());
    Ok(())
}

/// Ends everything when one step hangs. The clock counts steps.
fn watchdog() -> Arc<AtomicU64> {
    let clock = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&clock);
    std::thread::spawn(move || {
        loop {
            let before = seen.load(Ordering::Acquire);
            std::thread::sleep(Duration::from_secs(STEP_SECONDS_MAX));
            if seen.load(Ordering::Acquire) == before {
                eprintln!("bench: a command hung for {STEP_SECONDS_MAX} s");
                std::process::exit(1);
            }
        }
    });
    clock
}

/// Brings in the image and starts the containers that `exec` enters; what fails here shows later
/// as a fault of the rows that need it.
fn set_up(stage: &Stage, clock: &AtomicU64) {
    let archive = stage.dir.join("root.tar").display().to_string();
    let podman = program::find("podman");
    let import = ["import", archive.as_str(), IMAGE];
    let stays = [
        "run",
        "-d",
        "--name",
        "stays",
        "--network",
        "none",
        IMAGE,
        "sleep",
        "100000",
    ];
    for (user, program, words) in [
        (User::Root, Some(&stage.rrun), &import[..]),
        (User::Ranged, Some(&stage.rrun), &import[..]),
        (User::Single, Some(&stage.rrun), &import[..]),
        (User::Root, podman.as_ref(), &import[..]),
        (User::Ranged, podman.as_ref(), &import[..]),
        (User::Root, Some(&stage.rrun), &stays[..]),
        (User::Root, podman.as_ref(), &stays[..]),
    ] {
        let Some(program) = program else { continue };
        let mut command = stage.command(user, program);
        match finish(command.args(words), clock) {
            Ok(one) if one.success => {}
            Ok(_) => eprintln!(
                "bench: {} {}: {}",
                program.display(),
                words[0],
                stage.complaint()
            ),
            Err(message) => eprintln!("bench: {message}"),
        }
    }
}

/// What running a command showed.
struct Measured {
    success: bool,
    wall: Duration,
    gone: Duration,
    cpu: Duration,
    peak_kib: u64,
}

/// Runs a command, and waits for what it leaves behind.
fn finish(command: &mut Command, clock: &AtomicU64) -> Result<Measured, String> {
    clock.fetch_add(1, Ordering::Release);
    // What an earlier command left and has ended since is not this one's.
    while matches!(sys::wait_any(false), Waited::Ended(_)) {}
    let started = Instant::now();
    let child = command
        .spawn()
        .map_err(|error| format!("could not start {command:?}: {error}"))?;
    let mut measured = Measured {
        success: false,
        wall: Duration::ZERO,
        gone: Duration::ZERO,
        cpu: Duration::ZERO,
        peak_kib: 0,
    };
    let mut over = false;
    let mut last = Instant::now();
    loop {
        match sys::wait_any(!over) {
            Waited::Ended(one) => {
                measured.cpu += one.cpu;
                measured.peak_kib = measured.peak_kib.max(one.peak_kib);
                last = Instant::now();
                measured.gone = last - started;
                if one.pid == child.id() {
                    over = true;
                    measured.wall = measured.gone;
                    measured.success = one.success;
                }
            }
            Waited::NoChildren => break,
            Waited::Nothing if last.elapsed() > QUIET => break,
            Waited::Nothing => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    Ok(measured)
}

fn once(stage: &Stage, round: usize, case: &mut Case, counts: bool, clock: &AtomicU64) {
    if case.fault.is_some() {
        return;
    }
    match finish(&mut (case.build)(stage, round), clock) {
        Ok(one) if one.success => {
            if counts {
                case.wall.push(one.wall.as_secs_f64());
                case.gone.push(one.gone.as_secs_f64());
                case.cpu.push(one.cpu.as_secs_f64());
                case.peak_kib = case.peak_kib.max(one.peak_kib);
            }
        }
        Ok(_) => case.fault = Some(format!("round {round}: {}", stage.complaint())),
        Err(message) => case.fault = Some(message),
    }
}

fn print(cases: &[Case]) {
    println!(
        "| command | wall median, ms | min | all gone, median | CPU median | peak MiB | rounds |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in cases {
        let text = |value: Option<f64>| value.map_or("-".to_owned(), figures::milliseconds);
        let least = case.wall.iter().copied().reduce(f64::min);
        println!(
            "| {} | {} | {} | {} | {} | {}.{} | {} |",
            case.name,
            text(figures::median(&case.wall)),
            text(least),
            text(figures::median(&case.gone)),
            text(figures::median(&case.cpu)),
            case.peak_kib / 1024,
            case.peak_kib % 1024 * 10 / 1024,
            case.wall.len(),
        );
    }
    println!();
    let wall = |name: &str| {
        let found = cases.iter().find(|case| case.name.starts_with(name));
        found.and_then(|case| figures::median(&case.wall))
    };
    for (ours, peer) in [
        ("rrun run, root", "podman run, root"),
        ("rrun run, user with subuids", "podman run, user"),
        ("rrun oci run", "crun run"),
        (
            "rrun run, default network, root",
            "podman run, default network, root",
        ),
        (
            "rrun run, default network, user",
            "podman run, default network, user",
        ),
        ("rrun run, root", "crun run"),
        ("rrun run, user without subuids", "crun run"),
        ("rrun exec", "podman exec"),
        ("rrun ps", "podman ps"),
        ("rrun images", "podman images"),
    ] {
        println!(
            "{ours} / {peer}: {}",
            figures::ratio(wall(ours), wall(peer))
        );
    }
    for case in cases {
        if let Some(fault) = &case.fault {
            println!("{}: {fault}", case.name);
        }
    }
}
