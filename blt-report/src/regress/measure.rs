//! What a run measured, number by number.

use super::Fingerprint;
use crate::results::{Entry, StepResult, VariantRun, compared, parse, read_text};
use crate::stats::{mean, standard_error_about};
use blt_graph::{StepError, run::RunReport};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// A metric of a variant: its mean over seeds, and the mean's standard error where there are
/// several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    pub value: f64,
    pub se: Option<f64>,
}

/// Metrics by variant.
pub type Numbers = BTreeMap<String, BTreeMap<String, Number>>;

/// A run's numbers, and what they were made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub pipeline: String,
    pub made_with: Fingerprint,
    pub variants: Numbers,
}

impl Measured {
    /// Reads the results that the steps of a finished run wrote.
    ///
    /// # Errors
    /// If a result cannot be read.
    pub fn of(
        report: &RunReport,
        runs: &[VariantRun],
        made_with: Fingerprint,
    ) -> Result<Self, StepError> {
        let pipeline = report.plans.first().map_or("", |run| run.plan.pipeline.as_str()).to_owned();
        Ok(Measured { pipeline, made_with, variants: numbers(runs)? })
    }
}

/// The numbers of every variant, over its seeds.
///
/// A number of the last evaluation has its name in results.json. A number of another step has the
/// prefix `run.INDEX.STEP`, the step's place in the pipeline. A training also has the numbers of its
/// last line in metrics.jsonl; its `prepared` is left out where an evaluation has the same. A step
/// that variants share ran once, and its numbers are listed under the first of these variants. True
/// counts 1, false 0.
fn numbers(runs: &[VariantRun]) -> Result<Numbers, StepError> {
    let mut by_variant: BTreeMap<&str, Vec<BTreeMap<String, f64>>> = BTreeMap::new();
    let mut owners: BTreeMap<&Path, &str> = BTreeMap::new();
    for run in runs {
        let mine = |entry: &Entry, owners: &BTreeMap<&Path, &str>| {
            owners[entry.dir.as_path()] == run.variant
        };
        for entry in &run.entries {
            owners.entry(&entry.dir).or_insert(&run.variant);
        }
        by_variant
            .entry(&run.variant)
            .or_default()
            .push(of_run(run, |entry| mine(entry, &owners))?);
    }
    let mut numbers = Numbers::new();
    for (variant, seeds) in by_variant {
        let names = seeds.iter().flat_map(BTreeMap::keys);
        let metrics = numbers.entry(variant.to_owned()).or_default();
        for name in names {
            let values: Vec<f64> =
                seeds.iter().filter_map(|seed| seed.get(name).copied()).collect();
            // One that some seeds lack is compared over none: it is missing, and that fails.
            if values.len() == seeds.len() {
                metrics.insert(name.clone(), over_seeds(&values));
            }
        }
    }
    Ok(numbers)
}

fn over_seeds(values: &[f64]) -> Number {
    let value = match values.iter().all(|v| *v == values[0]) {
        true => values[0],
        false => mean(values),
    };
    Number { value, se: standard_error_about(values, value) }
}

fn of_run(
    run: &VariantRun,
    mine: impl Fn(&Entry) -> bool,
) -> Result<BTreeMap<String, f64>, StepError> {
    let results = run.entries.iter().map(|entry| StepResult::read(&entry.dir));
    let results = results.collect::<Result<Vec<_>, _>>()?;
    let evaluation =
        results.iter().rposition(|result| matches!(result, Some(StepResult::Evaluate(_))));
    let mut found = BTreeMap::new();
    for (index, (entry, mut result)) in run.entries.iter().zip(results).enumerate() {
        if Some(index) == evaluation {
            compared(&result, "", &mut found)?;
        } else if mine(entry) {
            if let Some(result) = result.as_mut().filter(|_| evaluation.is_some()) {
                result.forget_prepared();
            }
            let name = format!("run.{index}.{}.", entry.step);
            compared(&last_metrics(entry)?, &name, &mut found)?;
            compared(&result, &name, &mut found)?;
        }
    }
    Ok(found)
}

