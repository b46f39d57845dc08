//! Options of podman's that Docker does not have, and podman's ways where they are asked for.

use std::fs;
use std::process::Command;

use crate::support::{Home, for_all_users, is_root};
use crate::walk::{inspect, sleeper, wait_for};

/// `rrun WORDS...` with a shell's redirections.
fn redirected(home: &Home, redirections: &str, words: &[&str]) -> crate::support::Ran {
    let rrun = home.command();
    let mut command = Command::new("sh");
    let line = format!("exec \"$@\" {redirections}");
    command.args(["-c", &line, "sh"]);
    command.arg(rrun.get_program()).args(rrun.get_args());
    command.args(words).stdin(std::process::Stdio::null());
    for (key, value) in rrun.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.current_dir(home.path(""));
    crate::support::finish(command, words)
}

/// `rrun WORDS...` in podman's ways.
fn as_podman(home: &Home, words: &[&str]) -> crate::support::Ran {
    let mut command = home.command();
    command.env("RRUN_COMPAT", "podman").args(words);
    crate::support::finish(command, words)
}

#[test]
fn descriptors_are_preserved_and_no_others() {
    for_all_users(|who, home| {
        let [one, two] = ["one", "two"].map(|name| home.write(name, name.as_bytes()));
        let files = format!("3<{} 4<{} 5</dev/null", one.display(), two.display());
        let script = "cat <&3; cat <&4; ls -l /proc/self/fd | grep -c /dev/null";
        let run = ["run", "--rm", "--network", "none", "--preserve-fds", "2"];
        for more in [&[][..], &["--init"], &["-i"]] {
            let words = [&run[..], more, &["bb:1", "sh", "-c", script]].concat();
            let ran = redirected(home, &files, &words);
            // Standard input is the null device, the fifth descriptor is not there.
            let nulls = if more == ["-i"] { "0" } else { "1" };
            assert_eq!(
                ran.out,
                format!("onetwo{nulls}\n"),
                "{who} {more:?}: {ran:?}"
            );
        }
        let gap = redirected(
            home,
            "3<&- 4</dev/null",
            &[&run[..], &["bb:1", "true"]].concat(),
        );
        gap.fails(125, "file descriptor 3 is not available");
        let many = ["run", "--rm", "--preserve-fds", "999", "bb:1", "true"];
        redirected(home, &files, &many).fails(125, "at most 240");
        let again = [
            "run",
            "--preserve-fds=1",
            "--restart=always",
            "bb:1",
            "true",
        ];
        redirected(home, &files, &again).fails(125, "--preserve-fds and --restart");
        home.rrun(&["create", "--preserve-fds", "1", "bb:1"])
            .fails(125, "unknown flag: --preserve-fds");
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{who}");

        let detached = [
            "run",
            "-d",
            "--name",
            "pf",
            "--network",
            "none",
            "--preserve-fds=2",
        ];
        let script = "cat <&3; cat <&4; echo; exec sleep 1000";
        let words = [&detached[..], &["bb:1", "sh", "-c", script]].concat();
        redirected(home, &files, &words).ok();
        wait_for("it read them", || {
            home.rrun(&["logs", "pf"]).out == "onetwo\n"
        });
        let exec = ["exec", "--preserve-fds", "1", "pf", "sh", "-c"];
        let script = "cat <&3; ls /proc/self/fd | sort -n | tr '\\n' ' '";
        let ran = redirected(home, &files, &[&exec[..], &[script]].concat());
        // Of ls, 4 is the directory it lists.
        assert_eq!(ran.out, "one0 1 2 3 4 ", "{who}: {ran:?}");
        redirected(home, "3<&-", &[&exec[..], &["true"]].concat())
            .fails(125, "file descriptor 3 is not available");
        home.rrun(&["rm", "-f", "pf"]).ok();
    });
}

