//! The types of results.json.

use super::number::{Ordered, or_nan};
use super::step::{EvaluateResult, StepResult, Timing, lenient};
use crate::options::ReportOptions;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Version of the schema of results.json.
pub const SCHEMA: u32 = 1;

/// results.json: what all variants and seeds of a run measured.
///
/// It is read leniently: a key of a variant that is missing, or whose value is of another type, is
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Results {
    pub schema: u32,
    pub pipeline: String,
    /// The run's name in its folder.
    pub id: String,
    /// The first of `seeds`.
    pub seed: Option<u64>,
    pub seeds: Vec<u64>,
    /// The variant that differences are to.
    pub baseline: Option<String>,
    /// The column whose values are the clusters of documents; without, each document is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// In the pipeline's order.
    pub variants: Ordered<VariantResults>,
    /// What `report.references` names: evaluations of other goals, as rows of the table. Their
    /// differences are to the baseline, each alone.
    #[serde(skip_serializing_if = "Ordered::is_empty")]
    pub references: Ordered<VariantResults>,
    /// Ranked variants next to each other, fewest bits per byte first, where both read the same
    /// documents. Intervals and p-values are adjusted over all pairs of ranked variants.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<Neighbours>,
    /// What the run can see, by its controls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instrument: Option<Instrument>,
    /// Bytes per patch over the baseline's, of the ranked variants in which the two differ by more
    /// than 3 %: no fair comparison.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unequal_patches: BTreeMap<String, f64>,
}

impl Results {
    /// The names of the variants that are compared, fewest bits per byte first: evaluated, patched
    /// without looking ahead, and no control.
    pub fn compared(&self, options: &ReportOptions) -> Vec<String> {
        let bpb = |(name, variant): (&str, &VariantResults)| {
            let result = &variant.evaluated.as_ref()?.result;
            let bpb = result.bpb.filter(|bpb| bpb.is_finite() && !result.boundary_lookahead)?;
            Some((name.to_owned(), bpb))
        };
        let variants = self.variants.iter().filter(|(name, _)| !options.is_control(name));
        let mut ranked: Vec<(String, f64)> = variants.filter_map(bpb).collect();
        ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
        ranked.into_iter().map(|(name, _)| name).collect()
    }
}

/// Two variants, the one ranked right after the other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Neighbours {
    pub variant: String,
    pub next: String,
    /// Next minus variant.
    pub difference: Difference,
}

/// What one variant measured; over several seeds, means.
///
/// As JSON it is one object: the keys of `evaluated` are its own.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema)]
pub struct VariantResults {
    /// All steps but evaluations, in order. Over several seeds their numbers are means, and a
    /// count's is rounded.
    pub steps: Vec<StepRecord>,
    /// The evaluations before the last, in order; those of `report.references` are left out.
    pub evaluations: Vec<StepRecord>,
    /// The rate of the last training.
    pub train_bytes_per_second: Option<f64>,
    /// The last evaluation.
    #[schemars(flatten)]
    pub evaluated: Option<Evaluated>,
    /// Over several seeds, the standard error of `bpb`.
    pub bpb_se_seeds: Option<f64>,
    /// Over several seeds, what each measured.
    pub seeds: Option<Ordered<VariantResults>>,
    /// Bits per byte more or fewer than the baseline, where both read the same documents.
    pub difference: Option<Difference>,
    /// The same on the later half of the training batches of the first pass over the documents,
    /// each of them new to the model, where both read the same batches. `se_documents` is over 20
    /// blocks of optimiser steps.
    pub online_difference: Option<Difference>,
    /// The order in which the first three were measured, and are written.
    #[schemars(skip)]
    pub(super) order: Vec<Section>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Section {
    Steps,
    Training,
    Evaluated,
}

/// An evaluation, and how fast it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluated {
    #[serde(flatten)]
    pub result: EvaluateResult,
    #[serde(flatten)]
    pub timing: Timing,
}

/// A paired difference in bits per byte: variant minus baseline. An error that is not known is not
/// a number here, and `null` in the file.
///
/// The intervals and p-values are those of documentation page "Statistics": documents that share a
/// value of `report.cluster` are one observation, and seeds count too. They are left out where there
/// are fewer than 6 clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Difference {
    #[serde(deserialize_with = "or_nan")]
    pub bpb: f64,
    /// Standard error over documents, differences averaged over seeds.
    #[serde(deserialize_with = "or_nan")]
    pub se_documents: f64,
    /// Standard error over seeds; None with one seed.
    pub se_seeds: Option<f64>,
    /// Both together: the root of the sum of squares.
    #[serde(deserialize_with = "or_nan")]
    pub se: f64,
    #[serde(flatten)]
    pub interval: Interval,
    /// By the values of the column `by`. Intervals and p-values are adjusted over all values and
    /// variants.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<String, Difference>,
}

