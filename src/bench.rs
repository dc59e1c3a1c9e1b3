//! `blt-run bench`: how fast a pipeline's goals are trained, evaluated and patched, and where the
//! time goes.

use crate::engine::{Pipeline, Variants, build_id};
use crate::output::{Failure, say};
use blt_graph::PipelineSpec;
use blt_graph::run::{RunOptions, Runner, choose_variants};
use blt_graph::spec::StepSpec;
use blt_report::html::machine;
use blt_report::progress;
use blt_report::results::{BenchResult, PhaseRate, StepResult};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::fmt::Write;

#[derive(Args)]
pub struct Bench {
    #[command(flatten)]
    pipeline: Pipeline,
    #[command(flatten)]
    variants: Variants,
    /// Measure only this goal; if left out, all that the pipeline trains, evaluates and scores.
    #[arg(long)]
    goal: Option<String>,
    /// Timed repetitions of each phase; the median counts.
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Repetitions before them, which are not timed.
    #[arg(long, default_value_t = 3)]
    warmup: usize,
    /// Different batches, which the repetitions take in turn.
    #[arg(long, default_value_t = 4)]
    batches: usize,
    /// Threads; all processors if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    #[arg(long)]
    device: Option<String>,
    /// The compute path: `fused` or `reference`.
    #[arg(long)]
    path: Option<String>,
    /// A table, or the numbers.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Measures every variant, and prints.
pub fn bench(args: &Bench) -> Result<(), Failure> {
    let (mut spec, dir) = args.pipeline.read()?;
    for (key, value) in [("device", &args.device), ("path", &args.path)] {
        if let Some(value) = value {
            spec = spec.set(&format!("{key}={value}"))?;
        }
    }
    let variants = spec.variants()?;
    let variants = choose_variants(variants, &args.variants.names, |variant| &variant.name)?;
    let place = tempfile::tempdir()
        .map_err(|e| Failure::other(format!("cannot make a folder for the bench: {e}")))?;
    let mut options = RunOptions::new(build_id());
    options.runs_dir = place.path().to_owned();
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
    }
    let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
    let progress = progress::for_stderr();
    let mut found: Vec<(String, BenchResult)> = Vec::new();
    for variant in variants {
        let mut spec = variant.spec;
        spec.run = goals(&spec, args);
        if spec.run.is_empty() {
            let what = match &args.goal {
                Some(goal) => format!("no step of the pipeline has the goal `{goal}`"),
                None => "the pipeline has no step with a goal".to_owned(),
            };
            return Err(Failure::other(what));
        }
        let goals: Vec<&str> =
            spec.run.iter().filter_map(|step| step.params["goal"].as_str()).collect();
        spec.graph = spec.graph.needed(&goals);
        spec.seeds.truncate(1);
        let report = Runner::new(&spec, &dir, options.clone()).progress(&*progress).run()?;
        for step in report.plans.iter().flat_map(|plan| &plan.steps) {
            // A goal that variants share is measured once, and reported once.
            if step.reused {
                continue;
            }
            let result = StepResult::read(&step.dir)?;
            if let Some(StepResult::Bench(measured)) = result {
                found.push((variant.name.clone(), measured));
            }
        }
    }
    let text = match args.format {
        Format::Text => found
            .iter()
            .map(|(variant, measured)| table(variant, measured))
            .collect::<Vec<_>>()
            .join("\n"),
        Format::Json => {
            let goals: Vec<Value> = found
                .iter()
                .map(|(variant, measured)| {
                    let measured = StepResult::Bench(measured.clone());
                    json!({ "variant": variant, "measured": measured })
                })
                .collect();
            let whole =
                json!({ "schema": 1, "pipeline": spec.name, "machine": machine(), "goals": goals });
            serde_json::to_string_pretty(&whole)?
        }
    };
    Ok(say(text.trim_end())?)
}

