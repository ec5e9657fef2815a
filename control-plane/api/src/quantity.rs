//! `resource.Quantity`: numbers with decimal or binary suffixes, kept exactly as nano-units.

use std::cmp::Ordering;

/// Nano-units of one.
const NANO: i128 = 1_000_000_000;
/// Upstream caps values here (2^63 - 1 whole units).
const MAX: i128 = i64::MAX as i128 * NANO;

/// A parsed quantity.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// The text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// Parses `100m`, `1Gi`, `1e3`. Finer than nano rounds away from zero, larger than 2^63-1 is capped.
    pub fn parse(text: &str) -> Result<Quantity, ParseQuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .bytes()
            .take_while(|b| b.is_ascii_digit() || *b == b'.')
            .count();
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        let (scale, format) = scale(suffix).ok_or(ParseQuantityError)?;
        let digits = format!("{whole}{fraction}");
        let nanos = exact(digits.trim_start_matches('0'), fraction.len(), scale).min(MAX);
        Ok(Quantity {
            nanos: if negative { -nanos } else { nanos },
            format,
        })
    }

    /// A number of thousandths, in decimal form.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity {
            nanos: i128::from(milli) * 1_000_000,
            format: Format::DecimalSi,
        }
    }

    /// The canonical text: the largest suffix without a fraction.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".into();
        }
        let sign = if self.nanos < 0 { "-" } else { "" };
        let n = self.nanos.unsigned_abs();
        let nano = NANO as u128;
        match self.format {
            Format::BinarySi if n >= 1024 * nano && n.is_multiple_of(nano) => {
                let mut value = n / nano;
                let mut power = 0;
                while value.is_multiple_of(1024) && power < 6 {
                    value /= 1024;
                    power += 1;
                }
                format!("{sign}{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power])
            }
            Format::DecimalExponent => {
                let (value, power) = thousands(n);
                let exponent = power as i32 * 3 - 9;
                if exponent == 0 {
                    format!("{sign}{value}")
                } else {
                    format!("{sign}{value}e{exponent}")
                }
            }
            // Binary quantities below 1024 or with a fraction are written in decimal.
            _ => {
                let (value, power) = thousands(n);
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power as usize];
                format!("{sign}{value}{suffix}")
            }
        }
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        divide_up(self.nanos, NANO)
    }

    /// Thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        divide_up(self.nanos, NANO / 1000)
    }

    /// -1, 0 or 1.
    pub fn signum(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum, in the form of `self`, capped.
    pub fn plus(&self, other: &Quantity) -> Quantity {
        Quantity {
            nanos: (self.nanos + other.nanos).clamp(-MAX, MAX),
            format: self.format,
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The largest power of a thousand (from nano, at most exa) that divides a positive number.
fn thousands(mut n: u128) -> (u128, u32) {
    let mut power = 0;
    while n.is_multiple_of(1000) && power < 9 {
        n /= 1000;
        power += 1;
    }
    (n, power)
}

#[derive(Clone, Copy)]
enum Scale {
    /// 1024^n
    Binary(u32),
    /// 10^n
    Decimal(i32),
}

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Scale::Decimal(*power), Format::DecimalSi));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Scale::Binary(power as u32 + 1), Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Far beyond any cap already; the exact number does not matter.
    let power = exponent
        .parse::<i32>()
        .unwrap_or(if exponent.starts_with('-') { -1000 } else { 1000 });
    Some((Scale::Decimal(power.clamp(-1000, 1000)), Format::DecimalExponent))
}

/// `digits / 10^fraction * scale` in nano-units, rounded up, saturating.
fn exact(digits: &str, fraction: usize, scale: Scale) -> i128 {
    if digits.is_empty() {
        return 0;
    }
    let (power, binary) = match scale {
        Scale::Decimal(power) => (power, 0),
        Scale::Binary(n) => (0, n * 10),
    };
    let mut shift = power + 9 - i32::try_from(fraction).unwrap_or(i32::MAX / 2).min(i32::MAX / 2);
    let digits_len = digits.len() as i64;
    // Too large for any cap, or too small for a nano.
    if digits_len + i64::from(shift) + i64::from(binary) * 301 / 1000 > 36 {
        return MAX;
    }
    // Keep 30 digits: below a nano they only decide about rounding up.
    let kept = &digits[..digits.len().min(30)];
    let dropped = digits.len() - kept.len();
    let mut round_up = digits[kept.len()..].bytes().any(|b| b != b'0');
    shift += dropped as i32;
    let Ok(mut value) = kept.parse::<i128>() else {
        return MAX;
    };
    if binary > 0 {
        let Some(scaled) = value.checked_shl(binary).filter(|v| v >> binary == value) else {
            return MAX;
        };
        value = scaled;
    }
    while shift < 0 && value > 0 {
        round_up |= value % 10 != 0;
        value /= 10;
        shift += 1;
    }
    while shift > 0 {
        let Some(scaled) = value.checked_mul(10) else {
            return MAX;
        };
        value = scaled;
        shift -= 1;
    }
    value.saturating_add(i128::from(round_up))
}

fn divide_up(n: i128, by: i128) -> i64 {
    let magnitude = n.unsigned_abs().div_ceil(by.unsigned_abs());
    let value = i64::try_from(magnitude).unwrap_or(i64::MAX);
    if n < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000", "1k"),
            ("1000m", "1"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.1Mi", "104857600m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("100m", "100m"),
            ("-1", "-1"),
            ("+3k", "3k"),
            ("1.", "1"),
            (".5", "500m"),
            ("0.0000000001", "1n"),
            ("1000000", "1M"),
            ("1000Ki", "1000Ki"),
            ("1024", "1024"),
            ("8Ei", "9223372036854775807"),
            ("1e100", "9223372036854775807e0"),
        ] {
            let got = Quantity::parse(text).map(|q| q.canonical());
            let want = want.trim_end_matches("e0");
            assert_eq!(got.as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn not_quantities() {
        for text in [
            "", "abc", "1x", "1 ", " 1", "--1", "1.2.3", "1mm", "1Kii", "e3", "1e", "1e+", "+", ".", "1ki",
            "NaN",
        ] {
            assert_eq!(Quantity::parse(text), Err(ParseQuantityError), "{text}");
        }
    }

    #[test]
    fn numbers() {
        let q = |t| Quantity::parse(t).unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1500u").milli_value(), 2);
        assert!(q("1Gi") > q("1G") && q("1k") == q("1000") && q("1") < q("1001m"));
        assert_eq!(q("1Gi").plus(&q("1Gi")).canonical(), "2Gi");
        assert!(q("1000m").is_integer() && !q("1m").is_integer());
    }

    #[test]
    fn long_texts_are_harmless() {
        let long = "9".repeat(10_000);
        assert_eq!(Quantity::parse(&long).unwrap().value(), i64::MAX);
        assert_eq!(Quantity::parse(&format!("0.{long}")).unwrap().canonical(), "1");
        assert_eq!(Quantity::parse(&format!("1e{long}")).unwrap().value(), i64::MAX);
        assert_eq!(
            Quantity::parse(&format!("1e-{long}")).unwrap().canonical(),
            "1e-9"
        );
    }
}
