//! What a run measured, number by number.

use super::Fingerprint;
use crate::results::{Entry, VariantRun};
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

/// Parts of a result that are not compared: breakdowns whose sums are, settings of the pipeline,
/// and formulas of its sizes.
const LEFT_OUT: &[&str] = &[
    "bytes_by",
    "closed_form_flops_per_byte",
    "empty",
    "flops_by_node",
    "nulls",
    "parameters_by_node",
    "parts",
    "patch_lengths",
    "histogram",
    "rule",
    "step",
    "steps",
    "tensors",
    "wanted_bytes_per_patch",
];

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
/// A metric of the last evaluation has its name in results.json; one of another step stands after
/// `run.INDEX.STEP`, the place of the step in the pipeline. A training's metrics are those of its
/// last line in metrics.jsonl; what was learned before it (`prepared`) is the evaluation's, where
/// there is one. Another step that variants share ran once, and stands under the first of them.
/// Truth values count 0 and 1.
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
    let n = values.len() as f64;
    let value = match values.iter().all(|v| *v == values[0]) {
        true => values[0],
        false => values.iter().sum::<f64>() / n,
    };
    let squares = values.iter().map(|v| (v - value).powi(2)).sum::<f64>();
    Number { value, se: (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()) }
}

fn of_run(
    run: &VariantRun,
    mine: impl Fn(&Entry) -> bool,
) -> Result<BTreeMap<String, f64>, StepError> {
    let evaluation = run.entries.iter().rposition(|entry| entry.step == "evaluate");
    let mut found = BTreeMap::new();
    for (index, entry) in run.entries.iter().enumerate() {
        if Some(index) == evaluation {
            collect(&result(entry)?, "", &mut found);
        } else if mine(entry) {
            let mut result = result(entry)?;
            if let Some(result) = result.as_object_mut().filter(|_| evaluation.is_some()) {
                result.shift_remove("prepared");
            }
            for value in [last_metrics(entry)?, result] {
                collect(&value, &format!("run.{index}.{}.", entry.step), &mut found);
            }
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<String>, StepError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StepError::other(format!("cannot read {}: {error}", path.display()))),
    }
}

fn parse(text: &str, path: &Path) -> Result<Value, StepError> {
    serde_json::from_str(text)
        .map_err(|e| StepError::other(format!("{} is damaged: {e}", path.display())))
}

fn result(entry: &Entry) -> Result<Value, StepError> {
    let path = entry.dir.join("result.json");
    read(&path)?.map_or(Ok(Value::Null), |text| parse(&text, &path))
}

fn last_metrics(entry: &Entry) -> Result<Value, StepError> {
    let path = entry.dir.join("metrics.jsonl");
    let text = read(&path)?.unwrap_or_default();
    text.lines().last().map_or(Ok(Value::Null), |line| parse(line, &path))
}

fn collect(value: &Value, name: &str, found: &mut BTreeMap<String, f64>) {
    match value {
        Value::Object(map) => {
            let dot = if name.is_empty() || name.ends_with('.') { "" } else { "." };
            for (key, value) in map.iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())) {
                collect(value, &format!("{name}{dot}{key}"), found);
            }
        }
        Value::Bool(value) => {
            found.insert(name.to_owned(), f64::from(u8::from(*value)));
        }
        Value::Number(number) => {
            found.extend(number.as_f64().map(|value| (name.to_owned(), value)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn entry(root: &Path, name: &str, step: &str, result: Value, metrics: &str) -> Entry {
        let dir = root.join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("result.json"), result.to_string()).unwrap();
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
                json!({"kind": "train", "bytes": 9, "prepared": {"p": {"threshold": 1.5}}}),
                "{\"bpb\": 8.0, \"step\": 1}\n{\"bpb\": 7.5, \"step\": 2}\n",
            ),
            entry(
                root.path(),
                "b",
                "evaluate",
                json!({"bpb": 7.25, "bpb_by": {"x y": 7.0}, "boundary_lookahead": true, "patch_lengths": {"1": 3},
                       "by": null, "parts": [1, 2], "prepared": {"p": {"threshold": 1.5, "rule": {"threshold": 1.5}}}}),
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
        ];
        assert_eq!(of, expected);
    }

    #[test]
    fn a_step_that_variants_share_stands_under_the_first() {
        let root = tempfile::tempdir().unwrap();
        let train = entry(
            root.path(),
            "t",
            "train",
            json!({"bytes": 9, "prepared": {"p": {"threshold": 1.5}}}),
            "",
        );
        let evaluate = entry(root.path(), "e", "evaluate", json!({"bpb": 2.0}), "");
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
        assert_eq!(names("b"), ["run.0.train.bytes", "run.0.train.prepared.p.threshold"]);
        // An evaluation is every variant's own, so that each has its bits per byte.
        assert_eq!((names("a"), names("c")), (vec!["bpb"], vec!["bpb"]));
    }

    #[test]
    fn seeds_are_averaged_and_a_metric_that_one_lacks_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let run = |seed: u64, result: Value| VariantRun {
            variant: "v".into(),
            seed,
            entries: vec![entry(root.path(), &seed.to_string(), "evaluate", result, "")],
        };
        let runs = [
            run(1, json!({"bpb": 2.0, "odd": 1, "parameters": 7})),
            run(2, json!({"bpb": 4.0, "parameters": 7})),
        ];
        let of = numbers(&runs).unwrap();
        // The deviation is sqrt(2), the mean's error sqrt(2) / sqrt(2).
        assert_eq!(of["v"]["bpb"], Number { value: 3.0, se: Some(1.0) });
        assert_eq!(of["v"]["parameters"], Number { value: 7.0, se: Some(0.0) });
        assert!(!of["v"].contains_key("odd"));
    }
}
