//! The numbers of results.json in the form that the report shows them in. A number that is missing,
//! null or not finite is left out.

use super::text::significant;
use crate::results::{
    self, LatentsProbe, Number, Results, ScoreResult, StepRecord, StepResult, VariantResults,
};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A paired difference in bits per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub bpb: f64,
    /// Half the width of the 95 % interval, of all that is compared together where it is one of
    /// several. None where there are too few clusters.
    pub half_width: Option<f64>,
    /// The p-value of no difference, adjusted for all that is compared.
    pub p: Option<f64>,
    pub df: Option<f64>,
    pub clusters: Option<u64>,
}

impl Difference {
    pub fn of(d: &results::Difference) -> Option<Self> {
        let interval = &d.interval;
        Some(Difference {
            bpb: finite(Some(d.bpb))?,
            half_width: finite(interval.half_width_simultaneous.or(interval.half_width)),
            p: finite(interval.p_holm.or(interval.p)),
            df: finite(interval.df),
            clusters: interval.clusters,
        })
    }

    /// Whether the two differ, at 5 %; None where there is no interval.
    pub fn is_certain(&self) -> Option<bool> {
        self.p.map(|p| p < 0.05)
    }
}

/// What a `score` step measured, and its rate.
#[derive(Clone, Debug)]
pub struct Score {
    pub result: ScoreResult,
    pub bytes_per_second: Option<f64>,
}

impl Score {
    pub fn bpb(&self) -> Option<f64> {
        self.result.counts.sums.likelihood.as_ref()?.bpb
    }
}

/// What a node of a variant found before training.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where there are several.
    pub seed: Option<String>,
    pub node: String,
    /// Names and values.
    pub values: Vec<(String, String)>,
}

/// One variant's numbers. `index` is its place in results.json, which decides its colour and mark
/// in every chart.
#[derive(Clone, Debug)]
pub struct Variant {
    pub index: usize,
    pub name: String,
    pub bpb: Option<f64>,
    /// Standard error of `bpb` over seeds.
    pub bpb_se: Option<f64>,
    pub bpb_by: Vec<(String, f64)>,
    pub bytes: Option<f64>,
    pub documents: Option<f64>,
    pub bytes_per_patch: Option<f64>,
    /// The wire of the loss.
    pub goal: String,
    /// The node whose entropies place the patches.
    pub entropy_model: Option<String>,
    /// (length in bytes, patches of that length), ascending.
    pub patch_lengths: Vec<(usize, f64)>,
    pub flops: Option<f64>,
    pub entropy_flops: Option<f64>,
    pub flops_by_node: Vec<(String, f64)>,
    pub closed_form: Option<f64>,
    pub parameters: Option<f64>,
    pub train_rate: Option<f64>,
    pub evaluate_rate: Option<f64>,
    pub lookahead: bool,
    /// Loss spikes of its trainings.
    pub spikes: u64,
    /// The arm that it controls, where it is a control.
    pub controls: Option<String>,
    /// What latents are worth.
    pub latents: Option<LatentsProbe>,
    pub metrics: Vec<(String, f64)>,
    pub prepared: Vec<Found>,
    /// To the baseline.
    pub difference: Option<Difference>,
    pub difference_by: Vec<(String, Difference)>,
    /// That of the training batches of the first pass, and its standard error.
    pub online: Option<(f64, Option<f64>)>,
    /// What its `score` steps left.
    pub scores: Vec<Score>,
    /// Goal and bits per byte of its evaluations before the last.
    pub other_goals: Vec<(String, f64)>,
    /// A row of `report.references`: no variant, and in no chart.
    pub reference: bool,
}

/// All variants, in the order of results.json.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pipeline: String,
    pub id: String,
    pub seeds: Vec<String>,
    pub baseline: Option<String>,
    /// The column of clusters.
    pub cluster: Option<String>,
    pub variants: Vec<Variant>,
    /// Rows beside the variants, fewest bits per byte first.
    pub references: Vec<Variant>,
    /// What the run can see, by its controls.
    pub instrument: Option<results::Instrument>,
    /// Bytes per patch over the baseline's, where the two are too unequal to compare.
    pub unequal_patches: BTreeMap<String, f64>,
    /// Two variants ranked next to each other, and the difference of the second to the first.
    pub order: Vec<(String, String, Difference)>,
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

/// The numbers that are known.
fn numbers(by_name: &BTreeMap<String, Option<f64>>) -> Vec<(String, f64)> {
    by_name.iter().filter_map(|(name, v)| Some((name.clone(), finite(*v)?))).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "–".to_owned(),
        Value::Number(n) if n.is_f64() => {
            n.as_f64().map_or_else(String::new, |x| significant(x, 6))
        }
        other => other.to_string(),
    }
}

