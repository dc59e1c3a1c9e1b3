//! Arguments, and what each command prints. Exit codes: 0 done, 1 failed, 2 wrong arguments, 4 a
//! regression, 130 interrupted.

use crate::bench;
use crate::regress::{self, Regress};
use blt_graph::diagnostic::nearest;
use blt_graph::run::store::Store;
use blt_graph::run::{Resume, RunError, RunOptions, RunReport, Runner, choose_variants};
use blt_graph::{Diagnostics, PipelineSpec, Plan, StepError, check_all, describe, registry};
use blt_report::{check_report, progress, write_report};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// List the nodes, or print one's parameters, ports and example.
    Nodes { name: Option<String> },
    /// List the steps, or print one's parameters and example.
    Steps { name: Option<String> },
    /// Check a pipeline in all its variants; opens no data.
    Check {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        variants: Variants,
    },
    /// Print the graph of each variant: nodes, wires, and what is known of them before data is
    /// read.
    Graph {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        variants: Variants,
    },
    /// Measure how fast a pipeline trains, evaluates and patches, and where the time goes.
    Bench(bench::Bench),
    /// Write the report of a finished run again.
    Report {
        /// A run directory.
        run: PathBuf,
    },
    /// Run a pipeline and compare its numbers with a baseline's: exit 4 where one is not what it
    /// was.
    Regress(Regress),
    /// What finished steps are kept, to be used again.
    Store {
        #[command(subcommand)]
        action: StoreAction,
        /// Where runs go.
        #[arg(long, default_value = "runs", global = true)]
        runs: PathBuf,
        /// Where finished steps are kept; RUNS/.store where left out.
        #[arg(long, global = true)]
        store: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum StoreAction {
    /// A line for each kept step.
    List,
    /// Remove kept steps (all, or those not finished).
    Clean {
        /// Only what interrupted runs left.
        #[arg(long)]
        partial: bool,
    },
}

#[derive(Args)]
pub struct Pipeline {
    /// The pipeline's YAML file.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Set a parameter, as `graph.latent.layers=6` or `seed=7`; may be given again.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

/// Which variants of a pipeline.
#[derive(Args)]
pub struct Variants {
    /// Only these variants; may be given again.
    #[arg(long = "variant", value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    pipeline: Pipeline,
    #[command(flatten)]
    variants: Variants,
    /// Where finished steps are kept; RUNS/.store where left out.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Go on in the run directory that was interrupted. (Interrupted steps go on in any case.)
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    /// Begin interrupted steps anew.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    engine: Engine,
}

/// Where and on what a pipeline runs.
#[derive(Args)]
pub struct Engine {
    /// Where runs go.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Threads; changes no number. All processors where left out.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    #[arg(long)]
    device: Option<String>,
    /// `fused`, or `reference`: operations composed of dfdx's own, which a GPU computes in any
    /// case.
    #[arg(long)]
    path: Option<String>,
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
        None => return run(&cli.run),
        Some(Command::Regress(args)) => return regress::regress(&args),
        Some(Command::Nodes { name }) => help(name.as_deref(), "node"),
        Some(Command::Steps { name }) => help(name.as_deref(), "step"),
        Some(Command::Check { pipeline, variants }) => pipeline.read().and_then(|(spec, dir)| {
            check_report(&spec).map_err(rendered).and_then(|()| check(&spec, &dir, &variants))
        }),
        Some(Command::Graph { pipeline, variants }) => {
            pipeline.read().and_then(|(spec, dir)| graph(&spec, &dir, &variants))
        }
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Report { run }) => render_report(&run),
        Some(Command::Store { action, runs, store }) => {
            kept(&Store::new(store.unwrap_or_else(|| runs.join(".store"))), &action)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message),
    }
}

/// What to say of a first word that is a command's with a slip in it: clap would take it for the
/// pipeline's file.
fn mistyped(first: &str) -> Option<String> {
    let command = Cli::command();
    let commands = || command.get_subcommands().map(clap::Command::get_name).chain(["help"]);
    if first.starts_with('-') || commands().any(|name| name == first) || Path::new(first).exists() {
        return None;
    }
    let near = nearest(first, commands())?;
    Some(
        plain(format!("`{first}` is neither a command nor a file; did you mean `{near}`?"))
            .trim_end()
            .to_owned(),
    )
}

pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn fail(message: &str) -> ExitCode {
    progress::line(message.trim_end());
    ExitCode::FAILURE
}

/// Prints to standard output. That nobody reads on (`| head`) is no failure; that it cannot be kept
/// (`> full/disk`) is.
pub fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(std::io::Error::new(
            error.kind(),
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

pub fn rendered(diagnostics: Diagnostics) -> String {
    diagnostics.render(color())
}

pub fn plain(error: impl std::fmt::Display) -> String {
    blt_graph::Diagnostic::error(error.to_string()).render(color())
}

impl Pipeline {
    /// The pipeline with its overrides, and the folder that its paths start from.
    pub fn read(&self) -> Result<(PipelineSpec, PathBuf), String> {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        let mut spec = PipelineSpec::read(file).map_err(rendered)?;
        for assignment in &self.set {
            spec = spec.set(assignment).map_err(rendered)?;
        }
        let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((spec, dir.to_owned()))
    }

    /// What the file is called, for reports on a pipeline that may not be readable.
    pub fn name(&self) -> String {
        self.file
            .as_deref()
            .and_then(Path::file_stem)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

impl Engine {
    /// The pipeline on the device and path that the arguments name.
    pub fn apply(
        &self,
        (mut spec, dir): (PipelineSpec, PathBuf),
    ) -> Result<(PipelineSpec, PathBuf), String> {
        for (key, value) in [("device", &self.device), ("path", &self.path)] {
            if let Some(value) = value {
                spec = spec.set(&format!("{key}={value}")).map_err(rendered)?;
            }
        }
        Ok((spec, dir))
    }

    pub fn options(&self) -> RunOptions {
        let mut options = RunOptions::new(build_id());
        options.runs_dir = self.runs.clone();
        options.threads = self.threads.map_or(options.threads, NonZeroUsize::get);
        options
    }

    /// Runs a pipeline with progress on standard error; Ctrl-C saves a checkpoint and stops, a
    /// second one stops at once.
    pub fn run(
        &self,
        spec: &PipelineSpec,
        dir: PathBuf,
        options: RunOptions,
        finish: impl FnOnce(&RunReport) -> Result<(), StepError>,
    ) -> Result<RunReport, RunError> {
        // Fails where the process already has a pool (in a test); results do not depend on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global();
        let interrupt = Arc::new(AtomicBool::new(false));
        let flag = interrupt.clone();
        let handler = move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            progress::line("saving a checkpoint and stopping; once more to stop at once");
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will not save a checkpoint: {error}");
        }
        let progress = progress::for_stderr();
        let runner = Runner::new(spec, dir, options).progress(&*progress).interrupt(interrupt);
        runner.run_with(finish)
    }
}

/// Checks all variants, and gives those that are asked for.
fn plans(spec: &PipelineSpec, dir: &Path, variants: &Variants) -> Result<Vec<Plan>, String> {
    let plans = check_all(spec, dir).map_err(rendered)?;
    choose_variants(plans, &variants.names, |plan| &plan.variant).map_err(rendered)
}

fn check(spec: &PipelineSpec, dir: &Path, variants: &Variants) -> Result<(), String> {
    for plan in plans(spec, dir, variants)? {
        for warning in &plan.warnings {
            progress::line(warning.render(color()).trim_end());
        }
        for index in 0..plan.steps().len() {
            let warnings =
                blt_plugins::untrained(&plan, index).map_err(|error| error.render(color()))?;
            warnings.iter().for_each(|warning| progress::line(warning));
        }
        let steps: Vec<&str> = plan.steps().iter().map(|s| s.entry.name).collect();
        let (variant, seed, nodes) = (&plan.variant, plan.seed, plan.nodes().len());
        say(&format!("{variant}, seed {seed}: {nodes} nodes, steps {}: ok", steps.join(", ")))
            .map_err(plain)?;
    }
    Ok(())
}

fn graph(spec: &PipelineSpec, dir: &Path, variants: &Variants) -> Result<(), String> {
    for plan in plans(spec, dir, variants)? {
        say(&describe(&plan)).map_err(plain)?;
    }
    Ok(())
}

fn help(name: Option<&str>, kind: &str) -> Result<(), String> {
    if let Some(name) = name {
        return say(blt_graph::help(kind, name).map_err(|d| d.render(color()))?.trim_end())
            .map_err(plain);
    }
    let summary = |doc: String| doc.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let entries: Vec<(&str, String)> = match kind {
        "node" => registry::nodes().into_iter().map(|e| (e.name, summary(e.doc()))).collect(),
        _ => registry::steps().into_iter().map(|e| (e.name, summary(e.doc()))).collect(),
    };
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, summary) in entries {
        say(&format!("{name:width$}  {summary}")).map_err(plain)?;
    }
    let ports = if kind == "node" { ", ports" } else { "" };
    say(&format!("\n`blt-run {kind}s NAME` prints parameters{ports} and an example."))
        .map_err(plain)
}

fn kept(store: &Store, action: &StoreAction) -> Result<(), String> {
    match action {
        StoreAction::List => {
            for entry in store.list().map_err(plain)? {
                let state = if entry.partial { "interrupted" } else { "finished" };
                let mib = entry.bytes as f64 / (1 << 20) as f64;
                let (key, created, step, made_by) =
                    (&entry.key, &entry.created, &entry.step, &entry.made_by);
                let goals = entry.goals.join(", ");
                say(&format!(
                    "{key}  {state:11}  {created}  {mib:8.1} MiB  {step} {goals}  ({made_by})"
                ))
                .map_err(plain)?;
            }
        }
        StoreAction::Clean { partial } => {
            let cleaned = store.clean(|entry| !partial || entry.partial).map_err(plain)?;
            let (removed, in_use) = (cleaned.removed.len(), cleaned.in_use.len());
            say(&format!("removed {removed} kept steps; {in_use} are in use")).map_err(plain)?;
        }
    }
    Ok(())
}

/// Identifies this program for the store's keys: its version and the hash of its own file, plugins
/// included.
pub fn build_id() -> String {
    // Piece by piece: with its debug information, the file is larger than all that most runs need
    // of memory.
    let hash = std::env::current_exe().and_then(|path| {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok(hasher.finalize().to_hex().to_string())
    });
    format!("{} {}", env!("CARGO_PKG_VERSION"), hash.unwrap_or_default())
}

fn run(args: &Run) -> ExitCode {
    let read = args.pipeline.read().and_then(|read| args.engine.apply(read));
    let (spec, dir) = match read {
        Ok(read) => read,
        Err(message) => return fail(&message),
    };
    if let Err(diagnostics) = check_report(&spec) {
        return fail(&rendered(diagnostics));
    }
    let mut options = args.engine.options();
    options.store_dir = args.store.clone();
    options.variants = args.variants.names.clone();
    options.resume = match (args.resume, args.fresh) {
        (true, _) => Resume::Run,
        (_, true) => Resume::Fresh,
        _ => Resume::Steps,
    };
    let finished = args.engine.run(&spec, dir, options, |report| finish(report, &spec));
    match finished {
        Ok(report) => match say(&left_behind(&report)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&plain(error)),
        },
        Err(error) if error.interrupted() => interrupted(&error.render(color())),
        Err(error) => fail(&error.render(color())),
    }
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

pub fn interrupted(message: &str) -> ExitCode {
    progress::line(message);
    ExitCode::from(130)
}

/// Writes results.json and report.html, and prints the closing table.
fn finish(report: &RunReport, spec: &PipelineSpec) -> Result<(), StepError> {
    Ok(say(&blt_report::finish(report, spec)?.table())?)
}

fn render_report(dir: &Path) -> Result<(), String> {
    let path = write_report(dir).map_err(plain)?;
    say(&path.display().to_string()).map_err(plain)
}
