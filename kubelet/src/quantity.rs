//! Kubernetes quantities as numbers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in billionths, exact for everything the API accepts below 10^29; `None` when it is no quantity.
pub fn nano(quantity: &Quantity) -> Option<i128> {
    parse_nano(&quantity.0)
}

/// CPU in thousandths of a core, rounded up.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    let nano = nano(quantity)?;
    i64::try_from(nano.div_euclid(1_000_000) + i128::from(nano.rem_euclid(1_000_000) != 0)).ok()
}

/// Whole units (bytes), rounded up.
pub fn value(quantity: &Quantity) -> Option<i64> {
    let nano = nano(quantity)?;
    i64::try_from(nano.div_euclid(1_000_000_000) + i128::from(nano.rem_euclid(1_000_000_000) != 0)).ok()
}

fn parse_nano(text: &str) -> Option<i128> {
    let (sign, text) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // 10^power * 2^(10 * kibis), in billionths.
    let (power, kibis) = match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 1),
        "Mi" => (0, 2),
        "Gi" => (0, 3),
        "Ti" => (0, 4),
        "Pi" => (0, 5),
        "Ei" => (0, 6),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?, 0),
    };
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let power = power + 9 - i32::try_from(fraction.len()).ok()?;
    let scaled = digits.checked_mul(1_i128.checked_shl(10 * kibis)?)?;
    let magnitude = if power >= 0 {
        scaled.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?
    } else {
        let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
        scaled / divisor + i128::from(scaled % divisor != 0)
    };
    Some(sign * magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let rows = [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("0.5", 500, 1),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("128Mi", 134_217_728_000, 134_217_728),
            ("1e3", 1_000_000, 1000),
            ("2k", 2_000_000, 2000),
            ("1u", 1, 1),
            ("0", 0, 0),
        ];
        for (text, expect_milli, expect_value) in rows {
            let quantity = Quantity(text.into());
            assert_eq!(milli(&quantity), Some(expect_milli), "{text}");
            assert_eq!(value(&quantity), Some(expect_value), "{text}");
        }
        for text in ["", "abc", "1.2.3", "1Qi", "Ki", "."] {
            assert_eq!(nano(&Quantity(text.into())), None, "{text}");
        }
    }
}
