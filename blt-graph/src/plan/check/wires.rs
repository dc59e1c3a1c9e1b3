//! Wires: where each one leads, whether its type fits, and the order that they put nodes in.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, Place, list, nearest};
use crate::plan::check::candidate::Candidate;
use crate::plan::find::{PortId, find_port};
use crate::port::SlotType;
use crate::spec::{Inputs, PipelineSpec};

crate::code! {
    /// A wire carries another type than the input takes.
    ///
    /// Wires are typed: `Bytes`, `Patches`, `Entropies`, `ByteStates`, `PatchStates`, `Logits`,
    /// `Loss`, `Metric`. `blt-run nodes NAME` has the types of a node's inputs and outputs.
    pub(crate) WRONG_TYPE = "BLT0302"
}

crate::code! {
    /// A node has no such input.
    ///
    /// `blt-run nodes NAME` names the inputs of a node. A source has none.
    pub(crate) NO_INPUT = "BLT0303"
}

crate::code! {
    /// An input has no wire.
    ///
    /// Each input that is not marked as one that may be left out needs a wire: `in: docs`, or
    /// `in: {bytes: docs, patches: patches}` for a node of several inputs.
    pub(crate) MISSING_WIRE = "BLT0304"
}

crate::code! {
    /// A node of several inputs has one wire without a port.
    ///
    /// Say which input it feeds: `in: {bytes: docs, patches: patches}` in place of `in: docs`.
    pub(crate) WHICH_INPUT = "BLT0305"
}

