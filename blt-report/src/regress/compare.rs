//! The verdict on every number of a run.

use super::baseline::{Baseline, Better, Rule, Tolerance};
use super::fingerprint::{Case, Difference};
use super::measure::{Measured, Number, Numbers};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The outcome of comparing one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same to the bit.
    Same,
    /// Within its tolerance.
    Within,
    /// Further away than that, in the direction that the baseline calls better.
    Improved,
    /// Further away than that, in the direction that is better for such a number; the baseline does
    /// not say that it may.
    ImprovedUnasked,
    /// Not compared: its tolerance is `ignore`.
    Ignored,
    /// All numbers of a variant are those of one that is not there any more.
    Renamed,
    /// Further away than that.
    Regressed,
    /// The baseline has it, the run does not.
    NotMeasured,
    /// The run has it, the baseline does not.
    NotInBaseline,
}

impl Verdict {
    pub fn passes(self) -> bool {
        matches!(self, Verdict::Same | Verdict::Within | Verdict::Improved | Verdict::Ignored)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Same => "same",
            Verdict::Within => "within",
            Verdict::Improved => "improved",
            Verdict::ImprovedUnasked => "IMPROVED",
            Verdict::Ignored => "ignored",
            Verdict::Renamed => "RENAMED",
            Verdict::Regressed => "REGRESSED",
            Verdict::NotMeasured => "NOT MEASURED",
            Verdict::NotInBaseline => "NOT IN BASELINE",
        })
    }
}

/// One metric of one variant, on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub variant: String,
    pub metric: String,
    /// The baseline's number; None if it has none.
    pub old: Option<f64>,
    /// The run's number; None if it has none.
    pub new: Option<f64>,
    /// New minus old.
    pub delta: Option<f64>,
    /// What it is held to, in words; empty for a number that one side lacks.
    pub allowed: String,
    pub verdict: Verdict,
}

/// A run held against a baseline.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub pipeline: String,
    /// What the two were made with, where it differs.
    pub differences: Vec<Difference>,
    /// By variant and metric.
    pub rows: Vec<Row>,
}

impl Comparison {
    pub fn of(baseline: &Baseline, measured: &Measured) -> Self {
        let differences = baseline.made_with.differences(&measured.made_with);
        let cases: Vec<Case> = differences.iter().map(|difference| difference.case).collect();
        let mut rows = Vec::new();
        let none = BTreeMap::new();
        let renamed = renamed(&baseline.variants, &measured.variants);
        let mut variants: BTreeSet<&String> =
            baseline.variants.keys().chain(measured.variants.keys()).collect();
        for (old, new) in renamed {
            variants.remove(old);
            variants.remove(new);
            rows.push(Row {
                variant: new.clone(),
                metric: format!("all, as `{old}` had them"),
                old: None,
                new: None,
                delta: None,
                allowed: String::new(),
                verdict: Verdict::Renamed,
            });
        }
        for variant in variants {
            let (old, new) = (baseline.variants.get(variant), measured.variants.get(variant));
            let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
            let metrics: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            rows.extend(metrics.into_iter().map(|metric| {
                let rule = baseline.rule(metric);
                row(variant, metric, old.get(metric), new.get(metric), &rule, &cases)
            }));
        }
        Comparison { pipeline: measured.pipeline.clone(), differences, rows }
    }

    /// Every number passes, and there is one.
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.verdict.passes())
    }

    /// Rows of a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.verdict.passes())
    }

    /// What other programs read: the verdict, the differences, and every row.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": 1,
            "pipeline": self.pipeline,
            "passed": self.passed(),
            "differences": self.differences,
            "rows": self.rows,
        })
    }
}

/// Variants of one side alone whose numbers are the same: the name before, and the one now.
fn renamed<'a>(old: &'a Numbers, new: &'a Numbers) -> Vec<(&'a String, &'a String)> {
    let mut added: Vec<(&String, _)> =
        new.iter().filter(|(name, _)| !old.contains_key(*name)).collect();
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    gone.filter_map(|(name, numbers)| {
        let same = added.iter().position(|(_, others)| *others == numbers)?;
        Some((name, added.remove(same).0))
    })
    .collect()
}

