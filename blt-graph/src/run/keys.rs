//! The keys of a plan's steps: a hash of everything that a result depends on.

use serde_json::{Value, json};

use crate::error::StepError;
use crate::plan::{Plan, subgraph_value};
use crate::run::error::RunError;
use crate::run::options::RunOptions;
use crate::run::store::{STORE_FORMAT, Store, key_of};
use crate::step::{Earlier, StepCx};

/// A step and its key, before the step runs.
pub(super) struct Keyed {
    /// Everything that the key is a hash of.
    pub what: Value,
    pub key: String,
    pub earlier: Vec<Earlier>,
}

/// The key of every step of `plan`. `cx` makes the context of a step, given its index and the
/// earlier steps that it depends on.
///
/// # Errors
/// If a step or a node cannot find or read the files that it depends on.
pub(super) fn step_keys<'a>(
    plan: &'a Plan,
    store: &Store,
    options: &RunOptions,
    cx: impl Fn(usize, Vec<Earlier>) -> StepCx<'a>,
) -> Result<Vec<Keyed>, RunError> {
    let mut keyed: Vec<Keyed> = Vec::new();
    let mut reached: Vec<Vec<usize>> = Vec::new();
    for (index, step) in plan.steps().iter().enumerate() {
        let needed = plan
            .needed(&step.goals)
            .map_err(|error| RunError::Document(plan.diagnose_step(index, &error).into()))?;
        let shares = |other: &Vec<usize>| {
            step.goals.is_empty() || other.iter().any(|node| needed.contains(node))
        };
        let earlier: Vec<Earlier> = (0..index)
            .filter(|other| step.goals.is_empty() || plan.steps()[*other].feeds_later_steps())
            .filter(|other| shares(&reached[*other]) || plan.steps()[*other].goals.is_empty())
            .map(|other| Earlier {
                index: other,
                step: plan.steps()[other].entry.name.to_string(),
                key: keyed[other].key.clone(),
                dir: store.dir(&keyed[other].key),
                goals: plan.steps()[other].goals.clone(),
            })
            .collect();
        let depends = depends(plan, index, &needed, &cx(index, earlier.clone()))?;
        let mut crates = plan.origins(&needed);
        crates.insert((step.entry.origin.krate, step.entry.origin.version));
        let crates: Vec<String> =
            crates.into_iter().map(|(name, version)| format!("{name} {version}")).collect();
        let what = json!({
            "format": STORE_FORMAT,
            "step": step.entry.name,
            "params": step.params,
            "goals": step.goals,
            "graph": subgraph_value(plan, &needed),
            "seed": plan.seed,
            "depends": depends,
            "earlier": earlier.iter().map(|earlier| &earlier.key).collect::<Vec<_>>(),
            "build": options.build,
            "crates": crates,
            "path": plan.compute_path.to_string(),
            "device": plan.device,
            "dtype": options.dtype,
            "cpu": options.cpu_features,
        });
        keyed.push(Keyed { key: key_of(&what), what, earlier });
        reached.push(needed);
    }
    Ok(keyed)
}

/// The fingerprints of the files that a step and the nodes that it needs depend on.
fn depends(
    plan: &Plan,
    index: usize,
    needed: &[usize],
    cx: &StepCx,
) -> Result<Vec<String>, RunError> {
    let failed = |error| RunError::of_step(plan, index, error);
    let mut depends = plan.steps()[index].behaviour().depends(cx).map_err(failed)?;
    for node in needed.iter().map(|node| &plan.nodes[*node]) {
        let of_node = node.node.depends(&plan.base_dir).map_err(|error| {
            failed(StepError::Document(plan.diagnose(&node.name, &error).into()))
        })?;
        depends.extend(of_node.into_iter().map(|what| format!("{} {what}", node.name)));
    }
    Ok(depends)
}
