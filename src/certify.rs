//! `blt-run certify`: whether a pipeline's bits per byte are what they say.

use crate::engine::{Engine, Pipeline, Variants};
use crate::output::{Failure, say};
use blt_graph::run::choose_variants;
use blt_graph::spec::StepSpec;
use blt_graph::{PipelineSpec, Plan, StepError, check_all};
use blt_plugins::Certificate;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The exit code if a verdict is that something failed.
const NOT_CERTIFIED: u8 = 5;

#[derive(Args)]
pub struct Certify {
    #[command(flatten)]
    pipeline: Pipeline,
    #[command(flatten)]
    variants: Variants,
    /// Certify only this loss; if left out, all that the pipeline evaluates.
    #[arg(long)]
    goal: Option<String>,
    /// Where finished steps are stored; RUNS/.store if left out. Training steps that are there are
    /// not run again.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Text, or the certificates.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    engine: Engine,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Exit codes: 0 all is certified; 1 the run failed; 5 a verdict failed; 130 interrupted.
pub fn certify(args: &Certify) -> ExitCode {
    match certified(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_CERTIFIED),
        Err(failure) => failure.report(),
    }
}

/// Certifies every variant, and prints; whether everything passed.
fn certified(args: &Certify) -> Result<bool, Failure> {
    let (spec, dir) = args.engine.apply(args.pipeline.read()?)?;
    let plans = check_all(&spec, &dir).map_err(StepError::Document)?;
    let variants = choose_variants(spec.variants()?, &args.variants.names, |v| &v.name)?;
    let place = tempfile::tempdir()
        .map_err(|e| Failure::other(format!("cannot make a folder for the run: {e}")))?;
    let mut options = args.engine.options();
    options.store_dir = Some(args.store.clone().unwrap_or_else(|| options.runs_dir.join(".store")));
    // Only what the store keeps is of use later.
    options.runs_dir = place.path().to_owned();
    let mut all = Vec::new();
    for variant in variants {
        let mut spec = variant.spec;
        let plan = plans.iter().find(|plan| plan.variant == variant.name);
        spec.run = steps(&spec, plan, args.goal.as_deref())?;
        // What only other steps and other variants use is no mistake here.
        if let Some(plan) = plan {
            let needed = needed(plan, &spec.run)?;
            spec.graph.nodes.retain(|node| needed.contains(&node.name));
        }
        let mut found: Vec<(u64, Certificate)> = Vec::new();
        args.engine.run(&spec, dir.clone(), options.clone(), |report| {
            for run in &report.plans {
                for step in run.steps.iter().filter(|step| step.step == "certify") {
                    let text = std::fs::read(step.dir.join("certificate.json"))?;
                    found.push((run.plan.seed, serde_json::from_slice(&text)?));
                }
            }
            Ok(())
        })?;
        for (seed, certificate) in found {
            if let Format::Text = args.format {
                say(&text(&variant.name, seed, &certificate))?;
            }
            all.push((variant.name.clone(), seed, certificate));
        }
    }
    if let Format::Json = args.format {
        let all: Vec<Value> = all
            .iter()
            .map(|(variant, seed, certificate)| {
                json!({ "variant": variant, "seed": seed, "certificate": certificate })
            })
            .collect();
        let whole = json!({ "schema": 1, "pipeline": spec.name, "certificates": all });
        say(&serde_json::to_string_pretty(&whole)?)?;
    }
    Ok(all.iter().all(|(_, _, certificate)| certificate.holds()))
}

/// The steps that the model depends on, and a `certify` step for each `evaluate` step.
fn steps(
    spec: &PipelineSpec,
    plan: Option<&Plan>,
    goal: Option<&str>,
) -> Result<Vec<StepSpec>, StepError> {
    let planned = plan.map_or(&[][..], |plan| plan.steps());
    let trains = spec.run.iter().zip(planned).filter(|(_, step)| step.feeds_later_steps());
    let mut steps: Vec<StepSpec> = trains.map(|(step, _)| step.clone()).collect();
    let mut claims: Vec<Map<String, Value>> = Vec::new();
    let evaluations = spec.run.iter().filter(|step| step.step == "evaluate").map(|s| &s.params);
    for params in evaluations.filter(|p| goal.is_none_or(|goal| p["goal"] == goal)) {
        let copied = ["goal", "split", "source", "batch_bytes", "limit"];
        let copied = copied.iter().filter_map(|key| Some(((*key).to_owned(), params.get(*key)?)));
        let claim = copied.map(|(key, value)| (key, value.clone())).collect();
        if !claims.contains(&claim) {
            claims.push(claim);
        }
    }
    match (goal, claims.is_empty()) {
        (Some(goal), true) => claims.push(Map::from_iter([("goal".to_owned(), goal.into())])),
        (None, true) => {
            return Err(StepError::other("no step of the pipeline evaluates a loss")
                .help("name the loss: `--goal loss`"));
        }
        _ => {}
    }
    steps.extend(claims.into_iter().map(|params| StepSpec { step: "certify".to_owned(), params }));
    Ok(steps)
}

/// The nodes that `run` needs of the variant's. A wire that is wrong is an error of the run.
fn needed(plan: &Plan, run: &[StepSpec]) -> Result<BTreeSet<String>, StepError> {
    let goals = plan.steps().iter().filter(|step| step.feeds_later_steps()).flat_map(|s| &s.goals);
    let of_claims = run.iter().filter(|step| step.step == "certify");
    let of_claims =
        of_claims.flat_map(|step| ["goal", "source"].map(|key| step.params.get(key)?.as_str()));
    let goals: Vec<&str> = goals.map(String::as_str).chain(of_claims.flatten()).collect();
    let known: Vec<&str> = goals.into_iter().filter(|goal| plan.goal(goal).is_ok()).collect();
    Ok(plan.needs(&known)?.into_iter().map(|node| node.name.clone()).collect())
}

fn text(variant: &str, seed: u64, certificate: &Certificate) -> String {
    let Certificate { goal, source, portion, documents, bytes, bits, .. } = certificate;
    let bpb = certificate.bits_per_byte();
    let mut out = format!(
        "{variant}, seed {seed}: {goal}, {bpb:.4} bits per byte on the {portion} documents of {source} ({bytes} bytes in {documents} documents, {bits:.1} bits)\n"
    );
    for verdict in &certificate.verdicts {
        let word = if verdict.passed { "passed" } else { "FAILED" };
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {:<15}{word}  {}", verdict.name, verdict.found);
        let _ = writeln!(out, "  {:<15}        tried: {}", "", verdict.tried);
    }
    let failed = certificate.verdicts.iter().filter(|verdict| !verdict.passed);
    let failed: Vec<&str> = failed.map(|verdict| verdict.name.as_str()).collect();
    out += &match failed.is_empty() {
        true => "  certified".to_owned(),
        false => format!("  NOT CERTIFIED: {}", failed.join(", ")),
    };
    out
}
