//! The part of the walk through Docker's courses that is about volumes.

use crate::support::{Home, for_all_users};
use crate::walk::{inspect, sleeper};

#[test]
fn volumes_are_made_filled_kept_and_removed() {
    for_all_users(|who, home| {
        let run = |words: &[&str]| {
            let words = [&["run", "--rm", "--network", "none"][..], words].concat();
            home.rrun(&words).ok()
        };
        let volumes = || home.rrun(&["volume", "ls", "-q"]).ok();
        assert_eq!(
            home.rrun(&["volume", "create", "--name", "vol1"]).ok(),
            "vol1\n"
        );
        let listed = home.rrun(&["volume", "ls"]).ok();
        assert_eq!(listed, "DRIVER    VOLUME NAME\nlocal     vol1\n", "{who}");
        // What the image has there is copied once, with its modes.
        let seen = run(&[
            "-v",
            "vol1:/etc",
            "bb:1",
            "sh",
            "-c",
            "ls /etc/passwd; echo x >/etc/mine",
        ]);
        assert_eq!(seen, "/etc/passwd\n", "{who}");
        assert_eq!(
            run(&["-v", "vol1:/v", "bb:1", "cat", "/v/mine"]),
            "x\n",
            "{who}"
        );
        assert_eq!(
            run(&["-v", "new:/etc:nocopy", "bb:1", "ls", "-A", "/etc"]),
            "hostname
hosts
resolv.conf
"
        );
        // Those without a name go with --rm, and with rm -v.
        run(&["-v", "/anon", "bb:1", "touch", "/anon/f"]);
        assert_eq!(volumes(), "new\nvol1\n", "{who}");
        sleeper(home, "keeper", &["-v", "/anon", "-v", "vol1://www/html:ro"]);
        assert_eq!(volumes().lines().count(), 3, "{who}");
        let points = inspect(
            home,
            "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}};{{end}}",
            "keeper",
        );
        assert_eq!(points, "volume /anon true;volume /www/html false;", "{who}");
        home.rrun(&["exec", "keeper", "touch", "/www/html/x"])
            .fails(1, "Read-only");
        home.rrun(&["volume", "rm", "vol1"])
            .fails(1, "volume is in use - [");
        let others = run(&["--volumes-from", "keeper", "bb:1", "ls", "/www/html/mine"]);
        assert_eq!(others, "/www/html/mine\n", "{who}");
        home.rrun(&["rm", "-f", "-v", "keeper"]).ok();
        assert_eq!(volumes(), "new\nvol1\n", "{who}");
        removed_volumes(who, home);
    });
}

/// A database takes its volume for itself: another id, no permission for others, or none at all.
#[test]
fn a_volume_that_its_owner_may_not_list_is_used_again() {
    for_all_users(|who, home| {
        let run = |volume: &str, script: &str| {
            let words = ["run", "--rm", "--network", "none", "-v", volume, "bb:1"];
            home.rrun(&[&words[..], &["sh", "-c", script]].concat())
                .ok()
        };
        run("own:/etc", "true");
        // An ordinary user without a range has no other id to give it to.
        run(
            "own:/v",
            "rm /v/passwd; echo x >/v/mine; chown 101:101 /v 2>/dev/null; chmod 700 /v",
        );
        let seen = "cat /etc/mine; test -e /etc/passwd || echo not filled again";
        assert_eq!(run("own:/etc", seen), "x\nnot filled again\n", "{who}");
        run("own:/v", "chmod 0 /v");
        assert_eq!(run("own:/etc", seen), "x\nnot filled again\n", "{who}");
        run("own:/v", "rm -r /v/*; chmod 0 /v");
        let refilled = run("own:/etc", "ls -d /etc/passwd");
        assert_eq!(refilled, "/etc/passwd\n", "{who}");
        run(
            "own:/v",
            "mkdir -p /v/a/b; chmod 0 /v/a/b; chmod 0 /v/a; chmod 0 /v",
        );
        assert_eq!(home.rrun(&["volume", "rm", "own"]).ok(), "own\n", "{who}");
        assert_eq!(home.rrun(&["volume", "ls", "-q"]).ok(), "", "{who}");
    });
}

fn removed_volumes(who: &str, home: &Home) {
    assert_eq!(home.rrun(&["volume", "rm", "vol1"]).ok(), "vol1\n", "{who}");
    home.rrun(&["volume", "rm", "vol1"])
        .fails(1, "no such volume");
    let pruned = home.rrun(&["volume", "prune", "-af"]).ok();
    assert!(
        pruned.starts_with("Deleted Volumes:\nnew\n\n"),
        "{who}: {pruned}"
    );
    let labelled = ["volume", "create", "--label", "a=b", "l1"];
    home.rrun(&labelled).ok();
    let shown = home.rrun(&[
        "volume",
        "inspect",
        "-f",
        "{{.Name}} {{.Labels}} {{.Driver}}",
        "l1",
    ]);
    assert_eq!(shown.ok(), "l1 map[a:b] local\n", "{who}");
    assert_eq!(
        home.rrun(&["volume", "ls", "-qf", "label=a=b"]).ok(),
        "l1\n",
        "{who}"
    );
}

#[test]
fn a_volume_over_a_link_of_the_image_stays_inside() {
    for_all_users(|who, home| {
        let secret = home.write("secret", b"host");
        let dir = secret.parent().unwrap().display().to_string();
        let script = format!("ln -s {dir} /trap; ln -s /etc /in");
        home.rrun(&[
            "run",
            "--network",
            "none",
            "--name",
            "m1",
            "bb:1",
            "sh",
            "-c",
            &script,
        ])
        .ok();
        home.rrun(&["commit", "m1", "trap:1"]).ok();
        let list = |place: &str| {
            let volume = format!("{place}:/{place}");
            let words = ["run", "--rm", "--network", "none", "-v", &volume, "trap:1"];
            home.rrun(&[&words[..], &["ls", &format!("/{place}/")]].concat())
                .out
        };
        assert!(!list("trap").contains("secret"), "{who}");
        assert!(list("in").contains("passwd"), "{who}");
    });
}
