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
                found.retain(|pid| {
                    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    String::from_utf8_lossy(&words).contains(part)
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
