//! What finishes a run: results.json, samples.json, machine.json, report.html and the closing
//! table. The command line and the Python package both call [`finish`].

use crate::html::{self, MACHINE_FILE, ReportError, ReportInput};
use crate::options::ReportOptions;
use crate::results::{self, Results, VariantRun};
use blt_graph::run::RunReport;
use blt_graph::{PipelineSpec, StepError, write_atomic};
use std::path::{Path, PathBuf};

/// A finished run: the steps that each variant and seed ran, and results.json.
#[derive(Clone, Debug)]
pub struct Finished {
    pub runs: Vec<VariantRun>,
    pub results: Results,
}

impl Finished {
    /// The closing table for a terminal; see [`html::table`].
    pub fn table(&self) -> String {
        html::table(&self.results)
    }
}

/// Writes results.json, samples.json, machine.json and report.html into the run's directory.
///
/// # Errors
/// If a file that a step wrote cannot be read, or a file of the run cannot be written.
pub fn finish(report: &RunReport, spec: &PipelineSpec) -> Result<Finished, StepError> {
    let options = ReportOptions::of(&spec.report);
    let runs = VariantRun::of(report);
    let mut seeds = Vec::new();
    for run in &runs {
        if !seeds.contains(&run.seed) {
            seeds.push(run.seed);
        }
    }
    let pipeline = report.plans.first().map_or("", |p| p.plan.pipeline.as_str());
    let dir = &report.dir.path;
    let results = results::build(pipeline, &report.dir.id, &seeds, &runs, &options)?;
    write_atomic(dir.join("results.json"), serde_json::to_string_pretty(&results)?)?;
    results::write_samples(dir, &runs)?;
    write_atomic(dir.join(MACHINE_FILE), serde_json::to_string_pretty(&html::machine())?)?;
    write_report(dir)?;
    Ok(Finished { runs, results })
}

/// Renders report.html from the files of a run directory; the path of the report.
///
/// # Errors
/// If the directory is not that of a finished run, or one of its files cannot be read or written.
pub fn write_report(dir: &Path) -> Result<PathBuf, ReportError> {
    let path = dir.join("report.html");
    write_atomic(&path, html::html(&ReportInput::read(dir)?)?)?;
    Ok(path)
}
