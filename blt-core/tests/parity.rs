//! Both paths against the numbers of the reference implementation (Hugging Face transformers): the
//! stored fixtures of `tests/parity`, and any folder of settings that `tests/peer/fixtures.py fuzz`
//! made.

#[path = "common/peer.rs"]
mod peer;

use blt_core::backend::Backend;
use blt_core::backend::device::Device;
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::bytes::{Batch, OFFSET, VOCAB};
use blt_core::hf::{HfConfig, write_directory};
use blt_core::model::next_byte_targets;
use blt_core::patch::Patches;
use peer::{Model, Numbers, largest_difference, norm};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is compared, and the largest deviation allowed.
const ENTROPIES: (&str, f64) = ("entropies (nats)", 1e-4);
const LOGITS: (&str, f64) = ("logits", 1e-4);
const LOG_PROBS: (&str, f64) = ("log probabilities (nats)", 1e-4);
const LOSS: (&str, f64) = ("loss (relative)", 1e-5);
const GRADIENTS: (&str, f64) = ("gradients (relative, in norm)", 1e-3);
const DEAD: (&str, f64) = ("gradients that are zero there", 1e-6);
const PACKED: (&str, f64) = ("packed against alone", 1e-5);
const PACKED_FUSED: (&str, f64) = ("packed against alone", 0.0);
/// cuBLAS chooses its kernels, and the order of their sums, by the number of rows.
const PACKED_GPU: (&str, f64) = ("packed against alone", 1e-4);
/// An entropy this close to the threshold may fall on either side.
const NEAR_TIE: f32 = 1e-5;

/// The largest deviation of each kind, and where it was seen.
#[derive(Default)]
struct Deviations {
    largest: BTreeMap<&'static str, (f64, f64, String)>,
    near_ties: Vec<String>,
    failures: Vec<String>,
}

impl Deviations {
    fn note(&mut self, (kind, allowed): (&'static str, f64), deviation: f64, place: &str) {
        // A NaN counts as the largest of all.
        let deviation = if deviation.is_nan() { f64::INFINITY } else { deviation };
        if deviation > allowed {
            self.failures.push(format!("{place}: {kind}: {deviation:.3e}, allowed {allowed:.0e}"));
        }
        let worst = self.largest.entry(kind).or_insert((-1.0, allowed, String::new()));
        if deviation > worst.0 {
            *worst = (deviation, allowed, place.to_owned());
        }
    }

    fn print(&self, path: &str, settings: usize) {
        println!("\n{path}, {settings} settings");
        for (kind, (deviation, allowed, place)) in &self.largest {
            println!("  {kind:32} {deviation:9.2e}  allowed {allowed:5.0e}  {place}");
        }
        for tie in &self.near_ties {
            println!("  near-tie: {tie}");
        }
    }

    fn check(&self) {
        let shown = &self.failures[..self.failures.len().min(40)];
        assert!(
            self.failures.is_empty(),
            "{} deviations too large:\n{}",
            self.failures.len(),
            shown.join("\n")
        );
    }
}

fn log_prob(logits: &[f32], target: u16) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)) as f64;
    let sum: f64 = logits.iter().map(|&l| (l as f64 - max).exp()).sum();
    logits[target as usize] as f64 - max - sum.ln()
}

