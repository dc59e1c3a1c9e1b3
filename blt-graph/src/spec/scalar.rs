//! What an unquoted YAML scalar means.

use serde_json::{Number, Value};

/// The value of the unquoted scalar `text`. Follows serde_yaml, which writes pipelines.
///
/// # Errors
/// If `text` is a number that is not finite.
pub(crate) fn resolve(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("`{text}` is not a finite number"));
    }
    let starts_with_digit = |digits: &str| digits.starts_with(|c: char| c.is_ascii_digit());
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = digits.strip_prefix(prefix) {
            let magnitude =
                u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with(['+', '-']));
            return Ok(match magnitude {
                Some(magnitude) if !negative => Value::from(magnitude),
                Some(magnitude) if magnitude <= i64::MAX as u64 => Value::from(-(magnitude as i64)),
                _ => Value::from(text),
            });
        }
    }
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits && digits.len() > 1 && digits.starts_with('0') {
        // `007` is a name, not seven.
        return Ok(Value::from(text));
    }
    if all_digits {
        if let Ok(number) = text.parse::<u64>() {
            return Ok(Value::from(number));
        }
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Value::from(number));
        }
    }
    // Rust parses `inf`, `nan` and `infinity` as floats; YAML does not.
    if (starts_with_digit(digits) || digits.strip_prefix('.').is_some_and(starts_with_digit))
        && let Ok(number) = text.parse::<f64>()
    {
        return Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| format!("`{text}` is too large"));
    }
    Ok(Value::from(text))
}
