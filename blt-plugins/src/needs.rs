//! [`need_of_plan`]: what `blt-run check` says of a plan's size.

use crate::size::{Need, size};
use crate::steps::{Bench, Train};
use blt_graph::{NodeError, Plan};

/// What the plan's largest step needs, and the parameters of all of its nodes.
///
/// # Errors
/// If a goal of a step is none of the plan's.
pub fn need_of_plan(plan: &Plan) -> Result<Need, NodeError> {
    let mut most = Need::default();
    for step in plan.steps() {
        let goals: Vec<&str> = step.goals.iter().map(String::as_str).collect();
        let training = match (step.downcast::<Train>(), step.downcast::<Bench>()) {
            (Some(train), _) => Some(train.memory()),
            (_, Some(bench)) => Some(bench.memory()),
            _ => None,
        };
        most.bytes = most.bytes.max(Need::of(plan, &goals, training)?.bytes);
    }
    let used = plan.nodes().iter().filter(|node| node.used).map(|node| size(node).params.numbers);
    most.parameters = used.fold(0, u64::saturating_add);
    Ok(most)
}
