//! The reference backend against plain loops with dense masks, and its gradients against finite
//! differences of those loops, in f64.

mod common;

use ::dfdx::tensor::Cpu;
use blt_core::backend::dfdx::Dfdx;
use blt_core::backend::*;
use common::*;

fn check(name: &str, case: &Case) {
    let backend = Dfdx::<f64, Cpu>::cpu();
    let p: Vec<Vec<f64>> = case.params.iter().map(|p| widen(&p.data)).collect();
    let what = |of: &str| format!("{name}, {of} of {:?}", case.kind);

    backend.record(true);
    let ids = case.add_params(&backend);
    let Outcome { out, host } = case.forward(&backend, &ids);
    let (values, host_values) = oracle(case, &p);
    assert_close(&what("values"), &backend.to_host_elements(&out).unwrap(), &values, 1e-12, 1e-3);
    assert_close(&what("host values"), &widen(&host), &host_values, 1e-6, 1e-3);

    let weights = backend.add_param([1, case.n_outputs()], case.weights(), false).unwrap();
    let loss =
        backend.linear(&backend.reshape(&out, 1, case.n_outputs()).unwrap(), weights).unwrap();
    backend.backward(&loss).unwrap();
    let scalar = |p: &[Vec<f64>]| -> f64 {
        oracle(case, p).0.iter().zip(case.weights()).map(|(x, w)| x * w as f64).sum()
    };
    let rng = &mut Rng::new(9);
    // Entries of a parameter that are perturbed; the dense loops take their time over long inputs.
    let perturbed = if case.params[0].shape[0] > 100 && !matches!(case.kind, Kind::Embed { .. }) {
        2
    } else {
        12
    };
    for (i, param) in case.params.iter().enumerate() {
        let grad = backend
            .grad_elements(ids[i])
            .unwrap()
            .unwrap_or_else(|| panic!("{}: no gradient", what(param.name)));
        let at: Vec<usize> = match grad.len() {
            n if n <= perturbed => (0..n).collect(),
            n => {
                // Half where the gradient is not zero: most rows of a table are not read.
                let touched: Vec<usize> = (0..n).filter(|&j| grad[j] != 0.0).collect();
                let half = perturbed / 2;
                let picks = (0..if touched.is_empty() { 0 } else { half })
                    .map(|_| rng.pick(&touched))
                    .collect::<Vec<_>>();
                picks.into_iter().chain((0..half).map(|_| rng.below(n))).collect()
            }
        };
        let difference = |j: usize| {
            let moved = |h: f64| {
                let mut p = p.clone();
                p[i][j] += h;
                scalar(&p)
            };
            let h = 1e-4;
            (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h)
        };
        let expected: Vec<f64> = at.iter().map(|&j| difference(j)).collect();
        let got: Vec<f64> = at.iter().map(|&j| grad[j]).collect();
        assert_close(&what(param.name), &got, &expected, 1e-7, 1e-2);
    }
}

#[test]
fn random_shapes() {
    for seed in 0..60 {
        for case in random_cases(seed) {
            check(&format!("seed {seed}"), &case);
        }
    }
}

#[test]
fn shapes_at_the_edges() {
    for (name, case) in edge_cases() {
        check(name, &case);
    }
}

#[test]
fn a_loss_that_predicts_nothing_is_zero_and_touches_no_parameter() {
    let mut case = head(&mut Rng::new(8), 3, 4, 7);
    let Kind::Head { targets, .. } = &mut case.kind else { unreachable!() };
    *targets = vec![None; 3];
    let (loss, host, grads) = case.run(&Dfdx::<f64, Cpu>::cpu());
    assert_eq!((loss, &host[..3]), (vec![0.0], &[0.0; 3][..]));
    assert!(grads.iter().all(Option::is_none));
}

#[test]
fn empty_batches_compute_nothing_and_touch_no_parameter() {
    for case in empty_cases() {
        let backend = Dfdx::<f64, Cpu>::cpu();
        let (values, host, grads) = case.run(&backend);
        let expected = if matches!(case.kind, Kind::Head { .. }) { vec![0.0] } else { vec![] };
        assert_eq!((values, host), (expected, vec![]), "{:?}", case.kind);
        assert!(grads.iter().all(Option::is_none), "{:?}", case.kind);
    }
}

