//! Questions that steps ask about a checked plan, such as which wire has the patches. Nothing is
//! built to answer them.

use crate::ports::{Entropies, Logits, Patches};
use blt_graph::{NodeError, Plan, PlannedNode, Port, StepError};
use std::collections::BTreeSet;

/// The outputs of type `P` of `node`: their wires, with what is known of them before data is read.
pub fn outputs_of<P: Port>(node: &PlannedNode) -> impl Iterator<Item = (String, &P::Info)> {
    node.entry.outputs.iter().zip(&node.infos).filter_map(|(port, info)| {
        Some((format!("{}.{port}", node.name), info.as_ref()?.get::<P>()?))
    })
}

/// The first input of type `P` of `node`: its name, and the wire that it reads, as `node.port`.
pub fn input_of<P: Port>(plan: &Plan, node: &PlannedNode) -> Option<(&'static str, String)> {
    let wires = plan.wires(node).into_iter().filter_map(|(port, wire)| Some((port, wire?)));
    wires.into_iter().find(|(_, wire)| plan.goal(wire).is_ok_and(|goal| goal.is::<P>()))
}

/// The wire of logits that `goal` is, or that its node gives or reads.
///
/// # Errors
/// If the plan does not have the goal, or there is no such wire.
pub fn logits_wire(plan: &Plan, goal: &str) -> Result<String, NodeError> {
    let found = plan.goal(goal)?;
    if found.is::<Logits>() {
        return Ok(goal.to_owned());
    }
    let given = outputs_of::<Logits>(found.node).next().map(|(wire, _)| wire);
    let wire = given.or_else(|| Some(input_of::<Logits>(plan, found.node)?.1));
    wire.ok_or_else(|| {
        NodeError::other(format!("`{goal}` neither gives nor reads logits, so it writes no text"))
            .help("name a node that gives logits, or a loss of them")
    })
}

/// The first wire of patches in the sub-graph of `goals` that no other patcher reads to make its
/// own of them.
///
/// # Errors
/// If the plan does not have a goal.
pub fn patches_wire(plan: &Plan, goals: &[&str]) -> Result<Option<String>, NodeError> {
    let nodes = plan.needs(goals)?;
    let gives = || nodes.iter().flat_map(|node| outputs_of::<Patches>(node)).map(|(wire, _)| wire);
    let patchers = nodes.iter().filter(|node| outputs_of::<Patches>(node).next().is_some());
    let read: Vec<String> =
        patchers.filter_map(|node| input_of::<Patches>(plan, node)).map(|(_, wire)| wire).collect();
    Ok(gives().find(|wire| !read.contains(wire)))
}

/// The first wire of entropies that a node in the sub-graph of `goal` reads, or else the first that
/// such a node gives.
///
/// # Errors
/// If the plan does not have a goal.
pub fn entropies_wire(plan: &Plan, goal: &str) -> Result<Option<String>, NodeError> {
    let nodes = plan.needs(&[goal])?;
    let read = nodes.iter().find_map(|node| input_of::<Entropies>(plan, node));
    let given = || nodes.iter().find_map(|node| outputs_of::<Entropies>(node).next());
    Ok(read.map(|(_, wire)| wire).or_else(|| Some(given()?.0)))
}

/// The first wire of entropies that a patcher in the sub-graph of `goals` reads. To ask for it too
/// costs nothing, because the patcher needs it.
///
/// # Errors
/// If the plan does not have a goal.
pub fn read_by_patchers(plan: &Plan, goals: &[&str]) -> Result<Option<String>, NodeError> {
    let mut patchers =
        plan.needs(goals)?.into_iter().filter(|node| outputs_of::<Patches>(node).next().is_some());
    Ok(patchers.find_map(|node| input_of::<Entropies>(plan, node)).map(|(_, wire)| wire))
}

/// The nodes in the sub-graph of `goals` that only patch borders depend on: the patcher and its
/// entropy model.
///
/// # Errors
/// If the plan does not have a goal.
pub fn nodes_behind_borders(plan: &Plan, goals: &[&str]) -> Result<BTreeSet<String>, NodeError> {
    let mut model: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&PlannedNode> =
        goals.iter().map(|g| Ok(plan.goal(g)?.node)).collect::<Result<_, NodeError>>()?;
    while let Some(node) = open.pop() {
        if model.insert(&node.name) {
            for wire in plan.wires(node).into_iter().filter_map(|(_, wire)| wire) {
                let from = plan.goal(&wire)?;
                if !from.is::<Patches>() {
                    open.push(from.node);
                }
            }
        }
    }
    let behind = plan.needs(goals)?.into_iter().filter(|n| !model.contains(n.name.as_str()));
    Ok(behind.map(|node| node.name.clone()).collect())
}

/// Whether some border in the sub-graph of `goals` depends on bytes after it.
///
/// # Errors
/// If the plan does not have a goal.
pub fn boundary_lookahead(plan: &Plan, goals: &[&str]) -> Result<bool, StepError> {
    let looks_ahead =
        |node: &PlannedNode| outputs_of::<Patches>(node).any(|(_, info)| info.boundary_lookahead);
    Ok(plan.needs(goals)?.into_iter().any(looks_ahead))
}
