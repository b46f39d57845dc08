//! Docker's default profile.

use super::bpf::{Action, Check, Clause, NO_SUCH_CALL, Verdict, compile};
use super::calls::{CALLS, Rule};
use super::{Filter, caps};

/// What a call the profile does not allow returns: `EPERM`.
const DENIED: Action = Action::Errno(1);

/// The namespace flags of `clone`: all `CLONE_NEW*` that `clone` (not `clone3`) takes.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The personalities a program may ask for: Linux, Linux32, each with `UNAME26`, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The address families allowed, as ranges with an exclusive end. Left out are families nobody
/// needs in a container and some have been trouble: DECnet, security, key management, wanpipe,
/// ATM SVC, IEEE 802.15.4, CAIF, the kernel's crypto and virtual machine sockets.
const FAMILIES: [(u64, u64); 8] = [
    (0, 12),
    (13, 19),
    (21, 23),
    (24, 25),
    (26, 34),
    (35, 37),
    (39, 40),
    (41, 46),
];

/// Compiles Docker's default profile for a process with the capabilities of `caps` (bit N is
/// capability N of the bounding set).
///
/// Calls the profile does not list return `EPERM`; calls this program does not know return
/// `ENOSYS`, so that programs fall back to older ones.
#[must_use]
pub fn default_filter(caps: u64) -> Filter {
    let mut rules: Vec<(u32, Verdict)> = CALLS
        .iter()
        .filter_map(|call| Some((call.number?, verdict(call.rule, caps))))
        .collect();
    rules.sort_unstable_by_key(|(number, _)| *number);
    Filter::new(compile(&rules, &Verdict::plain(NO_SUCH_CALL)), false)
}

/// What a rule means for a capability set.
fn verdict(rule: Rule, caps: u64) -> Verdict {
    let admin = caps & caps::SYS_ADMIN != 0;
    match rule {
        Rule::Allow => Verdict::plain(Action::Allow),
        Rule::Deny => Verdict::plain(DENIED),
        Rule::Caps(any) if caps & any != 0 => Verdict::plain(Action::Allow),
        Rule::Caps(_) => Verdict::plain(DENIED),
        Rule::NewTask | Rule::NewTask3 if admin => Verdict::plain(Action::Allow),
        Rule::NewTask => allow_if([vec![Check::Masked(0, CLONE_NAMESPACES, 0)]]),
        Rule::NewTask3 => Verdict::plain(NO_SUCH_CALL),
        Rule::Personality => allow_if(PERSONALITIES.map(|kind| vec![Check::Equal(0, kind)])),
        Rule::Socket => {
            allow_if(FAMILIES.map(|(from, to)| vec![Check::AtLeast(0, from), Check::Below(0, to)]))
        }
    }
}

/// Allows the call when all the checks of any list hold.
fn allow_if<const N: usize>(lists: [Vec<Check>; N]) -> Verdict {
    let clauses = lists.map(|checks| Clause {
        checks,
        action: Action::Allow,
    });
    Verdict {
        clauses: clauses.into(),
        otherwise: DENIED,
    }
}
