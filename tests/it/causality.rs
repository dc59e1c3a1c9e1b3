//! Byte i's logits depend on bytes up to i alone, to the bit, with every patcher that claims to be
//! incremental.
//!
//! For a document and each position j: changing byte j, or cutting the document off before it,
//! moves no logit before j, the last position of the prefix included. The changes do move patch
//! borders, or the test would have no teeth; and it catches a decoder that reads one patch too far,
//! and a patcher that starts a patch at the newline instead of after it.

use blt::{node, params};
use blt_core::backend::fused::Fused;
use blt_core::backend::{Backend, BlockConfig, CrossConfig, CrossParams, HashConfig, Pooling};
use blt_core::bytes::{Batch, is_byte};
use blt_core::model::{self, Session};
use blt_core::params::ParamMaker;
use blt_core::patch::stream::ByteStream;
use blt_core::patch::{Patches, space_patches};
use blt_graph::registry::{self, NodeEntry};
use blt_graph::{AnyValue, CheckCx, Live, Node, NodeError, PipelineSpec, Plan, RunCx, World};
use blt_plugins::ports;
use blt_plugins::testing::Alone;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use std::path::Path;
use std::rc::Rc;

const TEXT: &str = "fn main() {\n    println!(\"hi, 42\");\n}\n\nA patch ends; 한국어 글 🙂 begins.\nTwo  spaces, then the end";

/// What a model says of a document: logits `[1 + bytes, 260]` as bits, and where patches start.
type Said = (Vec<u32>, Vec<usize>);