#[test]
fn nobody_keeps_a_preserved_descriptor_open_but_the_container() {
    for_all_users(|who, home| {
        // The shell's pipe ends when nobody can write to it any more.
        let program = home.command();
        let line = "\"$@\" run -d --name writer --network none --preserve-fds 1 bb:1 \
                    sh -c 'echo said >&3; exec 3>&-; exec sleep 1000' 3>&1 >/dev/null | cat";
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh"]);
        command.arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.current_dir(home.path(""));
        let ran = crate::support::finish(command, &["pipe"]);
        assert_eq!(ran.ok(), "said\n", "{who}");
        home.rrun(&["rm", "-f", "writer"]).ok();
    });
}

#[test]
fn a_container_ends_when_its_time_is_over() {
    for_all_users(|who, home| {
        let words = [
            "run",
            "--name",
            "timed",
            "--timeout",
            "1",
            "bb:1",
            "sleep",
            "1000",
        ];
        home.rrun(&words)
            .fails(255, "killed after 1 s, as --timeout asks");
        let state = "{{.State.Status}} {{.State.ExitCode}} {{.Config.Timeout}}";
        assert_eq!(inspect(home, state, "timed"), "exited -1 1", "{who}");
        // It is kept for the next start.
        home.rrun(&["start", "-a", "timed"]).fails(255, "--timeout");
        let early = [
            "run",
            "--rm",
            "--timeout",
            "60",
            "bb:1",
            "sh",
            "-c",
            "exit 7",
        ];
        assert_eq!(home.rrun(&early).code, 7, "{who}");
        home.rrun(&["rm", "timed"]).ok();
    });
}

#[test]
fn variables_are_taken_away_unless_they_are_set() {
    for_all_users(|who, home| {
        let env = |options: &[&str]| {
            let run = ["run", "--rm", "--network", "none"];
            let words = [&run[..], options, &["bb:1", "/bin/busybox", "env"]].concat();
            let mut lines: Vec<String> =
                home.rrun(&words).ok().lines().map(str::to_owned).collect();
            lines.retain(|line| !line.starts_with("HOSTNAME="));
            lines.sort();
            lines.join(" ")
        };
        assert!(env(&[]).contains("PATH="), "{who}");
        assert_eq!(env(&["--unsetenv", "PATH"]), "HOME=/root", "{who}");
        let set = ["--unsetenv", "PATH", "-e", "PATH=/bin"];
        assert_eq!(env(&set), "HOME=/root PATH=/bin", "{who}");
        assert_eq!(env(&["--unsetenv-all"]), "HOME=/root", "{who}");
        let set = ["--unsetenv-all", "-e", "A=1"];
        assert_eq!(env(&set), "A=1 HOME=/root", "{who}");
        home.rrun(&["run", "--unsetenv", "A=1", "bb:1", "true"])
            .fails(125, "not the name of a variable");
        sleeper(home, "unset", &["--unsetenv-all"]);
        let path = ["exec", "unset", "/bin/busybox", "env"];
        assert!(!home.rrun(&path).ok().contains("PATH="), "{who}");
        home.rrun(&["rm", "-f", "unset"]).ok();
    });
}

