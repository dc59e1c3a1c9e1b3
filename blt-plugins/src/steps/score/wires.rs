//! The wires that the scores of a goal are read from, and the columns that are made of them.

use crate::plan_queries::{entropies_wire, patches_wire};
use crate::ports::{Entropies, Loss, Patches};
use crate::scoring::{Columns, Wires};
use blt_graph::{NodeError, Plan, Port};
use serde::{Deserialize, Serialize};

/// A list that a row may be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// Natural logarithm of each byte's probability, `[n_bytes]`.
    LogProbs,
    /// Entropy of the next byte at each id in nats, BOS first, `[n_bytes + 1]`.
    Entropies,
    /// Ids in each patch, `[n_patches + 1]`: the patch of BOS is first, and the lengths sum to
    /// `n_bytes + 1`.
    PatchLengths,
}

impl Emit {
    /// The name of the column.
    pub fn name(self) -> &'static str {
        match self {
            Emit::LogProbs => "log_probs",
            Emit::Entropies => "entropies",
            Emit::PatchLengths => "patch_lengths",
        }
    }
}

/// The wires of `plan` that give the scores of `goal`.
///
/// # Errors
/// If `goal` gives no scores, or not those that a list of `emit` is made of.
pub fn wires(plan: &Plan, goal: &str, emit: &[Emit]) -> Result<Wires, NodeError> {
    let wire = plan.goal(goal)?;
    let mut wires = Wires {
        loss: None,
        patches: patches_wire(plan, &[goal])?,
        entropies: entropies_wire(plan, goal)?,
    };
    if wire.is::<Loss>() {
        wires.loss = Some(goal.to_owned());
    } else if wire.is::<Patches>() {
        wires.patches = Some(goal.to_owned());
    } else {
        // A bare `ByteLm` means its entropies. The loss that a node lists after its entropies is
        // the loss of the model that has them.
        let slots = wire.node.entry.out_slots();
        let mut outputs = slots.iter().zip(wire.node.entry.outputs);
        let sibling =
            outputs.find(|(slot, _)| slot.name == Entropies::NAME && wire.is::<Entropies>());
        let sibling = sibling.and_then(|_| outputs.find(|(slot, _)| slot.name == Loss::NAME));
        let Some((_, port)) = sibling else {
            let msg = format!(
                "`{goal}` is {}, and scores come from a Loss, a ByteLm or Patches",
                wire.port_type
            );
            return Err(NodeError::param("goal", msg));
        };
        wires.loss = Some(format!("{}.{port}", wire.node.name));
        wires.entropies = Some(goal.to_owned());
    }
    for (list, found, whence) in [
        (Emit::LogProbs, &wires.loss, "a patcher has none; name a loss as the goal"),
        (
            Emit::Entropies,
            &wires.entropies,
            "they come from a ByteLm or ColumnEntropies that the goal depends on",
        ),
        (Emit::PatchLengths, &wires.patches, "they come from a patcher that the goal depends on"),
    ] {
        if emit.contains(&list) && found.is_none() {
            let msg = format!("there are no {} in what `{goal}` depends on", list.name());
            return Err(NodeError::param("emit", msg).help(whence));
        }
    }
    Ok(wires)
}

/// The score columns, before anything is known of the data.
pub fn columns(wires: &Wires, emit: &[Emit]) -> Columns {
    Columns {
        patches: wires.patches.is_some(),
        nats: wires.loss.is_some(),
        log_probs: emit.contains(&Emit::LogProbs),
        entropies: emit.contains(&Emit::Entropies),
        patch_lengths: emit.contains(&Emit::PatchLengths),
        generated: false,
        large: false,
        nullable: false,
    }
}
