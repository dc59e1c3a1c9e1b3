//! AdamW over flat parameters; tables read by rows are updated lazily, to the same bits.
//!
//! A step changes every row of a table, even those without a gradient: their moments decay, and
//! they move by their momentum and weight decay. But nobody sees a row until it is read. So a step
//! updates the rows that have a gradient and only notes its scalars for the others; a row is caught
//! up, step by missed step with the arithmetic of the dense loop, when it is next read, updated or
//! saved.

use super::buffer::Lasting;
use super::{Param, ParamGrad};
use crate::backend::AdamWStep;
use crate::simd::multiversion;
use rayon::prelude::*;

/// Elements of one task. Fixed, because a task's partial sum of squares is a term of the whole.
const TASK: usize = 16384;
/// Elements whose parameter and moments stay in registers while missed steps are replayed.
const TILE: usize = 64;
/// Missed steps kept at most; then the whole table is caught up and the notes are dropped.
const MAX_MISSED: usize = 1 << 14;

/// One step's scalars, computed in f64 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scalars {
    grad_scale: f32,
    /// `1 - lr * weight_decay`
    decay: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// `lr / (1 - beta1^t)`
    step_size: f32,
    /// `(1 - beta2^t)^-0.5`
    root_correction: f32,
    eps: f32,
}

impl Scalars {
    fn new(step: &AdamWStep) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.t as f64);
        Scalars {
            grad_scale: step.grad_scale as f32,
            decay: (1.0 - step.lr * step.weight_decay) as f32,
            beta1: step.beta1 as f32,
            one_minus_beta1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            one_minus_beta2: (1.0 - step.beta2) as f32,
            step_size: (step.lr / correction(step.beta1)) as f32,
            root_correction: correction(step.beta2).sqrt().recip() as f32,
            eps: step.eps as f32,
        }
    }

    /// A row whose moments are zero and that has no gradient is only scaled: its update is `0 /
    /// eps`, exactly 0.
    fn only_decays_at_rest(&self) -> bool {
        self.eps > 0.0
            && self.step_size.is_finite()
            && self.root_correction.is_finite()
            && self.grad_scale.is_finite()
    }

    /// The update of one element. No fused multiply-add: the bits are the same on every machine.
    #[inline(always)]
    fn update(&self, p: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = g * self.grad_scale;
        *m = self.beta1 * *m + self.one_minus_beta1 * g;
        *v = self.beta2 * *v + self.one_minus_beta2 * g * g;
        *p = *p * self.decay - self.step_size * *m / (v.sqrt() * self.root_correction + self.eps);
    }
}

/// What a table's rows have missed.
#[derive(Default)]
pub(super) struct Lag {
    /// Steps since every row was last up to date.
    steps: Vec<Scalars>,
    /// How many of `steps` each row has seen, `[rows]`; empty while `steps` is.
    seen: Vec<u32>,
}

/// Sum of squares, in f64, in an order that depends on the length alone.
pub(super) fn squared_norm(grad: &ParamGrad) -> f64 {
    let grad: &[f32] = match grad {
        ParamGrad::Dense(grad) => grad,
        ParamGrad::Rows(_, grad) => grad,
    };
    let partial: Vec<f64> = grad.par_chunks(TASK).map(sum_of_squares).collect();
    partial.iter().sum()
}

multiversion! {
    fn sum_of_squares(x: &[f32]) -> f64 {
        const LANES: usize = 16;
        let mut sums = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(s, &x)| *s += x as f64 * x as f64);
        }
        sums.iter_mut().zip(rest).for_each(|(s, &x)| *s += x as f64 * x as f64);
        sums.iter().sum()
    }
}

multiversion! {
    fn update_slice(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], s: &Scalars) {
        let s = *s;
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            s.update(p, m, v, g);
        }
    }
}

multiversion! {
    /// `steps` in turn, without a gradient.
    fn replay_slice(p: &mut [f32], m: &mut [f32], v: &mut [f32], steps: &[Scalars]) {
        if steps.is_empty() {
            return;
        }
        if m.iter().chain(v.iter()).all(|x| x.to_bits() == 0) && steps.iter().all(Scalars::only_decays_at_rest) {
            for s in steps {
                p.iter_mut().for_each(|p| *p *= s.decay);
            }
            return;
        }
        for ((p, m), v) in p.chunks_mut(TILE).zip(m.chunks_mut(TILE)).zip(v.chunks_mut(TILE)) {
            let (mut tp, mut tm, mut tv) = ([0.0; TILE], [0.0; TILE], [0.0; TILE]);
            let len = p.len();
            tp[..len].copy_from_slice(p);
            tm[..len].copy_from_slice(m);
            tv[..len].copy_from_slice(v);
            for s in steps {
                for i in 0..TILE {
                    s.update(&mut tp[i], &mut tm[i], &mut tv[i], 0.0);
                }
            }
            p.copy_from_slice(&tp[..len]);
            m.copy_from_slice(&tm[..len]);
            v.copy_from_slice(&tv[..len]);
        }
    }
}