#[test]
fn service_managers_get_what_they_need() {
    for_all_users(|who, home| {
        sleeper(home, "sd", &["--systemd=always"]);
        let shown = "{{.Config.SystemdMode}} {{.Config.StopSignal}}";
        assert_eq!(inspect(home, shown, "sd"), "true SIGRTMIN+3", "{who}");
        let script = "for d in /run /run/lock /tmp /var/log/journal; do \
                      grep -c \" $d tmpfs rw\" /proc/mounts; done; stat -c %s /run/.containerenv; \
                      stat -c %a /run /tmp; grep ' /run tmpfs' /proc/mounts | grep -c noexec; \
                      echo $container";
        let seen = home.rrun(&["exec", "sd", "sh", "-c", script]);
        assert_eq!(
            seen.out, "1\n1\n1\n1\n0\n755\n1777\n0\noci\n",
            "{who}: {seen:?}"
        );
        home.rrun(&["rm", "-f", "sd"]).ok();
        let stop = |options: &[&str]| {
            let words = [&["create", "--name", "shown"][..], options].concat();
            home.rrun(&words).ok();
            let shown = inspect(home, "{{json .Config}}", "shown");
            let after = shown.split("\"StopSignal\":\"").nth(1).unwrap_or("\"");
            let shown = after.split('"').next().unwrap().to_owned();
            home.rrun(&["rm", "shown"]).ok();
            shown
        };
        let own = ["--systemd=always", "--stop-signal", "SIGINT", "bb:1", "sh"];
        assert_eq!(stop(&own), "SIGINT", "{who}");
        // Docker's way unless it is asked for, and by the command's name.
        assert_eq!(stop(&["bb:1", "/sbin/init"]), "", "{who}");
        assert_eq!(stop(&["--systemd=true", "bb:1", "sh"]), "", "{who}");
        assert_eq!(
            stop(&["--systemd=false", "bb:1", "/sbin/init"]),
            "",
            "{who}"
        );
        let named = ["--systemd=true", "bb:1", "/usr/lib/systemd/systemd"];
        assert_eq!(stop(&named), "SIGRTMIN+3", "{who}");
        home.rrun(&["run", "--systemd", "frob", "bb:1", "true"])
            .fails(125, "invalid argument \"frob\" for \"--systemd\"");
        let own = [
            "run",
            "--rm",
            "--systemd=always",
            "--tmpfs",
            "/run:size=1m",
            "bb:1",
        ];
        let size = [
            &own[..],
            &["sh", "-c", "df -k /run | tail -1 | grep -c ' 1024 '"],
        ]
        .concat();
        assert_eq!(home.rrun(&size).out, "1\n", "{who}");
    });
}

#[test]
fn a_privileged_service_manager_has_no_consoles_of_the_hosts() {
    if !is_root() || fs::metadata("/dev/tty1").is_err() {
        return crate::support::skip("needs root and virtual consoles");
    }
    let Ok(home) = crate::support::home_with_busybox(crate::support::User::Caller) else {
        return crate::support::skip("there is no busybox");
    };
    let ttys = |options: &[&str]| {
        let run = ["run", "--rm", "--privileged"];
        home.rrun(&[&run[..], options, &["bb:1", "sh", "-c", "echo /dev/tty*"]].concat())
            .ok()
    };
    assert!(ttys(&[]).contains("/dev/tty1"));
    assert_eq!(ttys(&["--systemd=always"]), "/dev/tty\n");
}

#[test]
fn process_ids_are_written_at_each_start() {
    for_all_users(|who, home| {
        let options = ["--conmon-pidfile", "monitor", "--pidfile", "first"];
        sleeper(home, "pids", &options);
        let read = |name: &str| fs::read_to_string(home.path(name)).unwrap();
        let both = || format!("{} {}", read("monitor"), read("first"));
        let told = || inspect(home, "{{.State.ConmonPid}} {{.State.Pid}}", "pids");
        assert_eq!(both(), told(), "{who}");
        let before = both();
        home.rrun(&["restart", "-t", "0", "pids"]).ok();
        assert_eq!(both(), told(), "{who}");
        assert_ne!(both(), before, "{who}");
        let path = home.path("first").display().to_string();
        assert_eq!(inspect(home, "{{.PidFile}}", "pids"), path, "{who}");
        home.rrun(&["rm", "-f", "pids"]).ok();
        home.rrun(&["run", "--rm", "--pidfile", "/nope/pid", "bb:1", "true"])
            .fails(125, "could not write the process id to /nope/pid");
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{who}");
    });
}

#[test]
fn containers_are_told_what_they_are() {
    for_all_users(|who, home| {
        // An image with /run: without, there is no such file.
        home.rrun(&["run", "--name", "maker", "bb:1", "mkdir", "-p", "/run"])
            .ok();
        home.rrun(&["commit", "maker", "run:1"]).ok();
        let size = [
            "run",
            "--rm",
            "run:1",
            "stat",
            "-c",
            "%s",
            "/run/.containerenv",
        ];
        assert_eq!(home.rrun(&size).ok(), "0\n", "{who}");
        let run = ["run", "--name", "me", "--privileged", "run:1"];
        let text = home
            .rrun(&[&run[..], &["cat", "/run/.containerenv"]].concat())
            .ok();
        for line in [
            "engine=\"rrun-",
            "name=\"me\"\n",
            "image=\"run:1\"\n",
            "rootless=",
        ] {
            assert!(text.contains(line), "{who}: no {line} in {text}");
        }
        assert_eq!(home.rrun(&["diff", "me"]).ok(), "", "{who}");
    });
}

