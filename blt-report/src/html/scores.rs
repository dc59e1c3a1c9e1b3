//! What `score` steps wrote: their counts, and the distribution of bits per byte in all and by a
//! column.

use super::facts::{Facts, Score, Variant};
use super::show::{look, named, safe};
use super::svg;
use super::text::grouped;
use crate::results::{
    HistogramGroup, HistogramOf, Ordered, ScoreHistogram, ScoreResult, UnreadableRows,
};
use minijinja::{Value, context};

/// Values of a column that are shown, those of the most bytes.
const SHOWN: usize = 24;

/// Counts by the number of their bin, from the first to the last that has any.
struct Bins {
    first: usize,
    counts: Vec<f64>,
}

impl Bins {
    fn of(group: &HistogramGroup, width: f64) -> Option<Self> {
        let bin = |(from, &count): (&str, &u64)| {
            Some(((from.parse::<f64>().ok()? / width).round() as usize, count as f64))
        };
        let counts: Vec<(usize, f64)> =
            group.counts.iter().filter_map(bin).filter(|(_, count)| *count > 0.0).collect();
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
pub fn sections(results: &Facts) -> Vec<Value> {
    let mut sections = Vec::new();
    for variant in &results.variants {
        for (n, score) in variant.scores.iter().enumerate() {
            sections.push(section(results, variant, n, score));
        }
    }
    sections
}

fn section(results: &Facts, variant: &Variant, n: usize, score: &Score) -> Value {
    let ScoreResult { goal, counts, unreadable, histogram, .. } = &score.result;
    let histogram = histogram.as_ref();
    let failed = counts.failed.iter().map(|(cause, n)| format!("{n} {}", cause.replace('_', " ")));
    let failed = failed.collect::<Vec<_>>().join(", ");
    let unreadable =
        unreadable.iter().filter_map(|UnreadableRows { input, group, rows, .. }| {
            let last = rows.end.checked_sub(1)?;
            Some(format!("{input}, row group {group}, rows {} to {last}", rows.start))
        });
    let patching = counts.sums.patching.as_ref();
    context! {
        variant => named(variant),
        several => results.variants.len() > 1,
        goal => goal,
        rows => count(counts.rows),
        kept => (counts.kept != counts.rows).then(|| count(counts.kept)),
        documents => count(counts.documents),
        bytes => count(counts.bytes),
        nulls => count(counts.nulls),
        failed => (!failed.is_empty()).then_some(failed),
        unreadable => unreadable.take(SHOWN).collect::<Vec<_>>(),
        bpb => score.bpb().map(|bpb| format!("{bpb:.4}")),
        bytes_per_patch => patching.and_then(|p| p.bytes_per_patch).map(|n| format!("{n:.2}")),
        of => histogram.map(|h| h.of.name().replace('_', " ")).unwrap_or_default(),
        by => histogram.and_then(|h| h.by.as_deref()),
        charts => histogram.map(|h| charts(variant, n, h)).unwrap_or_default(),
        left_out => histogram.map_or(0, |h| groups(h).len().saturating_sub(SHOWN)),
    }
}

fn count(count: u64) -> String {
    grouped(count as f64)
}

fn groups(histogram: &ScoreHistogram) -> Vec<(&str, &HistogramGroup)> {
    histogram.groups.iter().flat_map(Ordered::iter).collect()
}

/// That of all documents, then those of the column's values, on one axis.
fn charts(variant: &Variant, n: usize, histogram: &ScoreHistogram) -> Vec<Value> {
    let width = histogram.width;
    let Some(bins) = Bins::of(&histogram.all, width).filter(|_| width > 0.0) else {
        return Vec::new();
    };
    let (first, last) = (bins.first, bins.first + bins.counts.len() - 1);
    let mean = |group: &HistogramGroup| match histogram.of {
        HistogramOf::BitsPerByte => group.sums.likelihood.as_ref()?.bpb,
        HistogramOf::BytesPerPatch => group.sums.patching.as_ref()?.bytes_per_patch,
    };
    let mut shown = groups(histogram);
    shown.sort_by(|(a, x), (b, y)| y.bytes.cmp(&x.bytes).then_with(|| a.cmp(b)));
    shown.truncate(SHOWN);
    let chart = |(i, (name, group)): (usize, (&str, &HistogramGroup))| {
        let shares = Bins::of(group, width)?.over(first, last);
        let slug = format!("scores-{}-{n}-{i}", variant.index);
        let title = format!("Scores of {name}");
        let from = first as f64 * width;
        let svg =
            svg::distribution(&slug, &title, look(variant), &shares, (from, width), mean(group))?;
        Some(context! {
            name => svg::shortened(name, 40),
            svg => safe(svg),
            documents => count(group.documents),
            bytes => count(group.bytes),
            mean => mean(group).map(|m| format!("{m:.3}")),
        })
    };
    let all = std::iter::once(("all", &histogram.all));
    all.chain(shown).enumerate().filter_map(chart).collect()
}
