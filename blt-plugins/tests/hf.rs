//! Hugging Face directories, in and out, through pipelines: the `Blt` node against the reference
//! implementation's stored numbers, what it refuses, and what the `export` step writes.

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type};
use blt_core::backend::Backend;
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::bytes::{BOS, Batch, OFFSET, VOCAB};
use blt_core::hf::{HfConfig, Weights};
use blt_core::model::Session;
use blt_graph::run::{RunError, RunOptions, RunReport, Runner};
use blt_graph::{
    AnyValue, BuildCx, CheckCx, Live, Node, NodeError, PipelineSpec, Plan, RunCx, World, check_all,
    describe,
};
use blt_plugins::nodes::LocalDecoder;
use blt_plugins::ports;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

const FIXTURES: [&str; 3] = ["k1_proj_gqa_win", "k2_base", "k4_all_fullattn"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity").join(name)
}

/// The three texts of every fixture.
fn texts() -> Vec<String> {
    let meta: Value =
        serde_json::from_slice(&fs::read(fixture("k2_base").join("meta.json")).unwrap()).unwrap();
    meta["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
}

// Places

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// With a `docs.parquet` of these texts.
    fn new(texts: &[String]) -> Self {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        let text: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_from_iter([("text", text)]).unwrap();
        let mut writer = ArrowWriter::try_new(
            File::create(place.path("docs.parquet")).unwrap(),
            batch.schema(),
            None,
        )
        .unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spec(&self, yaml: &str) -> PipelineSpec {
        PipelineSpec::parse(yaml, "hf.yaml").unwrap_or_else(|e| panic!("{}", e.render(false)))
    }

    fn try_run(&self, yaml: &str) -> Result<RunReport, RunError> {
        let options = RunOptions { runs_dir: self.path("runs"), ..RunOptions::new("test build") };
        Runner::new(&self.spec(yaml), self.dir.path(), options).run()
    }

    fn run(&self, yaml: &str) -> RunReport {
        self.try_run(yaml).unwrap_or_else(|e| panic!("{}", e.render(false)))
    }

    /// The one error that a run ends with.
    fn fails(&self, yaml: &str) -> String {
        let Err(error) = self.try_run(yaml) else { panic!("it ran:\n{yaml}") };
        let text = error.render(false);
        let errors = text.lines().filter(|line| line.starts_with("error"));
        assert_eq!(errors.count(), 1, "{text}");
        text
    }

    fn plan(&self, yaml: &str) -> Plan {
        check_all(&self.spec(yaml), self.dir.path())
            .unwrap_or_else(|e| panic!("{}", e.render(false)))
            .remove(0)
    }
}

fn step(report: &RunReport, index: usize) -> PathBuf {
    report.plans[0].steps[index].dir.clone()
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        .unwrap()
}

/// `nats` of each document, in row order, of an evaluation.
fn nats(step: &Path) -> Vec<f64> {
    let text = fs::read_to_string(step.join("documents.jsonl")).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["nats"].as_f64().unwrap();
    text.lines().map(line).collect()
}

fn evaluate(source: &str, checkpoint: &Path, path: &str) -> String {
    format!(
        "name: hf
path: {path}
graph:
  docs: {source}
  blt: {{node: Blt, in: docs, checkpoint: {checkpoint:?}}}
run:
  - evaluate: {{goal: blt, split: all}}
  - score: {{goal: blt, emit: [log_probs, entropies, patch_lengths]}}
"
    )
}

const DOCS: &str = "{node: ParquetBytes, path: docs.parquet, column: text}";

// Numbers

/// Tensors of a safetensors file, as f64.
fn numbers(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let widen = |view: &TensorView| -> Vec<f64> {
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => {
                data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) as f64).collect()
            }
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::I64 => {
                data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
            }
            Dtype::I32 => {
                data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f64).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    file.tensors().into_iter().map(|(name, view)| (name, widen(&view))).collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

fn read_parquet(path: &Path) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    let [batch] = batches.as_slice() else { panic!("{} batches", batches.len()) };
    batch.clone()
}

