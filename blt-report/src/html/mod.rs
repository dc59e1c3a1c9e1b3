//! The report of a run: `report.html`, one file that needs no network and no script, and the
//! closing table for the terminal.
//!
//! Everything shown comes from a run directory ([`ReportInput::read`]), so that a report can be
//! rendered again at any time. What a run did not measure is left out: a pipeline without patches
//! has no chart of patches.

mod claims;
mod curves;
mod facts;
mod latents;
mod page;
mod sample;
mod scores;
mod show;
mod svg;
mod table;
#[cfg(test)]
mod tests;
mod text;

pub use page::html;
pub use sample::Sample;
pub use table::table;

use crate::results::{MetricsLine, Results, SCHEMA, lenient};
use blt_graph::FileError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Facts about the machine and the build, an object of name to text.
pub const MACHINE_FILE: &str = "machine.json";
/// Sample texts by variant: an object of variant name to the list that its evaluation left.
pub const SAMPLES_FILE: &str = "samples.json";

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("`{}` holds no results.json: it is not the directory of a finished run", path.display())]
    NotARun { path: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is damaged", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("line {line} of `{}` is damaged", path.display())]
    DamagedLine { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("`{}` is of schema {found}, and this version reads {SCHEMA}: render it with the version that wrote it", path.display())]
    Schema { path: PathBuf, found: Value },
    #[error(transparent)]
    Write(#[from] FileError),
    #[error("the report's template failed")]
    Template(#[from] minijinja::Error),
}

/// All that a report shows.
#[derive(Clone, Debug, Default)]
pub struct ReportInput {
    /// results.json; see [`results`](crate::results).
    pub results: Results,
    /// Lines of metrics.jsonl. Those of training have `variant`, `goal`, `step`, `bpb` and
    /// `bytes`; others are not shown.
    pub metrics: Vec<MetricsLine>,
    /// For each variant what its evaluation on the first seed kept.
    pub samples: BTreeMap<String, Vec<Sample>>,
    /// The pipeline as it was written.
    pub pipeline: String,
    /// The pipeline with overrides made and defaults written out, and where each value came from.
    pub resolved: String,
    /// The drawing of the graph, as SVG.
    pub graph: String,
    /// Names and values: the machine, the version, when it ran.
    pub facts: Vec<(String, String)>,
}

impl ReportInput {
    /// Reads the files of a run directory. Only results.json must be there.
    ///
    /// # Errors
    /// If results.json is missing or of another schema, or a file cannot be read or parsed.
    pub fn read(dir: &Path) -> Result<Self, ReportError> {
        let path = dir.join("results.json");
        let Some(results) = json::<Value>(&path)? else {
            return Err(ReportError::NotARun { path: dir.to_path_buf() });
        };
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Versioned {
            schema: Value,
        }
        let Versioned { schema: found } = read_object(&results);
        if found != SCHEMA {
            return Err(ReportError::Schema { path, found });
        }
        let damaged = |source| ReportError::Damaged { path, source };
        let results: Results = serde_json::from_value(results).map_err(damaged)?;
        let metrics_path = dir.join("metrics.jsonl");
        let metrics = text(&metrics_path)?.unwrap_or_default();
        let metrics = metrics.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(
            |(i, line)| {
                let damaged = |source| ReportError::DamagedLine {
                    path: metrics_path.clone(),
                    line: i + 1,
                    source,
                };
                serde_json::from_str(line).map(|line| read_object(&line)).map_err(damaged)
            },
        );
        let mut facts = Vec::new();
        if let Some(status) = json::<Value>(&dir.join("status.json"))? {
            let said = ["started", "ended"]
                .map(|key| Some((key.to_owned(), status.get(key)?.as_str()?.to_owned())));
            facts.extend(said.into_iter().flatten());
        }
        facts.extend(
            json::<serde_json::Map<String, Value>>(&dir.join(MACHINE_FILE))?
                .into_iter()
                .flatten()
                .map(|(name, value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    (name, value)
                }),
        );
        Ok(ReportInput {
            metrics: metrics.collect::<Result<_, _>>()?,
            samples: json(&dir.join(SAMPLES_FILE))?.unwrap_or_default(),
            pipeline: text(&dir.join("pipeline.yaml"))?.unwrap_or_default(),
            // Runs of earlier versions do not say where a value came from.
            resolved: match text(&dir.join("explained.yaml"))? {
                Some(explained) => explained,
                None => text(&dir.join("resolved.yaml"))?.unwrap_or_default(),
            },
            graph: text(&dir.join("graph.svg"))?.unwrap_or_default(),
            results,
            facts,
        })
    }
}

/// What [`MACHINE_FILE`] holds: version, command line, git revision, operating system, processor and threads of this process.
///
/// It is written when a run ends, because a report may be rendered again on another machine.
pub fn machine() -> Value {
    let mut facts = serde_json::Map::new();
    facts.insert("blt".to_owned(), env!("CARGO_PKG_VERSION").into());
    facts.insert(
        "system".to_owned(),
        format!("{} {}", std::env::consts::OS, std::env::consts::ARCH).into(),
    );
    // Linux has the processor's name in a file; on other systems it is left out.
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    if let Some((_, model)) = model {
        facts.insert("processor".to_owned(), model.trim().into());
    }
    let command: Vec<String> =
        std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    facts.insert("command".to_owned(), command.join(" ").into());
    if let Some(revision) = revision() {
        facts.insert("git revision".to_owned(), revision.into());
    }
    if let Ok(threads) = std::thread::available_parallelism() {
        facts.insert("threads available".to_owned(), threads.get().to_string().into());
    }
    Value::Object(facts)
}

/// The git revision of the current folder, with `-dirty` if tracked files were changed; None if there
/// is none, or no git.
fn revision() -> Option<String> {
    let git = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&git.stdout).trim().to_owned())
}

/// Reads what fits the type; what is no object fits none.
fn read_object<T: DeserializeOwned + Default>(value: &Value) -> T {
    value.as_object().map(lenient).unwrap_or_default()
}

/// None if there is no such file.
fn text(path: &Path) -> Result<Option<String>, ReportError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReportError::Read { path: path.to_path_buf(), source }),
    }
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReportError> {
    let damaged = |source| ReportError::Damaged { path: path.to_path_buf(), source };
    text(path)?.map(|text| serde_json::from_str(&text).map_err(damaged)).transpose()
}
