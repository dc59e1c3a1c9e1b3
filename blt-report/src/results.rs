//! results.json: what the steps of all variants and seeds measured, in one file that other programs
//! read.
//!
//! A variant's numbers are those of its evaluation; over several seeds their means, with each
//! seed's own under `seeds`. Differences to the baseline are paired by document: both models read
//! the same documents, so what makes a document hard cancels.

use blt_graph::run::{PlanRun, RunReport};
use blt_graph::{StepError, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::path::{Path, PathBuf};

/// Version of the schema of results.json.
pub const SCHEMA: u32 = 1;

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

/// A document's line in documents.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentLine {
    pub row: u64,
    pub group: Option<String>,
    pub bytes: u64,
    pub nats: f64,
    pub patches: u64,
}

/// A paired difference in bits per byte: variant minus baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub bpb: f64,
    /// Standard error over documents, differences averaged over seeds.
    pub se_documents: f64,
    /// Standard error over seeds; None with one seed.
    pub se_seeds: Option<f64>,
    /// Both together: the root of the sum of squares.
    pub se: f64,
}

/// The paired difference of two variants, each a list of documents for each seed (the same seeds,
/// in the same order).
///
/// Bits per byte is a ratio of sums, so the error over documents is that of a ratio: the deviation
/// of `d_i - delta * bytes_i` over documents. None if the two did not read the same documents.
pub fn paired(variant: &[Vec<DocumentLine>], baseline: &[Vec<DocumentLine>]) -> Option<Difference> {
    if variant.is_empty() || variant.len() != baseline.len() {
        return None;
    }
    let documents = variant[0].len();
    let mut nats = vec![0.0; documents];
    let mut deltas = Vec::new();
    let bytes: Vec<f64> = variant[0].iter().map(|d| d.bytes as f64).collect();
    let total: f64 = bytes.iter().sum();
    for (ours, theirs) in variant.iter().zip(baseline) {
        if ours.len() != documents || theirs.len() != documents {
            return None;
        }
        let mut delta = 0.0;
        for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
            if (a.row, a.bytes) != (b.row, b.bytes) || a.row != variant[0][i].row {
                return None;
            }
            delta += a.nats - b.nats;
            nats[i] += (a.nats - b.nats) / variant.len() as f64;
        }
        deltas.push(delta / total / LN_2);
    }
    let mean_delta: f64 = nats.iter().sum::<f64>() / total;
    let n = documents as f64;
    let squares: f64 = nats.iter().zip(&bytes).map(|(d, b)| (d - mean_delta * b).powi(2)).sum();
    let se_documents = match documents {
        0 | 1 => f64::NAN,
        _ => (squares / (n - 1.0) * n).sqrt() / total / LN_2,
    };
    let se_seeds = standard_error(&deltas);
    let se = (se_documents.powi(2) + se_seeds.unwrap_or(0.0).powi(2)).sqrt();
    Some(Difference { bpb: mean(&deltas), se_documents, se_seeds, se })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard error of a mean; None with fewer than two values.
fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let m = mean(values);
    (values.len() > 1)
        .then(|| (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

fn read_json(path: &Path) -> Result<Value, StepError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| StepError::other(format!("cannot read {}: {e}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|e| StepError::other(format!("{} is damaged: {e}", path.display())))
}

fn read_documents(path: &Path) -> Result<Vec<DocumentLine>, StepError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| StepError::other(format!("cannot read {}: {e}", path.display())))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line)
                .map_err(|e| StepError::other(format!("{} is damaged: {e}", path.display())))
        })
        .collect()
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

/// Counts by length, averaged: a length that a seed does not have counts 0 there.
fn average_counts<'a>(counts: impl Iterator<Item = &'a Value>) -> Value {
    let (mut sums, mut n) = (BTreeMap::<u64, f64>::new(), 0.0);
    for of_seed in counts {
        n += 1.0;
        for (length, count) in of_seed.as_object().into_iter().flatten() {
            *sums.entry(length.parse().unwrap_or_default()).or_default() +=
                count.as_f64().unwrap_or_default();
        }
    }
    Value::Object(
        sums.into_iter().map(|(length, sum)| (length.to_string(), json!(sum / n))).collect(),
    )
}

