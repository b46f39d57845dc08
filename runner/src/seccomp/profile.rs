//! Profiles in JSON, as Docker and the OCI runtime specification write them.
//!
//! Only what concerns this machine's own ABI is used: foreign ABIs do not exist for a container,
//! whatever the profile says.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::bpf::{Action, Check, Clause, NO_SUCH_CALL, Verdict, compile};
use super::calls::CALLS;
use super::{Filter, PROGRAM_MAX, SeccompError, caps};

/// The largest profile read. Docker's is 17 KB.
const PROFILE_SIZE_MAX: usize = 1 << 20;

/// What profiles call this architecture.
const ARCH_NAME: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else {
    "arm64"
};

/// The action that asks a supervisor.
const NOTIFY: &str = "SCMP_ACT_NOTIFY";

/// `EPERM`: the errno of a profile that names none.
const DEFAULT_ERRNO: u32 = 1;

/// The largest errno a filter can return. Source: `MAX_ERRNO`, `linux/err.h`.
const ERRNO_MAX: u32 = 4095;

/// A profile.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    syscalls: Option<Vec<Rule>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
}

/// What a profile says of some calls.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Option<Vec<String>>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

/// A comparison of an argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule counts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Compiles a profile file for a process with the capabilities of `caps` (bit N is capability N)
/// on a kernel of this release (as `uname -r` prints it).
///
/// Of the rules for a call the first without arguments counts, else the first whose arguments
/// match. Calls neither the profile nor this program knows do not exist unless the profile allows
/// by default.
///
/// # Errors
///
/// When the text is no profile, is too large, or uses something unknown. `SCMP_ACT_NOTIFY` is
/// refused: the one listener a process can have is ours.
pub fn profile_filter(json: &[u8], caps: u64, release: &str) -> Result<Filter, SeccompError> {
    let filter = bundle_filter(json, caps, release)?;
    if filter.notifies() {
        return Err(SeccompError::Action(NOTIFY.to_owned()));
    }
    Ok(filter)
}

/// Compiles the profile of an OCI bundle, whose supervisor is somebody else's; as
/// [`profile_filter`] otherwise.
///
/// # Errors
///
/// When the text is no profile, is too large, or uses something unknown.
pub fn bundle_filter(json: &[u8], caps: u64, release: &str) -> Result<Filter, SeccompError> {
    if json.len() > PROFILE_SIZE_MAX {
        return Err(SeccompError::Size(json.len()));
    }
    let profile: Profile = serde_json::from_slice(json).map_err(SeccompError::Json)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut by_name: BTreeMap<&str, Verdict> = BTreeMap::new();
    for rule in profile.syscalls.iter().flatten() {
        let answer = action(&rule.action, rule.errno_ret)?;
        let clauses = clauses(rule.args.as_deref().unwrap_or_default(), answer)?;
        if answer == default || !rule.counts(caps, release) {
            continue;
        }
        for name in rule.names.iter().flatten().chain(&rule.name) {
            let verdict = by_name
                .entry(name)
                .or_insert_with(|| Verdict::plain(default));
            verdict.clauses.extend(clauses.iter().cloned());
        }
    }
    let mut rules: Vec<(u32, Verdict)> = CALLS
        .iter()
        .filter_map(|call| Some((call.number?, settle(by_name.remove(call.name), default))))
        .collect();
    rules.sort_unstable_by_key(|(number, _)| *number);
    let other = match default {
        Action::Allow | Action::Log => default,
        Action::Errno(_)
        | Action::Notify
        | Action::Trap
        | Action::Trace(_)
        | Action::KillThread
        | Action::KillProcess => NO_SUCH_CALL,
    };
    let code = compile(&rules, &Verdict::plain(other));
    if code.len() > PROGRAM_MAX {
        return Err(SeccompError::Length(code.len()));
    }
    let flags = filter_flags(profile.flags.as_deref().unwrap_or_default())?;
    let notify = |verdict: &Verdict| {
        let mut clauses = verdict.clauses.iter();
        verdict.otherwise == Action::Notify || clauses.any(|c| c.action == Action::Notify)
    };
    // Who names a supervisor gets a listener, whether a rule needs it or not.
    let supervised = profile
        .listener_path
        .as_ref()
        .is_some_and(|path| !path.is_empty());
    let notifies = supervised || rules.iter().any(|(_, verdict)| notify(verdict));
    Ok(Filter::new(code, notifies).with_flags(flags))
}

/// Reads the flags of a profile as those of `seccomp(2)`. The two not passed on are the case
/// anyway: there is one thread, and a supervised call is killable.
fn filter_flags(names: &[String]) -> Result<libc::c_ulong, SeccompError> {
    let mut flags = 0;
    for name in names {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
            other => return Err(SeccompError::Flag(other.to_owned())),
        };
    }
    Ok(flags)
}