/// Perturbs and truncates at every position. Ok: how many perturbations moved a border; Err: where
/// the future was seen.
fn holds(model: &dyn Fn(&[u8]) -> Said, text: &[u8]) -> Result<usize, String> {
    let (whole, starts) = model(text);
    let width = whole.len() / (text.len() + 1);
    let mut moved = 0;
    for j in 0..text.len() {
        // Rows 0..=j stand for BOS and bytes 0..j: all that was read before byte j.
        let before = (j + 1) * width;
        for replacement in [b' ', b'\n', b'x', text[j] ^ 0x81] {
            let mut other = text.to_vec();
            other[j] = replacement;
            let (logits, other_starts) = model(&other);
            if logits[..before] != whole[..before] {
                return Err(format!("changing byte {j} to {replacement} moved a logit before it"));
            }
            moved += (other_starts != starts) as usize;
        }
        let (prefix, _) = model(&text[..j]);
        if prefix[..] != whole[..before] {
            let row = prefix.iter().zip(&whole).position(|(a, b)| a != b).unwrap_or(0) / width;
            return Err(format!("cutting before byte {j} moved the logits of position {row}"));
        }
    }
    Ok(moved)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// A pipeline of untrained nodes with this patcher and these encoder parameters.
fn plan(patcher: &str, encoder: &str) -> Plan {
    let text = format!(
        "name: causality
graph:
  docs: {{node: TextFiles, path: none.txt}}
  entropy: {{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 8}}
  lines: {{node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 8, context_reset: newline}}
  patches: {patcher}
  embed: {{node: ByteEmbed, in: docs, dim: 16, ngrams: [2, 3], table: 50}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, heads: 2, window: 8, {encoder}}}
  latent: {{node: Latent, in: encoder.patches, dim: 24, layers: 2, heads: 2}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: 2, heads: 2, window: 8}}
  loss: {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
  - train: {{goal: loss, steps: 1, batch_bytes: 100, lr: 1e-3}}
  - evaluate: {{goal: entropy.loss}}
  - evaluate: {{goal: lines.loss}}
"
    );
    let spec = PipelineSpec::parse(&text, "causality.yaml")
        .unwrap_or_else(|e| panic!("{}", e.render(false)));
    Plan::check(&spec, "base", 7, Path::new(".")).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn docs(text: &[u8]) -> [(&'static str, AnyValue); 1] {
    let batch = Rc::new(Batch::from_documents([text]));
    [("docs", AnyValue::new::<ports::Bytes>(batch))]
}

fn live(plan: &Plan, goals: &[&str]) -> Live {
    let mut world = World::new();
    world.insert(Session::new(Rc::new(Fused::new())));
    Live::build(plan, goals, world).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn model_of(plan: &Plan) -> impl Fn(&[u8]) -> Said + use<> {
    let live = live(plan, &["decoder", "patches"]);
    move |text| {
        let mut values = live
            .run(&docs(text), &["decoder", "patches"])
            .unwrap_or_else(|e| panic!("{}", e.diagnostics.render(false)));
        let logits = values.take::<ports::Logits>("decoder").unwrap();
        let patches = values.take::<ports::Patches>("patches").unwrap();
        (
            bits(&logits.head.logits(&live.world().get::<Session>().unwrap()).unwrap()),
            patches.starts.clone(),
        )
    }
}

/// The middle of an untrained model's entropies (or of their differences): a threshold that gives
/// borders.
fn middle(node: &str, difference: bool) -> f32 {
    let plan = plan("{node: BytePatch, in: docs}", "k: 1");
    let live = live(&plan, &[&format!("{node}.entropies")]);
    let goal = format!("{node}.entropies");
    let entropies = live.get::<ports::Entropies>(&docs(TEXT.as_bytes()), &goal).unwrap();
    let mut values: Vec<f32> = match difference {
        false => entropies.to_vec(),
        true => entropies.windows(2).map(|w| w[1] - w[0]).collect(),
    };
    values.sort_by(f32::total_cmp);
    values[values.len() * 3 / 5]
}

/// Every incremental patcher, with the parameters that change how it starts patches; and whether
/// bytes move its borders.
fn incremental_patchers() -> Vec<(String, bool)> {
    let (global, relative, lines) =
        (middle("entropy", false), middle("entropy", true), middle("lines", false));
    let entropy = |from: &str, rule: String| {
        (format!("{{node: EntropyPatch, in: {{bytes: docs, entropies: {from}}}, {rule}}}"), true)
    };
    vec![
        ("{node: BytePatch, in: docs}".into(), false),
        ("{node: StridePatch, in: docs, stride: 5}".into(), false),
        ("{node: StridePatch, in: docs, stride: 3.7}".into(), false),
        ("{node: StridePatch, in: docs, stride: 5, align: character}".into(), true),
        (
            "{node: StridePatch, in: docs, stride: 6, align: space, max_patch_length: 9}".into(),
            true,
        ),
        ("{node: SpacePatch, in: docs}".into(), true),
        ("{node: SpacePatch, in: docs, max_patch_length: 4}".into(), true),
        entropy("entropy", format!("threshold: {global}")),
        entropy("entropy", format!("threshold: {global}, max_patch_length: 3")),
        entropy("entropy", format!("rule: relative, relative_threshold: {relative}")),
        entropy(
            "entropy",
            format!(
                "rule: both, threshold: {global}, relative_threshold: {relative}, max_patch_length: 6"
            ),
        ),
        entropy("lines", format!("threshold: {lines}")),
        entropy("entropy", format!("rule: jump, relative_threshold: {relative}, mean_bytes: 4")),
        entropy(
            "entropy",
            format!("threshold: {global}, min_patch_length: 3, max_patch_length: 9"),
        ),
        entropy("entropy", format!("threshold: {global}, align: character, max_patch_length: 2")),
    ]
}

#[test]
fn every_incremental_patcher_keeps_the_future_out() {
    for (patcher, moves) in incremental_patchers() {
        for k in [1, 2, 4] {
            for (pooling, cross) in [("max", "last"), ("mean", "all"), ("min", "all_repool")] {
                let plan = plan(
                    &patcher,
                    &format!("layers: 2, k: {k}, pooling: {pooling}, cross: {cross}"),
                );
                let moved = holds(&model_of(&plan), TEXT.as_bytes())
                    .unwrap_or_else(|e| panic!("{patcher}, k {k}, {pooling}, {cross}: {e}"));
                assert_eq!(moved > 0, moves, "{patcher}: {moved} perturbations moved a border");
            }
        }
    }
}

#[test]
fn the_table_above_covers_every_patcher_that_is_registered() {
    let tested: Vec<String> = incremental_patchers().into_iter().map(|(p, _)| p).collect();
    for entry in registry::nodes() {
        let is_patcher = entry.out_slots().iter().any(|slot| slot.name == "Patches");
        // Borders that look ahead, the broken one below, and a whole model, whose entropy patcher
        // is the one above.
        const OTHERS: [&str; 5] =
            ["BpePatch", "ColumnPatch", "ShuffledPatch", "StartsAtNewline", "Blt"];
        if is_patcher && !OTHERS.contains(&entry.name) {
            assert!(
                tested.iter().any(|p| p.contains(&format!("node: {},", entry.name))),
                "{} is not tested",
                entry.name
            );
        }
    }
}

#[test]
fn every_incremental_patcher_streams_the_patches_that_it_packs() {
    let base = tempfile::tempdir().unwrap();
    let model = base.path().join("path/to/dir");
    std::fs::create_dir_all(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/k2_base").join(name);
        std::fs::copy(fixture, model.join(name)).unwrap();
    }
    let byte = prop_oneof![3 => Just(b'a'), 2 => Just(b' '), 1 => Just(b'\n'), 1 => any::<u8>()];
    let documents = prop::collection::vec(prop::collection::vec(byte, 0..40), 1..4);
    let (mut streamed, mut wrong) = (Vec::new(), Vec::new());
    let gives_patches =
        |entry: &&NodeEntry| entry.out_slots().iter().any(|slot| slot.name == "Patches");
    for entry in registry::nodes().into_iter().filter(gives_patches) {
        let alone = Alone::of_example(entry, base.path());
        let alone = alone.unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        if !alone.is_incremental_patcher() {
            continue;
        }
        let result = TestRunner::deterministic().run(&documents, |documents| {
            let documents: Vec<&[u8]> = documents.iter().map(Vec::as_slice).collect();
            alone.streams(&documents).map_err(TestCaseError::fail)
        });
        match result {
            Ok(()) => streamed.push(entry.name),
            Err(error) => wrong.push((entry.name, error.to_string())),
        }
    }
    assert!(streamed.len() >= 5, "{streamed:?}");
    // The one that only claims it is caught; no other is.
    assert_eq!(
        wrong.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["StartsAtNewline"],
        "{wrong:#?}"
    );
    assert!(wrong[0].1.contains("cannot stream"), "{wrong:?}");
}

/// Starts a patch at each newline, and claims to be incremental: whether byte i+1 starts a patch
/// depends on byte i+1.
#[params]
struct StartsAtNewline {}

#[node(example = "in: docs")]
impl Node for StartsAtNewline {
    type In = ports::Bytes;
    type Out = ports::Patches;

    fn check(&self, _: ports::BytesInfo, _: &CheckCx) -> Result<ports::PatchesInfo, NodeError> {
        Ok(ports::PatchesInfo::streamed::<ByteStream>())
    }
    fn run(&self, _: &(), batch: Rc<Batch>, _: &RunCx) -> Result<Rc<Patches>, NodeError> {
        let flags: Vec<bool> = batch.ids.iter().map(|&id| is_byte(id, b'\n')).collect();
        Ok(Rc::new(Patches::from_flags(&batch, &flags, vec![false; batch.n_spans()])))
    }
}

#[test]
fn a_patcher_that_starts_at_its_newline_is_caught() {
    let plan = plan("{node: StartsAtNewline, in: docs}", "k: 2");
    let found = holds(&model_of(&plan), TEXT.as_bytes());
    assert!(found.is_err(), "{found:?}");
}

/// A model put together by hand, whose decoder reads `shift` patches further than it should.
fn by_hand(shift: u32) -> impl Fn(&[u8]) -> Said {
    let backend: Rc<dyn Backend> = Rc::new(Fused::new());
    let session = Session::new(backend.clone());
    let block = BlockConfig {
        dim: 16,
        heads: 2,
        kv_heads: 2,
        head_dim: 8,
        ffn: 32,
        window: Some(8),
        rope_theta: 1e4,
        eps: 1e-5,
    };
    let cross = CrossConfig { dim: 16, heads: 2, kv_heads: 2, head_dim: 8, eps: 1e-5 };
    let mut maker = ParamMaker::new(&*backend, 3);
    let hash = HashConfig { sizes: vec![3], functions: 1, vocab: 40 };
    let embed = model::ByteEmbed::new(&mut maker, 16, Some(hash));
    let encoder = model::LocalEncoder::new(
        &mut maker,
        &model::LocalEncoderConfig {
            layers: 1,
            block: block.clone(),
            cross: cross.clone(),
            cross_layers: model::CrossLayers::Last,
            pooling: Pooling::Max,
            k: 2,
        },
    );
    let params = CrossParams {
        q_norm: maker.norm("q_norm", 16),
        k_norm: maker.norm("k_norm", 16),
        q: maker.linear("q", 16, 16),
        k: maker.linear("k", 16, 16),
        v: maker.linear("v", 16, 16),
        o: maker.linear("o", 16, 16),
    };
    let (norm, head) = (maker.norm("norm", 16), maker.linear("head", 260, 16));
    move |text| {
        let batch = Batch::from_documents([text]);
        let patches = space_patches(&batch);
        let x = embed.forward(&session, &batch).unwrap();
        let (bytes, states) = encoder.forward(&session, x, &batch, &patches).unwrap();
        let kv = session.backend.reshape(&states, patches.n_patches() * 2, 16).unwrap();
        let last = patches.n_patches() as u32 - 1;
        let reads: Vec<u32> = patches
            .decoder_reads(&batch.offsets)
            .into_iter()
            .map(|patch| (patch + shift).min(last))
            .collect();
        let x = session.backend.decoder_cross(&bytes, &kv, &reads, 2, &params, &cross).unwrap();
        (bits(&session.backend.head_logits(&x, norm, head, 1e-5).unwrap()), patches.starts)
    }
}

#[test]
fn a_decoder_that_reads_one_patch_too_far_is_caught() {
    assert!(holds(&by_hand(0), TEXT.as_bytes()).unwrap() > 0);
    let found = holds(&by_hand(1), TEXT.as_bytes());
    assert!(found.is_err(), "{found:?}");
}
