//! A model by a path: a checkpoint directory, or a pipeline.

use blt_graph::{PipelineSpec, StepError};
use serde_json::json;
use std::path::{Path, PathBuf};

/// A pipeline that scores with the model of a checkpoint directory.
fn of_checkpoint(dir: &Path) -> String {
    let graph = json!({
        "docs": {"node": "ParquetBytes", "path": "."},
        "blt": {"node": "Blt", "in": "docs", "checkpoint": dir},
    });
    // JSON is valid YAML.
    format!("name: score\ngraph: {graph}\nrun: [{{score: {{goal: blt}}}}]\n")
}

/// The pipeline in `file`, or one that scores with the model in the checkpoint directory `file`;
/// and the folder that its relative paths start from.
///
/// # Errors
/// If there is no such file or directory, or the pipeline cannot be read.
pub fn pipeline_of(file: &Path) -> Result<(PipelineSpec, PathBuf), StepError> {
    let kind = std::fs::metadata(file).map_err(|e| {
        StepError::other(format!("cannot read {}: {e}", file.display())).help(
            "a Hugging Face BLT directory, a run's checkpoint (RUN/checkpoints/0-train/final) or a pipeline's YAML file is expected",
        )
    })?;
    if kind.is_dir() {
        let dir = std::path::absolute(file)?;
        let spec = PipelineSpec::parse(&of_checkpoint(&dir), "the scoring pipeline")
            .map_err(StepError::Document)?;
        return Ok((spec, dir));
    }
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((PipelineSpec::read(file).map_err(StepError::Document)?, dir.to_owned()))
}
