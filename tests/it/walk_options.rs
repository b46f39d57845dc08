//! The part of the walk through Docker's courses that is about options of `run`.

use crate::support::for_all_users;
use crate::walk::{inspect, sleeper, wait_for};

#[test]
fn namespaces_of_the_host_are_shared_when_asked_for() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| {
            let words = [&["run", "--rm", "--network", "none"][..], words].concat();
            home.rrun(&words).ok()
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(run(&["--uts", "host", "bb:1", "hostname"]), host, "{who}");
        let own = run(&[
            "--pid",
            "host",
            "bb:1",
            "sh",
            "-c",
            "test $$ -gt 1 && echo shared",
        ]);
        assert_eq!(own, "shared\n", "{who}");
        let seen = |namespace: &str, option: &str| {
            let link = format!("/proc/self/ns/{namespace}");
            let inside = run(&[option, "host", "bb:1", "readlink", &link]);
            inside.trim() == std::fs::read_link(&link).unwrap().to_str().unwrap()
        };
        assert!(
            seen("pid", "--pid") && seen("ipc", "--ipc") && seen("uts", "--uts"),
            "{who}"
        );
        // What the first process leaves among the host's processes goes with it.
        let words = [
            "run",
            "-d",
            "--name",
            "ph",
            "--network",
            "none",
            "--pid",
            "host",
            "bb:1",
        ];
        let script = ["sh", "-c", "sleep 4321 & sleep 4321"];
        home.rrun(&[&words[..], &script].concat()).ok();
        wait_for("both run", || {
            home.rrun(&["top", "ph"]).out.lines().count() == 3
        });
        home.rrun(&["rm", "-f", "ph"]).ok();
        let left = home.rrun(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--pid",
            "host",
            "bb:1",
            "ps",
        ]);
        assert!(!left.out.contains("sleep 4321"), "{who}: {left:?}");
    });
}

#[test]
fn init_reaps_and_passes_signals_on() {
    for_all_users(|who, home| {
        let run = [
            "run",
            "--rm",
            "--network",
            "none",
            "--init",
            "bb:1",
            "sh",
            "-c",
        ];
        let code = home
            .rrun(&[&run[..], &["test $$ -gt 1 && exit 7"]].concat())
            .code;
        assert_eq!(code, 7, "{who}");
        let killed = home.rrun(&[&run[..], &["kill -9 $$"]].concat()).code;
        assert_eq!(killed, 137, "{who}");
        let script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done";
        let words = [
            "run",
            "-d",
            "--name",
            "in",
            "--network",
            "none",
            "--init",
            "bb:1",
            "sh",
            "-c",
        ];
        home.rrun(&[&words[..], &[script]].concat()).ok();
        wait_for("it runs", || home.rrun(&["logs", "in"]).out == "up\n");
        // An orphan is reaped: no zombie stays.
        home.rrun(&["exec", "in", "sh", "-c", "(sleep 0.05 &)"])
            .ok();
        wait_for("reaped", || {
            !home
                .rrun(&["exec", "in", "ps", "-o", "stat"])
                .out
                .contains('Z')
        });
        home.rrun(&["stop", "in"]).ok();
        assert_eq!(home.rrun(&["wait", "in"]).ok(), "9\n", "{who}");
        assert_eq!(inspect(home, "{{.HostConfig.Init}}", "in"), "true", "{who}");
    });
}

