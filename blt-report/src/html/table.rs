//! The closing table: what the terminal shows when a run ends, and the same rows for the page.

use super::facts::{Difference, Facts, Variant};
use super::text::{grouped, mega, significant};
use crate::results::{LatentsWorth, Results};
use unicode_width::UnicodeWidthStr;

/// A column: its title, and a variant's cell where there is a value.
pub struct Column {
    pub title: &'static str,
    /// What the title means, at more length.
    pub about: &'static str,
    pub cells: fn(&Facts, &Variant) -> Option<String>,
    /// Only on the page; a terminal is too narrow.
    pub page_only: bool,
}

fn difference(results: &Facts, variant: &Variant) -> Option<String> {
    if results.is_baseline(variant) {
        return Some("baseline".to_owned());
    }
    variant.difference.map(|d| with_interval(&d))
}

/// A difference with its interval, where it has one.
pub fn with_interval(d: &Difference) -> String {
    let width = d.half_width.map_or_else(String::new, |width| format!(" ± {width:.4}"));
    format!("{:+.4}{width}", d.bpb)
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

/// What latents are worth, with half of its interval.
pub fn worth(of: &LatentsWorth) -> Option<String> {
    let half = of.half_width.map(|half| format!(" ± {half:.4}"));
    Some(format!("{:.4}{}", of.worth?, half.unwrap_or_default()))
}

/// All columns, in order.
pub const COLUMNS: &[Column] = &[
    Column {
        title: "bits/byte",
        about: "bits per byte on held-out documents; fewer is better",
        cells: |_, v| v.bpb.map(|x| format!("{x:.4}")),
        page_only: false,
    },
    Column {
        title: "± seeds",
        about: "standard error of bits per byte over seeds",
        cells: |_, v| v.bpb_se.map(|x| format!("{x:.4}")),
        page_only: false,
    },
    Column {
        title: "difference ± 95 %",
        about: "bits per byte more (+) or fewer (-) than the baseline, paired by document; the 95 % interval holds for all ranked variants together (Bonferroni), and of a variant apart for it alone",
        cells: difference,
        page_only: false,
    },
    Column {
        title: "p",
        about: "p-value of no difference to the baseline, adjusted for all ranked variants (Holm); of a variant apart, its own",
        cells: |_, v| v.difference?.p.map(p_value),
        page_only: false,
    },
    Column {
        title: "df",
        about: "degrees of freedom of the interval (Satterthwaite): few where few seeds or clusters carry the spread",
        cells: |_, v| v.difference?.df.map(|df| format!("{df:.1}")),
        page_only: false,
    },
    Column {
        title: "latents' worth",
        about: "bits per byte that the model loses when it reads latents that say nothing of its text, ± half the width of its 95 % interval over documents",
        cells: |_, v| worth(&v.latents.as_ref()?.all),
        page_only: false,
    },
    Column {
        title: "bytes/patch",
        about: "mean length of a patch, as realised on the held-out documents",
        cells: |_, v| v.bytes_per_patch.map(|x| format!("{x:.2}")),
        page_only: false,
    },
    Column {
        title: "MFLOP/byte",
        about: "millions of floating-point operations per byte, forward, counted from the executed shapes, with the entropy model's",
        cells: |_, v| v.flops.map(mega),
        page_only: false,
    },
    Column {
        title: "of it entropy model",
        about: "the part of MFLOP/byte that only serves to find patch borders",
        cells: |r, v| {
            v.entropy_flops
                .filter(|_| r.variants.iter().any(|v| v.entropy_flops > Some(0.0)))
                .map(mega)
        },
        page_only: false,
    },
    Column {
        title: "closed form",
        about: "MFLOP/byte by the paper's closed formula, for the model without the entropy model",
        cells: |_, v| v.closed_form.map(mega),
        page_only: true,
    },
    Column {
        title: "train bytes/s",
        about: "bytes per second of the last training step",
        cells: |_, v| v.train_rate.map(grouped),
        page_only: false,
    },
    Column {
        title: "evaluate bytes/s",
        about: "bytes per second of evaluation",
        cells: |_, v| v.evaluate_rate.map(grouped),
        page_only: true,
    },
    Column {
        title: "scored bits/byte",
        about: "bits per byte of the documents of the last score step, whatever part they are of",
        cells: |_, v| Some(format!("{:.4}", v.scores.last()?.bpb()?)),
        page_only: false,
    },
    Column {
        title: "score bytes/s",
        about: "bytes per second of the last score step, reading and writing included",
        cells: |_, v| v.scores.last()?.bytes_per_second.map(grouped),
        page_only: false,
    },
    Column {
        title: "parameters",
        about: "parameters of all that the loss depends on, the entropy model's included",
        cells: |_, v| v.parameters.map(grouped),
        page_only: false,
    },
];

/// The columns that at least one variant has a value for.
pub fn used(results: &Facts, page: bool) -> Vec<&'static Column> {
    let has = |c: &&Column| {
        let baseline_only = c.title.starts_with("difference")
            && results.variants.iter().all(|v| v.difference.is_none());
        !baseline_only && results.variants.iter().any(|v| (c.cells)(results, v).is_some())
    };
    COLUMNS.iter().filter(|c| page || !c.page_only).filter(has).collect()
}

/// A variant's cells; a dash where there is no value.
pub fn cells(results: &Facts, variant: &Variant, of: &[&Column]) -> Vec<String> {
    of.iter().map(|c| (c.cells)(results, variant).unwrap_or_else(|| "–".to_owned())).collect()
}