/// What nodes found before training, and the patch sizes that were matched on what is scored.
fn found(results: &VariantResults, seed: Option<&str>) -> Vec<Found> {
    let evaluated = results.evaluated.as_ref().map(|evaluated| &evaluated.result);
    let nodes = evaluated.map(|result| &result.prepared);
    let values = |of_node: &Value| match of_node {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        Value::Null => Vec::new(),
        other => vec![("value".to_owned(), plain(other))],
    };
    let of_node = |(node, of_node): (&String, &Value)| Found {
        seed: seed.map(str::to_owned),
        node: node.clone(),
        values: values(of_node),
    };
    let prepared = nodes.into_iter().flatten().map(of_node).filter(|f| !f.values.is_empty());
    let matched = evaluated.and_then(|result| result.matched.as_ref());
    let pair = |of: String, pair: &Value| {
        let size = |which: &str| plain(&pair[which]["bytes_per_patch"]);
        Found {
            seed: seed.map(str::to_owned),
            node: of,
            values: vec![
                ("bytes_per_patch".to_owned(), size("matched")),
                ("as_trained".to_owned(), size("trained")),
            ],
        }
    };
    let of_matched = |matched: &Value| {
        let node = matched["node"].as_str().unwrap_or_default().to_owned();
        let all = matched.get("all").map(|all| pair(format!("{node}, scored"), all));
        let groups = matched.get("groups").and_then(Value::as_object).into_iter().flatten();
        let groups = groups.map(|(group, of)| pair(format!("{node}, scored {group}"), of));
        all.into_iter().chain(groups).collect::<Vec<Found>>()
    };
    prepared.chain(matched.into_iter().flat_map(of_matched)).collect()
}

impl Variant {
    fn of(index: usize, name: &str, results: &VariantResults) -> Self {
        let evaluated = results.evaluated.clone().unwrap_or_default();
        let (measured, timing) = (evaluated.result, evaluated.timing);
        let count = |(&length, count): (&u64, &Number)| Some((length as usize, count.finite()?));
        let score = |record: &StepRecord| match &record.result {
            StepResult::Score(result) => {
                let timing = record.timing.as_ref();
                let bytes_per_second = timing.and_then(|timing| timing.score_bytes_per_second);
                Some(Score { result: result.clone(), bytes_per_second })
            }
            _ => None,
        };
        let spikes = |record: &StepRecord| match &record.result {
            StepResult::Train(result) => result.spikes,
            _ => None,
        };
        let by = results.difference.iter().flat_map(|d| &d.by);
        let by = by.filter_map(|(group, d)| Some((group.clone(), Difference::of(d)?)));
        let other_goal = |record: &StepRecord| match &record.result {
            StepResult::Evaluate(result) => Some((result.goal.clone(), finite(result.bpb)?)),
            _ => None,
        };
        let by_seed = results.by_seed().into_iter();
        Variant {
            index,
            name: name.to_owned(),
            bpb: finite(measured.bpb),
            bpb_se: finite(results.bpb_se_seeds),
            bpb_by: numbers(&measured.bpb_by),
            bytes: measured.bytes.finite(),
            documents: measured.documents.finite(),
            bytes_per_patch: finite(measured.bytes_per_patch),
            goal: measured.goal,
            entropy_model: measured.entropy_model,
            patch_lengths: measured.patch_lengths.iter().flatten().filter_map(count).collect(),
            flops: finite(measured.flops_per_byte),
            entropy_flops: finite(measured.entropy_flops_per_byte),
            flops_by_node: measured.flops_by_node.into_iter().collect(),
            closed_form: finite(measured.closed_form_flops_per_byte),
            parameters: measured.parameters.finite(),
            train_rate: finite(results.train_bytes_per_second),
            evaluate_rate: finite(timing.evaluate_bytes_per_second),
            lookahead: measured.boundary_lookahead,
            controls: None,
            latents: measured.latents,
            metrics: numbers(&measured.metrics),
            prepared: by_seed.flat_map(|(seed, of_seed)| found(of_seed, seed)).collect(),
            difference: results.difference.as_ref().and_then(Difference::of),
            difference_by: by.collect(),
            online: results.online_difference.as_ref().map(|d| (d.bpb, finite(Some(d.se)))),
            scores: results.steps.iter().filter_map(score).collect(),
            spikes: results.steps.iter().filter_map(spikes).sum(),
            other_goals: results.evaluations.iter().filter_map(other_goal).collect(),
            reference: false,
        }
    }
}