#[test]
fn kernel_parameters_limits_and_devices_are_set() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| {
            let words = [&["run", "--rm", "--network", "none"][..], words].concat();
            home.rrun(&words)
        };
        let read = |words: &[&str]| run(words).ok();
        let shm = [
            "--sysctl",
            "kernel.shmmni=1234",
            "bb:1",
            "cat",
            "/proc/sys/kernel/shmmni",
        ];
        assert_eq!(read(&shm), "1234\n", "{who}");
        run(&["--sysctl", "vm.swappiness=1", "bb:1", "true"]).fails(125, "is not allowed");
        let score = [
            "--oom-score-adj",
            "500",
            "bb:1",
            "cat",
            "/proc/self/oom_score_adj",
        ];
        assert_eq!(read(&score), "500\n", "{who}");
        let files = [
            "--ulimit",
            "nofile=100:200",
            "bb:1",
            "sh",
            "-c",
            "ulimit -n; ulimit -Hn",
        ];
        assert_eq!(read(&files), "100\n200\n", "{who}");
        let device = ["--device", "/dev/null:/dev/mine", "bb:1", "sh", "-c"];
        let script = ["echo x >/dev/mine; test -c /dev/mine && echo node"];
        assert_eq!(read(&[&device[..], &script].concat()), "node\n", "{who}");
        run(&["--device", "/dev/nope", "bb:1", "true"]).fails(125, "/dev/nope");
        let shm = [
            "--shm-size",
            "1m",
            "bb:1",
            "sh",
            "-c",
            "df -k /dev/shm | tail -1",
        ];
        assert!(read(&shm).contains(" 1024 "), "{who}");
    });
}

#[test]
fn files_of_options_are_read_and_written() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| {
            let words = [&["run", "--rm", "--network", "none"][..], words].concat();
            home.rrun(&words)
        };
        let read = |words: &[&str]| run(words).ok();
        let file = home.write("env", b"# comment\nA=1\nB=two words\n");
        let env = [
            "--env-file",
            file.to_str().unwrap(),
            "bb:1",
            "sh",
            "-c",
            "echo $A $B",
        ];
        assert_eq!(read(&env), "1 two words\n", "{who}");
        // A name alone, which the caller has not either, takes what is given by default away.
        let words = ["run", "--rm", "-e", "HOSTNAME", "-e", "TERM", "bb:1", "env"];
        let mut command = home.command();
        let output = command
            .env_remove("HOSTNAME")
            .env_remove("TERM")
            .args(words)
            .output();
        let said = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        assert!(
            said.contains("PATH=") && !said.contains("HOSTNAME"),
            "{who}: {said}"
        );
        let hosts = [
            "--add-host",
            "dbhost:10.0.0.9",
            "bb:1",
            "grep",
            "dbhost",
            "/etc/hosts",
        ];
        assert_eq!(read(&hosts), "10.0.0.9\tdbhost\n", "{who}");
        let cid = home.path("cid");
        let cid = cid.to_str().unwrap();
        run(&["--cidfile", cid, "bb:1", "true"]).ok();
        assert_eq!(std::fs::read_to_string(cid).unwrap().len(), 64, "{who}");
        run(&["--cidfile", cid, "bb:1", "true"]).fails(125, "container ID file found");
        sleeper(
            home,
            "mem",
            &["--memory", "64m", "--cpus", "1.5", "--pids-limit", "50"],
        );
        let shown = inspect(
            home,
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            "mem",
        );
        assert_eq!(shown, "67108864 1500000000 50", "{who}");
    });
}