/// The closing table for a terminal: what the run can see; ranked variants by bits per byte, then
/// those without a rank, apart (controls, patch borders that look ahead), then those that were not
/// evaluated; below, what a reader has to know. Ends without a newline.
pub fn table(results: &Results) -> String {
    let results = Facts::of(results);
    if results.variants.is_empty() {
        return "no variant left results".to_owned();
    }
    let used = used(&results, false);
    let header: Vec<String> = ["", "variant"]
        .into_iter()
        .chain(used.iter().map(|c| c.title))
        .map(str::to_owned)
        .collect();
    let row = |rank: Option<usize>, v: &Variant| {
        let mark = if results.is_baseline(v) { " *" } else { "" };
        let mut row =
            vec![rank.map_or_else(String::new, |r| r.to_string()), format!("{}{mark}", v.name)];
        row.extend(cells(&results, v, &used));
        row
    };
    let ranked: Vec<_> =
        results.ranked().into_iter().enumerate().map(|(i, v)| row(Some(i + 1), v)).collect();
    let apart: Vec<(_, Vec<_>)> = results
        .apart()
        .into_iter()
        .map(|(heading, of)| (heading, of.into_iter().map(|v| row(None, v)).collect()))
        .collect();
    let left: Vec<_> = results.not_evaluated().into_iter().map(|v| row(None, v)).collect();
    let widths = widths(
        ranked.iter().chain(apart.iter().flat_map(|(_, rows)| rows)).chain(&left).chain([&header]),
    );
    let line = |row: &[String]| line(row, &widths, 1);
    let total = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
    let rule = |label: &str| {
        let label = if label.is_empty() { String::new() } else { format!(" {label} ") };
        format!("──{label}{}", "─".repeat(total.max(40).saturating_sub(label.width() + 2)))
    };
    let text_width = total.clamp(72, 120);
    let mut out: Vec<String> =
        results.can_see().iter().flat_map(|said| wrapped(said, text_width)).collect();
    if !out.is_empty() {
        out.push(String::new());
    }
    out.push(line(&header));
    // The heading of what stands apart is a rule of its own.
    if !ranked.is_empty() || apart.is_empty() {
        out.push(rule(""));
    }
    out.extend(ranked.iter().map(|row| line(row)));
    for (heading, rows) in &apart {
        out.push(rule(heading));
        out.extend(rows.iter().map(|row| line(row)));
    }
    if !left.is_empty() {
        // Where a pipeline evaluates nothing at all, none of its variants lacks anything.
        if !(ranked.is_empty() && apart.is_empty()) {
            out.push(rule("not evaluated"));
        }
        out.extend(left.iter().map(|row| line(row)));
    }
    out.push(String::new());
    out.extend(groups(&results).lines("difference ± 95 % by group"));
    out.extend(other_goals(&results).lines("other goals, bits/byte"));
    if results.baseline().is_some() {
        out.push("* baseline: differences are to it, paired by document".to_owned());
    }
    out.extend(results.notes().iter().flat_map(|note| wrapped(note, text_width)));
    while out.last().is_some_and(String::is_empty) {
        out.pop();
    }
    out.join("\n")
}

/// The width of each column.
fn widths<'a>(rows: impl Iterator<Item = &'a Vec<String>>) -> Vec<usize> {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(row.len(), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    widths
}

/// A row with its columns padded: that of `names` to the left, numbers to the right.
fn line(row: &[String], widths: &[usize], names: usize) -> String {
    let padded = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| {
        let pad = " ".repeat(width - cell.width());
        if i == names { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
    });
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// A table of what variants have by name: the names in order of first appearance, and the cells of
/// each variant that has any.
pub struct ByName<'a> {
    pub names: Vec<String>,
    pub rows: Vec<(&'a Variant, Vec<String>)>,
}

fn by_name<'a, T: 'a>(
    results: &'a Facts,
    of: fn(&'a Variant) -> &'a [(String, T)],
    cell: impl Fn(&T) -> String,
) -> ByName<'a> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in results.variants.iter().flat_map(of) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let rows = results.variants.iter().filter(|v| !of(v).is_empty()).map(|v| {
        let found = |name: &String| of(v).iter().find(|(n, _)| n == name);
        let cells = names.iter().map(|name| found(name).map_or("–".to_owned(), |(_, x)| cell(x)));
        (v, cells.collect())
    });
    ByName { rows: rows.collect(), names: names.clone() }
}

/// Differences to the baseline by group.
pub fn groups(results: &Facts) -> ByName<'_> {
    by_name(results, |v| &v.difference_by, with_interval)
}

/// Bits per byte of goals that were evaluated before the last.
pub fn other_goals(results: &Facts) -> ByName<'_> {
    by_name(results, |v| &v.other_goals, |bpb| format!("{bpb:.4}"))
}

/// Metrics of plugin nodes.
pub fn metrics(results: &Facts) -> ByName<'_> {
    by_name(results, |v| &v.metrics, |value| significant(*value, 4))
}

impl ByName<'_> {
    /// Lines for a terminal, and an empty one below; none where there are no rows.
    fn lines(self, title: &str) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let head = std::iter::once(title.to_owned()).chain(self.names).collect();
        let row = |(v, cells): (&Variant, Vec<String>)| {
            std::iter::once(v.name.clone()).chain(cells).collect::<Vec<_>>()
        };
        let rows = self.rows.into_iter().map(row);
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let widths = widths(rows.iter());
        rows.iter().map(|row| line(row, &widths, 0)).chain([String::new()]).collect()
    }
}

/// Lines of at most `width` columns, broken at spaces; a longer word gets a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].width() + 1 + word.width() > width {
            lines.push(word.to_owned());
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}
