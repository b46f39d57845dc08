//! A walk through what Docker's courses type, asserting what they show.

use std::time::{Duration, Instant};

use crate::support::{Home, for_all_users};

/// Waits until something is so, at most twenty seconds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a container that stays.
pub(crate) fn sleeper(home: &Home, name: &str, options: &[&str]) -> String {
    let words = [
        &["run", "-d", "--network", "none", "--name", name][..],
        options,
        &["bb:1", "sleep", "1000"],
    ];
    home.rrun(&words.concat()).ok().trim().to_owned()
}

pub(crate) fn inspect(home: &Home, format: &str, name: &str) -> String {
    let out = home.rrun(&["inspect", "-f", format, name]).ok();
    out.trim_end_matches('\n').to_owned()
}

#[test]
fn containers_are_listed_as_docker_lists_them() {
    for_all_users(|who, home| {
        let empty = home.rrun(&["ps"]).ok();
        assert_eq!(
            empty, "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n",
            "{who}"
        );
        let one = sleeper(home, "prefix_one", &["--label", "com.example.role=web"]);
        home.rrun(&[
            "run",
            "--network",
            "none",
            "--name",
            "two",
            "bb:1",
            "sh",
            "-c",
            "exit 3",
        ])
        .fails(3, "");
        home.rrun(&["create", "--name", "prefix_three", "bb:1", "true"])
            .ok();
        let ps = |words: &[&str]| {
            let words = [&["ps", "--format", "{{.Names}}"][..], words].concat();
            home.rrun(&words).ok().lines().collect::<Vec<_>>().join(" ")
        };
        let cases: [(&[&str], &str); 17] = [
            (&[], "prefix_one"),
            (&["-a"], "prefix_three two prefix_one"),
            (&["-l"], "prefix_three"),
            (&["--last", "2"], "prefix_three two"),
            (&["-n", "1"], "prefix_three"),
            (&["-n", "-1"], "prefix_one"),
            (&["-a", "-f", "name=prefix_*"], "prefix_three prefix_one"),
            (&["-a", "-f", "name=^two$"], "two"),
            (&["-f", "status=exited"], "two"),
            (
                &["-f", "status=exited", "-f", "status=created"],
                "prefix_three two",
            ),
            (&["-a", "-f", "exited=3"], "two"),
            (&["-f", "exited=3"], ""),
            (&["-f", "label=com.example.role"], "prefix_one"),
            (&["-f", "label=com.example.role=db"], ""),
            (&["-a", "-f", "before=two"], "prefix_one"),
            (&["-a", "-f", "since=two"], "prefix_three"),
            (
                &["-a", "-f", "ancestor=bb:1", "-f", "status=running"],
                "prefix_one",
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(ps(words), expected, "{who}: {words:?}");
        }
        list_formats(who, home, &one);
    });
}

fn list_formats(who: &str, home: &Home, one: &str) {
    assert_eq!(
        home.rrun(&["ps", "-q"]).ok(),
        format!("{}\n", &one[..12]),
        "{who}"
    );
    assert_eq!(
        home.rrun(&["ps", "-q", "--no-trunc"]).ok(),
        format!("{one}\n")
    );
    let table = home
        .rrun(&[
            "ps",
            "--format",
            "table {{.Names}}\t{{.Label \"com.example.role\"}}\t{{.State}}",
        ])
        .ok();
    assert_eq!(
        table,
        "NAMES        role      STATE\nprefix_one   web       running\n"
    );
    let json = home.rrun(&["ps", "--format", "json"]).ok();
    assert!(
        json.starts_with("{\"Command\":\"\\\"sleep 1000\\\"\",\"CreatedAt\":"),
        "{json}"
    );
    assert!(!json.contains("\"Label\":"), "{json}");
    let size = home.rrun(&["ps", "-s", "--format", "{{.Size}}"]).ok();
    assert!(size.contains("(virtual "), "{who}: {size}");
    for (filter, says) in [
        ("status=frob", "invalid filter 'status=frob'"),
        ("frob=x", "invalid filter 'frob'"),
        ("exited=x", "invalid filter 'exited=x'"),
        ("before=nope", "no such container: nope"),
    ] {
        home.rrun(&["ps", "-f", filter]).fails(1, says);
    }
    home.rrun(&["ps", "-f", "frob"])
        .fails(125, "bad format of filter");
    home.rrun(&["ps", "--format", "{{.Nope}}"])
        .fails(1, "can't evaluate field Nope in type");
}

#[test]
fn a_container_is_inspected_in_dockers_order() {
    for_all_users(|who, home| {
        sleeper(
            home,
            "web",
            &["-e", "A=1", "--label", "l=v", "--cap-add", "NET_ADMIN"],
        );
        let text = home.rrun(&["inspect", "web"]).ok();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            text.starts_with("[\n    {\n        \"Id\": \""),
            "{who}: {text}"
        );
        let keys: Vec<&str> = value[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let first = [
            "Id",
            "Created",
            "Path",
            "Args",
            "State",
            "Image",
            "ResolvConfPath",
            "HostnamePath",
            "HostsPath",
            "LogPath",
            "Name",
            "RestartCount",
            "Driver",
            "Platform",
            "MountLabel",
            "ProcessLabel",
            "AppArmorProfile",
            "ExecIDs",
            "HostConfig",
            "GraphDriver",
            "Mounts",
            "Config",
            "NetworkSettings",
        ];
        assert_eq!(keys, first, "{who}");
        inspect_formats(who, home);
    });
}

fn inspect_formats(who: &str, home: &Home) {
    for (format, expected) in [
        ("{{.State.Status}}", "running"),
        ("{{.Name}}", "/web"),
        (
            "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}",
            "[NET_ADMIN] []",
        ),
        ("{{json .HostConfig.CapDrop}}", "null"),
        ("{{.Config.Labels}}", "map[l:v]"),
        ("{{index .Config.Labels \"l\"}}", "v"),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1"),
        (
            "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}",
            "none",
        ),
        ("{{.HostConfig.RestartPolicy.Name}}", "no"),
        ("{{join .Args \" \" | upper}}", "1000"),
        ("{{printf \"%.12s\" .Id | len}}", "12"),
    ] {
        assert_eq!(inspect(home, format, "web"), expected, "{who}: {format}");
    }
    assert!(inspect(home, "{{ .State }}", "web").starts_with("{running true false false"));
    assert!(inspect(home, "{{json .NetworkSettings}}", "web").starts_with("{\"Bridge\":\"\","));
    home.rrun(&["inspect", "-f", "{{.Nope}}", "web"]).fails(
            1,
            "template parsing error: template: :1:2: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
        );
    home.rrun(&["inspect", "-f", "{{.Id", "web"])
        .fails(1, "unclosed action");
    home.rrun(&["inspect", "nope"])
        .fails(1, "no such object: nope");
    home.rrun(&["inspect", "--type", "container", "bb:1"])
        .fails(1, "no such container: bb:1");
    home.rrun(&["inspect", "--type", "frob", "web"])
        .fails(1, "not a valid value for --type");
    let sized = ["inspect", "-s", "-f", "{{.SizeRootFs}} {{.SizeRw}}", "web"];
    let sizes = home.rrun(&sized).ok();
    assert!(
        sizes
            .trim()
            .split(' ')
            .all(|size| size.parse::<u64>().is_ok()),
        "{sizes}"
    );
}

#[test]
fn containers_stop_start_pause_and_go() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| home.rrun(words).ok();
        let status = |name: &str| inspect(home, "{{.State.Status}}", name);
        sleeper(home, "c1", &["--stop-timeout", "0"]);
        assert_eq!(run(&["stop", "c1"]), "c1\n", "{who}");
        assert_eq!(
            (status("c1"), run(&["wait", "c1"])),
            ("exited".into(), "137\n".into())
        );
        assert_eq!(run(&["start", "c1"]), "c1\n");
        assert_eq!(run(&["restart", "-t", "0", "c1"]), "c1\n");
        assert_eq!(status("c1"), "running");
        let paused = home.rrun(&["pause", "c1"]);
        if paused.code == 0 {
            let shown = run(&["ps", "--format", "{{.Status}}"]);
            assert!(shown.ends_with("(Paused)\n"), "{who}: {shown}");
            home.rrun(&["exec", "c1", "true"]).fails(1, "paused");
            assert_eq!(run(&["unpause", "c1"]), "c1\n");
        } else {
            paused.fails(1, "control group");
        }
        home.rrun(&["unpause", "c1"]).fails(1, "not paused");
        home.rrun(&["rm", "c1"]).fails(1, "container is running");
        assert_eq!(run(&["kill", "c1"]), "c1\n");
        wait_for("killed", || status("c1") == "exited");
        home.rrun(&["kill", "c1"]).fails(1, "is not running");
        assert_eq!(run(&["rename", "c1", "c2"]), "");
        home.rrun(&["start", "nope"])
            .fails(1, "no such container: nope");
        home.rrun(&["rm", "nope"])
            .fails(1, "no such container: nope");
        let id = run(&["ps", "-aq"]);
        assert_eq!(run(&["rm", id.trim()]), id, "{who}");
        run(&["create", "--name", "x1", "bb:1", "true"]);
        run(&["create", "--name", "x2", "--label", "keep", "bb:1", "true"]);
        let pruned = run(&["container", "prune", "-f", "--filter", "label!=keep"]);
        assert!(
            pruned.starts_with("Deleted Containers:\n"),
            "{who}: {pruned}"
        );
        assert!(
            pruned.ends_with("\n\nTotal reclaimed space: 0B\n"),
            "{who}: {pruned}"
        );
        assert_eq!(run(&["ps", "-a", "--format", "{{.Names}}"]), "x2\n");
    });
}

