//! A small assembler for seccomp's classic BPF.
//!
//! Rules become a binary search over system call numbers whose leaves either return an action or
//! look at the arguments first. Source: `seccomp(2)`, `linux/filter.h`.

use libc::sock_filter;

/// What a filter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// The call runs.
    Allow,
    /// The call runs and is logged.
    Log,
    /// The call does not run and returns this errno; 0 is success.
    Errno(u16),
    /// The supervisor behind the listener answers.
    Notify,
    /// The thread gets `SIGSYS`.
    Trap,
    /// The tracer is told this value; `ENOSYS` when there is none.
    Trace(u16),
    /// The thread dies.
    KillThread,
    /// The process dies.
    KillProcess,
}

impl Action {
    /// The filter's return value. Source: `linux/seccomp.h`.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Log => 0x7ffc_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Notify => 0x7fc0_0000,
            Self::Trap => 0x0003_0000,
            Self::Trace(value) => 0x7ff0_0000 | u32::from(value),
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
        }
    }
}

/// One test of one argument (0 to 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// All 64 bits equal.
    Equal(u8, u64),
    /// Any of the 64 bits differs.
    NotEqual(u8, u64),
    /// Greater or equal, unsigned, 64 bits.
    AtLeast(u8, u64),
    /// Less than, unsigned, 64 bits.
    Below(u8, u64),
    /// `arg & mask == value`, 64 bits: argument, mask, value.
    Masked(u8, u64, u64),
    /// The low half is neither this id nor -1: an id that a user namespace with this one alone
    /// cannot have.
    ForeignId(u8, u32),
    /// `arg & mask == value` on the low half, for 32-bit parameters.
    MaskedLow(u8, u32, u32),
}

/// Tests that must all hold, and what to answer then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The tests; none means "always".
    pub(crate) checks: Vec<Check>,
    /// The answer.
    pub(crate) action: Action,
}

/// What happens to a call: the first clause that holds, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Tried in order.
    pub(crate) clauses: Vec<Clause>,
    /// When none holds.
    pub(crate) otherwise: Action,
}

impl Verdict {
    /// The same answer whatever the arguments are.
    pub(crate) fn plain(action: Action) -> Self {
        Self {
            clauses: Vec::new(),
            otherwise: action,
        }
    }
}

/// `AUDIT_ARCH_*` of this build. Source: `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
pub(crate) const ARCH: u32 = 0xc000_003e;
/// `AUDIT_ARCH_*` of this build. Source: `linux/audit.h`.
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCH: u32 = 0xc000_00b7;

/// What a call of a foreign ABI (i386, x32, arm) or an unknown number returns.
pub(crate) const NO_SUCH_CALL: Action = Action::Errno(38);

/// Set in the numbers of the x32 ABI, whose calls share the architecture of `x86_64`.
const X32_BIT: u32 = 0x4000_0000;

/// Offset of `seccomp_data.nr`.
const OFFSET_NR: u32 = 0;
/// Offset of `seccomp_data.arch`.
const OFFSET_ARCH: u32 = 4;
/// Offset of `seccomp_data.args`.
const OFFSET_ARGS: u32 = 16;

/// `BPF_LD | BPF_W | BPF_ABS`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const JEQ: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
const JGT: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const JGE: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RET: u16 = 0x06;

/// Marks a jump to the end of the clause until the end is known. No real jump inside a clause is
/// as long: six checks are at most 42 instructions.
const FAIL: u8 = u8::MAX;

