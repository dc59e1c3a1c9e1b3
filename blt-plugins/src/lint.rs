//! Warnings about plans that are valid but probably a mistake.

use crate::model_part::ModelPart;
use crate::plan_queries::{nodes_behind_borders, outputs_of};
use crate::ports::Loss;
use blt_graph::{Plan, PlannedNode, StepCx, StepError};
use std::collections::BTreeSet;

/// Warnings for entropy models that cut the patches of the step at `index` and that no earlier step
/// trains. A model is reported once, at the first step that needs it.
///
/// # Errors
/// If the plan does not have a goal.
pub fn untrained(plan: &Plan, index: usize) -> Result<Vec<String>, StepError> {
    let step = &plan.steps()[index];
    if step.params.get("from").is_some_and(|from| !from.is_null()) {
        // The checkpoint that the step continues from has the models.
        return Ok(Vec::new());
    }
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for step in plan.steps()[..index].iter().filter(|step| step.feeds_later_steps()) {
        before.extend(plan.needs(&step.goals)?.into_iter().map(|node| node.name.as_str()));
    }
    let goals: Vec<&str> = step.goals.iter().map(String::as_str).collect();
    let behind = nodes_behind_borders(plan, &goals)?;
    // A node with a loss of its own is a model. A whole model needs no training: its parameters
    // come from a checkpoint. Nor do counts, which are fitted before any training.
    let needs_none = |node: &PlannedNode| {
        matches!(
            plan.role::<ModelPart>(node),
            Ok(Some(ModelPart::Whole | ModelPart::EntropyCounts(_)))
        )
    };
    let is_model =
        |node: &PlannedNode| outputs_of::<Loss>(node).next().is_some() && !needs_none(node);
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
/// If the plan does not have a goal.
pub fn warn_untrained(cx: &StepCx) -> Result<(), StepError> {
    untrained(cx.plan(), cx.index())?.iter().for_each(|warning| cx.progress().message(warning));
    Ok(())
}
