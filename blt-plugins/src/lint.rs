//! Warnings about a plan that is allowed, and probably not meant.

use crate::model_part::ModelPart;
use crate::plan_queries::{nodes_behind_borders, outputs_of};
use crate::ports::Loss;
use blt_graph::{Plan, PlannedNode, StepCx, StepError};
use std::collections::BTreeSet;

/// Warnings about the models that the patches of a step's goals follow, and that no step before
/// trains: their borders are those of random weights. A model that an earlier step needs as well is
/// reported there.
///
/// # Errors
/// A goal that the plan does not have.
pub fn untrained(plan: &Plan, index: usize) -> Result<Vec<String>, StepError> {
    let step = &plan.steps()[index];
    if step.params.get("from").is_some_and(|from| !from.is_null()) {
        // The checkpoint that it goes on from has them.
        return Ok(Vec::new());
    }
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for step in plan.steps()[..index].iter().filter(|step| step.feeds_later_steps()) {
        before.extend(plan.needs(&step.goals)?.into_iter().map(|node| node.name.as_str()));
    }
    let goals: Vec<&str> = step.goals.iter().map(String::as_str).collect();
    let behind = nodes_behind_borders(plan, &goals)?;
    // A node with a loss of its own is a model. The parameters of a whole model come from its
    // checkpoint.
    let is_whole =
        |node: &PlannedNode| matches!(plan.role::<ModelPart>(node), Ok(Some(ModelPart::Whole)));
    let is_model =
        |node: &PlannedNode| outputs_of::<Loss>(node).next().is_some() && !is_whole(node);
    let nodes = plan
        .needs(&goals)?
        .into_iter()
        .filter(|node| behind.contains(&node.name) && is_model(node));
    let names = nodes.map(|node| &node.name).filter(|name| !before.contains(name.as_str()));
    let warning = |name| {
        format!(
            "warning: {}: no step trains `{name}`, so patches follow an untrained model; a step `- train: {{goal: {name}.loss, ...}}` \
             before `run.{index}.{}` does",
            plan.variant, step.entry.name
        )
    };
    Ok(names.map(warning).collect())
}

/// Reports [`untrained`] models to the user, before the first step.
///
/// # Errors
/// A goal that the plan does not have.
pub fn warn_untrained(cx: &StepCx) -> Result<(), StepError> {
    untrained(cx.plan(), cx.index())?.iter().for_each(|warning| cx.progress().message(warning));
    Ok(())
}
