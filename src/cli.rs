//! Arguments, and what each command prints. Exit codes: 0 done, 1 failed, 2 wrong arguments, 4 a
//! regression, 5 not certified, 130 interrupted.

use crate::bench;
use crate::certify;
use crate::check;
use crate::compress;
use crate::engine::{Engine, Pipeline, Variants};
use crate::generate;
use crate::output::{Failure, say};
use crate::regress::{self, Regress};
use blt_graph::diagnostic::nearest;
use blt_graph::run::store::{Cleaned, Store, StoreEntry, named};
use blt_graph::run::{Resume, RunOptions, RunReport, Runner, choose_variants};
use blt_graph::{
    Code, Drawing, PipelineSpec, Plan, StepError, check_all, codes, describe, explain, json_schema,
    keys_help, merge_same, registry,
};
use blt_report::{check_report, progress, report_schema, write_report};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde_json::Value;
use std::collections::BTreeSet;
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
    /// Check all variants of pipelines, and print every error; opens no data.
    Check(check::Check),
    /// Explain a pipeline: each value, and where it came from; or an error code such as BLT0203.
    ///
    /// Without an argument, lists all codes.
    Explain {
        /// A pipeline's YAML file, or a code.
        what: Option<String>,
        /// Set a value of the pipeline and its variants; see `blt-run --help`.
        #[arg(long = "set", value_name = "PATH=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        variants: Variants,
    },
    /// List the keys of a pipeline, or explain one: `report`, `grid`, `split`.
    Keys { name: Option<String> },
    /// Print the JSON Schema of a pipeline, for editors: all nodes and steps, plugins included.
    Schema,
    /// Print or draw the checked graph of each variant: nodes, wires, types, widths.
    ///
    /// A drawing is of one variant, the first or the one that `--variant` names, and says what the
    /// others change.
    Graph {
        #[command(flatten)]
        pipeline: Pipeline,
        #[command(flatten)]
        variants: Variants,
        /// As text, or as a drawing.
        #[arg(long, value_enum, default_value_t = GraphFormat::Text)]
        format: GraphFormat,
    },
    /// Print a script that completes commands and options in a shell.
    ///
    /// For bash: `blt-run completions bash > ~/.local/share/bash-completion/completions/blt-run`.
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print what a run would do: each step, and whether the store has its result already.
    ///
    /// It opens the data, as a run does before its first step, and trains nothing.
    Plan(Run),
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

/// How a graph is printed.
#[derive(Clone, Copy, ValueEnum)]
enum GraphFormat {
    /// Text, of each variant.
    Text,
    /// A Mermaid flowchart, for Markdown.
    Mermaid,
    /// A Graphviz digraph.
    Dot,
    /// An SVG document.
    Svg,
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
        /// Remove only what is older: `30d`, `12h`.
        #[arg(long, value_name = "AGE", value_parser = age)]
        older_than: Option<chrono::Duration>,
        /// Remove only what no run in the folder of runs has used.
        #[arg(long)]
        unnamed: bool,
        /// Print what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
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
        Some(Command::Check(args)) => {
            return check::check(&args).unwrap_or_else(|failure| failure.report());
        }
        Some(Command::Explain { what, set, variants }) => match what {
            Some(what) if code(&what).is_none() && !is_code(&what) => {
                explain_file(&Pipeline::new(what, set), &variants)
            }
            what => explain_code(what.as_deref()),
        },
        Some(Command::Keys { name }) => keys(name.as_deref()),
        Some(Command::Schema) => print_schema(),
        Some(Command::Graph { pipeline, variants, format }) => graph(&pipeline, &variants, format),
        Some(Command::Completions { shell }) => completions(shell),
        Some(Command::Plan(args)) => plan(&args),
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Generate(args)) => generate::generate(&args),
        Some(Command::Report { run }) => render_report(&run),
        Some(Command::Store { action, runs, store }) => {
            kept(&Store::new(store.unwrap_or_else(|| runs.join(".store"))), &runs, &action)
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

fn code(id: &str) -> Option<&'static Code> {
    codes().into_iter().find(|code| code.id.eq_ignore_ascii_case(id))
}

/// Whether `what` has the form of a code and is no file.
fn is_code(what: &str) -> bool {
    let digits = what.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let letters = what.len() - digits.len();
    letters > 1
        && digits.len() > 2
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !Path::new(what).exists()
}

/// Explains a code, or lists all.
fn explain_code(what: Option<&str>) -> Result<(), Failure> {
    let Some(what) = what else {
        for code in codes() {
            say(&format!("{}  {}", code.id, code.name()))?;
        }
        return Ok(say("\n`blt-run explain CODE` says what it means and what to do.")?);
    };
    let Some(code) = code(what) else {
        let meant = nearest(what, codes().iter().map(|code| code.id));
        let meant = meant.map(|id| format!("did you mean `{id}`?"));
        let meant = meant.unwrap_or("`blt-run explain` lists all".into());
        return Err(Failure::other(format!("no error has the code `{what}`; {meant}")));
    };
    Ok(say(&format!("{}: {}", code.id, code.text()))?)
}

