//! What `score` steps wrote: their counts, and the distribution of bits per byte in all and by a
//! column.

use super::facts::{Results, Variant, grouped};
use super::page::{look, named, safe};
use super::svg;
use minijinja::{Value, context};

/// Values of a column that are shown, those of the most bytes.
const SHOWN: usize = 24;

type Json = serde_json::Value;

fn count(value: &Json, key: &str) -> Option<String> {
    Some(grouped(value.get(key)?.as_f64()?))
}

fn number(value: &Json, key: &str, decimals: usize) -> Option<String> {
    Some(format!("{:.decimals$}", value.get(key)?.as_f64()?))
}

/// Counts by the number of their bin, from the first to the last that has any.
struct Bins {
    first: usize,
    counts: Vec<f64>,
}

impl Bins {
    fn read(group: &Json, width: f64) -> Option<Self> {
        let counts = group.get("counts")?.as_object()?.iter();
        let bin = |(from, count): (&String, &Json)| {
            Some(((from.parse::<f64>().ok()? / width).round() as usize, count.as_f64()?))
        };
        let counts: Vec<(usize, f64)> =
            counts.filter_map(bin).filter(|(_, count)| *count > 0.0).collect();
        let first = counts.iter().map(|(bin, _)| *bin).min()?;
        let last = counts.iter().map(|(bin, _)| *bin).max()?;
        let mut all = vec![0.0; last - first + 1];
        counts.into_iter().for_each(|(bin, count)| all[bin - first] += count);
        Some(Bins { first, counts: all })
    }

    /// The same counts over more bins.
    fn over(&self, first: usize, last: usize) -> Vec<f64> {
        let total: f64 = self.counts.iter().sum();
        let at = |bin: usize| {
            bin.checked_sub(self.first).and_then(|i| self.counts.get(i)).map_or(0.0, |c| c / total)
        };
        (first..=last).map(at).collect()
    }
}

/// A section for each score step of each variant.
pub fn sections(results: &Results) -> Vec<Value> {
    let mut sections = Vec::new();
    for variant in &results.variants {
        for (n, score) in variant.scores.iter().enumerate() {
            sections.push(section(results, variant, n, score));
        }
    }
    sections
}

fn section(results: &Results, variant: &Variant, n: usize, score: &Json) -> Value {
    let histogram = score.get("histogram");
    let of = histogram
        .and_then(|h| h.get("of"))
        .and_then(Json::as_str)
        .unwrap_or_default()
        .replace('_', " ");
    let failed = score.get("failed").and_then(Json::as_object).into_iter().flatten();
    let failed = failed
        .map(|(cause, n)| format!("{n} {}", cause.replace('_', " ")))
        .collect::<Vec<_>>()
        .join(", ");
    let unreadable = score.get("unreadable").and_then(Json::as_array).into_iter().flatten();
    let unreadable = unreadable.filter_map(|rows| {
        let at = |key: &str| rows["rows"][key].as_u64();
        let (input, group, first, end) =
            (rows["input"].as_str()?, rows["group"].as_u64()?, at("start")?, at("end")?);
        Some(format!("{input}, row group {group}, rows {first} to {}", end.checked_sub(1)?))
    });
    let by = histogram.and_then(|h| h.get("by")).and_then(Json::as_str);
    context! {
        variant => named(variant),
        several => results.variants.len() > 1,
        goal => score.get("goal").and_then(Json::as_str),
        rows => count(score, "rows"),
        kept => count(score, "kept").filter(|_| score.get("kept") != score.get("rows")),
        documents => count(score, "documents"),
        bytes => count(score, "bytes"),
        nulls => count(score, "nulls"),
        failed => (!failed.is_empty()).then_some(failed),
        unreadable => unreadable.take(SHOWN).collect::<Vec<_>>(),
        bpb => number(score, "bpb", 4),
        bytes_per_patch => number(score, "bytes_per_patch", 2),
        of => of,
        by => by,
        charts => histogram.map(|h| charts(variant, n, h)).unwrap_or_default(),
        left_out => groups(histogram).len().saturating_sub(SHOWN),
    }
}

fn groups(histogram: Option<&Json>) -> Vec<(&String, &Json)> {
    histogram
        .and_then(|h| h.get("groups"))
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
        .collect()
}

/// That of all documents, then those of the column's values, on one axis.
fn charts(variant: &Variant, n: usize, histogram: &Json) -> Vec<Value> {
    let number_of = |key: &str| histogram.get(key).and_then(Json::as_f64).filter(|w| *w > 0.0);
    let (Some(width), Some(all)) = (number_of("width"), histogram.get("all")) else {
        return Vec::new();
    };
    let Some(bins) = Bins::read(all, width) else { return Vec::new() };
    let (first, last) = (bins.first, bins.first + bins.counts.len() - 1);
    let mean = |group: &Json| match histogram.get("of").and_then(Json::as_str) {
        Some("bits_per_byte") => group.get("bpb").and_then(Json::as_f64),
        _ => group.get("bytes_per_patch").and_then(Json::as_f64),
    };
    let mut shown = groups(Some(histogram));
    shown.sort_by(|(a, x), (b, y)| {
        y["bytes"].as_u64().cmp(&x["bytes"].as_u64()).then_with(|| a.cmp(b))
    });
    shown.truncate(SHOWN);
    let everything = "all".to_owned();
    let chart = |(i, (name, group)): (usize, (&String, &Json))| {
        let shares = Bins::read(group, width)?.over(first, last);
        let slug = format!("scores-{}-{n}-{i}", variant.index);
        let title = format!("Scores of {name}");
        let from = first as f64 * width;
        let svg =
            svg::distribution(&slug, &title, look(variant), &shares, (from, width), mean(group))?;
        Some(context! {
            name => svg::shortened(name, 40),
            svg => safe(svg),
            documents => count(group, "documents"),
            bytes => count(group, "bytes"),
            mean => mean(group).map(|m| format!("{m:.3}")),
        })
    };
    let all = std::iter::once((&everything, all));
    all.chain(shown).enumerate().filter_map(chart).collect()
}
