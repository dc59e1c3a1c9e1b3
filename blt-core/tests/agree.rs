//! Every operation's values and gradients, of one backend against another's, over random shapes and
//! the edges.

mod common;

use ::dfdx::tensor::Cpu;
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::*;
use common::*;

/// Relative to the largest magnitude of what is compared.
const TOLERANCE: f64 = 1e-5;
/// On a GPU sums are taken in any order, and exponentials are its own.
#[cfg(feature = "cuda")]
const GPU_TOLERANCE: f64 = 1e-4;

fn agree(name: &str, case: &Case, a: &dyn Backend, b: &dyn Backend, tolerance: f64) {
    let what =
        |of: &str| format!("{name}, {of} of {:?}, {} against {}", case.kind, a.path(), b.path());
    let (values_a, host_a, grads_a) = case.run(a);
    let (values_b, host_b, grads_b) = case.run(b);
    assert_close(&what("values"), &widen(&values_a), &widen(&values_b), tolerance, 1e-3);
    assert_close(&what("host values"), &widen(&host_a), &widen(&host_b), tolerance, 1e-3);
    let largest = grads_b.iter().flatten().flatten().fold(0f64, |m, &g| m.max(g.abs() as f64));
    for ((param, grad_a), grad_b) in case.params.iter().zip(&grads_a).zip(&grads_b) {
        let of = what(param.name);
        // An empty batch may leave a gradient of zero or none.
        let dense = |grad: &Option<Vec<f32>>| grad.clone().unwrap_or(vec![0.0; param.data.len()]);
        if case.n_outputs() > 1 {
            assert_eq!(grad_a.is_some(), grad_b.is_some(), "{of}: is there a gradient");
        }
        // A gradient that is nearly zero throughout is the difference of larger numbers.
        assert_close(
            &of,
            &widen(&dense(grad_a)),
            &widen(&dense(grad_b)),
            tolerance,
            1e-2 * largest,
        );
    }
}

/// A small byte model, trained for some steps: what a table's rows, moments and norms are after
/// steps that touch some rows and miss others.
struct Training {
    params: Vec<Vec<f32>>,
    moments: Vec<(Vec<f32>, Vec<f32>)>,
    losses: Vec<f32>,
    norms: Vec<f64>,
}

fn train(backend: &dyn Backend) -> Training {
    let rng = &mut Rng::new(21);
    let hash = HashConfig { sizes: vec![2, 3], functions: 2, vocab: 40 };
    let embed_params = embed(rng, &[1], 8, Some(hash.clone()), true).params;
    let block_case = block(rng, &[1], 8, [2, 1, 4], Some(4));
    let head_params = head(rng, 1, 8, 260).params;
    let Kind::Block { config, .. } = &block_case.kind else { unreachable!() };
    let all = embed_params.iter().chain(&block_case.params[1..]).chain(&head_params[1..]);
    let ids: Vec<ParamId> =
        all.map(|p| backend.add_param(p.shape, p.data.clone(), p.by_rows).unwrap()).collect();
    let params = BlockParams {
        input_layernorm: ids[2],
        q: ids[3],
        k: ids[4],
        v: ids[5],
        o: ids[6],
        post_attention_layernorm: ids[7],
        gate: ids[8],
        up: ids[9],
        down: ids[10],
    };
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    backend.record(true);
    for t in 1..=6 {
        backend.zero_grads();
        // Two batches a step: gradients add up.
        for _ in 0..2 {
            let offsets = offsets(&[1, 5, 9]);
            let bytes: Vec<u16> = (0..15).map(|_| 4 + rng.below(12) as u16).collect();
            let targets: Vec<_> =
                (0..15).map(|i| bytes.get(i + 1).copied().filter(|_| i % 5 != 4)).collect();
            let x = backend.embed(&bytes, &offsets, ids[0], Some((ids[1], &hash))).unwrap();
            let x = backend.block(&x, &offsets, &params, config).unwrap();
            let HeadLoss { loss, .. } =
                backend.head_loss(&x, ids[11], ids[12], 1e-5, &targets, 0.05).unwrap();
            losses.extend(backend.to_host(&loss).unwrap());
            backend.backward(&loss).unwrap();
        }
        let norm = backend.grad_norm_squared(&ids).unwrap().sqrt();
        norms.push(norm);
        let (lr, grad_scale) = (1e-2 / t as f64, 1.0 / norm.max(1.0));
        backend
            .adamw(
                &ids,
                &AdamWStep {
                    lr,
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    weight_decay: 0.1,
                    grad_scale,
                    t,
                },
            )
            .unwrap();
    }
    Training {
        params: ids.iter().map(|&id| backend.read_param(id).unwrap()).collect(),
        moments: ids.iter().map(|&id| backend.moments(id).unwrap()).collect(),
        losses,
        norms,
    }
}

