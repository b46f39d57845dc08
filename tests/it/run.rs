//! Containers: run, exit codes, options, life cycle; as every kind of user.

use std::time::{Duration, Instant};

use crate::support::{Home, User, can_run, for_all_users, skip};

#[test]
fn a_host_directory_is_run_and_not_changed() {
    if let Err(why) = can_run() {
        return skip(&why);
    }
    for (name, user) in User::all() {
        let home = Home::of(user);
        let before = std::fs::read("/etc/hosts").ok();
        let script = "rm -rf /etc/hosts || exit 9; ls /etc; echo new >/usr/bin/rrun-it; cat /usr/bin/rrun-it";
        let out = home
            .rrun(&["run", "--rm", "--rootfs", "/", "sh", "-c", script])
            .ok();
        assert!(out.contains("passwd"), "{name}: {out}");
        assert!(out.ends_with("new\n"), "{name}: {out}");
        assert_eq!(std::fs::read("/etc/hosts").ok(), before, "{name}");
        assert!(std::fs::metadata("/usr/bin/rrun-it").is_err(), "{name}");
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{name}");
    }
}

#[test]
fn exit_codes_are_dockers() {
    for_all_users(|name, home| {
        let cases: [(&[&str], i32); 8] = [
            (&["true"], 0),
            (&["sh", "-c", "exit 42"], 42),
            (&["sh", "-c", "kill -9 $$"], 137),
            (&["sh", "-c", "kill -TERM $$; sleep 5"], 143),
            (&["/nonexistent"], 127),
            (&["nonexistent"], 127),
            (&["/etc/passwd"], 126),
            (&["/etc"], 126),
        ];
        for (words, code) in cases {
            let line = [&["run", "--rm", "bb:1"][..], words].concat();
            let ran = home.rrun(&line);
            // PID 1 ignores signals it has no handler for, as in any container.
            if words.join(" ").contains("kill") {
                continue;
            }
            assert_eq!(ran.code, code, "{name}: {words:?}: {ran:?}");
        }
        home.rrun(&["run", "--rm", "-u", "nobody-here", "bb:1", "true"])
            .fails(126, "nobody-here");
        home.rrun(&["run", "--rm", "--cap-add", "FLY", "bb:1", "true"])
            .fails(125, "FLY");
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{name}");
    });
}

#[test]
fn options_reach_the_process() {
    for_all_users(|name, home| {
        let run = |words: &[&str]| {
            let line = [&["run", "--rm"][..], words].concat();
            home.rrun(&line).ok()
        };
        assert_eq!(
            run(&["-e", "A=b c", "bb:1", "sh", "-c", "echo $A"]),
            "b c\n",
            "{name}"
        );
        assert_eq!(run(&["-w", "/tmp", "bb:1", "pwd"]), "/tmp\n", "{name}");
        assert_eq!(
            run(&["-w", "/new/dir", "bb:1", "pwd"]),
            "/new/dir\n",
            "{name}"
        );
        assert_eq!(run(&["-h", "box", "bb:1", "hostname"]), "box\n", "{name}");
        assert_eq!(
            run(&["-h", "box", "bb:1", "cat", "/etc/hostname"]),
            "box\n",
            "{name}"
        );
        assert_eq!(
            run(&["--entrypoint", "echo", "bb:1", "hi"]),
            "hi\n",
            "{name}"
        );
        assert_eq!(
            run(&[
                "--tmpfs",
                "/t:size=1m",
                "bb:1",
                "sh",
                "-c",
                "echo x >/t/y && cat /t/y"
            ]),
            "x\n",
            "{name}"
        );
        assert!(
            run(&["--add-host", "h:1.2.3.4", "bb:1", "cat", "/etc/hosts"]).contains("1.2.3.4\th")
        );
        let links = run(&["--network", "none", "bb:1", "ls", "/sys/class/net"]);
        assert_eq!(links, "lo\n", "{name}");
        home.rrun(&["run", "--rm", "--read-only", "bb:1", "touch", "/x"])
            .fails(1, "Read-only");
        let own = run(&["bb:1", "sh", "-c", "echo $$; hostname"]);
        assert!(own.starts_with("1\n"), "{name}: {own}");
        // 12 digits of the id.
        assert_eq!(own.lines().nth(1).unwrap().len(), 12, "{name}: {own}");
    });
}

#[test]
fn volumes_outlive_containers() {
    for_all_users(|name, home| {
        let shared = home.path("shared");
        std::fs::create_dir_all(&shared).unwrap();
        home.own(&shared);
        let bind = format!("{}:/v", shared.display());
        let run = |words: &[&str]| home.rrun(&[&["run", "--rm"][..], words].concat());
        run(&["-v", &bind, "bb:1", "sh", "-c", "echo a >/v/f"]).ok();
        assert_eq!(std::fs::read(shared.join("f")).unwrap(), b"a\n", "{name}");
        run(&[
            "-v",
            &format!("{bind}:ro"),
            "bb:1",
            "sh",
            "-c",
            "echo b >/v/f",
        ])
        .fails(1, "Read-only");
        run(&["-v", "vol1:/v", "bb:1", "sh", "-c", "echo c >/v/f"]).ok();
        assert_eq!(
            run(&["-v", "vol1:/w", "bb:1", "cat", "/w/f"]).ok(),
            "c\n",
            "{name}"
        );
        assert_eq!(home.rrun(&["volume", "rm", "vol1"]).ok(), "vol1\n");
    });
}

