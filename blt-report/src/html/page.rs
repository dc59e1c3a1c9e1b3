//! From a run's facts to the page: which charts there are, and what goes into them.

use super::facts::{Facts, Found, Variant};
use super::sample::{self, SHADES, Sample};
use super::show::{look, named, safe};
use super::svg::{self, Bar, Part, Point};
use super::table::ByName;
use super::text::mega;
use super::{ReportError, ReportInput, curves, latents, scores, table};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use std::collections::BTreeMap;
use unicode_width::UnicodeWidthStr;

/// Nodes that get a colour of their own in the chart of FLOPs; the cheaper rest is one.
const NODE_COLOURS: usize = 8;

/// Renders the report: a whole HTML document.
///
/// # Errors
/// Only if the template itself is at fault; missing results are left out.
pub fn html(input: &ReportInput) -> Result<String, ReportError> {
    let results = Facts::of(&input.results);
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("report", include_str!("template.html"))?;
    let context = context! {
        pipeline => results.pipeline.as_str(),
        id => results.id.as_str(),
        seeds => results.seeds.join(", "),
        n_seeds => results.seeds.len(),
        can_see => results.can_see(),
        summary => results.summary(),
        notes => results.notes(),
        ranking => ranking(&results),
        legend => legend(&results),
        scatters => scatters(&results),
        curves => curves::charts(&results, &input.metrics),
        domains => domains(&results),
        baseline => results.baseline.as_deref(),
        differences => by_name(table::groups(&results)),
        other_goals => by_name(table::other_goals(&results)),
        lengths => lengths(&results),
        latents => latents::rows(&results),
        scores => scores::sections(&results),
        samples => samples(&results, &input.samples),
        metrics => by_name(table::metrics(&results)),
        flops => flops(&results),
        prepared => prepared(&results),
        facts => input.facts.iter().map(|(name, value)| context! { name => name, value => value }).collect::<Vec<_>>(),
        graph => safe(input.graph.clone()),
        written => input.pipeline.as_str(),
        resolved => input.resolved.as_str(),
    };
    Ok(environment.get_template("report")?.render(context)?)
}

fn legend(results: &Facts) -> Vec<Value> {
    results.variants.iter().map(named).collect()
}

fn ranking(results: &Facts) -> Value {
    let used = table::used(results, true);
    let row = |rank: Option<usize>, v: &Variant| {
        context! {
            rank => rank,
            variant => named(v),
            baseline => results.is_baseline(v),
            cells => table::cells(results, v, &used).iter().map(|c| minus(c)).collect::<Vec<_>>(),
        }
    };
    let all =
        |variants: Vec<&Variant>| variants.into_iter().map(|v| row(None, v)).collect::<Vec<_>>();
    context! {
        columns => used.iter().map(|c| context! { title => c.title, about => c.about }).collect::<Vec<_>>(),
        width => used.len() + 2,
        ranked => results.ranked().into_iter().enumerate().map(|(i, v)| row(Some(i + 1), v)).collect::<Vec<_>>(),
        apart => results.apart().into_iter().map(|(heading, of)| context! { heading => heading, rows => all(of) }).collect::<Vec<_>>(),
        not_evaluated => all(results.not_evaluated()),
    }
}

/// A proper minus sign is as wide as a plus, so that columns of differences line up.
fn minus(cell: &str) -> String {
    cell.replace('-', "−")
}

/// Bits per byte against what they cost.
fn scatters(results: &Facts) -> Vec<Value> {
    let against = |slug: &str, title: &str, x_title: &str, of: fn(&Variant) -> Option<f64>| {
        let point = |v: &Variant| {
            let error = v.bpb_se.filter(|e| *e > 0.0);
            Some(Point { look: look(v), name: v.name.clone(), x: of(v)?, y: v.bpb?, error })
        };
        let points: Vec<Point> = results.variants.iter().filter_map(point).collect();
        let svg = svg::scatter(slug, title, x_title, "bits per byte (lower is better)", &points)?;
        let errors = points.iter().any(|p| p.error.is_some());
        Some(
            context! { title => title, svg => safe(svg), errors => errors, hollow => points.iter().any(|p| p.look.hollow) },
        )
    };
    let size = against("patch", "Bits per byte against patch size", "bytes per patch", |v| {
        v.bytes_per_patch
    });
    let compute = "MFLOP per byte, the entropy model's included";
    let compute =
        against("compute", "Bits per byte against compute", compute, |v| Some(v.flops? / 1e6));
    size.into_iter().chain(compute).collect()
}

