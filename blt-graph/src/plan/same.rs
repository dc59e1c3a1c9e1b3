//! [`merge_same`]: variants that overrides made the same.

use std::collections::HashMap;

use crate::plan::Plan;

/// Leaves one plan for all variants that [`set`](crate::PipelineSpec::set) made the same, and
/// returns messages: which variants these are, and which an override did not reach. The variant
/// `keep` is the one left, if it is among them; else the first.
pub fn merge_same(plans: Vec<Plan>, keep: Option<&str>) -> (Vec<Plan>, Vec<String>) {
    // Of each identity and seed, the plan that stays. Variants that were written the same stay.
    let mut stays: HashMap<(String, u64), usize> = HashMap::new();
    let key = |plan: &Plan| {
        plan.spec.overrides.before.as_ref().map(|_| (plan.spec.identity(), plan.seed))
    };
    for (index, plan) in plans.iter().enumerate() {
        if let Some(key) = key(plan) {
            let stay = stays.entry(key).or_insert(index);
            if keep == Some(plan.variant.as_str()) {
                *stay = index;
            }
        }
    }
    let stands_for = |plan: &Plan| {
        let first = &plans[stays[&key(plan)?]];
        (first.spec.overrides.before != plan.spec.overrides.before).then_some(&first.variant)
    };
    let mut messages = Vec::new();
    let say = |of: Vec<(&str, &str)>, text: &dyn Fn(&str, &str) -> String| {
        let mut grouped: Vec<(&str, Vec<&str>)> = Vec::new();
        for (what, variant) in of {
            match grouped.iter_mut().find(|(other, _)| *other == what) {
                Some((_, variants)) if variants.contains(&variant) => {}
                Some((_, variants)) => variants.push(variant),
                None => grouped.push((what, vec![variant])),
            }
        }
        let line = |(what, variants): &(&str, Vec<&str>)| {
            text(what, &format!("`{}`", variants.join("`, `")))
        };
        grouped.iter().map(line).collect::<Vec<String>>()
    };
    let missed = plans.iter().flat_map(|plan| {
        plan.spec.overrides.missed.iter().map(|path| (path.as_str(), plan.variant.as_str()))
    });
    messages.extend(say(missed.collect(), &|path, variants| {
        format!("--set {path} changes nothing in {variants}, where the path names nothing")
    }));
    let merged = plans.iter().filter_map(|plan| Some((stands_for(plan)?.as_str(), &*plan.variant)));
    messages.extend(say(merged.collect(), &|stays, variants| {
        format!("--set made {variants} the same as `{stays}`, which runs for all of them")
    }));
    let kept: Vec<bool> = plans.iter().map(|plan| stands_for(plan).is_none()).collect();
    let mut kept = kept.into_iter();
    let mut plans = plans;
    plans.retain(|_| kept.next().unwrap_or(true));
    (plans, messages)
}