/// Sets up `h` as rows that carry a gradient, pools them, and returns the gradient for a pooled
/// gradient of `weights`.
fn pooled_gradient(
    pooling: Pooling,
    h: Vec<f32>,
    lengths: &[usize],
    weights: Vec<f32>,
) -> (Vec<f64>, Vec<f64>) {
    let backend = Dfdx::<f64, Cpu>::cpu();
    let n = h.len();
    let table = backend.add_param([n, 1], h, true).unwrap();
    let weights = backend.add_param([1, weights.len()], weights, false).unwrap();
    backend.record(true);
    let rows: Vec<u16> = (0..n as u16).collect();
    let h = backend.embed(&rows, &[0, n], table, None).unwrap();
    let pooled = backend.pool(&h, &patches(lengths), pooling).unwrap();
    let loss =
        backend.linear(&backend.reshape(&pooled, 1, lengths.len()).unwrap(), weights).unwrap();
    backend.backward(&loss).unwrap();
    (backend.to_host_elements(&pooled).unwrap(), backend.grad_elements(table).unwrap().unwrap())
}

#[test]
fn ties_share_the_gradient_equally() {
    let h = vec![3.0, 3.0, 1.0, 3.0, -2.0, -2.0, 0.5];
    let (max, grad) = pooled_gradient(Pooling::Max, h.clone(), &[4, 3], vec![6.0, 5.0]);
    assert_eq!((max, grad), (vec![3.0, 0.5], vec![2.0, 2.0, 0.0, 2.0, 0.0, 0.0, 5.0]));
    let (min, grad) = pooled_gradient(Pooling::Min, h, &[4, 3], vec![6.0, 5.0]);
    assert_eq!((min, grad), (vec![1.0, -2.0], vec![0.0, 0.0, 6.0, 0.0, 2.5, 2.5, 0.0]));
}

#[test]
fn pooled_ties_are_the_value_itself() {
    // A third of 0.1, three times, is not 0.1.
    for n in 2..12 {
        let (max, _) = pooled_gradient(Pooling::Max, vec![0.1; n], &[n], vec![1.0]);
        assert_eq!(max, [0.1f32 as f64]);
    }
}

/// Under AdamW any gradient but zero becomes a whole step, so rounding noise may not stand in for
/// zero.
#[test]
fn a_query_with_one_key_has_gradient_exactly_zero() {
    let rng = &mut Rng::new(5);
    let cases = [
        block(rng, &[140, 1, 3], 8, [4, 2, 4], Some(1)),
        block(rng, &[1, 1], 8, [2, 2, 4], None),
        encoder(rng, &[1, 1, 1], 3, 8, [2, 1, 4]),
        decoder(rng, 9, 4, 1, 8, [2, 1, 4]),
    ];
    for case in cases {
        let (_, _, grads) = case.run(&Dfdx::<f32, Cpu>::cpu());
        for (param, grad) in case.params.iter().zip(grads) {
            let grad = grad.unwrap();
            let still = matches!(param.name, "q" | "k" | "q_norm");
            assert_eq!(grad.iter().all(|&g| g == 0.0), still, "{} of {:?}", param.name, case.kind);
        }
    }
}

