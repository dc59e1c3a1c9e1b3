//! What reads bytes that anyone may have written, as functions of those bytes. None may panic, hang
//! or take memory that the bytes do not account for; errors are answers.
//!
//! Each is a fuzz target (fuzz_targets/), and tests/it/fuzz.rs calls it with damaged files.

use arrow::array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use blt_core::hf::HfConfig;
use blt_core::tensor_file::TensorFile;
use blt_data::predicate::Predicate;
use blt_data::storage::Location;
use blt_data::{
    Corpus, FileSlice, OnError, Portion, RowRequest, Source, SourceConfig, SourceKind, open_rows,
};
use blt_graph::{Live, PipelineSpec, World, check_all};
use blt_plugins::scoring::{Footer, Manifest};
use blt_report::html::ReportInput;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of this thread, and in it a file that holds `data`.
fn file(name: &str, data: &[u8]) -> PathBuf {
    thread_local! {
        static DIR: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
    }
    let path = DIR.with(|dir| dir.path().join(name));
    std::fs::write(&path, data).expect("a temporary file");
    path
}

fn checked(spec: &PipelineSpec) {
    let _ = check_all(spec, Path::new("/nowhere"));
}

pub fn pipeline(data: &[u8]) {
    if let Ok(spec) = PipelineSpec::parse(&String::from_utf8_lossy(data), "fuzz.yaml") {
        checked(&spec);
    }
}

pub fn set(data: &[u8]) {
    const PIPELINE: &str = "name: p\ngraph:\n  docs: {node: TextFiles, path: in}\n  \
        p: {node: StridePatch, in: docs, stride: 6}\nrun:\n  - score: {goal: p}\n\
        ablate: {a: {graph.p.stride: 3}}\n";
    let spec = PipelineSpec::parse(PIPELINE, "fuzz.yaml").expect("a pipeline");
    if let Ok(spec) = spec.set(&String::from_utf8_lossy(data)) {
        checked(&spec);
    }
}

pub fn predicate(data: &[u8]) {
    let Ok(condition) = Predicate::parse(&String::from_utf8_lossy(data)) else { return };
    let columns: [(&str, ArrayRef); 3] = [
        ("a", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("b", Arc::new(StringArray::from(vec![Some("x"), None]))),
        ("c", Arc::new(Float32Array::from(vec![Some(f32::NAN), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    if condition.check([batch.schema().as_ref()]).is_ok() {
        condition.evaluate(&batch).expect("a condition that was checked");
    }
}

fn rows(kind: SourceKind, path: &Path) {
    let config = SourceConfig::new(kind, path.to_string_lossy(), "");
    let Ok(corpus) = Corpus::new(config) else { return };
    let source: Arc<dyn Source> = Arc::new(corpus);
    let Ok(files) = source.files() else { return };
    // A file of few bytes may tell of any number of null rows.
    if files[0].rows() > 1 << 16 {
        return;
    }
    let request = RowRequest {
        portion: Portion::All,
        lists: Vec::new(),
        columns: None,
        slices: vec![FileSlice { file: 0, groups: 0..files[0].groups.len(), limit: None }],
        condition: None,
        row_share: None,
        on_error: OnError::Null,
    };
    let Ok(mut reader) = open_rows(source, request) else { return };
    while let Ok(Some(_)) = reader.next() {}
}

pub fn parquet(data: &[u8]) {
    rows(SourceKind::Parquet, &file("a.parquet", data));
}

pub fn ipc(data: &[u8]) {
    rows(SourceKind::ArrowIpc, &file("a.arrow", data));
}

pub fn safetensors(data: &[u8]) {
    let Ok(tensors) = TensorFile::open(&file("a.safetensors", data)) else { return };
    for (name, shape) in tensors.tensors() {
        let _ = tensors.get_f32(name, shape);
    }
}

pub fn hf_config(data: &[u8]) {
    let _ = HfConfig::parse(Path::new("config.json"), data);
}

pub fn tokenizer(data: &[u8]) {
    let path = file("tokenizer.json", data);
    let text = format!(
        "name: p\ngraph:\n  docs: {{node: TextFiles, path: in}}\n  \
         p: {{node: BpePatch, in: docs, tokenizer: '{}'}}\nrun:\n  - score: {{goal: p}}\n",
        path.display()
    );
    let spec = PipelineSpec::parse(&text, "fuzz.yaml").expect("a pipeline");
    let plans = check_all(&spec, Path::new("/nowhere")).expect("a pipeline");
    let _ = Live::build(&plans[0], &["p"], World::new());
}

pub fn manifest(data: &[u8]) {
    let _ = serde_json::from_slice::<Manifest>(data);
}

pub fn footer(data: &[u8]) {
    let path = Location::from(file("part.parquet", data));
    if let Ok(Some(entry)) = path.entry() {
        let _ = Footer::read(&entry);
    }
}

pub fn results(data: &[u8]) {
    let path = file("results.json", data);
    let _ = ReportInput::read(path.parent().expect("a folder"));
}

pub type Target = (&'static str, fn(&[u8]));

/// All of them, by their names.
#[allow(dead_code, reason = "each fuzz target calls one")]
pub const ALL: [Target; 11] = [
    ("pipeline", pipeline),
    ("set", set),
    ("predicate", predicate),
    ("parquet", parquet),
    ("ipc", ipc),
    ("safetensors", safetensors),
    ("hf_config", hf_config),
    ("tokenizer", tokenizer),
    ("manifest", manifest),
    ("footer", footer),
    ("results", results),
];
