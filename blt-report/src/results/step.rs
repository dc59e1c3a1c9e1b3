//! What a step leaves in its directory: result.json and timing.json.

use super::bench::BenchResult;
use super::latents::LatentsProbe;
use super::number::Number;
use super::score::ScoreResult;
use blt_graph::{StepError, write_atomic};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a step measured: its result.json. `kind` names the type.
///
/// A step of a plugin may use one of these types, and is then read as the step of that name is: a
/// plugin's step that writes [`StepResult::Evaluate`] gives its variant bits per byte. All other
/// JSON is [`StepResult::Other`]; its numbers reach results.json and the regression run too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StepResult {
    Train(TrainResult),
    Evaluate(EvaluateResult),
    Score(ScoreResult),
    Export(ExportResult),
    Bench(BenchResult),
    /// What a plugin's step wrote.
    #[serde(untagged)]
    Other(Value),
}

/// What `train` measured. Its loss by step is in metrics.jsonl.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainResult {
    /// The wire of the loss.
    pub goal: String,
    /// Optimiser steps.
    pub steps: u64,
    /// Bytes trained on.
    pub bytes: u64,
    /// Ids in the micro-batches, as a share of `batch_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<f64>,
    /// Trained parameters of all that the goal depends on.
    pub parameters: u64,
    /// What nodes found on the data before training, by node: thresholds, vocabularies.
    pub prepared: BTreeMap<String, Value>,
    /// Loss spikes: optimiser steps whose loss was more than 1.5 times the median of the 32 before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spikes: Option<u64>,
}

/// What a loss spike is, in words.
pub const SPIKE: &str = "a loss of more than 1.5 times the median of the 32 steps before";

/// What `evaluate` measured.
///
/// Over several seeds each number is a mean, and a length that a seed does not have counts 0 in
/// `patch_lengths`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluateResult {
    /// The wire of the loss.
    pub goal: String,
    /// The documents that were read: `valid`, `train` or `all`.
    pub split: String,
    /// The column whose values are measured apart.
    pub by: Option<String>,
    /// Bits per byte.
    pub bpb: Option<f64>,
    /// Bits per byte by the column's values.
    pub bpb_by: BTreeMap<String, Option<f64>>,
    pub bytes: Number,
    pub bytes_by: BTreeMap<String, Number>,
    pub documents: Number,
    /// Rows without a document.
    pub nulls: Number,
    /// Documents without a byte.
    pub empty: Number,
    /// Patches, where the goal has any. The patch of BOS is not counted.
    pub patches: Option<Number>,
    pub bytes_per_patch: Option<f64>,
    /// The node whose entropies place the patches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_model: Option<String>,
    /// Patches by their length in bytes.
    #[serde(deserialize_with = "by_length")]
    pub patch_lengths: Option<BTreeMap<u64, Number>>,
    /// Forward FLOPs per byte, counted from the executed shapes; the entropy model's included.
    pub flops_per_byte: Option<f64>,
    /// The share of `flops_per_byte` that only serves to find patch starts.
    pub entropy_flops_per_byte: Option<f64>,
    pub flops_by_node: BTreeMap<String, f64>,
    /// The paper's closed formula, for a model that it describes; without the entropy model.
    pub closed_form_flops_per_byte: Option<f64>,
    pub parameters: Number,
    pub parameters_by_node: BTreeMap<String, Number>,
    /// Patch starts depend on later bytes, so that bits per byte do not compare with others.
    pub boundary_lookahead: bool,
    /// Means of the metric nodes, by name.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// What nodes found on the data, by node.
    pub prepared: BTreeMap<String, Value>,
    /// With `match`: thresholds and patch sizes on the scored documents, as trained and as matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<Value>,
    /// With `probe: latents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentsProbe>,
}

/// What `export` wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExportResult {
    /// The wire of the model's loss or logits.
    pub goal: String,
    /// The Hugging Face directory, below the step's own.
    pub directory: PathBuf,
    pub tensors: u64,
    pub parameters: u64,
    /// The directory has an entropy model, which finds patch starts in `forward`.
    pub patch_in_forward: bool,
    /// The entropy model's threshold in nats.
    pub threshold: Option<f64>,
    /// With `verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_back: Option<ReadBack>,
}

/// What the exported model scores when it is read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadBack {
    /// Bits per byte.
    pub bpb: f64,
    pub bytes: u64,
    pub patches: u64,
    /// Largest difference of a byte's score to the pipeline's own model, in nats.
    pub largest_difference: f64,
}

/// How fast a step went: its timing.json. A step sets its own rate.
///
/// Times vary from run to run, so that they are kept apart from results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluate_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_bytes_per_second: Option<f64>,
    /// Wall time by node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_by_node: Option<BTreeMap<String, f64>>,
}

