//! Wires: where each one leads, whether its type fits, and the order that they put nodes in.

use crate::diagnostic::{Diagnostic, list, nearest};
use crate::plan::check::candidate::Candidate;
use crate::plan::find::{PortId, find_port};
use crate::port::SlotType;
use crate::spec::{Inputs, PipelineSpec};

/// A wire as written.
struct Written<'a> {
    /// The input that it leads to, by position.
    input: usize,
    /// `node` or `node.port`.
    wire: &'a str,
    /// The wire's path in the document.
    path: Vec<&'a str>,
}

/// Resolves all wires. `some_unknown`: some nodes are of an unknown kind and not in `nodes`. A wire
/// to one of them is then no second error.
pub(super) fn wire(
    spec: &PipelineSpec,
    nodes: &mut [Candidate],
    some_unknown: bool,
    found: &mut Vec<Diagnostic>,
) {
    for index in 0..nodes.len() {
        let before = found.len();
        let written = written(spec, &nodes[index], found);
        let mut complete = true;
        for Written { input, wire, path } in written {
            match find_port(wire, nodes) {
                Ok((node, port)) => {
                    let from = PortId { node, port };
                    match mismatch(nodes, index, input, from, wire) {
                        None => nodes[index].inputs[input] = Some(from),
                        Some(mut diagnostic) => {
                            diagnostic.place = spec.places.value(&path);
                            diagnostic.path = path.join(".");
                            found.push(diagnostic);
                        }
                    }
                }
                Err(missing) => {
                    let name = wire.split('.').next().unwrap_or(wire);
                    if some_unknown && spec.graph.node(name).is_some() {
                        complete = false;
                    } else {
                        found.push(missing.into_diagnostic(&spec.places, &path));
                    }
                }
            }
        }
        for diagnostic in &mut found[before..] {
            if diagnostic.path.is_empty() {
                diagnostic.path = format!("graph.{}.in", nodes[index].spec.name);
            }
        }
        nodes[index].wired = complete && found.len() == before;
    }
}

/// The wires of a node. Reports wires into inputs that the node does not have, and required inputs
/// without a wire.
fn written<'a>(
    spec: &PipelineSpec,
    node: &Candidate<'a>,
    found: &mut Vec<Diagnostic>,
) -> Vec<Written<'a>> {
    let (name, entry, places) = (node.spec.name.as_str(), node.entry, &spec.places);
    let what = format!("`{name}` ({})", entry.name);
    let slots = entry.in_slots();
    let before = found.len();
    let mut written: Vec<Written> = Vec::new();
    match &node.spec.inputs {
        Inputs::None => {}
        Inputs::One(_) if entry.inputs.is_empty() => found.push(
            Diagnostic::error(format!("{what} takes no input"))
                .at(places.value(&["graph", name, "in"])),
        ),
        Inputs::One(wire) => match entry.bare_input() {
            Some(input) => written.push(Written { input, wire, path: vec!["graph", name, "in"] }),
            None => {
                let names: Vec<String> =
                    entry.inputs.iter().map(|name| format!("{name}: ...")).collect();
                found.push(
                    Diagnostic::error(format!(
                        "{what} has {} inputs, and `in` names none of them",
                        entry.inputs.len()
                    ))
                    .at(places.value(&["graph", name, "in"]))
                    .note(list_inputs(node, &slots))
                    .help(Some(format!("write `in: {{{}}}`", names.join(", ")))),
                );
            }
        },
        Inputs::Map(map) => {
            for (port, wire) in map {
                let path = vec!["graph", name, "in", port];
                match entry.inputs.iter().position(|input| input == port) {
                    Some(input) => written.push(Written { input, wire, path }),
                    None => found.push(
                        Diagnostic::error(format!("{what} has no input `{port}`"))
                            .at(places.key(&path))
                            .note(list_inputs(node, &slots))
                            .suggest(nearest(port, entry.inputs.iter().copied())),
                    ),
                }
            }
        }
    }
    if found.len() == before {
        let given = |input: usize| written.iter().any(|written| written.input == input);
        let missing: Vec<&str> = (0..slots.len())
            .filter(|input| !slots[*input].optional && !given(*input))
            .map(|input| entry.inputs[input])
            .collect();
        if !missing.is_empty() {
            let plural = if missing.len() > 1 { "s" } else { "" };
            found.push(
                Diagnostic::error(format!(
                    "{what} has nothing on its input{plural} {}",
                    list(missing)
                ))
                .at(places.key(&["graph", name, "in"]).or_else(|| places.key(&["graph", name])))
                .note(list_inputs(node, &slots)),
            );
        }
    }
    written
}

