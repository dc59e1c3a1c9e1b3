//! [`check_source`]: a text, with all that is wrong with it.

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics, Source, not_shadowed};
use crate::plan::Plan;
use crate::plan::check::all::plans;
use crate::plan::check::repair::repair;
use crate::spec::PipelineSpec;

/// The longest text of which small changes are tried as fixes.
const REPAIRED: usize = 1 << 15;

/// What [`check_source`] found.
#[derive(Default)]
pub struct Checked {
    /// The pipeline with its overrides, as far as the text has a meaning.
    pub spec: Option<PipelineSpec>,
    /// The plans of the variants that are right.
    pub plans: Vec<Plan>,
    /// Every error, in the order of the text.
    pub errors: Vec<Diagnostic>,
}

/// Checks the pipeline that is written in `source`, with `overrides` (`path=value`) in their order:
/// its form, all of its variants, and what `also` checks. An error does not keep another from being
/// found, unless nothing is known of what it hides.
pub fn check_source(
    source: &Arc<Source>,
    overrides: &[String],
    base_dir: &Path,
    also: &dyn Fn(&PipelineSpec, &[Plan]) -> Vec<Diagnostic>,
) -> Checked {
    let mut checked = check_once(source, overrides, base_dir, also);
    let errors = &mut checked.errors;
    if source.text.len() <= REPAIRED {
        repair(source, errors, |text| {
            let changed = Arc::new(Source { name: source.name.clone(), text });
            check_once(&changed, overrides, base_dir, also).errors
        });
    }
    let order = |diagnostic: &Diagnostic| {
        diagnostic.place.as_ref().map(|place| (place.source != *source, place.span.start))
    };
    errors.sort_by_key(|diagnostic| order(diagnostic).unwrap_or((true, usize::MAX)));
    checked
}

fn check_once(
    source: &Arc<Source>,
    overrides: &[String],
    base_dir: &Path,
    also: &dyn Fn(&PipelineSpec, &[Plan]) -> Vec<Diagnostic>,
) -> Checked {
    let mut errors = Vec::new();
    let Some(mut spec) = PipelineSpec::read_all(source, &mut errors) else {
        return Checked { errors, ..Checked::default() };
    };
    for assignment in overrides {
        match spec.set(assignment) {
            Ok(set) => spec = set,
            Err(Diagnostics(new)) => errors.extend(not_shadowed(new, &errors)),
        }
    }
    let mut new = Vec::new();
    let plans = plans(&spec, base_dir, &mut new);
    errors.extend(not_shadowed(new, &errors));
    errors.extend(not_shadowed(also(&spec, &plans), &errors));
    Checked { spec: Some(spec), plans, errors }
}
