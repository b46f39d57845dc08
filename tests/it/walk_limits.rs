//! Limits of containers: enforced by control groups, or named in one warning.

use std::path::{Path, PathBuf};

use crate::support::{Home, for_all_users, is_root};
use crate::walk::{inspect, sleeper};

/// Where version 1 and version 2 hold a bound: controller, file, file.
const FILES: [(&str, &str, &str); 9] = [
    ("memory", "memory.limit_in_bytes", "memory.max"),
    ("memory", "memory.soft_limit_in_bytes", "memory.low"),
    ("memory", "memory.swappiness", ""),
    ("cpu", "cpu.shares", "cpu.weight"),
    ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    ("cpu", "cpu.cfs_period_us", "cpu.max"),
    ("cpuset", "cpuset.cpus", "cpuset.cpus"),
    ("cpuset", "cpuset.mems", "cpuset.mems"),
    ("pids", "pids.max", "pids.max"),
];

/// What a bound of version 1 is; `None` on a host with version 2 only.
fn bound(id: &str, file: &str) -> Option<String> {
    let (controller, ..) = FILES.iter().find(|(_, old, _)| *old == file)?;
    let base = Path::new("/sys/fs/cgroup").join(controller);
    if !base.is_dir() {
        return None;
    }
    let text = std::fs::read_to_string(base.join("rrun").join(id).join(file)).unwrap();
    Some(text.trim().to_owned())
}

#[track_caller]
fn holds(id: &str, file: &str, expected: &str) {
    if let Some(text) = bound(id, file) {
        assert_eq!(text, expected, "{file}");
    }
}

fn groups(id: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let entries = std::fs::read_dir(base).unwrap();
    let dirs = entries.map(|entry| entry.unwrap().path());
    let all = dirs.chain([base.to_owned()]);
    all.map(|dir| dir.join("rrun").join(id))
        .filter(|dir| dir.is_dir())
        .collect()
}

fn is_enforced(who: &str) -> bool {
    who == "caller" && is_root()
}

const ALL: [&str; 18] = [
    "--memory",
    "64m",
    "--memory-reservation",
    "32m",
    "--memory-swappiness",
    "5",
    "--cpu-shares",
    "512",
    "--cpu-quota",
    "50000",
    "--cpu-period",
    "200000",
    "--cpuset-cpus",
    "0",
    "--cpuset-mems",
    "0",
    "--pids-limit",
    "50",
];