fn row(
    variant: &str,
    metric: &str,
    old: Option<&Number>,
    new: Option<&Number>,
    rule: &Rule,
    cases: &[Case],
) -> Row {
    let (verdict, allowed) = match (old, new) {
        _ if rule.same == Tolerance::Ignore => (Verdict::Ignored, String::new()),
        (Some(old), Some(new)) => judge(metric, old, new, rule, cases),
        (Some(_), None) => (Verdict::NotMeasured, String::new()),
        (None, _) => (Verdict::NotInBaseline, String::new()),
    };
    let (old, new) = (old.map(|number| number.value), new.map(|number| number.value));
    Row {
        variant: variant.to_owned(),
        metric: metric.to_owned(),
        old,
        new,
        delta: old.zip(new).map(|(old, new)| new - old),
        allowed,
        verdict,
    }
}

fn judge(
    metric: &str,
    old: &Number,
    new: &Number,
    rule: &Rule,
    cases: &[Case],
) -> (Verdict, String) {
    let delta = new.value - old.value;
    // `same` applies in any case; an input that differs may allow more.
    let written = cases.iter().filter_map(|case| Some((Some(*case), rule.cases.get(case)?)));
    let tolerances: Vec<(Option<Case>, &Tolerance)> =
        std::iter::once((None, &rule.same)).chain(written).collect();
    let words = |(case, tolerance): &(Option<Case>, &Tolerance)| {
        let case = case.map_or(String::new(), |case| format!(" ({case})"));
        format!("{}{case}", in_numbers(tolerance, old, new))
    };
    let all = || tolerances.iter().map(words).collect::<Vec<_>>().join(" or ");
    if old.value.to_bits() == new.value.to_bits() {
        return (Verdict::Same, words(&tolerances[0]));
    }
    if let Some(allowing) =
        tolerances.iter().find(|(_, tolerance)| delta.abs() <= width(tolerance, old, new))
    {
        return (Verdict::Within, words(allowing));
    }
    match rule.better {
        Some(Better::Lower) if delta < 0.0 => (Verdict::Improved, all()),
        Some(Better::Higher) if delta > 0.0 => (Verdict::Improved, all()),
        None if delta < 0.0 && is_a_loss(metric) => (Verdict::ImprovedUnasked, all()),
        _ => (Verdict::Regressed, all()),
    }
}

/// Whether less of a number is better, whatever else is asked of it. It may also be a leak.
fn is_a_loss(metric: &str) -> bool {
    ["bpb", "nats"].iter().any(|name| metric.contains(name))
}

/// The largest difference that passes.
fn width(tolerance: &Tolerance, old: &Number, new: &Number) -> f64 {
    match tolerance {
        Tolerance::Exact => 0.0,
        Tolerance::Ignore => f64::INFINITY,
        Tolerance::Absolute(x) => *x,
        Tolerance::Relative(x) => x * old.value.abs(),
        // Without an error there is nothing to be away by: one seed allows no difference.
        Tolerance::StandardErrors(n) => standard_error(old, new).map_or(0.0, |se| n * se),
    }
}

fn standard_error(old: &Number, new: &Number) -> Option<f64> {
    Some((old.se?.powi(2) + new.se?.powi(2)).sqrt())
}