#[test]
fn a_value_may_be_read_many_times_and_only_what_the_loss_reads_gets_a_gradient() {
    let backend = Dfdx::<f64, Cpu>::cpu();
    let x = backend.add_param([1, 2], vec![3.0, -5.0], true).unwrap();
    let w = backend.add_param([1, 2], vec![7.0, 11.0], false).unwrap();
    let unread = backend.add_param([1, 2], vec![1.0, 1.0], false).unwrap();
    backend.record(true);
    let h = backend.embed(&[0], &[0, 1], x, None).unwrap();
    let twice = backend.add(&h, &h).unwrap();
    let again = backend.add(&twice, &backend.reshape(&h, 1, 2).unwrap()).unwrap();
    let loss = backend.linear(&again, w).unwrap();
    let _aside = backend.linear(&h, unread).unwrap();
    backend.backward(&loss).unwrap();
    assert_eq!(backend.to_host(&loss).unwrap(), [3.0 * (21.0 - 55.0)]);
    assert_eq!(backend.grad(x).unwrap().unwrap(), [21.0, 33.0]);
    assert_eq!(backend.grad(w).unwrap().unwrap(), [9.0, -15.0]);
    assert_eq!(backend.grad(unread).unwrap(), None);
    assert_eq!(backend.grad_norm_squared(&[x, w, unread]).unwrap(), 441.0 + 1089.0 + 81.0 + 225.0);

    // A second backward adds; values of the emptied tape are constants.
    let loss = backend.linear(&again, w).unwrap();
    backend.backward(&loss).unwrap();
    assert_eq!(backend.grad(w).unwrap().unwrap(), [18.0, -30.0]);
    assert_eq!(backend.grad(x).unwrap().unwrap(), [21.0, 33.0]);

    backend.zero_grads();
    assert_eq!((backend.grad(x).unwrap(), backend.grad(w).unwrap()), (None, None));
    let loss = backend.linear(&again, w).unwrap();
    backend.record(false);
    assert!(!backend.recording());
    backend.backward(&loss).unwrap();
    assert_eq!(backend.grad(w).unwrap(), None, "the tape was dropped");
}

#[test]
fn a_pause_records_nothing_and_keeps_the_tape() {
    let backend = Dfdx::<f64, Cpu>::cpu();
    let x = backend.add_param([1, 2], vec![3.0, -5.0], true).unwrap();
    let frozen = backend.add_param([2, 2], vec![1.0, 2.0, 3.0, 4.0], false).unwrap();
    let w = backend.add_param([1, 2], vec![7.0, 11.0], false).unwrap();
    backend.pause(true);
    backend.pause(false);
    assert!(!backend.recording(), "what does not record is not paused");
    backend.record(true);
    let h = backend.embed(&[0], &[0, 1], x, None).unwrap();
    backend.pause(true);
    let aside = backend.linear(&h, frozen).unwrap();
    backend.pause(false);
    let loss = backend.linear(&backend.add(&h, &aside).unwrap(), w).unwrap();
    backend.backward(&loss).unwrap();
    assert_eq!(backend.grad(x).unwrap().unwrap(), [7.0, 11.0], "not through the paused part");
    assert_eq!(backend.grad(frozen).unwrap(), None);
    assert_eq!(backend.grad(w).unwrap().unwrap(), [3.0 - 7.0, -5.0 - 11.0]);

    backend.pause(true);
    backend.record(false);
    backend.pause(false);
    assert!(!backend.recording(), "the end of a pause does not bring back a tape that was dropped");
}

#[test]
fn gradients_of_one_value_read_through_a_view_and_directly_are_added_once() {
    let backend = Dfdx::<f64, Cpu>::cpu();
    let x = backend.add_param([2, 1], vec![2.0, 3.0], false).unwrap();
    let w = backend.add_param([1, 2], vec![1.0, 10.0], false).unwrap();
    backend.record(true);
    let h = backend.embed(&[0, 1], &[0, 2], x, None).unwrap();
    let flat = backend.reshape(&h, 1, 2).unwrap();
    let back = backend.reshape(&flat, 2, 1).unwrap();
    let sum = backend.add(&h, &back).unwrap();
    let loss = backend.linear(&backend.reshape(&sum, 1, 2).unwrap(), w).unwrap();
    backend.backward(&loss).unwrap();
    assert_eq!(backend.to_host(&loss).unwrap(), [64.0]);
    assert_eq!(backend.grad(x).unwrap().unwrap(), [2.0, 20.0]);
}

fn steps() -> Vec<AdamWStep> {
    let step = |t, lr, grad_scale| AdamWStep {
        lr,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale,
        t,
    };
    vec![step(1, 1e-2, 1.0), step(2, 2e-2, 0.5), step(3, 1e-3, 0.25), step(4, 5e-3, 1.0)]
}

