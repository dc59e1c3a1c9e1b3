//! results.json: what the steps of all variants and seeds measured, in one file that other programs
//! read.
//!
//! A variant's numbers are those of its evaluation; over several seeds their means, with each
//! seed's own under `seeds`. Differences to the baseline are paired by document: both models read
//! the same documents, so what makes a document hard cancels.

mod bench;
mod file;
mod latents;
mod number;
mod online;
mod paired;
mod score;
mod step;

pub use bench::{BenchResult, NodeSeconds, PhaseRate, TrainingMemory};
pub use file::{Difference, Evaluated, Results, SCHEMA, StepRecord, VariantResults};
pub use latents::{LatentsProbe, LatentsWorth, ProbedDocument, ProbedNats};
pub use number::{Number, Ordered};
pub use online::ONLINE_FILE;
pub use paired::{DocumentLine, paired};
pub use score::{
    HistogramGroup, HistogramOf, Likelihood, Patching, ScoreCounts, ScoreHistogram, ScoreResult,
    ScoreSums, ScoredPart, UnreadableRows,
};
pub use step::{
    EvaluateResult, ExportResult, MetricsLine, ReadBack, StepResult, Timing, TrainResult,
};
pub(crate) use step::{compared, lenient, parse, read_text};

use crate::stats::{mean, standard_error};
use blt_graph::run::{PlanRun, RunReport};
use blt_graph::{StepError, write_atomic};
use file::Section;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use step::read_json;

/// What a step of one variant and seed left.
#[derive(Clone, Debug)]
pub struct Entry {
    pub step: String,
    pub dir: PathBuf,
}

/// The finished steps of one variant and seed, in order.
#[derive(Clone, Debug)]
pub struct VariantRun {
    pub variant: String,
    pub seed: u64,
    pub entries: Vec<Entry>,
}

impl VariantRun {
    /// The steps of a whole run, variant by variant and in each seed by seed.
    pub fn of(report: &RunReport) -> Vec<Self> {
        let run = |of: &PlanRun| VariantRun {
            variant: of.plan.variant.clone(),
            seed: of.plan.seed,
            entries: of
                .steps
                .iter()
                .map(|step| Entry { step: step.step.clone(), dir: step.dir.clone() })
                .collect(),
        };
        report.plans.iter().map(run).collect()
    }
}

/// A step that writes no documents.jsonl has none to pair.
fn read_documents(path: &Path) -> Result<Option<Vec<DocumentLine>>, StepError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    text.lines().map(|line| parse(line, path)).collect::<Result<_, _>>().map(Some)
}

