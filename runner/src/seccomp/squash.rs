//! The filter for user namespaces that map a single id.

use super::Filter;
use super::bpf::{Action, Check, Clause, Verdict, compile};
use super::calls::CALLS;

/// `S_IFMT`.
const TYPE_MASK: u32 = 0o170_000;
/// `S_IFCHR`.
const TYPE_CHAR: u32 = 0o020_000;
/// `S_IFBLK`.
const TYPE_BLOCK: u32 = 0o060_000;

/// Pretends success without running the call.
const PRETEND: Action = Action::Errno(0);

/// Compiles the filter for a container with only id 0.
///
/// Changing a file's owner to another id, and making a device, go to the supervisor; changing the
/// process's own ids to another id returns 0 and does nothing. What the kernel grants (id 0, -1,
/// and the device 0/0 that marks an overlay deletion) is left to the kernel.
#[must_use]
pub fn squash_filter() -> Filter {
    let mut rules: Vec<(u32, Verdict)> = CALLS
        .iter()
        .filter_map(|call| Some((call.number?, verdict(call.name))))
        .collect();
    rules.sort_unstable_by_key(|(number, _)| *number);
    Filter::new(compile(&rules, &Verdict::plain(Action::Allow)), true)
}

/// What happens to the call of this name.
fn verdict(name: &str) -> Verdict {
    match name {
        "chown" | "lchown" | "fchown" => any_foreign(&[1, 2], Action::Notify),
        "fchownat" => any_foreign(&[2, 3], Action::Notify),
        "mknod" => device(1, 2),
        "mknodat" => device(2, 3),
        "setuid" | "setgid" | "setfsuid" | "setfsgid" => any_foreign(&[0], PRETEND),
        "setreuid" | "setregid" => any_foreign(&[0, 1], PRETEND),
        "setresuid" | "setresgid" => any_foreign(&[0, 1, 2], PRETEND),
        "setgroups" => Verdict::plain(PRETEND),
        _ => Verdict::plain(Action::Allow),
    }
}

/// `action` when any of the arguments is an id that is neither 0 nor -1.
fn any_foreign(args: &[u8], action: Action) -> Verdict {
    let clauses = args
        .iter()
        .map(|arg| Clause {
            checks: vec![Check::ForeignId(*arg)],
            action,
        })
        .collect();
    Verdict {
        clauses,
        otherwise: Action::Allow,
    }
}

/// Notifies when argument `mode` names a device type, except for the character device 0/0.
fn device(mode: u8, number: u8) -> Verdict {
    let is = |kind| Check::MaskedLow(mode, TYPE_MASK, kind);
    let whiteout = vec![is(TYPE_CHAR), Check::MaskedLow(number, u32::MAX, 0)];
    Verdict {
        clauses: vec![
            Clause {
                checks: whiteout,
                action: Action::Allow,
            },
            Clause {
                checks: vec![is(TYPE_CHAR)],
                action: Action::Notify,
            },
            Clause {
                checks: vec![is(TYPE_BLOCK)],
                action: Action::Notify,
            },
        ],
        otherwise: Action::Allow,
    }
}
