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
    let (mut command, words) = terminal(home, line)?;
    command.stdin(Stdio::null());
    Ok(finish(command, &words.each_ref().map(String::as_str))
        .out
        .replace('\r', ""))
}

/// Runs a shell line with a terminal of its own, types `keys` once it has printed `ready`; what
/// was printed, and the exit code.
fn typed(home: &Home, line: &str, keys: &[u8]) -> Result<(String, Option<i32>), String> {
    use std::io::Write;
    let (mut command, _) = terminal(home, line)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"ready") && out.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
    }
    let mut input = child.stdin.take().unwrap();
    input.write_all(keys).unwrap();
    out.read_to_end(&mut seen).unwrap();
    let code = child.wait().unwrap().code();
    drop(input);
    Ok((String::from_utf8_lossy(&seen).replace('\r', ""), code))
}

/// A command that runs a shell line with a terminal of its own, and its arguments.
fn terminal(home: &Home, line: &str) -> Result<(Command, [String; 3]), String> {
    if !has("script") {
        return Err("script is not installed".to_owned());
    }
    let rrun = home.command();
    // A test that hangs is a failure.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "60", "script"]);
    let line = line.replace("RRUN", &rrun.get_program().to_string_lossy());
    let words = ["-qec".to_owned(), line, "/dev/null".to_owned()];
    command.args(&words);
    for (key, value) in rrun.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    Ok((command, words))
}

#[test]
fn keys_detach_from_each_command_that_attaches() {
    let home = match home() {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let script = "echo ready; exec sleep 1000";
    let loud = "sh -c 'while :; do echo ready; sleep 0.1; done'";
    let cases = [
        (
            format!("RRUN run -it --name kr --detach-keys ctrl-a,x bb:1 sh -c '{script}'"),
            &b"\x01x"[..],
        ),
        (
            format!("RRUN exec -it --detach-keys ctrl-a,x kr sh -c '{script}'"),
            b"\x01x",
        ),
        (format!("RRUN exec -it kr sh -c '{script}'"), b"\x10\x11"),
        (
            format!("RRUN create -it --name ks bb:1 {loud} >/dev/null; RRUN start -ai ks"),
            b"\x10\x11",
        ),
        ("RRUN attach --detach-keys ctrl-b ks".to_owned(), b"\x02"),
    ];
    for (line, keys) in cases {
        let (out, code) = match typed(&home, &line, keys) {
            Ok(seen) => seen,
            Err(why) => return skip(&why),
        };
        assert!(out.contains("read escape sequence"), "{line}: {out}");
        assert_eq!(code, Some(0), "{line}: {out}");
    }
    // What was left runs on.
    let left = home.rrun(&["exec", "kr", "ps", "-o", "args"]).ok();
    assert_eq!(left.matches("sleep 1000").count(), 3, "{left}");
    let bad = home.rrun(&["exec", "--detach-keys", "frob", "kr", "true"]);
    bad.fails(125, "detach-keys");
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