#[test]
fn limits_are_enforced_or_named_in_one_warning() {
    for_all_users(|who, home| {
        let words = [&["run", "-d", "--network", "none"][..], &ALL].concat();
        let ran = home.rrun(&[&words[..], &["bb:1", "sleep", "1000"]].concat());
        let id = ran.out.trim().to_owned();
        let shown = inspect(
            home,
            "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.MemoryReservation}} \
             {{.MemorySwappiness}} {{.CpuShares}} {{.CpuQuota}} {{.CpuPeriod}} {{.CpusetCpus}} \
             {{.CpusetMems}} {{.PidsLimit}}{{end}}",
            &id,
        );
        let expected = "67108864 134217728 33554432 5 512 50000 200000 0 0 50";
        assert_eq!(shown, expected, "{who}");
        if is_enforced(who) {
            for (file, expected) in [
                ("memory.limit_in_bytes", "67108864"),
                ("memory.soft_limit_in_bytes", "33554432"),
                ("memory.swappiness", "5"),
                ("cpu.shares", "512"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpu.cfs_period_us", "200000"),
                ("cpuset.cpus", "0"),
                ("cpuset.mems", "0"),
                ("pids.max", "50"),
            ] {
                holds(&id, file, expected);
            }
            let cpus = home.rrun(&[
                "exec",
                &id,
                "grep",
                "Cpus_allowed_list",
                "/proc/self/status",
            ]);
            assert!(cpus.ok().ends_with("\t0\n"), "{who}");
        } else {
            let warnings: Vec<&str> = ran.err.lines().collect();
            assert_eq!(warnings.len(), 1, "{who}: {ran:?}");
            for option in ALL.iter().filter(|word| word.starts_with("--")) {
                assert!(warnings[0].contains(option), "{who}: {option} in {ran:?}");
            }
            assert!(
                warnings[0].contains("no control group is delegated"),
                "{who}"
            );
        }
        home.rrun(&["rm", "-f", &id]).ok();
        assert_eq!(groups(&id), Vec::<PathBuf>::new(), "{who}");
    });
}

#[test]
fn update_changes_each_limit_of_a_running_container() {
    for_all_users(|who, home| {
        // Without limits there are no groups at first.
        let id = sleeper(home, "up", &[]);
        let update = |words: &[&str]| {
            let words = [&["update"][..], words, &["up"]].concat();
            home.rrun(&words)
        };
        let changed = update(&ALL[..4]);
        assert_eq!(changed.code, 0, "{who}: {changed:?}");
        update(&["--memory-swap", "200m", "--cpu-shares", "256"]).ok();
        update(&["--cpuset-cpus", "0", "--cpuset-mems", "0"]).ok();
        update(&["--cpu-period", "100000", "--cpu-quota", "20000"]).ok();
        update(&["--pids-limit", "33"]).ok();
        let shown = "{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.CpuShares}} \
                     {{.CpuQuota}} {{.PidsLimit}} {{.CpusetCpus}}{{end}}";
        let shown = inspect(home, shown, "up");
        assert_eq!(shown, "67108864 209715200 256 20000 33 0", "{who}");
        if is_enforced(who) {
            assert_eq!(changed.err, "", "{who}");
            holds(&id, "memory.limit_in_bytes", "67108864");
            holds(&id, "cpu.shares", "256");
            holds(&id, "cpu.cfs_quota_us", "20000");
            holds(&id, "cpuset.cpus", "0");
            holds(&id, "pids.max", "33");
            update(&["--pids-limit", "-1", "--cpu-quota", "-1"]).ok();
            holds(&id, "pids.max", "max");
            holds(&id, "cpu.cfs_quota_us", "-1");
            let inside = home.rrun(&["exec", "up", "grep", "Cpus_allowed_list", "/proc/1/status"]);
            assert!(inside.ok().ends_with("\t0\n"), "{who}");
            home.rrun(&["pause", "up"]).ok();
            assert_eq!(inspect(home, "{{.State.Status}}", "up"), "paused", "{who}");
            home.rrun(&["unpause", "up"]).ok();
        } else {
            let says = "--memory, --memory-reservation are not enforced";
            assert!(changed.err.contains(says), "{who}: {changed:?}");
        }
        update(&["--memory", "1m"]).fails(1, "Minimum memory limit allowed is 6MB");
        update(&[]).fails(1, "you must provide one or more flags");
        home.rrun(&["rm", "-f", "up"]).ok();
        assert_eq!(groups(&id), Vec::<PathBuf>::new(), "{who}");
    });
}

#[test]
fn wrong_limits_are_refused_in_dockers_words() {
    let home = Home::new();
    let cases: [(&[&str], &str); 10] = [
        (&["--memory", "1m"], "Minimum memory limit allowed is 6MB"),
        (
            &["--memory-swap", "64m"],
            "You should always set the Memory limit",
        ),
        (
            &["--memory-swappiness", "101"],
            "valid memory swappiness range is 0-100",
        ),
        (&["--cpus", "1000"], "range of CPUs is from 0.01 to"),
        (
            &["--cpuset-cpus", "4096"],
            "Requested CPUs are not available",
        ),
        (
            &["--blkio-weight", "5"],
            "Range of blkio weight is from 10 to 1000",
        ),
        (
            &["--cpus", "1", "--cpu-quota", "5000"],
            "Conflicting options",
        ),
        (
            &["--device-cgroup-rule", "c 1 r"],
            "invalid device cgroup format",
        ),
        (
            &["--device-read-bps", "vda:1mb"],
            "bad format for device path",
        ),
        (&["--blkio-weight-device", "/dev/null"], "bad format"),
    ];
    for (words, says) in cases {
        let words = [&["create"][..], words, &["img"]].concat();
        home.rrun(&words).fails(125, says);
    }
}