/// First and second moments: zeros before the first step.
pub(super) fn moments(
    kept: &mut Option<(Lasting, Lasting)>,
    len: usize,
) -> &mut (Lasting, Lasting) {
    kept.get_or_insert_with(|| (Lasting::zeros(len), Lasting::zeros(len)))
}

/// Updates a parameter that has a gradient; leaves one without alone.
pub(super) fn update(param: &mut Param, step: &AdamWStep) {
    let Some(grad) = param.grad.take() else { return };
    let scalars = Scalars::new(step);
    match &grad {
        ParamGrad::Dense(grad) => {
            catch_up(param);
            let len = param.data.len();
            let (m, v) = moments(&mut param.moments, len);
            param
                .data
                .make_mut()
                .par_chunks_mut(TASK)
                .zip(m.par_chunks_mut(TASK))
                .zip(v.par_chunks_mut(TASK))
                .zip(grad.par_chunks(TASK))
                .for_each(|(((p, m), v), g)| update_slice(p, m, v, g, &scalars));
        }
        ParamGrad::Rows(rows, grad) => {
            if param.lag.steps.len() >= MAX_MISSED {
                catch_up(param);
            }
            let [n_rows, cols] = param.shape;
            param.lag.seen.resize(n_rows, 0);
            let (stale, steps) = for_rows(param, rows);
            stale.into_par_iter().zip(grad.par_chunks_exact(cols)).with_min_len(16).for_each(
                |(row, g)| {
                    replay_slice(row.p, row.m, row.v, &steps[*row.seen as usize..]);
                    update_slice(row.p, row.m, row.v, g, &scalars);
                    *row.seen = steps.len() as u32 + 1;
                },
            );
            param.lag.steps.push(scalars);
        }
    }
    param.grad = Some(grad);
}

/// One row of a table, with its moments.
struct Row<'a> {
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    seen: &'a mut u32,
}

/// Lends the rows `rows` (ascending, each once) of a table, and the steps noted.
fn for_rows<'a>(param: &'a mut Param, rows: &[u32]) -> (Vec<Row<'a>>, &'a [Scalars]) {
    let (len, cols) = (param.data.len(), param.shape[1]);
    let (m, v) = moments(&mut param.moments, len);
    let (mut p, mut m, mut v) = (param.data.make_mut(), &mut m[..], &mut v[..]);
    let mut seen = &mut param.lag.seen[..];
    let mut next = 0;
    let mut lent = Vec::with_capacity(rows.len());
    for &row in rows {
        let skip = row as usize - next;
        lent.push(Row {
            p: cut(&mut p, skip * cols, cols),
            m: cut(&mut m, skip * cols, cols),
            v: cut(&mut v, skip * cols, cols),
            seen: &mut cut(&mut seen, skip, 1)[0],
        });
        next = row as usize + 1;
    }
    (lent, &param.lag.steps)
}

/// Takes `len` elements after `skip` off the front of `data`.
fn cut<'a, T>(data: &mut &'a mut [T], skip: usize, len: usize) -> &'a mut [T] {
    let (taken, rest) = std::mem::take(data)[skip..].split_at_mut(len);
    *data = rest;
    taken
}

/// Brings the rows in `rows` (any order, repeats allowed) up to date.
pub(super) fn catch_up_rows(param: &mut Param, rows: &[u32]) {
    if param.lag.steps.is_empty() {
        return;
    }
    let steps = param.lag.steps.len() as u32;
    let mut stale: Vec<u32> =
        rows.iter().copied().filter(|&row| param.lag.seen[row as usize] < steps).collect();
    stale.par_sort_unstable();
    stale.dedup();
    replay_rows(param, &stale);
}