#[test]
fn evaluations_and_scores_are_those_of_the_reference_implementation() {
    let texts = texts();
    let place = Place::new(&texts);
    for name in FIXTURES {
        let expected = numbers(&fixture(name).join("expected.safetensors"));
        for path in ["fused", "reference"] {
            let report = place.run(&evaluate(DOCS, &fixture(name), path));
            let found = nats(&step(&report, 0));
            let result = json_of(step(&report, 0).join("result.json"));
            let scored = read_parquet(&step(&report, 1).join("outputs/docs.parquet"));
            let (mut all_nats, mut all_bytes) = (0.0, 0.0);
            for (i, text) in texts.iter().enumerate() {
                let what = |kind: &str| format!("{name}, {path}, text {i}: {kind}");
                let of = |kind: &str| expected[&format!("text{i}.{kind}")].clone();
                let (log_probs, bpb) = (of("next_logprobs"), of("bpb")[0]);
                let bytes = text.len() as f64;
                let total = -log_probs.iter().sum::<f64>();
                (all_nats, all_bytes) = (all_nats + total, all_bytes + bytes);
                assert!(
                    (found[i] / total - 1.0).abs() < 1e-5,
                    "{}: {} {total}",
                    what("nats"),
                    found[i]
                );

                let column = |name: &str| {
                    scored.column_by_name(name).unwrap_or_else(|| panic!("{name}")).clone()
                };
                let scored_bpb = column("bits_per_byte").as_primitive::<Float64Type>().value(i);
                assert!(
                    (scored_bpb / bpb - 1.0).abs() < 1e-5,
                    "{}: {scored_bpb} {bpb}",
                    what("bits per byte")
                );
                let floats = |name: &str| -> Vec<f64> {
                    let list = column(name).as_list::<i32>().value(i);
                    list.as_primitive::<Float32Type>().values().iter().map(|&x| x as f64).collect()
                };
                close(&floats("log_probs"), &log_probs, 1e-4, &what("log probabilities"));
                close(&floats("entropies"), &of("entropies"), 1e-4, &what("entropies"));
                let lengths = column("patch_lengths").as_list::<i32>().value(i);
                let lengths: Vec<i32> = lengths.as_primitive::<Int32Type>().values().to_vec();
                let reference: Vec<i32> =
                    of("patch_lengths").iter().map(|&x| x as i32).filter(|&x| x > 0).collect();
                assert_eq!(lengths, reference, "{}", what("patch lengths"));
                let patches = column("n_patches").as_primitive::<Int64Type>().value(i);
                assert_eq!(patches as usize + 1, reference.len(), "{}", what("patches"));
            }
            let bpb = all_nats / all_bytes / std::f64::consts::LN_2;
            assert!(
                (result["bpb"].as_f64().unwrap() / bpb - 1.0).abs() < 1e-5,
                "{name}, {path}: {}",
                result["bpb"]
            );
            // The entropy model's share is shown apart, as it is for a ByteLm.
            let (all, entropy) = (&result["flops_per_byte"], &result["entropy_flops_per_byte"]);
            assert!(
                entropy.as_f64() > Some(0.0) && entropy.as_f64() < all.as_f64(),
                "{entropy} of {all}"
            );
            assert_eq!(result["boundary_lookahead"], json!(false));
        }
    }
}

/// Logits of the wire `blt.logits`, `[1 + bytes, 260]`, and patch lengths with the unseen next
/// byte, for each text alone.
fn logits(plan: &Plan, backend: Rc<dyn Backend>, texts: &[String]) -> Vec<(Vec<f32>, Vec<usize>)> {
    let mut world = World::new();
    world.insert(Session::new(backend));
    let live = Live::build(plan, &["blt.logits", "blt.patches"], world)
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    let of = |text: &String| {
        let batch = Rc::new(Batch::from_documents([text.as_bytes()]));
        let docs = ("docs", AnyValue::new::<ports::Bytes>(batch));
        let mut found = live.run(&[docs], &["blt.logits", "blt.patches"]).unwrap();
        let logits = found.take::<ports::Logits>("blt.logits").unwrap();
        let patches = found.take::<ports::Patches>("blt.patches").unwrap();
        let mut lengths: Vec<usize> = patches.offsets().windows(2).map(|o| o[1] - o[0]).collect();
        match patches.next_starts[0] {
            true => lengths.push(1),
            false => *lengths.last_mut().unwrap() += 1,
        }
        (logits.head.logits(&live.world().get::<Session>().unwrap()).unwrap(), lengths)
    };
    texts.iter().map(of).collect()
}

#[test]
fn logits_are_those_of_the_reference_implementation() {
    let texts = texts();
    let place = Place::new(&texts);
    for name in FIXTURES {
        let expected = numbers(&fixture(name).join("expected.safetensors"));
        let yaml =
            evaluate(DOCS, &fixture(name), "fused") + "  - evaluate: {goal: blt, limit: 1}\n";
        let plan = place.plan(&yaml);
        let backends: [Rc<dyn Backend>; 2] =
            [Rc::new(Fused::new()), Rc::new(Dfdx::<f32, _>::cpu())];
        for backend in backends {
            for (i, (found, _)) in logits(&plan, backend.clone(), &texts).into_iter().enumerate() {
                let found: Vec<f64> = found.into_iter().map(f64::from).collect();
                let what = format!("{name}, {}, text {i}", backend.path());
                close(&found, &expected[&format!("text{i}.logits")], 1e-4, &what);
            }
        }
    }
}

// Bad input

/// Name, type, shape and bytes of each tensor.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let owned = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, owned(view))).collect()
}

