//! [`describe`]: a plan as text.

use std::fmt::Write as _;

use crate::plan::Plan;
use crate::port::AnyInfo;
use crate::spec::{GraphSpec, Inputs, flow};

/// The graph of `plan` as text for the user: nodes in the order of data flow, wires, types, and
/// what is known of each output.
pub fn describe(plan: &Plan) -> String {
    let mut text = format!("{} (variant {}, seed {})\n", plan.pipeline, plan.variant, plan.seed);
    if let Some(doc) = &plan.spec.doc {
        let _ = writeln!(text, "{}", doc.trim_end());
    }
    let width = plan.nodes().iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    text.push_str("\ngraph\n");
    for node in plan.nodes() {
        let wires = plan.wires(node);
        let wires: Vec<String> = wires
            .iter()
            .filter_map(|(port, wire)| {
                let wire = wire.as_ref()?;
                Some(if wires.len() == 1 { wire.clone() } else { format!("{port}: {wire}") })
            })
            .collect();
        let reads =
            if wires.is_empty() { String::new() } else { format!(" <- {}", wires.join(", ")) };
        let unused = if node.used { "" } else { "  (not used in this variant)" };
        let _ = writeln!(text, "  {:width$}  {}{reads}{unused}", node.name, node.entry.name);
        for (index, (port, slot)) in
            node.entry.outputs.iter().zip(node.entry.out_slots()).enumerate()
        {
            let info = match node.infos.get(index) {
                None => String::new(),
                Some(None) => " (not given with these parameters)".to_string(),
                Some(Some(info)) => match info_text(info) {
                    text if text.is_empty() => text,
                    text => format!(" {text}"),
                },
            };
            let _ = writeln!(text, "  {:width$}    .{port}: {}{info}", "", slot.name);
        }
        match node.node.stands_for(&plan.base_dir) {
            Ok(None) => {}
            Ok(Some(graph)) => {
                let _ = writeln!(text, "  {:width$}    stands for", "");
                for line in parts(&graph) {
                    let _ = writeln!(text, "  {:width$}      {line}", "");
                }
            }
            Err(error) => {
                let _ =
                    writeln!(text, "  {:width$}    stands for what cannot be read: {error}", "");
            }
        }
    }
    if !plan.steps().is_empty() {
        text.push_str("\nrun\n");
    }
    for (index, step) in plan.steps().iter().enumerate() {
        let params: Vec<String> =
            step.params.iter().map(|(name, value)| format!("{name}: {}", flow(value))).collect();
        let _ = writeln!(text, "  {index}  {} {{{}}}", step.entry.name, params.join(", "));
    }
    text
}

/// What is known of an output, in words: `{ dim: 64 }`. Empty if nothing is.
pub(crate) fn info_text(info: &AnyInfo) -> String {
    match format!("{info:?}").as_str() {
        "()" => String::new(),
        // Leave out the type's name, with which a derived `Debug` begins.
        debug => debug.find([' ', '(']).map_or(debug, |at| debug[at..].trim_start()).to_string(),
    }
}

/// The nodes of a graph as a user would write them, one a line.
fn parts(graph: &GraphSpec) -> Vec<String> {
    let width = graph.nodes.iter().map(|node| node.name.chars().count() + 1).max().unwrap_or(0);
    let line = |node: &crate::spec::NodeSpec| {
        let mut fields = vec![format!("node: {}", node.node)];
        match &node.inputs {
            Inputs::None => {}
            Inputs::One(wire) => fields.push(format!("in: {wire}")),
            Inputs::Map(wires) => {
                let wires: Vec<String> =
                    wires.iter().map(|(port, wire)| format!("{port}: {wire}")).collect();
                fields.push(format!("in: {{{}}}", wires.join(", ")));
            }
        }
        fields.extend(node.params.iter().map(|(name, value)| format!("{name}: {}", flow(value))));
        format!("{:width$} {{{}}}", format!("{}:", node.name), fields.join(", "))
    };
    graph.nodes.iter().map(line).collect()
}
