//! What a crate of nodes and steps needs to test itself: [`self_test`].

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, list};
use crate::plan::{check_params, parsed};
use crate::registry::{NodeEntry, ParamError, StepEntry, duplicates, nodes, steps};
use crate::schema;
use crate::spec::{Inputs, NodeSpec, Places, RESERVED, StepSpec, is_name};

/// Checks every registered node and step and returns what is wrong with each:
///
/// - it has no doc comment, or one of its parameters has none;
/// - a parameter has a reserved name;
/// - the port names do not match the port types in number, repeat, or cannot be written in a wire;
/// - the example does not parse, is of another node, or does not fit the schema;
/// - two nodes, or two steps, have the same name.
///
/// ```
/// assert_eq!(blt_graph::testing::self_test(), [""; 0]);
/// ```
pub fn self_test() -> Vec<String> {
    let mut wrong: Vec<String> = duplicates().into_iter().map(|d| d.message).collect();
    for entry in nodes() {
        let found = check_node(entry);
        wrong.extend(found.iter().map(|f| format!("node {} ({}): {f}", entry.name, entry.origin)));
    }
    for entry in steps() {
        let found = check_step(entry);
        wrong.extend(found.iter().map(|f| format!("step {} ({}): {f}", entry.name, entry.origin)));
    }
    wrong
}

fn check_node(entry: &NodeEntry) -> Vec<String> {
    let mut wrong = Vec::new();
    for (what, names, slots) in
        [("INPUTS", entry.inputs, entry.in_slots()), ("OUTPUTS", entry.outputs, entry.out_slots())]
    {
        if names.len() != slots.len() {
            wrong.push(format!("{what} names {} ports, its type has {}", names.len(), slots.len()));
        }
        if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
            wrong.push(format!("{what} names a port twice: {names:?}"));
        }
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            wrong.push(format!("{what} has `{name}`: a port name is letters, digits, `_` and `-`"));
        }
    }
    let schema = entry.schema();
    for param in schema::params(schema) {
        if RESERVED.contains(&param.name.as_str()) {
            wrong.push(format!("a parameter may not be called `{}`", param.name));
        }
    }
    check_docs(schema, &mut wrong);
    match NodeSpec::parse_example(entry.name, entry.example) {
        Err(diagnostics) => wrong.push(format!("its example does not parse:\n{diagnostics}")),
        Ok(node) if node.node != entry.name => {
            wrong.push(format!("its example is of `{}`", node.node));
        }
        Ok(node) => {
            let mut found = check_wires(entry, &node);
            found.extend(check_example(entry.name, schema, &node.params, |params| {
                Ok(entry.parse(params)?.params)
            }));
            wrong.extend(refused(&found));
        }
    }
    wrong
}

fn check_step(entry: &StepEntry) -> Vec<String> {
    let mut wrong = Vec::new();
    let schema = entry.schema();
    check_docs(schema, &mut wrong);
    match StepSpec::parse_example(entry.name, entry.example) {
        Err(diagnostics) => wrong.push(format!("its example does not parse:\n{diagnostics}")),
        Ok(step) if step.step != entry.name => {
            wrong.push(format!("its example is of `{}`", step.step));
        }
        Ok(step) => {
            let found = check_example(entry.name, schema, &step.params, |params| {
                Ok(entry.parse(params)?.params)
            });
            wrong.extend(refused(&found));
        }
    }
    wrong
}

fn check_docs(schema: &Value, wrong: &mut Vec<String>) {
    if schema::doc(schema).trim().is_empty() {
        wrong.push("it has no doc comment".to_string());
    }
    for param in schema::params(schema) {
        if param.doc.trim().is_empty() {
            wrong.push(format!("parameter `{}` has no doc comment", param.name));
        }
    }
}

fn refused(found: &[Diagnostic]) -> Option<String> {
    let found: Vec<String> = found.iter().map(|diagnostic| diagnostic.render(false)).collect();
    (!found.is_empty()).then(|| format!("its example is refused:\n{}", found.join("\n\n")))
}

/// The mistakes in the wires of a node's example.
fn check_wires(entry: &NodeEntry, node: &NodeSpec) -> Vec<Diagnostic> {
    let what = format!("the example of {}", entry.name);
    let mut found = Vec::new();
    if let Inputs::Map(wires) = &node.inputs {
        for (port, _) in wires.iter().filter(|(port, _)| !entry.inputs.contains(&port.as_str())) {
            found.push(Diagnostic::error(format!("{what} has no input `{port}`")));
        }
    }
    let bare = matches!(node.inputs, Inputs::One(_)) && entry.bare_input().is_none();
    let none =
        matches!(node.inputs, Inputs::None) && entry.in_slots().iter().any(|slot| !slot.optional);
    if bare || none {
        found.push(Diagnostic::error(format!(
            "{what} does not wire its inputs {}",
            list(entry.inputs.iter().copied())
        )));
    }
    found
}

/// Checks that the parameters of an example fit the schema and the struct, and so do the parameters
/// that the struct gives back.
fn check_example(
    name: &str,
    schema: &Value,
    params: &Map<String, Value>,
    parse: impl Fn(&Value) -> Result<Map<String, Value>, ParamError>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let (places, what) = (Places::default(), format!("the example of {name}"));
    if check_params(schema, params, &places, &[], &what, &mut found) {
        let at = (&places, &[][..]);
        if let Some(params) = parsed(schema, params, at, &what, &mut found, &parse)
            && let Some(params) = parsed(schema, &params, at, &what, &mut found, &parse)
        {
            check_params(schema, &params, &places, &[], &what, &mut found);
        }
    }
    found
}
