//! Charts of what happens while a model is trained.

use super::facts::{Facts, Variant};
use super::show::{look, safe};
use super::svg::{self, Line, LinePoint, Look};
use super::text::listed;
use crate::results::MetricsLine;
use minijinja::{Value, context};
use std::collections::{BTreeMap, BTreeSet};

/// One seed's curve of one variant: (bytes or steps, bits per byte).
type Curve = Vec<(f64, f64)>;

/// What lines of metrics.jsonl show of training: the loss by goal, that of the last training first;
/// the loss on held-out documents; and the gradient's norm by node.
pub fn charts(results: &Facts, lines: &[MetricsLine]) -> Vec<Value> {
    let mut charts = losses(results, lines, "curve", "Training loss", |line| line.bpb);
    charts.extend(losses(results, lines, "held-out", "Held-out loss", |line| line.valid_bpb));
    charts.extend(results.variants.iter().filter_map(|variant| norms(variant, lines)));
    charts
}

/// Loss curves, a chart for each goal.
fn losses(
    results: &Facts,
    lines: &[MetricsLine],
    slug: &str,
    what: &str,
    of: fn(&MetricsLine) -> Option<f64>,
) -> Vec<Value> {
    let lines: Vec<&MetricsLine> = lines.iter().filter(|line| of(line).is_some()).collect();
    let in_bytes = lines.iter().all(|line| line.bytes.is_some());
    // Goal by goal in the order in which they were trained first; of each, variant and seed.
    let mut goals: Vec<(String, u64)> = Vec::new();
    let mut curves: BTreeMap<(String, String, Option<u64>), (Curve, f64)> = BTreeMap::new();
    for line in lines {
        let (Some(goal), Some(bpb)) = (&line.goal, of(line)) else { continue };
        let Some(at) = (if in_bytes { line.bytes } else { line.step }) else { continue };
        let (at, run_step) = (at as f64, line.run_step.unwrap_or(0));
        match goals.iter_mut().find(|(g, _)| g == goal) {
            Some((_, last)) => *last = run_step.max(*last),
            None => goals.push((goal.clone(), run_step)),
        }
        let variant = line.variant.clone().unwrap_or_default();
        let (curve, offset) = curves.entry((goal.clone(), variant, line.seed)).or_default();
        // A second training of the same goal goes on where the first ended.
        if let Some((last, _)) = curve.last()
            && at + *offset <= *last
        {
            *offset = *last;
        }
        curve.push((at + *offset, bpb));
    }
    goals.sort_by_key(|(_, run_step)| std::cmp::Reverse(*run_step));
    let chart = |(n, (goal, _)): (usize, &(String, u64))| {
        let mut groups: Vec<(Vec<&Variant>, Vec<&Curve>)> = Vec::new();
        for variant in &results.variants {
            let of_variant = curves.iter().filter(|((g, v, _), _)| g == goal && *v == variant.name);
            let of_variant: Vec<&Curve> = of_variant.map(|(_, (curve, _))| curve).collect();
            if of_variant.is_empty() {
                continue;
            }
            // Variants share what they have in common: an entropy model that was trained once is
            // one line.
            match groups.iter_mut().find(|(_, have)| *have == of_variant) {
                Some((names, _)) => names.push(variant),
                None => groups.push((vec![variant], of_variant)),
            }
        }
        let all_in_one = groups.len() == 1
            && results.variants.len() > 1
            && groups[0].0.len() == results.variants.len();
        let scale = if in_bytes { 1e-6 } else { 1.0 };
        let drawn: Vec<Line> = groups
            .iter()
            .map(|(variants, curves)| Line {
                look: look(variants[0]),
                name: listed(&variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>()),
                points: over_seeds(curves, scale),
            })
            .collect();
        let x_title = if in_bytes { "bytes trained on (MB)" } else { "step" };
        let title = format!("{what} of {goal}");
        let svg = svg::lines(&format!("{slug}-{n}"), &title, x_title, "bits per byte", &drawn)?;
        let seeds = groups.iter().map(|(_, curves)| curves.len()).max().unwrap_or(1);
        Some(context! {
            title => title,
            svg => safe(svg),
            seeds => seeds,
            legend => drawn.iter().zip(&groups).map(|(line, (variants, _))| context! {
                swatch => safe(line.look.swatch()),
                name => if all_in_one { "all variants" } else { line.name.as_str() },
                shared => variants.len() > 1 && !all_in_one,
                lookahead => line.look.hollow,
            }).collect::<Vec<_>>(),
        })
    };
    goals.iter().enumerate().filter_map(chart).collect()
}

/// The gradient's norm by node in the last training of a variant, of its first seed.
fn norms(variant: &Variant, lines: &[MetricsLine]) -> Option<Value> {
    let own = lines.iter().filter(|line| {
        line.grad_norm_by.is_some() && line.variant.as_deref().is_none_or(|v| v == variant.name)
    });
    let last = own.clone().map(|line| line.run_step).max()?;
    let seed = own.clone().find(|line| line.run_step == last)?.seed;
    let own: Vec<&MetricsLine> =
        own.filter(|line| (line.run_step, line.seed) == (last, seed)).collect();
    let norms = |line: &MetricsLine| line.grad_norm_by.clone().unwrap_or_default();
    let nodes: BTreeSet<String> = own.iter().flat_map(|line| norms(line).into_keys()).collect();
    let drawn: Vec<Line> = nodes
        .into_iter()
        .enumerate()
        .map(|(index, node)| {
            let point = |line: &&MetricsLine| {
                let norm = *norms(line).get(&node)?;
                Some((line.step? as f64, norm, norm, norm))
            };
            let points = own.iter().filter_map(point).collect();
            Line { look: Look { index, hollow: false }, name: node, points }
        })
        .collect();
    let title = format!("Gradient norm by node, {}", variant.name);
    let svg =
        svg::lines(&format!("norms-{}", variant.index), &title, "step", "gradient norm", &drawn)?;
    let named =
        |line: &Line| context! { swatch => safe(line.look.swatch()), name => line.name.as_str() };
    let legend = drawn.iter().map(named).collect::<Vec<_>>();
    Some(context! { title => title, svg => safe(svg), seeds => 1, legend => legend })
}

/// Mean, lowest and highest over seeds, for as long as all have points.
fn over_seeds(curves: &[&Curve], scale: f64) -> Vec<LinePoint> {
    let length = curves.iter().map(|c| c.len()).min().unwrap_or(0);
    let at = |i: usize| {
        let values = || curves.iter().map(|c| c[i].1);
        let mean = values().sum::<f64>() / curves.len() as f64;
        (
            curves[0][i].0 * scale,
            mean,
            values().fold(f64::MAX, f64::min),
            values().fold(f64::MIN, f64::max),
        )
    };
    (0..length).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_averaged_for_as_long_as_all_have_points() {
        let (a, b) = (vec![(1.0, 4.0), (2.0, 3.0)], vec![(1.0, 2.0)]);
        assert_eq!(over_seeds(&[&a, &b], 1.0), [(1.0, 3.0, 2.0, 4.0)]);
    }
}