fn list_inputs(node: &Candidate, slots: &[SlotType]) -> String {
    let ports = node.entry.inputs.iter().zip(slots).map(|(name, slot)| {
        format!("{name}: {}{}", slot.name, if slot.optional { " (may be left out)" } else { "" })
    });
    format!("its inputs: {}", ports.collect::<Vec<_>>().join(", "))
}

/// The error of a wire that carries another port type than its input takes.
fn mismatch(
    nodes: &[Candidate],
    index: usize,
    input: usize,
    from: PortId,
    wire: &str,
) -> Option<Diagnostic> {
    let (node, source) = (&nodes[index], &nodes[from.node]);
    let wanted = node.entry.in_slots()[input];
    let outputs = source.entry.out_slots();
    let given = match outputs.get(from.port) {
        Some(slot) if slot.id == wanted.id => return None,
        given => given.map_or("nothing", |slot| slot.name),
    };
    let fitting = outputs
        .iter()
        .zip(source.entry.outputs)
        .find(|(slot, _)| slot.id == wanted.id)
        .map(|(_, output)| format!("{}.{output}", source.spec.name));
    let message = format!(
        "`{}` ({}) takes {} on its input `{}`, and `{wire}` carries {given}",
        node.spec.name, node.entry.name, wanted.name, node.entry.inputs[input],
    );
    let mut diagnostic =
        Diagnostic::error(message).label(format!("expected {}, found {given}", wanted.name));
    if fitting.is_none() {
        let giving: Vec<&str> = nodes
            .iter()
            .filter(|node| node.entry.out_slots().iter().any(|slot| slot.id == wanted.id))
            .map(|node| node.spec.name.as_str())
            .collect();
        if !giving.is_empty() {
            diagnostic = diagnostic.note(format!("{} is given by {}", wanted.name, list(giving)));
        }
    }
    Some(diagnostic.suggest(fitting))
}

/// The nodes, each after those that it reads from, otherwise in the order written. `None` if the
/// graph has a cycle, which is reported.
pub(super) fn order(
    spec: &PipelineSpec,
    nodes: &[Candidate],
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < nodes.len() {
        let ready = |index: &usize| {
            !order.contains(index)
                && nodes[*index].inputs.iter().flatten().all(|id| order.contains(&id.node))
        };
        match (0..nodes.len()).find(ready) {
            Some(index) => order.push(index),
            None => break,
        }
    }
    let start = match (0..nodes.len()).find(|index| !order.contains(index)) {
        None => return Some(order),
        Some(start) => start,
    };
    // Every node that is left reads from another that is left, so going upstream must reach some
    // node a second time.
    let mut trail = vec![start];
    let cycle = loop {
        let last = trail[trail.len() - 1];
        let upstream = nodes[last]
            .inputs
            .iter()
            .flatten()
            .map(|id| id.node)
            .find(|node| !order.contains(node))?;
        if let Some(at) = trail.iter().position(|node| *node == upstream) {
            break trail[at..].to_vec();
        }
        trail.push(upstream);
    };
    // Downstream order, beginning with the node that is written first.
    let mut names: Vec<usize> = cycle.into_iter().rev().collect();
    let first = names.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
    names.rotate_left(first);
    names.push(names[0]);
    let text: Vec<&str> = names.iter().map(|node| nodes[*node].spec.name.as_str()).collect();
    let (first, before) = (&nodes[names[0]], names[names.len() - 2]);
    let name = &first.spec.name;
    let port = first.inputs.iter().position(|id| id.is_some_and(|id| id.node == before));
    let port = port.map_or("", |port| first.entry.inputs[port]);
    let mut diagnostic = Diagnostic::error(format!("the graph has a cycle: {}", text.join(" -> ")))
        .at(spec.places.value(&["graph", name, "in", port]))
        .label("this wire comes back to its own node")
        .help(Some("data flows one way; let one of these nodes read from another source"));
    diagnostic.path = format!("graph.{name}.in");
    found.push(diagnostic);
    None
}
