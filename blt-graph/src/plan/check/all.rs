//! [`check_all`]: every variant of a pipeline.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::plan::Plan;
use crate::plan::check::wires::MISSING_WIRE;
use crate::plan::params::MISSING_PARAMETER;
use crate::spec::{Ablation, BASE_VARIANT, PipelineSpec};

crate::code! {
    /// No variant uses a node.
    ///
    /// Nothing that a step computes needs the node, so it would be left out in silence. Remove it,
    /// wire it to a node that a goal needs, or name it in a step's goal.
    pub(crate) UNUSED = "BLT0308"
}

/// Checks every variant of `spec`, and the pipeline as written, before the first one starts. Returns
/// the plans, variant by variant, and within a variant seed by seed.
///
/// # Errors
/// Every error; one that all variants have in common is reported once. A node that no variant uses
/// is an error.
pub fn check_all(spec: &PipelineSpec, base_dir: &Path) -> Result<Vec<Plan>, Diagnostics> {
    let mut found = Vec::new();
    let plans = plans(spec, base_dir, &mut found);
    if found.is_empty() { Ok(plans) } else { Err(Diagnostics(found)) }
}

/// The plans of the variants that are right. Adds all errors to `found`.
pub(super) fn plans(
    spec: &PipelineSpec,
    base_dir: &Path,
    found: &mut Vec<Diagnostic>,
) -> Vec<Plan> {
    let before = found.len();
    let variants = spec.variants_all(found);
    if variants.iter().any(|variant| variant.spec.seeds.is_empty()) {
        found.push(Diagnostic::error("the pipeline has no seed"));
        return Vec::new();
    }
    let mut plans = Vec::new();
    let mut failures: Vec<(String, Vec<Diagnostic>)> = Vec::new();
    let count = variants.len();
    // One by one, so that memory holds each of them once.
    for variant in variants {
        match Plan::check(&variant.spec, &variant.name, variant.spec.seeds[0], base_dir) {
            Ok(plan) => plans.push(plan),
            Err(Diagnostics(found)) => failures.push((variant.name, found)),
        }
    }
    let mut of_variants = distinct(&failures, count);
    for diagnostic in base(spec, base_dir) {
        // What a variant has too is told of the pipeline, whose fix is not for the variant alone.
        let before = of_variants.len();
        of_variants.retain(|other| !same(other, &diagnostic));
        let alone = of_variants.len() == before;
        found.push(if alone { diagnostic.note("every variant replaces this") } else { diagnostic });
    }
    found.extend(of_variants);
    if found.len() == before {
        found.extend(unused(spec, &plans));
    }
    let with_seed = |plan: Plan| {
        let seeds = plan.spec.seeds.clone();
        seeds.into_iter().map(move |seed| Plan { seed, ..plan.clone() })
    };
    plans.into_iter().flat_map(with_seed).collect()
}

/// The errors of the pipeline as written, if every variant changes it. What each variant has to give
/// may be missing.
fn base(spec: &PipelineSpec, base_dir: &Path) -> Vec<Diagnostic> {
    let Ablation { named, grid } = &spec.ablate;
    if (named.is_empty() && grid.is_empty()) || named.iter().any(|(_, edits)| edits.is_empty()) {
        return Vec::new();
    }
    let Err(Diagnostics(found)) = Plan::check(&spec.base(), BASE_VARIANT, 0, base_dir) else {
        return Vec::new();
    };
    let missing = [&MISSING_PARAMETER, &MISSING_WIRE].map(Some);
    found.into_iter().filter(|diagnostic| !missing.contains(&diagnostic.code)).collect()
}

/// Whether two errors have one message and place.
fn same(a: &Diagnostic, b: &Diagnostic) -> bool {
    (&a.message, &a.place) == (&b.message, &b.place)
}

/// The errors of the variants that failed, each once. An error that not all of the `variants` have
/// names the first variant that has it.
fn distinct(failures: &[(String, Vec<Diagnostic>)], variants: usize) -> Vec<Diagnostic> {
    let mut distinct: Vec<Diagnostic> = Vec::new();
    for (variant, found) in failures {
        for diagnostic in found {
            if distinct.iter().any(|other| same(other, diagnostic)) {
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
        let mut diagnostic = UNUSED
            .error(format!("nothing uses the node `{}`", node.name))
            .at(spec.places.key(&["graph", &node.name]))
            .help(Some(
                "remove it, wire it to a node that a goal needs, or name it in a step's goal",
            ));
        diagnostic.path = format!("graph.{}", node.name);
        unused.push(diagnostic);
    }
    unused
}
