//! Sizes and durations in the words of Docker's tables.

/// 1000-based units; `precision` significant digits.
///
/// Source: go-units `HumanSizeWithPrecision`.
pub(crate) fn size_with_precision(bytes: u64, precision: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut scaled = as_f64(bytes);
    while scaled >= 1000.0 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(scaled, precision), UNITS[unit])
}

/// 1024-based units, four significant digits. Source: go-units `BytesSize`.
pub(crate) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut scaled = as_f64(bytes);
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(scaled, 4), UNITS[unit])
}

/// A size as `images` prints it.
pub(crate) fn size(bytes: u64) -> String {
    size_with_precision(bytes, 3)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "three digits of the result are shown"
)]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// `%.{precision}g` of a number in `0..=1000`.
fn significant(value: f64, precision: usize) -> String {
    let mut magnitude = 1;
    let mut bound = 10.0;
    while value >= bound {
        magnitude += 1;
        bound *= 10.0;
    }
    let mut decimals = precision.saturating_sub(magnitude);
    let mut text = format!("{value:.decimals$}");
    // Rounding may have added a digit: 9.996 is 10.0, not 10.00.
    if text.chars().filter(char::is_ascii_digit).count() > precision && decimals > 0 {
        decimals -= 1;
        text = format!("{value:.decimals$}");
    }
    if text.contains('.') {
        let trimmed = text.trim_end_matches('0').trim_end_matches('.');
        trimmed.to_owned()
    } else {
        text
    }
}

/// How long `seconds` are, roughly.
///
/// Source: go-units `HumanDuration`.
pub(crate) fn duration(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match seconds {
        0 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..60 => return format!("{seconds} seconds"),
        _ => {}
    }
    if minutes == 1 {
        return "About a minute".to_owned();
    }
    if minutes < 60 {
        return format!("{minutes} minutes");
    }
    if hours == 1 {
        return "About an hour".to_owned();
    }
    match hours {
        0..48 => format!("{hours} hours"),
        48..336 => format!("{} days", hours / 24),
        336..1440 => format!("{} weeks", hours / 24 / 7),
        1440..17520 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `text` cut to `width` characters, the last an ellipsis.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('\u{2026}');
    cut
}

/// Bytes from text such as `64m`; 1024-based units.
///
/// Source: go-units `RAMInBytes`.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let split = lower
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let all: u128 = format!("{whole}{fraction}").parse().ok()?;
    let tens = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(all.checked_mul(1 << shift)? / tens).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_go_units() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.02kB"),
            (9996, "10kB"),
            (72_900_000, "72.9MB"),
            (715_600_000, "716MB"),
            (1_090_000_000, "1.09GB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected, "input {bytes}");
        }
    }

    #[test]
    fn durations_are_those_of_go_units() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86400, "13 days"),
            (14 * 86400, "2 weeks"),
            (59 * 86400, "8 weeks"),
            (60 * 86400, "2 months"),
            (2 * 365 * 86400, "2 years"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected, "input {seconds}");
        }
    }

    #[test]
    fn long_text_ends_in_an_ellipsis() {
        assert_eq!(ellipsis("abc", 3), "abc");
        assert_eq!(ellipsis("abcd", 3), "ab\u{2026}");
        assert_eq!(binary_size(1536), "1.5KiB");
        assert_eq!(binary_size(25_274_875_904), "23.54GiB");
        assert_eq!(parse_bytes("64m"), Some(64 << 20));
        assert_eq!(parse_bytes("x"), None);
    }
}