/// Lets a rule without arguments win over those with.
fn settle(verdict: Option<Verdict>, default: Action) -> Verdict {
    let verdict = verdict.unwrap_or_else(|| Verdict::plain(default));
    match verdict
        .clauses
        .iter()
        .find(|clause| clause.checks.is_empty())
    {
        Some(always) => Verdict::plain(always.action),
        None => verdict,
    }
}

impl Rule {
    /// Whether the rule applies here.
    fn counts(&self, caps: u64, release: &str) -> bool {
        let includes = self.includes.as_ref().is_none_or(|includes| {
            let mut wanted = includes.caps.iter().flatten();
            wanted.all(|name| caps & caps::bit(name) != 0)
                && includes
                    .arches
                    .as_ref()
                    .is_none_or(|arches| has_arch(arches))
                && includes
                    .min_kernel
                    .as_ref()
                    .is_none_or(|min| at_least(release, min))
        });
        let excludes = self.excludes.as_ref().is_some_and(|excludes| {
            let mut unwanted = excludes.caps.iter().flatten();
            unwanted.any(|name| caps & caps::bit(name) != 0)
                || excludes
                    .arches
                    .as_ref()
                    .is_some_and(|arches| has_arch(arches))
                || excludes
                    .min_kernel
                    .as_ref()
                    .is_some_and(|min| at_least(release, min))
        });
        includes && !excludes
    }
}

/// Whether a list of architectures has ours.
fn has_arch(arches: &[String]) -> bool {
    arches.iter().any(|arch| arch == ARCH_NAME)
}

/// Whether a kernel release is at least `min`, by the first two numbers.
fn at_least(release: &str, min: &str) -> bool {
    let version = |text: &str| {
        let mut numbers = text
            .split(|c: char| !c.is_ascii_digit())
            .map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        (next(), next())
    };
    version(release) >= version(min)
}

/// Reads an action.
fn action(name: &str, errno: Option<u32>) -> Result<Action, SeccompError> {
    let errno = errno.unwrap_or(DEFAULT_ERRNO);
    let value = u16::try_from(errno).map_err(|_| SeccompError::Errno(errno))?;
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::Allow),
        "SCMP_ACT_LOG" => Ok(Action::Log),
        NOTIFY => Ok(Action::Notify),
        "SCMP_ACT_ERRNO" if errno > ERRNO_MAX => Err(SeccompError::Errno(errno)),
        "SCMP_ACT_ERRNO" => Ok(Action::Errno(value)),
        "SCMP_ACT_TRACE" => Ok(Action::Trace(value)),
        "SCMP_ACT_TRAP" => Ok(Action::Trap),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Action::KillThread),
        "SCMP_ACT_KILL_PROCESS" => Ok(Action::KillProcess),
        other => Err(SeccompError::Action(other.to_owned())),
    }
}

/// Reads the comparisons of a rule: all must hold, except that several of the same argument are
/// alternatives (as runc reads them, since libseccomp could not express anything else).
fn clauses(args: &[Arg], action: Action) -> Result<Vec<Clause>, SeccompError> {
    let checks = args.iter().map(check).collect::<Result<Vec<Check>, _>>()?;
    let repeated = args.iter().enumerate().any(|(at, arg)| {
        let mut before = args.iter().take(at);
        before.any(|earlier| earlier.index == arg.index)
    });
    if repeated {
        let alternative = |check| Clause {
            checks: vec![check],
            action,
        };
        return Ok(checks.into_iter().map(alternative).collect());
    }
    Ok(vec![Clause { checks, action }])
}

/// Reads a comparison.
fn check(arg: &Arg) -> Result<Check, SeccompError> {
    let index = u8::try_from(arg.index).ok().filter(|index| *index < 6);
    let index = index.ok_or(SeccompError::Argument(arg.index))?;
    let above = arg.value.checked_add(1);
    match arg.op.as_str() {
        "SCMP_CMP_EQ" => Ok(Check::Equal(index, arg.value)),
        "SCMP_CMP_NE" => Ok(Check::NotEqual(index, arg.value)),
        "SCMP_CMP_LT" => Ok(Check::Below(index, arg.value)),
        "SCMP_CMP_GE" => Ok(Check::AtLeast(index, arg.value)),
        // Nothing is above the largest value and everything is at most it.
        "SCMP_CMP_GT" => Ok(above.map_or(Check::Below(index, 0), |v| Check::AtLeast(index, v))),
        "SCMP_CMP_LE" => Ok(above.map_or(Check::AtLeast(index, 0), |v| Check::Below(index, v))),
        "SCMP_CMP_MASKED_EQ" => Ok(Check::Masked(index, arg.value, arg.value_two)),
        other => Err(SeccompError::Operator(other.to_owned())),
    }
}
