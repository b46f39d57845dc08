//! A start that is caught in the middle: by kill -9, and by SIGSTOP.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    Home, User, binary, can_run, finish, for_all_users, home_with_busybox, is_root, processes, skip,
};

/// Longest wait for something that happens at once on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// Starts until one is caught between the claim and the end of the start; a start takes milliseconds.
const TRIES_MAX: u32 = 100;

/// A start whose monitor is stopped.
struct Caught {
    id: String,
    monitor: u32,
    command: Child,
}

/// Makes container `caught` and starts it, and stops its monitor when `ready` says so.
fn caught(home: &Home, options: &[&str], ready: impl Fn(&str) -> bool) -> Caught {
    for _ in 0..TRIES_MAX {
        let words = [&["create", "--name", "caught"], options].concat();
        let made = home.rrun(&[&words[..], &["bb:1", "sleep", "100"]].concat());
        let id = made.ok().trim().to_owned();
        let dir = home.data().join("containers").join(&id);
        let mut command = home.command();
        command.args(["start", "caught"]).stderr(Stdio::piped());
        let command = command.spawn().unwrap();
        let monitor = soon(|| claim(&dir).map(|(monitor, _)| monitor));
        while !ready(&id) && claim(&dir).is_some_and(|(_, status)| status == "created") {}
        signal("-STOP", monitor);
        if ready(&id) && claim(&dir).is_some_and(|(_, status)| status == "created") {
            return Caught {
                id,
                monitor,
                command,
            };
        }
        signal("-CONT", monitor);
        command.wait_with_output().unwrap();
        home.rrun(&["rm", "-f", "caught"]).ok();
    }
    panic!("no start was caught in {TRIES_MAX}");
}

