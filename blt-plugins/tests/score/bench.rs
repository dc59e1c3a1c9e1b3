//! A folder with input, pipelines run in it as the command runs them, and what their parts hold.

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type};
use blt_graph::run::{RunError, RunOptions, RunReport, Runner};
use blt_graph::{PipelineSpec, Progress, StepHeading};
use blt_plugins as _;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;
use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Notes the work announced, and pulls the plug after so many rows.
#[derive(Default)]
pub struct Told {
    pub totals: RefCell<Vec<Option<u64>>>,
    pub stop_after: Option<u64>,
    pub flag: Arc<AtomicBool>,
}

impl Progress for Told {
    fn step(&self, _: &StepHeading) {}
    fn start(&self, what: &str, total: Option<u64>) {
        if what.starts_with("score") {
            self.totals.borrow_mut().push(total);
        }
    }
    fn update(&self, done: u64, _: &[(&str, String)]) {
        if self.stop_after.is_some_and(|stop| done >= stop) {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
    fn finish(&self, _: &str) {}
    fn message(&self, _: &str) {}
}

pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        Bench { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run_told(&self, yaml: &str, runs: &str, told: &Told) -> Result<RunReport, RunError> {
        let spec = PipelineSpec::parse(yaml, "score.yaml")
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        let options = RunOptions { runs_dir: self.path(runs), ..RunOptions::new("test build") };
        Runner::new(&spec, self.dir.path(), options)
            .progress(told)
            .interrupt(told.flag.clone())
            .run()
    }

    /// Runs, and gives the directory of the last step.
    pub fn run(&self, yaml: &str) -> PathBuf {
        let report = self
            .run_told(yaml, "runs", &Told::default())
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        report.plans[0].steps.last().unwrap().dir.clone()
    }

    pub fn fails(&self, yaml: &str) -> String {
        match self.run_told(yaml, "runs", &Told::default()) {
            Ok(_) => panic!("it ran"),
            Err(error) => error.render(false),
        }
    }
}

pub fn write_parquet(path: &Path, batch: &RecordBatch, group_rows: usize) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties))
            .unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

pub fn read_parquet(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    let batches: Vec<RecordBatch> = batches
        .iter()
        .map(|b| RecordBatch::try_new(schema.clone(), b.columns().to_vec()).unwrap())
        .collect();
    concat_batches(&schema, &batches).unwrap()
}

pub fn texts(rows: &[Option<&[u8]>]) -> RecordBatch {
    let text: ArrayRef = Arc::new(BinaryArray::from_iter(rows));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows.len() as i64));
    RecordBatch::try_from_iter_with_nullable([("id", ids, false), ("text", text, true)]).unwrap()
}

pub const ROWS: [Option<&[u8]>; 8] = [
    Some(b"fn main() { println!(\"hi\"); }\n"),
    None,
    Some(b""),
    Some(b"\xff\xfe\x80 not UTF-8 \x00"),
    Some("한국어 글도 있다".as_bytes()),
    Some(b"x"),
    Some(b"the end of the text is the end"),
    None,
];

/// The nodes of a small BLT; `patcher` stands at `patches`.
pub fn graph(source: &str, patcher: &str) -> String {
    format!(
        "name: score
graph:
  docs: {source}
  lm: {{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 4}}
  patches: {patcher}
  embed: {{node: ByteEmbed, in: docs, dim: 16, ngrams: [2, 3], table: 50}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, layers: 1, heads: 2, window: 8, k: 2}}
  latent: {{node: Latent, in: encoder.patches, dim: 16, layers: 1, heads: 2}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: 1, heads: 2, window: 8}}
  loss: {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
"
    )
}

pub const SOURCE: &str = "{node: ParquetBytes, path: in}";
pub const ENTROPY: &str = "{node: EntropyPatch, in: {bytes: docs, entropies: lm}, rule: relative, relative_threshold: 0.0}";
pub const EMIT: &str = "emit: [log_probs, entropies, patch_lengths]";

pub fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|f| f.name().clone()).collect()
}

pub fn i64s(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch[name].as_primitive::<Int64Type>().iter().collect()
}

pub fn f64s(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    batch[name].as_primitive::<Float64Type>().iter().collect()
}

pub fn strings(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    batch[name].as_string::<i32>().iter().map(|s| s.map(String::from)).collect()
}

pub fn f32_lists(batch: &RecordBatch, name: &str) -> Vec<Option<Vec<f32>>> {
    let lists = batch[name].as_list::<i32>();
    lists.iter().map(|l| l.map(|l| l.as_primitive::<Float32Type>().values().to_vec())).collect()
}

pub fn i32_lists(batch: &RecordBatch, name: &str) -> Vec<Option<Vec<i32>>> {
    let lists = batch[name].as_list::<i32>();
    lists.iter().map(|l| l.map(|l| l.as_primitive::<Int32Type>().values().to_vec())).collect()
}

pub fn result(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("result.json")).unwrap()).unwrap()
}

/// The directory of the step that was stopped.
pub fn stopped_dir(bench: &Bench, runs: &str) -> PathBuf {
    let store =
        std::fs::read_dir(bench.path(runs).join(".store")).unwrap().map(|e| e.unwrap().path());
    store.into_iter().find(|p| p.to_string_lossy().ends_with(".partial")).unwrap()
}

/// The files below a folder, by their names there, sorted.
pub fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn walk(dir: &Path, base: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, base, found);
            } else {
                let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    // A run that was stopped before its first part has made no folder for parts.
    if dir.is_dir() {
        walk(dir, dir, &mut found);
    }
    found.sort();
    found
}

pub fn file_names(dir: &Path) -> Vec<String> {
    files(dir).into_iter().map(|(name, _)| name).collect()
}

/// Overwrites a column chunk with noise that no decoder takes.
pub fn break_chunk(path: &Path, group: usize, column: usize) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let (at, length) = builder.metadata().row_group(group).column(column).byte_range();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at as usize..(at + length) as usize].fill(0xAA);
    std::fs::write(path, bytes).unwrap();
}

/// What a part's footer says of its scores.
pub fn footer(path: &Path) -> Value {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let pairs = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let ours = pairs.into_iter().find(|pair| pair.key == blt_plugins::scoring::FOOTER_KEY).unwrap();
    serde_json::from_str(&ours.value.unwrap()).unwrap()
}

/// The nodes of a byte language model alone.
pub fn lm_graph(source: &str) -> String {
    format!(
        "name: score\ngraph:\n  docs: {source}\n  lm: {{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 4}}\nrun:\n"
    )
}
