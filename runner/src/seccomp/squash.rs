//! The filters for user namespaces that map a single id.

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
/// What the kernel says to whoever is not root. Source: `errno(3)`, `EPERM`.
const REFUSE: Action = Action::Errno(1);

/// Whose the files are that the kernel lets root of a user namespace with a single id own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// Root's: the container has only id 0.
    Root,
    /// Another's: the namespace lies below the container's, which has only that one.
    Other,
}

/// Compiles the filter for root where there is a single id.
///
/// Changing a file's owner to another id than the container's, and making a device, go to the
/// supervisor; changing the process's own ids to another id returns 0 and does nothing. What the
/// kernel grants (the id, -1, and the device 0/0 that marks an overlay deletion) is left to it.
#[must_use]
pub fn squash_filter(mapped: Mapped) -> Filter {
    // With -1, which is never foreign, nothing but itself is one's own.
    let own = match mapped {
        Mapped::Root => 0,
        Mapped::Other => u32::MAX,
    };
    Filter::new(program(|name| root_verdict(name, own)), true)
}

/// Compiles the filter for a process that is not root and whose ids alone exist.
///
/// Asked for another id the kernel would say that there is none (`EINVAL`); to one that is not
/// root it says `EPERM` where there are others, and programs know only that.
#[must_use]
pub fn single_filter(uid: u32, gid: u32) -> Filter {
    Filter::new(program(|name| single_verdict(name, uid, gid)), false)
}

/// Compiles what `verdict` says of each call by its name.
fn program(verdict: impl Fn(&str) -> Verdict) -> Vec<libc::sock_filter> {
    let mut rules: Vec<(u32, Verdict)> = CALLS
        .iter()
        .filter_map(|call| Some((call.number?, verdict(call.name))))
        .collect();
    rules.sort_unstable_by_key(|(number, _)| *number);
    compile(&rules, &Verdict::plain(Action::Allow))
}

/// What happens to root's call of this name; `own` is the owner that the kernel may set.
fn root_verdict(name: &str, own: u32) -> Verdict {
    match name {
        "chown" | "lchown" | "fchown" => any_foreign(&[(1, own), (2, own)], Action::Notify),
        "fchownat" => any_foreign(&[(2, own), (3, own)], Action::Notify),
        "mknod" => device(1, 2),
        "mknodat" => device(2, 3),
        "setuid" | "setgid" | "setfsuid" | "setfsgid" => any_foreign(&[(0, 0)], PRETEND),
        "setreuid" | "setregid" => any_foreign(&[(0, 0), (1, 0)], PRETEND),
        "setresuid" | "setresgid" => any_foreign(&[(0, 0), (1, 0), (2, 0)], PRETEND),
        "setgroups" => Verdict::plain(PRETEND),
        _ => Verdict::plain(Action::Allow),
    }
}

/// What happens to the call of this name where there is only one who is not root. `setfsuid` and
/// `setfsgid` cannot fail: the kernel ignores ids that do not exist.
fn single_verdict(name: &str, uid: u32, gid: u32) -> Verdict {
    match name {
        "chown" | "lchown" | "fchown" => any_foreign(&[(1, uid), (2, gid)], REFUSE),
        "fchownat" => any_foreign(&[(2, uid), (3, gid)], REFUSE),
        "setuid" => any_foreign(&[(0, uid)], REFUSE),
        "setgid" => any_foreign(&[(0, gid)], REFUSE),
        "setreuid" => any_foreign(&[(0, uid), (1, uid)], REFUSE),
        "setregid" => any_foreign(&[(0, gid), (1, gid)], REFUSE),
        "setresuid" => any_foreign(&[(0, uid), (1, uid), (2, uid)], REFUSE),
        "setresgid" => any_foreign(&[(0, gid), (1, gid), (2, gid)], REFUSE),
        _ => Verdict::plain(Action::Allow),
    }
}

/// `action` when any of the arguments is neither the id beside it nor -1.
fn any_foreign(args: &[(u8, u32)], action: Action) -> Verdict {
    let clauses = args
        .iter()
        .map(|(arg, own)| Clause {
            checks: vec![Check::ForeignId(*arg, *own)],
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
