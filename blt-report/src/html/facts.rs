//! The numbers of results.json in the form that the report shows them in. A number that is missing,
//! null or not finite is left out.

use super::text::{grouped, listed, mega, significant};
use crate::results::{
    self, LatentsProbe, Number, Results, ScoreResult, StepRecord, StepResult, VariantResults,
};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A paired difference to the baseline in bits per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub bpb: f64,
    /// Standard error; None where it is not known (one document and one seed).
    pub se: Option<f64>,
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
    /// What latents are worth.
    pub latents: Option<LatentsProbe>,
    pub metrics: Vec<(String, f64)>,
    pub prepared: Vec<Found>,
    pub difference: Option<Difference>,
    /// That of the training batches of the first pass.
    pub online: Option<Difference>,
    /// What its `score` steps left.
    pub scores: Vec<Score>,
}

/// All variants, in the order of results.json.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pipeline: String,
    pub id: String,
    pub seeds: Vec<String>,
    pub baseline: Option<String>,
    pub variants: Vec<Variant>,
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

fn prepared(results: &VariantResults, seed: Option<&str>) -> Vec<Found> {
    let nodes = results.evaluated.as_ref().map(|evaluated| &evaluated.result.prepared);
    let values = |of_node: &Value| match of_node {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        Value::Null => Vec::new(),
        other => vec![("value".to_owned(), plain(other))],
    };
    let found = |(node, of_node): (&String, &Value)| Found {
        seed: seed.map(str::to_owned),
        node: node.clone(),
        values: values(of_node),
    };
    nodes.into_iter().flatten().map(found).filter(|f| !f.values.is_empty()).collect()
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
        let difference = |d: &results::Difference| {
            Some(Difference { bpb: finite(Some(d.bpb))?, se: finite(Some(d.se)) })
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
            patch_lengths: measured.patch_lengths.iter().flatten().filter_map(count).collect(),
            flops: finite(measured.flops_per_byte),
            entropy_flops: finite(measured.entropy_flops_per_byte),
            flops_by_node: measured.flops_by_node.into_iter().collect(),
            closed_form: finite(measured.closed_form_flops_per_byte),
            parameters: measured.parameters.finite(),
            train_rate: finite(results.train_bytes_per_second),
            evaluate_rate: finite(timing.evaluate_bytes_per_second),
            lookahead: measured.boundary_lookahead,
            latents: measured.latents,
            metrics: numbers(&measured.metrics),
            prepared: by_seed.flat_map(|(seed, of_seed)| prepared(of_seed, seed)).collect(),
            difference: results.difference.as_ref().and_then(difference),
            online: results.online_difference.as_ref().and_then(difference),
            scores: results.steps.iter().filter_map(score).collect(),
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
        Facts {
            pipeline: pipeline.to_owned(),
            id: results.id.clone(),
            seeds,
            baseline: results.baseline.clone(),
            variants: variants.map(|(i, (name, of))| Variant::of(i, name, of)).collect(),
        }
    }

    /// The variants that are ranked, fewest bits per byte first: evaluated, and patched without
    /// looking ahead.
    pub fn ranked(&self) -> Vec<&Variant> {
        let mut ranked: Vec<&Variant> =
            self.variants.iter().filter(|v| v.bpb.is_some() && !v.lookahead).collect();
        ranked.sort_by(by_bpb);
        ranked
    }

    /// The evaluated variants whose borders look ahead, fewest bits per byte first.
    pub fn looking_ahead(&self) -> Vec<&Variant> {
        let mut apart: Vec<&Variant> =
            self.variants.iter().filter(|v| v.bpb.is_some() && v.lookahead).collect();
        apart.sort_by(by_bpb);
        apart
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

    /// Standard error of the difference of two variants, if one is known.
    ///
    /// Only differences to the baseline are paired. For two variants that both differ from it, the
    /// errors are added as if they were independent; as both share the baseline's noise they
    /// are not, so this is rather too large than too small.
    pub fn standard_error(&self, a: &Variant, b: &Variant) -> Option<f64> {
        let of = |v: &Variant| match self.is_baseline(v) {
            true => Some(0.0),
            false => v.difference.and_then(|d| d.se),
        };
        let known = of(a).zip(of(b)).or_else(|| a.bpb_se.zip(b.bpb_se));
        known.map(|(x, y)| x.hypot(y))
    }

    /// Whether the bits per byte of the two differ by more than two standard errors; None where no
    /// standard error is known.
    pub fn order_is_certain(&self, a: &Variant, b: &Variant) -> Option<bool> {
        let (x, y) = a.bpb.zip(b.bpb)?;
        Some((x - y).abs() > 2.0 * self.standard_error(a, b)?)
    }

    /// Notes for readers of the table: which order is not certain, and why some variants are not
    /// ranked.
    pub fn notes(&self) -> Vec<String> {
        let ranked = self.ranked();
        let mut notes = Vec::new();
        let mut known = false;
        let mut first = 0;
        // Runs of neighbours, each within two standard errors of the next.
        for i in 1..=ranked.len() {
            let certain = (i < ranked.len())
                .then(|| self.order_is_certain(ranked[i - 1], ranked[i]))
                .flatten();
            known |= certain.is_some();
            if certain == Some(false) {
                continue;
            }
            match &ranked[first..i] {
                [a, b] => {
                    let apart = a.bpb.zip(b.bpb).map_or(f64::NAN, |(x, y)| (x - y).abs());
                    let two = 2.0 * self.standard_error(a, b).unwrap_or(f64::NAN);
                    notes.push(format!(
                        "The order of {} and {} is not certain: they are {apart:.4} bits per byte apart, and two standard errors are {two:.4}.",
                        a.name, b.name
                    ));
                }
                [best, .., worst] => notes.push(format!(
                    "The order of ranks {} to {}, {} to {}, is not certain: each is within two standard errors of the next.",
                    first + 1,
                    i,
                    best.name,
                    worst.name
                )),
                _ => {}
            }
            first = i;
        }
        if ranked.len() > 1 && !known {
            notes.push("Without a baseline there are no standard errors, and how certain the order is cannot be said: `report: {baseline: VARIANT}`, or several `seeds`."
                    .to_owned(),
            );
        } else if known && self.seeds.len() < 2 {
            notes.push(
                "Standard errors are over documents alone, with one seed: training again with another seed may move a result by more."
                    .to_owned(),
            );
        }
        if let Some(name) = &self.baseline
            && self.baseline().is_none()
        {
            notes.push(format!(
                "The baseline {name} was not evaluated, so there are no differences to it."
            ));
        }
        let online = |v: &Variant| {
            let d = v.online?;
            let se = d.se.map_or_else(String::new, |se| format!(" ± {se:.4}"));
            Some(format!("{} {:+.4}{se}", v.name, d.bpb))
        };
        let online: Vec<String> = self.variants.iter().filter_map(online).collect();
        if !online.is_empty() {
            notes.push(format!(
                "On training batches that were new to the models, in the later half of the first pass, differences to the baseline are: {}.",
                online.join(", ")
            ));
        }
        let apart: Vec<&str> =
            self.variants.iter().filter(|v| v.lookahead).map(|v| v.name.as_str()).collect();
        if !apart.is_empty() {
            notes.push(format!("Not ranked: {}. {LOOKAHEAD}", listed(&apart)));
        }
        notes
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

    /// The result in a few plain sentences.
    pub fn summary(&self) -> String {
        let ranked = self.ranked();
        let Some(best) = ranked.first() else {
            return match self.looking_ahead().first() {
                Some(best) => format!(
                    "No variant can be ranked: the borders of all that were evaluated look ahead. The fewest bits per byte are those of {}: {:.4}.",
                    best.name,
                    best.bpb.unwrap_or(f64::NAN)
                ),
                None => {
                    "No variant was evaluated, so there are no bits per byte to compare.".to_owned()
                }
            };
        };
        let bpb = best.bpb.unwrap_or(f64::NAN);
        let mut read = String::new();
        if let (Some(bytes), Some(documents)) = (best.bytes, best.documents) {
            let noun = if documents == 1.0 { "document" } else { "documents" };
            read = format!(" on {} bytes of {} {noun}", grouped(bytes), grouped(documents));
        }
        let mut said = match ranked.len() {
            1 => format!("{} reaches {bpb:.4} bits per byte{read}.", best.name),
            n => format!(
                "Of {n} ranked variants, {} has the fewest bits per byte: {bpb:.4}{read}.",
                best.name
            ),
        };
        let difference = |v: &Variant| {
            let d = v.difference?;
            let se = d.se.map_or_else(String::new, |se| format!(" ± {se:.4} (standard error)"));
            Some(format!(
                "{:.4}{se} bits per byte {}",
                d.bpb.abs(),
                if d.bpb > 0.0 { "more" } else { "fewer" }
            ))
        };
        if self.is_baseline(best) {
            said += " It is the baseline";
            said += &match ranked.get(1).and_then(|next| Some((next, difference(next)?))) {
                Some((next, difference)) => format!("; the next, {}, has {difference}.", next.name),
                None => ".".to_owned(),
            };
        } else if let (Some(baseline), Some(difference)) = (self.baseline(), difference(best)) {
            said += &format!(" That is {difference} than the baseline, {}.", baseline.name);
        }
        if let Some(next) = ranked.get(1)
            && self.order_is_certain(best, next) == Some(false)
        {
            said += &format!(
                " Its lead over {} is within two standard errors, so the first place is not certain.",
                next.name
            );
        }
        if let Some(flops) = best.flops {
            said += &format!(" A byte costs it {} MFLOP forward", mega(flops));
            if let Some(entropy) = best.entropy_flops.filter(|&e| e > 0.0) {
                said += &format!(", {} of them in the entropy model", mega(entropy));
            }
            said += ".";
        }
        let frontier = self.frontier();
        if ranked.len() > 1 && !frontier.is_empty() {
            let names: Vec<&str> = frontier.iter().map(|v| v.name.as_str()).collect();
            said += &match names.len() {
                1 => format!(
                    " No other ranked variant has fewer bits, or fewer FLOPs, than {}.",
                    names[0]
                ),
                _ => format!(
                    " For the compute, from the cheapest up, {} are not beaten: no ranked variant has fewer bits for as few FLOPs.",
                    listed(&names)
                ),
            };
        }
        said
    }
}

/// Why variants with lookahead are not ranked.
pub const LOOKAHEAD: &str = "Patch borders that depend on later bytes give each prediction a hint of what follows. Such patches cannot generate text, and these bits per byte do not compare with the others'.";

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

    #[test]
    fn errors_of_two_that_are_paired_to_a_third_add_up() {
        let of = |bpb: f64, se: f64| serde_json::json!({"bpb": bpb, "difference": {"bpb": 0.1, "se": se}});
        let results = serde_json::json!({"baseline": "b", "variants": {"b": {"bpb": 2.0}, "x": of(2.1, 0.03), "y": of(2.21, 0.04), "z": {"bpb": 2.3}}});
        let results = Facts::of(&serde_json::from_value(results).unwrap());
        let [b, x, y, z] = results.variants.as_slice() else { panic!("four variants") };
        assert_eq!(results.standard_error(b, x), Some(0.03));
        assert!((results.standard_error(x, y).unwrap() - 0.05).abs() < 1e-12);
        assert_eq!(
            (results.order_is_certain(b, x), results.order_is_certain(b, y)),
            (Some(true), Some(true))
        );
        assert_eq!(
            (results.order_is_certain(x, y), results.order_is_certain(y, z)),
            (Some(true), None)
        );
    }
}
