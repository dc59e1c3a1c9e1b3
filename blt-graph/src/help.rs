//! [`help`]: the text that `nodes NAME` and `steps NAME` print.

use std::fmt::Write as _;

use serde_json::Value;

use crate::diagnostic::{Diagnostics, nearest};
use crate::port::SlotType;
use crate::registry::{NodeEntry, Origin, find, find_step, nodes, steps, unknown};
use crate::schema;

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
        push_params(&mut text, &entry.schema());
        push_example(&mut text, entry.example);
        return Ok(text);
    }
    if let Some(entry) = find_step(name) {
        let mut text = title("step", name, &entry.origin, &entry.doc());
        push_params(&mut text, &entry.schema());
        push_example(&mut text, entry.example);
        return Ok(text);
    }
    let (nodes, steps) = (nodes(), steps());
    let near = nearest(name, nodes.iter().map(|e| e.name).chain(steps.iter().map(|e| e.name)));
    Err(unknown(kind, name).suggest(near).into())
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
    for param in params {
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
}

fn push_example(text: &mut String, example: &str) {
    let _ = write!(text, "\nExample:\n  {}\n", example.trim());
}