/// A bench step for each goal of the pipeline's own steps, with the sizes of those steps.
fn goals(spec: &PipelineSpec, args: &Bench) -> Vec<StepSpec> {
    let mut benches: Vec<Map<String, Value>> = Vec::new();
    for step in &spec.run {
        let Some(goal) = step.params.get("goal").and_then(Value::as_str) else { continue };
        if args.goal.as_deref().is_some_and(|only| only != goal) {
            continue;
        }
        let index = benches.iter().position(|bench| bench["goal"] == goal).unwrap_or_else(|| {
            let mut bench = Map::new();
            bench.insert("goal".to_owned(), goal.into());
            bench.insert("train".to_owned(), false.into());
            for (key, value) in
                [("repeats", args.repeats), ("warmup", args.warmup), ("batches", args.batches)]
            {
                bench.insert(key.to_owned(), value.into());
            }
            benches.push(bench);
            benches.len() - 1
        });
        let bench = &mut benches[index];
        if step.step == "train" {
            bench.insert("train".to_owned(), true.into());
        }
        let copied: &[(&str, &str)] = match step.step.as_str() {
            "train" => &[
                ("batch_bytes", "batch_bytes"),
                ("accumulate", "accumulate"),
                ("recompute", "recompute"),
            ],
            _ => &[("batch_bytes", "evaluation_batch_bytes")],
        };
        for (from, to) in copied {
            if let Some(value) = step.params.get(*from) {
                bench.insert((*to).to_owned(), value.clone());
            }
        }
    }
    benches.into_iter().map(|params| StepSpec { step: "bench".to_owned(), params }).collect()
}

fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        r if r >= 1e9 => format!("{:.2} GB/s", r / 1e9),
        r if r >= 1e6 => format!("{:.2} MB/s", r / 1e6),
        r => format!("{:.1} kB/s", r / 1e3),
    }
}

fn table(variant: &str, m: &BenchResult) -> String {
    let mut out = String::new();
    let gflops = m.machine_flops_per_second / 1e9;
    let (goal, path, device, simd, threads) = (&m.goal, &m.path, &m.device, &m.simd, m.threads);
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "{variant}: {goal}, {} parameters; {path} on {device}, {simd}, {threads} threads; matrix products reach {gflops:.0} GFLOP/s",
        m.parameters
    );
    let phases = [
        ("training", m.training.as_ref()),
        ("evaluation", Some(&m.evaluation)),
        ("patching", m.patching.as_ref()),
    ];
    for (name, phase) in phases.into_iter().filter_map(|(name, phase)| Some((name, phase?))) {
        let PhaseRate {
            bytes_per_second, slowest_bytes_per_second, fastest_bytes_per_second, ..
        } = *phase;
        let _ = writeln!(
            out,
            "  {name:<12}{:>12}  ({} to {}), {:.2} MFLOP/byte, {:.0} GFLOP/s, {:.0} % of the machine",
            rate(bytes_per_second),
            rate(slowest_bytes_per_second),
            rate(fastest_bytes_per_second),
            phase.flops_per_byte / 1e6,
            phase.flops_per_second / 1e9,
            100.0 * phase.share_of_machine
        );
    }
    for (name, phase) in phases.into_iter().filter_map(|(name, phase)| Some((name, phase?))) {
        let whole = phase.mean_seconds;
        let _ = writeln!(
            out,
            "  {name}, by node: ms forward, ms backward, share of {:.1} ms, GFLOP/s",
            1e3 * whole
        );
        let mut rest = whole;
        for node in &phase.nodes {
            let seconds = node.forward_seconds + node.backward_seconds;
            rest -= seconds;
            let gflops = if node.flops > 0.0 {
                format!("{:6.0}", node.flops / seconds / 1e9)
            } else {
                String::new()
            };
            let (forward, backward) = (1e3 * node.forward_seconds, 1e3 * node.backward_seconds);
            let share = 100.0 * seconds / whole;
            let line =
                format!("    {:<16}{forward:9.2} {backward:9.2} {share:5.1} % {gflops}", node.node);
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let _ = writeln!(
            out,
            "    {:<16}{:9.2} {:15.1} %",
            "(between)",
            1e3 * rest,
            100.0 * rest / whole
        );
    }
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    if let Some(memory) = &m.training_memory {
        let beyond = memory.beyond_bytes.map_or("unknown".to_owned(), mb);
        let own = mb(memory.parameters_and_moments_bytes);
        let _ = writeln!(
            out,
            "  memory      training takes {beyond} beyond parameters and moments ({own})"
        );
    }
    if let Some(peak) = m.peak_memory_bytes {
        let _ = writeln!(out, "  memory      {} resident at the peak", mb(peak));
    }
    out
}