fn in_numbers(tolerance: &Tolerance, old: &Number, new: &Number) -> String {
    match tolerance {
        Tolerance::Exact => "exact".to_owned(),
        Tolerance::Ignore => "anything".to_owned(),
        Tolerance::Absolute(x) => format!("±{x:?}"),
        Tolerance::Relative(x) => format!("±{:?} %", (x * 100.0 * 1e9).round() / 1e9),
        Tolerance::StandardErrors(n) => match standard_error(old, new) {
            Some(se) => format!("±{:.2e}, {n:?} s.e.", n * se),
            None => format!("{n:?} s.e. of one seed, which has none: exact"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regress::Fingerprint;
    use std::path::Path;

    fn number(value: f64) -> Number {
        Number { value, se: None }
    }

    fn measured(metrics: &[(&str, f64)]) -> Measured {
        let metrics =
            metrics.iter().map(|(name, value)| ((*name).to_owned(), number(*value))).collect();
        let variants: Numbers = [("v".to_owned(), metrics)].into();
        Measured {
            pipeline: "p".into(),
            made_with: Fingerprint { cpu: "a".into(), ..Default::default() },
            variants,
        }
    }

    fn baseline(tolerances: &str, metrics: &[(&str, f64)]) -> Baseline {
        let text = Baseline::new().updated(&measured(metrics)).unwrap();
        let (head, tail) = (text.find("tolerances:").unwrap(), text.find("variants:").unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.yaml");
        std::fs::write(
            &path,
            format!("{}tolerances: {tolerances}\n{}", &text[..head], &text[tail..]),
        )
        .unwrap();
        Baseline::read(Path::new(&path)).unwrap()
    }

    #[test]
    fn a_loss_that_falls_is_an_improvement_and_passes_only_where_it_may() {
        let of = |tolerances: &str, new: f64| {
            let baseline = baseline(tolerances, &[("bpb", 2.0)]);
            Comparison::of(&baseline, &measured(&[("bpb", new)])).rows[0].verdict
        };
        let verdict = of("{'*': {same: exact}}", 1.5);
        assert_eq!((verdict, verdict.passes()), (Verdict::ImprovedUnasked, false));
        assert_eq!(of("{'*': {same: exact}}", 2.5), Verdict::Regressed);
        assert!(of("{'*': {same: exact, better: lower}}", 1.5).passes());
        assert_eq!(of("{'*': {same: exact, better: higher}}", 1.5), Verdict::Regressed);
    }

    #[test]
    fn what_is_ignored_passes_on_either_side_and_a_renamed_variant_is_one_row() {
        let rules = "{gone: {same: ignore}, new: {same: ignore}, '*': {same: exact}}";
        let baseline = baseline(rules, &[("m", 2.0), ("gone", 1.0)]);
        let mut now = measured(&[("m", 2.0), ("new", 1.0)]);
        let comparison = Comparison::of(&baseline, &now);
        assert_eq!((comparison.passed(), comparison.count(Verdict::Ignored)), (true, 2));
        now.variants = [("w".to_owned(), baseline.variants["v"].clone())].into();
        let comparison = Comparison::of(&baseline, &now);
        let [row] = &comparison.rows[..] else { panic!("{:?}", comparison.rows) };
        assert_eq!((row.verdict, row.variant.as_str()), (Verdict::Renamed, "w"));
        assert!(row.metric.contains("`v`") && !comparison.passed());
    }

    fn verdict(tolerances: &str, old: f64, new: f64) -> Verdict {
        let rows =
            Comparison::of(&baseline(tolerances, &[("m", old)]), &measured(&[("m", new)])).rows;
        assert_eq!(rows.len(), 1);
        rows[0].verdict
    }

    #[test]
    fn each_tolerance_has_its_edge() {
        for (tolerances, old, new, expected) in [
            ("{m: {same: exact}}", 2.0, 2.0, Verdict::Same),
            ("{m: {same: exact}}", 2.0, 2.0f64.next_up(), Verdict::Regressed),
            ("{m: {same: absolute 0.5}}", 2.0, 2.5, Verdict::Within),
            ("{m: {same: absolute 0.5}}", 2.0, 1.5, Verdict::Within),
            ("{m: {same: absolute 0.5}}", 2.0, 2.5f64.next_up(), Verdict::Regressed),
            ("{m: {same: relative 0.25}}", -2.0, -2.5, Verdict::Within),
            ("{m: {same: relative 0.25}}", -2.0, -2.51, Verdict::Regressed),
            ("{m: {same: absolute 0.5, better: lower}}", 2.0, 1.0, Verdict::Improved),
            ("{m: {same: absolute 0.5, better: lower}}", 2.0, 3.0, Verdict::Regressed),
            ("{m: {same: absolute 0.5, better: higher}}", 2.0, 3.0, Verdict::Improved),
            ("{m: {same: absolute 0.5, better: higher}}", 2.0, 1.0, Verdict::Regressed),
            ("{m: {same: standard_errors 100}}", 2.0, 2.1, Verdict::Regressed),
            ("{other: {same: absolute 9}}", 2.0, 2.1, Verdict::Regressed),
            // Zero and minus zero are equal, and not the same bits.
            ("{m: {same: exact}}", 0.0, -0.0, Verdict::Within),
        ] {
            assert_eq!(verdict(tolerances, old, new), expected, "{tolerances}: {old} to {new}");
        }
    }

    #[test]
    fn a_thousandth_of_a_bit_does_not_pass_by_default() {
        let of = |new: f64| {
            let baseline =
                Baseline { variants: measured(&[("bpb", 2.0)]).variants, ..Baseline::new() };
            // Everything differs that may.
            Comparison::of(&baseline, &measured(&[("bpb", new)])).rows[0].verdict
        };
        assert_eq!(
            (of(2.001), of(1.999), of(2.000_001)),
            (Verdict::Regressed, Verdict::ImprovedUnasked, Verdict::Within)
        );
    }

    #[test]
    fn standard_errors_are_those_of_the_difference() {
        let rule = baseline("{m: {same: standard_errors 2}}", &[("m", 0.0)]).rule("m");
        let (old, new) =
            (Number { value: 1.0, se: Some(0.3) }, |value| Number { value, se: Some(0.4) });
        assert_eq!(judge("m", &old, &new(2.0), &rule, &[]).0, Verdict::Within);
        assert_eq!(judge("m", &old, &new(2.01), &rule, &[]).0, Verdict::Regressed);
        let (verdict, words) = judge("m", &number(1.0), &new(1.01), &rule, &[]);
        assert_eq!(
            (verdict, words.as_str()),
            (Verdict::Regressed, "2.0 s.e. of one seed, which has none: exact")
        );
    }

    #[test]
    fn the_tolerance_of_a_case_holds_in_that_case_alone() {
        let tolerances = "{m: {same: absolute 0.1, cpu: absolute 1, data: absolute 0.5}}";
        let baseline = baseline(tolerances, &[("m", 2.0)]);
        let run = |cpu: &str, data: &str, new: f64| {
            let mut measured = measured(&[("m", new)]);
            measured.made_with.cpu = cpu.into();
            if !data.is_empty() {
                measured.made_with.data.insert(data.into(), "1".into());
            }
            let comparison = Comparison::of(&baseline, &measured);
            let cases: Vec<Case> = comparison.differences.iter().map(|d| d.case).collect();
            (comparison.rows[0].verdict, comparison.rows[0].allowed.clone(), cases)
        };
        assert_eq!(run("a", "", 2.9), (Verdict::Regressed, "±0.1".into(), vec![]));
        assert_eq!(run("b", "", 2.9), (Verdict::Within, "±1.0 (cpu)".into(), vec![Case::Cpu]));
        assert_eq!(
            run("a", "x", 2.9),
            (Verdict::Regressed, "±0.1 or ±0.5 (data)".into(), vec![Case::Data])
        );
        assert_eq!(run("b", "x", 2.9).0, Verdict::Within);
        // Within what always holds, another processor or not.
        assert_eq!(run("b", "", 2.05), (Verdict::Within, "±0.1".into(), vec![Case::Cpu]));
    }

    #[test]
    fn what_one_side_lacks_fails() {
        let baseline = baseline("{'*': {same: absolute 9}}", &[("m", 2.0), ("gone", 1.0)]);
        let mut now = measured(&[("m", 2.0), ("new", 1.0)]);
        let comparison = Comparison::of(&baseline, &now);
        let verdicts: Vec<(&str, Verdict)> =
            comparison.rows.iter().map(|r| (r.metric.as_str(), r.verdict)).collect();
        let expected =
            [("gone", Verdict::NotMeasured), ("m", Verdict::Same), ("new", Verdict::NotInBaseline)];
        assert_eq!(verdicts, expected);
        assert!(!comparison.passed());
        // A whole variant, on either side.
        now.variants = [("other".to_owned(), now.variants["v"].clone())].into();
        let comparison = Comparison::of(&baseline, &now);
        assert_eq!(
            (comparison.count(Verdict::NotMeasured), comparison.count(Verdict::NotInBaseline)),
            (2, 2)
        );
        // Nothing at all is no pass.
        now.variants.clear();
        assert!(!Comparison::of(&Baseline::new(), &now).passed());
    }
}