impl Default for Difference {
    fn default() -> Self {
        Difference {
            bpb: f64::NAN,
            se_documents: f64::NAN,
            se_seeds: None,
            se: f64::NAN,
            interval: Interval::default(),
            by: BTreeMap::new(),
        }
    }
}

/// How sure a difference is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Interval {
    /// Clusters with bytes; documents, where there is no column of clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<u64>,
    /// Standard error over clusters, differences averaged over seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub se_clusters: Option<f64>,
    /// Degrees of freedom of the interval, by Satterthwaite's approximation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub df: Option<f64>,
    /// Half the width of the 95 % interval of this difference alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_width: Option<f64>,
    /// Half the width of the interval that holds together with those of the other ranked variants
    /// with 95 %, by Bonferroni.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_width_simultaneous: Option<f64>,
    /// Of no difference, this comparison alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Of no difference, by Holm over the ranked variants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_holm: Option<f64>,
}

/// A control is seen where it is so many half-widths of its 95 % interval from its arm.
pub const SEEN: f64 = 3.0;

/// What a run can see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Instrument {
    /// By the name of the variant that is the control, which is never ranked.
    pub controls: Ordered<Control>,
    /// Whether a control is at least 3 half-widths of its 95 % interval from its arm. If not, no
    /// variant is ranked. None where no control and its arm were measured.
    pub sees: Option<bool>,
    /// What the run resolves: the largest half-width of the differences to the baseline that are
    /// compared together; without a baseline, of those of neighbours in the ranking.
    pub resolves: Option<f64>,
}

/// A control, and what it shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Control {
    /// The variant that it controls.
    pub arm: String,
    /// What it changes, in words.
    pub what: Option<String>,
    /// Control minus arm; None where the two did not read the same documents.
    pub difference: Option<Difference>,
    /// How many half-widths of its 95 % interval the difference is from 0.
    pub half_widths: Option<f64>,
    /// The fewest seeds, by the spread seen, with which it would be seen; None if it is, or if no
    /// number up to 64 suffices, or where one seed shows no spread.
    pub seeds_needed: Option<u64>,
}

impl Control {
    /// Whether it is far enough from its arm. (No spread at all is infinitely many half-widths.)
    pub fn is_seen(&self) -> bool {
        self.half_widths.is_some_and(|n| n >= SEEN)
    }
}

/// A step, its result and how fast it went. As JSON an object of one key, the step's name; `kind`
/// is left out where there is a timing.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRecord {
    pub step: String,
    pub result: StepResult,
    /// None where the step wrote none, and of [`StepResult::Other`], which has it among its keys.
    pub timing: Option<Timing>,
}

impl StepRecord {
    /// `timing` is the content of timing.json.
    pub(super) fn new(
        step: &str,
        result: StepResult,
        timing: Option<Value>,
    ) -> serde_json::Result<Self> {
        let step = step.to_owned();
        let Some(written) = timing else { return Ok(StepRecord { step, result, timing: None }) };
        let typed: Option<Timing> = serde_json::from_value(written.clone()).ok();
        let whole = |timing: &Timing| serde_json::to_value(timing).is_ok_and(|t| t == written);
        match typed.filter(whole) {
            Some(timing) if !matches!(result, StepResult::Other(_)) => {
                Ok(StepRecord { step, result, timing: Some(timing) })
            }
            _ => {
                let mut value = serde_json::to_value(&result)?;
                if let Value::Object(timing) = written {
                    with_timing(&mut value, timing);
                }
                Ok(StepRecord { step, result: StepResult::Other(value), timing: None })
            }
        }
    }

    /// Reads a record of a type that has all keys of `map`. Where `map` does not name the type, it
    /// is that of the step's name.
    fn typed(step: &str, map: &Map<String, Value>) -> Option<Self> {
        let mut named = map.clone();
        named.entry("kind").or_insert_with(|| step.into());
        let result = serde_json::from_value(named.into()).ok()?;
        let timing = (!map.contains_key("kind")).then(|| lenient(map));
        let record = StepRecord { step: step.to_owned(), result, timing };
        let again = serde_json::to_value(&record).ok()?;
        let whole = map.keys().all(|key| again[step].get(key).is_some());
        (whole && !matches!(record.result, StepResult::Other(_))).then_some(record)
    }
}

