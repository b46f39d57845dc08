//! Every option of Docker's `run`: it has an effect that is seen, or it is accepted because there
//! is nothing to do, or it is refused with what to do instead. None is silently ignored.

use std::collections::BTreeSet;

use crate::support::{Home, for_all_users};
use crate::walk::inspect;

/// What becomes of an option.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// A script in the container prints this.
    Prints(&'static str, &'static str),
    /// `inspect` shows this by a template.
    Shows(&'static str, &'static str),
    /// Nothing has to be done for it.
    Accepted,
    /// Exit code 125, and these words.
    Refused(&'static str),
    /// Seen by a test elsewhere: file, function.
    Seen(&'static str, &'static str),
}

use Fate::{Accepted, Prints, Refused, Seen, Shows};

const LIMITS: &str = include_str!("walk_limits.rs");
const OPTIONS: &str = include_str!("walk_options.rs");
const SPACES: &str = include_str!("walk_spaces.rs");
const VOLUMES: &str = include_str!("walk_volumes.rs");
const NETWORK: &str = include_str!("network.rs");
const TERMINAL: &str = include_str!("terminal.rs");
const WALK: &str = include_str!("walk.rs");
const LIMITED: &str = "limits_are_enforced_or_named_in_one_warning";
const JOINED: &str = "namespaces_of_another_container_are_joined";

