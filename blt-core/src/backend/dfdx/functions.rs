//! Differentiable functions over dfdx tensors, of which the operations are composed.

use super::Element;
use super::tape::SharedTape;
use crate::planted::{Bug, planted};
use crate::rope;
use dfdx::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// A matrix without a tape.
pub type Flat<E, D> = Tensor<(usize, usize), E, D>;
/// A value and the tape that records it.
pub type Taped<S, E, D> = Tensor<S, E, D, SharedTape<E, D>>;
/// A matrix and the tape that records it.
pub type Matrix<E, D> = Taped<(usize, usize), E, D>;
/// Indices on the device.
pub type Index<D> = Tensor<(usize,), usize, D>;

/// A matrix of which nothing is recorded.
pub fn untaped<E: Element, D: Device<E>>(x: &Flat<E, D>) -> Matrix<E, D> {
    x.clone().put_tape(SharedTape::default())
}

/// The value alone: no gradient flows through what is computed of it.
pub fn detached<S: Shape, E: Element, D: Device<E>>(x: &Taped<S, E, D>) -> Tensor<S, E, D> {
    x.retaped::<NoneTape>()
}

pub fn index<D: TensorFromVec<usize>>(device: &D, rows: Vec<usize>) -> Result<Index<D>, D::Err> {
    let n = rows.len();
    device.try_tensor_from_vec(rows, (n,))
}

/// Rows `rows` of x. `[n, d] -> [rows, d]`
pub fn gather<E: Element, D: Device<E>>(
    x: Matrix<E, D>,
    rows: Index<D>,
) -> Result<Matrix<E, D>, D::Err> {
    x.try_gather(rows)
}

/// Matrices of one width below one another, merged pairwise so that each row is copied log(parts)
/// times.
pub fn concat<E: Element, D: Device<E>>(
    mut parts: Vec<Matrix<E, D>>,
) -> Result<Matrix<E, D>, D::Err> {
    while parts.len() > 1 {
        let mut merged = Vec::with_capacity(parts.len().div_ceil(2));
        let mut rest = parts.into_iter();
        while let Some(a) = rest.next() {
            merged.push(match rest.next() {
                Some(b) => (a, b).try_concat_along(Axis::<0>)?,
                None => a,
            });
        }
        parts = merged;
    }
    Ok(parts.pop().expect("at least one part"))
}

/// `order[i]` is where row i stands in the concatenation of parts that list their rows one after
/// another.
pub fn inverse(rows: impl IntoIterator<Item = usize>, n: usize) -> Vec<usize> {
    let mut order = vec![usize::MAX; n];
    for (at, row) in rows.into_iter().enumerate() {
        order[row] = at;
    }
    assert!(order.iter().all(|&at| at < n), "every row is computed once");
    order
}

/// `x @ W^T`. `[n, in], [out, in] -> [n, out]`
pub fn linear<E: Element, D: Device<E>>(
    x: Matrix<E, D>,
    weight: Matrix<E, D>,
) -> Result<Matrix<E, D>, D::Err> {
    x.try_matmul(weight.try_permute::<(usize, usize), Axes2<1, 0>>()?)
}

/// `x / sqrt(mean(x^2) + eps) * w`. `[n, d], [1, d] -> [n, d]`
pub fn rms_norm<E: Element, D: Device<E>>(
    x: Matrix<E, D>,
    weight: Matrix<E, D>,
    eps: f64,
) -> Result<Matrix<E, D>, D::Err> {
    let shape = *x.shape();
    let weight = weight.try_reshape_like(&(shape.1,))?;
    let mean: Taped<(usize,), E, D> = x.clone().try_square()?.try_mean::<_, Axis<1>>()?;
    let scale = mean.try_add(E::of(eps))?.try_sqrt()?.try_recip()?;
    x.try_mul(scale.try_broadcast_like::<_, Axis<1>>(&shape)?)?
        .try_mul(weight.try_broadcast_like::<_, Axis<0>>(&shape)?)
}

/// `x * sigmoid(x)`
pub fn silu<E: Element, D: Device<E>>(x: Matrix<E, D>) -> Result<Matrix<E, D>, D::Err> {
    let gate = x.clone().try_sigmoid()?;
    x.try_mul(gate)
}

/// Cosines and sines of the angles by which each row is rotated, `[n, head_dim]`, each pair's angle
/// twice.
#[derive(Clone)]
pub struct Rotation<E: Element, D: Device<E>> {
    pub cos: Flat<E, D>,
    pub sin: Flat<E, D>,
    /// `[head_dim, head_dim]`: `x @ turn` maps a pair (a, b) to (-b, a).
    pub turn: Flat<E, D>,
}

