//! results.json: what the steps of all variants and seeds measured, in one file that other programs
//! read.
//!
//! A variant's numbers are those of its evaluation; over several seeds their means, with each
//! seed's own under `seeds`. Differences to the baseline are paired by document: both models read
//! the same documents, so what makes a document hard cancels.

mod bench;
mod compare;
mod file;
mod instrument;
mod latents;
mod number;
mod online;
mod paired;
mod probed;
mod score;
mod seeds;
#[cfg(test)]
mod simulated;
mod step;

pub use bench::{BenchResult, NodeSeconds, PhaseRate, TrainingMemory};
pub use file::{
    Control, Difference, Evaluated, Instrument, Interval, Neighbours, Results, SCHEMA, SEEN,
    StepRecord, VariantResults,
};
pub use latents::{LatentsProbe, LatentsWorth};
pub use number::{Number, Ordered};
pub use online::ONLINE_FILE;
pub use paired::{DocumentLine, Paired, paired};
pub use probed::{ProbedDocument, ProbedNats, probed};
pub use score::{
    HistogramGroup, HistogramOf, Likelihood, Patching, ScoreCounts, ScoreHistogram, ScoreResult,
    ScoreSums, ScoredPart, UnreadableRows,
};
pub use step::{
    EvaluateResult, ExportResult, MetricsLine, ReadBack, SPIKE, StepResult, Timing, TrainResult,
};
pub(crate) use step::{compared, lenient, parse, read_text};

use crate::options::ReportOptions;
use crate::stats::standard_error;
use blt_graph::run::{PlanRun, RunReport};
use blt_graph::{StepError, write_atomic};
use compare::{Documents, neighbours, with_baseline};
use file::Section;
use instrument::{instrument, unequal_patches};
use seeds::over_seeds;
use serde_json::{Map, Value};
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

/// Builds results.json.
///
/// # Errors
/// If a file of a step cannot be read, or documents lack the clusters that are asked for.
pub fn build(
    pipeline: &str,
    id: &str,
    seeds: &[u64],
    runs: &[VariantRun],
    options: &ReportOptions,
) -> Result<Results, StepError> {
    let mut order: Vec<&str> = Vec::new();
    for run in runs {
        if !order.contains(&run.variant.as_str()) {
            order.push(&run.variant);
        }
    }
    let mut documents = Documents::new();
    let mut online: BTreeMap<String, Vec<Vec<(u64, f64)>>> = BTreeMap::new();
    let mut over_seeds_of = |name: &str, runs: Vec<&VariantRun>, apart: &[&str]| {
        let mut by_seed = Vec::new();
        for run in runs {
            let (one, read) = of_run(run, apart)?;
            documents.entry(name.to_owned()).or_default().extend(read);
            let steps = run.entries.iter().rev().map(|entry| online::read(&entry.dir));
            let last = steps.filter_map(Result::transpose).next().transpose()?;
            online.entry(name.to_owned()).or_default().extend(last);
            by_seed.push((run.seed.to_string(), one));
        }
        has_clusters(name, &documents[name], options.cluster.as_deref())?;
        let mut results = over_seeds(&by_seed)?;
        if seeds.len() > 1 {
            let bpb = |(_, of_seed): &(_, VariantResults)| of_seed.evaluated.as_ref()?.result.bpb;
            let bpb: Vec<f64> = by_seed.iter().filter_map(bpb).collect();
            results.bpb_se_seeds = standard_error(&bpb);
            results.seeds = Some(Ordered(by_seed));
        }
        Ok::<_, StepError>((name.to_owned(), results))
    };
    let goals: Vec<&str> = options.references.iter().map(|(_, goal)| goal.as_str()).collect();
    let of = |name: &&str| runs.iter().filter(|run| run.variant == *name).collect();
    let variants = order.iter().map(|name| over_seeds_of(name, of(name), &goals));
    let mut variants: Ordered<VariantResults> = variants.collect::<Result<_, _>>()?;
    let mut references = Ordered::default();
    for (name, goal) in &options.references {
        let runs = reference_runs(runs, goal)?;
        if !runs.is_empty() {
            references.0.push(over_seeds_of(name, runs.iter().collect(), &[])?);
        }
    }
    if let Some(base) = options.baseline.as_ref().and_then(|b| online.get(b)) {
        for (name, results) in &mut variants.0 {
            if let Some(ours) = online.get(name).filter(|ours| *ours != base) {
                results.online_difference = online::difference(ours, base);
            }
        }
    }
    let mut results = Results {
        schema: SCHEMA,
        pipeline: pipeline.to_owned(),
        id: id.to_owned(),
        seed: seeds.first().copied(),
        seeds: seeds.to_vec(),
        baseline: options.baseline.clone(),
        cluster: options.cluster.clone(),
        variants,
        references,
        ..Results::default()
    };
    let ranked = results.compared(options);
    let ranked: Vec<&str> = ranked.iter().map(String::as_str).collect();
    results.order = neighbours(&documents, &ranked);
    if let Some(baseline) = &options.baseline {
        with_baseline(&mut results, &documents, baseline, &ranked);
    }
    results.unequal_patches = unequal_patches(&results, &ranked);
    results.instrument = instrument(options, &results, &documents);
    Ok(results)
}

