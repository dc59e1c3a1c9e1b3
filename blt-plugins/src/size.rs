//! What the steps of a plan need of the machine's memory, and the refusal of what cannot be.

use crate::memory::machine;
use crate::node_size::NodeSize;
use crate::plan_queries::nodes_behind_borders;
use blt_core::params::Count;
use blt_graph::{NodeError, Plan, PlannedNode};

/// What a step holds at least.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Need {
    /// Numbers in the parameters of its nodes, without those that are read from files.
    pub parameters: u64,
    /// Bytes of memory.
    pub bytes: u64,
}

/// The batches that a training step holds at once.
#[derive(Clone, Copy)]
pub(crate) struct Training {
    pub batch_bytes: usize,
    pub accumulate: usize,
    /// Whether parameters are updated.
    pub trains: bool,
}

/// What is known of the size of a node that was checked.
pub(crate) fn size(node: &PlannedNode) -> NodeSize {
    node.fact::<NodeSize>().copied().unwrap_or_default()
}

impl Need {
    /// Of computing `goals`. Parameters have 4 bytes a number; those that are trained also a
    /// gradient and two moments, of which a table that is read by rows may have few.
    ///
    /// # Errors
    /// If a goal is none of the plan's.
    pub(crate) fn of(
        plan: &Plan,
        goals: &[&str],
        training: Option<Training>,
    ) -> Result<Self, NodeError> {
        let untrained = nodes_behind_borders(plan, goals)?;
        let mut need = Need::default();
        let mut add = |bytes: u64| need.bytes = need.bytes.saturating_add(bytes);
        for node in plan.needs(goals)? {
            let NodeSize { params: Count { numbers, by_rows, .. }, kept_per_id } = size(node);
            need.parameters = need.parameters.saturating_add(numbers);
            add(numbers.saturating_mul(4));
            if let Some(training) = training.filter(|_| !untrained.contains(&node.name)) {
                if training.trains {
                    add((numbers - by_rows).saturating_mul(12));
                }
                add(kept_per_id.saturating_mul(4).saturating_mul(training.batch_bytes as u64));
            }
        }
        if let Some(Training { batch_bytes, accumulate, .. }) = training {
            add((batch_bytes as u64).saturating_mul(accumulate as u64).saturating_mul(2));
        }
        Ok(need)
    }
}

/// Refuses a step that needs more memory than the machine has. On a GPU, whose memory is its own
/// affair, only a parameter that the host has no room to draw is refused.
pub(crate) fn check(
    plan: &Plan,
    goals: &[&str],
    training: Option<Training>,
) -> Result<(), NodeError> {
    let Some(machine) = machine() else { return Ok(()) };
    let need = Need::of(plan, goals, training)?;
    let largest = plan.needs(goals)?.into_iter().max_by_key(|node| size(node).params.numbers);
    let count = largest.map(size).unwrap_or_default().params;
    let bytes = if plan.device == "cpu" { need.bytes } else { count.largest.saturating_mul(4) };
    if bytes <= machine {
        return Ok(());
    }
    let what = if training.is_some() { "training" } else { "this step" };
    let msg = format!(
        "{what} needs at least {} of memory ({} parameters), and this machine has {}",
        gigabytes(bytes),
        need.parameters,
        gigabytes(machine)
    );
    let error = NodeError::other(msg);
    let small = |of: Training| Training { batch_bytes: 1, accumulate: 1, ..of };
    let alone = Need::of(plan, goals, training.map(small))?.bytes;
    Err(match largest.filter(|_| alone > machine / 2) {
        Some(node) => error.help(format!(
            "make the model smaller: most of its parameters, {}, are of `{}` ({})",
            count.numbers, node.name, node.entry.name
        )),
        None => error.help("lower `batch_bytes` or `accumulate`"),
    })
}

/// Bytes in words: `1.3 GB`, `0.002 GB`.
pub fn gigabytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    match gigabytes {
        0.0..0.1 => format!("{gigabytes:.3} GB"),
        0.1..1e4 => format!("{gigabytes:.1} GB"),
        _ => format!("{gigabytes:.2e} GB"),
    }
}