#[test]
fn files_are_copied_both_ways_running_or_not() {
    for_all_users(|who, home| {
        sleeper(home, "cc", &["-v", "/vol"]);
        let script = "mkdir -p /d/sub; echo one >/d/a; echo two >/d/sub/b; ln -s /etc/hosts /d/l; \
                      ln -s /d /link; chmod 640 /d/a";
        home.rrun(&["exec", "cc", "sh", "-c", script]).ok();
        let place = |name: &str| home.path(name).to_str().unwrap().to_owned();
        for state in ["running", "stopped"] {
            let out = home.path(&format!("out-{state}"));
            let cp = |words: &[&str]| home.rrun(&[&["cp", "-q"][..], words].concat());
            // A directory that is not there takes the name; one that is gets it inside.
            cp(&["cc:/d", out.to_str().unwrap()]).ok();
            cp(&["cc:/link/", out.to_str().unwrap()]).ok();
            let read = |path: &str| std::fs::read_to_string(out.join(path)).unwrap();
            assert_eq!(
                (read("a"), read("sub/b")),
                ("one\n".into(), "two\n".into()),
                "{who} {state}"
            );
            let link = std::fs::read_link(out.join("l")).unwrap();
            assert_eq!(link.to_str(), Some("/etc/hosts"), "{who} {state}");
            assert_eq!(read("link/a"), "one\n", "{who} {state}");
            let tar = cp(&["cc:/d/a", "-"]).ok();
            assert!(
                tar.starts_with("a\0") && tar.contains("one\n"),
                "{who} {state}"
            );
            let file = home.write("in", b"from the host\n");
            let file = file.to_str().unwrap();
            cp(&[file, &format!("cc:/d/{state}")]).ok();
            cp(&[file, "cc:/d/sub/"]).ok();
            cp(&[&place(&format!("out-{state}")), "cc:/copy"]).ok();
            let back = cp(&[&format!("cc:/d/{state}"), "-"]).ok();
            assert!(back.contains("from the host\n"), "{who} {state}");
            cp(&["cc:/nope", "-"]).fails(1, "could not find the file /nope");
            cp(&[file, "cc:/nope/dir/x"]).fails(1, "could not find the file");
            cp(&["cc:/d", file]).fails(1, "cannot copy a directory onto a file");
            home.rrun(&["stop", "-t", "0", "cc"]).ok();
        }
        home.rrun(&["start", "cc"]).ok();
        let seen = home.rrun(&[
            "exec",
            "cc",
            "sh",
            "-c",
            "cat /d/stopped; cat /copy/sub/b; stat -c %a /d/a",
        ]);
        assert_eq!(seen.ok(), "from the host\ntwo\n640\n", "{who}");
        home.rrun(&["cp", "cc:/a", "cc:/b"])
            .fails(1, "between containers");
        home.rrun(&["cp", "a", "b"])
            .fails(1, "at least one container");
    });
}

#[test]
fn exec_takes_all_its_options() {
    for_all_users(|who, home| {
        sleeper(home, "ex", &[]);
        let exec = |words: &[&str]| home.rrun(&[&["exec"][..], words].concat());
        exec(&[
            "-d",
            "-t",
            "ex",
            "sh",
            "-c",
            "test -t 1 && echo tty >/tmp/a; exec sleep 77",
        ])
        .ok();
        wait_for("it ran", || exec(&["ex", "cat", "/tmp/a"]).out == "tty\n");
        // Detached, its calls are answered as those of others are.
        let script = "sleep 0.2; echo >/tmp/b; chown 5:6 /tmp/b; stat -c %u:%g /tmp/b >/tmp/c";
        exec(&["-d", "ex", "sh", "-c", script]).ok();
        wait_for("it is owned", || {
            exec(&["ex", "cat", "/tmp/c"]).out.ends_with('\n')
        });
        let owner = exec(&["ex", "cat", "/tmp/c"]).out;
        let owners = ["5:6\n", "0:0\n"];
        assert!(owners.contains(&owner.as_str()), "{who}: {owner}");
        exec(&["-d", "ex", "nope"]).fails(127, "nope");
        let file = home.write("exec-env", b"# no\nA=1\n");
        let file = file.to_str().unwrap();
        let env = exec(&[
            "--env-file",
            file,
            "-e",
            "B=2",
            "ex",
            "sh",
            "-c",
            "echo $A$B",
        ]);
        assert_eq!(env.ok(), "12\n", "{who}");
        exec(&["-w", "/nope", "ex", "true"]).fails(126, "/nope");
        exec(&["ex", "test", "-e", "/nope"]).fails(1, "");
        assert_eq!(exec(&["-w", "/etc", "ex", "pwd"]).ok(), "/etc\n", "{who}");
        let caps = |words: &[&str]| {
            let words = [words, &["ex", "grep", "CapEff", "/proc/self/status"]].concat();
            let out = exec(&words).ok();
            let text = out.split_whitespace().last().unwrap().to_owned();
            u64::from_str_radix(&text, 16).unwrap()
        };
        assert!(
            caps(&["--privileged"]).count_ones() > caps(&[]).count_ones(),
            "{who}"
        );
        home.rrun(&["start", "-a", "-i", "ex", "other"])
            .fails(1, "cannot start and attach multiple containers");
        home.rrun(&["attach", "nope"]).fails(1, "no such container");
    });
}