fn agree_on_training(a: &dyn Backend, b: &dyn Backend, tolerance: f64) {
    let (got, expected) = (train(a), train(b));
    assert_close("losses", &widen(&got.losses), &widen(&expected.losses), tolerance, 1e-3);
    assert_close("norms", &got.norms, &expected.norms, tolerance, 1e-3);
    for i in 0..got.params.len() {
        // Adam divides by a gradient's own size, so that the smallest gradients' rounding counts in
        // full.
        let tenfold = 10.0 * tolerance;
        assert_close(
            &format!("parameter {i}"),
            &widen(&got.params[i]),
            &widen(&expected.params[i]),
            tenfold,
            1e-3,
        );
        let (got, expected) = (&got.moments[i], &expected.moments[i]);
        assert_close(
            &format!("first moment {i}"),
            &widen(&got.0),
            &widen(&expected.0),
            tenfold,
            1e-6,
        );
        assert_close(
            &format!("second moment {i}"),
            &widen(&got.1),
            &widen(&expected.1),
            tenfold,
            1e-9,
        );
    }
}

fn agree_on_everything(make: [&dyn Fn() -> Box<dyn Backend>; 2], tolerance: f64) {
    for seed in 100..200 {
        for case in random_cases(seed) {
            agree(&format!("seed {seed}"), &case, &*make[0](), &*make[1](), tolerance);
        }
    }
    for (name, case) in edge_cases() {
        agree(name, &case, &*make[0](), &*make[1](), tolerance);
    }
    for case in empty_cases() {
        agree("empty batch", &case, &*make[0](), &*make[1](), tolerance);
    }
    agree_on_training(&*make[0](), &*make[1](), tolerance);
}

#[test]
fn reference_in_f32_agrees_with_reference_in_f64() {
    let f32 = || Box::new(Dfdx::<f32, Cpu>::cpu()) as Box<dyn Backend>;
    agree_on_everything([&f32, &|| Box::new(Dfdx::<f64, Cpu>::cpu())], TOLERANCE);
}

#[test]
fn fused_agrees_with_the_reference() {
    let fused = || Box::new(blt_core::backend::fused::Fused::new()) as Box<dyn Backend>;
    let reference = || Box::new(Dfdx::<f64, Cpu>::cpu()) as Box<dyn Backend>;
    agree_on_everything([&fused, &reference], TOLERANCE);
}

/// How a GPU keeps its parameters, on the processor: tables whole, gradients and moments beside
/// them, updated by dfdx's Adam kernel.
fn resident() -> Box<dyn Backend> {
    Box::new(Dfdx::<f32, _>::resident(Cpu::default(), device::Device::Cpu))
}

#[test]
fn resident_parameters_agree_with_the_reference() {
    agree_on_everything([&resident, &|| Box::new(Dfdx::<f64, Cpu>::cpu())], TOLERANCE);
}

/// Moments that another path left, and a continued count, as in a checkpoint that moves between
/// devices.
fn continues(backend: &dyn Backend) -> (Vec<f32>, (Vec<f32>, Vec<f32>)) {
    let rng = &mut Rng::new(5);
    let (table, weight) =
        (backend.add_param([6, 3], rng.numbers(18, 0.5), true).unwrap(), rng.numbers(6, 1.0));
    let moments =
        (rng.numbers(18, 1e-2), rng.numbers(18, 1e-2).iter().map(|x| x * x).collect::<Vec<f32>>());
    backend.write_moments(table, &moments.0, &moments.1).unwrap();
    assert_eq!(backend.moments(table).unwrap(), moments, "what is written is what is read");
    let weight = backend.add_param([1, 6], weight, false).unwrap();
    for t in 8..11 {
        backend.zero_grads();
        backend.record(true);
        let rows =
            backend.reshape(&backend.embed(&[1, 4], &[0, 2], table, None).unwrap(), 1, 6).unwrap();
        backend.backward(&backend.linear(&rows, weight).unwrap()).unwrap();
        backend.record(false);
        let step = AdamWStep {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            grad_scale: 0.5,
            t,
        };
        backend.adamw(&[table, weight], &step).unwrap();
    }
    (backend.read_param(table).unwrap(), backend.moments(table).unwrap())
}

fn agree_on_continuing(backend: &dyn Backend) {
    let (params, (m, v)) = continues(backend);
    let (expected, (expected_m, expected_v)) = continues(&Dfdx::<f64, Cpu>::cpu());
    assert_close("parameters", &widen(&params), &widen(&expected), 1e-5, 1e-6);
    assert_close("first moments", &widen(&m), &widen(&expected_m), 1e-5, 1e-6);
    assert_close("second moments", &widen(&v), &widen(&expected_v), 1e-4, 1e-6);
}

#[test]
fn moments_of_another_path_are_continued() {
    agree_on_continuing(&Dfdx::<f32, Cpu>::cpu());
    agree_on_continuing(&*resident());
    agree_on_continuing(&blt_core::backend::fused::Fused::new());
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;

    fn gpu() -> Box<dyn Backend> {
        let gpu = blt_core::backend::cuda::open(0).unwrap_or_else(|e| panic!("{e}: {}", e.help()));
        Box::new(Dfdx::<f32, _>::resident(gpu, blt_core::backend::device::Device::Cuda(0)))
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn operations_agree_with_the_reference() {
        agree_on_everything([&gpu, &|| Box::new(Dfdx::<f64, Cpu>::cpu())], GPU_TOLERANCE);
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn moments_of_another_path_are_continued() {
        agree_on_continuing(&*gpu());
    }
}
