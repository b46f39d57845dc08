//! Numbers as templates write them.

/// A constant: Go gives it the kind its text suggests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    /// Reads a number; `None` when the text is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let plain = digits.replace('_', "");
        let lower = plain.to_ascii_lowercase();
        let radix = |prefix: &str, radix: u32| {
            let rest = lower.strip_prefix(prefix)?;
            i64::from_str_radix(rest, radix).ok()
        };
        let whole = radix("0x", 16)
            .or_else(|| radix("0b", 2))
            .or_else(|| radix("0o", 8))
            .or_else(|| {
                let octal = lower.len() > 1 && lower.starts_with('0');
                i64::from_str_radix(&lower, if octal { 8 } else { 10 }).ok()
            });
        if !lower.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
            return None;
        }
        if let Some(whole) = whole {
            return Some(Self::Int(if negative { -whole } else { whole }));
        }
        let float: f64 = lower.parse().ok()?;
        Some(Self::Float(if negative { -float } else { float }))
    }
}