#[test]
fn restart_policies_bring_containers_back_until_they_are_stopped() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| {
            let words = [&["run", "-d", "--network", "none"][..], words].concat();
            home.rrun(&words).ok()
        };
        run(&[
            "--name",
            "twice",
            "--restart",
            "on-failure:2",
            "bb:1",
            "sh",
            "-c",
            "exit 4",
        ]);
        wait_for("given up", || {
            inspect(home, "{{.RestartCount}} {{.State.Status}}", "twice") == "2 exited"
        });
        assert_eq!(inspect(home, "{{.State.ExitCode}}", "twice"), "4", "{who}");
        run(&["--name", "ever", "--restart", "always", "bb:1", "true"]);
        wait_for("came back", || {
            inspect(home, "{{.RestartCount}}", "ever")
                .parse::<u32>()
                .unwrap()
                >= 2
        });
        home.rrun(&["stop", "ever"]).ok();
        assert_eq!(
            inspect(home, "{{.State.Status}}", "ever"),
            "exited",
            "{who}"
        );
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(
            inspect(home, "{{.State.Status}}", "ever"),
            "exited",
            "{who}"
        );
        sleeper(home, "killed", &["--restart", "unless-stopped"]);
        home.rrun(&["kill", "-s", "-1", "killed"])
            .fails(1, "invalid signal: -1");
        home.rrun(&["exec", "killed", "true"]).ok();
        home.rrun(&["rm", "-f", "killed"]).ok();
        let both = ["run", "--rm", "--restart", "always", "bb:1"];
        home.rrun(&both)
            .fails(125, "cannot specify both --restart and --rm");
        home.rrun(&["run", "--restart", "sometimes", "bb:1"])
            .fails(125, "unknown policy 'sometimes'");
        home.rrun(&["update", "--restart", "no", "ever"]).ok();
        assert_eq!(
            inspect(home, "{{.HostConfig.RestartPolicy.Name}}", "ever"),
            "no"
        );
    });
}