/// A small chart of bars for each domain, on one scale.
fn domains(results: &Facts) -> Vec<Value> {
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in results.variants.iter().flat_map(|v| &v.bpb_by) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let full = results.variants.iter().flat_map(|v| &v.bpb_by).map(|(_, b)| *b).fold(0.0, f64::max);
    let chart = |(n, domain): (usize, &&String)| {
        let bar = |v: &Variant| {
            let (_, bpb) = v.bpb_by.iter().find(|(name, _)| name == *domain)?;
            let class =
                format!("f c{}{}", look(v).colour(), if v.lookahead { " hollow" } else { "" });
            let part = Part { class, title: format!("{bpb:.4} bits per byte"), length: *bpb };
            Some(Bar {
                look: look(v),
                name: v.name.clone(),
                parts: vec![part],
                value: format!("{bpb:.3}"),
            })
        };
        let bars: Vec<Bar> = results.variants.iter().filter_map(bar).collect();
        let described: Vec<String> =
            bars.iter().map(|b| format!("{}: {}", b.name, b.value)).collect();
        let title = format!("Bits per byte on {domain}");
        let svg =
            svg::bars(&format!("domain-{n}"), &title, &described.join("; "), 340.0, full, &bars)?;
        Some(context! { name => domain.as_str(), svg => safe(svg) })
    };
    names.iter().enumerate().filter_map(chart).collect()
}

/// The distribution of patch lengths of each variant, on one axis of lengths.
fn lengths(results: &Facts) -> Vec<Value> {
    // As far as the longest variant's 99.5 %; what is longer is counted into the last bar.
    let reach = |v: &Variant| {
        let total: f64 = v.patch_lengths.iter().map(|(_, count)| count).sum();
        let mut seen = 0.0;
        let cut = v.patch_lengths.iter().find(|(_, count)| {
            seen += count;
            seen >= 0.995 * total
        });
        cut.map_or(0, |(length, _)| *length)
    };
    let longest = results.variants.iter().map(reach).max().unwrap_or(0).clamp(1, 256);
    let chart = |v: &Variant| {
        let total: f64 = v.patch_lengths.iter().map(|(_, count)| count).sum();
        let mut shares = vec![0.0; longest];
        for (length, count) in v.patch_lengths.iter().filter(|(length, _)| *length > 0) {
            shares[(length - 1).min(longest - 1)] += count / total;
        }
        let open_ended = v.patch_lengths.iter().any(|(length, _)| *length > longest);
        let bytes: f64 = v.patch_lengths.iter().map(|(n, count)| *n as f64 * count).sum();
        // Of bytes, not of patches: a few long patches can hold most of a text.
        let share = |within: &dyn Fn(f64) -> bool| {
            let patches = v.patch_lengths.iter().map(|(n, count)| (*n as f64, count));
            let held: f64 = patches.filter(|(n, _)| within(*n)).map(|(n, count)| n * count).sum();
            format!("{:.1} %", 100.0 * held / bytes)
        };
        let title = format!("Patch lengths of {}", v.name);
        let svg = svg::histogram(
            &format!("lengths-{}", v.index),
            &title,
            look(v),
            &shares,
            open_ended,
            v.bytes_per_patch,
        )?;
        Some(context! {
            variant => named(v),
            svg => safe(svg),
            mean => v.bytes_per_patch.map(|m| format!("{m:.2}")),
            single => (bytes > 0.0).then(|| share(&|n| n == 1.0)),
            long => v.bytes_per_patch.filter(|_| bytes > 0.0).map(|m| share(&|n| n > 4.0 * m)),
            longest => v.patch_lengths.iter().rev().find(|(_, count)| *count > 0.0).map(|(length, _)| *length),
        })
    };
    results.variants.iter().filter_map(chart).collect()
}

