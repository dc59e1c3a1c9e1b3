//! Attention over exactly the pairs that may see each other, in tiles.
//!
//! Every attention of the model is ranges of query rows that see ranges of key rows. Ranges of one
//! shape are stacked into a batch; a tile's scores exist while it is computed, forward and again in
//! backward, and never all at once.

use super::Element;
use super::functions::{Flat, Index, Matrix, Taped, concat, gather, index, inverse, untaped};
use super::tape::{SharedTape, id_of};
use dfdx::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Query rows of a tile of self-attention.
const TILE: usize = 128;
/// Scores of a batch of ranges, about: what bounds its memory.
pub const TILE_SCORES: usize = 1 << 20;
/// On a GPU, where every batch costs some eighty launches of kernels, forward and backward.
pub const GPU_TILE_SCORES: usize = 1 << 24;

/// Query rows, and the key rows that they see.
#[derive(Clone, PartialEq)]
pub struct Pair {
    pub queries: Range<usize>,
    pub keys: Range<usize>,
}

/// Which keys of a [`Pair`] a query sees.
#[derive(Clone, Copy, PartialEq)]
pub enum Visible {
    All,
    /// Key j is visible to query i iff `i - window < j <= i` (None: `j <= i`), both counted on one
    /// axis.
    Causal(Option<usize>),
}

/// The tiles of causal self-attention over spans: each query tile with the keys that any of its
/// rows sees.
pub fn causal_pairs(offsets: &[usize], window: Option<usize>) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for span in offsets.windows(2) {
        for a in (span[0]..span[1]).step_by(TILE) {
            let b = (a + TILE).min(span[1]);
            let first = window.map_or(span[0], |w| (a + 1).saturating_sub(w).max(span[0]));
            pairs.push(Pair { queries: a..b, keys: first..b });
        }
    }
    pairs
}

/// `(batch, queries, keys)`
type Scores<E, D> = Taped<(usize, usize, usize), E, D>;

struct Tile<E: Element, D: Device<E>> {
    /// Rows of q, `[batch * queries]`, and of k and v, `[batch * keys]`.
    q: Index<D>,
    k: Index<D>,
    /// `(batch, queries, keys)`
    shape: (usize, usize, usize),
    /// `[queries, keys]`: 0 where the key is visible, very negative elsewhere; None: all are
    /// visible.
    mask: Option<Flat<E, D>>,
}

/// How to compute one attention: which rows meet which, batched.
pub struct Plan<E: Element, D: Device<E>> {
    tiles: Vec<Tile<E, D>>,
    /// From the tiles' rows, one tile after another, to q's.
    order: Index<D>,
    scale: f64,
}

impl<E: Element, D: Device<E>> Plan<E, D> {
    /// Every query row must be in exactly one pair. q has `heads` rows for each query row
    /// (query-major), k and v `kv_heads` for each key row; query head h reads key/value head `h
    /// / (heads / kv_heads)`. About `tile_scores` scores exist at once.
    pub fn new(
        device: &D,
        pairs: &[Pair],
        [heads, kv_heads]: [usize; 2],
        visible: Visible,
        scale: f64,
        tile_scores: usize,
    ) -> Result<Self, D::Err> {
        let group = heads / kv_heads;
        let mut shapes = BTreeMap::<(usize, usize, usize), Vec<&Pair>>::new();
        for pair in pairs {
            let ahead = match visible {
                Visible::All => 0,
                Visible::Causal(_) => pair.queries.start - pair.keys.start,
            };
            shapes.entry((pair.queries.len(), pair.keys.len(), ahead)).or_default().push(pair);
        }
        let (mut tiles, mut q_rows) = (Vec::new(), Vec::new());
        for ((n_queries, n_keys, ahead), pairs) in shapes {
            let mask = mask(device, n_queries, n_keys, ahead, group, visible)?;
            for pairs in pairs.chunks((tile_scores / (n_queries * n_keys * heads)).max(1)) {
                let (mut q, mut k) = (Vec::new(), Vec::new());
                for pair in pairs {
                    for kv in 0..kv_heads {
                        for h in kv * group..(kv + 1) * group {
                            q.extend(pair.queries.clone().map(|i| i * heads + h));
                        }
                        k.extend(pair.keys.clone().map(|j| j * kv_heads + kv));
                    }
                }
                q_rows.extend_from_slice(&q);
                tiles.push(Tile {
                    q: index(device, q)?,
                    k: index(device, k)?,
                    shape: (pairs.len() * kv_heads, group * n_queries, n_keys),
                    mask: mask.clone(),
                });
            }
        }
        let n = q_rows.len();
        Ok(Plan { tiles, order: index(device, inverse(q_rows, n))?, scale })
    }