#[test]
fn health_checks_are_run_and_shown() {
    for_all_users(|who, home| {
        let check = ["--health-cmd", "test -e /ok", "--health-interval", "50ms"];
        sleeper(
            home,
            "hc",
            &[&check[..], &["--health-retries", "2"]].concat(),
        );
        let health = || inspect(home, "{{.State.Health.Status}}", "hc");
        wait_for("unhealthy", || health() == "unhealthy");
        let shown = home.rrun(&["ps", "--format", "{{.Status}}"]).ok();
        assert!(shown.ends_with("(unhealthy)\n"), "{who}: {shown}");
        home.rrun(&["exec", "hc", "touch", "/ok"]).ok();
        wait_for("healthy", || health() == "healthy");
        let listed = home.rrun(&["ps", "-f", "health=healthy", "--format", "{{.Names}}"]);
        assert_eq!(listed.ok(), "hc\n", "{who}");
        let test = inspect(home, "{{json .Config.Healthcheck.Test}}", "hc");
        assert_eq!(test, "[\"CMD-SHELL\",\"test -e /ok\"]", "{who}");
    });
}

#[test]
fn logs_keep_what_was_written() {
    for_all_users(|who, home| {
        let script = "for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; printf part";
        let words = [
            "run",
            "--network",
            "none",
            "--name",
            "l1",
            "bb:1",
            "sh",
            "-c",
            script,
        ];
        home.rrun(&words).ok();
        let logs = |words: &[&str]| home.rrun(&[&["logs"][..], words, &["l1"]].concat());
        assert_eq!(
            logs(&[]).out,
            "line 1\nline 2\nline 3\nline 4\nline 5\npart",
            "{who}"
        );
        assert_eq!(logs(&[]).err, "err\n", "{who}");
        assert_eq!(logs(&["--until", "1h"]).out, "", "{who}");
        assert_eq!(
            logs(&["--since", "1h", "--tail", "all"])
                .out
                .lines()
                .count(),
            6,
            "{who}"
        );
        let stamped = logs(&["-t"]).out;
        let time = stamped.split(' ').next().unwrap();
        assert_eq!(
            (time.len(), time.ends_with('Z')),
            (30, true),
            "{who}: {stamped}"
        );
        rotated_logs(who, home);
    });
}