fn write_tensors(path: &Path, tensors: &Tensors) {
    let view = |(name, (dtype, shape, bytes)): (&String, &(Dtype, Vec<usize>, Vec<u8>))| {
        (
            name.clone(),
            TensorView::new(*dtype, shape.clone(), bytes).unwrap().data().to_vec(),
            *dtype,
            shape.clone(),
        )
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views = owned.iter().map(|(name, data, dtype, shape)| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

/// A copy of `k2_base` to be damaged.
fn copied(place: &Place) -> PathBuf {
    let dir = place.path("model");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("k2_base").join(file), dir.join(file)).unwrap();
    }
    dir
}

fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = dir.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    edit(&mut tensors);
    write_tensors(&path, &tensors);
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// Splits the weights into two shards with an index.
fn shard(dir: &Path) {
    let whole = dir.join("model.safetensors");
    let tensors = read_tensors(&whole);
    let mut map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new()];
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1)));
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        write_tensors(&dir.join(format!("model-0000{}-of-00002.safetensors", i + 1)), shard);
    }
    fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
    fs::remove_file(whole).unwrap();
}

const NORM: &str = "model.local_decoder.norm.weight";
const HEAD: &str = "lm_head.weight";

#[test]
fn shards_and_half_precision_are_read() {
    let texts = texts();
    let place = Place::new(&texts);
    let dir = copied(&place);
    let whole = nats(&step(&place.run(&evaluate(DOCS, &dir, "fused")), 0));
    shard(&dir);
    assert_eq!(nats(&step(&place.run(&evaluate(DOCS, &dir, "fused")), 0)), whole);
    // Rounding to bf16 moves the numbers, by little; a stale result would be the same. f16 moves
    // them less.
    let mut moved = Vec::new();
    for dtype in [Dtype::BF16, Dtype::F16] {
        let dir = copied(&place);
        edit_tensors(&dir, |tensors| {
            for (kind, _, bytes) in tensors.values_mut() {
                let round = |b: &[u8; 4]| match dtype {
                    Dtype::BF16 => half::bf16::from_f32(f32::from_le_bytes(*b)).to_le_bytes(),
                    _ => half::f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes(),
                };
                *bytes = bytes.as_chunks().0.iter().flat_map(round).collect();
                *kind = dtype;
            }
        });
        for path in ["fused", "reference"] {
            let found = nats(&step(&place.run(&evaluate(DOCS, &dir, path)), 0));
            moved.push(
                found.iter().zip(&whole).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max),
            );
        }
    }
    assert!(moved.iter().all(|&m| m > 0.0 && m < 0.05), "{moved:?}");
    assert!((moved[0] - moved[1]).abs() < 1e-4 && (moved[2] - moved[3]).abs() < 1e-4, "{moved:?}");
}

#[test]
fn a_damaged_directory_is_one_error_that_says_what_was_expected_and_found() {
    type Damage = Box<dyn Fn(&Path)>;
    let tensors =
        |edit: fn(&mut Tensors)| -> Damage { Box::new(move |dir| edit_tensors(dir, edit)) };
    let config = |edit: fn(&mut Value)| -> Damage { Box::new(move |dir| edit_config(dir, edit)) };
    let cases: Vec<(&str, Damage, Vec<&str>)> = vec![
        (
            "a missing shard",
            Box::new(|dir| {
                shard(dir);
                fs::remove_file(dir.join("model-00002-of-00002.safetensors")).unwrap();
            }),
            vec!["model.safetensors.index.json", "model-00002-of-00002.safetensors", "not there"],
        ),
        (
            "another shape",
            tensors(|t| t.get_mut(NORM).unwrap().1 = vec![2, 16]),
            vec!["model.safetensors", NORM, "expected shape [32]", "found [2, 16]"],
        ),
        (
            "another type",
            tensors(|t| {
                let (dtype, _, bytes) = t.get_mut(NORM).unwrap();
                (*dtype, *bytes) = (Dtype::F64, vec![0; 32 * 8]);
            }),
            vec!["model.safetensors", NORM, "expected type F32, BF16 or F16", "found F64"],
        ),
        (
            "a truncated file",
            Box::new(|dir| {
                let path = dir.join("model.safetensors");
                let len = fs::metadata(&path).unwrap().len();
                File::options().write(true).open(&path).unwrap().set_len(len - 100).unwrap();
            }),
            vec!["model.safetensors is truncated", "1179392 bytes", "found 1179292"],
        ),
        (
            "an empty file",
            Box::new(|dir| fs::write(dir.join("model.safetensors"), "").unwrap()),
            vec!["model.safetensors is truncated", "found 0"],
        ),
        (
            "an extra key",
            tensors(|t| {
                let head = t[HEAD].clone();
                t.insert("lm_head.bias".into(), head);
            }),
            vec!["model.safetensors", "unexpected tensor `lm_head.bias`", "[260, 32]"],
        ),
        (
            "a missing key",
            tensors(|t| drop(t.remove(HEAD))),
            vec!["model.safetensors", HEAD, "is missing", "expected shape [260, 32]"],
        ),
        (
            "NaN",
            tensors(|t| {
                t.get_mut(HEAD).unwrap().2[40..44].copy_from_slice(&f32::NAN.to_le_bytes())
            }),
            vec!["model.safetensors", HEAD, "expected finite numbers", "found NaN at element 10"],
        ),
        (
            "no weights",
            Box::new(|dir| fs::remove_file(dir.join("model.safetensors")).unwrap()),
            vec!["neither model.safetensors nor model.safetensors.index.json"],
        ),
        (
            "no configuration",
            Box::new(|dir| fs::remove_file(dir.join("config.json")).unwrap()),
            vec!["config.json", "No such file", "a checkpoint is a directory with config.json"],
        ),
        (
            "another model",
            config(|c| c["model_type"] = json!("llama")),
            vec!["config.json", "`model_type`", "expected \"blt\"", "found \"llama\""],
        ),
        (
            "a field that is not supported",
            config(|c| c["patching_mode"] = json!("bpe")),
            vec!["config.json", "`patching_mode`", "\"bpe\"", "supported: \"entropy\""],
        ),
        (
            "an unknown field",
            config(|c| c["logit_scale"] = json!(2)),
            vec!["config.json", "`logit_scale`"],
        ),
    ];
    let place = Place::new(&texts());
    for (what, damage, says) in cases {
        let dir = copied(&place);
        damage(&dir);
        let error = place.fails(&evaluate(DOCS, &dir, "fused"));
        // Wrapped for the terminal, it is still one message.
        for says in says.iter().chain(&["`blt`", "checkpoint"]) {
            assert!(error.contains(says), "{what}: `{says}` is not in\n{error}");
        }
        assert!(error.contains("hf.yaml:5:"), "{what}: points elsewhere\n{error}");
    }
}

