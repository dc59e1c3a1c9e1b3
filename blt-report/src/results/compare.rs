//! Variants compared: each with the baseline, and each ranked one with the next.

use super::file::{Difference, Neighbours, Results};
use super::paired::{DocumentLine, Paired, paired};
use crate::stats::{confidence, holm};
use std::collections::BTreeMap;

/// The documents of each variant, a list for each seed.
pub type Documents = BTreeMap<String, Vec<Vec<DocumentLine>>>;

/// Fills in the differences to `baseline`. Those of `ranked` variants are one family, of which
/// intervals hold together; those by group are another.
pub fn with_baseline(
    results: &mut Results,
    documents: &Documents,
    baseline: &str,
    ranked: &[&str],
) {
    let Some(base) = documents.get(baseline) else { return };
    let others = documents.iter().filter(|(name, _)| *name != baseline);
    let mut found: Vec<(&String, Paired)> =
        others.filter_map(|(name, ours)| Some((name, paired(ours, base)?))).collect();
    let in_family = |name: &String| ranked.contains(&name.as_str());
    let (mut family, mut by_group) = (Vec::new(), Vec::new());
    for (_, paired) in found.iter_mut().filter(|(name, _)| in_family(name)) {
        family.push((&mut paired.difference, &paired.estimate));
        by_group.extend(paired.by.values_mut().map(|p| (&mut p.difference, &p.estimate)));
    }
    adjust(family);
    adjust(by_group);
    for (name, paired) in found {
        let of = results.variants.get_mut(name).or_else(|| results.references.get_mut(name));
        if let Some(results) = of {
            let by = paired.by.into_iter().map(|(group, of)| (group, of.difference));
            results.difference = Some(Difference { by: by.collect(), ..paired.difference });
        }
    }
}

/// The differences of `ranked`, which has the fewest bits first, each to the next. All pairs are
/// one family, because the ranking itself chose which are neighbours.
pub fn neighbours(documents: &Documents, ranked: &[&str]) -> Vec<Neighbours> {
    let mut pairs = Vec::new();
    for (i, variant) in ranked.iter().enumerate() {
        for (j, next) in ranked.iter().enumerate().skip(i + 1) {
            let of = documents.get(*next).zip(documents.get(*variant));
            let Some(paired) = of.and_then(|(next, variant)| paired(next, variant)) else {
                continue;
            };
            pairs.push((j == i + 1, variant, next, paired));
        }
    }
    adjust(pairs.iter_mut().map(|(.., p)| (&mut p.difference, &p.estimate)).collect());
    let beside = pairs.into_iter().filter(|(beside, ..)| *beside);
    let neighbours = |(_, variant, next, paired): (_, &&str, &&str, Paired)| Neighbours {
        variant: (*variant).to_owned(),
        next: (*next).to_owned(),
        difference: paired.difference,
    };
    beside.map(neighbours).collect()
}

/// Simultaneous intervals and adjusted p-values of a family. A difference without an interval is
/// none of it.
fn adjust(family: Vec<(&mut Difference, &crate::stats::TwoWay)>) {
    let family: Vec<_> = family.into_iter().filter(|(d, _)| d.interval.p.is_some()).collect();
    let p: Vec<f64> = family.iter().filter_map(|(d, _)| d.interval.p).collect();
    let (confidence, adjusted) = (confidence(family.len()), holm(&p));
    for ((difference, estimate), p) in family.into_iter().zip(adjusted) {
        difference.interval.half_width_simultaneous = estimate.half_width(confidence);
        difference.interval.p_holm = Some(p);
    }
}