#[test]
fn a_stop_that_had_to_kill_says_so() {
    for_all_users(|who, home| {
        sleeper(home, "stopped", &[]);
        let stopped = home.rrun(&["stop", "-t", "1", "stopped"]);
        let words = "StopSignal SIGTERM failed to stop container stopped in 1 seconds";
        assert!(stopped.err.contains(words), "{who}: {stopped:?}");
        assert_eq!(stopped.ok(), "stopped\n", "{who}");
        home.rrun(&["start", "stopped"]).ok();
        assert_eq!(home.rrun(&["stop", "-t", "0", "stopped"]).err, "", "{who}");
        home.rrun(&["start", "stopped"]).ok();
        let mut stop = home.command();
        let stop = stop.args(["stop", "-t", "60", "stopped"]);
        let mut stop = stop.stdout(std::process::Stdio::null()).spawn().unwrap();
        let stopping = "{{.State.Status}} {{json .State}}";
        wait_for("it is asked to end", || {
            let shown = inspect(home, stopping, "stopped");
            shown.starts_with("running ") && shown.contains("\"Stopping\":true")
        });
        home.rrun(&["kill", "stopped"]).ok();
        assert!(stop.wait().unwrap().success(), "{who}");
        let shown = inspect(home, stopping, "stopped");
        assert!(!shown.contains("Stopping"), "{who}: {shown}");
        home.rrun(&["rm", "stopped"]).ok();
    });
}

#[test]
fn podmans_ways_are_followed_where_they_are_asked_for() {
    for_all_users(|who, home| {
        let absent = ["run", "--rm", "-w", "/nope", "bb:1", "pwd"];
        assert_eq!(home.rrun(&absent).ok(), "/nope\n", "{who}");
        as_podman(home, &absent).fails(126, "/nope");
        let mounted = [
            "run", "--rm", "--tmpfs", "/nope", "-w", "/nope", "bb:1", "pwd",
        ];
        assert_eq!(as_podman(home, &mounted).ok(), "/nope\n", "{who}");
        let env = ["run", "--rm", "bb:1", "sh", "-c", "echo $TERM $container"];
        assert_eq!(home.rrun(&env).ok(), "\n", "{who}");
        assert_eq!(as_podman(home, &env).ok(), "xterm podman\n", "{who}");
        let words = [
            "run",
            "--rm",
            "--unsetenv",
            "TERM",
            "-e",
            "container=x",
            "bb:1",
        ];
        let env = [&words[..], &["sh", "-c", "echo $TERM $container"]].concat();
        assert_eq!(as_podman(home, &env).ok(), "x\n", "{who}");

        sleeper(home, "donor", &["--ipc", "shareable"]);
        for (name, option) in [
            ("net", "--network=container:donor"),
            ("ipc", "--ipc=container:donor"),
        ] {
            home.rrun(&["create", "--name", name, option, "bb:1", "true"])
                .ok();
            as_podman(home, &["rm", "-f", "donor"]).fails(
                1,
                "has dependent containers which must be removed before it",
            );
            home.rrun(&["rm", name]).ok();
        }
        let dependent = home
            .rrun(&["create", "--pid", "container:donor", "bb:1", "true"])
            .ok();
        let both = as_podman(home, &["rm", "-f", "--depend", "donor"]).ok();
        assert_eq!(both, format!("{dependent}donor\n"), "{who}");
        let mut bad = home.command();
        bad.env("RRUN_COMPAT", "moby").arg("ps");
        crate::support::finish(bad, &["ps"]).fails(1, "neither docker nor podman: moby");
    });
}