#[test]
fn a_changed_checkpoint_is_noticed() {
    let place = Place::new(&texts());
    let dir = copied(&place);
    let yaml = evaluate(DOCS, &dir, "fused");
    let (first, again) = (place.run(&yaml), place.run(&yaml));
    assert!(again.plans[0].steps.iter().all(|s| s.reused), "the same files");
    edit_config(&dir, |c| c["decoder_config"]["rope_parameters"]["rope_theta"] = json!(1000.0));
    let config = place.run(&yaml);
    assert_ne!(nats(&step(&config, 0)), nats(&step(&first, 0)), "another theta");
    edit_tensors(&dir, |t| t.get_mut(NORM).unwrap().2[0] ^= 0x40);
    let weights = place.run(&yaml);
    assert!(weights.plans[0].steps.iter().all(|s| !s.reused), "other weights");
}

// Graph

/// The nodes that `blt` stands for, as `graph` prints them.
fn standing_for(place: &Place, checkpoint: &Path) -> Vec<String> {
    let text = describe(&place.plan(&evaluate(DOCS, checkpoint, "fused")));
    let after = text.lines().skip_while(|l| l.trim() != "stands for").skip(1);
    after.take_while(|l| l.contains("node:")).map(|l| l.trim().to_owned()).collect()
}

/// The lines are a pipeline: exported, it says what the checkpoint says, field by field.
#[test]
fn the_graph_shows_nodes_that_are_the_checkpoint() {
    let place = Place::new(&texts());
    for name in FIXTURES {
        let lines = standing_for(&place, &fixture(name));
        let kinds: Vec<&str> =
            lines.iter().filter_map(|l| l.split("node: ").nth(1)?.split(',').next()).collect();
        let nodes = [
            "ByteLm",
            "EntropyPatch",
            "ByteEmbed",
            "LocalEncoder",
            "Latent",
            "LocalDecoder",
            "NextByteLoss",
        ];
        assert_eq!(kinds, nodes, "{name}");
        let graph: String = lines.iter().map(|l| format!("  {l}\n")).collect();
        let yaml = format!(
            "name: parts\ngraph:\n  bytes: {DOCS}\n{graph}run:\n  - export: {{goal: loss, dir: it}}\n"
        );
        let report = place.run(&yaml);
        let exported = HfConfig::read(&step(&report, 0).join("outputs/it")).unwrap();
        assert_eq!(exported, HfConfig::read(&fixture(name)).unwrap(), "{name}");
    }
    let nowhere = describe(&place.plan(&evaluate(DOCS, Path::new("nowhere"), "fused")));
    assert!(
        nowhere.contains("stands for what cannot be read")
            && nowhere.contains("nowhere/config.json"),
        "{nowhere}"
    );
}

// Out

/// Text to train on: this very file, in pieces, with some that is not ASCII.
fn corpus() -> Vec<String> {
    let lines: Vec<&str> = include_str!("hf.rs").lines().filter(|l| !l.trim().is_empty()).collect();
    let mut documents: Vec<String> = lines.chunks(6).map(|l| l.join("\n")).collect();
    documents.extend(texts());
    documents
}