/// Holds one directory's numbers against one backend.
fn compare(dir: &Path, backend: Rc<dyn Backend>, seen: &mut Deviations) {
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    let packed = match (backend.path(), backend.device().as_str()) {
        ("fused", _) => PACKED_FUSED,
        (_, "cpu") => PACKED,
        _ => PACKED_GPU,
    };
    let model = Model::load(dir, backend);
    let expected = Numbers::read(&dir.join("expected.safetensors"));
    let all_gradients = Numbers::read(&dir.join("grads_all.safetensors"));
    let n_texts =
        (0..).take_while(|i| expected.get(&format!("text{i}.input_ids")).is_some()).count();
    assert!(n_texts > 0, "{name}: no text0.input_ids");

    let texts: Vec<Vec<u8>> = (0..n_texts)
        .map(|i| {
            expected.of_text(i, "input_ids")[1..]
                .iter()
                .map(|&id| (id as u16 - OFFSET) as u8)
                .collect()
        })
        .collect();
    let lengths: Vec<Vec<f32>> = (0..n_texts)
        .map(|i| expected.of_text(i, "patch_lengths").iter().map(|&l| l as f32).collect())
        .collect();
    let mut alone = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let place = format!("{name} text {i}");
        let batch = Batch::from_documents([text.as_slice()]);
        let entropies = model.entropies(&batch);
        if let Some(entropies) = &entropies {
            seen.note(
                ENTROPIES,
                largest_difference(entropies, expected.of_text(i, "entropies")),
                &place,
            );
        }
        let patches = model.patches(&batch, entropies.as_deref(), &lengths[i..=i]);
        if !same_patches(&model, &patches, &lengths[i]) {
            let threshold = model.config.patching.as_ref().map_or(f32::NAN, |p| p.threshold as f32);
            match entropies.iter().flatten().find(|&e| (e - threshold).abs() <= NEAR_TIE) {
                Some(e) => {
                    seen.near_ties.push(format!("{place}: entropy {e}, threshold {threshold}"))
                }
                None => seen.failures.push(format!(
                    "{place}: patch lengths: expected {:?}, found {:?}",
                    lengths[i],
                    patches.span_lengths(0).collect::<Vec<_>>()
                )),
            }
            continue;
        }
        let logits = model.head(&batch, &patches).logits(&model.cx).unwrap();
        // With max_patch_length the reference's last position does not know that a full patch
        // ended.
        let split = model.config.patching.as_ref().is_some_and(|p| p.max_patch_length.is_some());
        let compared = (batch.len() - split as usize) * VOCAB;
        seen.note(
            LOGITS,
            largest_difference(&logits[..compared], &expected.of_text(i, "logits")[..compared]),
            &place,
        );
        let log_probs: Vec<f32> = (1..batch.len())
            .map(|t| log_prob(&logits[(t - 1) * VOCAB..t * VOCAB], batch.ids[t]) as f32)
            .collect();
        seen.note(
            LOG_PROBS,
            largest_difference(&log_probs, expected.of_text(i, "next_logprobs")),
            &place,
        );
        gradients(&model, &batch, &patches, i, &expected, &all_gradients, seen, &place);
        alone.push((i, entropies, logits));
    }

    let batch = Batch::from_documents(texts.iter().map(Vec::as_slice));
    let entropies = model.entropies(&batch);
    let patches = model.patches(&batch, entropies.as_deref(), &lengths);
    let logits = model.head(&batch, &patches).logits(&model.cx).unwrap();
    for (i, alone_entropies, alone_logits) in alone {
        let (a, b) = (batch.offsets[i], batch.offsets[i + 1]);
        let widen = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<_>>();
        let mut deviation =
            largest_difference(&logits[a * VOCAB..b * VOCAB], &widen(&alone_logits));
        if let (Some(packed), Some(alone)) = (&entropies, &alone_entropies) {
            deviation = deviation.max(largest_difference(&packed[a..b], &widen(alone)));
        }
        seen.note(packed, deviation, &format!("{name} text {i}"));
    }
}

/// Whether our patches of a lone text are the reference's. Its trailing zero says that the next
/// byte would start a patch (only without `max_patch_length`, which drops it).
fn same_patches(model: &Model, patches: &Patches, theirs: &[f32]) -> bool {
    let Some(patching) = &model.config.patching else { return true };
    let next_starts = theirs.last() == Some(&0.0);
    let lengths = theirs.iter().map(|&l| l as usize).filter(|&l| l > 0);
    patches.span_lengths(0).eq(lengths)
        && (patching.max_patch_length.is_some() || patches.next_starts[0] == next_starts)
}

