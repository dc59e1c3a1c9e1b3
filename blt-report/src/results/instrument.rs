//! What a run can see, by its controls: variants that are known to be worse.

use super::compare::Documents;
use super::file::{Control, Difference, Instrument, Results, SEEN};
use super::number::Ordered;
use super::paired::paired;
use crate::options::ReportOptions;
use std::collections::BTreeMap;

/// Patch sizes that differ from the baseline's by a larger share are no fair comparison.
const SAME_SIZE: f64 = 0.03;

/// Measures the controls that the report asks for; None where it asks for none. The differences of
/// `results` are there already.
pub fn instrument(
    options: &ReportOptions,
    results: &Results,
    documents: &Documents,
) -> Option<Instrument> {
    if options.controls.is_empty() {
        return None;
    }
    let measured = options.controls.iter().map(|(name, of)| {
        let pair = documents.get(name).zip(documents.get(&of.arm));
        let found = pair.and_then(|(control, arm)| paired(control, arm));
        let mut control =
            Control { arm: of.arm.clone(), what: of.what.clone(), ..Control::default() };
        if let Some(found) = found {
            let width = found.difference.interval.half_width;
            control.half_widths = width.map(|width| found.difference.bpb.abs() / width);
            if !control.is_seen() {
                control.seeds_needed = found.estimate.seeds_for(SEEN).map(|n| n as u64);
            }
            let by = found.by.into_iter().map(|(group, of)| (group, of.difference));
            control.difference = Some(Difference { by: by.collect(), ..found.difference });
        }
        (name.clone(), control)
    });
    let controls: Ordered<Control> = measured.collect();
    let any = controls.iter().any(|(_, control)| control.difference.is_some());
    let seen = controls.iter().any(|(_, control)| control.is_seen());
    let largest = |of: &mut dyn Iterator<Item = &Difference>| {
        of.filter_map(|d| d.interval.half_width_simultaneous).reduce(f64::max)
    };
    let to_baseline = results.variants.iter().filter_map(|(_, of)| of.difference.as_ref());
    let resolves = largest(&mut { to_baseline })
        .or_else(|| largest(&mut results.order.iter().map(|pair| &pair.difference)));
    Some(Instrument { sees: any.then_some(seen), resolves, controls })
}

/// Bytes per patch over the baseline's, of the ranked variants in which the two differ by more than
/// 3 %.
pub fn unequal_patches(results: &Results, ranked: &[&str]) -> BTreeMap<String, f64> {
    let size = |name: &str| {
        let (_, variant) = results.variants.iter().find(|(variant, _)| *variant == name)?;
        variant.evaluated.as_ref()?.result.bytes_per_patch.filter(|size| size.is_finite())
    };
    let Some(base) = results.baseline.as_deref().and_then(size) else { return BTreeMap::new() };
    let ratio = |name: &&str| Some(((*name).to_owned(), size(name)? / base));
    ranked.iter().filter_map(ratio).filter(|(_, ratio)| (ratio - 1.0).abs() > SAME_SIZE).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file::VariantResults;
    use super::super::paired::DocumentLine;
    use super::*;
    use crate::options::ControlOf;

    /// Eight documents of a bit each and seeds as given, each `bits` more than the other.
    fn runs(bits: &[f64]) -> Vec<Vec<DocumentLine>> {
        let line = |bits: f64, row: u64| DocumentLine {
            row,
            group: None,
            cluster: None,
            bytes: 100,
            nats: (bits + 0.01 * (row % 2) as f64) * 100.0 * std::f64::consts::LN_2,
            patches: 1,
        };
        bits.iter().map(|bits| (0..8).map(|row| line(*bits, row)).collect()).collect()
    }

    fn options(controls: &[(&str, &str)]) -> ReportOptions {
        let of = |arm: &str| ControlOf { arm: arm.to_owned(), what: None };
        ReportOptions {
            controls: controls.iter().map(|(name, arm)| ((*name).to_owned(), of(arm))).collect(),
            ..ReportOptions::default()
        }
    }

    #[test]
    fn a_control_is_seen_three_half_widths_from_its_arm() {
        // Seeds differ by 0.2 about 1 and about 0.1.
        let documents = Documents::from([
            ("arm".to_owned(), runs(&[2.0, 2.0])),
            ("far".to_owned(), runs(&[3.001, 2.999])),
            ("near".to_owned(), runs(&[2.2, 1.9])),
        ]);
        let measure = |controls| instrument(&options(controls), &Results::default(), &documents);
        assert_eq!(measure(&[]), None);
        let both = measure(&[("near", "arm"), ("far", "arm"), ("absent", "arm")]).unwrap();
        assert_eq!(both.sees, Some(true));
        let [(_, near), (_, far), (_, absent)] = both.controls.0.as_slice() else { panic!() };
        assert!(far.is_seen() && far.seeds_needed.is_none());
        assert!((far.difference.as_ref().unwrap().bpb - 1.0).abs() < 1e-9);
        assert!(!near.is_seen() && near.half_widths < Some(1.0));
        // The spread of seeds is 0.21, and 0.05 / 3 is wanted: more seeds than anyone runs.
        assert_eq!(near.seeds_needed, None);
        assert_eq!((&absent.difference, absent.half_widths), (&None, None));
        assert_eq!(measure(&[("near", "arm")]).unwrap().sees, Some(false));
        assert_eq!(measure(&[("absent", "arm")]).unwrap().sees, None);
    }

    #[test]
    fn patches_are_unequal_from_three_percent_on() {
        let of = |size: f64| {
            let value = serde_json::json!({"bpb": 2.0, "bytes_per_patch": size});
            serde_json::from_value::<VariantResults>(value).unwrap()
        };
        let sizes = [("base", 6.0), ("near", 6.17), ("far", 4.5), ("far control", 6.5)];
        let results = Results {
            baseline: Some("base".to_owned()),
            variants: sizes.map(|(name, size)| (name.to_owned(), of(size))).into_iter().collect(),
            ..Results::default()
        };
        let unequal = unequal_patches(&results, &["far", "near", "base"]);
        assert_eq!(unequal, BTreeMap::from([("far".to_owned(), 0.75)]));
        assert!(unequal_patches(&Results { baseline: None, ..results }, &["far"]).is_empty());
    }
}
