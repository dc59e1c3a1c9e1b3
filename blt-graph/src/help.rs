//! [`help`]: the text that `nodes NAME` and `steps NAME` print.

use std::fmt::Write as _;

use serde_json::Value;

use crate::diagnostic::{Diagnostic, Diagnostics, nearest};
use crate::port::SlotType;
use crate::registry::{NodeEntry, Origin, find, find_step, nodes, steps, unknown};
use crate::schema::{self, Param};
use crate::spec::pipeline_schema;

/// The help text of a node or step: its doc, ports, parameters and an example. `kind` is `node` or
/// `step`, for the message about an unknown name.
///
/// # Errors
/// If neither a node nor a step has that name; the error suggests the nearest.
pub fn help(kind: &str, name: &str) -> Result<String, Diagnostics> {
    if let Some(entry) = find(name) {
        let mut text = title("node", name, &entry.origin, &entry.doc());
        push_inputs(&mut text, entry);
        push_outputs(&mut text, entry);
        push_params(&mut text, entry.schema());
        push_example(&mut text, entry.example);
        return Ok(text);
    }
    if let Some(entry) = find_step(name) {
        let mut text = title("step", name, &entry.origin, &entry.doc());
        push_params(&mut text, entry.schema());
        push_example(&mut text, entry.example);
        return Ok(text);
    }
    let (nodes, steps) = (nodes(), steps());
    let near = nearest(name, nodes.iter().map(|e| e.name).chain(steps.iter().map(|e| e.name)));
    Err(unknown(kind, name).suggest(near).into())
}

/// The help text of a pipeline's keys, or of one: a key of the top level, one below `ablate` or
/// `report`, or a parameter of any node or step. `report` is the schema of the section `report`.
///
/// # Errors
/// If there is no such key; the error suggests the nearest.
pub fn keys_help(name: Option<&str>, report: &Value) -> Result<String, Diagnostics> {
    let schema = pipeline_schema();
    let Some(name) = name else {
        let mut text = format!("{}\n", schema::doc(schema));
        push_params(&mut text, schema);
        return Ok(text);
    };
    let ablate = schema.pointer("/$defs/Ablate").unwrap_or(&Value::Null);
    let sections = [("a pipeline", schema), ("`ablate`", ablate), ("`report`", report)];
    let mut owners: Vec<(String, &Value)> =
        sections.into_iter().map(|(of, schema)| (of.to_string(), schema)).collect();
    owners.extend(nodes().into_iter().map(|entry| (entry.name.to_string(), entry.schema())));
    owners
        .extend(steps().into_iter().map(|entry| (format!("step {}", entry.name), entry.schema())));
    // Of each text, what has it.
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for (of, schema) in &owners {
        let Some(text) = key_text(name, schema) else { continue };
        match found.iter_mut().find(|(other, _)| *other == text) {
            Some((_, all)) => all.push(of.clone()),
            None => found.push((text, vec![of.clone()])),
        }
    }
    if found.is_empty() {
        let known: Vec<String> = owners
            .iter()
            .flat_map(|(_, schema)| schema::params(schema))
            .map(|param| param.name)
            .collect();
        let near = nearest(name, known.iter().map(String::as_str));
        let message = format!("no key and no parameter is called `{name}`");
        return Err(Diagnostic::error(message).suggest(near).into());
    }
    let texts = found.iter().map(|(text, of)| format!("{name} (of {})\n{text}", of.join(", ")));
    let mut text = texts.collect::<Vec<_>>().join("\n");
    match name {
        "ablate" => push_params(&mut text, ablate),
        "report" => push_params(&mut text, report),
        _ => {}
    }
    Ok(text)
}

/// The parameter `name` of `schema`, with the keys below it.
fn key_text(name: &str, schema: &Value) -> Option<String> {
    let param = schema::params(schema).into_iter().find(|param| param.name == name)?;
    let mut text = String::new();
    push_param(&mut text, &param);
    for below in schema::params_below(schema, name) {
        let mut inner = String::new();
        push_param(&mut inner, &below);
        for line in inner.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    Some(text)
}

fn title(kind: &str, name: &str, origin: &Origin, doc: &str) -> String {
    format!("{name} ({kind}, {} {})\n\n{doc}\n", origin.krate, origin.version)
}

fn push_inputs(text: &mut String, entry: &NodeEntry) {
    let slots = entry.in_slots();
    let bare = if slots.len() > 1 { entry.bare_input() } else { None };
    let note = |index: usize, slot: &SlotType| match (slot.optional, bare == Some(index)) {
        (true, _) => " (may be left out)",
        (_, true) => " (what a bare `in: wire` feeds)",
        _ => "",
    };
    push_ports(text, "Inputs", entry.inputs, &slots, note);
}

fn push_outputs(text: &mut String, entry: &NodeEntry) {
    let slots = entry.out_slots();
    let note = |index: usize, slot: &SlotType| match (slot.optional, index == 0 && slots.len() > 1)
    {
        (true, true) => " (what a bare wire to the node means; computed when used)",
        (false, true) => " (what a bare wire to the node means)",
        (true, false) => " (computed when used)",
        _ => "",
    };
    push_ports(text, "Outputs", entry.outputs, &slots, note);
}

fn push_ports(
    text: &mut String,
    title: &str,
    names: &[&str],
    slots: &[SlotType],
    note: impl Fn(usize, &SlotType) -> &'static str,
) {
    if names.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:");
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    for (index, (name, slot)) in names.iter().zip(slots).enumerate() {
        let line = format!("  {name:width$}  {}{}", slot.name, note(index, slot));
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn push_params(text: &mut String, schema: &Value) {
    let params = schema::params(schema);
    if params.is_empty() {
        return;
    }
    text.push_str("\nParameters:\n");
    params.iter().for_each(|param| push_param(text, param));
}

fn push_param(text: &mut String, param: &Param) {
    let default = match &param.default {
        _ if param.required => "required".to_string(),
        Some(Value::Null) | None => "may be left out".to_string(),
        Some(default) => format!("default {default}"),
    };
    let _ = writeln!(text, "  {}: {} ({default})", param.name, param.kind);
    for line in param.doc.lines() {
        let _ = writeln!(text, "{}", format!("      {line}").trim_end());
    }
}

fn push_example(text: &mut String, example: &str) {
    let _ = write!(text, "\nExample:\n  {}\n", example.trim());
}
