//! `blt-run compress` and `decompress`: any bytes as a file of the size that a model predicts.

use crate::output::Failure;
use blt_graph::write_atomic;
use blt_plugins::{Generator, ModelFiles};
use blt_report::progress;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(Args)]
pub struct Compress {
    /// A Hugging Face BLT directory, a run's checkpoint directory, or a pipeline's YAML file.
    model: PathBuf,
    /// The file to read.
    file: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
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
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

impl Compress {
    fn read(&self) -> Result<(Generator, Vec<u8>), Failure> {
        let file = std::fs::read(&self.file)
            .map_err(|e| Failure::other(format!("cannot read {}: {e}", self.file.display())))?;
        let threads = self.threads.or(std::thread::available_parallelism().ok());
        let threads = threads.map_or(1, NonZeroUsize::get);
        // Fails where the process already has a pool (in a test); results do not depend on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        let files = ModelFiles {
            model: self.model.clone(),
            checkpoint: self.checkpoint.clone(),
            goal: self.goal.clone(),
            variant: self.variant.clone(),
        };
        Ok((Generator::open(&files, threads)?, file))
    }
}

pub fn compress(args: &Compress) -> Result<(), Failure> {
    let (model, text) = args.read()?;
    let file = blt_plugins::compress(&model, &text)?;
    write_atomic(&args.output, &file)?;
    let (bytes, size) = (text.len(), file.len());
    let bits = 8.0 * size as f64 / bytes.max(1) as f64;
    progress::line(&format!("{bytes} bytes in {size}: {bits:.4} bits per byte"));
    Ok(())
}

pub fn decompress(args: &Compress) -> Result<(), Failure> {
    let (model, file) = args.read()?;
    let text = blt_plugins::decompress(&model, &file)?;
    write_atomic(&args.output, &text)?;
    progress::line(&format!("{} bytes", text.len()));
    Ok(())
}