#[allow(clippy::too_many_arguments)] // What is compared, against what, and where it is noted.
fn gradients(
    model: &Model,
    batch: &Batch,
    patches: &Patches,
    text: usize,
    expected: &Numbers,
    all: &Numbers,
    seen: &mut Deviations,
    place: &str,
) {
    let Some(loss) = expected.get(&format!("text{text}.loss")) else {
        assert_eq!(batch.len(), 1, "{place}: only a text without a byte has no loss");
        return;
    };
    let backend = &model.cx.backend;
    backend.zero_grads();
    backend.record(true);
    let head = model.head(batch, patches);
    let ours = head.loss(&model.cx, &next_byte_targets(batch, false)).unwrap();
    let value = backend.to_host(&ours.loss).unwrap()[0] as f64;
    seen.note(LOSS, (value - loss[0]).abs() / loss[0].abs(), place);
    let nats: Vec<f32> = ours.nats[..batch.len() - 1].iter().map(|n| -n).collect();
    seen.note(LOG_PROBS, largest_difference(&nats, expected.of_text(text, "next_logprobs")), place);
    backend.backward(&ours.loss).unwrap();
    backend.record(false);

    let total = norm(all.0.values().flat_map(|(_, g)| g.iter().copied()));
    for p in &model.params {
        let theirs = match text {
            0 => all.get(&p.name),
            _ => expected.get(&format!("text{text}.grad.{}", p.name)),
        };
        let ours = backend.grad(p.id).unwrap().unwrap_or_else(|| vec![0.0; p.n_elements()]);
        let place = format!("{place} {}", p.name);
        match theirs {
            Some(theirs) => {
                assert_eq!(ours.len(), theirs.len(), "{place}");
                let size = norm(theirs.iter().copied());
                let difference = norm(ours.iter().zip(theirs).map(|(&a, b)| a as f64 - b));
                // Where softmax has one key to choose from, what remains of a gradient is rounding
                // on both sides.
                if size > 1e-6 * total {
                    seen.note(GRADIENTS, difference / size, &place);
                } else {
                    seen.note(DEAD, difference / total, &place);
                }
            }
            None if text == 0 => {
                seen.note(DEAD, norm(ours.iter().map(|&g| g as f64)) / total, &place)
            }
            None => {}
        }
    }
}

type Make = fn() -> Rc<dyn Backend>;

const PATHS: [Make; 2] =
    [|| Rc::new(Fused::new()), || Rc::new(Dfdx::<f32, dfdx::tensor::Cpu>::cpu())];

fn directories(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.join("config.json").exists()).collect();
    found.sort();
    assert!(!found.is_empty(), "{} holds no settings", folder.display());
    found
}

