//! `blt-run check`: all that is wrong with pipelines, opening no data.

use crate::engine::Variants;
use crate::findings::Format;
use crate::output::Failure;
use blt_graph::diagnostic::{Severity, Source};
use blt_graph::run::choose_variants;
use blt_graph::{Diagnostic, Diagnostics, PipelineSpec, Plan, check_source, merge_same};
use blt_plugins::{Need, gigabytes, need_of_plan};
use blt_report::{check_report, progress};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Args)]
pub struct Check {
    /// Pipelines: YAML files, or Markdown files with pipelines in blocks of YAML.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Set a value of each pipeline and its variants; see `blt-run --help`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    variants: Variants,
    /// How to print what is found.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Checks the files; 1 if there is an error in one of them.
pub fn check(args: &Check) -> Result<ExitCode, Failure> {
    let mut found = Vec::new();
    let mut fine = Vec::new();
    for file in &args.files {
        match Source::read(file) {
            Err(Diagnostics(unread)) => found.extend(unread),
            Ok(source) => {
                let pipelines = source.pipelines();
                if pipelines.is_empty() {
                    fine.push(format!("{}: no pipeline in it", file.display()));
                }
                for pipeline in &pipelines {
                    let several = args.files.len() > 1 || pipelines.len() > 1;
                    let (lines, new) = one(pipeline, file, args)?;
                    found.extend(new);
                    let name =
                        if several { format!("{}: ", file.display()) } else { String::new() };
                    fine.extend(lines.into_iter().map(|line| format!("{name}{line}")));
                }
            }
        }
    }
    args.format.print(&found, &fine)?;
    let failed = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A line for each variant and seed that is right, and what is found of a pipeline.
fn one(
    source: &Arc<Source>,
    file: &Path,
    args: &Check,
) -> Result<(Vec<String>, Vec<Diagnostic>), Failure> {
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let checked = check_source(source, &args.set, dir, &beside_the_graph);
    let (plans, mut found) = (checked.plans, checked.errors);
    let Some(spec) = checked.spec.filter(|_| found.is_empty()) else {
        return Ok((Vec::new(), found));
    };
    let plans = choose_variants(plans, &args.variants.names, |plan| &plan.variant)?;
    let baseline = spec.report.get("baseline").and_then(Value::as_str);
    let (plans, messages) = merge_same(plans, baseline);
    messages.iter().for_each(|message| progress::line(message));
    let mut lines = Vec::new();
    for plan in &plans {
        found.extend(plan.warnings.iter().cloned());
        for index in 0..plan.steps().len() {
            let warnings = blt_plugins::untrained(plan, index)?;
            found.extend(warnings.into_iter().map(|message| Diagnostic {
                severity: Severity::Warning,
                ..Diagnostic::error(message)
            }));
        }
        let steps: Vec<&str> = plan.steps().iter().map(|s| s.entry.name).collect();
        let (variant, seed, nodes) = (&plan.variant, plan.seed, plan.nodes().len());
        let Need { parameters, bytes } = need_of_plan(plan)?;
        let size = format!("{parameters} parameters, at least {} of memory", gigabytes(bytes));
        let steps = steps.join(", ");
        lines.push(format!("{variant}, seed {seed}: {nodes} nodes, {size}, steps {steps}: ok"));
    }
    Ok((lines, found))
}

/// What the program checks beside the graph: the section `report`, and the device.
fn beside_the_graph(spec: &PipelineSpec, plans: &[Plan]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    let specs = plans.iter().map(|plan| &*plan.spec);
    let devices = [spec].into_iter().chain(specs).map(blt_plugins::check_device);
    for Diagnostics(new) in [check_report(spec)].into_iter().chain(devices).filter_map(Result::err)
    {
        for diagnostic in new {
            if !found.contains(&diagnostic) {
                found.push(diagnostic);
            }
        }
    }
    found
}