type Row = (&'static str, &'static [&'static str], Fate);

/// Source: docker/cli 28, `docker run --help`, hidden ones included.
fn rows() -> Vec<Row> {
    [OF_PROCESS, OF_LIMITS, OF_NETWORK, OF_LIFE, OF_PLACES].concat()
}

const OF_PROCESS: &[Row] = &[
    (
        "cap-add",
        &["SYS_TIME"],
        Prints("grep -c 'CapBnd:.*2' /proc/self/status", "1\n"),
    ),
    (
        "cap-drop",
        &["ALL"],
        Prints(
            "grep CapEff /proc/self/status | cut -f2",
            "0000000000000000\n",
        ),
    ),
    (
        "cgroupns",
        &["host"],
        Seen(
            SPACES,
            "namespaces_are_the_hosts_or_none_where_that_is_asked_for",
        ),
    ),
    (
        "detach",
        &[],
        Seen(WALK, "containers_are_listed_as_docker_lists_them"),
    ),
    (
        "detach-keys",
        &["ctrl-a"],
        Seen(TERMINAL, "keys_detach_from_each_command_that_attaches"),
    ),
    ("disable-content-trust", &[], Accepted),
    (
        "domainname",
        &["example.org"],
        Shows("{{.Config.Domainname}}", "example.org"),
    ),
    ("entrypoint", &["echo"], Prints("x", "-c x\n")),
    ("env", &["A=1"], Prints("echo $A", "1\n")),
    (
        "env-file",
        &["/dev/null"],
        Seen(OPTIONS, "files_of_options_are_read_and_written"),
    ),
    ("gpus", &["all"], Refused("could not select device driver")),
    (
        "group-add",
        &["77"],
        Seen(SPACES, "groups_are_added_where_they_exist"),
    ),
    (
        "help",
        &[],
        Seen(SPACES, "groups_are_added_where_they_exist"),
    ),
    ("hostname", &["box"], Prints("hostname", "box\n")),
    (
        "init",
        &[],
        Prints("test $$ -gt 1 && echo child", "child\n"),
    ),
    ("interactive", &[], Shows("{{.Config.OpenStdin}}", "true")),
    ("ipc", &["none"], Seen(SPACES, JOINED)),
    (
        "isolation",
        &["hyperv"],
        Refused("only \"default\" is available"),
    ),
    (
        "no-healthcheck",
        &[],
        Shows("{{.Config.Healthcheck.Test}}", "[NONE]"),
    ),
    (
        "oom-score-adj",
        &["500"],
        Prints("cat /proc/self/oom_score_adj", "500\n"),
    ),
    ("pid", &["host"], Seen(SPACES, JOINED)),
    (
        "platform",
        &["linux/frob"],
        Seen(SPACES, "a_platform_is_looked_for"),
    ),
    (
        "privileged",
        &[],
        Shows("{{.HostConfig.Privileged}}", "true"),
    ),
    ("quiet", &[], Accepted),
    (
        "runtime",
        &["kata"],
        Refused("unknown or invalid runtime name"),
    ),
    (
        "security-opt",
        &["frob=1"],
        Refused("invalid --security-opt"),
    ),
    (
        "sysctl",
        &["kernel.shmmni=99"],
        Prints("cat /proc/sys/kernel/shmmni", "99\n"),
    ),
    ("tty", &[], Prints("test -t 1 && echo tty", "tty\r\n")),
    ("ulimit", &["nofile=55:66"], Prints("ulimit -n", "55\n")),
    ("use-api-socket", &[], Refused("there is no daemon")),
    ("user", &["0:0"], Prints("id -u", "0\n")),
    ("userns", &["host"], Prints("id -u", "0\n")),
    (
        "uts",
        &["host"],
        Seen(OPTIONS, "namespaces_of_the_host_are_shared_when_asked_for"),
    ),
    ("workdir", &["/made/here"], Prints("pwd", "/made/here\n")),
];

const OF_LIMITS: &[Row] = &[
    (
        "blkio-weight",
        &["300"],
        Shows("{{.HostConfig.BlkioWeight}}", "300"),
    ),
    (
        "blkio-weight-device",
        &["/dev/null:5"],
        Refused("invalid weight for device"),
    ),
    (
        "cgroup-parent",
        &["/it-rrun"],
        Shows("{{.HostConfig.CgroupParent}}", "/it-rrun"),
    ),
    ("cpu-count", &["2"], Accepted),
    ("cpu-percent", &["2"], Accepted),
    ("cpu-period", &["50000"], Seen(LIMITS, LIMITED)),
    ("cpu-quota", &["50000"], Seen(LIMITS, LIMITED)),
    (
        "cpu-rt-period",
        &["10000"],
        Shows("{{.HostConfig.CpuRealtimePeriod}}", "10000"),
    ),
    (
        "cpu-rt-runtime",
        &["1000"],
        Shows("{{.HostConfig.CpuRealtimeRuntime}}", "1000"),
    ),
    ("cpu-shares", &["512"], Seen(LIMITS, LIMITED)),
    (
        "cpus",
        &["0.5"],
        Shows("{{.HostConfig.NanoCpus}}", "500000000"),
    ),
    ("cpuset-cpus", &["0"], Seen(LIMITS, LIMITED)),
    ("cpuset-mems", &["0"], Seen(LIMITS, LIMITED)),
    (
        "device",
        &["/dev/zero:/dev/mine"],
        Prints("head -c 2 /dev/mine | wc -c", "2\n"),
    ),
    (
        "device-cgroup-rule",
        &["c 1:3 r"],
        Seen(SPACES, "devices_of_the_host_stay_out_of_reach"),
    ),
    ("device-read-bps", &["/dev/null"], Refused("bad format")),
    (
        "device-read-iops",
        &["/dev/null:x"],
        Refused("invalid rate for device"),
    ),
    (
        "device-write-bps",
        &["null:1"],
        Refused("bad format for device path"),
    ),
    (
        "device-write-iops",
        &["/dev/null:-1"],
        Refused("invalid rate for device"),
    ),
    ("io-maxbandwidth", &["1m"], Accepted),
    ("io-maxiops", &["5"], Accepted),
    ("kernel-memory", &["64m"], Accepted),
    ("memory", &["64m"], Seen(LIMITS, LIMITED)),
    ("memory-reservation", &["64m"], Seen(LIMITS, LIMITED)),
    (
        "memory-swap",
        &["64m"],
        Refused("You should always set the Memory limit"),
    ),
    ("memory-swappiness", &["5"], Seen(LIMITS, LIMITED)),
    (
        "oom-kill-disable",
        &[],
        Shows("{{.HostConfig.OomKillDisable}}", "true"),
    ),
    ("pids-limit", &["50"], Seen(LIMITS, LIMITED)),
    (
        "shm-size",
        &["1m"],
        Prints("df -k /dev/shm | tail -1 | grep -c ' 1024 '", "1\n"),
    ),
];

const OF_NETWORK: &[Row] = &[
    (
        "add-host",
        &["db:10.0.0.9"],
        Prints("grep -c 10.0.0.9 /etc/hosts", "1\n"),
    ),
    (
        "dns",
        &["9.9.9.9"],
        Prints("grep -c 9.9.9.9 /etc/resolv.conf", "1\n"),
    ),
    (
        "dns-opt",
        &["ndots:3"],
        Prints("grep -c ndots:3 /etc/resolv.conf", "1\n"),
    ),
    (
        "dns-option",
        &["ndots:3"],
        Prints("grep -c ndots:3 /etc/resolv.conf", "1\n"),
    ),
    (
        "dns-search",
        &["ex.org"],
        Prints("grep -c ex.org /etc/resolv.conf", "1\n"),
    ),
    (
        "expose",
        &["99"],
        Shows("{{json .Config.ExposedPorts}}", "{\"99/tcp\":{}}"),
    ),
    (
        "ip",
        &["10.0.0.5"],
        Refused("supported on user defined networks only"),
    ),
    (
        "ip6",
        &["fd00::5"],
        Refused("supported on user defined networks only"),
    ),
    ("link", &["other:db"], Refused("--link is not available")),
    (
        "link-local-ip",
        &["169.254.0.5"],
        Refused("supported on user defined networks only"),
    ),
    ("mac-address", &["frob"], Refused("--mac-address")),
    (
        "net",
        &["none"],
        Shows("{{.HostConfig.NetworkMode}}", "none"),
    ),
    ("net-alias", &["x"], Refused("network-scoped alias")),
    ("network", &["frob"], Refused("network frob not found")),
    ("network-alias", &["x"], Refused("network-scoped alias")),
    ("publish", &["8080:80"], Seen(NETWORK, "published")),
    ("publish-all", &[], Seen(NETWORK, "publish")),
];

const OF_LIFE: &[Row] = &[
    (
        "annotation",
        &["a=b"],
        Shows("{{.HostConfig.Annotations.a}}", "b"),
    ),
    (
        "attach",
        &["frob"],
        Refused("valid streams are STDIN, STDOUT and STDERR"),
    ),
    (
        "cidfile",
        &["/dev/null"],
        Refused("container ID file found"),
    ),
    (
        "health-cmd",
        &["true"],
        Shows("{{index .Config.Healthcheck.Test 1}}", "true"),
    ),
    ("health-interval", &["frob"], Refused("invalid duration")),
    ("health-retries", &["frob"], Refused("invalid argument")),
    (
        "health-start-interval",
        &["frob"],
        Refused("invalid duration"),
    ),
    (
        "health-start-period",
        &["frob"],
        Refused("invalid duration"),
    ),
    ("health-timeout", &["frob"], Refused("invalid duration")),
    ("label", &["k=v"], Shows("{{.Config.Labels.k}}", "v")),
    ("label-file", &["/nope"], Refused("/nope")),
    (
        "log-driver",
        &["splunk"],
        Refused("no log driver named 'splunk'"),
    ),
    ("log-opt", &["frob=1"], Refused("unknown log opt")),
    ("name", &["-bad-"], Refused("name")),
    ("pull", &["frob"], Refused("invalid pull option")),
    ("restart", &["frob"], Refused("invalid restart policy")),
    ("rm", &[], Shows("{{.HostConfig.AutoRemove}}", "true")),
    (
        "sig-proxy",
        &[],
        Seen(
            TERMINAL,
            "signals_reach_the_container_and_its_code_comes_back",
        ),
    ),
    (
        "stop-signal",
        &["SIGUSR1"],
        Shows("{{.Config.StopSignal}}", "SIGUSR1"),
    ),
    (
        "stop-timeout",
        &["7"],
        Shows("{{.Config.StopTimeout}}", "7"),
    ),
];

const OF_PLACES: &[Row] = &[
    (
        "mount",
        &["type=frob,dst=/x"],
        Refused("mount type unknown"),
    ),
    (
        "read-only",
        &[],
        Prints("touch /x 2>/dev/null || echo refused", "refused\n"),
    ),
    (
        "storage-opt",
        &["size=1g"],
        Refused("--storage-opt is not available"),
    ),
    (
        "tmpfs",
        &["/t:size=1m"],
        Prints("df -k /t | tail -1 | grep -c ' 1024 '", "1\n"),
    ),
    ("volume", &["a/b:/c"], Refused("volume name")),
    (
        "volume-driver",
        &["nfs"],
        Refused("plugin \"nfs\" not found"),
    ),
    ("volumes-from", &["nope"], Refused("no such container")),
    (
        "volumes-from",
        &["x"],
        Seen(VOLUMES, "volumes_are_made_filled_kept_and_removed"),
    ),
];

/// Options of our own, and of podman's users.
const OWN: [&str; 10] = [
    "conmon-pidfile",
    "dry-run",
    "fs-mode",
    "pidfile",
    "preserve-fds",
    "rootfs",
    "systemd",
    "timeout",
    "unsetenv",
    "unsetenv-all",
];

#[test]
fn the_table_has_every_option_there_is() {
    let home = Home::new();
    let help = home.rrun(&["run", "--help"]).ok();
    let known: BTreeSet<&str> = rows().iter().map(|(name, ..)| *name).chain(OWN).collect();
    let words = help
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--"));
    let listed: BTreeSet<&str> = words
        .map(|word| word.trim_end_matches(|letter: char| !letter.is_ascii_lowercase()))
        .map(|word| word.split(['=', '[', '.']).next().unwrap_or_default())
        .filter(|word| !word.is_empty())
        .collect();
    let unknown: Vec<&&str> = listed
        .iter()
        .filter(|word| !known.contains(**word) && help.contains(&format!("      --{word}")))
        .collect();
    assert!(
        unknown.is_empty(),
        "options that no row of the table is about: {unknown:?}"
    );
    for (name, _, fate) in rows() {
        if let Seen(file, function) = fate {
            assert!(file.contains(function), "--{name}: no test {function}");
        }
    }
}

fn walk(who: &str, home: &Home, (name, values, fate): Row) {
    let option = format!("--{name}");
    let mut words = vec![option.as_str()];
    words.extend(values);
    match fate {
        Prints(script, expected) => {
            let run = [
                &["run", "--rm", "--network", "none"][..],
                &words,
                &["bb:1", "sh", "-c", script],
            ];
            let mut run = run.concat();
            if name == "entrypoint" {
                run.remove(run.len() - 3);
            }
            let ran = home.rrun(&run);
            assert_eq!(ran.out, expected, "{who} {words:?}: {ran:?}");
        }
        Shows(format, expected) => {
            let create = [
                &["create", "--name", "shown"][..],
                &words,
                &["bb:1", "true"],
            ];
            home.rrun(&create.concat()).ok();
            assert_eq!(inspect(home, format, "shown"), expected, "{who} {words:?}");
            home.rrun(&["rm", "shown"]).ok();
        }
        Accepted => {
            let run = [
                &["run", "--rm", "--network", "none"][..],
                &words,
                &["bb:1", "true"],
            ];
            let ran = home.rrun(&run.concat());
            assert_eq!(ran.code, 0, "{who} {words:?}: {ran:?}");
        }
        Refused(says) => {
            let create = [&["create"][..], &words, &["bb:1", "true"]].concat();
            let ran = home.rrun(&create);
            assert_eq!(ran.code, 125, "{who} {words:?}: {ran:?}");
            assert!(ran.err.contains(says), "{who} {words:?}: {ran:?}");
        }
        Seen(..) => {}
    }
}

#[test]
fn every_option_of_docker_s_has_its_fate() {
    for_all_users(|who, home| {
        for row in rows() {
            walk(who, home, row);
        }
        let left = home.rrun(&["ps", "-aq"]).ok();
        assert_eq!(left, "", "{who}: what was refused left something");
        // Go's switches take values, and the last of an option counts.
        let switches = ["run", "--rm=true", "--init=false", "--network=none", "-i=1"];
        let name = ["--hostname", "a", "--hostname", "b", "bb:1", "hostname"];
        let ran = home.rrun(&[&switches[..], &name].concat());
        assert_eq!(ran.out, "b\n", "{who}: {ran:?}");
        home.rrun(&["run", "--rm=maybe", "bb:1", "true"])
            .fails(125, "strconv.ParseBool");
        home.rrun(&["run", "-d", "-a", "stdout", "bb:1", "true"])
            .fails(125, "cannot specify both --attach and --detach");
    });
}
