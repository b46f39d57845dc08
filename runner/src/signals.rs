//! Signal names.

/// Names by number from 1. Source: `signal(7)`, x86-64 and aarch64.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// First real-time signal a program may use with glibc.
const RTMIN: i32 = 34;
/// Last signal.
const RTMAX: i32 = 64;

/// The number of a signal given as `SIGTERM`, `TERM`, `term`, `15` or `RTMIN+3`.
#[must_use]
pub fn parse(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| {
        if rest.is_empty() {
            Some(0)
        } else {
            rest.get(1..)?.parse().ok()
        }
    };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        (rest.is_empty() || rest.starts_with('+'))
            .then(|| offset(rest))
            .flatten()
            .map(|n: i32| RTMIN.saturating_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        (rest.is_empty() || rest.starts_with('-'))
            .then(|| offset(rest))
            .flatten()
            .map(|n: i32| RTMAX.saturating_sub(n))
    } else {
        NAMES
            .iter()
            .position(|known| *known == name)
            .and_then(|position| i32::try_from(position).ok())
            .map(|position| position + 1)
    };
    real_time.filter(|number| (1..=RTMAX).contains(number))
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals_are_known_by_name_and_number() {
        let cases = [
            ("SIGTERM", Some(15)),
            ("kill", Some(9)),
            ("9", Some(9)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("SIGNOPE", None),
            ("RTMIN+99", None),
            ("", None),
        ];
        for (text, number) in cases {
            assert_eq!(super::parse(text), number, "input {text:?}");
        }
    }
}
