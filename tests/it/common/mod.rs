//! A folder with a tiny corpus and pipeline, and the real program run in it.

#![allow(dead_code, reason = "each suite uses its part")]

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A model of some ten thousand parameters, its entropy model, and a threshold that is found: all
/// that a checkpoint must hold.
pub const PIPELINE: &str = "\
name: tiny
seed: 7

graph:
  docs:    {node: ParquetBytes, path: docs.parquet, column: text, split: {valid: 0.2, by: id, calibration: 0.3}}
  entropy: {node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}
  patches: {node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}
  embed:   {node: ByteEmbed, in: docs, dim: 16, ngrams: [3], table: 64}
  encoder: {node: LocalEncoder, in: {bytes: embed, patches: patches}, layers: 1, heads: 2, k: 2, window: 16}
  latent:  {node: Latent, in: encoder.patches, dim: 32, layers: 1, heads: 2}
  decoder: {node: LocalDecoder, in: {bytes: encoder.bytes, patches: latent}, layers: 1, heads: 2, window: 16}
  loss:    {node: NextByteLoss, in: {logits: decoder, bytes: docs}}

run:
  - train: {goal: entropy.loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}
  - train: {goal: loss, steps: 4, batch_bytes: 512, lr: 4e-3, checkpoint_every: 2, log_every: 1}
  - evaluate: {goal: loss, by: domain}
";

/// The documents: lines of this very file and of its neighbour, so that they are text.
pub fn texts() -> Vec<String> {
    let source = concat!(include_str!("mod.rs"), include_str!("../causality.rs"));
    source
        .lines()
        .filter(|line| line.len() > 30)
        .take(160)
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

pub struct Place {
    pub dir: Arc<TempDir>,
    pub yaml: String,
}

impl Place {
    /// With the tiny pipeline and its corpus.
    pub fn new() -> Self {
        let place =
            Place { dir: tempfile::tempdir().unwrap().into(), yaml: String::new() }.with(PIPELINE);
        let texts = texts();
        write_parquet(
            &place.path("docs.parquet"),
            &texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>(),
        );
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Another pipeline.
    pub fn with(mut self, yaml: &str) -> Self {
        self.yaml = yaml.to_string();
        fs::write(self.path("pipeline.yaml"), yaml).unwrap();
        self
    }

    /// The pipeline with `old`, which stands in it once, replaced.
    pub fn edit(self, old: &str, new: &str) -> Self {
        assert_eq!(self.yaml.matches(old).count(), 1, "`{old}` stands once in the pipeline");
        let yaml = self.yaml.replacen(old, new, 1);
        self.with(&yaml)
    }

    /// `pipeline.yaml:LINE:COLUMN` of `marker`, which stands in the pipeline once.
    pub fn at(&self, marker: &str) -> String {
        assert_eq!(self.yaml.matches(marker).count(), 1, "`{marker}` stands once in the pipeline");
        let before = &self.yaml[..self.yaml.find(marker).unwrap()];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        format!(
            "pipeline.yaml:{}:{}",
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1
        )
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blt-run"));
        command.current_dir(self.dir.path()).env_remove("RUST_LOG").args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(&[&["pipeline.yaml"], args].concat()).output().unwrap()
    }

    /// Runs the pipeline to its end; what it left.
    pub fn done(&self, args: &[&str]) -> Done {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "exit {:?}\n{stderr}", output.status.code());
        let stdout = text(&output.stdout);
        let dir = self.path(stdout.trim_end().lines().last().unwrap());
        assert_eq!(status(&dir)["state"], "done");
        Done { dir, stderr, place: self.dir.clone() }
    }

    /// All run directories under `runs/`.
    pub fn runs(&self) -> Vec<PathBuf> {
        run_dirs(&self.path("runs"))
    }
}

/// A run that ended well.
pub struct Done {
    pub dir: PathBuf,
    pub stderr: String,
    /// The folder that it ran in, which is removed with the last of these.
    pub place: Arc<TempDir>,
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn run_dirs(runs: &Path) -> Vec<PathBuf> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .map(|item| item.unwrap().path())
            .filter(|p| p.is_dir())
            .collect()
    };
    let of = list(runs)
        .into_iter()
        .filter(|p| !p.ends_with(".store"))
        .flat_map(|pipeline| list(&pipeline));
    of.filter(|run| !run.ends_with("latest")).collect()
}

pub fn status(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("status.json")).unwrap()).unwrap()
}

/// Every file under `dir` by its path in it.
pub fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push((
                    path.strip_prefix(dir).unwrap().display().to_string(),
                    fs::read(&path).unwrap(),
                ));
            }
        }
    }
    files.sort();
    files
}

pub fn parquet_batch(texts: &[Option<&str>]) -> RecordBatch {
    let ids: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..texts.len()).map(|i| format!("row {i}"))));
    let domains: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..texts.len()).map(|i| ["a", "b"][i % 2])));
    let text: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    RecordBatch::try_from_iter([
        ("id", ids),
        ("domain", domains),
        ("text", text),
        ("number", number),
    ])
    .unwrap()
}

/// Writes columns `id`, `domain`, `text` and `number`, in row groups of 40.
pub fn write_parquet(path: &Path, texts: &[Option<&str>]) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(40))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .build();
    let batch = parquet_batch(texts);
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties))
            .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