crate::code! {
    /// Wires go in a circle.
    ///
    /// A node cannot read what is computed from its own output. The message names the nodes of the
    /// circle; let one of them read from another source.
    pub(crate) CYCLE = "BLT0307"
}

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
        let written = written(spec, nodes, index, found);
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
    nodes: &[Candidate<'a>],
    index: usize,
    found: &mut Vec<Diagnostic>,
) -> Vec<Written<'a>> {
    let node = &nodes[index];
    let (name, entry, places) = (node.spec.name.as_str(), node.entry, &spec.places);
    let what = format!("`{name}` ({})", entry.name);
    let slots = entry.in_slots();
    let before = found.len();
    let mut written: Vec<Written> = Vec::new();
    match &node.spec.inputs {
        Inputs::None => {}
        Inputs::One(_) if entry.inputs.is_empty() => found.push(
            NO_INPUT
                .error(format!("{what} takes no input"))
                .at(places.value(&["graph", name, "in"])),
        ),
        Inputs::One(wire) => match entry.bare_input() {
            Some(input) => written.push(Written { input, wire, path: vec!["graph", name, "in"] }),
            None => {
                let names: Vec<String> =
                    entry.inputs.iter().map(|name| format!("{name}: ...")).collect();
                found.push(
                    WHICH_INPUT
                        .error(format!(
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
                        NO_INPUT
                            .error(format!("{what} has no input `{port}`"))
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
        let missing: Vec<usize> =
            (0..slots.len()).filter(|input| !slots[*input].optional && !given(*input)).collect();
        if !missing.is_empty() {
            let fix = fix(spec, nodes, index, &missing);
            let missing: Vec<&str> = missing.into_iter().map(|input| entry.inputs[input]).collect();
            let plural = if missing.len() > 1 { "s" } else { "" };
            let mut diagnostic = MISSING_WIRE
                .error(format!("{what} has nothing on its input{plural} {}", list(missing)))
                .at(places.key(&["graph", name, "in"]).or_else(|| places.key(&["graph", name])))
                .note(list_inputs(node, &slots));
            if let Some((place, text)) = fix {
                diagnostic = diagnostic.fix(place, text);
            }
            found.push(diagnostic);
        }
    }
    written
}

/// What to write, and where, so that the inputs `missing` have wires; `None` unless one node alone
/// fits each.
fn fix(
    spec: &PipelineSpec,
    nodes: &[Candidate],
    index: usize,
    missing: &[usize],
) -> Option<(Place, String)> {
    let node = &nodes[index];
    let (name, slots) = (node.spec.name.as_str(), node.entry.in_slots());
    let mut wires = Vec::new();
    for &input in missing {
        wires.push(format!(
            "{}: {}",
            node.entry.inputs[input],
            the_giver(nodes, index, slots[input])?
        ));
    }
    if let Inputs::Map(written) = &node.spec.inputs
        && let Some((last, _)) = written.last()
    {
        let place = spec.places.value(&["graph", name, "in", last])?.end();
        return Some((place, format!(", {}", wires.join(", "))));
    }
    let bare = node.entry.bare_input().filter(|_| wires.len() == 1);
    let value = match bare {
        Some(_) => wires[0].split_once(": ")?.1.to_string(),
        None => format!("{{{}}}", wires.join(", ")),
    };
    let kind = spec.places.value(&["graph", name, "node"])?;
    let key = spec.places.key(&["graph", name, "node"])?;
    let begin = key.source.text[..key.span.start].trim_end().ends_with(['{', ',']);
    // In braces, or on a line of its own that is indented as that of `node`.
    let parted = if begin { ", ".into() } else { format!("\n{}", " ".repeat(key.column() - 1)) };
    Some((kind.end(), format!("{parted}in: {value}")))
}

/// The wire of the one node upstream of `index` that gives such a type.
fn the_giver(nodes: &[Candidate], index: usize, wanted: SlotType) -> Option<String> {
    // What reads from the node, by names, since wires are not resolved yet.
    let mut downstream = vec![nodes[index].spec.name.as_str()];
    let mut at = 0;
    while at < downstream.len() {
        for node in nodes {
            let reads = |wire: &str| wire.split('.').next() == Some(downstream[at]);
            let reads = match &node.spec.inputs {
                Inputs::None => false,
                Inputs::One(wire) => reads(wire),
                Inputs::Map(wires) => wires.iter().any(|(_, wire)| reads(wire)),
            };
            if reads && !downstream.contains(&node.spec.name.as_str()) {
                downstream.push(&node.spec.name);
            }
        }
        at += 1;
    }
    let mut givers =
        nodes.iter().filter(|node| !downstream.contains(&&*node.spec.name)).filter_map(|node| {
            let output = node.entry.out_slots().iter().position(|slot| slot.id == wanted.id)?;
            Some(match output {
                0 => node.spec.name.clone(),
                _ => format!("{}.{}", node.spec.name, node.entry.outputs[output]),
            })
        });
    let giver = givers.next()?;
    givers.next().is_none().then_some(giver)
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
        WRONG_TYPE.error(message).label(format!("expected {}, found {given}", wanted.name));
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
    Some(diagnostic.suggest(fitting.or_else(|| the_giver(nodes, index, wanted))))
}

/// The nodes, each after those that it reads from, otherwise in the order written. `None` if the
/// graph has a cycle, which is reported.
pub(super) fn order(
    spec: &PipelineSpec,
    nodes: &[Candidate],
    found: &mut Vec<Diagnostic>,
) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut waits: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut feeds: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let from: BTreeSet<usize> = node.inputs.iter().flatten().map(|id| id.node).collect();
        waits.push(from.len());
        from.into_iter().for_each(|from| feeds[from].push(index));
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|index| waits[*index] == 0).collect();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &next in &feeds[index] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.insert(next);
            }
        }
    }
    let start = match (0..nodes.len()).find(|index| waits[*index] > 0) {
        None => return Some(order),
        Some(start) => start,
    };
    // Every node that is left reads from another that is left, so going upstream must reach some
    // node a second time.
    let mut trail = vec![start];
    let cycle = loop {
        let last = trail[trail.len() - 1];
        let upstream =
            nodes[last].inputs.iter().flatten().map(|id| id.node).find(|node| waits[*node] > 0)?;
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
    let mut diagnostic = CYCLE
        .error(format!("the graph has a cycle: {}", text.join(" -> ")))
        .at(spec.places.value(&["graph", name, "in", port]))
        .label("this wire comes back to its own node")
        .help(Some("data flows one way; let one of these nodes read from another source"));
    diagnostic.path = format!("graph.{name}.in");
    found.push(diagnostic);
    None
}
