//! The arguments that commands share, and how they run a pipeline and stop it.

use crate::output::Failure;
use blt_graph::run::{RunError, RunOptions, RunReport, Runner};
use blt_graph::{PipelineSpec, StepError};
use blt_report::progress;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Args)]
pub struct Pipeline {
    /// The pipeline's YAML file.
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Set a value of the pipeline and its variants: `graph.latent.layers=6`, `seed=7`; of one
    /// variant: `VARIANT:seed=7`. May be given again.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

/// Which variants of a pipeline.
#[derive(Args)]
pub struct Variants {
    /// Run only this variant; may be given again.
    #[arg(long = "variant", value_name = "NAME")]
    pub names: Vec<String>,
}

/// Where and on what a pipeline runs.
#[derive(Args)]
pub struct Engine {
    /// The folder of runs.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Threads; changes no number. All processors if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// `cpu`, `cuda` (the first GPU) or `cuda:N`.
    #[arg(long)]
    device: Option<String>,
    /// The compute path: `fused`, or `reference`, which is composed of dfdx's operations and which
    /// a GPU always takes.
    #[arg(long)]
    path: Option<String>,
    /// Look at every output and gradient as it is made, and stop at the first that is not finite;
    /// slower, changes no number.
    #[arg(long)]
    detect_anomaly: bool,
}

impl Pipeline {
    /// The pipeline in `file` with the overrides `set`.
    pub fn new(file: impl Into<PathBuf>, set: Vec<String>) -> Self {
        Pipeline { file: Some(file.into()), set }
    }

    /// The pipeline with its overrides, and the folder that its paths start from.
    pub fn read(&self) -> Result<(PipelineSpec, PathBuf), Failure> {
        let file = self.file.as_deref().unwrap_or(Path::new(""));
        let mut spec = PipelineSpec::read(file)?;
        for assignment in &self.set {
            spec = spec.set(assignment)?;
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
    ) -> Result<(PipelineSpec, PathBuf), Failure> {
        for (key, value) in [("device", &self.device), ("path", &self.path)] {
            if let Some(value) = value {
                spec = spec.set(&format!("{key}={value}"))?;
            }
        }
        Ok((spec, dir))
    }

    pub fn options(&self) -> RunOptions {
        let mut options = RunOptions::new(build_id());
        options.runs_dir = self.runs.clone();
        options.detect_anomaly = self.detect_anomaly;
        options.threads = self.threads.map_or(options.threads, usize::from);
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