#[test]
fn standard_input_reaches_the_container_only_with_i() {
    for_all_users(|name, home| {
        let piped = |words: &[&str]| {
            let file = home.write("input", b"one\ntwo\n");
            let mut command = home.command();
            command
                .args(words)
                .stdin(std::fs::File::open(file).unwrap());
            crate::support::finish(command, words)
        };
        assert_eq!(
            piped(&["run", "--rm", "-i", "bb:1", "cat"]).ok(),
            "one\ntwo\n",
            "{name}"
        );
        assert_eq!(piped(&["run", "--rm", "bb:1", "cat"]).ok(), "", "{name}");
        piped(&["run", "--rm", "-it", "bb:1", "cat"]).fails(1, "not a TTY");
    });
}

#[test]
fn a_container_lives_in_the_background() {
    for_all_users(|name, home| {
        let id = home
            .rrun(&[
                "run",
                "-d",
                "--name",
                "bg",
                "bb:1",
                "sh",
                "-c",
                "echo up; trap 'exit 5' TERM; while :; do sleep 0.1; done",
            ])
            .ok();
        assert_eq!(id.trim().len(), 64, "{name}: {id}");
        assert_eq!(home.rrun(&["ps", "-q", "--no-trunc"]).ok(), id, "{name}");
        assert_eq!(
            home.rrun(&["exec", "bg", "echo", "in"]).ok(),
            "in\n",
            "{name}"
        );
        assert_eq!(
            home.rrun(&["exec", "bg", "sh", "-c", "exit 9"]).code,
            9,
            "{name}"
        );
        assert_eq!(
            home.rrun(&["exec", "bg", "nonexistent"]).code,
            127,
            "{name}"
        );
        home.rrun(&["rm", "bg"]).fails(1, "running");
        home.rrun(&["run", "--name", "bg", "bb:1", "true"])
            .fails(125, "already in use");
        wait_for(|| home.rrun(&["logs", "bg"]).out == "up\n");
        assert_eq!(home.rrun(&["stop", "bg"]).ok(), "bg\n", "{name}");
        assert_eq!(home.rrun(&["wait", "bg"]).ok(), "5\n", "{name}");
        let status = home.rrun(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "bg",
        ]);
        assert_eq!(status.ok(), "exited 5\n", "{name}");
        let listed = home
            .rrun(&["ps", "-a", "--format", "{{.Names}} : {{.Status}}"])
            .ok();
        assert!(listed.starts_with("bg : Exited (5) "), "{name}: {listed}");
        assert_eq!(home.rrun(&["start", "bg"]).ok(), "bg\n", "{name}");
        assert_eq!(home.rrun(&["rename", "bg", "gb"]).ok(), "", "{name}");
        assert_eq!(home.rrun(&["kill", "gb"]).ok(), "gb\n", "{name}");
        assert_eq!(home.rrun(&["wait", "gb"]).ok(), "137\n", "{name}");
        assert_eq!(home.rrun(&["rm", "gb"]).ok(), "gb\n", "{name}");
        home.rrun(&["inspect", "gb"]).fails(1, "no such");
    });
}

/// Waits until something is so, at most ten seconds.
fn wait_for(mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "it never came to be so"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn changes_are_listed_committed_and_exported() {
    for_all_users(|name, home| {
        let script = "echo hi >/etc/x; rm /bin/vi; mkdir /d; chown 5:6 /d; chmod 4755 /bin/busybox";
        home.rrun(&["run", "--name", "c1", "bb:1", "sh", "-c", script])
            .ok();
        let diff = home.rrun(&["diff", "c1"]).ok();
        assert_eq!(
            diff, "C /bin\nC /bin/busybox\nD /bin/vi\nA /d\nC /etc\nA /etc/x\n",
            "{name}"
        );
        let id = home.rrun(&["commit", "c1", "bb:2"]).ok();
        assert!(id.starts_with("sha256:"), "{name}: {id}");
        let again = home
            .rrun(&[
                "run",
                "--rm",
                "bb:2",
                "sh",
                "-c",
                "cat /etc/x; ls /bin/vi; stat -c %a /bin/busybox",
            ])
            .out;
        assert_eq!(again, "hi\n4755\n", "{name}");
        let tar = home.path("c.tar");
        home.rrun(&["export", "-o", tar.to_str().unwrap(), "c1"])
            .ok();
        let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
        let owner = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.path().unwrap().to_str() == Some("d/"))
            .map(|entry| (entry.header().uid().unwrap(), entry.header().gid().unwrap()));
        assert_eq!(owner, Some((5, 6)), "{name}");
        let history = home.rrun(&["history", "-q", "bb:2"]).ok();
        assert_eq!(history.lines().count(), 2, "{name}: {history}");
        home.rrun(&["rmi", "bb:1"]).fails(1, "is using");
        home.rrun(&["rm", "c1"]).ok();
        let gone = home.rrun(&["rmi", "bb:2", "bb:1"]).ok();
        assert!(
            gone.contains("Untagged: bb:2\n") && gone.contains("Deleted: sha256:"),
            "{name}: {gone}"
        );
        assert_eq!(home.rrun(&["images", "-q"]).ok(), "", "{name}");
    });
}
