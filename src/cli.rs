//! Arguments, and what each command prints. Exit codes: 0 done, 1 failed, 2 wrong arguments, 4 a
//! regression, 5 not certified, 130 interrupted.

use crate::bench;
use crate::certify;
use crate::compress;
use crate::engine::{Engine, Pipeline, Variants};
use crate::generate;
use crate::output::{Failure, color, say};
use crate::regress::{self, Regress};
use blt_graph::diagnostic::nearest;
use blt_graph::run::store::Store;
use blt_graph::run::{Resume, RunReport, choose_variants};
use blt_graph::{PipelineSpec, Plan, StepError, check_all, describe, merge_same, registry};
use blt_report::{check_report, progress, write_report};
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde_json::Value;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Typed dataflow pipelines for Byte Latent Transformers.
#[derive(Parser)]
#[command(
    name = "blt-run",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// List the nodes, or print one node's parameters, ports and example.
    Nodes { name: Option<String> },
    /// List the steps, or print one step's parameters and example.
    Steps { name: Option<String> },
    /// Check all variants of a pipeline; opens no data.
    Check {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        variants: Variants,
    },
    /// Print the checked graph of each variant: nodes, wires, types, widths.
    Graph {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        variants: Variants,
    },
    /// Measure how fast a pipeline trains, evaluates and patches, and where the time goes.
    Bench(bench::Bench),
    /// Try whether a pipeline's bits per byte are what they say; exits with 5 if they are not.
    Certify(certify::Certify),
    /// Write any file in the size that a model predicts, by arithmetic coding.
    Compress(compress::Compress),
    /// Write the file that was compressed.
    Decompress(compress::Compress),
    /// Write text with a model, going on from a prompt.
    Generate(generate::Generate),
    /// Write the report of a finished run again.
    Report {
        /// A run directory.
        run: PathBuf,
    },
    /// Run a pipeline and compare its numbers with a baseline; exits with 4 if a number moved.
    Regress(Regress),
    /// List or remove stored steps, which later runs use again.
    Store {
        #[command(subcommand)]
        action: StoreAction,
        /// The folder of runs.
        #[arg(long, default_value = "runs", global = true)]
        runs: PathBuf,
        /// Where finished steps are stored; RUNS/.store if left out.
        #[arg(long, global = true)]
        store: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum StoreAction {
    /// Print a line for each stored step.
    List,
    /// Remove stored steps that no process uses.
    Clean {
        /// Remove only what interrupted runs left.
        #[arg(long)]
        partial: bool,
    },
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    pipeline: Pipeline,
    #[command(flatten)]
    variants: Variants,
    /// Where finished steps are stored; RUNS/.store if left out.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Run so many variants at once, each on its share of the threads; changes no number.
    #[arg(long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    /// Continue in the run directory that was interrupted. (Interrupted steps continue in any
    /// case.)
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Discard what interrupted steps left, and start them again.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    engine: Engine,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    main_from(std::env::args_os())
}

/// Runs a command line; its first word is the program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(message) = args.get(1).and_then(|first| mistyped(&first.to_string_lossy())) {
        progress::line(&message);
        return ExitCode::from(2);
    }
    let cli = Cli::parse_from(args);
    let done = match cli.command {
        None => run(&cli.run),
        Some(Command::Compress(args)) => compress::compress(&args),
        Some(Command::Decompress(args)) => compress::decompress(&args),
        Some(Command::Certify(args)) => return certify::certify(&args),
        Some(Command::Regress(args)) => return regress::regress(&args),
        Some(Command::Nodes { name }) => help(name.as_deref(), "node"),
        Some(Command::Steps { name }) => help(name.as_deref(), "step"),
        Some(Command::Check { pipeline, variants }) => check(&pipeline, &variants),
        Some(Command::Graph { pipeline, variants }) => graph(&pipeline, &variants),
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Generate(args)) => generate::generate(&args),
        Some(Command::Report { run }) => render_report(&run),
        Some(Command::Store { action, runs, store }) => {
            kept(&Store::new(store.unwrap_or_else(|| runs.join(".store"))), &action)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A message for a first word that is nearly a command, which clap would take for the pipeline's
/// file.
fn mistyped(first: &str) -> Option<String> {
    let command = Cli::command();
    let commands = || command.get_subcommands().map(clap::Command::get_name).chain(["help"]);
    if first.starts_with('-') || commands().any(|name| name == first) || Path::new(first).exists() {
        return None;
    }
    let near = nearest(first, commands())?;
    let message = format!("`{first}` is neither a command nor a file; did you mean `{near}`?");
    Some(Failure::other(message).render().trim_end().to_owned())
}

/// Checks all variants, and gives those that are asked for.
fn plans(spec: &PipelineSpec, dir: &Path, variants: &Variants) -> Result<Vec<Plan>, Failure> {
    let plans = choose_variants(check_all(spec, dir)?, &variants.names, |plan| &plan.variant)?;
    let baseline = spec.report.get("baseline").and_then(Value::as_str);
    let (plans, messages) = merge_same(plans, baseline);
    messages.iter().for_each(|message| progress::line(message));
    Ok(plans)
}

fn check(pipeline: &Pipeline, variants: &Variants) -> Result<(), Failure> {
    let (spec, dir) = pipeline.read()?;
    check_report(&spec)?;
    for plan in plans(&spec, &dir, variants)? {
        for warning in &plan.warnings {
            progress::line(warning.render(color()).trim_end());
        }
        for index in 0..plan.steps().len() {
            let warnings = blt_plugins::untrained(&plan, index)?;
            warnings.iter().for_each(|warning| progress::line(warning));
        }
        let steps: Vec<&str> = plan.steps().iter().map(|s| s.entry.name).collect();
        let (variant, seed, nodes) = (&plan.variant, plan.seed, plan.nodes().len());
        say(&format!("{variant}, seed {seed}: {nodes} nodes, steps {}: ok", steps.join(", ")))?;
    }
    Ok(())
}

fn graph(pipeline: &Pipeline, variants: &Variants) -> Result<(), Failure> {
    let (spec, dir) = pipeline.read()?;
    for plan in plans(&spec, &dir, variants)? {
        say(&describe(&plan))?;
    }
    Ok(())
}

fn help(name: Option<&str>, kind: &str) -> Result<(), Failure> {
    if let Some(name) = name {
        return Ok(say(blt_graph::help(kind, name)?.trim_end())?);
    }
    let summary = |doc: String| doc.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let entries: Vec<(&str, String)> = match kind {
        "node" => registry::nodes().into_iter().map(|e| (e.name, summary(e.doc()))).collect(),
        _ => registry::steps().into_iter().map(|e| (e.name, summary(e.doc()))).collect(),
    };
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, summary) in entries {
        say(&format!("{name:width$}  {summary}"))?;
    }
    let ports = if kind == "node" { ", ports" } else { "" };
    Ok(say(&format!("\n`blt-run {kind}s NAME` prints parameters{ports} and an example."))?)
}

