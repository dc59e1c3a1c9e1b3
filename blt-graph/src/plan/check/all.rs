//! [`check_all`]: every variant of a pipeline.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::plan::Plan;
use crate::spec::PipelineSpec;

/// Checks every variant of `spec`, before the first one starts. Returns the plans, variant by
/// variant, and within a variant seed by seed.
///
/// # Errors
/// Every error; one that all variants have in common is reported once. A node that no variant uses
/// is an error.
pub fn check_all(spec: &PipelineSpec, base_dir: &Path) -> Result<Vec<Plan>, Diagnostics> {
    let variants = spec.variants()?;
    if variants.iter().any(|variant| variant.spec.seeds.is_empty()) {
        return Err(Diagnostic::error("the pipeline has no seed").into());
    }
    let mut plans = Vec::new();
    let mut failures: Vec<(&str, Vec<Diagnostic>)> = Vec::new();
    for variant in &variants {
        match Plan::check(&variant.spec, &variant.name, variant.spec.seeds[0], base_dir) {
            Ok(plan) => plans.push(plan),
            Err(Diagnostics(found)) => failures.push((&variant.name, found)),
        }
    }
    if !failures.is_empty() {
        return Err(Diagnostics(distinct(&failures, variants.len())));
    }
    let unused = unused(spec, &plans);
    if !unused.is_empty() {
        return Err(Diagnostics(unused));
    }
    let with_seed = |plan: Plan| {
        let seeds = plan.spec.seeds.clone();
        seeds.into_iter().map(move |seed| Plan { seed, ..plan.clone() })
    };
    Ok(plans.into_iter().flat_map(with_seed).collect())
}

/// The errors of the variants that failed, each once. An error that not all of the `variants` have
/// names the first variant that has it.
fn distinct(failures: &[(&str, Vec<Diagnostic>)], variants: usize) -> Vec<Diagnostic> {
    let mut distinct: Vec<Diagnostic> = Vec::new();
    for (variant, found) in failures {
        for diagnostic in found {
            let same = |other: &Diagnostic| {
                (&other.message, &other.place) == (&diagnostic.message, &diagnostic.place)
            };
            if distinct.iter().any(same) {
                continue;
            }
            let everywhere = failures.len() == variants
                && failures.iter().all(|(_, found)| found.contains(diagnostic));
            let diagnostic = diagnostic.clone();
            distinct.push(if everywhere {
                diagnostic
            } else {
                diagnostic.note(format!("in the variant `{variant}`"))
            });
        }
    }
    distinct
}

/// An error for each node of `spec` that no variant uses.
fn unused(spec: &PipelineSpec, plans: &[Plan]) -> Vec<Diagnostic> {
    let mut unused = Vec::new();
    for node in &spec.graph.nodes {
        if plans.iter().any(|plan| plan.node(&node.name).is_some_and(|planned| planned.used)) {
            continue;
        }
        let mut diagnostic = Diagnostic::error(format!("nothing uses the node `{}`", node.name))
            .at(spec.places.key(&["graph", &node.name]))
            .help(Some(
                "remove it, wire it to a node that a goal needs, or name it in a step's goal",
            ));
        diagnostic.path = format!("graph.{}", node.name);
        unused.push(diagnostic);
    }
    unused
}
