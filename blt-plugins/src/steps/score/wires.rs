//! Which wires the scores of a goal are read from, and which columns they become.

use super::Score;
use crate::plan_queries::read_wire;
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
    /// BOS's own patch first; they sum to `n_bytes + 1`.
    PatchLengths,
}

impl Emit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Emit::LogProbs => "log_probs",
            Emit::Entropies => "entropies",
            Emit::PatchLengths => "patch_lengths",
        }
    }
}

impl Score {
    fn emits(&self, list: Emit) -> bool {
        self.emit.contains(&list)
    }

    pub(super) fn wires(&self, plan: &Plan) -> Result<Wires, NodeError> {
        let goal = plan.goal(&self.goal)?;
        let mut wires = Wires {
            loss: None,
            patches: read_wire::<Patches>(plan, &self.goal)?,
            entropies: read_wire::<Entropies>(plan, &self.goal)?,
        };
        if goal.is::<Loss>() {
            wires.loss = Some(self.goal.clone());
        } else if goal.is::<Patches>() {
            wires.patches = Some(self.goal.clone());
        } else {
            // A bare `ByteLm` means its entropies. The loss that a node lists after its entropies
            // is that of the model which has them.
            let slots = goal.node.entry.out_slots();
            let mut outputs = slots.iter().zip(goal.node.entry.outputs);
            let sibling =
                outputs.find(|(slot, _)| slot.name == Entropies::NAME && goal.is::<Entropies>());
            let sibling = sibling.and_then(|_| outputs.find(|(slot, _)| slot.name == Loss::NAME));
            let Some((_, port)) = sibling else {
                let msg = format!(
                    "`{}` is {}, and scores come from a Loss, a ByteLm or Patches",
                    self.goal, goal.port_type
                );
                return Err(NodeError::param("goal", msg));
            };
            wires.loss = Some(format!("{}.{port}", goal.node.name));
            wires.entropies = Some(self.goal.clone());
        }
        for (list, wire, whence) in [
            (Emit::LogProbs, &wires.loss, "a patcher has none; name a loss as the goal"),
            (
                Emit::Entropies,
                &wires.entropies,
                "they come from a ByteLm or ColumnEntropies that the goal depends on",
            ),
            (
                Emit::PatchLengths,
                &wires.patches,
                "they come from a patcher that the goal depends on",
            ),
        ] {
            if self.emits(list) && wire.is_none() {
                let msg =
                    format!("there are no {} in what `{}` depends on", list.name(), self.goal);
                return Err(NodeError::param("emit", msg).help(whence));
            }
        }
        Ok(wires)
    }

    /// The columns that are written, before anything is known of the data.
    pub(crate) fn columns(&self, plan: &Plan) -> Result<Columns, NodeError> {
        let wires = self.wires(plan)?;
        Ok(Columns {
            patches: wires.patches.is_some(),
            nats: wires.loss.is_some(),
            log_probs: self.emits(Emit::LogProbs),
            entropies: self.emits(Emit::Entropies),
            patch_lengths: self.emits(Emit::PatchLengths),
            large: false,
            nullable: false,
        })
    }
}
