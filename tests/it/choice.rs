//! What users of podman type besides Docker's words, and what Docker does with its own that the
//! walk does not show.

use crate::support::archive::{DIR, FILE, Layer, Meta};
use crate::support::{Home, User, can_run, for_all_users, home_with_busybox, is_root, skip};

fn run(home: &Home, name: &str, more: &[&str]) -> String {
    let words = [&["run", "-d", "--name", name][..], more].concat();
    home.rrun(&words).ok().trim().to_owned()
}

#[test]
fn containers_are_chosen_by_what_they_have_in_common() {
    for_all_users(|user, home| {
        let up = run(home, "up", &["bb:1", "sleep", "1000"]);
        let ended = run(home, "ended", &["--restart", "on-failure", "bb:1", "true"]);
        home.rrun(&["wait", "ended"]).ok();
        let names = home.rrun(&["ps", "-a", "--sort", "names", "--format", "{{.Names}}"]);
        assert_eq!(names.ok(), "ended\nup\n", "{user}");
        let bare = home.rrun(&["ps", "--noheading"]).ok();
        assert_eq!(bare.lines().count(), 1, "{user}: {bare}");
        home.rrun(&["ps", "--sort", "colour"])
            .fails(125, "invalid option for --sort");
        for (filter, expected) in [
            ("restart-policy=on-failure", &*ended),
            ("exited=0", &*ended),
            ("restart-policy=always", ""),
        ] {
            let started = home.rrun(&["start", "--all", "--filter", filter]).ok();
            assert_eq!(started.trim(), expected, "{user}: {filter}");
            home.rrun(&["wait", "ended"]).ok();
        }
        home.rrun(&["start", "--filter", "restart-policy=x", "up"])
            .fails(125, "x invalid restart policy");
        home.rrun(&["start", "--all", "up"])
            .fails(125, "either start all containers");
        home.rrun(&["stop"])
            .fails(1, "requires at least 1 argument");
        assert_eq!(home.rrun(&["stop", "--ignore", "nobody"]).ok(), "");
        home.rrun(&["stop", "nobody"]).fails(1, "nobody");
        let file = home.write("id", up.as_bytes());
        let killed = home.rrun(&["kill", "--cidfile", file.to_str().unwrap()]);
        assert_eq!(killed.ok().trim(), up, "{user}");
        // It has ended: what is started next is not what still ends.
        let status = ["inspect", "-f", "{{.State.Status}}", "up"];
        assert_eq!(home.rrun(&status).ok(), "exited\n", "{user}");
        home.rrun(&["start", "up"]).ok();
        assert_eq!(home.rrun(&["kill", "--all"]).ok().trim(), up, "{user}");
        assert_eq!(home.rrun(&status).ok(), "exited\n", "{user}");
        home.rrun(&["start", "up"]).ok();
        let stopped = home.rrun(&["stop", "--all", "-t", "0"]).ok();
        assert_eq!(stopped.trim(), up, "{user}");
        assert_eq!(home.rrun(&["stop", "--all"]).ok(), "", "{user}");
        home.rrun(&["start", "up"]).ok();
        let removed = home.rrun(&["rm", "-af", "-t", "0"]).ok();
        assert_eq!(removed.lines().count(), 2, "{user}: {removed}");
        assert_eq!(home.rrun(&["rm", "--all"]).ok(), "", "{user}");
        let missing = home.rrun(&["rm", "-f", "nobody"]);
        assert_eq!(missing.out, "", "{user}");
        assert!(missing.err.contains("nobody"), "{user}: {missing:?}");
        assert_eq!(missing.code, 0, "{user}");
    });
}

#[test]
fn containers_go_with_those_that_need_them() {
    for_all_users(|user, home| {
        home.rrun(&["create", "--name", "net", "bb:1", "true"]).ok();
        home.rrun(&[
            "create",
            "--name",
            "user",
            "--network",
            "container:net",
            "bb:1",
            "true",
        ])
        .ok();
        home.rrun(&["rm", "--depend", "net"]).ok();
        assert_eq!(home.rrun(&["ps", "-aq"]).ok(), "", "{user}");
    });
}

