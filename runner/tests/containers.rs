//! Containers on a plain directory, end to end, through the example `rrun_dir`.
//!
//! Needs root and a static busybox; every case runs as root and, dropped to `nobody`'s neighbour,
//! as a user without privileges.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stop at the first surprise, and say why they are skipped"
)]

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A user id without a name, so without ranges.
const USER: u32 = 54_321;
/// Longest any container of these tests may live.
const PATIENCE: Duration = Duration::from_secs(20);

const APPLETS: [&str; 18] = [
    "sh", "true", "false", "echo", "id", "cat", "ls", "mount", "sleep", "pwd", "kill", "chown",
    "stat", "touch", "mknod", "tty", "grep", "hostname",
];

struct Place {
    dir: tempfile::TempDir,
    user: u32,
}

impl Place {
    /// A busybox root for `user`; `None`, with the reason printed, where it cannot be used.
    fn new(user: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to become other users");
            return None;
        }
        if !Path::new("/bin/busybox").try_exists().unwrap() {
            eprintln!("skipped: needs /bin/busybox (busybox-static)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let place = Self { dir, user };
        std::fs::create_dir_all(place.path("root/bin")).unwrap();
        std::fs::create_dir(place.path("containers")).unwrap();
        std::fs::copy("/bin/busybox", place.path("root/bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", place.path("root/bin").join(applet)).unwrap();
        }
        std::fs::write(place.path("root/plain"), "x").unwrap();
        for name in ["", "root", "root/bin", "containers"] {
            chown(place.path(name), Some(user), Some(user)).unwrap();
        }
        // The build directory may be closed to others.
        let example = std::env::current_exe().unwrap();
        let example = example
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/rrun_dir");
        std::fs::copy(example, place.path("rrun_dir")).unwrap();
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, options: &[&str], argv: &[&str]) -> Command {
        let (uid, gid) = (
            format!("--reuid={}", self.user),
            format!("--regid={}", self.user),
        );
        let mut command = Command::new("setpriv");
        command
            .args([&uid, &gid, "--clear-groups"])
            .arg(self.path("rrun_dir"))
            .args(options)
            .arg(self.path("root"))
            .args(argv)
            .env("CONTAINERS", self.path("containers"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, options: &[&str], argv: &[&str]) -> (i32, String) {
        finish(self.command(options, argv).spawn().unwrap())
    }

    /// Starts a container that stays; its directory, once it runs.
    fn start(&self, argv: &[&str]) -> (Child, PathBuf) {
        let id = rrun_runner::names::random_id().unwrap();
        let child = self
            .command(&["--id", &id], argv)
            .env("KEEP", "1")
            .spawn()
            .unwrap();
        let dir = self.path("containers").join(id);
        let end = Instant::now() + PATIENCE;
        while rrun_runner::read_state(&dir)
            .map_or(true, |s| s.status != rrun_runner::Status::Running)
        {
            assert!(Instant::now() < end, "the container never ran");
            std::thread::sleep(Duration::from_millis(5));
        }
        (child, dir)
    }

    fn exec(&self, dir: &Path, argv: &[&str]) -> (i32, String) {
        let (uid, gid) = (
            format!("--reuid={}", self.user),
            format!("--regid={}", self.user),
        );
        let mut command = Command::new("setpriv");
        command
            .args([&uid, &gid, "--clear-groups"])
            .arg(self.path("rrun_dir"));
        command.args(["exec", "-"]).arg(dir).args(argv);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        finish(command.spawn().unwrap())
    }
}

fn finish(mut child: Child) -> (i32, String) {
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the command hangs");
        std::thread::sleep(Duration::from_millis(2));
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = [stdout, stderr].concat();
    (
        status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn places() -> Vec<Place> {
    [0, USER].into_iter().filter_map(Place::new).collect()
}

#[test]
fn exit_codes_are_dockers() {
    let cases: [(&[&str], &[&str], i32, &str); 10] = [
        (&[], &["true"], 0, ""),
        (&[], &["sh", "-c", "exit 7"], 7, ""),
        (
            &[],
            &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"],
            137,
            "Killed",
        ),
        (
            &[],
            &["nope"],
            127,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (&[], &["/bin/nope"], 127, "no such file or directory"),
        (&[], &["/plain"], 126, "exec: \"/plain\": permission denied"),
        (&[], &["/bin"], 126, "permission denied"),
        (&["-u", "eve"], &["true"], 126, "unable to find user eve"),
        (
            &["-w", "/plain"],
            &["true"],
            126,
            "the working directory /plain",
        ),
        (
            &["-v", "/does/not/exist:/x"],
            &["true"],
            125,
            "/does/not/exist",
        ),
    ];
    for place in places() {
        for (options, argv, code, text) in cases {
            let (seen, output) = place.run(options, argv);
            assert_eq!(seen, code, "{argv:?} as {}: {output}", place.user);
            assert!(
                output.contains(text),
                "{argv:?} as {}: {output}",
                place.user
            );
        }
    }
}

#[test]
fn a_container_sees_what_a_container_sees() {
    for place in places() {
        let inside = |script: &str| place.run(&[], &["sh", "-c", script]);
        let caps = inside("grep -E '^(CapInh|CapEff|CapBnd|Seccomp):' /proc/self/status");
        for line in [
            "CapInh:\t0000000000000000",
            "CapEff:\t00000000a80425fb",
            "Seccomp:\t2",
        ] {
            assert!(caps.1.contains(line), "{caps:?}");
        }
        let (_, fds) = inside("ls /proc/self/fd");
        assert_eq!(
            fds, "0\n1\n2\n3\n",
            "only the standard streams, and what ls itself opened"
        );
        assert_eq!(inside("hostname; id -u; echo $$").1, "box\n0\n1\n");
        assert_eq!(
            inside("echo x > /dev/null; cat /proc/kcore /proc/keys | ls -d /dev/shm").0,
            0
        );
        assert_ne!(inside("echo x > /proc/sys/kernel/hostname").0, 0);
        assert_ne!(inside("mount -t tmpfs none /bin").0, 0);
        assert_eq!(
            place.run(&["-w", "/made/here"], &["pwd"]),
            (0, "/made/here\n".to_owned())
        );
        assert_ne!(place.run(&["--ro"], &["touch", "/x"]).0, 0);
        let host_net = place.run(&["--host-net"], &["ls", "/sys/class/net"]);
        assert_eq!(host_net.0, 0, "{host_net:?}");
    }
}

#[test]
fn binds_reach_the_host_and_read_only_ones_do_not() {
    for place in places() {
        let shared = place.path("shared");
        std::fs::create_dir(&shared).unwrap();
        chown(&shared, Some(place.user), Some(place.user)).unwrap();
        let bind = format!("{}:/deep/er/data", shared.display());
        let script = "echo one > /deep/er/data/file";
        assert_eq!(place.run(&["-v", &bind], &["sh", "-c", script]).0, 0);
        assert_eq!(
            std::fs::read_to_string(shared.join("file")).unwrap(),
            "one\n"
        );
        let read_only = format!("{bind}:ro");
        assert_ne!(place.run(&["-v", &read_only], &["sh", "-c", script]).0, 0);
        let hidden = format!("{}:/proc/self", shared.display());
        assert_eq!(place.run(&["-v", &hidden], &["true"]).0, 125);
    }
}

#[test]
fn hostile_roots_are_refused_or_stay_inside() {
    for place in places() {
        let canary = place.path("canary");
        std::fs::create_dir(&canary).unwrap();
        chown(&canary, Some(place.user), Some(place.user)).unwrap();
        for name in ["dev", "proc", "sys"] {
            let link = place.path("root").join(name);
            // Made by the starts of the names before.
            let _absent = std::fs::remove_dir(&link);
            symlink(&canary, &link).unwrap();
            let (code, output) = place.run(&[], &["true"]);
            assert_eq!(code, 125, "/{name} is a link: {output}");
            assert!(
                output.contains(&format!("/{name} of the image")),
                "{output}"
            );
            std::fs::remove_file(link).unwrap();
        }
        symlink(&canary, place.path("root/out")).unwrap();
        let bind = format!("{}:/out/made", place.path("containers").display());
        let _inside_or_refused = place.run(&["-v", &bind], &["true"]);
        let _inside_or_refused = place.run(&["-w", "/out/made"], &["true"]);
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
        for fd in 3..20 {
            let cwd = format!("/proc/self/fd/{fd}");
            let (code, output) = place.run(&["-w", &cwd], &["pwd"]);
            assert_eq!(code, 126, "{cwd}: {output}");
        }
        std::fs::write(place.path("root/script"), "#!/proc/self/exe\n").unwrap();
        let script = place.path("root/script");
        std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
        symlink("/proc/self/exe", place.path("root/link")).unwrap();
        for name in ["/script", "/link"] {
            let (code, output) = place.run(&[], &[name]);
            assert_eq!(code, 126, "{name}: {output}");
            assert!(output.contains("magic link"), "{name}: {output}");
        }
    }
}

#[test]
fn owners_can_be_given_away_where_only_one_exists() {
    for place in places() {
        let script = "touch /f && chown 5:6 /f && mknod /n c 1 3; echo $?";
        let (code, output) = place.run(&["--squash"], &["sh", "-c", script]);
        assert_eq!((code, output.as_str()), (0, "0\n"), "as {}", place.user);
    }
}

#[test]
fn a_subordinate_range_gives_real_ids() {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let user = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        let owns = ranges
            .lines()
            .any(|range| range.split(':').next() == Some(name));
        (uid != 0 && owns).then(|| (name.to_owned(), uid))
    });
    let Some((name, uid)) = user else {
        eprintln!("skipped: no user other than root has a range in /etc/subuid");
        return;
    };
    let Some(place) = Place::new(uid) else { return };
    let run = |options: &[&str], argv: &[&str]| {
        finish(
            place
                .command(options, argv)
                .env("USER", &name)
                .spawn()
                .unwrap(),
        )
    };
    let script = "touch /f && chown 5:6 /f && stat -c %u:%g /f; grep Groups /proc/self/status";
    let (code, output) = run(&["--range"], &["sh", "-c", script]);
    assert_eq!(code, 0, "{output}");
    assert!(output.starts_with("5:6\n"), "{output}");
    let (_, output) = run(&["--range", "-u", "1000:1000"], &["id"]);
    assert_eq!(output, "uid=1000 gid=1000 groups=1000\n");
}

#[test]
fn exec_joins_and_stop_ends() {
    for place in places() {
        let script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done";
        let (child, dir) = place.start(&["sh", "-c", script]);
        let inner = "id -u; hostname; grep -E 'CapEff|Seccomp:' /proc/self/status; exit 4";
        let (code, output) = place.exec(&dir, &["sh", "-c", inner]);
        assert_eq!(code, 4, "{output}");
        assert_eq!(output, "0\nbox\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n");
        assert_eq!(place.exec(&dir, &["nope"]).0, 127);
        assert_eq!(place.exec(&dir, &["/plain"]).0, 126);
        let processes = rrun_runner::container::processes(&dir).unwrap();
        assert_eq!(
            processes.first(),
            Some(&rrun_runner::read_state(&dir).unwrap().pid)
        );
        rrun_runner::container::sync(&dir, &[]).unwrap();
        rrun_runner::container::stop(&dir, Duration::from_secs(10), None).unwrap();
        let (code, output) = finish(child);
        assert_eq!((code, output.as_str()), (9, "up\nbye\n"));
        let state = rrun_runner::read_state(&dir).unwrap();
        assert_eq!((state.exit_code, state.error.as_str()), (9, ""));
        let log = std::fs::read_to_string(dir.join("log.json")).unwrap();
        assert!(
            log.contains("{\"log\":\"bye\\n\",\"stream\":\"stdout\""),
            "{log}"
        );
        rrun_runner::container::remove(&dir, false).unwrap();
        assert!(!dir.try_exists().unwrap());
    }
}

#[test]
fn whoever_is_killed_the_state_tells_the_truth() {
    for place in places() {
        for victim in ["cli", "monitor", "init"] {
            let (mut child, dir) = place.start(&["sleep", "100"]);
            let state = rrun_runner::read_state(&dir).unwrap();
            let kill = |pid: i32| {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            };
            if victim == "cli" {
                child.kill().unwrap();
                child.wait().unwrap();
                let state = rrun_runner::read_state(&dir).unwrap();
                assert_eq!(state.status, rrun_runner::Status::Running);
                assert!(rrun_runner::container::remove(&dir, false).is_err());
                rrun_runner::container::remove(&dir, true).unwrap();
                assert!(!dir.try_exists().unwrap());
                continue;
            }
            kill(if victim == "monitor" {
                state.monitor_pid
            } else {
                state.pid
            });
            // 125: a monitor that had not come to tell that the container runs.
            let code = finish(child).0;
            let untold = code == 125 && victim == "monitor";
            assert!(code == 137 || untold, "{victim}: {code}");
            let after = rrun_runner::read_state(&dir).unwrap();
            assert_eq!(
                (after.status, after.exit_code),
                (rrun_runner::Status::Exited, 137)
            );
            rrun_runner::container::cleanup(&dir).unwrap();
            rrun_runner::container::cleanup(&dir).unwrap();
            let gone = std::fs::read_to_string(format!("/proc/{}/cmdline", state.pid));
            assert_eq!(gone.unwrap_or_default(), "", "{victim}: init lives on");
            rrun_runner::container::remove(&dir, false).unwrap();
        }
    }
}

#[test]
fn pause_stops_time_and_a_paused_container_can_be_removed() {
    let Some(place) = Place::new(0) else { return };
    let (child, dir) = place.start(&["sleep", "100"]);
    if let Err(error) = rrun_runner::container::pause(&dir) {
        eprintln!("skipped: {error}");
    } else {
        let status = || rrun_runner::read_state(&dir).unwrap().status;
        assert_eq!(status(), rrun_runner::Status::Paused);
        assert_eq!(place.exec(&dir, &["true"]).0, 125);
        rrun_runner::container::unpause(&dir).unwrap();
        assert_eq!(status(), rrun_runner::Status::Running);
        rrun_runner::container::pause(&dir).unwrap();
    }
    rrun_runner::container::remove(&dir, true).unwrap();
    assert_eq!(finish(child).0, 137);
}

#[test]
fn a_terminal_is_one_and_its_output_is_carried() {
    for place in places() {
        let script = "tty; test -t 0 && test -t 1 && echo yes; echo here > /dev/console";
        let (code, output) = place.run(&["-t"], &["sh", "-c", script]);
        assert_eq!(
            (code, output.as_str()),
            (0, "/dev/pts/0\r\nyes\r\nhere\r\n")
        );
    }
}

#[test]
fn a_server_that_dies_is_named_and_nothing_hangs() {
    for place in places() {
        for (server, said) in [
            ("echo the disk is gone >&2; exit 3", "the disk is gone"),
            ("kill -9 $$", "exit code 137"),
        ] {
            let began = Instant::now();
            let (code, output) = place.run(&["--server", server], &["true"]);
            assert_eq!(code, 125, "{output}");
            let text = format!("the file-system server failed: {said}");
            let no_device = output.contains("/dev/fuse");
            assert!(
                output.contains(&text) || no_device,
                "as {}: {output}",
                place.user
            );
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    }
}

#[test]
fn a_start_that_hangs_can_be_removed() {
    for place in places() {
        let id = rrun_runner::names::random_id().unwrap();
        let options = ["--id", &id, "--server", "exec sleep 1000"];
        let mut child = place
            .command(&options, &["true"])
            .env("KEEP", "1")
            .spawn()
            .unwrap();
        let dir = place.path("containers").join(id);
        let began = Instant::now();
        while rrun_runner::read_state(&dir).map_or(0, |state| state.server_pid) == 0 {
            assert!(began.elapsed() < PATIENCE, "the server never started");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(200));
        if child.try_wait().unwrap().is_some() {
            eprintln!("skipped: {}", finish(child).1);
            continue;
        }
        assert!(rrun_runner::container::remove(&dir, false).is_err());
        rrun_runner::container::remove(&dir, true).unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(finish(child).0, 125);
        assert!(!dir.try_exists().unwrap());
    }
}