/// The evaluations of `goal`, of the first variant that has any, by seed.
fn reference_runs(runs: &[VariantRun], goal: &str) -> Result<Vec<VariantRun>, StepError> {
    let mut found: Vec<VariantRun> = Vec::new();
    for run in runs {
        if found.first().is_some_and(|first| first.variant != run.variant) {
            break;
        }
        for entry in &run.entries {
            if let Some(StepResult::Evaluate(result)) = StepResult::read(&entry.dir)?
                && result.goal == goal
            {
                found.push(VariantRun { entries: vec![entry.clone()], ..run.clone() });
                break;
            }
        }
    }
    Ok(found)
}

/// Documents have the clusters that the report asks for, where a step wrote any documents.
fn has_clusters(
    variant: &str,
    documents: &[Vec<DocumentLine>],
    cluster: Option<&str>,
) -> Result<(), StepError> {
    let Some(column) = cluster else { return Ok(()) };
    match documents.iter().flatten().find(|line| line.cluster.is_none()) {
        Some(line) => Err(StepError::other(format!(
            "`report.cluster` is `{column}`, and the documents.jsonl that variant `{variant}` left has no `cluster` for row {}: the step that measured it writes none",
            line.row
        ))),
        None => Ok(()),
    }
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
/// the evaluation. Evaluations of the goals `apart` are not the variant's own.
fn of_run(
    run: &VariantRun,
    apart: &[&str],
) -> Result<(VariantResults, Option<Vec<DocumentLine>>), StepError> {
    let (mut results, mut documents) = (VariantResults::default(), None);
    let mut evaluations: Vec<(StepRecord, &Path)> = Vec::new();
    for entry in &run.entries {
        let Some(result) = StepResult::read(&entry.dir)? else { continue };
        let written = Timing::read(&entry.dir)?;
        let record = StepRecord::new(&entry.step, result, written)?;
        match &record.result {
            StepResult::Evaluate(result) if apart.contains(&result.goal.as_str()) => {}
            StepResult::Evaluate(_) => {
                results.measured(Section::Evaluated);
                evaluations.push((record, &entry.dir));
            }
            result => {
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
    if let Some((StepRecord { result: StepResult::Evaluate(result), timing, .. }, dir)) =
        evaluations.pop()
    {
        documents = read_documents(&dir.join("documents.jsonl"))?;
        results.evaluated = Some(Evaluated { result, timing: timing.unwrap_or_default() });
    }
    results.evaluations = evaluations.into_iter().map(|(record, _)| record).collect();
    Ok((results, documents))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        let built =
            build("p", "r", &[1], &[run(root.path(), 1, &results)], &ReportOptions::default())
                .unwrap();
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
            let trained = json!({
                "kind": "train", "goal": "loss", "steps": 3, "bytes": patches, "parameters": 7,
                "prepared": {"n": {"threshold": bpb}},
            });
            let rate = Some(json!({"train_bytes_per_second": bpb}));
            let steps = [("train", trained, rate), ("evaluate", result, Some(timing))];
            run(root.path(), seed, &steps)
        };
        let runs = [of(2, 3.0, 4, &[(2, 4), (10, 1)]), of(1, 2.0, 5, &[(3, 2)])];
        let built = build("p", "r", &[2, 1], &runs, &ReportOptions::default()).unwrap();
        let (_, variant) = &built.variants.0[0];
        let result = &variant.evaluated.as_ref().unwrap().result;
        assert_eq!((result.bpb, variant.bpb_se_seeds), (Some(2.5), Some(0.5)));
        let StepResult::Train(trained) = &variant.steps[0].result else { panic!("a training") };
        assert_eq!((trained.steps, trained.bytes), (3, 5));
        assert_eq!(trained.prepared["n"], json!({"threshold": 2.5}));
        let timing = variant.steps[0].timing.as_ref().unwrap();
        assert_eq!(timing.train_bytes_per_second, Some(2.5));
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
