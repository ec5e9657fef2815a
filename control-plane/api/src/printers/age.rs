//! Durations as people read them: `59s`, `5m10s`, `3h`, `2d4h`, `3y12d`.

use jiff::Timestamp;
use serde_json::Value;

use super::UNKNOWN;

/// The time since a timestamp field; `<unknown>` when it is absent.
pub fn since(timestamp: &Value, now: Timestamp) -> String {
    match timestamp.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => UNKNOWN.to_owned(),
    }
}

/// A duration in at most two units, more precise the shorter it is (`HumanDuration` in
/// `staging/src/k8s.io/apimachinery/pkg/util/duration`). Clocks that differ by less than two seconds show as `0s`.
pub fn human_duration(seconds: i64) -> String {
    match seconds {
        ..=-2 => return "<invalid>".to_owned(),
        -1 => return "0s".to_owned(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    let (minutes, hours, days, years) = (
        seconds / 60,
        seconds / 3600,
        seconds / 86400,
        seconds / (86400 * 365),
    );
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{large_unit}")
        } else {
            format!("{large}{large_unit}{small}{small_unit}")
        }
    };
    if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        two(years, "y", days % 365, "d")
    } else {
        format!("{years}y")
    }
}