fn kept(store: &Store, action: &StoreAction) -> Result<(), Failure> {
    match action {
        StoreAction::List => {
            for entry in store.list()? {
                let state = if entry.partial { "interrupted" } else { "finished" };
                let mib = entry.bytes as f64 / (1 << 20) as f64;
                let (key, created, step, made_by) =
                    (&entry.key, &entry.created, &entry.step, &entry.made_by);
                let goals = entry.goals.join(", ");
                say(&format!(
                    "{key}  {state:11}  {created}  {mib:8.1} MiB  {step} {goals}  ({made_by})"
                ))?;
            }
        }
        StoreAction::Clean { partial } => {
            let cleaned = store.clean(|entry| !partial || entry.partial)?;
            let (removed, in_use) = (cleaned.removed.len(), cleaned.in_use.len());
            say(&format!("removed {removed} kept steps; {in_use} are in use"))?;
        }
    }
    Ok(())
}

fn run(args: &Run) -> Result<(), Failure> {
    let (spec, dir) = args.engine.apply(args.pipeline.read()?)?;
    check_report(&spec)?;
    let mut options = args.engine.options();
    options.store_dir = args.store.clone();
    options.jobs = args.jobs.get();
    options.variants = args.variants.names.clone();
    options.resume = match (args.resume, args.fresh) {
        (true, _) => Resume::Run,
        (_, true) => Resume::Fresh,
        _ => Resume::Steps,
    };
    let report = args.engine.run(&spec, dir, options, |report| finish(report, &spec))?;
    Ok(say(&left_behind(&report))?)
}

/// Where to look: the report, what steps wrote for others, and on the last line, for scripts, the
/// run's directory alone.
fn left_behind(report: &RunReport) -> String {
    let dir = report.dir.path.display();
    let mut lines = vec![format!("report   {dir}/report.html")];
    if report
        .plans
        .iter()
        .flat_map(|plan| &plan.steps)
        .any(|step| step.dir.join("outputs").is_dir())
    {
        lines.push(format!("outputs  {dir}/outputs"));
    }
    lines.push(dir.to_string());
    lines.join("\n")
}

/// Writes results.json and report.html, and prints the closing table.
fn finish(report: &RunReport, spec: &PipelineSpec) -> Result<(), StepError> {
    Ok(say(&blt_report::finish(report, spec)?.table())?)
}

fn render_report(dir: &Path) -> Result<(), Failure> {
    Ok(say(&write_report(dir)?.display().to_string())?)
}