/// Puts a timing's keys in place of `kind`. (The last key of the result takes its place, as in
/// every results.json so far.)
fn with_timing(result: &mut Value, timing: Map<String, Value>) {
    if let Value::Object(map) = result {
        map.swap_remove("kind");
        map.extend(timing);
    }
}

impl Serialize for StepRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut value = serde_json::to_value(&self.result).map_err(S::Error::custom)?;
        if let Some(timing) = &self.timing
            && let Value::Object(timing) = serde_json::to_value(timing).map_err(S::Error::custom)?
        {
            with_timing(&mut value, timing);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.step, &value)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for StepRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut entries = Ordered::<Value>::deserialize(deserializer)?.0.into_iter();
        let (Some((step, value)), None) = (entries.next(), entries.next()) else {
            return Err(D::Error::custom("expected the name of one step"));
        };
        let typed = value.as_object().and_then(|map| Self::typed(&step, map));
        Ok(typed.unwrap_or(StepRecord { step, result: StepResult::Other(value), timing: None }))
    }
}

impl JsonSchema for StepRecord {
    fn schema_name() -> Cow<'static, str> {
        "StepRecord".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (result, timing) =
            (generator.subschema_for::<StepResult>(), generator.subschema_for::<Timing>());
        json_schema!({
            "description": "One key, the step's name; its value has the keys of the step's result \
                and timing. `kind` is left out where there is a timing.",
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": { "anyOf": [result, timing] },
        })
    }
}

impl VariantResults {
    /// Each seed's own results and the seed, or these if there is one seed.
    pub fn by_seed(&self) -> Vec<(Option<&str>, &VariantResults)> {
        match &self.seeds {
            Some(seeds) => seeds.iter().map(|(seed, results)| (Some(seed), results)).collect(),
            None => vec![(None, self)],
        }
    }

    pub(super) fn measured(&mut self, section: Section) {
        if !self.order.contains(&section) {
            self.order.push(section);
        }
    }
}

impl Serialize for VariantResults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut map = serializer.serialize_map(None)?;
        for section in &self.order {
            match section {
                Section::Steps => map.serialize_entry("steps", &self.steps)?,
                Section::Training => {
                    map.serialize_entry("train_bytes_per_second", &self.train_bytes_per_second)?;
                }
                Section::Evaluated => {
                    let evaluated = serde_json::to_value(&self.evaluated);
                    for (key, value) in
                        evaluated.map_err(S::Error::custom)?.as_object().into_iter().flatten()
                    {
                        map.serialize_entry(key, value)?;
                    }
                }
            }
        }
        if !self.evaluations.is_empty() {
            map.serialize_entry("evaluations", &self.evaluations)?;
        }
        if let Some(seeds) = &self.seeds {
            map.serialize_entry("bpb_se_seeds", &self.bpb_se_seeds)?;
            map.serialize_entry("seeds", seeds)?;
        }
        if let Some(difference) = &self.difference {
            map.serialize_entry("difference", difference)?;
        }
        if let Some(difference) = &self.online_difference {
            map.serialize_entry("online_difference", difference)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for VariantResults {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// All but the evaluation, which the rest of the keys belong to.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Own {
            steps: Option<Vec<StepRecord>>,
            evaluations: Option<Vec<StepRecord>>,
            train_bytes_per_second: Option<f64>,
            bpb_se_seeds: Option<f64>,
            seeds: Option<Ordered<VariantResults>>,
            difference: Option<Difference>,
            online_difference: Option<Difference>,
        }
        let Value::Object(map) = Value::deserialize(deserializer)? else {
            return Ok(VariantResults::default());
        };
        let own: Own = lenient(&map);
        let mut results = VariantResults {
            steps: own.steps.unwrap_or_default(),
            evaluations: own.evaluations.unwrap_or_default(),
            train_bytes_per_second: own.train_bytes_per_second,
            bpb_se_seeds: own.bpb_se_seeds,
            seeds: own.seeds,
            difference: own.difference,
            online_difference: own.online_difference,
            ..VariantResults::default()
        };
        for key in map.keys() {
            match key.as_str() {
                "steps" => results.measured(Section::Steps),
                "train_bytes_per_second" => results.measured(Section::Training),
                "evaluations" | "bpb_se_seeds" | "seeds" | "difference" | "online_difference" => {}
                _ => results.measured(Section::Evaluated),
            }
        }
        if results.order.contains(&Section::Evaluated) {
            let mut evaluated: Evaluated = lenient(&map);
            // The rate of training is the variant's own key.
            evaluated.timing.train_bytes_per_second = None;
            results.evaluated = Some(evaluated);
        }
        Ok(results)
    }
}
