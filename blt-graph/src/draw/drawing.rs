//! [`Drawing`]: what a picture of a plan shows.

use std::collections::BTreeSet;

use crate::plan::{Plan, info_text};
use crate::spec::{Axis, PipelineSpec, flow};

/// A graph to be drawn: boxes and wires, the steps, and what the other variants change.
pub struct Drawing {
    pub(super) title: String,
    pub(super) boxes: Vec<Node>,
    pub(super) wires: Vec<Wire>,
    /// `train loss`, in order.
    pub(super) steps: Vec<String>,
    /// `stride-6: graph.patches.stride = 6`.
    pub(super) variants: Vec<String>,
}

/// A box.
pub(super) struct Node {
    pub name: String,
    pub kind: &'static str,
    /// The parameters that are written.
    pub params: Vec<String>,
    /// The inputs that have wires.
    pub inputs: Vec<&'static str>,
    /// The outputs that have wires, with what is known of them: `patches: PatchStates, dim 64`.
    pub outputs: Vec<(&'static str, String)>,
    /// Whether a step needs it.
    pub used: bool,
    /// Whether another variant changes it.
    pub varies: bool,
}

/// A wire, by indices: of boxes, and of the output and the input in them.
pub(super) struct Wire {
    pub from: (usize, usize),
    pub to: (usize, usize),
}

impl Drawing {
    /// The drawing of `plan`, a variant of `written`.
    pub fn of(written: &PipelineSpec, plan: &Plan) -> Self {
        let edits = edits(written);
        let varies = |name: &str| {
            let node = format!("graph.{name}");
            edits.iter().any(|(_, path, _)| {
                path == "graph"
                    || path
                        .strip_prefix(&node)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let wired: BTreeSet<(usize, usize)> = plan
            .nodes()
            .iter()
            .flat_map(|node| node.inputs.iter().flatten())
            .map(|id| (id.node, id.port))
            .collect();
        let mut boxes = Vec::new();
        // The place of each output in its box.
        let mut places = Vec::new();
        for (index, node) in plan.nodes().iter().enumerate() {
            let slots = node.entry.out_slots();
            let shown: Vec<usize> = (0..slots.len())
                .filter(|port| wired.contains(&(index, *port)) || slots.len() == 1)
                .collect();
            let outputs = shown.iter().map(|&port| {
                let info = node.infos.get(port).and_then(Option::as_ref).map(info_text);
                (
                    node.entry.outputs[port],
                    format!("{}{}", slots[port].name, sizes(&info.unwrap_or_default())),
                )
            });
            let inputs = node.entry.inputs.iter().zip(&node.inputs);
            let params = plan.spec.graph.node(&node.name).map(|spec| &spec.params);
            boxes.push(Node {
                name: node.name.clone(),
                kind: node.entry.name,
                params: params
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| format!("{name}: {}", flow(value)))
                    .collect(),
                inputs: inputs.filter(|(_, id)| id.is_some()).map(|(port, _)| *port).collect(),
                outputs: outputs.collect(),
                used: node.used,
                varies: varies(&node.name),
            });
            places.push(shown);
        }
        let mut wires = Vec::new();
        for (index, node) in plan.nodes().iter().enumerate() {
            for (input, id) in node.inputs.iter().flatten().enumerate() {
                if let Some(output) = places[id.node].iter().position(|port| *port == id.port) {
                    wires.push(Wire { from: (id.node, output), to: (index, input) });
                }
            }
        }
        let mut variants: Vec<String> = Vec::new();
        for (variant, path, value) in &edits {
            variants.push(format!("{variant}: {path} = {value}"));
        }
        let goals = |step: &crate::plan::PlannedStep| step.goals.join(", ");
        Drawing {
            title: format!("{}, variant {}", plan.pipeline, plan.variant),
            boxes,
            wires,
            steps: plan
                .steps()
                .iter()
                .map(|step| format!("{} {}", step.entry.name, goals(step)))
                .collect(),
            variants,
        }
    }
}

/// The numbers of what is known of an output, `, dim 64`; the rest is in the text of the graph.
fn sizes(info: &str) -> String {
    let fields = info.trim_matches(['{', '}', ' ']).split(", ");
    let sizes = fields.filter(|field| field.ends_with(|c: char| c.is_ascii_digit()));
    sizes.map(|field| format!(", {}", field.replace(": ", " "))).collect()
}

/// What variants set: the variant or the key of the grid, the path, the value.
fn edits(written: &PipelineSpec) -> Vec<(String, String, String)> {
    let mut edits = Vec::new();
    for (name, of) in &written.ablate.named {
        edits.extend(of.iter().map(|(path, value)| (name.clone(), path.clone(), flow(value))));
    }
    for (key, axis) in &written.ablate.grid {
        match axis {
            Axis::Values(values) => {
                let values: Vec<String> = values.iter().map(flow).collect();
                edits.push(("grid".to_string(), key.clone(), values.join(" | ")));
            }
            Axis::Options(options) => {
                for (option, of) in options {
                    let name = format!("{key}={option}");
                    edits.extend(
                        of.iter().map(|(path, value)| (name.clone(), path.clone(), flow(value))),
                    );
                }
            }
        }
    }
    edits
}
