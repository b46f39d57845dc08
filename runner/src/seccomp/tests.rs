//! Filters evaluated instruction by instruction.

use super::bpf::{ARCH, Action};
use super::calls::CALLS;
use super::{
    Filter, Mapped, PROGRAM_MAX, SeccompError, caps, default_filter, profile_filter, single_filter,
    squash_filter,
};

/// Podman's default set plus docker's three: what an ordinary container has.
const ORDINARY: u64 = 0xa804_25fb;

/// Runs a filter on a call the way the kernel does.
fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    for arg in args {
        data.extend(arg.to_le_bytes());
    }
    let (mut pc, mut acc) = (0, 0_u32);
    loop {
        let insn = &filter.code()[pc];
        pc += 1;
        let taken = match insn.code {
            0x20 => {
                let at = insn.k as usize;
                acc = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                continue;
            }
            0x54 => {
                acc &= insn.k;
                continue;
            }
            0x05 => {
                pc += insn.k as usize;
                continue;
            }
            0x06 => return insn.k,
            0x15 => acc == insn.k,
            0x25 => acc > insn.k,
            0x35 => acc >= insn.k,
            code => panic!("unknown instruction {code:#x}"),
        };
        pc += usize::from(if taken { insn.jt } else { insn.jf });
    }
}

fn number(name: &str) -> Option<u32> {
    CALLS
        .iter()
        .find(|call| call.name == name)
        .expect(name)
        .number
}

fn check(filter: &Filter, cases: &[(&str, &[u64], Action)]) {
    for (name, given, expected) in cases {
        let Some(number) = number(name) else { continue };
        let mut args = [0; 6];
        args[..given.len()].copy_from_slice(given);
        let got = run(filter, ARCH, number, args);
        assert_eq!(
            got,
            expected.code(),
            "{name}({given:x?}) should be {expected:?}: {got:#x}"
        );
    }
}

const ALLOW: Action = Action::Allow;
const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const PRETEND: Action = Action::Errno(0);
const NOTIFY: Action = Action::Notify;
const MINUS: u64 = u64::MAX;
const MINUS32: u64 = 0xffff_ffff;

#[test]
fn default_profile_answers_as_docker_does() {
    check(
        &default_filter(ORDINARY),
        &[
            ("read", &[], ALLOW),
            ("execve", &[], ALLOW),
            ("ptrace", &[], ALLOW),
            ("process_vm_readv", &[], ALLOW),
            ("seccomp", &[], ALLOW),
            ("sendmsg", &[], ALLOW),
            ("mknodat", &[0, 0, 0o020_644, 5], ALLOW),
            ("chown", &[0, 100, 100], ALLOW),
            ("setgroups", &[], ALLOW),
            ("mount", &[], EPERM),
            ("unshare", &[0x1000_0000], EPERM),
            ("keyctl", &[], EPERM),
            ("io_uring_setup", &[], EPERM),
            ("bpf", &[], EPERM),
            ("open_by_handle_at", &[], EPERM),
            ("chroot", &[], ALLOW),
            ("clone", &[17], ALLOW),
            ("clone", &[0x003d_0f00], ALLOW),
            ("clone", &[0x1000_0011], EPERM),
            ("clone", &[0x2_0011], EPERM),
            ("clone", &[0x4000_0000], EPERM),
            ("clone3", &[], ENOSYS),
            ("personality", &[0], ALLOW),
            ("personality", &[8], ALLOW),
            ("personality", &[MINUS32], ALLOW),
            ("personality", &[0x4_0000], EPERM),
            ("personality", &[MINUS], EPERM),
            ("socket", &[1], ALLOW),
            ("socket", &[2], ALLOW),
            ("socket", &[10], ALLOW),
            ("socket", &[16], ALLOW),
            ("socket", &[17], ALLOW),
            ("socket", &[44], ALLOW),
            ("socket", &[12], EPERM),
            ("socket", &[38], EPERM),
            ("socket", &[40], EPERM),
            ("socket", &[46], EPERM),
            ("socket", &[1 << 32], EPERM),
        ],
    );
}