fn rotated_logs(who: &str, home: &Home) {
    let small = [
        "run",
        "--network",
        "none",
        "--name",
        "r1",
        "--log-driver",
        "k8s-file",
        "--log-opt",
        "max-size=1k",
        "--log-opt",
        "max-file=2",
        "bb:1",
        "seq",
        "1",
        "500",
    ];
    home.rrun(&small).ok();
    let kept = home.rrun(&["logs", "r1"]).ok();
    assert!(
        kept.ends_with("499\n500\n") && kept.len() < 600,
        "{who}: {kept}"
    );
    let none = [
        "run",
        "--network",
        "none",
        "--name",
        "n1",
        "--log-driver",
        "none",
        "bb:1",
        "echo",
        "x",
    ];
    assert_eq!(home.rrun(&none).ok(), "x\n", "{who}");
    home.rrun(&["logs", "n1"])
        .fails(1, "does not support reading");
}

#[test]
fn what_happens_and_what_is_used_is_shown() {
    for_all_users(|who, home| {
        sleeper(home, "t1", &[]);
        let top = home.rrun(&["top", "t1"]).ok();
        let mut lines = top.lines();
        let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            titles,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"],
            "{who}"
        );
        assert!(
            lines.next().unwrap().ends_with("sleep 1000"),
            "{who}: {top}"
        );
        let stats = home
            .rrun(&[
                "stats",
                "--no-stream",
                "--format",
                "{{.Name}} {{.PIDs}} {{.CPUPerc}}",
            ])
            .ok();
        assert!(
            stats.starts_with("t1 1 ") && stats.ends_with("%\n"),
            "{who}: {stats}"
        );
        home.rrun(&["kill", "t1"]).ok();
        home.rrun(&["wait", "t1"]).ok();
        let words = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--filter",
            "container=t1",
        ];
        let format = ["--format", "{{.Action}}"];
        wait_for("the end is told", || {
            home.rrun(&[&words[..], &format].concat())
                .out
                .ends_with("die\n")
        });
        let told = home.rrun(&[&words[..], &format].concat()).ok();
        assert_eq!(told, "create\nstart\nkill\ndie\n", "{who}");
        let plain = home.rrun(&[&words[..], &["-f", "event=die"]].concat()).ok();
        assert!(
            plain.ends_with(" (exitCode=137, image=bb:1, name=t1)\n"),
            "{who}: {plain}"
        );
        home.rrun(&["top", "t1"]).fails(1, "is not running");
    });
}
