//! Wall-clock time as RFC 3339 text with nanoseconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// The time now, as `2026-01-02T03:04:05.000000006Z`.
#[must_use]
pub fn now() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format(since.as_secs(), since.subsec_nanos())
}

/// Formats seconds and nanoseconds since 1970, in UTC.
#[must_use]
pub fn format(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / DAY_S, seconds % DAY_S);
    // Days to civil date over 400-year eras that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_instants_format_as_date_does() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_827_696, 5, "2000-02-29T12:34:56.000000005Z"),
            (1_798_761_599, 999_999_999, "2026-12-31T23:59:59.999999999Z"),
        ];
        for (seconds, nanos, text) in cases {
            assert_eq!(super::format(seconds, nanos), text);
        }
    }
}
