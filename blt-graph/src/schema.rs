//! The JSON Schema of a parameter struct: names, docs and defaults of the parameters, and the keys
//! that the struct does not have.

use schemars::Schema;
use serde_json::{Map, Value};

/// One parameter of a node or step.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// The key in YAML.
    pub name: String,
    /// The type in words: `integer >= 0`, `list of integer`, `"global" or "relative"`.
    pub kind: String,
    /// The doc comment.
    pub doc: String,
    /// Whether the parameter must be given.
    pub required: bool,
    /// The default value.
    pub default: Option<Value>,
}

/// Bounds of a parameter's numbers, both included: what `#[range(1..=64)]` of `blt-derive` puts on
/// the parameter's schema. The numbers in a list, a tuple or a map have them too.
pub fn ranged<L: Into<Value>, M: Into<Value>>(least: L, most: M) -> impl FnMut(&mut Schema) {
    let (least, most) = (least.into(), most.into());
    move |schema| {
        if let Some(schema) = schema.as_object_mut() {
            bound(schema, &least, &most);
        }
    }
}

fn bound(schema: &mut Map<String, Value>, least: &Value, most: &Value) {
    let is = |name: &Value| name == "integer" || name == "number";
    let numeric = match schema.get("type") {
        Some(Value::Array(several)) => several.iter().any(is),
        Some(one) => is(one),
        None => false,
    };
    if numeric {
        schema.insert("minimum".into(), least.clone());
        schema.insert("maximum".into(), most.clone());
    }
    for inner in ["items", "additionalProperties", "prefixItems"] {
        match schema.get_mut(inner) {
            Some(Value::Object(inner)) => bound(inner, least, most),
            Some(Value::Array(several)) => {
                several
                    .iter_mut()
                    .filter_map(Value::as_object_mut)
                    .for_each(|inner| bound(inner, least, most));
            }
            _ => {}
        }
    }
}

/// The doc comment of the struct.
pub(crate) fn doc(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_string()
}

/// The parameters, in the order of the struct's fields.
pub(crate) fn params(root: &Value) -> Vec<Param> {
    let required: Vec<&str> = root
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let Some(properties) = root.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    properties
        .iter()
        .map(|(name, schema)| Param {
            name: name.clone(),
            kind: kind(root, schema, 0),
            doc: param_doc(root, schema),
            required: required.contains(&name.as_str()),
            default: schema.get("default").cloned(),
        })
        .collect()
}

/// The doc comment of a parameter, and those of the values of its enum.
fn param_doc(root: &Value, schema: &Value) -> String {
    let mut text = doc(schema);
    for one in alternatives(root, schema) {
        if let (Some(value), Some(doc)) =
            (one.get("const").and_then(Value::as_str), one.get("description"))
        {
            let doc = doc.as_str().unwrap_or_default().replace('\n', " ");
            text.push_str(&format!("{}`{value}`: {doc}", if text.is_empty() { "" } else { "\n" }));
        }
    }
    text
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|target| root.pointer(target.strip_prefix('#')?))
        .unwrap_or(schema)
}

fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let schema = resolve(root, schema);
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(list) = schema.get(key).and_then(Value::as_array) {
            return list.iter().flat_map(|one| alternatives(root, one)).collect();
        }
    }
    vec![schema]
}

fn kind(root: &Value, schema: &Value, depth: usize) -> String {
    // A type may contain itself; the help text stops at some depth.
    if depth > 4 {
        return "...".to_string();
    }
    let kinds: Vec<String> = alternatives(root, schema)
        .into_iter()
        .flat_map(|one| plain_kinds(root, one, depth))
        .collect();
    let mut distinct: Vec<String> = Vec::new();
    for kind in kinds {
        if kind != "null" && !distinct.contains(&kind) {
            distinct.push(kind);
        }
    }
    if distinct.is_empty() { "any value".to_string() } else { distinct.join(" or ") }
}

