//! Times and durations as options take them.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::failure::Failure;

/// A time as `--since` takes it: RFC 3339, a date or a time without zone, seconds since the
/// epoch, or how long ago.
///
/// Source: moby api/types/time, `GetTimestamp`.
pub(crate) fn parse(text: &str) -> Result<Timestamp, Failure> {
    let bad = || {
        Failure::general(format!("invalid time {text:?}"))
            .hint("use 2026-01-02T03:04:05Z, seconds since 1970, or how long ago, such as 10m")
    };
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let local = |time: DateTime| {
        time.to_zoned(TimeZone::system())
            .map(|zoned| zoned.timestamp())
    };
    if let Ok(time) = text.parse::<DateTime>() {
        return local(time).map_err(|_| bad());
    }
    if let Ok(day) = text.parse::<Date>() {
        return local(day.at(0, 0, 0, 0)).map_err(|_| bad());
    }
    if let Ok(time) = format!("{text}:00").parse::<DateTime>() {
        return local(time).map_err(|_| bad());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let (Ok(seconds), true) = (
        whole.parse::<i64>(),
        fraction.bytes().all(|byte| byte.is_ascii_digit()),
    ) {
        let digits: String = fraction
            .chars()
            .chain("000000000".chars())
            .take(9)
            .collect();
        let nanos = digits.parse().map_err(|_| bad())?;
        return Timestamp::new(seconds, nanos).map_err(|_| bad());
    }
    let ago = duration(text.trim_start_matches('-')).ok_or_else(bad)?;
    if text.starts_with('-') {
        return Timestamp::now().checked_add(ago).map_err(|_| bad());
    }
    Timestamp::now().checked_sub(ago).map_err(|_| bad())
}

/// A duration such as `1h30m`, `10s`, `1.5s`.
///
/// Source: Go `time.ParseDuration`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("\u{b5}s", 1e-6),
    ];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        let tail = rest.get(digits..)?;
        let end = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let unit = tail.get(..end)?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number * seconds;
        rest = tail.get(end..)?;
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, millis) in [
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("0", 0),
            ("2m0s", 120_000),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "input {text}"
            );
        }
        for bad in ["", "5", "h", "1x", "1h2"] {
            assert_eq!(duration(bad), None, "input {bad:?}");
        }
    }

    #[test]
    fn times_have_many_forms() {
        let second = |text: &str| parse(text).unwrap().as_second();
        assert_eq!(second("1700000000"), 1_700_000_000);
        assert_eq!(second("1700000000.5"), 1_700_000_000);
        assert_eq!(second("2023-11-14T22:13:20Z"), 1_700_000_000);
        for good in [
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13",
            "1h",
            "-1h",
        ] {
            assert!(parse(good).is_ok(), "input {good}");
        }
        for bad in ["", "x", "12:00"] {
            assert!(parse(bad).is_err(), "input {bad:?}");
        }
        let hour = parse("-1h").unwrap().as_second() - parse("1h").unwrap().as_second();
        assert!((7199..7202).contains(&hour));
    }
}