/// A pipeline whose model has unequal sizes wherever it may: k, grouped heads, a projection, a
/// theta of its own for each part.
fn trained(patcher: &str, encoder: &str, run: &str) -> String {
    let yaml = format!(
        "name: trained
seed: 5
graph:
  docs: {{node: ParquetBytes, path: docs.parquet, column: text, split: {{valid: 0.2, by: text, calibration: 0.2}}}}
  lm: {{node: ByteLm, in: docs, dim: 16, layers: 2, heads: 2, kv_heads: 1, window: 24, rope_theta: 2000.0, eps: 1e-6}}
  patches: {patcher}
  embed: {{node: ByteEmbed, in: docs, dim: 24, ngrams: [2, 4], table: 61, functions: 2}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, layers: 2, heads: 2, window: 20, k: 3, cross: last, rope_theta: 3000.0{encoder}}}
  latent: {{node: Latent, in: encoder.patches, dim: 40, layers: 2, heads: 4, kv_heads: 2, ffn: 72, rope_theta: 4000.0, eps: 1e-4}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: 2, heads: 4, kv_heads: 2, window: 20, cross: first, rope_theta: 5000.0}}
  loss: {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
{run}"
    );
    match patcher.contains("lm") {
        true => yaml,
        // A node that nothing uses is an error.
        false => {
            yaml.lines().filter(|l| !l.starts_with("  lm:")).map(|l| format!("{l}\n")).collect()
        }
    }
}

const FOUND: &str = "{node: EntropyPatch, in: {bytes: docs, entropies: lm}, bytes_per_patch: 4, max_patch_length: 9}";
const STRIDE: &str = "{node: StridePatch, in: docs, stride: 4}";
const TRAIN: &str = "  - train: {goal: loss, steps: 50, batch_bytes: 1024, lr: 4e-3}
  - evaluate: {goal: loss, split: all}
  - export: {goal: loss}
";
const TRAIN_LM: &str = "  - train: {goal: lm.loss, steps: 30, batch_bytes: 1024, lr: 4e-3}\n";

#[test]
fn a_trained_pipeline_comes_back_as_it_was() {
    let place = Place::new(&corpus());
    let report = place.run(&trained(FOUND, "", &format!("{TRAIN_LM}{TRAIN}")));
    let ours = nats(&step(&report, 2));
    let exported = report.dir.path.join("outputs/hf");
    let result = json_of(step(&report, 3).join("result.json"));
    let config = HfConfig::read(&exported).unwrap();
    let patching = config.patching.as_ref().unwrap();
    // The threshold that was found goes with it.
    let state = json_of(step(&report, 1).join("checkpoints/final/state.json"));
    assert_eq!(
        json!(patching.threshold),
        state["prepared"]["patches"]["rule"]["global"]["threshold"]
    );
    assert_eq!((patching.max_patch_length, &result["patch_in_forward"]), (Some(9), &json!(true)));
    let thetas = [
        &config.encoder.block,
        &config.latent.block,
        &config.decoder.block,
        &patching.patcher.block,
    ];
    assert_eq!(thetas.map(|b| b.rope_theta), [3000.0, 4000.0, 5000.0, 2000.0]);

    // As a directory, and as the run's checkpoint; on the path that it was trained on to the bit.
    let checkpoint = report.dir.path.join("checkpoints/1-train/final");
    for (from, path) in [(&exported, "fused"), (&checkpoint, "fused"), (&exported, "reference")] {
        let again = place.run(&evaluate(DOCS, from, path));
        let theirs = nats(&step(&again, 0));
        assert_eq!(theirs.len(), ours.len());
        for (a, b) in theirs.iter().zip(&ours) {
            match path {
                "fused" => assert_eq!(a, b, "{}", from.display()),
                _ => assert!((a / b - 1.0).abs() < 1e-5, "{a} {b}"),
            }
        }
        let (ours, theirs) = (
            json_of(step(&report, 2).join("result.json")),
            json_of(step(&again, 0).join("result.json")),
        );
        for same in ["patches", "patch_lengths", "parameters"] {
            assert_eq!(ours[same], theirs[same], "{same}");
        }
        for same in ["flops_per_byte", "entropy_flops_per_byte"] {
            let (a, b) = (ours[same].as_f64().unwrap(), theirs[same].as_f64().unwrap());
            assert!(a > 0.0 && (a / b - 1.0).abs() < 1e-12, "{same}: {a} {b}");
        }
    }
}