/// Brings the whole table up to date and forgets the steps.
pub(super) fn catch_up(param: &mut Param) {
    if param.lag.steps.is_empty() {
        return;
    }
    let steps = param.lag.steps.len() as u32;
    let stale: Vec<u32> =
        (0..param.shape[0] as u32).filter(|&row| param.lag.seen[row as usize] < steps).collect();
    replay_rows(param, &stale);
    param.lag = Lag::default();
}

fn replay_rows(param: &mut Param, rows: &[u32]) {
    let (stale, steps) = for_rows(param, rows);
    stale.into_par_iter().with_min_len(4).for_each(|row| {
        replay_slice(row.p, row.m, row.v, &steps[*row.seen as usize..]);
        *row.seen = steps.len() as u32;
    });
}

#[cfg(test)]
mod tests {
    use super::super::Fused;
    use super::super::testing::{bits, noise};
    use super::*;
    use crate::backend::{Optimizer, ParamId, Parameters};
    use proptest::prelude::*;

    const ROWS: usize = 9;

    fn step(t: u64, seed: u64) -> AdamWStep {
        let x = noise(3, seed + t);
        AdamWStep {
            lr: 1e-2 * (1.0 + x[0] as f64),
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: if seed.is_multiple_of(3) { 0.0 } else { 0.1 },
            grad_scale: 1.0 + 0.5 * x[1] as f64,
            t,
        }
    }

