//! Many containers: listing a hundred, starting and removing a hundred at once; and what one that
//! runs keeps in memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::stage::{IMAGE, Stage, User};
use crate::support::{figures, program};
use crate::{finish, sys};

/// How many containers a crowd is.
const CROWD: usize = 100;
/// Rounds of starting a crowd: each takes podman half a minute.
const CROWD_ROUNDS: usize = 3;
/// Until what `run -d` leaves has come to rest.
const SETTLE: Duration = Duration::from_secs(2);

/// The programs that are compared.
fn tools(stage: &Stage) -> Vec<(&'static str, PathBuf)> {
    let mut tools = vec![("rrun", stage.rrun.clone())];
    tools.extend(program::find("podman").map(|path| ("podman", path)));
    tools
}

/// Prints all of it.
pub(crate) fn measure(stage: &Stage, rounds: usize, clock: &AtomicU64) -> Result<(), String> {
    println!();
    memory(stage, clock)?;
    list(stage, rounds, clock)?;
    start(stage, clock)
}

fn list(stage: &Stage, rounds: usize, clock: &AtomicU64) -> Result<(), String> {
    let tools = tools(stage);
    for (_, path) in &tools {
        for number in 0..CROWD {
            let name = format!("crowd{number}");
            let mut command = stage.command(User::Root, path);
            command.args([
                "create",
                "--name",
                &name,
                "--network",
                "none",
                IMAGE,
                "true",
            ]);
            finish(&mut command, clock)?;
        }
    }
    let mut walls = vec![Vec::new(); tools.len()];
    for _ in 0..rounds {
        for (wall, (_, path)) in walls.iter_mut().zip(&tools) {
            let mut command = stage.command(User::Root, path);
            let one = finish(command.args(["ps", "-a"]), clock)?;
            wall.push(one.wall.as_secs_f64());
        }
    }
    for (_, path) in &tools {
        let mut command = stage.command(User::Root, path);
        command.args(["rm", "-f"]);
        command.args((0..CROWD).map(|number| format!("crowd{number}")));
        finish(&mut command, clock)?;
    }
    report(
        &format!("ps -a of {CROWD} containers, root"),
        &tools,
        &walls,
    );
    Ok(())
}

fn report(what: &str, tools: &[(&'static str, PathBuf)], walls: &[Vec<f64>]) {
    let medians: Vec<Option<f64>> = walls.iter().map(|wall| figures::median(wall)).collect();
    let text: Vec<String> = tools
        .iter()
        .zip(&medians)
        .map(|((name, _), median)| {
            let value = median.map_or("-".to_owned(), figures::milliseconds);
            format!("{name} {value} ms")
        })
        .collect();
    let ratio = figures::ratio(medians[0], medians.get(1).copied().flatten());
    println!("{what}: {}; rrun / podman: {ratio}", text.join(", "));
}

/// Starts and removes a crowd, all at once.
fn start(stage: &Stage, clock: &AtomicU64) -> Result<(), String> {
    let tools = tools(stage);
    let mut walls = vec![Vec::new(); tools.len()];
    for _ in 0..CROWD_ROUNDS {
        for (wall, (name, path)) in walls.iter_mut().zip(&tools) {
            let started = Instant::now();
            let run = |number: usize| {
                let mut command = stage.command(User::Root, path);
                command.args(["run", "-d", "--network", "none", "--name"]);
                command.args([&format!("at-once{number}"), IMAGE, "sleep", "1000"]);
                command
            };
            let remove = |number: usize| {
                let mut command = stage.command(User::Root, path);
                command.args(["rm", "-f", "-t", "0", &format!("at-once{number}")]);
                if *name == "rrun" {
                    command = stage.command(User::Root, path);
                    command.args(["rm", "-f", &format!("at-once{number}")]);
                }
                command
            };
            for build in [&run as &dyn Fn(usize) -> _, &remove] {
                let mut children = Vec::new();
                for number in 0..CROWD {
                    clock.fetch_add(1, std::sync::atomic::Ordering::Release);
                    let child = build(number).spawn();
                    children.push(
                        child
                            .map_err(|error| format!("could not start: {error}"))?
                            .id(),
                    );
                }
                reap(children, clock, name)?;
            }
            wall.push(started.elapsed().as_secs_f64());
        }
    }
    report(
        &format!("run -d and rm -f of {CROWD} containers, all at once, root"),
        &tools,
        &walls,
    );
    Ok(())
}

/// Waits for all of these, whatever else ends meanwhile.
fn reap(children: Vec<u32>, clock: &AtomicU64, name: &str) -> Result<(), String> {
    let mut left: BTreeSet<u32> = children.into_iter().collect();
    let mut failed = 0;
    while !left.is_empty() {
        match sys::wait_any(true) {
            sys::Waited::Ended(one) => {
                clock.fetch_add(1, std::sync::atomic::Ordering::Release);
                if left.remove(&one.pid) && !one.success {
                    failed += 1;
                }
            }
            sys::Waited::Nothing => {}
            sys::Waited::NoChildren => return Err("children were lost".to_owned()),
        }
    }
    if failed > 0 {
        println!("{name}: {failed} of {CROWD} failed");
    }
    Ok(())
}

/// What stays in memory beside a container that runs: proportional sizes of all new processes but
/// the container's own.
fn memory(stage: &Stage, clock: &AtomicU64) -> Result<(), String> {
    for (name, path) in tools(stage) {
        for (who, user) in [("root", User::Root), ("user with subuids", User::Ranged)] {
            let before = processes();
            let mut command = stage.command(user, &path);
            command.args(["run", "-d", "--name", "memory", IMAGE, "sleep", "1000"]);
            let one = finish(&mut command, clock)?;
            std::thread::sleep(SETTLE);
            let mut parts = Vec::new();
            let mut total = 0;
            for pid in processes().difference(&before) {
                let Some((what, kib)) = size(*pid) else {
                    continue;
                };
                if what != "sleep" {
                    total += kib;
                    parts.push(format!("{what} {kib}"));
                }
            }
            let outcome = if one.success {
                parts.join(", ")
            } else {
                stage.complaint()
            };
            println!(
                "memory beside a running container, default network, {who}, {name}: {total} KiB ({outcome})"
            );
            let mut command = stage.command(user, &path);
            finish(command.args(["rm", "-f", "memory"]), clock)?;
        }
    }
    Ok(())
}

fn processes() -> BTreeSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What a process is and its proportional size in KiB; of our own parts the word that names them.
fn size(pid: u32) -> Option<(String, u64)> {
    let dir = Path::new("/proc").join(pid.to_string());
    let words = fs::read(dir.join("cmdline")).ok()?;
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let program = String::from_utf8_lossy(words.first()?);
    let mut what = program.rsplit('/').next().unwrap_or("").to_owned();
    if let Some(part) = words.get(1)
        && part.starts_with(b"__")
    {
        what = String::from_utf8_lossy(part).into_owned();
    }
    let rollup = fs::read_to_string(dir.join("smaps_rollup")).ok()?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    let kib = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((what, kib))
}