#[test]
fn an_export_is_verified_on_what_it_wrote() {
    let place = Place::new(&corpus());
    let verified = TRAIN.replace("export: {goal: loss}", "export: {goal: loss, verify: 1000}");
    for (patcher, run, at) in [(FOUND, format!("{TRAIN_LM}{verified}"), 2), (STRIDE, verified, 1)] {
        let report = place.run(&trained(patcher, "", &run));
        let evaluated = json_of(step(&report, at).join("result.json"));
        let read_back = json_of(step(&report, at + 1).join("result.json"))["read_back"].clone();
        // All documents: the numbers are those of the evaluation, by the model on disk.
        for same in ["bytes", "patches"] {
            assert_eq!(read_back[same], evaluated[same], "{same}");
        }
        let (theirs, ours) =
            (read_back["bpb"].as_f64().unwrap(), evaluated["bpb"].as_f64().unwrap());
        assert!((theirs / ours - 1.0).abs() < 1e-12, "{theirs} {ours}");
        assert_eq!(read_back["largest_difference"], json!(0.0));
    }
    for (run, says) in [
        ("  - export: {goal: loss, verify: 0}\n", "no document verifies nothing"),
        ("  - export: {goal: decoder, verify: 3}\n", "only a Loss can be verified"),
    ] {
        let error = place.fails(&trained(
            STRIDE,
            "",
            &format!("  - train: {{goal: loss, steps: 1, batch_bytes: 512, lr: 1e-3}}\n{run}"),
        ));
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_model_with_other_patches_wants_them_back() {
    let place = Place::new(&corpus());
    let report = place
        .run(&trained(STRIDE, "", TRAIN).replace("dim: 24, ngrams: [2, 4]", "dim: 24, ngrams: []"));
    let ours = nats(&step(&report, 1));
    let exported = report.dir.path.join("outputs/hf");
    assert!(HfConfig::read(&exported).unwrap().patching.is_none());
    for from in [&exported, &report.dir.path.join("checkpoints/0-train/final")] {
        let alone = evaluate(DOCS, from, "fused");
        let error = place.fails(&alone);
        assert!(
            error.contains("has no entropy model, so patches must come from outside"),
            "{error}"
        );
        assert!(error.contains("in: {bytes: docs, patches: p}"), "{error}");
        let fed =
            alone.replace("in: docs, checkpoint", "in: {bytes: docs, patches: stride}, checkpoint");
        let fed =
            fed.replace("graph:", "graph:\n  stride: {node: StridePatch, in: docs, stride: 4}");
        let fed = fed.replace("log_probs, entropies,", "log_probs,");
        let again = place.run(&fed);
        assert_eq!(nats(&step(&again, 0)), ours);
        let entropies = place.fails(&fed.replace("[log_probs,", "[entropies,"));
        assert!(entropies.contains("there are no entropies"), "{entropies}");
    }
}

/// Patches from outside take the place of the directory's own; the mark of those that look ahead
/// goes through the node.
#[test]
fn patches_from_outside_replace_the_entropy_model() {
    let place = Place::new(&texts());
    let own = nats(&step(&place.run(&evaluate(DOCS, &fixture("k2_base"), "fused")), 0));
    let yaml = evaluate(DOCS, &fixture("k2_base"), "fused")
        .replace("in: docs, checkpoint", "in: {bytes: docs, patches: p}, checkpoint")
        .replace("log_probs, entropies,", "log_probs,");
    let with = |patcher: &str| {
        let report = place.run(&yaml.replace("graph:", &format!("graph:\n  p: {patcher}")));
        (nats(&step(&report, 0)), json_of(step(&report, 0).join("result.json")))
    };
    let (bytes, result) = with("{node: BytePatch, in: docs}");
    assert_ne!(bytes, own);
    assert_eq!(
        (&result["boundary_lookahead"], &result["entropy_flops_per_byte"]),
        (&json!(false), &json!(0.0))
    );
    let n_parameters = |config: &HfConfig| {
        config.parameters().iter().map(|p| p.shape.iter().product::<usize>()).sum::<usize>()
    };
    let config = HfConfig::read(&fixture("k2_base")).unwrap();
    let without = HfConfig { patching: None, ..config.clone() };
    assert_eq!(
        result["parameters"],
        json!(n_parameters(&without)),
        "the entropy model is not loaded"
    );

    // Its own patch lengths, scored, as a column of the next run.
    let report = place.run(&evaluate(DOCS, &fixture("k2_base"), "fused"));
    fs::copy(step(&report, 1).join("outputs/docs.parquet"), place.path("docs.parquet")).unwrap();
    let column = "graph:\n  p: {node: ColumnPatch, in: docs, column: patch_lengths}";
    let unscored: String =
        yaml.lines().filter(|l| !l.contains("score:")).map(|l| format!("{l}\n")).collect();
    let report = place.run(&unscored.replace("graph:", column));
    assert_eq!(nats(&step(&report, 0)), own);
    assert_eq!(json_of(step(&report, 0).join("result.json"))["boundary_lookahead"], json!(true));
}

#[test]
fn what_the_layout_cannot_say_is_refused_before_anything_runs() {
    let place = Place::new(&corpus());
    let relative = "{node: EntropyPatch, in: {bytes: docs, entropies: lm}, rule: relative, bytes_per_patch: 4}";
    let yaml = trained(relative, ", pooling: mean", &format!("{TRAIN_LM}{TRAIN}"))
        .replace("cross: last", "cross: all")
        .replace(
            "layers: 2, heads: 4, kv_heads: 2, window: 20",
            "layers: 2, heads: 4, kv_heads: 2, window: 30",
        )
        .replace("eps: 1e-6}", "eps: 1e-6, context_reset: newline}");
    let error = place.fails(&yaml);
    for says in [
        "`pooling: mean`",
        "`cross: all` over 2",
        "local windows of 20 bytes",
        "`rule: relative,",
        "newlines",
        "goal",
        "hf.yaml:",
    ] {
        assert!(error.contains(says), "`{says}` is not in\n{error}");
    }
    assert!(!place.path("runs").exists(), "nothing ran");

    let cases = [
        ("  - export: {goal: lm.loss}\n", "it has 0 ByteEmbed nodes where a BLT model has one"),
        (
            "  - export: {goal: patches}\n",
            "`patches` is Patches, and a model is exported by its Loss or Logits",
        ),
        ("  - export: {goal: loss, dir: ../elsewhere}\n", "is not a folder under `outputs/`"),
        ("  - export: {goal: loss, dir: /tmp}\n", "is not a folder under `outputs/`"),
    ];
    for (run, says) in cases {
        let error = place.fails(&trained(FOUND, "", &format!("{TRAIN_LM}{run}")));
        assert!(error.contains(says), "{error}");
    }
    let twice = trained(STRIDE, "", "  - export: {goal: loss}\n")
        .replace("bytes: encoder.bytes, patches: latent", "bytes: encoder.bytes, patches: latent2")
        .replace(
            "  loss:",
            "  latent2: {node: Latent, in: latent, dim: 40, layers: 1, heads: 4}\n  loss:",
        );
    let error = place.fails(&twice);
    assert!(error.contains("it has 2 Latent nodes where a BLT model has one"), "{error}");
}

/// A decoder as a plugin may write one: it wraps `LocalDecoder`, under other names.
#[derive(Serialize, Deserialize, JsonSchema)]
struct WrappedDecoder {
    /// The decoder.
    decoder: LocalDecoder,
}

impl Node for WrappedDecoder {
    const NAME: &'static str = "WrappedDecoder";
    const INPUTS: &'static [&'static str] = &["states", "latents"];
    const OUTPUTS: &'static [&'static str] = &["out"];
    const EXAMPLE: &'static str = "{node: WrappedDecoder, in: {states: encoder.bytes, latents: latent}, decoder: {layers: 1, heads: 2}}";
    type In = <LocalDecoder as Node>::In;
    type Out = <LocalDecoder as Node>::Out;
    type State = <LocalDecoder as Node>::State;

    fn check(
        &self,
        inputs: (ports::ByteStatesInfo, ports::PatchStatesInfo),
        cx: &CheckCx,
    ) -> Result<(), NodeError> {
        self.decoder.check(inputs, cx)
    }

    fn role(
        &self,
        inputs: (ports::ByteStatesInfo, ports::PatchStatesInfo),
    ) -> Result<Option<Box<dyn Any>>, NodeError> {
        self.decoder.role(inputs)
    }

    fn build(
        &self,
        inputs: (ports::ByteStatesInfo, ports::PatchStatesInfo),
        cx: &mut BuildCx,
    ) -> Result<Self::State, NodeError> {
        self.decoder.build(inputs, cx)
    }

    fn run(
        &self,
        state: &Self::State,
        inputs: (ports::ByteStatesValue, ports::PatchStatesValue),
        cx: &RunCx,
    ) -> Result<ports::LogitsValue, NodeError> {
        self.decoder.run(state, inputs, cx)
    }
}