    #[test]
    fn a_step_is_the_formula() {
        let fused = Fused::new();
        let (start, len) = (noise(40_000, 0), 40_000);
        let id = fused.add_param([200, 200], start.clone(), false).unwrap();
        let mut p: Vec<f64> = start.iter().map(|&x| x as f64).collect();
        let (mut m, mut v) = (vec![0.0f64; len], vec![0.0f64; len]);
        for t in 1..=20u64 {
            let (s, grad) = (step(t, 1), noise(len, t));
            fused.params.borrow_mut()[id.0].grad = Some(ParamGrad::Dense(grad.clone().into()));
            fused.adamw(&[id], &s).unwrap();
            for i in 0..len {
                let g = grad[i] as f64 * s.grad_scale;
                p[i] *= 1.0 - s.lr * s.weight_decay;
                m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
                v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
                let (mh, vh) =
                    (m[i] / (1.0 - s.beta1.powf(t as f64)), v[i] / (1.0 - s.beta2.powf(t as f64)));
                p[i] -= s.lr * mh / (vh.sqrt() + s.eps);
            }
        }
        let (gm, gv) = fused.moments(id).unwrap();
        for (got, want) in [(fused.read_param(id).unwrap(), p), (gm, m), (gv, v)] {
            assert!(got.iter().zip(&want).all(|(g, w)| (*g as f64 - w).abs() < 2e-6), "20 steps");
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        let fused = Fused::new();
        let id = fused.add_param([1, 3], vec![1.0, 2.0, 3.0], false).unwrap();
        fused.adamw(&[id], &step(1, 1)).unwrap();
        assert_eq!(fused.read_param(id).unwrap(), [1.0, 2.0, 3.0]);
        assert_eq!(fused.moments(id).unwrap().0, [0.0; 3]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        /// A step whose gradient touches these rows.
        Step(Vec<u32>),
        /// Rows read by a gather.
        Read(Vec<u32>),
        /// Parameter and moments saved.
        Save,
        /// Parameter overwritten (as by a resumed run).
        Write,
        WriteMoments,
        /// Read as a whole by an operation.
        Weight,
    }

    fn rows(most: usize) -> impl Strategy<Value = Vec<u32>> {
        prop::collection::btree_set(0..ROWS as u32, 0..most)
            .prop_map(|rows| rows.into_iter().collect())
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            10 => rows(4).prop_map(Event::Step),
            5 => rows(3).prop_map(Event::Read),
            1 => Just(Event::Save),
            1 => Just(Event::Write),
            1 => Just(Event::WriteMoments),
            1 => Just(Event::Weight),
        ]
    }

    /// Reads the parameter, and the moments.
    fn state(fused: &Fused, id: ParamId) -> [Vec<u32>; 3] {
        let (m, v) = fused.moments(id).unwrap();
        [bits(&fused.read_param(id).unwrap()), bits(&m), bits(&v)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn lazy_rows_have_the_bits_of_the_dense_loop(
            events in prop::collection::vec(event(), 1..60),
            cols in prop_oneof![Just(1usize), Just(5), Just(64), Just(70)],
            seed in 0u64..1000,
        ) {
            let (lazy, dense) = (Fused::new(), Fused::new());
            let start = noise(ROWS * cols, seed);
            let id = lazy.add_param([ROWS, cols], start.clone(), true).unwrap();
            dense.add_param([ROWS, cols], start, false).unwrap();
            let mut t = 0;
            for (e, event) in events.iter().enumerate() {
                let fresh = || noise(ROWS * cols, seed + e as u64);
                match event {
                    Event::Step(rows) => {
                        t += 1;
                        let grad = noise(rows.len() * cols, seed + t);
                        let mut full = vec![0.0; ROWS * cols];
                        for (&row, g) in rows.iter().zip(grad.chunks_exact(cols)) {
                            full[row as usize * cols..][..cols].copy_from_slice(g);
                        }
                        lazy.params.borrow_mut()[0].grad = Some(ParamGrad::Rows(rows.clone(), grad.into()));
                        dense.params.borrow_mut()[0].grad = Some(ParamGrad::Dense(full.into()));
                        lazy.adamw(&[id], &step(t, seed)).unwrap();
                        dense.adamw(&[id], &step(t, seed)).unwrap();
                    }
                    Event::Read(rows) => {
                        let param = &mut lazy.params.borrow_mut()[0];
                        catch_up_rows(param, rows);
                        let (data, other) = (param.data.to_vec(), dense.params.borrow()[0].data.to_vec());
                        for &row in rows {
                            let range = row as usize * cols..(row as usize + 1) * cols;
                            prop_assert_eq!(bits(&data[range.clone()]), bits(&other[range]));
                        }
                    }
                    Event::Save => {
                        prop_assert_eq!(state(&lazy, id), state(&dense, id));
                        prop_assert!(lazy.params.borrow()[0].lag.steps.is_empty(), "notes are dropped when all is up to date");
                    }
                    Event::Write => [&lazy, &dense].iter().for_each(|f| f.write_param(id, &fresh()).unwrap()),
                    Event::WriteMoments => {
                        let v: Vec<f32> = fresh().iter().map(|x| x * x).collect();
                        [&lazy, &dense].iter().for_each(|f| f.write_moments(id, &fresh(), &v).unwrap());
                    }
                    Event::Weight => prop_assert_eq!(bits(&lazy.weight(id)), bits(&dense.weight(id))),
                }
            }
            prop_assert_eq!(state(&lazy, id), state(&dense, id));
        }
    }

    #[test]
    fn rows_at_rest_with_an_eps_of_zero_divide_by_zero_in_both() {
        let (lazy, dense) = (Fused::new(), Fused::new());
        let id = lazy.add_param([2, 1], vec![1.0, 2.0], true).unwrap();
        dense.add_param([2, 1], vec![1.0, 2.0], false).unwrap();
        lazy.params.borrow_mut()[0].grad = Some(ParamGrad::Rows(vec![0], vec![1.0].into()));
        dense.params.borrow_mut()[0].grad = Some(ParamGrad::Dense(vec![1.0, 0.0].into()));
        for fused in [&lazy, &dense] {
            fused.adamw(&[id], &AdamWStep { eps: 0.0, ..step(1, 1) }).unwrap();
        }
        let (lazy, dense) = (lazy.read_param(id).unwrap(), dense.read_param(id).unwrap());
        assert_eq!(lazy[0].to_bits(), dense[0].to_bits());
        assert!(lazy[1].is_nan() && dense[1].is_nan());
    }

    #[test]
    fn missed_steps_are_bounded() {
        let fused = Fused::new();
        let id = fused.add_param([2, 1], vec![1.0, 2.0], true).unwrap();
        for t in 1..=MAX_MISSED as u64 + 2 {
            fused.params.borrow_mut()[0].grad = Some(ParamGrad::Rows(vec![0], vec![1.0].into()));
            fused.adamw(&[id], &step(t, 1)).unwrap();
        }
        assert_eq!(fused.params.borrow()[0].lag.steps.len(), 2);
    }

    #[test]
    fn norm_counts_every_element_once() {
        let grad = noise(3 * TASK + 5, 1);
        let want: f64 = grad.iter().map(|&g| g as f64 * g as f64).sum();
        for grad in [
            ParamGrad::Dense(grad.clone().into()),
            ParamGrad::Rows((0..grad.len() as u32).collect(), grad.into()),
        ] {
            assert!((squared_norm(&grad) - want).abs() < 1e-9 * want);
        }
        assert_eq!(squared_norm(&ParamGrad::Dense(vec![].into())), 0.0);
    }
}