/// Sample texts group by group, each under every variant; variants that show the same share a line.
fn samples(results: &Facts, samples: &BTreeMap<String, Vec<Sample>>) -> Value {
    let of_variant = || {
        let have = results.variants.iter().filter_map(|v| Some((v, samples.get(&v.name)?)));
        have.flat_map(|(v, list)| list.iter().map(move |s| (v, s)))
    };
    let worth = |s: &Sample| !s.bytes.is_empty() && (s.starts.is_some() || s.entropies.is_some());
    // The groups in which there is something to see.
    let mut texts: Vec<&Sample> = Vec::new();
    for (_, sample) in of_variant().filter(|(_, s)| worth(s)) {
        if !texts.iter().any(|t| t.same_text(sample)) {
            texts.push(sample);
        }
    }
    let highest = of_variant().filter_map(|(_, s)| s.entropies.as_ref()).flatten().copied();
    let highest = highest.filter(|e| e.is_finite()).fold(0.0, f32::max);
    let top = if highest > 0.0 { (highest * 2.0).ceil() / 2.0 } else { 0.0 };
    let text = |sample: &&Sample| {
        let same = || of_variant().filter(|(_, s)| s.same_text(sample));
        let lender = same().find(|(_, s)| s.entropies.is_some());
        let mut shown: Vec<(Vec<&Variant>, &Sample, Option<&Variant>)> = Vec::new();
        for (variant, own) in same() {
            let borrowed =
                if own.entropies.is_none() { lender.map(|(from, _)| from) } else { None };
            let alike = |(_, other, _): &&mut (Vec<&Variant>, &Sample, Option<&Variant>)| {
                other.starts == own.starts && other.entropies == own.entropies
            };
            match shown.iter_mut().find(alike) {
                Some((variants, _, _)) => variants.push(variant),
                None => shown.push((vec![variant], own, borrowed)),
            }
        }
        let block = |(variants, own, borrowed): (Vec<&Variant>, &Sample, Option<&Variant>)| {
            let entropies =
                own.entropies.as_ref().or(lender.and_then(|(_, s)| s.entropies.as_ref()));
            let starts = own.starts.as_deref().unwrap_or(&[]);
            let all = variants.len() > 1 && variants.len() == results.variants.len();
            context! {
                all => all.then_some(variants.len()),
                variants => variants.iter().map(|v| named(v)).collect::<Vec<_>>(),
                patches => own.starts.as_ref().map(Vec::len),
                mean => own.mean_patch().map(|m| format!("{m:.1}")),
                borrowed => borrowed.map(|v| v.name.as_str()),
                shaded => entropies.is_some(),
                html => safe(sample::html(&own.bytes, starts, entropies.map(Vec::as_slice), top)),
            }
        };
        context! {
            group => sample.group.as_deref().unwrap_or("sample"),
            row => sample.row,
            bytes => sample.bytes.len(),
            blocks => shown.into_iter().map(block).collect::<Vec<_>>(),
        }
    };
    context! {
        texts => texts.iter().map(text).collect::<Vec<_>>(),
        top => (top > 0.0).then(|| format!("{top}")),
        shades => (0..SHADES).collect::<Vec<_>>(),
    }
}

/// A table of what variants have by name.
fn by_name(table: ByName) -> Value {
    let row = |(v, cells): (&Variant, Vec<String>)| {
        let cells: Vec<String> = cells.iter().map(|cell| minus(cell)).collect();
        context! { variant => named(v), cells => cells }
    };
    context! { names => table.names, rows => table.rows.into_iter().map(row).collect::<Vec<_>>() }
}

