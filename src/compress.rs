//! `blt-run compress` and `decompress`: any bytes as a file of the size that a model predicts.

use crate::model::Model;
use crate::output::Failure;
use blt_graph::write_atomic;
use blt_plugins::Generator;
use blt_report::progress;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub struct Compress {
    #[command(flatten)]
    model: Model,
    /// The file to read.
    file: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Compress {
    fn read(&self) -> Result<(Generator, Vec<u8>), Failure> {
        let file = std::fs::read(&self.file)
            .map_err(|e| Failure::other(format!("cannot read {}: {e}", self.file.display())))?;
        Ok((self.model.open()?, file))
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
