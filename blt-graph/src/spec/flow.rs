//! [`flow`]: a value as a user would write it on one line.

use serde_json::Value;

use crate::spec::resolve;

/// `value` in YAML on one line: `{node: StridePatch, sizes: [3, 4]}`.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| format!("{}: {}", word(key), flow(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// A text without quotes where it needs none.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    let is_text = matches!(resolve(text), Ok(Value::String(_)));
    match text.chars().all(plain) && is_text && !text.starts_with(['-', '.']) {
        true => text.to_string(),
        // A text in JSON is one in YAML.
        false => Value::from(text).to_string(),
    }
}
