//! kill -9 of each part of a running container: nothing stays, the truth is told.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Home, for_all_users, processes};

fn kill9(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn settled(mut so: impl FnMut() -> bool, what: &str) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < Duration::from_secs(15), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn started(home: &Home) -> String {
    home.rrun(&["run", "-d", "--name", "c1", "bb:1", "sleep", "1000"])
        .ok()
        .trim()
        .to_owned()
}

fn status(home: &Home) -> String {
    home.rrun(&["inspect", "-f", "{{.State.Status}}", "c1"])
        .ok()
}

#[test]
fn a_killed_part_ends_the_container_and_leaves_nothing() {
    for_all_users(|name, home| {
        for part in ["init", "__serve", "__monitor"] {
            let id = started(home);
            let victim = if part == "init" {
                let pid = home.rrun(&["inspect", "-f", "{{.State.Pid}}", "c1"]).ok();
                pid.trim().parse().unwrap()
            } else {
                let mut found = processes(&id);
                // Program, part and directory, also where it is a fork of something else.
                found.retain(|pid| {
                    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
                    words.get(1) == Some(&part.as_bytes()) && words.len() == 4
                });
                assert_eq!(found.len(), 1, "{name}: {part}");
                found[0]
            };
            kill9(victim);
            settled(
                || status(home) == "exited\n",
                &format!("{name}: {part}: not exited"),
            );
            settled(
                || processes(&id).is_empty(),
                &format!("{name}: {part}: processes stay"),
            );
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            assert!(!mounts.contains(&id), "{name}: {part}: {mounts}");
            assert_eq!(
                home.rrun(&["rm", "-f", "c1"]).ok(),
                "c1\n",
                "{name}: {part}"
            );
        }
    });
}

#[test]
fn a_killed_import_leaves_nothing_after_the_next_command() {
    let home = Home::new();
    let mut big = crate::support::archive::Layer::new();
    for index in 0..64 {
        let data = vec![u8::try_from(index).unwrap(); 1 << 20];
        big = big.file(&format!("f{index}"), &data, crate::support::archive::FILE);
    }
    let file = home.write("big.tar", &big.tar());
    for wait_ms in [5, 20, 60, 150] {
        let mut child = home
            .command()
            .args(["import", file.to_str().unwrap(), "big:1"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        home.rrun(&["images"]).ok();
        let left = fs::read_dir(home.data().join("store/tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "after {wait_ms} ms");
        assert_eq!(home.rrun(&["store", "check"]).code, 0, "after {wait_ms} ms");
    }
    home.rrun(&["import", file.to_str().unwrap(), "big:1"]).ok();
    assert_eq!(
        home.rrun(&["run", "--rm", "big:1", "/nonexistent"]).code,
        127
    );
}

/// Puts a container's claim into another boot of the host, as a crash of the host would leave it.
fn reboot(home: &Home, id: &str) {
    let dir = home.data().join("containers").join(id);
    let path = dir.join("state.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let monitor = state["monitor_pid"].as_i64().unwrap();
    state["boot_id"] = "another-boot".into();
    kill9(u32::try_from(monitor).unwrap());
    settled(
        || fs::read_link(format!("/proc/{monitor}/exe")).is_err(),
        "dead",
    );
    fs::write(&path, state.to_string()).unwrap();
}

#[test]
fn a_reboot_is_told_truly_and_policies_start_what_they_should() {
    for_all_users(|who, home| {
        let run = |name: &str, options: &[&str]| {
            let words = [
                &["run", "-d", "--network", "none", "--name", name][..],
                options,
                &["bb:1", "sleep", "1000"],
            ];
            home.rrun(&words.concat()).ok().trim().to_owned()
        };
        let names = ["al", "us", "by-hand", "of", "no", "gone"];
        let options: [&[&str]; 6] = [
            &["--restart", "always"],
            &["--restart", "unless-stopped"],
            &["--restart", "unless-stopped"],
            &["--restart", "on-failure"],
            &[],
            &["--rm"],
        ];
        let mut ids = Vec::new();
        for (name, options) in names.iter().zip(options) {
            ids.push(run(name, options));
        }
        home.rrun(&[
            "create",
            "--restart",
            "always",
            "--name",
            "fresh",
            "bb:1",
            "true",
        ])
        .ok();
        home.rrun(&["stop", "-t", "0", "by-hand"]).ok();
        for (name, id) in names.iter().zip(&ids) {
            if *name != "by-hand" {
                reboot(home, id);
            }
        }
        assert_eq!(home.rrun(&["ps", "-q"]).ok(), "", "{who}");
        let shown = home.rrun(&["ps", "-a", "--filter", "name=al", "--format", "{{.Status}}"]);
        assert!(shown.ok().starts_with("Exited (255)"), "{who}");
        let code = home.rrun(&[
            "inspect",
            "-f",
            "{{.State.ExitCode}} {{.State.Running}}",
            "us",
        ]);
        assert_eq!(code.ok(), "255 false\n", "{who}");
        home.rrun(&["exec", "al", "true"])
            .fails(1, "is not running");
        let started = home.rrun(&["start", "--restart-policy"]).ok();
        assert_eq!(started, "al\nus\nof\n", "{who}");
        let up = home.rrun(&["ps", "--format", "{{.Names}}"]).ok();
        assert_eq!(up, "of\nus\nal\n", "{who}");
        let left = home.rrun(&["ps", "-a", "--filter", "name=gone", "-q"]).ok();
        assert_eq!(left, "", "{who}: --rm is honoured after all");
        // Again it finds nothing to do.
        assert_eq!(home.rrun(&["start", "--restart-policy"]).ok(), "", "{who}");
        home.rrun(&["start", "no"]).ok();
        home.rrun(&["rm", "-f", "al", "us", "of", "no", "by-hand", "fresh"])
            .ok();
    });
}