fn fixtures() -> Vec<PathBuf> {
    let dirs = directories(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity"));
    assert_eq!(dirs.len(), 3);
    dirs
}

/// Runs every directory on every path, prints the largest deviations, and fails if one is too
/// large.
fn compare_all(dirs: &[PathBuf], paths: &[Make]) {
    let mut failed = Vec::new();
    for make in paths {
        let mut seen = Deviations::default();
        let mut path = "";
        for dir in dirs {
            let backend = make();
            path = backend.path();
            compare(dir, backend, &mut seen);
        }
        seen.print(path, dirs.len());
        failed.push(seen);
    }
    failed.iter().for_each(Deviations::check);
}

#[test]
fn fixtures_agree_on_both_paths() {
    compare_all(&fixtures(), &PATHS);
}

/// As on a GPU, with the processor as the device.
#[test]
fn fixtures_agree_with_resident_parameters() {
    compare_all(
        &fixtures(),
        &[|| Rc::new(Dfdx::<f32, _>::resident(dfdx::tensor::Cpu::default(), Device::Cpu))],
    );
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn fixtures_agree() {
        let gpu =
            || blt_core::backend::gpu::open(0).unwrap_or_else(|e| panic!("{e}: {}", e.help()));
        compare_all(&fixtures(), &[gpu]);
    }
}

/// `BLT_FUZZ_DIR=DIR cargo test --release -p blt-core --test parity -- --ignored --nocapture`,
/// where DIR is what `tests/peer/fixtures.py fuzz --out DIR` made.
#[test]
#[ignore = "needs BLT_FUZZ_DIR, a folder of random settings made by tests/peer/fixtures.py"]
fn random_settings_agree_on_both_paths() {
    let folder = std::env::var_os("BLT_FUZZ_DIR").expect("BLT_FUZZ_DIR names a folder of settings");
    let dirs = directories(Path::new(&folder));
    let mut covered: BTreeMap<String, usize> = BTreeMap::new();
    for dir in &dirs {
        let meta = std::fs::read(dir.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        for name in meta["covers"].as_array().into_iter().flatten() {
            *covered.entry(name.as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    for (name, n) in &covered {
        println!("{name:44} {n}");
    }
    compare_all(&dirs, &PATHS);
}

/// `BLT_EXPORT_DIR=DIR cargo test ... --test parity -- --ignored exports`: writes models as this
/// project initialises them under DIR, each with its logits beside it, for
/// `tests/peer/check_export.py DIR/NAME DIR/NAME.safetensors`.
#[test]
#[ignore = "needs BLT_EXPORT_DIR; the check itself is tests/peer/check_export.py"]
fn exports_for_the_library() {
    let folder =
        PathBuf::from(std::env::var_os("BLT_EXPORT_DIR").expect("BLT_EXPORT_DIR names a folder"));
    std::fs::create_dir_all(&folder).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity");
    let texts = [
        "Bytes to patches.\n".repeat(30).into_bytes(),
        "한국어 🙂".into(),
        b"x".to_vec(),
        Vec::new(),
    ];
    for fixture in ["k1_proj_gqa_win", "k2_base", "k4_all_fullattn"] {
        for variant in ["whole", "outside", "untabled", "split"] {
            let mut config = HfConfig::read(&fixtures.join(fixture)).unwrap();
            match variant {
                "outside" => config.patching = None,
                "untabled" => config.hash = None,
                "split" => config.patching.as_mut().unwrap().max_patch_length = Some(3),
                _ => {}
            }
            // Median entropy of an untrained model, so that both sides of the threshold occur.
            if let Some(p) = &mut config.patching {
                p.threshold = 5.05;
            }
            let model = Model::new(config, Rc::new(Fused::new()));
            let backend = &model.cx.backend;
            let of = |name: &str| {
                backend.read_param(model.params.iter().find(|p| p.name == name).unwrap().id)
            };
            let dir = folder.join(format!("{fixture}-{variant}"));
            write_directory(&dir, &model.config, of).unwrap();
            let mut numbers: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                let batch = Batch::from_documents([text.as_slice()]);
                let entropies = model.entropies(&batch);
                let lengths = std::iter::once(1)
                    .chain((1..batch.len()).step_by(4).map(|at| 4.min(batch.len() - at)));
                let mut lengths: Vec<f32> = lengths.map(|l| l as f32).collect();
                lengths.push(1.0); // The unseen next byte starts a patch.
                let patches = model.patches(&batch, entropies.as_deref(), &[lengths.clone()]);
                let logits = model.head(&batch, &patches).logits(&model.cx).unwrap();
                let ids: Vec<f32> = batch.ids.iter().map(|&id| id as f32).collect();
                numbers.push((format!("text{i}.input_ids"), vec![ids.len()], ids));
                numbers.push((format!("text{i}.patch_lengths"), vec![lengths.len()], lengths));
                numbers.push((format!("text{i}.logits"), vec![batch.len(), VOCAB], logits));
            }
            let path = folder.join(format!("{fixture}-{variant}.safetensors"));
            blt_core::checkpoint::write_tensors(
                &path,
                numbers
                    .into_iter()
                    .map(|(name, shape, data)| (name, shape, move || Ok(data.clone()))),
            )
            .unwrap();
            println!("{}", dir.display());
        }
    }
}
