//! The arguments of commands that run a trained model byte by byte.

use crate::output::Failure;
use blt_plugins::{Generator, ModelFiles};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(Args)]
pub struct Model {
    /// A Hugging Face BLT directory, a run's checkpoint directory, or a pipeline's YAML file.
    model: PathBuf,
    /// For a pipeline: the checkpoint with its parameters.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// For a pipeline: logits, or a loss of them; by default those of the last step that has such
    /// a goal.
    #[arg(long, value_name = "WIRE")]
    goal: Option<String>,
    /// For a pipeline with several variants: which one.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Threads; changes no byte. All processors if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Model {
    pub fn open(&self) -> Result<Generator, Failure> {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = self.threads.map_or_else(all, usize::from);
        // Fails where the process already has a pool (in a test); results do not depend on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        let files = ModelFiles {
            model: self.model.clone(),
            checkpoint: self.checkpoint.clone(),
            goal: self.goal.clone(),
            variant: self.variant.clone(),
        };
        Ok(Generator::open(&files, threads)?)
    }
}