impl<E: Element, D: Device<E>> Rotation<E, D> {
    /// The table for positions `0..positions`, of the angles that [`crate::rope`] defines.
    pub fn table(
        device: &D,
        positions: usize,
        head_dim: usize,
        theta: f64,
    ) -> Result<Self, D::Err> {
        let halves = planted(Bug::RopeHalves);
        let mut frequencies = rope::frequencies(theta, head_dim);
        frequencies = match halves {
            true => frequencies.repeat(2),
            false => frequencies.into_iter().flat_map(|f| [f, f]).collect(),
        };
        let angles = |f: fn(f64) -> f64| {
            let row = |p: usize| {
                frequencies.iter().map(move |&frequency| E::of(f(rope::angle(p, frequency))))
            };
            let numbers = (0..positions).flat_map(row).collect();
            device.try_tensor_from_vec(numbers, (positions, head_dim))
        };
        let mut turn = vec![E::of(0.0); head_dim * head_dim];
        for i in 0..head_dim / 2 {
            let (a, b) = if halves { (i, i + head_dim / 2) } else { (2 * i, 2 * i + 1) };
            turn[b * head_dim + a] = E::of(-1.0);
            turn[a * head_dim + b] = E::of(1.0);
        }
        Ok(Rotation {
            cos: angles(f64::cos)?,
            sin: angles(f64::sin)?,
            turn: device.try_tensor_from_vec(turn, (head_dim, head_dim))?,
        })
    }

    /// One row for each of `positions`.
    pub fn at(&self, positions: Index<D>) -> Result<Self, D::Err> {
        Ok(Rotation {
            cos: self.cos.clone().try_gather(positions.clone())?,
            sin: self.sin.clone().try_gather(positions)?,
            turn: self.turn.clone(),
        })
    }

    /// Rotates the pairs of every head. `[n, heads * head_dim] -> [n * heads, head_dim]`
    pub fn apply(&self, x: Matrix<E, D>) -> Result<Matrix<E, D>, D::Err> {
        let (n, head_dim) = *self.cos.shape();
        let heads = x.shape().1 / head_dim;
        let (flat, shape) = ((n * heads, head_dim), (n, heads, head_dim));
        let x = x.try_reshape_like(&flat)?;
        let turned = x.clone().try_matmul(self.turn.clone())?.try_reshape_like(&shape)?;
        let cos = self.cos.clone().try_broadcast_like::<_, Axis<1>>(&shape)?;
        let sin = self.sin.clone().try_broadcast_like::<_, Axis<1>>(&shape)?;
        let kept = x.try_reshape_like(&shape)?.try_mul(cos)?;
        kept.try_add(turned.try_mul(sin)?)?.try_reshape_like(&flat)
    }
}

/// Maximum over axis 1. dfdx gives each tied element the whole gradient; here ties share it, as
/// PyTorch's amax does.
pub fn max_of_equals<E: Element, D: Device<E>>(
    x: Taped<(usize, usize, usize), E, D>,
) -> Result<Matrix<E, D>, D::Err> {
    let (device, shape) = (x.device().clone(), *x.shape());
    let value = detached(&x);
    let max: Flat<E, D> = value.clone().try_max::<_, Axis<1>>()?;
    let ties = value.try_eq(&max.clone().try_broadcast_like::<_, Axis<1>>(&shape)?)?;
    // Made of zeros: dfdx makes ones on the host, and a GPU would wait for them.
    let zeros: Tensor<_, E, D> = device.try_zeros_like(&shape)?;
    let ties = ties.try_choose(zeros.clone().try_add(E::of(1.0))?, zeros)?;
    let count: Flat<E, D> = ties.clone().try_sum::<_, Axis<1>>()?;
    let share = ties.try_div(count.try_broadcast_like::<_, Axis<1>>(&shape)?)?;
    let mean: Matrix<E, D> = x.try_mul(share)?.try_sum::<_, Axis<1>>()?;
    // The mean of tied values may round away from them.
    let rounding = max.try_sub(detached(&mean))?;
    mean.try_add(rounding)
}

/// Ranges by their length, each length's in ascending order of number.
pub fn by_length(offsets: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let mut buckets = BTreeMap::<usize, Vec<usize>>::new();
    for (p, range) in offsets.windows(2).enumerate() {
        assert!(range[0] < range[1], "patch {p} is empty");
        buckets.entry(range[1] - range[0]).or_default().push(p);
    }
    buckets
}

/// Up to `rows` rows at a time.
pub fn chunks(n: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(rows).map(move |a| a..(a + rows).min(n))
}
