//! A start that is caught in the middle: by kill -9, and by SIGSTOP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Home, User, can_run, for_all_users, home_with_busybox, is_root, skip};

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
