//! Scalars with a textual form: quantities, times, durations, bytes. Each parser answers the canonical JSON text or an
//! error in Go's words.

use crate::meta::{format_micro_time, format_time};
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Number, Value};

/// Canonical quantity.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok("0".into());
    }
    Quantity::parse(text)
        .map(|q| q.canonical())
        .map_err(|e| e.to_string())
}

/// RFC 3339, whole seconds, UTC.
pub(super) fn time(text: &str) -> Result<String, String> {
    timestamp(text, "2006-01-02T15:04:05Z07:00").map(format_time)
}

/// RFC 3339, microseconds, UTC.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    timestamp(text, "2006-01-02T15:04:05.000000Z07:00").map(format_micro_time)
}

fn timestamp(text: &str, layout: &str) -> Result<Timestamp, String> {
    // jiff takes more forms than RFC 3339 has.
    let looks_right =
        text.len() >= 20 && text.is_ascii() && text.as_bytes()[10] == b'T' && !text.contains('[');
    let parsed = if looks_right {
        text.parse::<Timestamp>().ok()
    } else {
        None
    };
    parsed.ok_or_else(|| {
        let q = crate::status::quote;
        let element = if text.bytes().take(4).filter(u8::is_ascii_digit).count() < 4 {
            "2006"
        } else {
            "-"
        };
        let rest = if element == "2006" {
            text
        } else {
            text.get(4..).unwrap_or("")
        };
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            q(text),
            q(layout),
            q(rest),
            q(element)
        )
    })
}

/// Base64; line breaks are ignored as Go does.
pub(super) fn bytes(text: &str) -> Result<String, String> {
    if STANDARD.decode(text).is_ok() {
        return Ok(text.to_string());
    }
    let dense: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&dense) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(length) => length.saturating_sub(1),
                base64::DecodeError::InvalidPadding => dense.len(),
            };
            Err(format!("illegal base64 data at input byte {at}"))
        }
    }
}

/// A Go duration (`1h2m3.5s`) in canonical form.
pub(super) fn duration(text: &str) -> Result<String, String> {
    let invalid = || format!("time: invalid duration {}", crate::status::quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok("0s".into());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, after) = rest.split_at(digits);
        let unit = after
            .bytes()
            .take_while(|b| !b.is_ascii_digit() && *b != b'.')
            .count();
        let (unit, after) = after.split_at_checked(unit).ok_or_else(invalid)?;
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty()
            || whole.len() > 18
            || fraction.len() > 18
            || fraction.contains('.')
        {
            return Err(invalid());
        }
        let parse = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<i128>() };
        let whole = parse(whole).map_err(|_| invalid())?;
        let part = parse(fraction).map_err(|_| invalid())?;
        nanos += whole * scale + part * scale / 10i128.pow(fraction.len() as u32);
        rest = after;
    }
    if nanos > i128::from(i64::MAX) {
        return Err(invalid());
    }
    Ok(format_duration(if negative { -nanos } else { nanos }))
}

/// As Go's `Duration.String`.
fn format_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u128, unit: u128, digits: usize| {
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match n {
        0 => "0s".into(),
        n if n < 1_000 => format!("{sign}{n}ns"),
        n if n < 1_000_000 => format!("{sign}{}µs", fraction(n, 1_000, 3)),
        n if n < 1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000, 6)),
        n => {
            let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
            let seconds = fraction(n % 60_000_000_000, 1_000_000_000, 9);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// A number as Go writes floats: whole ones without a point.
pub(super) fn double(number: Number) -> Value {
    match number.as_f64() {
        Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => Value::from(f as i64),
        _ => Value::Number(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_canonical() {
        for (text, want) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("0", "0s"),
            ("-2m", "-2m0s"),
            ("250ms", "250ms"),
            ("1500us", "1.5ms"),
            ("3.25s", "3.25s"),
        ] {
            assert_eq!(duration(text).as_deref(), Ok(want), "{text}");
        }
        for bad in ["", "5", "x", "1d", ".s", "1.2.3s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_utc_with_fixed_digits() {
        assert_eq!(
            time("2024-01-02T03:04:05+02:00").as_deref(),
            Ok("2024-01-02T01:04:05Z")
        );
        assert_eq!(
            time("2024-01-02T03:04:05.999Z").as_deref(),
            Ok("2024-01-02T03:04:05Z")
        );
        assert_eq!(
            micro_time("2024-01-02T03:04:05.5Z").as_deref(),
            Ok("2024-01-02T03:04:05.500000Z")
        );
        assert_eq!(
            time("soon"),
            Err(
                r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#.into()
            )
        );
    }

    #[test]
    fn base64_errors_say_where() {
        assert_eq!(bytes("eA==").as_deref(), Ok("eA=="));
        assert_eq!(bytes("e\nA=\r\n=").as_deref(), Ok("eA=="));
        assert_eq!(bytes("***"), Err("illegal base64 data at input byte 0".into()));
    }
}