/// Builds results.json. `baseline`: the variant that differences are taken to.
pub fn build(
    pipeline: &str,
    id: &str,
    seeds: &[u64],
    runs: &[VariantRun],
    baseline: Option<&str>,
) -> Result<Value, StepError> {
    let mut order: Vec<&str> = Vec::new();
    for run in runs {
        if !order.contains(&run.variant.as_str()) {
            order.push(&run.variant);
        }
    }
    let mut variants = Map::new();
    let mut documents: BTreeMap<&str, Vec<Vec<DocumentLine>>> = BTreeMap::new();
    for name in &order {
        let mut by_seed = Map::new();
        for run in runs.iter().filter(|r| r.variant == *name) {
            let one = of_run(run)?;
            if let Some(dir) =
                run.entries.iter().rev().find(|e| e.step == "evaluate").map(|e| &e.dir)
            {
                documents
                    .entry(name)
                    .or_default()
                    .push(read_documents(&dir.join("documents.jsonl"))?);
            }
            by_seed.insert(run.seed.to_string(), one);
        }
        let values: Vec<&Value> = by_seed.values().collect();
        let mut averaged = average(&values);
        if averaged["patch_lengths"].is_object() {
            averaged["patch_lengths"] = average_counts(values.iter().map(|v| &v["patch_lengths"]));
        }
        if seeds.len() > 1
            && let Some(map) = averaged.as_object_mut()
        {
            let bpb: Vec<f64> = values.iter().filter_map(|v| v["bpb"].as_f64()).collect();
            map.insert("bpb_se_seeds".into(), json!(standard_error(&bpb)));
            map.insert("seeds".into(), Value::Object(by_seed));
        }
        variants.insert((*name).to_owned(), averaged);
    }
    if let Some(base) = baseline.and_then(|b| documents.get(b).cloned()) {
        for (name, ours) in &documents {
            if Some(*name) != baseline
                && let Some(difference) = paired(ours, &base)
            {
                variants[*name]["difference"] = serde_json::to_value(difference)?;
            }
        }
    }
    Ok(json!({
        "schema": SCHEMA, "pipeline": pipeline, "id": id, "seed": seeds[0], "seeds": seeds, "baseline": baseline, "variants": variants,
    }))
}

/// Writes samples.json into the run directory: each variant's texts with their borders, of its
/// first seed.
pub fn write_samples(run: &Path, runs: &[VariantRun]) -> Result<(), StepError> {
    let mut samples = Map::new();
    for run in runs {
        let path =
            run.entries.iter().rev().map(|e| e.dir.join("samples.json")).find(|p| p.exists());
        if let Some(path) = path.filter(|_| !samples.contains_key(&run.variant)) {
            samples.insert(run.variant.clone(), read_json(&path)?);
        }
    }
    Ok(write_atomic(run.join("samples.json"), Value::Object(samples).to_string())?)
}

/// One variant and seed: its last evaluation, with what training measured.
fn of_run(run: &VariantRun) -> Result<Value, StepError> {
    let mut result = Map::new();
    for entry in &run.entries {
        let path = entry.dir.join("result.json");
        if !path.exists() {
            continue;
        }
        let step = read_json(&path)?;
        let timing = entry.dir.join("timing.json");
        let timing = if timing.exists() { read_json(&timing)? } else { Value::Null };
        match entry.step.as_str() {
            "evaluate" => {
                let map = step.as_object().cloned().unwrap_or_default();
                result.extend(map.into_iter().filter(|(key, _)| key != "kind"));
            }
            name => {
                let mut step = step;
                if let (Some(step), Some(timing)) = (step.as_object_mut(), timing.as_object()) {
                    step.remove("kind");
                    step.extend(timing.clone());
                }
                let steps = result.entry("steps").or_insert_with(|| json!([]));
                if let Some(list) = steps.as_array_mut() {
                    list.push(json!({ name: step }));
                }
            }
        }
        // A variant's own numbers are those of its trainings and its evaluation.
        if let Some(timing) =
            timing.as_object().filter(|_| ["train", "evaluate"].contains(&entry.step.as_str()))
        {
            result.extend(timing.clone());
        }
    }
    Ok(Value::Object(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(nats: &[f64]) -> Vec<DocumentLine> {
        let line = |(row, &nats): (usize, &f64)| DocumentLine {
            row: row as u64,
            group: None,
            bytes: 100,
            nats,
            patches: 1,
        };
        nats.iter().enumerate().map(line).collect()
    }

    #[test]
    fn a_constant_difference_has_no_error_over_documents() {
        let a = vec![lines(&[10.0, 50.0, 90.0])];
        let b = vec![lines(&[9.0, 49.0, 89.0])];
        let d = paired(&a, &b).unwrap();
        assert!((d.bpb - 0.01 / LN_2).abs() < 1e-12);
        assert!(d.se_documents.abs() < 1e-9 && d.se_seeds.is_none());
    }

    #[test]
    fn errors_are_those_of_the_textbook() {
        // Equal lengths: the ratio's error is that of the mean of the differences 1, 2, 3
        // (deviation 1, n = 3).
        let d = paired(&[lines(&[11.0, 12.0, 13.0])], &[lines(&[10.0, 10.0, 10.0])]).unwrap();
        assert!((d.se_documents - (1.0 / 3f64).sqrt() / 100.0 / LN_2).abs() < 1e-12, "{d:?}");
        let two = paired(
            &[lines(&[11.0, 11.0]), lines(&[13.0, 13.0])],
            &[lines(&[10.0, 10.0]), lines(&[10.0, 10.0])],
        )
        .unwrap();
        assert!((two.bpb - 0.02 / LN_2).abs() < 1e-12);
        assert!((two.se_seeds.unwrap() - 0.01 / LN_2).abs() < 1e-12);
    }

    #[test]
    fn other_documents_are_not_paired() {
        let mut other = lines(&[1.0, 2.0]);
        other[1].row = 7;
        assert!(paired(&[lines(&[1.0, 2.0])], &[other]).is_none());
        assert!(paired(&[lines(&[1.0, 2.0])], &[lines(&[1.0])]).is_none());
    }
}