/// The monitor that a state names, and the status.
fn claim(dir: &Path) -> Option<(u32, String)> {
    let text = fs::read(dir.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let monitor = state["monitor_pid"].as_u64().filter(|pid| *pid > 0)?;
    let status = state["status"].as_str()?.to_owned();
    Some((u32::try_from(monitor).ok()?, status))
}

/// Tries until there is an answer.
#[track_caller]
fn soon<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < SOON, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, pid: u32) {
    let status = std::process::Command::new("kill")
        .args([name, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// The control groups of a container.
fn groups(id: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
    let below = |dir: PathBuf| dir.join("rrun").join(id);
    let mut found: Vec<PathBuf> = hierarchies
        .map(|entry| below(entry.unwrap().path()))
        .chain([below(Path::new("/sys/fs/cgroup").to_owned())])
        .filter(|dir| dir.is_dir())
        .collect();
    found.sort();
    found
}

#[test]
fn a_start_that_is_killed_leaves_no_control_group() {
    if !is_root() {
        return skip("only root has control groups everywhere");
    }
    let home = match can_run().and_then(|()| home_with_busybox(User::Caller)) {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let limits = ["--memory", "64m", "--pids-limit", "50"];
    for next in [&["rm", "-f", "caught"][..], &["start", "caught"]] {
        let caught = caught(&home, &limits, |id| !groups(id).is_empty());
        signal("-KILL", caught.monitor);
        let output = caught.command.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert_ne!(groups(&caught.id), Vec::<PathBuf>::new());
        home.rrun(next).ok();
        home.rrun(&["rm", "-f", "caught"]);
        assert_eq!(groups(&caught.id), Vec::<PathBuf>::new(), "{next:?}");
    }
}

#[test]
fn a_start_tells_of_a_part_that_is_stopped_and_can_be_ended() {
    for_all_users(|who, home| {
        let caught = caught(home, &[], |_| true);
        let output = caught.command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{who}: {said}");
        let hint = format!("kill -CONT {}", caught.monitor);
        assert!(
            said.contains("is stopped") && said.contains(&hint),
            "{who}: {said}"
        );
        assert_eq!(home.rrun(&["rm", "-f", "caught"]).ok(), "caught\n", "{who}");
        let process = format!("/proc/{}", caught.monitor);
        soon(|| fs::metadata(&process).is_err().then_some(()));
    });
}

/// A `run` that cannot make its container before the lock is dropped, its monitor waiting.
struct Held {
    command: Child,
    monitor: u32,
    lock: fs::File,
}

/// Runs `rrun run OPTIONS bb:1 true` up to where its container is made.
fn held(home: &Home, options: &[&str]) -> Held {
    use rustix::fs::{FlockOperation, flock};
    // Makes the directory in which containers are made.
    home.rrun(&["create", "--name", "first", "bb:1", "true"])
        .ok();
    home.rrun(&["rm", "first"]).ok();
    let containers = home.data().join("containers");
    let lock = fs::File::open(containers.join("new")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut command = home.command();
    let words = [&["run", "--network", "none"], options, &["bb:1", "true"]].concat();
    command.args(words).stderr(Stdio::piped());
    let command = command.spawn().unwrap();
    let word = format!("__monitor {}", containers.display());
    let monitor = soon(|| processes(&word).first().copied());
    Held {
        command,
        monitor,
        lock,
    }
}

fn is_gone(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.is_empty() || state.contains(") Z ")
}

#[test]
fn a_run_that_is_killed_before_there_is_a_container_leaves_nothing() {
    for_all_users(|who, home| {
        let mut held = held(home, &["--rm"]);
        held.command.kill().unwrap();
        held.command.wait().unwrap();
        soon(|| is_gone(held.monitor).then_some(()));
        drop(held.lock);
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{who}");
    });
}

#[test]
fn a_container_that_cannot_be_made_leaves_no_monitor() {
    for_all_users(|who, home| {
        for stopped in [false, true] {
            home.rrun(&["create", "--name", "taken", "bb:1", "true"])
                .ok();
            let held = held(home, &["--name", "taken"]);
            if stopped {
                signal("-STOP", held.monitor);
            }
            drop(held.lock);
            let output = held.command.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(125), "{who}: {said}");
            assert!(said.contains("taken"), "{who}: {said}");
            assert!(is_gone(held.monitor), "{who}: stopped: {stopped}");
            home.rrun(&["rm", "taken"]).ok();
        }
    });
}

#[test]
fn a_run_tells_of_a_monitor_that_was_stopped_before_there_was_a_container() {
    for_all_users(|who, home| {
        let held = held(home, &["--rm"]);
        signal("-STOP", held.monitor);
        drop(held.lock);
        let output = held.command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let hint = format!("kill -CONT {}", held.monitor);
        assert!(
            !output.status.success() && said.contains(&hint),
            "{who}: {said}"
        );
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{who}");
        signal("-CONT", held.monitor);
        soon(|| is_gone(held.monitor).then_some(()));
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{who}");
    });
}

/// Runs a container of a user with a range, whose `newuidmap` is a script; how it ended.
fn run_mapped_by(script: &str) -> Option<(Home, std::process::Output)> {
    use std::os::unix::fs::PermissionsExt;
    let home = can_run()
        .and_then(|()| User::with_range())
        .and_then(home_with_busybox);
    let home = match home {
        Ok(home) => home,
        Err(why) => {
            skip(&why);
            return None;
        }
    };
    let program = home.path("newuidmap");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let dir = program.parent().unwrap().display();
    let path = format!("{dir}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = home.command();
    let words = ["run", "--rm", "--network", "none", "bb:1", "true"];
    let output = command.env("PATH", path).args(words).output().unwrap();
    Some((home, output))
}

#[test]
fn ids_that_cannot_be_mapped_are_told_and_leave_nothing() {
    let Some((home, output)) = run_mapped_by("exit 3") else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("newuidmap ended with 3"), "{said}");
    assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "");
}

#[test]
fn a_program_that_maps_ids_and_is_stopped_is_named_and_does_not_stay() {
    let Some((home, output)) = run_mapped_by("echo $$ > \"$HOME/stopped\"; kill -STOP $$") else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let stopped = fs::read_to_string(home.path("stopped")).unwrap();
    let stopped: u32 = stopped.trim().parse().unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    let hint = format!("kill -CONT {stopped}");
    assert!(
        said.contains("is stopped") && said.contains(&hint),
        "{said}"
    );
    assert!(is_gone(stopped));
    assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "");
}

/// The parts of a container are the program's file anew, of which only a descriptor is left.
#[test]
fn a_program_that_was_removed_under_itself_is_named() {
    for_all_users(|user, home| {
        if user == "caller" && is_root() {
            // Root's monitor is started from a mount of the file itself.
            return;
        }
        let own = home.write("own-rrun", &fs::read(binary()).unwrap());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        let script = "exec 3<own-rrun; rm own-rrun; exec /proc/self/fd/3 run --rm bb:1 true";
        let mut command = home.command_of(Path::new("/bin/sh"));
        command.args(["-c", script]);
        finish(command, &["sh", script])
            .fails(125, "/own-rrun (deleted): No such file or directory");
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{user}");
    });
}
