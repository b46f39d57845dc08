//! Which devices a container may use.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{At, RunnerError};
use crate::oci::spec::DeviceRule;
use crate::sys;

/// What every container may use, after its own rules: making any node, the usual devices,
/// terminals. Type, major, minor, access; -1 stands for any.
const ALWAYS: [(char, i64, i64, &str); 10] = [
    ('c', -1, -1, "m"),
    ('b', -1, -1, "m"),
    ('c', 1, 3, "rwm"),
    ('c', 1, 8, "rwm"),
    ('c', 1, 7, "rwm"),
    ('c', 5, 0, "rwm"),
    ('c', 1, 5, "rwm"),
    ('c', 1, 9, "rwm"),
    ('c', 136, -1, "rwm"),
    ('c', 5, 2, "rwm"),
];

/// What is told when the rules could not be set.
pub(super) fn trouble(error: RunnerError) -> super::Trouble<'static> {
    super::Trouble {
        file: "devices",
        controller: "devices",
        optional: false,
        error: Some(error),
    }
}

/// All rules in order, those for every container last; none when none are given.
fn all(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    if rules.is_empty() {
        return Vec::new();
    }
    let always = ALWAYS
        .iter()
        .map(|(kind, major, minor, access)| DeviceRule {
            allow: true,
            kind: Some(kind.to_string()),
            major: Some(*major),
            minor: Some(*minor),
            access: Some((*access).to_owned()),
        });
    rules.iter().cloned().chain(always).collect()
}

/// Version 1: file and text of each rule.
///
/// Source: kernel, `cgroup-v1/devices.rst`.
pub(super) fn split_rules(rules: &[DeviceRule]) -> Vec<(&'static str, String)> {
    let number = |value: Option<i64>| {
        let value = value.filter(|value| *value >= 0);
        value.map_or_else(|| "*".to_owned(), |value| value.to_string())
    };
    all(rules)
        .iter()
        .map(|rule| {
            let file = if rule.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            let kind = rule.kind.as_deref().filter(|kind| !kind.is_empty());
            let access = rule.access.as_deref().filter(|access| !access.is_empty());
            let text = format!(
                "{} {}:{} {}",
                kind.unwrap_or("a"),
                number(rule.major),
                number(rule.minor),
                access.unwrap_or("rwm")
            );
            (file, text)
        })
        .collect()
}

