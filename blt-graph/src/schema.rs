//! The JSON Schema of a parameter struct: names, docs and defaults of the parameters, and the keys
//! that the struct does not have.

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
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

/// The schema of a parameter that is one of some words, for a type without a schema of its own:
/// `#[schemars(schema_with = "blt_graph::words::<Packing>")]`. serde knows the words.
pub fn words<T: DeserializeOwned>(_: &mut SchemaGenerator) -> Schema {
    let refused = serde_json::from_value::<T>("\u{0}".into()).err().map(|error| error.to_string());
    let mut words: Vec<Value> =
        options(&refused.unwrap_or_default()).into_iter().map(Value::from).collect();
    if serde_json::from_value::<T>(Value::Null).is_ok() {
        words.push(Value::Null);
    }
    schemars::json_schema!({ "enum": words })
}

/// As [`words`], of a list.
pub fn list_of_words<T: DeserializeOwned>(generator: &mut SchemaGenerator) -> Schema {
    let items = words::<T>(generator);
    schemars::json_schema!({ "type": "array", "items": items })
}

/// The words that serde's message about another one names; none of another message.
pub(crate) fn options(message: &str) -> Vec<&str> {
    match message.strip_prefix("unknown variant `") {
        Some(rest) => rest.split('`').skip(2).step_by(2).collect(),
        None => Vec::new(),
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

/// The keys below the parameter `name`, if it is a map with keys of its own.
pub(crate) fn params_below(root: &Value, name: &str) -> Vec<Param> {
    let Some(schema) = at(root, &[name.to_string()]) else { return Vec::new() };
    // References of what is below are to the root's definitions.
    let definitions = root.get("$defs").cloned().unwrap_or_default();
    let with_keys =
        alternatives(root, schema).into_iter().filter(|one| one.get("properties").is_some());
    with_keys
        .flat_map(|one| {
            let mut one = one.clone();
            one["$defs"] = definitions.clone();
            params(&one)
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
        return values.iter().filter(|value| !value.is_null()).map(Value::to_string).collect();
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
                        match items.as_slice() {
                            [first, rest @ ..] if rest.iter().all(|item| item == first) => {
                                format!("list of {} of {first}", items.len())
                            }
                            items => format!("[{}]", items.join(", ")),
                        }
                    }
                    (Some(items), None) => format!("list of {}", kind(root, items, depth + 1)),
                    (None, None) => "list".to_string(),
                }
            }
            "object" => match schema.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let fields: Vec<String> = properties
                        .iter()
                        .map(|(name, field)| {
                            // The ranges of a map's fields would make its line too long to read.
                            let mut field = field.clone();
                            if let Some(field) = field.as_object_mut() {
                                field.retain(|key, _| key != "minimum" && key != "maximum");
                            }
                            format!("{name}: {}", kind(root, &field, depth + 1))
                        })
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

/// The schema of the value at `path` in the parameters.
fn at<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |schema, key| {
        alternatives(root, schema).into_iter().find_map(|one| {
            let item = || one.get("prefixItems")?.get(key.parse::<usize>().ok()?);
            let property = one.get("properties").and_then(|properties| properties.get(key));
            property
                .or_else(item)
                .or_else(|| one.get("items"))
                .or_else(|| one.get("additionalProperties"))
        })
    })
}

/// What a value at `path` in the parameters may be, in words; `None` if the schema does not say.
pub(crate) fn expected(root: &Value, path: &[String]) -> Option<String> {
    let kind = kind(root, at(root, path)?, 0);
    Some(match kind.as_str() {
        "any value" => return None,
        "number" => "a number".to_string(),
        "string" => "a text".to_string(),
        "boolean" => "true or false".to_string(),
        _ if kind.starts_with("integer") => format!("an {kind}"),
        _ if kind.starts_with("list") || kind.starts_with("map") => format!("a {kind}"),
        _ => kind,
    })
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
