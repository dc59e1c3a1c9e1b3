//! Literals as bounds on the integers that a column's numbers, dates or times are made of, so that
//! they are compared exactly.

use std::cmp::Ordering;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, TimeUnit, i256};

/// A number as it was written: `digits / 10^scale`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    /// As it was written.
    pub text: String,
    digits: i256,
    scale: i64,
    /// The nearest one.
    pub float: f64,
}

impl Number {
    /// None if it is no number, or one of too many digits.
    pub fn parse(text: &str) -> Option<Self> {
        let float = text.parse().ok().filter(|x: &f64| x.is_finite())?;
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let digits = i256::from_string(digits.strip_prefix('+').unwrap_or(&digits))?;
        let scale = fraction.len() as i64 - exponent.parse::<i32>().ok().map(i64::from)?;
        Some(Number { text: text.to_owned(), digits, scale, float })
    }

    /// The bound on integers that count `10^-scale`.
    pub fn bound(&self, scale: i8) -> Bound {
        let ten = i256::from_i128(10);
        let more = i64::from(scale) - self.scale;
        let power = u32::try_from(more.unsigned_abs()).ok().filter(|n| *n <= 76);
        let power = power.and_then(|n| ten.checked_pow(n));
        match (more >= 0, power) {
            (true, power) => match power.and_then(|power| self.digits.checked_mul(power)) {
                Some(floor) => Bound { floor, rest: false },
                None if self.digits == i256::ZERO => Bound { floor: i256::ZERO, rest: false },
                None if self.digits.is_negative() => Bound { floor: i256::MIN, rest: false },
                None => Bound { floor: i256::MAX, rest: true },
            },
            (false, Some(power)) => Bound::divided(self.digits, power),
            (false, None) => Bound {
                floor: if self.digits.is_negative() { i256::MINUS_ONE } else { i256::ZERO },
                rest: self.digits != i256::ZERO,
            },
        }
    }
}

/// A number between integers: `floor`, or with a rest some way from there to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bound {
    floor: i256,
    rest: bool,
}

impl Bound {
    fn divided(number: i256, by: i256) -> Self {
        let rest = number % by;
        let floor = number / by;
        let floor = if rest.is_negative() { floor - i256::ONE } else { floor };
        Bound { floor, rest: rest != i256::ZERO }
    }

    /// How an integer stands to the number.
    pub fn order(&self, integer: i256) -> Ordering {
        let equal = if self.rest { Ordering::Less } else { Ordering::Equal };
        integer.cmp(&self.floor).then(equal)
    }
}

/// The bound on the integers of a column of dates or timestamps that a text names. A text without a
/// zone is of the column's, or else of UTC. None if it names no time.
pub(super) fn time(text: &str, data_type: &DataType) -> Option<Bound> {
    let (zone, nanoseconds) = match data_type {
        DataType::Date32 => (None, 86_400_000_000_000),
        DataType::Date64 => (None, 1_000_000),
        DataType::Timestamp(unit, zone) => {
            let nanoseconds = match unit {
                TimeUnit::Second => 1_000_000_000,
                TimeUnit::Millisecond => 1_000_000,
                TimeUnit::Microsecond => 1000,
                TimeUnit::Nanosecond => 1,
            };
            (zone.as_deref(), nanoseconds)
        }
        _ => return None,
    };
    let zone: Tz = zone.unwrap_or("+00:00").parse().ok()?;
    let at = string_to_datetime(&zone, text.trim()).ok()?;
    let all = i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos());
    Some(Bound::divided(i256::from_i128(all), i256::from_i128(nanoseconds)))
}

/// Whether a value is as a pattern has it: `%` stands for any bytes, `_` for one character, and a
/// backslash makes the character behind it stand for itself.
pub(super) fn is_like(value: &[u8], pattern: &[u8]) -> bool {
    // A character of UTF-8, or a byte that begins none.
    let character = |at: usize| {
        let continued = |b: &&u8| (0x80..0xc0).contains(*b);
        match value[at] {
            0xc0.. => 1 + value[at + 1..].iter().take(3).take_while(continued).count(),
            _ => 1,
        }
    };
    let (mut at, mut of, mut retry) = (0, 0, None);
    loop {
        match pattern.get(of) {
            Some(b'%') => {
                retry = Some((at, of + 1));
                of += 1;
                continue;
            }
            Some(b'_') if at < value.len() => {
                (at, of) = (at + character(at), of + 1);
                continue;
            }
            None if at == value.len() => return true,
            Some(&byte) if byte != b'_' => {
                let escaped = if byte == b'\\' { pattern.get(of + 1) } else { None };
                if value.get(at) == Some(escaped.unwrap_or(&byte)) {
                    (at, of) = (at + 1, of + 1 + usize::from(escaped.is_some()));
                    continue;
                }
            }
            _ => {}
        }
        // The last `%` takes a byte more.
        match retry {
            Some((from, after)) if from < value.len() => {
                retry = Some((from + 1, after));
                (at, of) = (from + 1, after);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_held_against_integers_exactly() {
        for (text, scale, integer, expected) in [
            ("9007199254740993", 0, "9007199254740992", Ordering::Less),
            ("0.5", 0, "0", Ordering::Less),
            ("-0.5", 0, "0", Ordering::Greater),
            ("-0.5", 0, "-1", Ordering::Less),
            ("1e3", 0, "1000", Ordering::Equal),
            ("1.50", 1, "15", Ordering::Equal),
            ("1.05", 1, "10", Ordering::Less),
            ("1e300", 0, "9999999999", Ordering::Less),
            ("-1e300", 5, "-9999999999", Ordering::Greater),
            ("1e-300", 30, "0", Ordering::Less),
            ("-1e-300", 30, "0", Ordering::Greater),
            ("0e300", 30, "0", Ordering::Equal),
            ("18446744073709551615", 0, "18446744073709551615", Ordering::Equal),
        ] {
            let bound = Number::parse(text).unwrap().bound(scale);
            let integer = i256::from_string(integer).unwrap();
            assert_eq!(bound.order(integer), expected, "{text}");
        }
        assert!(Number::parse(&"9".repeat(90)).is_none() && Number::parse("1x").is_none());
    }

    #[test]
    fn patterns() {
        for (value, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("a", "", false),
            ("abc", "a%", true),
            ("abc", "%b%", true),
            ("abc", "%c", true),
            ("abcbc", "%bc", true),
            ("abc", "_b_", true),
            ("abc", "__", false),
            ("한국", "__", true),
            ("한국", "_국", true),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("a\\", "a\\", true),
            ("aaaaab", "a%a%b", true),
            ("aaaaa", "a%a%b", false),
            ("a\nb", "a%b", true),
        ] {
            assert_eq!(
                is_like(value.as_bytes(), pattern.as_bytes()),
                expected,
                "{value} {pattern}"
            );
        }
        assert!(is_like(b"\xff\xfe", b"__") && is_like(b"x\xff", b"x%"));
    }
}