#[test]
fn capabilities_open_their_groups_and_no_others() {
    let groups: [(u64, &[&str]); 14] = [
        (
            caps::SYS_ADMIN,
            &["mount", "unshare", "setns", "clone3", "bpf", "syslog"],
        ),
        (caps::SYS_PTRACE, &["kcmp", "pidfd_getfd"]),
        (caps::SYS_CHROOT, &["chroot"]),
        (caps::SYS_MODULE, &["init_module"]),
        (caps::SYS_BOOT, &["reboot"]),
        (caps::SYS_TIME, &["clock_settime"]),
        (caps::SYSLOG, &["syslog"]),
        (caps::BPF, &["bpf"]),
        (caps::PERFMON, &["perf_event_open"]),
        (caps::DAC_READ_SEARCH, &["open_by_handle_at"]),
        (caps::SYS_NICE, &["mbind"]),
        (caps::SYS_TTY_CONFIG, &["vhangup"]),
        (caps::SYS_PACCT, &["acct"]),
        (caps::SYS_RAWIO, &["iopl", "ioperm"]),
    ];
    for (cap, names) in groups {
        let (with, without) = (default_filter(cap), default_filter(!cap & !caps::SYS_ADMIN));
        for name in names {
            check(&with, &[(name, &[], ALLOW)]);
            let shared = matches!((*name, cap), ("bpf" | "syslog", caps::SYS_ADMIN));
            if !shared {
                let refused = if *name == "clone3" { ENOSYS } else { EPERM };
                check(&without, &[(name, &[], refused)]);
            }
        }
    }
    check(
        &default_filter(caps::SYS_ADMIN),
        &[("clone", &[0x1000_0011], ALLOW)],
    );
}

#[test]
fn squash_filter_asks_only_about_foreign_ids() {
    check(
        &squash_filter(Mapped::Root),
        &[
            ("chown", &[0, 0, 0], ALLOW),
            ("chown", &[0, MINUS, MINUS], ALLOW),
            ("chown", &[0, MINUS32, 0], ALLOW),
            ("chown", &[0, 100, 0], NOTIFY),
            ("chown", &[0, 0, 100], NOTIFY),
            ("chown", &[0, MINUS32, 65534], NOTIFY),
            ("chown", &[100, 0, 0], ALLOW),
            ("lchown", &[0, 5, 5], NOTIFY),
            ("fchown", &[3, 5, MINUS], NOTIFY),
            ("fchown", &[3, 0, 0], ALLOW),
            ("fchownat", &[MINUS, 7, 0, 0, 0], ALLOW),
            ("fchownat", &[MINUS, 0, 1, 0, 0], NOTIFY),
            ("fchownat", &[MINUS, 0, 0, 1, 0], NOTIFY),
            ("mknod", &[0, 0o100_644, 0], ALLOW),
            ("mknod", &[0, 0o010_644, 5], ALLOW),
            ("mknod", &[0, 0o020_644, 0], ALLOW),
            ("mknod", &[0, 0o020_644, 0x103], NOTIFY),
            ("mknod", &[0, 0o060_644, 0], NOTIFY),
            ("mknodat", &[0, 0, 0o060_644, 0x800], NOTIFY),
            ("mknodat", &[0, 0, 0o020_000, 0], ALLOW),
            ("setuid", &[0], ALLOW),
            ("setuid", &[5], PRETEND),
            ("setgid", &[MINUS32], ALLOW),
            ("setresuid", &[MINUS, MINUS, 0], ALLOW),
            ("setresgid", &[MINUS, 33, MINUS], PRETEND),
            ("setreuid", &[0, 9], PRETEND),
            ("setfsuid", &[9], PRETEND),
            ("setfsgid", &[MINUS], ALLOW),
            ("setgroups", &[0, 0], PRETEND),
            ("read", &[], ALLOW),
            ("mount", &[], ALLOW),
        ],
    );
    assert_eq!(
        run(&squash_filter(Mapped::Root), ARCH, 1000, [0; 6]),
        ALLOW.code()
    );
}

#[test]
fn root_beside_a_single_other_has_all_owners_recorded() {
    check(
        &squash_filter(Mapped::Other),
        &[
            ("chown", &[0, 0, 0], NOTIFY),
            ("chown", &[0, MINUS, MINUS32], ALLOW),
            ("fchownat", &[MINUS, 0, 0, MINUS, 0], NOTIFY),
            ("setuid", &[0], ALLOW),
            ("setuid", &[5], PRETEND),
        ],
    );
}

