//! A part of a container that was stopped, neither dead nor alive: every command answers.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Home, Ran, for_all_users, processes};

/// A command must say something within five seconds. The bounds it has for that are constants of the
/// runner (`peers.rs`, `container/ending.rs`) which add up to less; the rest is for a busy machine,
/// where a process may be given a tenth of a processor.
const ANSWER_MAX: Duration = Duration::from_secs(5 + 5);

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Stops a process and waits until it has.
fn stop(pid: u32) {
    signal("-STOP", pid);
    let began = Instant::now();
    while began.elapsed() < ANSWER_MAX {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if text.contains(") T ") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process of a container that has `word` in its command line.
fn part(home: &Home, id: &str, word: &str) -> Option<u32> {
    let state = home.data().join("containers").join(id).join("state.json");
    let state = fs::read_to_string(state).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let helper = state.pointer("/network/helper_pid");
    if word == "__net" {
        let pid = helper.and_then(serde_json::Value::as_u64)?;
        return u32::try_from(pid).ok().filter(|pid| *pid > 0);
    }
    processes(id).into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    })
}

/// Commands that let a container live; each is a line of words.
const COMMANDS: [&str; 17] = [
    "ps",
    "inspect held",
    "logs held",
    "port held",
    "top held",
    "stats --no-stream held",
    "exec held true",
    "exec -d held true",
    "diff held",
    "cp file held:/copied",
    "cp held:/bin/busybox .",
    "commit held of-held:1",
    "export -o held.tar held",
    "rename held holds",
    "rename holds held",
    "update --restart no held",
    "start held",
];
/// Commands that end it.
const ENDS: [&str; 3] = ["stop -t 0 held", "kill held", "rm -f held"];

/// Runs a line of words, which must not hang.
fn answers(home: &Home, line: &str, what: &str) -> Ran {
    let words: Vec<&str> = line.split(' ').collect();
    let began = Instant::now();
    let ran = home.rrun(&words);
    assert!(began.elapsed() < ANSWER_MAX, "{what}: {line}: {ran:?}");
    ran
}

#[test]
fn every_command_answers_when_a_part_is_stopped() {
    for_all_users(|user, home| {
        home.write("file", b"x");
        for word in ["__monitor", "__serve", "__net"] {
            let what = format!("{user}: {word}");
            let words = ["run", "-d", "--name", "held", "-p", "127.0.0.1::80"];
            let words = [&words[..], &["bb:1", "sleep", "1000"]].concat();
            let id = home.rrun(&words).ok().trim().to_owned();
            let Some(pid) = part(home, &id, word) else {
                home.rrun(&["rm", "-f", "held"]).ok();
                continue;
            };
            stop(pid);
            for line in COMMANDS {
                let ran = answers(home, line, &what);
                let told = ran.err.contains("is stopped") && ran.err.contains("kill -CONT");
                assert!(ran.code == 0 || told, "{what}: {line}: {ran:?}");
            }
            if word != "__net" {
                answers(home, "attach held", &what).fails(1, "is stopped");
            }
            signal("-CONT", pid);
            assert_eq!(answers(home, "exec held echo on", &what).ok(), "on\n");
            for line in ENDS {
                home.rrun(&["start", "held"]).ok();
                if let Some(pid) = part(home, &id, word) {
                    signal("-STOP", pid);
                }
                answers(home, line, &what).ok();
                home.rrun(&["wait", "held"]);
            }
            assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{what}");
        }
    });
}