    /// `softmax(q k^T * scale) v` over the visible pairs.
    /// `[n_queries * heads, head_dim], [n_keys * kv_heads, head_dim] x 2 -> [n_queries * heads,
    /// head_dim]`
    pub fn attend(
        self: Rc<Self>,
        q: Matrix<E, D>,
        k: Matrix<E, D>,
        v: Matrix<E, D>,
    ) -> Result<Matrix<E, D>, D::Err> {
        let ((q, mut tape), (k, _), (v, _)) = (q.split_tape(), k.split_tape(), v.split_tape());
        let parts = self
            .tiles
            .iter()
            .map(|tile| self.tile(tile, untaped(&q), untaped(&k), untaped(&v)))
            .collect::<Result<_, _>>()?;
        let (out, _) = gather(concat(parts)?, self.order.clone())?.split_tape();
        let result = out.clone();
        tape.add_backward_op(move |grads| {
            grads.try_alloc_for(&out)?;
            let grad_out = grads.get(&out);
            // Each tile runs again on a tape of its own, and only the gradients of q, k and v
            // outlive it.
            let mut local = Gradients::leaky();
            let inputs = [&q, &k, &v];
            for x in inputs {
                std::mem::swap(local.get_or_alloc_mut(x)?, grads.get_or_alloc_mut(x)?);
            }
            local.retain_leafs(&inputs.map(id_of));
            for tile in &self.tiles {
                let tape = SharedTape::recording();
                let [q, k, v] = inputs.map(|x| x.clone().put_tape(tape.clone()));
                let rows = grad_out.clone().try_gather(tile.q.clone())?;
                let weighted = self.tile(tile, q, k, v)?.try_mul(rows)?;
                let (loss, _) = weighted.try_sum::<Rank0, _>()?.split_tape();
                loss.device().try_fill_with_ones(local.get_or_alloc_mut(&loss)?)?;
                tape.run(&mut local)?;
                local.drop_non_leafs();
            }
            for x in inputs {
                std::mem::swap(local.get_or_alloc_mut(x)?, grads.get_or_alloc_mut(x)?);
            }
            Ok(())
        });
        Ok(result.put_tape(tape))
    }

    /// The tile's rows of the output, `[batch * queries, head_dim]`.
    fn tile(
        &self,
        tile: &Tile<E, D>,
        q: Matrix<E, D>,
        k: Matrix<E, D>,
        v: Matrix<E, D>,
    ) -> Result<Matrix<E, D>, D::Err> {
        let shape @ (batch, queries, keys) = tile.shape;
        let head_dim = q.shape().1;
        let q = gather(q, tile.q.clone())?.try_reshape_like(&(batch, queries, head_dim))?;
        let k = gather(k, tile.k.clone())?.try_reshape_like(&(batch, keys, head_dim))?;
        let v = gather(v, tile.k.clone())?.try_reshape_like(&(batch, keys, head_dim))?;
        let transposed = k.try_permute::<(usize, usize, usize), Axes3<0, 2, 1>>()?;
        let mut scores = q.try_matmul(transposed)?.try_mul(E::of(self.scale))?;
        if let Some(mask) = &tile.mask {
            scores = scores.try_add(mask.clone().try_broadcast_like::<_, Axis<0>>(&shape)?)?;
        }
        softmax(scores)?.try_matmul(v)?.try_reshape_like(&(batch * queries, head_dim))
    }
}

/// Softmax over the last axis. A row that sees one key has gradient exactly zero, so that queries
/// and keys that decide nothing stay still under AdamW, which would blow rounding noise up to whole
/// steps.
fn softmax<E: Element, D: Device<E>>(scores: Scores<E, D>) -> Result<Scores<E, D>, D::Err> {
    let shape = *scores.shape();
    let max: Flat<E, D> = super::functions::detached(&scores).try_max::<_, Axis<2>>()?;
    let exp = scores.try_sub(max.try_broadcast_like::<_, Axis<2>>(&shape)?)?.try_exp()?;
    let sum: Matrix<E, D> = exp.clone().try_sum::<_, Axis<2>>()?;
    exp.try_div(sum.try_broadcast_like::<_, Axis<2>>(&shape)?)
}

/// `[group * queries, keys]`, where query 0 stands `ahead` rows after key 0.
fn mask<E: Element, D: Device<E>>(
    device: &D,
    queries: usize,
    keys: usize,
    ahead: usize,
    group: usize,
    visible: Visible,
) -> Result<Option<Flat<E, D>>, D::Err> {
    let Visible::Causal(window) = visible else { return Ok(None) };
    let sees = |i: usize, j: usize| j <= i + ahead && window.is_none_or(|w| i + ahead < j + w);
    let rows = (0..group * queries).flat_map(|row| (0..keys).map(move |j| (row % queries, j)));
    let mask: Vec<E> = rows.map(|(i, j)| E::of(if sees(i, j) { 0.0 } else { -1e30 })).collect();
    let all = mask.iter().all(|&m| m == E::of(0.0));
    if all {
        return Ok(None);
    }
    device.try_tensor_from_vec(mask, (group * queries, keys)).map(Some)
}