#[test]
fn single_filter_refuses_what_is_not_ones_own() {
    const REFUSED: Action = Action::Errno(1);
    check(
        &single_filter(101, 104),
        &[
            ("chown", &[0, 101, 104], ALLOW),
            ("chown", &[0, MINUS32, MINUS], ALLOW),
            ("chown", &[0, 104, MINUS], REFUSED),
            ("chown", &[0, 101, 101], REFUSED),
            ("fchown", &[3, 0, 0], REFUSED),
            ("lchown", &[0, 0, 104], REFUSED),
            ("fchownat", &[MINUS, 0, 101, 104, 0], ALLOW),
            ("fchownat", &[MINUS, 0, 101, 0, 0], REFUSED),
            ("setuid", &[101], ALLOW),
            ("setuid", &[0], REFUSED),
            ("setgid", &[101], REFUSED),
            ("setreuid", &[101, MINUS], ALLOW),
            ("setresuid", &[MINUS, MINUS, 0], REFUSED),
            ("setresgid", &[MINUS, 104, 104], ALLOW),
            ("setfsuid", &[0], ALLOW),
            ("setgroups", &[0, 0], ALLOW),
            ("mknod", &[0, 0o020_644, 0x103], ALLOW),
        ],
    );
}

#[test]
fn foreign_abis_and_unknown_numbers_do_not_exist() {
    for filter in [
        default_filter(ORDINARY),
        default_filter(u64::MAX),
        squash_filter(Mapped::Root),
        single_filter(101, 104),
    ] {
        assert!(filter.code().len() < PROGRAM_MAX, "{filter:?}");
        for arch in [0x4000_0003, 0x4000_0028, 0] {
            assert_eq!(run(&filter, arch, 0, [0; 6]), ENOSYS.code(), "{arch:#x}");
        }
        for number in [0x4000_0000, 0x4000_0001, u32::MAX] {
            assert_eq!(
                run(&filter, ARCH, number, [0; 6]),
                ENOSYS.code(),
                "{number:#x}"
            );
        }
    }
    assert_eq!(
        run(&default_filter(ORDINARY), ARCH, 600, [0; 6]),
        ENOSYS.code()
    );
}

#[test]
fn numbers_and_names_are_unique() {
    let mut numbers: Vec<_> = CALLS.iter().filter_map(|call| call.number).collect();
    let mut names: Vec<_> = CALLS.iter().map(|call| call.name).collect();
    numbers.sort_unstable();
    names.sort_unstable();
    assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
#[cfg(target_env = "gnu")]
fn numbers_agree_with_the_c_library() {
    let cases = [
        ("fchownat", libc::SYS_fchownat),
        ("mknodat", libc::SYS_mknodat),
        ("setresuid", libc::SYS_setresuid),
        ("clone3", libc::SYS_clone3),
        ("execve", libc::SYS_execve),
        ("openat2", libc::SYS_openat2),
        ("mseal", libc::SYS_mseal),
    ];
    for (name, expected) in cases {
        assert_eq!(number(name).map(i64::from), Some(expected), "{name}");
    }
}

/// Compiles a profile that denies by default, with these rules.
fn profile(rules: &str, caps: u64) -> Result<Filter, SeccompError> {
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rules}]}}"#);
    profile_filter(json.as_bytes(), caps, "6.18.4-x")
}

#[test]
fn comparisons_of_a_profile_mean_what_they_say() {
    let big = 5_u64 << 32 | 7;
    let cases: [(&str, &[u64], &[u64]); 7] = [
        ("EQ", &[big], &[0, 7, big + 1, 5 << 32, 7 << 32 | 5]),
        ("NE", &[0, 7, 5 << 32, big + 1], &[big]),
        (
            "LT",
            &[0, 7, big - 1, 4 << 32 | 9],
            &[big, big + 1, 6 << 32, u64::MAX],
        ),
        ("LE", &[0, big, 4 << 32 | 9], &[big + 1, 6 << 32, u64::MAX]),
        (
            "GT",
            &[big + 1, 6 << 32, u64::MAX],
            &[0, 7, big, 4 << 32 | 9],
        ),
        (
            "GE",
            &[big, big + 1, 6 << 32, u64::MAX],
            &[0, 7, big - 1, 4 << 32 | 9],
        ),
        ("MASKED_EQ", &[0, !big], &[1, 1 << 32, big]),
    ];
    for (op, held, missed) in cases {
        let rule = format!(
            r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                "args":[{{"index":5,"value":{big},"op":"SCMP_CMP_{op}"}}]}}"#
        );
        let filter = profile(&rule, 0).unwrap();
        for (values, expected) in [(held, ALLOW), (missed, EPERM)] {
            for value in values {
                check(&filter, &[("read", &[0, 0, 0, 0, 0, *value], expected)]);
            }
        }
    }
}