/// `BPF_LDX | BPF_MEM | BPF_W`. Source: `linux/bpf.h`.
const LOAD: u8 = 0x61;
/// `BPF_ALU64 | BPF_MOV | BPF_X`.
const MOVE_REGISTER: u8 = 0xbf;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE: u8 = 0xb7;
/// `BPF_ALU64 | BPF_AND | BPF_K`.
const AND: u8 = 0x57;
/// `BPF_ALU64 | BPF_RSH | BPF_K`.
const SHIFT_RIGHT: u8 = 0x77;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JUMP_EQUAL: u8 = 0x15;
/// `BPF_JMP | BPF_JNE | BPF_K`.
const JUMP_NOT_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_JNE | BPF_X`.
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

/// The register of the answer.
const ANSWER: u8 = 0;
/// The register of the request; free once it is read.
const REQUEST: u8 = 1;
/// Type of the device: 1 block, 2 character.
const KIND: u8 = 2;
/// Wanted access: 1 making, 2 reading, 4 writing.
const ACCESS: u8 = 3;
/// Major number of the device.
const MAJOR: u8 = 4;
/// Minor number of the device.
const MINOR: u8 = 5;
/// Every access.
const ANY_ACCESS: i32 = 7;

/// An instruction of extended BPF: code, destination, source, jump or offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction(u8, u8, u8, i16, i32);

impl Instruction {
    /// As the kernel reads it, on a little-endian machine. Source: `struct bpf_insn`.
    fn encode(self) -> u64 {
        let Self(code, to, from, offset, value) = self;
        u64::from(code)
            | u64::from(to | from << 4) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(value.cast_unsigned()) << 32
    }
}

/// Version 2: the program of the rules. The last rule that fits decides, so they are tried from
/// the last to the first; what no rule fits is denied.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        Instruction(LOAD, KIND, REQUEST, 0, 0),
        Instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        Instruction(AND, KIND, 0, 0, 0xffff),
        Instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        Instruction(LOAD, MAJOR, REQUEST, 4, 0),
        Instruction(LOAD, MINOR, REQUEST, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // The kernel refuses a program with parts that cannot be reached.
        if push_rule(rule, &mut code) == Fits::Always {
            return code;
        }
    }
    code.extend(answer(false));
    code
}

/// When a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Always,
    Sometimes,
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        Instruction(MOVE, ANSWER, 0, 0, i32::from(allow)),
        Instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// A rule that allows fits when all that is wanted is named, one that denies when any of it is.
fn push_rule(rule: &DeviceRule, code: &mut Vec<Instruction>) -> Fits {
    let mut tests = Vec::new();
    match rule.kind.as_deref() {
        Some("b") => tests.push(Instruction(JUMP_NOT_EQUAL, KIND, 0, 0, 1)),
        Some("c") => tests.push(Instruction(JUMP_NOT_EQUAL, KIND, 0, 0, 2)),
        _ => {}
    }
    let named = access_bits(rule.access.as_deref());
    if named != ANY_ACCESS {
        tests.push(Instruction(MOVE_REGISTER, REQUEST, ACCESS, 0, 0));
        tests.push(Instruction(AND, REQUEST, 0, 0, named));
        tests.push(if rule.allow {
            Instruction(JUMP_NOT_EQUAL_REGISTER, REQUEST, ACCESS, 0, 0)
        } else {
            Instruction(JUMP_EQUAL, REQUEST, 0, 0, 0)
        });
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number
            .and_then(|n| i32::try_from(n).ok())
            .filter(|n| *n >= 0)
        {
            tests.push(Instruction(JUMP_NOT_EQUAL, register, 0, 0, number));
        }
    }
    let answer = answer(rule.allow);
    let end = tests.len() + answer.len();
    for (at, test) in tests.iter_mut().enumerate() {
        if matches!(
            test.0,
            JUMP_EQUAL | JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER
        ) {
            test.3 = i16::try_from(end - at - 1).unwrap_or_default();
        }
    }
    let fits = if tests.is_empty() {
        Fits::Always
    } else {
        Fits::Sometimes
    };
    code.extend(tests);
    code.extend(answer);
    fits
}

/// Letters as the kernel's bits; all when there are none.
fn access_bits(letters: Option<&str>) -> i32 {
    let letters = letters.filter(|letters| !letters.is_empty());
    letters.map_or(ANY_ACCESS, |letters| {
        let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
        bit('m', 1) | bit('r', 2) | bit('w', 4)
    })
}

/// Puts a version 2 group under the program of its rules. An ordinary user may not; then the
/// rules of the groups above hold, and file permissions.
pub(super) fn attach_program(dir: &Path, rules: &[DeviceRule]) -> Result<(), RunnerError> {
    let code: Vec<u64> = program(&all(rules))
        .into_iter()
        .map(Instruction::encode)
        .collect();
    let attach = || -> io::Result<()> {
        let group = File::open(dir)?;
        let program = sys::load_device_program(&code)?;
        sys::attach_device_program(group.as_fd(), program.as_fd())
    };
    match attach() {
        Err(error)
            if error.raw_os_error() == Some(libc::EPERM)
                && !rustix::process::geteuid().is_root() =>
        {
            Ok(())
        }
        other => other.at("set the device rules of", dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> DeviceRule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rules_become_text_with_the_usual_devices_last() {
        let deny = rule(r#"{"allow":false,"access":"rwm"}"#);
        let lines = split_rules(&[deny]);
        assert_eq!(lines[0], ("devices.deny", "a *:* rwm".to_owned()));
        assert_eq!(lines[3], ("devices.allow", "c 1:3 rwm".to_owned()));
        assert_eq!(split_rules(&[]), []);
    }

    /// A small interpreter of the instructions used above.
    fn allows(code: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let mut registers = [0_i64; 6];
        let mut at = 0_usize;
        loop {
            let Instruction(op, to, from, offset, value) = code[at];
            let (to, from) = (usize::from(to), usize::from(from));
            at += 1;
            let jump = match op {
                LOAD => {
                    let words = [access << 16 | kind, major, minor];
                    registers[to] = words[usize::try_from(offset / 4).unwrap()].into();
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = value.into();
                    false
                }
                AND => {
                    registers[to] &= i64::from(value);
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= value;
                    false
                }
                JUMP_EQUAL => registers[to] == i64::from(value),
                JUMP_NOT_EQUAL => registers[to] != i64::from(value),
                JUMP_NOT_EQUAL_REGISTER => registers[to] != registers[from],
                _ => return registers[0] == 1,
            };
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    #[test]
    fn the_kernel_takes_the_programs() {
        let deny = rule(r#"{"allow":false}"#);
        let some = rule(r#"{"allow":true,"type":"c","major":10,"access":"rw"}"#);
        for rules in [vec![deny.clone()], vec![deny, some.clone()], vec![some]] {
            let code: Vec<u64> = program(&all(&rules))
                .into_iter()
                .map(Instruction::encode)
                .collect();
            match sys::load_device_program(&code) {
                Ok(_program) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    eprintln!("SKIPPED: programs of control groups: {error}");
                    return;
                }
                Err(error) => panic!("{rules:?}: {error}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let rules = [
            rule(r#"{"allow":false}"#),
            rule(r#"{"allow":true,"type":"c","major":10,"minor":200,"access":"rw"}"#),
            rule(r#"{"allow":false,"type":"c","major":1,"minor":8,"access":"w"}"#),
        ];
        let code = program(&rules);
        assert!(allows(&code, 2, 6, 10, 200));
        assert!(!allows(&code, 2, 7, 10, 200), "making was not named");
        assert!(!allows(&code, 1, 6, 10, 200), "a block device");
        assert!(!allows(&code, 2, 6, 10, 201));
        let code = program(&all(&rules[..1]));
        assert!(allows(&code, 2, 6, 1, 3));
        assert!(!allows(&code, 2, 2, 1, 1));
        assert!(allows(&code, 1, 1, 8, 0), "any node may be made");
    }
}