/// Fewest bits per byte first; what was not evaluated last.
fn by_bpb(a: &&Variant, b: &&Variant) -> Ordering {
    match (a.bpb, b.bpb) {
        (Some(x), Some(y)) => x.total_cmp(&y),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

impl Facts {
    pub fn of(results: &Results) -> Self {
        let mut seeds: Vec<String> = results.seeds.iter().map(u64::to_string).collect();
        if seeds.is_empty() {
            seeds.extend(results.seed.map(|seed| seed.to_string()));
        }
        let pipeline = match results.pipeline.as_str() {
            "" => "pipeline",
            name => name,
        };
        let variants = results.variants.iter().enumerate();
        let order = results.order.iter().filter_map(|pair| {
            let difference = Difference::of(&pair.difference)?;
            Some((pair.variant.clone(), pair.next.clone(), difference))
        });
        let variant = |(i, (name, of)): (usize, (&str, &VariantResults))| {
            let control = results.instrument.iter().flat_map(|of| of.controls.iter());
            let controls = control.filter(|(control, _)| *control == name);
            let controls = controls.map(|(_, control)| control.arm.clone()).next();
            Variant { controls, ..Variant::of(i, name, of) }
        };
        let reference = |(name, of): (&str, &VariantResults)| {
            let of = Variant::of(results.variants.0.len(), name, of);
            Variant { reference: true, ..of }
        };
        let mut references: Vec<Variant> = results.references.iter().map(reference).collect();
        references.sort_by(|a, b| by_bpb(&a, &b));
        Facts {
            references,
            pipeline: pipeline.to_owned(),
            id: results.id.clone(),
            seeds,
            baseline: results.baseline.clone(),
            cluster: results.cluster.clone(),
            order: order.collect(),
            instrument: results.instrument.clone(),
            unequal_patches: results.unequal_patches.clone(),
            variants: variants.map(variant).collect(),
        }
    }

    /// Whether variants may be ranked: no control was measured, or one can be seen.
    pub fn sees(&self) -> bool {
        self.instrument.as_ref().and_then(|of| of.sees) != Some(false)
    }

    /// The evaluated variants for which `holds`, fewest bits per byte first.
    fn evaluated(&self, holds: impl Fn(&Variant) -> bool) -> Vec<&Variant> {
        let mut found: Vec<&Variant> =
            self.variants.iter().filter(|v| v.bpb.is_some() && holds(v)).collect();
        found.sort_by(by_bpb);
        found
    }

    /// The variants that are compared: evaluated, patched without looking ahead, and no control.
    pub fn compared(&self) -> Vec<&Variant> {
        self.evaluated(|v| !v.lookahead && v.controls.is_none())
    }

    /// The variants that are ranked: those that are compared, where the run can see.
    pub fn ranked(&self) -> Vec<&Variant> {
        if self.sees() { self.compared() } else { Vec::new() }
    }

    /// Those that are compared and not ranked, in the pipeline's order.
    pub fn unranked(&self) -> Vec<&Variant> {
        let mut listed = if self.sees() { Vec::new() } else { self.compared() };
        listed.sort_by_key(|v| v.index);
        listed
    }

    pub fn controls(&self) -> Vec<&Variant> {
        self.evaluated(|v| v.controls.is_some())
    }

    /// The variants whose borders look ahead.
    pub fn looking_ahead(&self) -> Vec<&Variant> {
        self.evaluated(|v| v.lookahead && v.controls.is_none())
    }

    /// The variants that have bits per byte and no rank, in parts, each with its heading.
    pub fn apart(&self) -> Vec<(&'static str, Vec<&Variant>)> {
        let parts = [
            ("not ranked: no control can be seen", self.unranked()),
            ("references", self.references.iter().collect()),
            ("controls, not ranked", self.controls()),
            ("not ranked: patch borders look ahead", self.looking_ahead()),
        ];
        parts.into_iter().filter(|(_, variants)| !variants.is_empty()).collect()
    }

    /// The variants without bits per byte.
    pub fn not_evaluated(&self) -> Vec<&Variant> {
        self.variants.iter().filter(|v| v.bpb.is_none()).collect()
    }

    pub fn is_baseline(&self, variant: &Variant) -> bool {
        self.baseline.as_deref() == Some(&variant.name)
    }

    /// The baseline, where it was evaluated.
    pub fn baseline(&self) -> Option<&Variant> {
        self.variants.iter().find(|v| self.is_baseline(v) && v.bpb.is_some())
    }

    /// Ranked variants that no other ranked variant beats in both bits and FLOPs per byte, cheapest
    /// first.
    pub fn frontier(&self) -> Vec<&Variant> {
        let priced: Vec<(&Variant, f64, f64)> =
            self.ranked().into_iter().filter_map(|v| Some((v, v.bpb?, v.flops?))).collect();
        let beaten = |bpb: f64, flops: f64| {
            priced.iter().any(|&(_, b, f)| b <= bpb && f <= flops && (b < bpb || f < flops))
        };
        let mut frontier: Vec<_> = priced.iter().filter(|&&(_, b, f)| !beaten(b, f)).collect();
        frontier.sort_by(|x, y| x.2.total_cmp(&y.2));
        frontier.into_iter().map(|(v, _, _)| *v).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variants_that_another_beats_in_both_are_off_the_frontier() {
        let of = |bpb: f64, flops: f64| serde_json::json!({"bpb": bpb, "flops_per_byte": flops});
        let results = serde_json::json!({"variants": {"dear": of(2.0, 9.0), "cheap": of(3.0, 1.0), "beaten": of(3.0, 2.0), "middle": of(2.5, 4.0)}});
        let results = Facts::of(&serde_json::from_value(results).unwrap());
        let names: Vec<&str> = results.frontier().iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names, ["cheap", "middle", "dear"]);
    }
}