/// The formula, on one number.
fn adamw(p: &mut f64, m: &mut f64, v: &mut f64, g: f64, step: &AdamWStep) {
    let g = g * step.grad_scale;
    *p *= 1.0 - step.lr * step.weight_decay;
    *m = step.beta1 * *m + (1.0 - step.beta1) * g;
    *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
    let (m_hat, v_hat) =
        (*m / (1.0 - step.beta1.powi(step.t as i32)), *v / (1.0 - step.beta2.powi(step.t as i32)));
    *p -= step.lr * m_hat / (v_hat.sqrt() + step.eps);
}

#[test]
fn adamw_is_the_formula_on_the_device_and_by_rows() {
    for by_rows in [false, true] {
        let backend = Dfdx::<f32, Cpu>::cpu();
        let rng = &mut Rng::new(3);
        let (rows, cols) = (6, 3);
        let data = rng.numbers(rows * cols, 1.0);
        let table = backend.add_param([rows, cols], data.clone(), by_rows).unwrap();
        let idle = backend.add_param([1, 2], vec![1.0, 2.0], by_rows).unwrap();
        let mut expected: Vec<[f64; 3]> = data.iter().map(|&x| [x as f64, 0.0, 0.0]).collect();
        assert_eq!(backend.moments(table).unwrap(), (vec![0.0; 18], vec![0.0; 18]));
        for (s, step) in steps().iter().enumerate() {
            backend.record(true);
            backend.zero_grads();
            // Rows 0 and 3 always, another one in turn; row 5 never, and still decays.
            let read = backend.embed(&[0, 3, 3, s as u16], &[0, 4], table, None).unwrap();
            let weights = backend.add_param([1, 12], rng.numbers(12, 1.0), false).unwrap();
            let loss = backend.linear(&backend.reshape(&read, 1, 12).unwrap(), weights).unwrap();
            backend.backward(&loss).unwrap();
            let grad = widen(&backend.grad(table).unwrap().unwrap());
            assert!(grad[15..].iter().all(|&g| g == 0.0) && grad[..3].iter().all(|&g| g != 0.0));
            backend.adamw(&[table, idle], step).unwrap();
            for ([p, m, v], g) in expected.iter_mut().zip(grad) {
                adamw(p, m, v, g, step);
            }
        }
        let column = |i: usize| expected.iter().map(|e| e[i]).collect::<Vec<_>>();
        let (m, v) = backend.moments(table).unwrap();
        assert_close("values", &widen(&backend.read_param(table).unwrap()), &column(0), 1e-6, 1e-3);
        assert_close("first moments", &widen(&m), &column(1), 1e-6, 1e-6);
        assert_close("second moments", &widen(&v), &column(2), 1e-6, 1e-9);
        assert_eq!(
            backend.read_param(idle).unwrap(),
            [1.0, 2.0],
            "no gradient: neither updated nor decayed"
        );

        backend.write_moments(idle, &[1.0, 2.0], &[3.0, 4.0]).unwrap();
        backend.write_param(idle, &[5.0, 6.0]).unwrap();
        assert_eq!(backend.moments(idle).unwrap(), (vec![1.0, 2.0], vec![3.0, 4.0]));
        assert_eq!(backend.read_param(idle).unwrap(), [5.0, 6.0]);
        assert_eq!(backend.param_shape(idle), [1, 2]);
    }
}

#[test]
fn nothing_is_recorded_unless_asked_and_values_are_the_same() {
    for case in random_cases(4) {
        let backend = Dfdx::<f32, Cpu>::cpu();
        let ids = case.add_params(&backend);
        let silent = case.forward(&backend, &ids);
        backend.record(true);
        let recorded = case.forward(&backend, &ids);
        assert_eq!(
            backend.to_host(&silent.out).unwrap(),
            backend.to_host(&recorded.out).unwrap(),
            "{:?}",
            case.kind
        );
        assert_eq!(silent.host, recorded.host);
    }
}

#[test]
fn a_table_read_whole_is_a_matrix() {
    let rng = &mut Rng::new(6);
    let dense = linear(rng, 4, [5, 3]);
    let mut tied = dense.clone();
    tied.params[1].by_rows = true;
    let run = |case: &Case| case.run(&Dfdx::<f32, Cpu>::cpu());
    assert_eq!(run(&dense), run(&tied));
}
