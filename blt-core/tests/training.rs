//! Training against the reference implementation (Hugging Face transformers, torch's AdamW), with
//! the numbers that `tests/peer/train_parity.py` made: those of `tests/parity_training`, or of the
//! folder `BLT_TRAINING_DIR`.

#[path = "common/peer.rs"]
mod peer;

use blt_core::backend::Backend;
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::fused::Fused;
use blt_core::bytes::Batch;
use blt_core::checkpoint::write_tensors;
use blt_core::model::next_byte_targets;
use blt_core::optim::AdamWConfig;
use blt_core::patch::Patches;
use peer::{Model, Numbers, norm};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Updates before a checkpoint; its batch is the one of the same number.
const CHECKPOINTS: [usize; 4] = [0, 30, 100, 300];
const CHECKPOINT_RATE: f64 = 4e-3;
const STEPS: usize = 300;
const STRIDE: usize = 6;

/// The largest deviations allowed.
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 1e-4;
const UPDATE: f64 = 1e-5;
const EARLY_LOSSES: f64 = 1e-3;
const MEANS: f64 = 0.01;

fn folder() -> PathBuf {
    let stored = || concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parity_training").into();
    std::env::var_os("BLT_TRAINING_DIR").unwrap_or_else(stored).into()
}

struct Training {
    model: Model,
    /// `[301, 4, 156]`
    text: (Vec<usize>, Vec<f64>),
}

impl Training {
    fn new(dir: &Path, backend: Rc<dyn Backend>) -> Training {
        let text = Numbers::read(&dir.join("text.safetensors")).0.remove("bytes").unwrap();
        Training { model: Model::load(dir, backend), text }
    }

    /// The loss of batch `at`, with gradients left on the backend.
    fn loss(&self, at: usize) -> f64 {
        let (shape, text) = &self.text;
        let (rows, bytes) = (shape[1], shape[2]);
        let batch: Vec<u8> =
            text[at * rows * bytes..][..rows * bytes].iter().map(|&b| b as u8).collect();
        let batch = Batch::from_documents(batch.chunks(bytes));
        // The next byte, unseen, starts a patch too.
        let mut lengths = vec![STRIDE as f32; bytes / STRIDE + 2];
        lengths[0] = 1.0;
        lengths[bytes / STRIDE + 1] = 1.0;
        let patches = Patches::from_lengths(&batch, &vec![lengths; rows]).unwrap();
        let backend = &self.model.cx.backend;
        backend.zero_grads();
        backend.record(true);
        let head = self.model.head(&batch, &patches);
        let loss = head.loss(&self.model.cx, &next_byte_targets(&batch, false)).unwrap().loss;
        let value = backend.to_host(&loss).unwrap()[0] as f64;
        backend.backward(&loss).unwrap();
        backend.record(false);
        value
    }

    /// Updates by the gradients; `t` counts from 1.
    fn update(&self, lr: f64, t: usize) {
        let ids: Vec<_> = self.model.params.iter().map(|p| p.id).collect();
        let t = t as u64;
        AdamWConfig::constant(lr).step(&*self.model.cx.backend, &ids, t, t).unwrap();
    }

    fn losses(&self, lr: f64) -> Vec<f64> {
        let step = |at| {
            let loss = self.loss(at);
            self.update(lr, at + 1);
            loss
        };
        (0..STEPS).map(step).collect()
    }
}

/// How far AdamW's first update moves when a gradient's element `a` becomes `b`: at most the
/// rate times |b - a| times the largest slope of g / (|g| + 1e-8) between the two. Gradients as
/// small as 1e-8 differ by rounding alone between two programs, and only the first update divides
/// by nothing but the gradient itself.
fn first_update_moved_by(a: f64, b: f64) -> f64 {
    let smallest = if a * b <= 0.0 { 0.0 } else { a.abs().min(b.abs()) };
    CHECKPOINT_RATE * (a - b).abs() * 1e-8 / (smallest + 1e-8).powi(2)
}

const PATHS: [fn() -> Rc<dyn Backend>; 2] =
    [|| Rc::new(Fused::new()), || Rc::new(Dfdx::<f32, dfdx::tensor::Cpu>::cpu())];