/// The last line of metrics.jsonl, which may have any keys.
fn last_metrics(entry: &Entry) -> Result<Option<Value>, StepError> {
    let path = entry.dir.join("metrics.jsonl");
    let text = read_text(&path)?.unwrap_or_default();
    text.lines().last().map(|line| parse(line, &path)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{EvaluateResult, TrainResult};
    use serde_json::json;
    use std::fs;

    fn prepared(of_node: Value) -> BTreeMap<String, Value> {
        BTreeMap::from([("p".to_owned(), of_node)])
    }

    fn train() -> StepResult {
        let prepared = prepared(json!({"threshold": 1.5}));
        StepResult::Train(TrainResult { bytes: 9, prepared, ..TrainResult::default() })
    }

    fn evaluate(result: EvaluateResult) -> StepResult {
        StepResult::Evaluate(result)
    }

    fn entry(root: &Path, name: &str, step: &str, result: StepResult, metrics: &str) -> Entry {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        result.write(&dir).unwrap();
        fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
        Entry { step: step.into(), dir }
    }

    #[test]
    fn every_number_has_a_name() {
        let root = tempfile::tempdir().unwrap();
        let entries = vec![
            entry(
                root.path(),
                "a",
                "train",
                train(),
                "{\"bpb\": 8.0, \"step\": 1}\n{\"bpb\": 7.5, \"step\": 2}\n",
            ),
            entry(
                root.path(),
                "b",
                "evaluate",
                evaluate(EvaluateResult {
                    bpb: Some(7.25),
                    bpb_by: BTreeMap::from([("x y".to_owned(), Some(7.0))]),
                    boundary_lookahead: true,
                    patch_lengths: Some(BTreeMap::from([(1, 3u64.into())])),
                    prepared: prepared(json!({"threshold": 1.5, "rule": {"threshold": 1.5}})),
                    ..EvaluateResult::default()
                }),
                "",
            ),
            entry(
                root.path(),
                "c",
                "count",
                StepResult::Other(json!({"rows": 4, "parts": [1, 2], "by": {"parts": 3, "x": 5}})),
                "",
            ),
        ];
        let of = numbers(&[VariantRun { variant: "v".into(), seed: 1, entries }]).unwrap();
        let of: Vec<(&str, f64)> =
            of["v"].iter().map(|(name, number)| (name.as_str(), number.value)).collect();
        let expected = [
            ("boundary_lookahead", 1.0),
            ("bpb", 7.25),
            ("bpb_by.x y", 7.0),
            ("prepared.p.threshold", 1.5),
            ("run.0.train.bpb", 7.5),
            ("run.0.train.bytes", 9.0),
            ("run.0.train.parameters", 0.0),
            ("run.2.count.by.x", 5.0),
            ("run.2.count.rows", 4.0),
        ];
        assert_eq!(of, expected);
    }

    /// Keys that are not compared are keys of results, and not what a user may call a group.
    #[test]
    fn groups_metrics_and_nodes_may_have_any_name() {
        let root = tempfile::tempdir().unwrap();
        let by = ["step", "rule", "parts"].map(|name| (name.to_owned(), Some(7.0)));
        let result = evaluate(EvaluateResult {
            bpb_by: BTreeMap::from(by.clone()),
            metrics: BTreeMap::from(by),
            prepared: BTreeMap::from([("rule".to_owned(), json!({"threshold": 1.5, "rule": 2}))]),
            ..EvaluateResult::default()
        });
        let entries = vec![entry(root.path(), "e", "evaluate", result, "")];
        let of = numbers(&[VariantRun { variant: "v".into(), seed: 1, entries }]).unwrap();
        let names: Vec<&str> = of["v"].keys().map(String::as_str).collect();
        let expected = [
            "boundary_lookahead",
            "bpb_by.parts",
            "bpb_by.rule",
            "bpb_by.step",
            "metrics.parts",
            "metrics.rule",
            "metrics.step",
            "prepared.rule.threshold",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_step_that_variants_share_stands_under_the_first() {
        let root = tempfile::tempdir().unwrap();
        let train = entry(root.path(), "t", "train", train(), "");
        let measured = EvaluateResult { bpb: Some(2.0), ..EvaluateResult::default() };
        let evaluate = entry(root.path(), "e", "evaluate", evaluate(measured), "");
        let run = |variant: &str, entries: &[&Entry]| VariantRun {
            variant: variant.into(),
            seed: 1,
            entries: entries.iter().map(|&entry| entry.clone()).collect(),
        };
        let of = numbers(&[
            run("b", &[&train]),
            run("a", &[&train, &evaluate]),
            run("c", &[&train, &evaluate]),
        ])
        .unwrap();
        let names = |variant: &str| of[variant].keys().map(String::as_str).collect::<Vec<_>>();
        let of_train = ["bytes", "parameters", "prepared.p.threshold"];
        assert_eq!(names("b"), of_train.map(|name| format!("run.0.train.{name}")));
        // An evaluation is every variant's own, so that each has its bits per byte.
        let of_evaluation = vec!["boundary_lookahead", "bpb"];
        assert_eq!((names("a"), names("c")), (of_evaluation.clone(), of_evaluation));
    }

    #[test]
    fn seeds_are_averaged_and_a_metric_that_one_lacks_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let run = |seed: u64, bpb: f64, metrics: &[&str]| {
            let metrics = metrics.iter().map(|name| ((*name).to_owned(), Some(1.0))).collect();
            let bpb = Some(bpb);
            let parameters = 7u64.into();
            let result =
                evaluate(EvaluateResult { bpb, metrics, parameters, ..EvaluateResult::default() });
            let entries = vec![entry(root.path(), &seed.to_string(), "evaluate", result, "")];
            VariantRun { variant: "v".into(), seed, entries }
        };
        let runs = [run(1, 2.0, &["odd"]), run(2, 4.0, &[])];
        let of = numbers(&runs).unwrap();
        // The deviation is sqrt(2), the mean's error sqrt(2) / sqrt(2).
        assert_eq!(of["v"]["bpb"], Number { value: 3.0, se: Some(1.0) });
        assert_eq!(of["v"]["parameters"], Number { value: 7.0, se: Some(0.0) });
        assert!(!of["v"].contains_key("metrics.odd"));
    }
}