fn plain_kinds(root: &Value, schema: &Value, depth: usize) -> Vec<String> {
    if let Some(value) = schema.get("const") {
        return vec![value.to_string()];
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::to_string).collect();
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Vec::new(),
    };
    types
        .into_iter()
        .map(|name| match name {
            "array" => {
                match (schema.get("items"), schema.get("prefixItems").and_then(Value::as_array)) {
                    (_, Some(items)) => {
                        let items: Vec<String> =
                            items.iter().map(|item| kind(root, item, depth + 1)).collect();
                        format!("[{}]", items.join(", "))
                    }
                    (Some(items), None) => format!("list of {}", kind(root, items, depth + 1)),
                    (None, None) => "list".to_string(),
                }
            }
            "object" => match schema.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let fields: Vec<String> = properties
                        .iter()
                        .map(|(name, field)| format!("{name}: {}", kind(root, field, depth + 1)))
                        .collect();
                    format!("{{{}}}", fields.join(", "))
                }
                None => match schema.get("additionalProperties") {
                    Some(values @ Value::Object(_)) => {
                        format!("map to {}", kind(root, values, depth + 1))
                    }
                    _ => "map".to_string(),
                },
            },
            "integer" | "number" => match (schema.get("minimum"), schema.get("maximum")) {
                (Some(least), Some(most)) => format!("{name} from {least} to {most}"),
                (Some(least), None) => format!("{name} >= {least}"),
                (None, Some(most)) => format!("{name} <= {most}"),
                (None, None) => name.to_string(),
            },
            other => other.to_string(),
        })
        .collect()
}

/// The properties that an object value may have; `None` if any key is allowed.
fn known<'a>(root: &'a Value, schema: &'a Value) -> Option<Vec<(&'a str, &'a Value)>> {
    let mut properties = Vec::new();
    let mut closed = false;
    for one in alternatives(root, schema) {
        match one.get("additionalProperties") {
            None | Some(Value::Bool(false)) => {}
            Some(_) => return None,
        }
        if let Some(Value::Object(own)) = one.get("properties") {
            closed = true;
            properties.extend(own.iter().map(|(name, schema)| (name.as_str(), schema)));
        } else if one.get("type").is_none()
            && one.get("const").is_none()
            && one.get("enum").is_none()
        {
            // A schema without constraints accepts every key.
            return None;
        } else if one.get("type").is_some_and(|t| {
            t == "object" || t.as_array().is_some_and(|t| t.contains(&"object".into()))
        }) {
            // A struct without fields.
            closed = true;
        }
    }
    closed.then_some(properties)
}

/// What serde accepts and the schema does not.
pub(crate) enum Refused {
    /// A key that the schema does not have, and those that it has there. serde ignores such keys,
    /// so a misspelt parameter would keep its default without an error.
    Key(Vec<String>),
    /// A number that is not in its range: the number, and what is expected.
    Range(Value, String),
}

/// What of `value` the schema refuses, at any depth, and the path of each.
pub(crate) fn refused(root: &Value, value: &Map<String, Value>) -> Vec<(Vec<String>, Refused)> {
    let mut found = Vec::new();
    walk(root, root, &Value::Object(value.clone()), &mut Vec::new(), &mut found);
    found
}

/// Whether `number` is in the range of a schema of numbers; None for a schema of something else, and
/// for one without an upper bound, whose numbers serde judges.
fn in_range(schema: &Value, number: f64) -> Option<bool> {
    let kinds = plain_kinds(schema, schema, 0);
    if !kinds.iter().any(|kind| kind.starts_with("integer") || kind.starts_with("number")) {
        return None;
    }
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let most = bound("maximum")?;
    Some(bound("minimum").is_none_or(|least| least <= number) && number <= most)
}

fn walk(
    root: &Value,
    schema: &Value,
    value: &Value,
    path: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, Refused)>,
) {
    match value {
        Value::Number(number) => {
            let Some(as_float) = number.as_f64() else { return };
            let of_numbers = alternatives(root, schema).into_iter();
            let in_range: Vec<bool> =
                of_numbers.filter_map(|one| in_range(one, as_float)).collect();
            if !in_range.is_empty() && !in_range.contains(&true) {
                found.push((path.clone(), Refused::Range(value.clone(), kind(root, schema, 0))));
            }
        }
        Value::Object(map) => {
            let known = known(root, schema);
            for (key, child) in map {
                path.push(key.clone());
                match &known {
                    None => {
                        for one in alternatives(root, schema) {
                            if let Some(values @ Value::Object(_)) = one.get("additionalProperties")
                            {
                                walk(root, values, child, path, found);
                            }
                        }
                    }
                    Some(known) => match known.iter().find(|(name, _)| name == key) {
                        Some((_, schema)) => walk(root, schema, child, path, found),
                        None => {
                            let known = known.iter().map(|(name, _)| name.to_string()).collect();
                            found.push((path.clone(), Refused::Key(known)));
                        }
                    },
                }
                path.pop();
            }
        }
        Value::Array(items) => {
            let schemas = alternatives(root, schema);
            for (index, child) in items.iter().enumerate() {
                let of_item = |one: &Value| one.get("prefixItems")?.get(index).cloned();
                let item = schemas.iter().find_map(|one| of_item(one));
                let items = || schemas.iter().find_map(|one| one.get("items")).cloned();
                let Some(item) = item.or_else(items) else { return };
                path.push(index.to_string());
                walk(root, &item, child, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}
