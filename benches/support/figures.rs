//! Medians and how they are written.

/// The middle value; the mean of the two middle ones for an even count.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let high = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(high);
    }
    let low = *sorted.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(low, high))
}

/// Seconds as milliseconds with three significant digits.
pub(crate) fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1e3;
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// `ours / peer`; below 1 means ours is faster.
pub(crate) fn ratio(ours: Option<f64>, peer: Option<f64>) -> String {
    match (ours, peer) {
        (Some(ours), Some(peer)) if peer > 0.0 => format!("{:.2}", ours / peer),
        _ => "-".to_owned(),
    }
}