#[test]
fn rules_of_a_profile_count_under_their_conditions() {
    let rules = r#"
        {"names":["read","no_such_call"],"action":"SCMP_ACT_ALLOW","args":null},
        {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["umount2"],"action":"SCMP_ACT_KILL","excludes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["write"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
        {"names":["close"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.19"}},
        {"names":["dup"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
        {"names":["dup3"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64","arm64"]}},
        {"names":["kill"],"action":"SCMP_ACT_ERRNO","errnoRet":3},
        {"names":["tkill"],"action":"SCMP_ACT_LOG","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
        {"names":["tgkill"],"action":"SCMP_ACT_TRAP","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}"#;
    let (plain, admin) = (
        profile(rules, 0).unwrap(),
        profile(rules, caps::SYS_ADMIN).unwrap(),
    );
    check(
        &plain,
        &[
            ("read", &[], ALLOW),
            ("mount", &[], EPERM),
            ("umount2", &[], Action::KillThread),
            ("write", &[], ALLOW),
            ("close", &[], EPERM),
            ("dup", &[], EPERM),
            ("dup3", &[], ALLOW),
            ("kill", &[], Action::Errno(3)),
            ("tkill", &[1], Action::Log),
            ("tkill", &[2], Action::Log),
            ("tkill", &[3], EPERM),
            ("tgkill", &[1, 2], Action::Trap),
            ("tgkill", &[1, 1], EPERM),
        ],
    );
    check(&admin, &[("mount", &[], ALLOW), ("umount2", &[], EPERM)]);
    assert_eq!(run(&plain, ARCH, 900, [0; 6]), ENOSYS.code());
    let open = br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#;
    let open = profile_filter(open, 0, "6.1").unwrap();
    assert_eq!(run(&open, ARCH, 900, [0; 6]), ALLOW.code());
    assert_eq!(run(&open, ARCH, 0x4000_0001, [0; 6]), ENOSYS.code());
}

#[test]
fn broken_profiles_are_refused_by_name() {
    let arg = |index: u32, op: &str| {
        format!(
            r#"{{"name":"read","action":"SCMP_ACT_ALLOW",
                "args":[{{"index":{index},"value":0,"op":"{op}"}}]}}"#
        )
    };
    let cases = [
        ("]".to_owned(), "could not parse the seccomp profile"),
        (
            r#"{"name":"read","action":"SCMP_ACT_NOTIFY"}"#.to_owned(),
            "seccomp profile has unsupported action \"SCMP_ACT_NOTIFY\"",
        ),
        (
            r#"{"name":"read","action":"SCMP_ACT_ERRNO","errnoRet":5000}"#.to_owned(),
            "seccomp profile has invalid errno 5000",
        ),
        (
            arg(0, "LIKE"),
            "seccomp profile has unknown operator \"LIKE\"",
        ),
        (
            arg(6, "SCMP_CMP_EQ"),
            "seccomp profile looks at argument 6, calls have 0 to 5",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(
            profile(&rules, 0).unwrap_err().to_string(),
            expected,
            "{rules}"
        );
    }
    let large = vec![b' '; (1 << 20) + 1];
    assert!(matches!(
        profile_filter(&large, 0, ""),
        Err(SeccompError::Size(_))
    ));
}

#[test]
fn a_distribution_profile_agrees_with_ours_where_they_overlap() {
    let path = "/usr/share/containers/seccomp.json";
    let Ok(json) = std::fs::read(path) else {
        println!("skipped: no {path}");
        return;
    };
    let filter = profile_filter(&json, ORDINARY, "6.1").unwrap();
    check(
        &filter,
        &[
            ("read", &[], ALLOW),
            ("chown", &[0, 5, 5], ALLOW),
            ("bpf", &[], EPERM),
            ("personality", &[8], ALLOW),
            ("socket", &[2, 1, 0], ALLOW),
        ],
    );
}
