//! Many containers, in a row, at once, and with any part killed at any moment: nothing hangs,
//! nothing stays.
//!
//! The counts are small here. `RRUN_RUNS`, `RRUN_PARALLEL` and `RRUN_KILLS` set the full ones.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Home, count, for_all_users, is_root, processes};

/// Longer than any command takes on a busy machine; the point is that it ends at all.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// What a host has of a home's containers.
struct Census {
    words: Vec<String>,
}

impl Census {
    fn of(home: &Home, ids: &[String]) -> Self {
        let mut words = ids.to_vec();
        words.push(home.data().to_string_lossy().into_owned());
        Self { words }
    }

    fn mine(&self, text: &str) -> bool {
        self.words.iter().any(|word| text.contains(word))
    }

    /// Everything that is left, in words.
    fn left(&self, home: &Home, marker: &str) -> Vec<String> {
        let mut left = Vec::new();
        for mount in fs::read_to_string("/proc/self/mounts").unwrap().lines() {
            if self.mine(mount) {
                left.push(format!("mount {mount}"));
            }
        }
        for word in self
            .words
            .last()
            .map(String::as_str)
            .into_iter()
            .chain([marker])
        {
            for pid in processes(word) {
                left.push(format!("process {pid}: {}", command_line(pid)));
            }
        }
        let mut groups = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = groups.pop() {
            if self.mine(&dir.to_string_lossy()) {
                left.push(format!("control group {}", dir.display()));
            }
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            groups.extend(dirs.map(|entry| entry.path()));
        }
        for entry in fs::read_dir(home.data().join("containers"))
            .into_iter()
            .flatten()
        {
            let path = entry.unwrap().path();
            let inside = fs::read_dir(&path).map_or(0, Iterator::count);
            // A command that was killed early leaves what the next one to make a container removes.
            let name = path.file_name().unwrap();
            if name != "new" && (name != "names" || inside > 0) {
                left.push(format!("directory {} of {inside}", path.display()));
            }
        }
        // Root's bridge is shared by all homes; an address is taken by a link to its container.
        for entry in fs::read_dir("/run/rrun/ipam/bridge")
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if is_root() && self.mine(&text) {
                left.push(format!("address {}", path.display()));
            }
        }
        left
    }

    #[track_caller]
    fn clean(&self, home: &Home, marker: &str, what: &str) {
        let started = Instant::now();
        loop {
            let left = self.left(home, marker);
            if left.is_empty() {
                return;
            }
            assert!(started.elapsed() < SETTLE_MAX, "{what}: left: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

/// Namespaces that some process is in. What nobody is in and nothing is mounted of does not exist.
fn namespaces() -> usize {
    let mut found = std::collections::BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for kind in fs::read_dir(entry.path().join("ns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            found.extend(fs::read_link(kind.path()));
        }
    }
    found.len()
}

/// Figures of the whole host, for a machine on which nothing else runs.
fn figures() -> String {
    let lines = |path: &str| fs::read_to_string(path).unwrap_or_default().lines().count();
    let files = fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let groups = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let groups: u32 = groups
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok())
        .sum();
    format!(
        "mounts {}, namespaces {}, control groups {groups}, interfaces {}, tcp sockets {}, unix sockets {}, open files {}",
        lines("/proc/self/mounts"),
        namespaces(),
        fs::read_dir("/sys/class/net").map_or(0, Iterator::count),
        lines("/proc/net/tcp"),
        lines("/proc/net/unix"),
        files.split_whitespace().next().unwrap_or_default(),
    )
}

fn one_run(home: &Home, number: usize) -> String {
    let id_file = home.path(&format!("id-{number}"));
    let words = [
        "run",
        "--rm",
        "--cidfile",
        id_file.to_str().unwrap(),
        "bb:1",
        "true",
    ];
    home.rrun(&words).ok();
    let id = fs::read_to_string(&id_file).unwrap();
    fs::remove_file(&id_file).unwrap();
    id
}

#[test]
fn short_runs_in_a_row_leave_nothing() {
    let runs = count("RRUN_RUNS", 12);
    for_all_users(|user, home| {
        let before = figures();
        let started = Instant::now();
        let ids: Vec<String> = (0..runs).map(|number| one_run(home, number)).collect();
        let took = started.elapsed();
        Census::of(home, &ids).clean(home, "no marker of runs", user);
        eprintln!(
            "{user}: {runs} runs in {took:?}\n  before: {before}\n  after:  {}",
            figures()
        );
    });
}

#[test]
fn containers_that_start_and_go_at_once_leave_nothing() {
    let parallel = count("RRUN_PARALLEL", 8);
    for_all_users(|user, home| {
        let before = figures();
        let started = Instant::now();
        let ids: Vec<String> = std::thread::scope(|scope| {
            let cycle = |number: usize| {
                let name = format!("p{number}");
                let words = ["run", "-d", "--name", &name, "bb:1", "sleep", "1000"];
                let id = home.rrun(&words).ok().trim().to_owned();
                let seen = home.rrun(&["exec", &name, "hostname"]).ok();
                assert_eq!(seen.trim(), &id[..12]);
                home.rrun(&["rm", "-f", &name]).ok();
                id
            };
            let threads: Vec<_> = (0..parallel)
                .map(|number| scope.spawn(move || cycle(number)))
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let took = started.elapsed();
        Census::of(home, &ids).clean(home, "no marker of cycles", user);
        eprintln!(
            "{user}: {parallel} cycles at once in {took:?}\n  before: {before}\n  after:  {}",
            figures()
        );
    });
}

#[test]
fn a_container_that_is_started_again_and_again_keeps_no_descriptors() {
    for_all_users(|user, home| {
        let words = ["run", "-d", "--name", "again", "--restart", "on-failure:4"];
        home.rrun(&[&words[..], &["bb:1", "sh", "-c", "sleep 0.3; exit 1"]].concat())
            .ok();
        let id = home.rrun(&["inspect", "-f", "{{.Id}}", "again"]).ok();
        let mut seen = Vec::new();
        while let Some(monitor) = monitor_of(id.trim()) {
            let restarts = home
                .rrun(&["inspect", "-f", "{{.RestartCount}}", "again"])
                .ok();
            let running = home
                .rrun(&["inspect", "-f", "{{.State.Status}}", "again"])
                .ok();
            let fds = fs::read_dir(format!("/proc/{monitor}/fd")).map_or(0, Iterator::count);
            if running == "running\n" && fds > 0 {
                seen.push((restarts.trim().parse::<u32>().unwrap(), fds));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // While it starts, a container has more or fewer: what counts is the most of each life.
        let most = |life: u32| {
            let of_life = seen.iter().filter(|(restarts, _)| *restarts == life);
            of_life.map(|(_, fds)| *fds).max()
        };
        if let (Some(first), Some(last)) = (most(0), most(4)) {
            assert!(last <= first, "{user}: {seen:?}");
        }
        home.rrun(&["rm", "-f", "again"]).ok();
    });
}

fn monitor_of(id: &str) -> Option<u32> {
    let found = processes(id).into_iter();
    found
        .filter(|pid| command_line(*pid).contains("__monitor"))
        .min()
}

/// Numbers that look random; the same seed gives the same ones.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }
}

/// The parts of a container at this moment, by kind: the command, the monitor, the server, the
/// id supervisor, the network helper, the container's own process.
fn parts(home: &Home, marker: &str) -> Vec<Vec<u32>> {
    let data = home.data().to_string_lossy().into_owned();
    let kinds = ["__monitor", "__serve", "__ids", "__net"];
    let mut found = vec![Vec::new(); kinds.len() + 2];
    let mut all = processes(marker);
    all.extend(processes(&data));
    let monitors: Vec<u32> = all.clone();
    // The supervisor and the network helper are known by their parent.
    for pid in processes("__ids").into_iter().chain(processes("__net")) {
        if parent(pid).is_some_and(|parent| monitors.contains(&parent)) {
            all.push(pid);
        }
    }
    all.sort_unstable();
    all.dedup();
    for pid in all {
        let line = command_line(pid);
        let kind = kinds.iter().position(|kind| line.contains(kind));
        let kind = kind.unwrap_or(if line.contains("run ") { 4 } else { 5 });
        found[kind].push(pid);
    }
    found.retain(|kind| !kind.is_empty());
    found
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = text.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

/// One container, one part of it killed at some moment of its life.
fn kill_once(home: &Home, random: &mut Random, round: usize) -> (String, Vec<String>, u128) {
    let marker = format!("1000.{}{round}", std::process::id());
    let id_file = home.path("kill-id");
    drop(fs::remove_file(&id_file));
    let mut command = home.command();
    command
        .args([
            "run",
            "--name",
            "victim",
            "-p",
            "127.0.0.1::80",
            "--cidfile",
        ])
        .arg(&id_file)
        .args(["bb:1", "sleep", &marker])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_micros(
        u64::try_from(random.below(120_000)).unwrap(),
    ));
    let parts = parts(home, &marker);
    let mut told = "nothing to kill".to_owned();
    if !parts.is_empty() {
        let kind = &parts[random.below(parts.len())];
        let victim = kind[random.below(kind.len())];
        told = command_line(victim);
        drop(
            Command::new("kill")
                .args(["-9", &victim.to_string()])
                .status(),
        );
    }
    std::thread::sleep(Duration::from_millis(
        u64::try_from(random.below(30)).unwrap(),
    ));
    let started = Instant::now();
    home.rrun(&["ps", "-a"]).ok();
    let port = home.rrun(&["port", "victim", "80"]).out;
    let removed = home.rrun(&["rm", "-f", "victim"]);
    let took = started.elapsed().as_millis();
    assert_eq!(removed.code, 0, "killed {told}: {removed:?}");
    wait_for(&mut child, &told);
    // A command that was killed early may not have got as far as its container; one that was not
    // may have made it after the removal.
    home.rrun(&["rm", "-f", "victim"]).ok();
    if let Some(address) = port.trim().lines().next().filter(|text| !text.is_empty()) {
        let free = TcpListener::bind(address);
        assert!(
            free.is_ok(),
            "killed {told}: {address} is not free: {free:?}"
        );
    }
    let id = fs::read_to_string(&id_file).unwrap_or_default();
    let ids = Vec::from_iter((!id.is_empty()).then_some(id));
    Census::of(home, &ids).clean(home, &marker, &format!("killed {told}"));
    (told, ids, took)
}

fn wait_for(child: &mut std::process::Child, told: &str) {
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(
            started.elapsed() < SETTLE_MAX,
            "killed {told}: the command hangs"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn any_part_may_be_killed_at_any_moment() {
    let kills = count("RRUN_KILLS", 10);
    for_all_users(|user, home| {
        let seed = u64::try_from(count("RRUN_SEED", 7)).unwrap();
        let mut random = Random(seed);
        let (mut longest, mut kinds) = (0, std::collections::BTreeMap::new());
        let before = figures();
        for round in 0..kills {
            let (told, _, took) = kill_once(home, &mut random, round);
            longest = longest.max(took);
            let words = ["__monitor", "__serve", "__ids", "__net", " run ", "sleep"];
            let kind = words.into_iter().find(|word| told.contains(word));
            *kinds.entry(kind.unwrap_or("nothing")).or_insert(0) += 1;
        }
        eprintln!(
            "{user}: {kills} kills {kinds:?}, ps, port and rm -f together at most {longest} ms\n  before: {before}\n  after:  {}",
            figures()
        );
    });
}