blt_graph::node!(WrappedDecoder);

#[test]
fn a_plugin_s_decoder_exports_and_counts_as_the_built_in_one() {
    let place = Place::new(&corpus());
    let built_in = trained(STRIDE, "", &TRAIN.replace("steps: 50", "steps: 3"));
    let old = "LocalDecoder, in: {bytes: encoder.bytes, patches: latent}, ";
    assert_eq!(built_in.matches(old).count(), 1);
    let wrapped = built_in
        .replace(old, "WrappedDecoder, in: {states: encoder.bytes, latents: latent}, decoder: {")
        .replace("rope_theta: 5000.0}", "rope_theta: 5000.0}}");
    let (expected, found) = (place.run(&built_in), place.run(&wrapped));
    assert_eq!(nats(&step(&found, 1)), nats(&step(&expected, 1)));
    let closed_form =
        |run| json_of(step(run, 1).join("result.json"))["closed_form_flops_per_byte"].clone();
    assert!(closed_form(&found).as_f64() > Some(0.0));
    assert_eq!(closed_form(&found), closed_form(&expected));
    for file in ["config.json", "model.safetensors"] {
        let read = |run: &RunReport| fs::read(run.dir.path.join("outputs/hf").join(file)).unwrap();
        assert_eq!(read(&found), read(&expected), "{file}");
    }
}