/// A jumpless instruction.
fn op(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A conditional jump.
fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The low and high halves of a 64-bit value.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// Loads the low half of an argument (both architectures are little-endian).
fn low(arg: u8) -> sock_filter {
    op(LOAD, OFFSET_ARGS + 8 * u32::from(arg))
}

/// Loads the high half of an argument.
fn high(arg: u8) -> sock_filter {
    op(LOAD, OFFSET_ARGS + 8 * u32::from(arg) + 4)
}

/// Appends a check: falls through when it holds, jumps to `FAIL` when not.
fn emit_check(check: Check, out: &mut Vec<sock_filter>) {
    match check {
        Check::Equal(arg, value) => {
            let (lo, hi) = halves(value);
            out.extend([high(arg), branch(JEQ, hi, 0, FAIL)]);
            out.extend([low(arg), branch(JEQ, lo, 0, FAIL)]);
        }
        Check::NotEqual(arg, value) => {
            let (lo, hi) = halves(value);
            out.extend([high(arg), branch(JEQ, hi, 0, 2)]);
            out.extend([low(arg), branch(JEQ, lo, FAIL, 0)]);
        }
        Check::AtLeast(arg, value) => {
            let (lo, hi) = halves(value);
            out.extend([high(arg), branch(JGT, hi, 3, 0), branch(JEQ, hi, 0, FAIL)]);
            out.extend([low(arg), branch(JGE, lo, 0, FAIL)]);
        }
        Check::Below(arg, value) => {
            let (lo, hi) = halves(value);
            out.extend([high(arg), branch(JGT, hi, FAIL, 0), branch(JEQ, hi, 0, 2)]);
            out.extend([low(arg), branch(JGE, lo, FAIL, 0)]);
        }
        Check::Masked(arg, mask, value) => {
            let ((mask_lo, mask_hi), (lo, hi)) = (halves(mask), halves(value));
            out.extend([high(arg), op(AND, mask_hi), branch(JEQ, hi, 0, FAIL)]);
            out.extend([low(arg), op(AND, mask_lo), branch(JEQ, lo, 0, FAIL)]);
        }
        Check::ForeignId(arg, own) => {
            out.extend([
                low(arg),
                branch(JEQ, own, FAIL, 0),
                branch(JEQ, u32::MAX, FAIL, 0),
            ]);
        }
        Check::MaskedLow(arg, mask, value) => {
            out.extend([low(arg), op(AND, mask), branch(JEQ, value, 0, FAIL)]);
        }
    }
}

/// Appends the code of a verdict, which always ends in a return.
fn emit_verdict(verdict: &Verdict, out: &mut Vec<sock_filter>) {
    for clause in &verdict.clauses {
        let start = out.len();
        for check in &clause.checks {
            emit_check(*check, out);
        }
        out.push(op(RET, clause.action.code()));
        let end = out.len();
        for (at, insn) in out.iter_mut().enumerate().skip(start) {
            let distance = u8::try_from(end - at - 1).unwrap_or(FAIL);
            if matches!(insn.code, JEQ | JGT | JGE) {
                if insn.jt == FAIL {
                    insn.jt = distance;
                }
                if insn.jf == FAIL {
                    insn.jf = distance;
                }
            }
        }
    }
    out.push(op(RET, verdict.otherwise.code()));
}

/// A run of system call numbers that are all treated alike, up to the next run's start.
struct Run<'a> {
    /// The lowest number.
    start: u32,
    /// How they are treated.
    verdict: &'a Verdict,
}

/// Appends the search among `runs`, last instruction first.
fn emit_search(runs: &[Run<'_>], reversed: &mut Vec<sock_filter>, scratch: &mut Vec<sock_filter>) {
    let (below, above) = runs.split_at(runs.len() / 2);
    let Some(middle) = above.first() else { return };
    if below.is_empty() {
        scratch.clear();
        emit_verdict(middle.verdict, scratch);
        reversed.extend(scratch.iter().rev());
        return;
    }
    emit_search(above, reversed, scratch);
    let before = reversed.len();
    emit_search(below, reversed, scratch);
    let skip = reversed.len() - before;
    match u8::try_from(skip) {
        Ok(near) => reversed.push(branch(JGE, middle.start, near, 0)),
        Err(_) => {
            reversed.push(op(JUMP, u32::try_from(skip).unwrap_or(u32::MAX)));
            reversed.push(branch(JGE, middle.start, 0, 1));
        }
    }
}

/// Compiles rules, sorted by number without repeats, to a program.
///
/// Numbers without a rule get `other`; calls of a foreign ABI do not exist.
pub(crate) fn compile(rules: &[(u32, Verdict)], other: &Verdict) -> Vec<sock_filter> {
    let x32 = Verdict::plain(NO_SUCH_CALL);
    let mut runs: Vec<Run<'_>> = Vec::with_capacity(rules.len() + 2);
    let mut add = |start: u32, verdict| {
        if runs
            .last()
            .is_none_or(|last: &Run<'_>| last.verdict != verdict)
        {
            runs.push(Run { start, verdict });
        }
    };
    let mut next = 0;
    for (number, verdict) in rules {
        if *number > next {
            add(next, other);
        }
        add(*number, verdict);
        next = number.saturating_add(1);
    }
    add(next, other);
    add(X32_BIT, &x32);
    let mut reversed = Vec::with_capacity(1024);
    emit_search(&runs, &mut reversed, &mut Vec::with_capacity(64));
    reversed.push(op(LOAD, OFFSET_NR));
    let mut code = Vec::with_capacity(reversed.len() + 8);
    code.push(op(LOAD, OFFSET_ARCH));
    code.push(branch(JEQ, ARCH, 1, 0));
    code.push(op(RET, NO_SUCH_CALL.code()));
    code.extend(reversed.iter().rev());
    code
}
