//! `blt-run regress`: runs a pipeline and compares its numbers with a baseline.

use crate::engine::{Engine, Pipeline};
use crate::output::{Failure, say};
use blt_graph::{PipelineSpec, Plan, write_atomic};
use blt_plugins::fingerprint;
use blt_report::check_report;
use blt_report::progress;
use blt_report::regress::{Baseline, BaselineError, Comparison, Measured};
use blt_report::regress::{advice, failed_junit, failed_markdown, junit, markdown, table};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit code if a number moved.
const REGRESSED: u8 = 4;

#[derive(Args)]
pub struct Regress {
    #[command(flatten)]
    pipeline: Pipeline,
    /// The numbers to compare with: a text file that `--update` writes and that is committed beside
    /// the pipeline.
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    /// Write the run's numbers into the baseline; its tolerances stay as they are.
    #[arg(long)]
    update: bool,
    /// Print every number, not only bits per byte and what moved.
    #[arg(long)]
    all: bool,
    /// Write JUnit XML to this file.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Append Markdown to this file, such as "$GITHUB_STEP_SUMMARY".
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Write JSON to this file; the run directory has it as regression.json in any case.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    engine: Engine,
}

/// Exit codes: 0 no regression, or the baseline is written; 1 the run failed; 4 a regression; 130
/// interrupted.
pub fn regress(args: &Regress) -> ExitCode {
    let name = args.pipeline.name();
    match compared(args) {
        Ok(passed) if passed || args.update => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(REGRESSED),
        Err(failure) if failure.interrupted() => failure.report(),
        Err(failure) => {
            let message = failure.render();
            let reported =
                report(args, || failed_junit(&name, &message), || failed_markdown(&name, &message));
            let code = failure.report();
            reported.map_or_else(|failure| failure.report(), |()| code)
        }
    }
}

/// Runs and compares; whether everything passed.
fn compared(args: &Regress) -> Result<bool, Failure> {
    // Fail before the run, not after it, if the baseline cannot be used.
    let (baseline, is_new) = match Baseline::read(&args.baseline) {
        Err(BaselineError::Missing(_)) if args.update => (Baseline::new(), true),
        read => (read?, false),
    };
    let (spec, dir) = args.engine.apply(args.pipeline.read()?)?;
    check_report(&spec)?;
    if !is_new && !args.update {
        is_of(&baseline, &args.baseline, &spec)?;
    }
    let mut options = args.engine.options();
    std::fs::create_dir_all(&options.runs_dir).map_err(|e| {
        Failure::other(format!("cannot create {}: {e}", options.runs_dir.display()))
    })?;
    // An empty store: this build computes every step, and reuses none of an earlier build.
    let store = tempfile::Builder::new().prefix(".regress-").tempdir_in(&options.runs_dir);
    let store = store.map_err(|e| {
        Failure::other(format!("cannot create a folder in {}: {e}", options.runs_dir.display()))
    })?;
    options.store_dir = Some(store.path().to_owned());

    let mut comparison = None;
    let mut updated = None;
    let finished = args.engine.run(&spec, dir, options, |report| {
        let runs = blt_report::finish(report, &spec)?.runs;
        let plans: Vec<&Plan> = report.plans.iter().map(|run| &run.plan).collect();
        let measured = Measured::of(report, &runs, fingerprint(&plans)?)?;
        let compared = Comparison::of(&baseline, &measured);
        let json = serde_json::to_string_pretty(&compared.to_json())?;
        write_atomic(report.dir.path.join("regression.json"), &json)?;
        if let Some(path) = &args.json {
            write_atomic(path, &json)?;
        }
        if args.update {
            updated = Some(baseline.updated(&measured)?);
        }
        comparison = Some(compared);
        Ok(())
    });
    let report_of_run = finished?;
    let comparison = comparison.ok_or_else(|| Failure::other("the run left no comparison"))?;
    if is_new {
        let (numbers, path) = (comparison.rows.len(), args.baseline.display());
        say(&format!("{path} is a new baseline of {numbers} numbers"))?;
    } else {
        say(&table(&comparison, args.all))?;
        if let Some(advice) = advice(&comparison).filter(|_| !args.update) {
            say(advice)?;
            let command: Vec<String> =
                std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
            say(&format!("  {} --update", command.join(" ")))?;
        }
        report(args, || junit(&comparison), || markdown(&comparison))?;
    }
    say(&report_of_run.dir.path.display().to_string())?;
    if let Some(text) = updated {
        write_atomic(&args.baseline, text)?;
        progress::line(&format!("wrote {}", args.baseline.display()));
    }
    Ok(comparison.passed())
}

/// Refuses a baseline of another pipeline before anything is trained.
fn is_of(baseline: &Baseline, path: &Path, spec: &PipelineSpec) -> Result<(), Failure> {
    let names = spec.variant_names()?;
    // One variant may have been renamed; that is found by its numbers.
    let strange = baseline.variants.len() > 1 && names.len() > 1;
    if !strange || names.iter().any(|name| baseline.variants.contains_key(name)) {
        return Ok(());
    }
    let of: Vec<&str> = baseline.variants.keys().map(String::as_str).collect();
    Err(Failure::other(format!(
        "the baseline {} is of another pipeline: its variants are `{}`, and those of `{}` are `{}`",
        path.display(),
        of.join("`, `"),
        spec.name,
        names.join("`, `")
    )))
}

/// Writes the files for CI that were asked for.
fn report(
    args: &Regress,
    xml: impl Fn() -> String,
    summary: impl Fn() -> String,
) -> Result<(), Failure> {
    if let Some(path) = &args.junit {
        write_atomic(path, xml())?;
    }
    match &args.summary {
        None => Ok(()),
        Some(path) => append(path, &summary()),
    }
}

fn append(path: &Path, text: &str) -> Result<(), Failure> {
    let file = std::fs::File::options().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Failure::other(format!("cannot write {}: {e}", path.display())))
}
