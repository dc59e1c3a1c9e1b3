//! Numbers and lists of names as text.

/// `a, b and c`.
pub fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A whole number with commas between thousands.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value <= -0.5 { format!("-{out}") } else { out }
}

/// Millions, to three digits or so.
pub fn mega(flops: f64) -> String {
    let value = flops / 1e6;
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v < 0.0995 => format!("{value:.4}"),
        v if v < 9.995 => format!("{value:.3}"),
        v if v < 99.95 => format!("{value:.2}"),
        v if v < 999.5 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// A number to so many significant digits, without trailing zeros.
pub fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-5..9).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.*}", (digits - 1 - magnitude).max(0) as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            [0.0, 999.4, 1000.0, 1234567.0, -1234.0, -0.2].map(grouped),
            ["0", "999", "1,000", "1,234,567", "-1,234", "0"]
        );
        assert_eq!(
            [0.0, 4e4, 5.2e5, 1.23456e7, 1.5e8, 2e9].map(mega),
            ["0", "0.0400", "0.520", "12.35", "150.0", "2,000"]
        );
        assert_eq!(
            [0.71234, 100.0, 0.0, 1.5e-7, 12345678.0].map(|x| significant(x, 4)),
            ["0.7123", "100", "0", "1.500e-7", "12345678"]
        );
        assert_eq!(
            (listed(&["a"]), listed(&["a", "b", "c"])),
            ("a".to_owned(), "a, b and c".to_owned())
        );
    }
}