/// FLOPs per byte by node, a stacked bar for each variant.
fn flops(results: &Facts) -> Value {
    let mut totals: Vec<(&String, f64)> = Vec::new();
    for (node, flops) in results.variants.iter().flat_map(|v| &v.flops_by_node) {
        match totals.iter_mut().find(|(name, _)| *name == node) {
            Some((_, most)) => *most = most.max(*flops),
            None => totals.push((node, *flops)),
        }
    }
    totals.retain(|(_, most)| *most > 0.0);
    let mut dearest: Vec<(&String, f64)> = totals.clone();
    dearest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let cheap = dearest.len() > NODE_COLOURS;
    dearest.truncate(if cheap { NODE_COLOURS - 1 } else { NODE_COLOURS });
    // In the bars nodes keep the order in which they are listed, the cheap rest last.
    let own: Vec<&String> =
        totals.iter().map(|(n, _)| *n).filter(|n| dearest.iter().any(|(d, _)| d == n)).collect();
    let total = |v: &Variant| v.flops_by_node.iter().map(|(_, f)| f).sum::<f64>();
    let full = results.variants.iter().map(total).fold(0.0, f64::max);
    let bar = |v: &Variant| {
        let of = |node: &String| {
            v.flops_by_node.iter().find(|(n, _)| n == node).map_or(0.0, |(_, f)| *f)
        };
        let part = |i: usize, name: &str, length: f64| {
            let class = format!("n n{i}");
            Part { class, title: format!("{name}: {} MFLOP per byte", mega(length)), length }
        };
        let mut parts: Vec<Part> = own.iter().enumerate().map(|(i, n)| part(i, n, of(n))).collect();
        let rest = total(v) - parts.iter().map(|p| p.length).sum::<f64>();
        if cheap {
            parts.push(part(NODE_COLOURS - 1, "other nodes", rest.max(0.0)));
        }
        parts.retain(|p| p.length > 0.0);
        Bar { look: look(v), name: v.name.clone(), value: mega(total(v)), parts }
    };
    let bars: Vec<Bar> =
        results.variants.iter().filter(|v| !v.flops_by_node.is_empty()).map(bar).collect();
    let described: Vec<String> = bars
        .iter()
        .map(|b| {
            format!(
                "{}: {}",
                b.name,
                b.parts.iter().map(|p| p.title.as_str()).collect::<Vec<_>>().join(", ")
            )
        })
        .collect();
    // As wide as the text below it on a large screen, and yet readable on a small one.
    let width = 560.0 + 4.0 * bars.iter().map(|b| b.name.width()).max().unwrap_or(0).min(20) as f64;
    let svg =
        svg::bars("flops", "MFLOP per byte by node", &described.join("; "), width, full, &bars);
    let mut legend: Vec<&str> = own.iter().map(|n| n.as_str()).collect();
    if cheap {
        legend.push("other nodes");
    }
    context! {
        svg => svg.map(safe),
        legend => legend.iter().enumerate().map(|(i, name)| context! { i => i, name => *name }).collect::<Vec<_>>(),
    }
}

/// What nodes found before training, thresholds and vocabularies, and matched patch sizes.
fn prepared(results: &Facts) -> Value {
    let mut keys: Vec<&String> = Vec::new();
    let rows = || results.variants.iter().flat_map(|v| v.prepared.iter().map(move |p| (v, p)));
    for (key, _) in rows().flat_map(|(_, found)| &found.values) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let row = |(v, found): (&Variant, &Found)| {
        let cell = |key: &&String| {
            let value = found.values.iter().find(|(k, _)| k == *key);
            // Lists and tables of numbers can be long; the file has them whole.
            value.map_or_else(|| "–".to_owned(), |(_, v)| svg::shortened(v, 60))
        };
        context! {
            variant => named(v),
            seed => found.seed.as_deref(),
            node => found.node.as_str(),
            cells => keys.iter().map(cell).collect::<Vec<_>>(),
        }
    };
    let seeds = rows().any(|(_, found)| found.seed.is_some());
    context! { seeds => seeds, keys => keys.iter().map(|k| k.replace('_', " ")).collect::<Vec<_>>(), rows => rows().map(row).collect::<Vec<_>>() }
}