#[test]
fn whether_a_thing_exists_is_told_by_the_exit_code() {
    for_all_users(|user, home| {
        home.rrun(&["create", "--name", "cc", "bb:1", "true"]).ok();
        home.rrun(&["volume", "create", "vv"]).ok();
        for (object, name) in [("container", "cc"), ("image", "bb:1"), ("volume", "vv")] {
            let there = home.rrun(&[object, "exists", name]);
            assert_eq!(
                (there.code, there.out.as_str()),
                (0, ""),
                "{user}: {object}"
            );
            let not = home.rrun(&[object, "exists", "nope"]);
            assert_eq!((not.code, not.out.as_str()), (1, ""), "{user}: {object}");
        }
    });
}

#[test]
fn logs_of_several_containers_are_told_apart() {
    for_all_users(|user, home| {
        let logged = |name: &str, text: &str| {
            let mut looks = 0;
            while home.rrun(&["logs", name]).ok() != text {
                looks += 1;
                assert!(looks < 200, "{user}: {name} logs no {text:?}");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        };
        let script = "echo one; until [ -e /go ]; do sleep 0.05; done; echo three";
        let a = run(home, "ca", &["bb:1", "sh", "-c", script]);
        logged("ca", "one\n");
        let b = run(home, "cb", &["bb:1", "echo", "two"]);
        logged("cb", "two\n");
        home.rrun(&["exec", "ca", "touch", "/go"]).ok();
        let followed = home.rrun(&["logs", "-f", "ca", "cb"]).ok();
        let (a, b) = (&a[..12], &b[..12]);
        assert_eq!(followed, format!("{a} one\n{b} two\n{a} three\n"), "{user}");
        let whole = home.rrun(&["logs", "cb", "ca"]).ok();
        assert_eq!(whole, followed, "{user}: by time, not by container");
        let last = home.rrun(&["logs", "--tail", "1", "ca", "cb"]).ok();
        assert_eq!(last, format!("{b} two\n{a} three\n"), "{user}");
        let named = home.rrun(&["logs", "--names", "cb"]).ok();
        assert_eq!(named, "cb two\n", "{user}");
    });
}

#[test]
fn an_image_keeps_living_without_its_names() {
    let home = match can_run().and_then(|()| home_with_busybox(User::Caller)) {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let id = home.rrun(&["inspect", "-f", "{{.Id}}", "bb:1"]).ok();
    let id = id.trim();
    home.rrun(&["tag", "bb:1", "other:1"]).ok();
    home.rrun(&["untag", "bb:1", "nope:1"]).fails(1, "nope:1");
    home.rrun(&["untag", "bb:1", "other:1"]).ok();
    assert_eq!(home.rrun(&["image", "exists", "other:1"]).code, 1);
    home.rrun(&["untag", "bb:1"]).ok();
    assert_eq!(
        home.rrun(&["run", "--rm", id, "echo", "here"]).ok(),
        "here\n"
    );
    home.rrun(&["tag", id, "bb:1"]).ok();
    assert_eq!(home.rrun(&["image", "exists", "bb:1"]).code, 0);
}

#[test]
fn only_the_streams_asked_for_are_attached() {
    for_all_users(|user, home| {
        let script = ["bb:1", "sh", "-c", "echo out; echo err >&2"];
        let ran = |streams: &[&str]| {
            let words = [&["run", "--name", "st"][..], streams, &script].concat();
            let ran = home.rrun(&words);
            let id = home.rrun(&["inspect", "-f", "{{.Id}}", "st"]).ok();
            home.rrun(&["rm", "st"]).ok();
            (ran.out.replace(id.trim(), "ID"), ran.err)
        };
        let text = |out: &str, err: &str| (out.to_owned(), err.to_owned());
        assert_eq!(ran(&["-a", "stdout"]), text("out\n", ""), "{user}");
        assert_eq!(ran(&["-a", "stderr"]), text("", "err\n"), "{user}");
        assert_eq!(ran(&["-a", "stdin"]), text("ID\n", ""), "{user}");
        let both = ["-a", "stdout", "-a", "STDERR"];
        assert_eq!(ran(&both), text("out\n", "err\n"), "{user}");
    });
}

#[test]
fn of_an_option_given_twice_the_last_counts() {
    for_all_users(|user, home| {
        let words = [
            "run",
            "--rm",
            "--hostname",
            "a",
            "--hostname",
            "b",
            "bb:1",
            "hostname",
        ];
        assert_eq!(home.rrun(&words).ok(), "b\n", "{user}");
    });
}

#[test]
fn the_root_is_the_images_with_what_docker_adds() {
    for_all_users(|user, home| {
        let listed = "stat -c %a /; readlink /etc/mtab; ls -A / | head -1";
        let base = home.rrun(&["run", "--rm", "bb:1", "sh", "-c", listed]).ok();
        assert_eq!(base, "755\n/proc/mounts\n.dockerenv\n", "{user}");
        let Ok(busybox) = std::fs::read("/bin/busybox") else {
            return skip("there is no /bin/busybox to make an image of");
        };
        let strict = Meta { mode: 0o555, ..DIR };
        let layer = Layer::new().dir("./", strict).dir("bin/", DIR);
        let program = Meta {
            mode: 0o755,
            ..FILE
        };
        let tar = home.write("strict.tar", &layer.file("bin/sh", &busybox, program).tar());
        home.rrun(&["import", tar.to_str().unwrap(), "strict:1"])
            .ok();
        let words = [
            "run",
            "--name",
            "st",
            "strict:1",
            "sh",
            "-c",
            "stat -c %a /; touch /x",
        ];
        assert_eq!(home.rrun(&words).out, "555\n", "{user}");
        assert_eq!(home.rrun(&["diff", "st"]).ok(), "A /x\n", "{user}");
    });
}

#[test]
fn a_privileged_container_has_the_devices_of_the_host() {
    if !is_root() {
        return skip("only root may make devices");
    }
    let home = match can_run().and_then(|()| home_with_busybox(User::Caller)) {
        Ok(home) => home,
        Err(why) => return skip(&why),
    };
    let list = "cd /dev; ls -d mem loop-control full kmsg 2>/dev/null";
    let seen = home.rrun(&["run", "--rm", "--privileged", "bb:1", "sh", "-c", list]);
    for name in ["full", "kmsg", "loop-control", "mem"] {
        let there = std::path::Path::new("/dev")
            .join(name)
            .try_exists()
            .unwrap();
        assert_eq!(
            seen.out.lines().any(|line| line == name),
            there,
            "{name}: {seen:?}"
        );
    }
    let plain = home.rrun(&["run", "--rm", "bb:1", "sh", "-c", list]);
    assert_eq!(plain.out, "full\n");
}

#[test]
fn a_signal_for_the_stop_is_sent_in_place_of_the_usual_one() {
    const TRAPS: &str = "trap 'sleep 1; exit 3' USR1; trap 'exit 4' TERM; echo up
while :; do sleep 0.1; done";
    for_all_users(|user, home| {
        run(home, "traps", &["bb:1", "sh", "-c", TRAPS]);
        let up = || home.rrun(&["logs", "traps"]).ok() == "up\n";
        while !up() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let bad = ["stop", "-s", "SIGNOPE", "traps"];
        home.rrun(&bad).fails(1, "invalid signal: SIGNOPE");
        home.rrun(&["stop", "--signal", "USR1", "-t", "30", "traps"])
            .ok();
        assert_eq!(home.rrun(&["wait", "traps"]).ok(), "3\n", "{user}");
        home.rrun(&["start", "traps"]).ok();
        let stopped = home.rrun(&["stop", "-s", "WINCH", "-t", "1", "traps"]);
        assert!(stopped.err.contains("StopSignal WINCH failed"), "{user}");
        assert_eq!(home.rrun(&["wait", "traps"]).ok(), "137\n", "{user}");
        home.rrun(&["rm", "traps"]).ok();
    });
}