#[test]
fn a_checkpoint_is_fine_tuned_and_exported() {
    let place = Place::new(&corpus());
    let yaml = evaluate("{node: ParquetBytes, path: docs.parquet, column: text, split: {valid: 0.2, by: text}}", &fixture("k2_base"), "fused")
        .replace(
            "run:\n  - evaluate: {goal: blt, split: all}\n",
            "run:\n  - train: {goal: blt, steps: 10, batch_bytes: 1024, lr: 2e-3}\n  - evaluate: {goal: blt}\n  - export: {goal: blt}\n",
        );
    let report = place.run(&yaml);
    let before = place
        .run(&yaml.replace("  - train: {goal: blt, steps: 10, batch_bytes: 1024, lr: 2e-3}\n", ""));
    let bpb = |step: PathBuf| json_of(step.join("result.json"))["bpb"].as_f64().unwrap();
    let (tuned, untuned) = (bpb(step(&report, 1)), bpb(step(&before, 0)));
    assert!(tuned < untuned - 1.0, "{tuned} {untuned}");
    let exported = report.dir.path.join("outputs/2-export/hf");
    assert_eq!(HfConfig::read(&exported).unwrap(), HfConfig::read(&fixture("k2_base")).unwrap());
    let (old, new) = (
        read_tensors(&fixture("k2_base").join("model.safetensors")),
        read_tensors(&exported.join("model.safetensors")),
    );
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    for (name, tensor) in &old {
        // Borders have no gradient: the entropy model stays.
        assert_eq!(new[name] == *tensor, name.starts_with("model.patcher."), "{name}");
    }
    // Untrained, it is the same bytes; and the trained one is read as it was.
    let untouched = read_tensors(&before.dir.path.join("outputs/1-export/hf/model.safetensors"));
    assert!(untouched == old);
    let again = place.run(
        &yaml
            .replace("  - train: {goal: blt, steps: 10, batch_bytes: 1024, lr: 2e-3}\n", "")
            .replace(
                &format!("{:?}", fixture("k2_base")),
                &format!("{:?}", report.dir.path.join("checkpoints/0-train/final")),
            ),
    );
    assert_eq!(nats(&step(&again, 0)), nats(&step(&report, 1)));
}

/// Writes two exported models and their logits for `tests/peer/check_export.py` into the folder
/// `BLT_EXPORT_DIR`.
#[test]
#[ignore = "writes files for the reference implementation to check"]
fn exports_for_the_reference_implementation() {
    let to =
        PathBuf::from(std::env::var_os("BLT_EXPORT_DIR").expect("BLT_EXPORT_DIR names a folder"));
    let place = Place::new(&corpus());
    for (name, patcher, run) in
        [("entropy", FOUND, format!("{TRAIN_LM}{TRAIN}")), ("stride", STRIDE, TRAIN.to_owned())]
    {
        let report = place.run(&trained(patcher, "", &run));
        let dir = to.join(name);
        fs::create_dir_all(&dir).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(report.dir.path.join("outputs/hf").join(file), dir.join(file)).unwrap();
        }
        let mut yaml = evaluate(DOCS, &dir, "fused");
        if name == "stride" {
            yaml = yaml
                .replace("in: docs, checkpoint", "in: {bytes: docs, patches: stride}, checkpoint");
            yaml = yaml
                .replace("graph:", "graph:\n  stride: {node: StridePatch, in: docs, stride: 4}");
            yaml = yaml.replace("log_probs, entropies,", "log_probs,");
        }
        let texts: Vec<String> =
            texts().into_iter().chain(["x".to_owned(), String::new()]).collect();
        let found = logits(&place.plan(&yaml), Rc::new(Fused::new()), &texts);
        let mut tensors = Tensors::new();
        for (i, (text, (logits, lengths))) in texts.iter().zip(&found).enumerate() {
            let ids: Vec<u16> =
                std::iter::once(BOS).chain(text.bytes().map(|b| b as u16 + OFFSET)).collect();
            let i64s = |x: &[i64]| {
                (Dtype::I64, vec![x.len()], x.iter().flat_map(|x| x.to_le_bytes()).collect())
            };
            let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
            let lengths: Vec<i64> = lengths.iter().map(|&x| x as i64).collect();
            let bytes = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.insert(format!("text{i}.logits"), (Dtype::F32, vec![ids.len(), VOCAB], bytes));
            tensors.insert(format!("text{i}.input_ids"), i64s(&ids));
            tensors.insert(format!("text{i}.patch_lengths"), i64s(&lengths));
        }
        write_tensors(&to.join(format!("{name}.safetensors")), &tensors);
        assert!(Weights::open(&dir).is_ok());
    }
}
