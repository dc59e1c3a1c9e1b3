//! [`json_schema`]: what a pipeline may be, for editors and validators.

use serde_json::{Map, Value, json};

use crate::registry::{NodeEntry, StepEntry, nodes, steps};
use crate::spec::{RESERVED, pipeline_schema};

/// The JSON Schema (2020-12) of a pipeline with the nodes and steps that are linked into the program.
/// `report` is the schema of its section, which the graph does not read.
///
/// What YAML alone cannot say is left to `check`: that wires lead to nodes and fit them, that paths
/// of `ablate` name something, and what nodes ask of their parameters.
pub fn json_schema(report: &Value) -> Value {
    let mut schema = pipeline_schema().clone();
    let mut definitions =
        schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let (mut kinds, mut names) = (Vec::new(), Vec::new());
    for entry in nodes() {
        let name = format!("node-{}", entry.name);
        kinds.push(json!({
            "if": { "properties": { "node": { "const": entry.name } }, "required": ["node"] },
            "then": { "$ref": format!("#/$defs/{name}") },
        }));
        names.push(entry.name);
        definitions.insert(name, node(entry));
    }
    let mut of_steps = Map::new();
    for entry in steps() {
        let name = format!("step-{}", entry.name);
        let mut step = json!({ "$ref": format!("#/$defs/{name}") });
        step["description"] = json!(entry.doc());
        of_steps.insert(entry.name.to_string(), step);
        definitions.insert(name, step_schema(entry));
    }
    let step_names: Vec<&String> = of_steps.keys().collect();
    let item = json!({ "anyOf": [
        { "enum": step_names },
        {
            "type": "object", "properties": of_steps, "additionalProperties": false,
            "minProperties": 1, "maxProperties": 1,
        },
    ] });
    definitions.insert("report".into(), nested(report.clone(), "report"));
    definitions.insert(
        "node".into(),
        json!({
            "type": "object",
            "required": ["node"],
            "properties": { "node": { "enum": names } },
            "allOf": kinds,
        }),
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("A pipeline of blt");
    schema["additionalProperties"] = json!(false);
    let properties = &mut schema["properties"];
    properties["graph"]["additionalProperties"] = json!({ "$ref": "#/$defs/node" });
    properties["graph"]["propertyNames"] = json!({ "pattern": "^[^.\\s]+$" });
    properties["run"]["items"] = item;
    let doc = properties["report"]["description"].take();
    properties["report"] = json!({
        "description": doc, "anyOf": [{ "$ref": "#/$defs/report" }, { "type": "null" }],
    });
    schema["$defs"] = Value::Object(definitions);
    schema
}

/// The schema of a node: its parameters, and the keys that every node has.
fn node(entry: &NodeEntry) -> Value {
    let mut schema = closed(entry.schema(), &format!("node-{}", entry.name));
    let ports: Map<String, Value> = entry
        .inputs
        .iter()
        .zip(entry.in_slots())
        .map(|(port, slot)| {
            let wire =
                json!({ "type": "string", "description": format!("A wire of {}.", slot.name) });
            (port.to_string(), wire)
        })
        .collect();
    let required: Vec<&str> = entry
        .inputs
        .iter()
        .zip(entry.in_slots())
        .filter(|(_, slot)| !slot.optional)
        .map(|(port, _)| *port)
        .collect();
    let [kind, wires, doc] = RESERVED;
    let properties = &mut schema["properties"];
    properties[kind] = json!({ "const": entry.name, "description": entry.doc() });
    properties[doc] = json!({ "type": "string", "description": "A text of your own." });
    if !ports.is_empty() {
        let map = json!({
            "type": "object", "properties": ports, "required": required,
            "additionalProperties": false,
        });
        let mut forms = vec![map];
        if entry.bare_input().is_some() {
            forms.push(json!({ "type": "string" }));
        }
        properties[wires] = json!({ "description": "The wires that come in.", "anyOf": forms });
    }
    let mut needed = schema["required"].as_array().cloned().unwrap_or_default();
    needed.push(json!(kind));
    if !required.is_empty() {
        needed.push(json!(wires));
    }
    schema["required"] = Value::Array(needed);
    schema
}

fn step_schema(entry: &StepEntry) -> Value {
    let schema = closed(entry.schema(), &format!("step-{}", entry.name));
    // A step whose parameters all have defaults may have nothing after its name.
    match schema["required"].as_array().is_some_and(|required| !required.is_empty()) {
        true => schema,
        false => {
            let mut schema = schema;
            schema["type"] = json!(["object", "null"]);
            schema
        }
    }
}

/// A schema of parameters as one definition of many, with no key but its own.
fn closed(schema: &Value, name: &str) -> Value {
    let mut schema = nested(schema.clone(), name);
    close(&mut schema);
    if schema.get("properties").is_none() {
        schema["properties"] = json!({});
    }
    schema["additionalProperties"] = json!(false);
    schema
}

/// Moves references to definitions of the schema itself to where it becomes the definition `name`.
fn nested(mut schema: Value, name: &str) -> Value {
    fn move_in(value: &mut Value, name: &str) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get_mut("$ref")
                    && let Some(own) = target.strip_prefix("#/$defs/")
                {
                    *target = format!("#/$defs/{name}/$defs/{own}");
                }
                map.values_mut().for_each(|value| move_in(value, name));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| move_in(value, name)),
            _ => {}
        }
    }
    move_in(&mut schema, name);
    if let Some(map) = schema.as_object_mut() {
        map.shift_remove("$schema");
    }
    schema
}

/// Objects with properties take no others: `check` refuses unknown keys at any depth.
fn close(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("type").is_some_and(|kind| kind == "object")
                && map.contains_key("properties")
                && !map.contains_key("additionalProperties")
            {
                map.insert("additionalProperties".into(), json!(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
