//! [`key_of`]: the key of a step.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The version of the store's layout and of the content of keys. Part of every key.
pub const STORE_FORMAT: u32 = 1;

/// The key of `what`: 32 hex digits of blake3 over its canonical JSON, in which maps are sorted.
pub fn key_of(what: &Value) -> String {
    blake3::hash(canonical(what).to_string().as_bytes()).to_hex()[..32].to_string()
}

fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, Value> =
                map.iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(
                sorted.into_iter().map(|(key, value)| (key.clone(), value)).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::key_of;
    use serde_json::json;

    #[test]
    fn keys_ignore_the_order_of_maps_and_nothing_else() {
        let a = json!({"x": 1, "y": {"p": [1, 2], "q": 0}});
        let b = json!({"y": {"q": 0, "p": [1, 2]}, "x": 1});
        assert_eq!(key_of(&a), key_of(&b));
        assert_ne!(key_of(&a), key_of(&json!({"x": 1, "y": {"p": [2, 1], "q": 0}})));
        assert_ne!(key_of(&json!(1)), key_of(&json!(1.0)));
    }
}
