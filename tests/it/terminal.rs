//! Containers and the terminal, signals and streams of whoever started them.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::User;
use crate::support::{Home, can_run, finish, has, home_with_busybox, skip};

fn home() -> Result<Home, String> {
    can_run()?;
    home_with_busybox(User::Caller)
}

/// Runs a shell line with a terminal of its own; what was printed, without returns.
fn with_terminal(home: &Home, line: &str) -> Result<String, String> {
    if !has("script") {
        return Err("script is not installed".to_owned());
    }
    let rrun = home.command();
    let mut command = Command::new("script");
    let line = line.replace("RRUN", &rrun.get_program().to_string_lossy());
    let words = ["-qec", &line, "/dev/null"];
    command.args(words);
    for (key, value) in rrun.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.stdin(Stdio::null());
    Ok(finish(command, &words).out.replace('\r', ""))
}

#[test]
fn a_terminal_has_the_size_of_ours() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let line = "stty rows 33 cols 99; RRUN run --rm -t bb:1 sh -c 'stty size; echo $TERM; test -t 1 && echo yes'";
    match with_terminal(&home, line) {
        Ok(out) => assert_eq!(out, "33 99\nxterm\nyes\n"),
        Err(why) => skip(&why),
    }
}

#[test]
fn signals_reach_the_container_and_its_code_comes_back() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let script = "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = home
        .command()
        .args(["run", "--rm", "bb:1", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    out.read_exact(&mut ready).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[test]
fn a_killed_command_line_leaves_its_container_running() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let mut child = home
        .command()
        .args(["run", "--name", "stays", "bb:1", "sleep", "1000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while home.rrun(&["ps", "-q"]).ok().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(home.rrun(&["exec", "stays", "echo", "here"]).ok(), "here\n");
    assert_eq!(home.rrun(&["rm", "-f", "stays"]).ok(), "stays\n");
}

#[test]
fn output_and_errors_are_kept_apart() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let ran = home.rrun(&[
        "run",
        "--name",
        "two",
        "bb:1",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    let logs = home.rrun(&["logs", "two"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("out\n", "err\n"));
    assert_eq!(home.rrun(&["logs", "--tail", "0", "two"]).ok(), "");
    let big = home.rrun(&[
        "run",
        "--rm",
        "bb:1",
        "sh",
        "-c",
        "yes | head -c 3000000 | md5sum; yes | head -c 3000000",
    ]);
    assert_eq!(big.out.len(), 3_000_000 + 36);
}