#[test]
fn a_step_from_each_checkpoint_is_that_of_the_reference_library() {
    let dir = folder();
    let state = Numbers::read(&dir.join("state.safetensors"));
    let expected = Numbers::read(&dir.join("expected.safetensors"));
    let narrow = |key: &str| -> Vec<f32> {
        state.get(key).unwrap_or_else(|| panic!("no {key}")).iter().map(|&x| x as f32).collect()
    };
    let mut failures = Vec::new();
    for make in PATHS {
        for at in CHECKPOINTS {
            let training = Training::new(&dir, make());
            let backend = &training.model.cx.backend;
            let params = &training.model.params;
            if at > 0 {
                for p in params {
                    let part = |part| narrow(&format!("{at}.{part}.{}", p.name));
                    backend.write_param(p.id, &part("param")).unwrap();
                    backend.write_moments(p.id, &part("m"), &part("v")).unwrap();
                }
            }
            let mut worst =
                [("loss", 0.0, LOSS), ("gradient", 0.0, GRADIENT), ("update", 0.0, UPDATE)];
            let mut note = |kind: usize, deviation: f64, name: &str| {
                let (what, largest, allowed) = &mut worst[kind];
                *largest = deviation.max(*largest);
                if deviation.is_nan() || deviation > *allowed {
                    failures
                        .push(format!("{} {at} {name}: {what} {deviation:.2e}", backend.path()));
                }
            };
            let theirs = expected.get(&format!("{at}.loss")).unwrap()[0];
            note(0, (training.loss(at) - theirs).abs() / theirs, "");
            let gradients: Vec<_> = params
                .iter()
                .map(|p| expected.get(&format!("{at}.grad.{}", p.name)).unwrap())
                .collect();
            let total = norm(gradients.iter().flat_map(|g| g.iter().copied()));
            let clip = total.max(1.0);
            let mut both = Vec::new();
            for (p, theirs) in params.iter().zip(gradients) {
                let ours = backend.grad(p.id).unwrap().unwrap_or_else(|| vec![0.0; theirs.len()]);
                let difference = norm(ours.iter().zip(theirs).map(|(&a, b)| a as f64 - b));
                let size = norm(theirs.iter().copied());
                assert!(size > 1e-6 * total, "{at} {}: a gradient of {size:e}", p.name);
                note(1, difference / size, &p.name);
                both.push((theirs, ours));
            }
            training.update(CHECKPOINT_RATE, at + 1);
            for (p, (gradient, ours)) in params.iter().zip(&both) {
                let theirs = expected.get(&format!("{at}.after.{}", p.name)).unwrap();
                let after = backend.read_param(p.id).unwrap();
                let differences = after.iter().zip(theirs).map(|(&a, b)| (a as f64 - b).abs());
                let excused = |i: usize| match at {
                    0 => first_update_moved_by(gradient[i] / clip, ours[i] as f64 / clip),
                    _ => 0.0,
                };
                let worst = differences
                    .enumerate()
                    .map(|(i, d)| if d.is_nan() { f64::INFINITY } else { d - excused(i) })
                    .fold(0.0, f64::max);
                note(2, worst, &p.name);
            }
            for (what, largest, allowed) in worst {
                println!(
                    "{:9} step {at:3} {what:8} {largest:.2e}, allowed {allowed:.0e}",
                    backend.path()
                );
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn three_hundred_steps_follow_the_reference_library() {
    let dir = folder();
    let expected = Numbers::read(&dir.join("expected.safetensors"));
    for make in PATHS {
        for (name, lr) in [("3e-4", 3e-4), ("4e-3", CHECKPOINT_RATE)] {
            let training = Training::new(&dir, make());
            let path = training.model.cx.backend.path();
            let ours = training.losses(lr);
            let theirs = expected.get(&format!("losses.{name}")).unwrap();
            assert_eq!(theirs.len(), STEPS);
            let differences = ours.iter().zip(theirs).map(|(a, b)| a - b).collect::<Vec<f64>>();
            let largest = |x: &mut dyn Iterator<Item = f64>| x.map(f64::abs).fold(0.0, f64::max);
            assert!(
                differences.iter().all(|d| d.is_finite()),
                "{path}, lr {name}: a loss is no number"
            );
            let early = largest(&mut differences[..30].iter().copied());
            let means = largest(&mut differences.chunks(50).map(|d| d.iter().sum::<f64>() / 50.0));
            println!("{path:9} lr {name}: first 30 {early:.2e}, means of 50 {means:.2e}");
            assert!(
                early <= EARLY_LOSSES,
                "{path}, lr {name}: one of 30 losses is {early:.2e} off"
            );
            assert!(means <= MEANS, "{path}, lr {name}: a mean of 50 losses is {means:.2e} off");
        }
    }
}

#[test]
#[ignore = "writes state.safetensors for tests/peer/train_parity.py compute"]
fn writes_checkpoints_for_the_reference() {
    let dir = folder();
    let training = Training::new(&dir, PATHS[0]());
    let backend = &training.model.cx.backend;
    let mut state: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for t in 1..=STEPS {
        training.loss(t - 1);
        training.update(CHECKPOINT_RATE, t);
        if CHECKPOINTS.contains(&t) {
            for p in &training.model.params {
                let (m, v) = backend.moments(p.id).unwrap();
                let param = backend.read_param(p.id).unwrap();
                for (part, data) in [("param", param), ("m", m), ("v", v)] {
                    state.push((format!("{t}.{part}.{}", p.name), vec![data.len()], data));
                }
            }
        }
    }
    let tensors =
        state.into_iter().map(|(name, shape, data)| (name, shape, move || Ok(data.clone())));
    write_tensors(&dir.join("state.safetensors"), tensors).unwrap();
}