/// Numbers averaged leaf by leaf; what is no number must be the same everywhere and is taken from
/// the first.
fn average(values: &[&Value]) -> Value {
    match values[0] {
        Value::Number(_) if values.iter().all(|v| v.is_u64() && *v == values[0]) => {
            values[0].clone()
        }
        Value::Number(_) => {
            let numbers: Vec<f64> = values.iter().filter_map(|v| v.as_f64()).collect();
            json!(mean(&numbers))
        }
        Value::Object(map) => {
            let averaged = map.keys().map(|key| {
                let of_key: Vec<&Value> = values.iter().filter_map(|v| v.get(key)).collect();
                (key.clone(), average(&of_key))
            });
            Value::Object(averaged.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// The mean of what several seeds measured, and what is no number from the first.
fn mean_of<T: Serialize + DeserializeOwned>(seeds: &[&T]) -> Result<T, StepError> {
    let values = seeds.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::from_value(average(&values.iter().collect::<Vec<_>>()))?)
}

/// Counts by length, averaged: a length that a seed does not have counts 0 there.
fn average_counts(seeds: &[&Evaluated]) -> Option<BTreeMap<u64, Number>> {
    seeds[0].result.patch_lengths.as_ref()?;
    let mut sums = BTreeMap::<u64, f64>::new();
    for counts in seeds.iter().filter_map(|seed| seed.result.patch_lengths.as_ref()) {
        for (length, count) in counts {
            *sums.entry(*length).or_default() += count.finite().unwrap_or_default();
        }
    }
    let mean = |(length, sum)| (length, Number::Real(sum / seeds.len() as f64));
    Some(sums.into_iter().map(mean).collect())
}

/// One variant: the means of its seeds.
fn over_seeds(seeds: &[(String, VariantResults)]) -> Result<VariantResults, StepError> {
    let (_, first) = &seeds[0];
    let each = || seeds.iter().map(|(_, results)| results);
    let evaluated: Vec<&Evaluated> = each().filter_map(|of| of.evaluated.as_ref()).collect();
    let rates: Vec<f64> = each().filter_map(|of| of.train_bytes_per_second).collect();
    let mut results = first.clone();
    results.train_bytes_per_second = first.train_bytes_per_second.map(|_| mean(&rates));
    if first.evaluated.is_some() {
        let mut averaged = mean_of(&evaluated)?;
        averaged.result.patch_lengths = average_counts(&evaluated);
        results.evaluated = Some(averaged);
    }
    Ok(results)
}

/// Builds results.json. `baseline`: the variant that differences are taken to.
pub fn build(
    pipeline: &str,
    id: &str,
    seeds: &[u64],
    runs: &[VariantRun],
    baseline: Option<&str>,
) -> Result<Results, StepError> {
    let mut order: Vec<&str> = Vec::new();
    for run in runs {
        if !order.contains(&run.variant.as_str()) {
            order.push(&run.variant);
        }
    }
    let mut variants = Ordered::default();
    let mut documents: BTreeMap<&str, Vec<Vec<DocumentLine>>> = BTreeMap::new();
    let mut online: BTreeMap<&str, Vec<Vec<(u64, f64)>>> = BTreeMap::new();
    for name in order {
        let mut by_seed = Vec::new();
        for run in runs.iter().filter(|r| r.variant == name) {
            let (one, read) = of_run(run)?;
            documents.entry(name).or_default().extend(read);
            let steps = run.entries.iter().rev().map(|entry| online::read(&entry.dir));
            let last = steps.filter_map(Result::transpose).next().transpose()?;
            online.entry(name).or_default().extend(last);
            by_seed.push((run.seed.to_string(), one));
        }
        let mut results = over_seeds(&by_seed)?;
        if seeds.len() > 1 {
            let bpb = |(_, of_seed): &(_, VariantResults)| of_seed.evaluated.as_ref()?.result.bpb;
            let bpb: Vec<f64> = by_seed.iter().filter_map(bpb).collect();
            results.bpb_se_seeds = standard_error(&bpb);
            results.seeds = Some(Ordered(by_seed));
        }
        variants.0.push((name.to_owned(), results));
    }
    if let Some(base) = baseline.and_then(|b| documents.get(b)) {
        for (name, ours) in documents.iter().filter(|(name, _)| Some(**name) != baseline) {
            if let Some(results) = variants.get_mut(name) {
                results.difference = paired(ours, base);
            }
        }
    }
    if let Some(base) = baseline.and_then(|b| online.get(b)) {
        for (name, ours) in
            online.iter().filter(|(name, ours)| Some(**name) != baseline && *ours != base)
        {
            if let Some(results) = variants.get_mut(name) {
                results.online_difference = online::difference(ours, base);
            }
        }
    }
    Ok(Results {
        schema: SCHEMA,
        pipeline: pipeline.to_owned(),
        id: id.to_owned(),
        seed: seeds.first().copied(),
        seeds: seeds.to_vec(),
        baseline: baseline.map(str::to_owned),
        variants,
    })
}

/// Writes samples.json into the run directory: each variant's texts with their borders, of its
/// first seed.
pub fn write_samples(run: &Path, runs: &[VariantRun]) -> Result<(), StepError> {
    let mut samples = Map::new();
    for run in runs {
        if samples.contains_key(&run.variant) {
            continue;
        }
        for entry in run.entries.iter().rev() {
            if let Some(of_step) = read_json(&entry.dir.join("samples.json"))? {
                samples.insert(run.variant.clone(), of_step);
                break;
            }
        }
    }
    Ok(write_atomic(run.join("samples.json"), Value::Object(samples).to_string())?)
}

/// One variant and seed: its last evaluation, with what training measured; and the documents of
/// the evaluation.
fn of_run(run: &VariantRun) -> Result<(VariantResults, Option<Vec<DocumentLine>>), StepError> {
    let (mut results, mut documents) = (VariantResults::default(), None);
    for entry in &run.entries {
        let Some(result) = StepResult::read(&entry.dir)? else { continue };
        let written = Timing::read(&entry.dir)?;
        let record = StepRecord::new(&entry.step, result, written)?;
        match record.result {
            StepResult::Evaluate(result) => {
                documents = read_documents(&entry.dir.join("documents.jsonl"))?;
                let timing = record.timing.unwrap_or_default();
                results.evaluated = Some(Evaluated { result, timing });
                results.measured(Section::Evaluated);
            }
            ref result => {
                results.measured(Section::Steps);
                let timing = record.timing.as_ref();
                let rate = timing.and_then(|timing| timing.train_bytes_per_second);
                if let (StepResult::Train(_), Some(_)) = (result, rate) {
                    results.train_bytes_per_second = rate;
                    results.measured(Section::Training);
                }
                results.steps.push(record);
            }
        }
    }
    Ok((results, documents))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(root: &Path, seed: u64, results: &[(&str, Value, Option<Value>)]) -> VariantRun {
        let entry = |(i, (step, result, timing)): (usize, &(&str, Value, Option<Value>))| {
            let dir = root.join(format!("{seed}-{i}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("result.json"), result.to_string()).unwrap();
            if let Some(timing) = timing {
                std::fs::write(dir.join("timing.json"), timing.to_string()).unwrap();
            }
            Entry { step: (*step).to_owned(), dir }
        };
        let entries = results.iter().enumerate().map(entry).collect();
        VariantRun { variant: "v".to_owned(), seed, entries }
    }

    /// Results of plugins and results of our types keep their keys and the keys' order.
    #[test]
    fn results_of_any_step_keep_their_keys() {
        let root = tempfile::tempdir().unwrap();
        let trained = json!({
            "kind": "train", "goal": "loss", "steps": 3, "bytes": 99, "parameters": 7, "prepared": {},
        });
        let mut odd = trained.clone();
        odd["odd"] = json!(1);
        let results = [
            ("count", json!({"kind": "count", "rows": 4, "by": {"a": 1.5}}), None),
            ("count", json!({"kind": "count", "rows": 4, "z": 0}), Some(json!({"seconds": 2}))),
            ("train", trained.clone(), Some(json!({"train_bytes_per_second": 5.5}))),
            ("train", odd, Some(json!({"train_bytes_per_second": 6.5}))),
            ("list", json!([1, 2]), Some(json!({"seconds": 2}))),
        ];
        let built = build("p", "r", &[1], &[run(root.path(), 1, &results)], None).unwrap();
        let expected = r#"{"schema":1,"pipeline":"p","id":"r","seed":1,"seeds":[1],"baseline":null,"variants":{"v":{"steps":[{"count":{"kind":"count","rows":4,"by":{"a":1.5}}},{"count":{"z":0,"rows":4,"seconds":2}},{"train":{"prepared":{},"goal":"loss","steps":3,"bytes":99,"parameters":7,"train_bytes_per_second":5.5}},{"train":{"odd":1,"goal":"loss","steps":3,"bytes":99,"parameters":7,"prepared":{},"train_bytes_per_second":6.5}},{"list":[1,2]}],"train_bytes_per_second":5.5}}}"#;
        let written = serde_json::to_string(&built).unwrap();
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_str::<Results>(&written).unwrap(), built);
        // The step that wrote one key more than the type has is a plugin's.
        let [.., odd, _] = built.variants.0[0].1.steps.as_slice() else { panic!("five steps") };
        assert!(matches!(odd.result, StepResult::Other(_)));
    }

    #[test]
    fn seeds_are_averaged_number_by_number() {
        let root = tempfile::tempdir().unwrap();
        let of = |seed, bpb, patches: u64, lengths: &[(u64, u64)]| {
            let lengths = lengths.iter().map(|&(length, count)| (length, count.into()));
            let result = StepResult::Evaluate(EvaluateResult {
                bpb: Some(bpb),
                bytes: 10u64.into(),
                patches: Some(patches.into()),
                patch_lengths: Some(lengths.collect()),
                ..EvaluateResult::default()
            });
            let timing = json!({"evaluate_bytes_per_second": bpb, "seconds_by_node": {"n": 1.0}});
            let result = serde_json::to_value(result).unwrap();
            run(root.path(), seed, &[("evaluate", result, Some(timing))])
        };
        let runs = [of(2, 3.0, 4, &[(2, 4), (10, 1)]), of(1, 2.0, 5, &[(3, 2)])];
        let built = build("p", "r", &[2, 1], &runs, None).unwrap();
        let (_, variant) = &built.variants.0[0];
        let result = &variant.evaluated.as_ref().unwrap().result;
        assert_eq!((result.bpb, variant.bpb_se_seeds), (Some(2.5), Some(0.5)));
        // A count that all seeds share stays whole.
        assert_eq!((result.bytes, result.patches), (Number::Whole(10), Some(Number::Real(4.5))));
        let lengths = result.patch_lengths.as_ref().unwrap();
        let lengths: Vec<(u64, f64)> =
            lengths.iter().map(|(length, count)| (*length, count.finite().unwrap())).collect();
        assert_eq!(lengths, [(2, 2.0), (3, 1.0), (10, 0.5)]);
        let seeds: Vec<&str> =
            variant.seeds.as_ref().unwrap().iter().map(|(seed, _)| seed).collect();
        assert_eq!(seeds, ["2", "1"]);
        let again: Results = serde_json::from_str(&serde_json::to_string(&built).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(again).unwrap(), serde_json::to_value(built).unwrap());
    }

    /// Results of earlier versions, whole runs, are read to the last byte.
    #[test]
    fn recorded_results_are_read_and_written_to_the_byte() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipelines/results");
        for name in ["ablation_patching_seeds.json", "sweep.json"] {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let results: Results = serde_json::from_str(&text).unwrap();
            let typed = |steps: &[StepRecord]| {
                steps.iter().all(|step| matches!(step.result, StepResult::Train(_)))
            };
            assert!(results.variants.iter().all(|(_, v)| typed(&v.steps) && v.evaluated.is_some()));
            let written = serde_json::to_string_pretty(&results).unwrap();
            let differs = written.lines().zip(text.lines()).find(|(ours, read)| ours != read);
            assert_eq!(differs, None, "{name} is not what was read");
            assert_eq!(written.len(), text.trim_end().len(), "{name}");
        }
    }

    /// docs/results.schema.json describes results.json, and result.json of a step under `$defs`.
    /// `UPDATE=1` writes it anew.
    #[test]
    fn the_schema_in_the_docs_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/results.schema.json");
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Results)).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &schema).unwrap();
        }
        let in_docs = std::fs::read_to_string(&path).unwrap();
        assert!(in_docs == schema, "UPDATE=1 cargo test -p blt-report writes {}", path.display());
    }
}