/// Explains each variant with its first seed.
fn explain_file(pipeline: &Pipeline, variants: &Variants) -> Result<(), Failure> {
    let (spec, dir) = pipeline.read()?;
    let mut plans = plans(&spec, &dir, variants)?;
    plans.dedup_by(|next, last| next.variant == last.variant);
    let texts: Vec<String> = plans.iter().map(|plan| explain(&spec, plan)).collect();
    Ok(say(texts.join("---\n").trim_end())?)
}

fn keys(name: Option<&str>) -> Result<(), Failure> {
    say(keys_help(name, &report_schema())?.trim_end())?;
    if name.is_none() {
        say("\n`blt-run keys NAME` explains a key, such as `report`, `grid` or `split`.")?;
    }
    Ok(())
}

fn print_schema() -> Result<(), Failure> {
    Ok(say(&format!("{:#}", json_schema(&report_schema())))?)
}

fn graph(pipeline: &Pipeline, variants: &Variants, format: GraphFormat) -> Result<(), Failure> {
    let (spec, dir) = pipeline.read()?;
    let plans = plans(&spec, &dir, variants)?;
    let draw = |with: fn(&Drawing) -> String| -> String {
        plans.first().map_or_else(String::new, |plan| with(&Drawing::of(&spec, plan)))
    };
    let drawn = match format {
        GraphFormat::Text => plans.iter().map(describe).collect::<Vec<_>>().join("\n"),
        GraphFormat::Mermaid => draw(Drawing::mermaid),
        GraphFormat::Dot => draw(Drawing::dot),
        GraphFormat::Svg => draw(Drawing::svg),
    };
    Ok(say(drawn.strip_suffix('\n').unwrap_or(&drawn))?)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "blt-run", &mut script);
    Ok(say(String::from_utf8_lossy(&script).trim_end())?)
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

/// Reads an age: `30d`, `12h`, `90m`.
fn age(text: &str) -> Result<chrono::Duration, String> {
    let wrong = || "an age is a number and a unit: `30d`, `12h` or `90m`".to_string();
    let (number, unit) =
        text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let number: i64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "d" => chrono::Duration::try_days(number),
        "h" => chrono::Duration::try_hours(number),
        "m" => chrono::Duration::try_minutes(number),
        _ => None,
    }
    .ok_or_else(wrong)
}

fn kept(store: &Store, runs: &Path, action: &StoreAction) -> Result<(), Failure> {
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
        StoreAction::Clean { partial, older_than, unnamed, dry_run } => {
            let named = if *unnamed { named(runs)? } else { BTreeSet::new() };
            let chosen = |entry: &StoreEntry| {
                (!partial || entry.partial)
                    && older_than.is_none_or(|age| entry.is_older_than(age))
                    && !named.contains(&entry.key)
            };
            let cleaned = match dry_run {
                true => {
                    let removed = store.list()?.into_iter().filter(chosen).collect();
                    Cleaned { removed, in_use: Vec::new() }
                }
                false => store.clean(chosen)?,
            };
            let (removed, in_use) = (cleaned.removed.len(), cleaned.in_use.len());
            let bytes: u64 = cleaned.removed.iter().map(|entry| entry.bytes).sum();
            let mib = bytes as f64 / (1 << 20) as f64;
            let (would, use_) = match dry_run {
                true => ("would remove", String::new()),
                false => ("removed", format!("; {in_use} are in use")),
            };
            say(&format!("{would} {removed} kept steps, {mib:.1} MiB{use_}"))?;
        }
    }
    Ok(())
}

impl Run {
    fn options(&self) -> RunOptions {
        let mut options = self.engine.options();
        options.store_dir = self.store.clone();
        options.jobs = self.jobs.get();
        options.variants = self.variants.names.clone();
        options.resume = match (self.resume, self.fresh) {
            (true, _) => Resume::Run,
            (_, true) => Resume::Fresh,
            _ => Resume::Steps,
        };
        options
    }
}

/// Prints the steps of a run that is not made.
fn plan(args: &Run) -> Result<(), Failure> {
    let (spec, dir) = args.engine.apply(args.pipeline.read()?)?;
    check_report(&spec)?;
    let progress = progress::for_stderr();
    let steps = Runner::new(&spec, dir, args.options()).progress(&*progress).dry_run()?;
    let width = steps.iter().map(|step| step.variant.chars().count()).max().unwrap_or(0);
    for step in &steps {
        let (variant, seed, goals) = (&step.variant, step.seed, step.goals.join(", "));
        let state = if step.reused { "stored" } else { "to run" };
        say(&format!("{variant:width$}  seed {seed}  {state}  {} {goals}", step.step))?;
    }
    let stored = steps.iter().filter(|step| step.reused).count();
    Ok(say(&format!("{} steps, {stored} of them stored", steps.len()))?)
}

fn run(args: &Run) -> Result<(), Failure> {
    let (spec, dir) = args.engine.apply(args.pipeline.read()?)?;
    check_report(&spec)?;
    let options = args.options();
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