/// A line of metrics.jsonl. What a step of a plugin writes there may lack any of these.
///
/// A step writes its own; the run adds `variant`, `seed` (where there are several) and `run_step`
/// when it gathers all lines in the run's directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MetricsLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The step's index in `run:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_step: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Optimiser steps so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Bits per byte since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bpb: Option<f64>,
    /// Bits per byte on held-out documents, with the weights of this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_bpb: Option<f64>,
    /// Learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Norm of the last gradient, before it was clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Of it, that of each node's parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm_by: Option<BTreeMap<String, f64>>,
    /// Bytes trained on so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Optimiser steps since the line before that were loss spikes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spikes: Option<Vec<u64>>,
}

/// Keys whose values are not compared with a baseline: breakdowns whose sums are, settings of the
/// pipeline, and formulas of its sizes. They count at any depth, in what plugins wrote too, but not
/// as names of the user's ([`NAMED_BY_USER`]).
const NOT_COMPARED: &[&str] = &[
    "bytes_by",
    "closed_form_flops_per_byte",
    "empty",
    "fill",
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

/// Keys of objects whose own keys are names of groups, metrics and nodes, which may be any.
const NAMED_BY_USER: &[&str] = &["bpb_by", "metrics", "prepared"];

impl StepResult {
    /// Returns the type that `kind` names if that type has every key of `value`, and
    /// [`StepResult::Other`] if not: no number is lost, whoever wrote it.
    pub fn of(value: Value) -> Self {
        let whole = |typed: &Self| serde_json::to_value(typed).is_ok_and(|again| again == value);
        let typed = serde_json::from_value(value.clone()).ok().filter(whole);
        typed.unwrap_or(StepResult::Other(value))
    }

    /// Reads result.json in the directory of a step; None if the step wrote none.
    ///
    /// # Errors
    /// If it cannot be read, or is not JSON.
    pub fn read(dir: &Path) -> Result<Option<Self>, StepError> {
        Ok(read_json(&dir.join("result.json"))?.map(Self::of))
    }

    /// Writes result.json into the directory of a step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), StepError> {
        Ok(write_atomic(dir.join("result.json"), serde_json::to_string_pretty(self)?)?)
    }

    /// Forgets what nodes found on the data, which a later evaluation has too.
    pub fn forget_prepared(&mut self) {
        match self {
            StepResult::Train(result) => result.prepared.clear(),
            StepResult::Evaluate(result) => result.prepared.clear(),
            StepResult::Other(Value::Object(map)) => {
                map.shift_remove("prepared");
            }
            _ => {}
        }
    }
}

impl Timing {
    /// Reads timing.json in the directory of a step, as it was written; None if there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Value>, StepError> {
        read_json(&dir.join("timing.json"))
    }

    /// Writes timing.json into the directory of a step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), StepError> {
        Ok(write_atomic(dir.join("timing.json"), serde_json::to_string(self)?)?)
    }
}

/// The numbers of a result (or a line of metrics) that are compared with a baseline, each with its
/// path after `name`. Truth values count 0 and 1.
pub fn compared(
    result: &impl Serialize,
    name: &str,
    found: &mut BTreeMap<String, f64>,
) -> Result<(), StepError> {
    collect(&serde_json::to_value(result)?, name, false, found);
    Ok(())
}

/// `named_by_user`: the keys of `value` are.
fn collect(value: &Value, name: &str, named_by_user: bool, found: &mut BTreeMap<String, f64>) {
    match value {
        Value::Object(map) => {
            let dot = if name.is_empty() || name.ends_with('.') { "" } else { "." };
            let left_out = |key: &str| !named_by_user && NOT_COMPARED.contains(&key);
            for (key, value) in map.iter().filter(|(key, _)| !left_out(key)) {
                let named = !named_by_user && NAMED_BY_USER.contains(&key.as_str());
                collect(value, &format!("{name}{dot}{key}"), named, found);
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

/// None if there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, StepError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StepError::other(format!("cannot read {}: {error}", path.display()))),
    }
}

pub(crate) fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, StepError> {
    serde_json::from_str(text)
        .map_err(|e| StepError::other(format!("{} is damaged: {e}", path.display())))
}

/// None if there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>, StepError> {
    read_text(path)?.map(|text| parse(&text, path)).transpose()
}

/// Reads the keys that fit the type, and leaves out the others.
pub(crate) fn lenient<T: DeserializeOwned + Default>(map: &Map<String, Value>) -> T {
    let read = |map: &Map<String, Value>| serde_json::from_value(Value::Object(map.clone()));
    read(map).unwrap_or_else(|_| {
        let fits = |(key, value): &(&String, &Value)| {
            read(&Map::from_iter([((*key).clone(), (*value).clone())])).is_ok_and(|_: T| true)
        };
        let kept = map.iter().filter(fits).map(|(key, value)| (key.clone(), value.clone()));
        read(&kept.collect()).unwrap_or_default()
    })
}

/// JSON has no keys but strings, and some of serde's ways to read a type do not turn them into
/// numbers.
fn by_length<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeMap<u64, Number>>, D::Error> {
    let Some(counts) = Option::<BTreeMap<String, Number>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let count = |(length, count): (String, Number)| Ok((length.parse()?, count));
    let counts: Result<_, std::num::ParseIntError> = counts.into_iter().map(count).collect();
    counts.map(Some).map_err(D::Error::custom)
}
