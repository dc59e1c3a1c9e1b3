//! What computes: one trait, two implementations.
//!
//! [`Backend`] lists every differentiable operation of the model at the size of a block.
//! `fused::Fused` runs them on packed host slices with rayon, SIMD and a gemm library;
//! `reference::Reference<E, D>` composes them of dfdx operations on any dfdx device and is their
//! meaning. Both own their parameters, so a parameter exists once. A [`Tensor`] is opaque:
//! it belongs to the backend that made it. (A trait object instead of an enum over devices: nothing
//! that computes with tensors, plugins included, has to match on where they live, and a device is
//! one more implementation.)
//!
//! All weights are stored `[out, in]`, as `torch.nn.Linear` does, and applied as `x @ W^T`; there
//! are no biases.

use crate::patch::Patches;
use crate::tensor_file::MappedTensor;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::rc::Rc;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dfdx;
pub mod fused;
pub mod gpu;

/// A differentiable matrix `[rows, cols]` on the backend that made it. Cloning shares.
#[derive(Clone)]
pub struct Tensor {
    pub rows: usize,
    pub cols: usize,
    /// The backend's own representation.
    pub inner: Rc<dyn Any>,
}

/// A parameter of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// A pre-norm transformer block: `x += Attention(RMSNorm(x)); x += SwiGLU(RMSNorm(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockConfig {
    pub dim: usize,
    pub heads: usize,
    /// Key/value heads; query head h reads key/value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Key j is visible to query i iff `i - window < j <= i`; None: all `j <= i`.
    pub window: Option<usize>,
    /// RoPE over interleaved pairs (2i, 2i+1), inverse frequency `theta^(-2i/head_dim)`; positions
    /// restart at each span.
    pub rope_theta: f64,
    pub eps: f64,
}

#[derive(Clone, Debug)]
pub struct BlockParams {
    pub input_layernorm: ParamId,          // [dim]
    pub q: ParamId,                        // [heads * head_dim, dim]
    pub k: ParamId,                        // [kv_heads * head_dim, dim]
    pub v: ParamId,                        // [kv_heads * head_dim, dim]
    pub o: ParamId,                        // [dim, heads * head_dim]
    pub post_attention_layernorm: ParamId, // [dim]
    pub gate: ParamId,                     // [ffn, dim]
    pub up: ParamId,                       // [ffn, dim]
    pub down: ParamId,                     // [dim, ffn]
}

/// Cross-attention between patch rows and byte rows. No RoPE. Scale `head_dim^-0.5`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CrossConfig {
    pub dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f64,
}

#[derive(Clone, Debug)]
pub struct CrossParams {
    pub q_norm: ParamId, // [dim]
    pub k_norm: ParamId, // [dim]
    pub q: ParamId,      // [heads * head_dim, dim]
    pub k: ParamId,      // [kv_heads * head_dim, dim]
    pub v: ParamId,      // [kv_heads * head_dim, dim]
    pub o: ParamId,      // [dim, heads * head_dim]
}

/// Hash n-gram embeddings: one table of `vocab` rows for each (function, size), all in one
/// parameter, function-major: table `t = function * sizes.len() + size_index` is rows `t * vocab
/// ..`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashConfig {
    pub sizes: Vec<usize>,
    pub functions: usize,
    pub vocab: usize,
}

/// The multipliers of the hash functions, by function index.
pub const HASH_PRIMES: [i64; 11] = [
    1000000007, 5915587277, 1500450271, 3267000013, 5754853343, 4093082899, 9576890767, 3628273133,
    2860486313, 5463458053, 3367900313,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Elementwise maximum; its gradient is shared equally among ties (PyTorch's amax).
    Max,
    Mean,
    /// Elementwise minimum; gradient as for Max.
    Min,
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pooling::Max => "max",
            Pooling::Mean => "mean",
            Pooling::Min => "min",
        })
    }
}

/// One AdamW step's numbers (decoupled decay, as `torch.optim.AdamW`:
/// `p *= 1 - lr*wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr * (m / (1-b1^t)) / (sqrt(v
/// / (1-b2^t)) + eps)`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Gradients are multiplied by this first (clipping by global norm).
    pub grad_scale: f64,
    /// Counts from 1.
    pub t: u64,
}

/// Result of [`Backend::head_loss`].
pub struct HeadLoss {
    /// `[1, 1]`: `scale * sum of nats over the counted positions`; the value that `backward`
    /// starts from.
    pub loss: Tensor,
    /// Nats of each position's target, `[n]`; 0 where nothing is predicted.
    pub nats: Vec<f32>,
}

/// Every operation of the model. Methods take `&self`: a backend keeps its tape and parameters
/// behind cells and is used from one thread (it may use many itself). Shapes are `[rows, cols]`;
/// `n` is ids on the packed axis, `P` patches.
pub trait Backend {
    /// `fused` or `reference`.
    fn path(&self) -> &'static str;
    /// `cpu` or `cuda:0`.
    fn device(&self) -> String;

    // Parameters
    /// Registers a parameter of `shape` `[rows, cols]` (a norm's weight is `[1, dim]`), row-major
    /// `data`. `by_rows`: read by rows (an embedding or hash table), so a step touches few of
    /// them.
    fn add_param(&self, shape: [usize; 2], data: Vec<f32>, by_rows: bool) -> ParamId;
    /// As `add_param`, of numbers in a mapped file, of `shape[0] * shape[1]` elements. A backend
    /// that can reads them where they lie, and copies them when they are first written to; this
    /// one copies them now.
    fn add_mapped_param(&self, shape: [usize; 2], data: MappedTensor, by_rows: bool) -> ParamId {
        self.add_param(shape, data.to_f32(), by_rows)
    }
    fn param_shape(&self, id: ParamId) -> [usize; 2];
    fn read_param(&self, id: ParamId) -> Vec<f32>;
    fn write_param(&self, id: ParamId, data: &[f32]);

    // Tape
    /// From now on operations are recorded (true), or the tape is dropped and nothing is recorded
    /// (false).
    fn record(&self, on: bool);
    fn recording(&self) -> bool;
    /// While paused, operations compute and are not recorded; the tape is kept for when the pause
    /// ends. For parts of a graph that no gradient flows through. Pausing what is not recording
    /// does nothing.
    fn pause(&self, on: bool);
    /// From now on a recorded block keeps its input alone, and backward computes the rest again:
    /// less memory, about a third more time, the same bits. A backend that cannot keeps
    /// everything.
    fn recompute(&self, on: bool) {
        let _ = on;
    }
    /// Runs the tape backward from `loss` (`[1, 1]`), adds into the parameters' gradients, and
    /// empties the tape. Recording stays on. Parameters that the loss did not touch keep no
    /// gradient.
    fn backward(&self, loss: &Tensor) {
        self.backward_observed(loss, &mut |_| ());
    }
    /// As [`Backend::backward`], for those who measure: calls `after(i)` when operation i of the
    /// tape has run, from the last to the first. Operations that no gradient reaches may be
    /// left out.
    fn backward_observed(&self, loss: &Tensor, after: &mut dyn FnMut(usize));
    /// Operations on the tape.
    fn tape_len(&self) -> usize;
    /// The dense gradient, row-major; None if no backward reached the parameter since `zero_grads`.
    fn grad(&self, id: ParamId) -> Option<Vec<f32>>;
    fn zero_grads(&self);
    /// Sum of squares of the gradients of `ids`, in a fixed order, accumulated in f64 (on a GPU in
    /// f32, in any order).
    fn grad_norm_squared(&self, ids: &[ParamId]) -> f64;
    /// Updates those of `ids` that have a gradient; the others are neither updated nor decayed.
    fn adamw(&self, ids: &[ParamId], step: &AdamWStep);
    /// First and second moments (zeros before the first update).
    fn moments(&self, id: ParamId) -> (Vec<f32>, Vec<f32>);
    fn write_moments(&self, id: ParamId, m: &[f32], v: &[f32]);

    /// Makes every page of the moments of `ids` exist, for those who measure memory: a table's rows
    /// that no step has reached may not yet.
    fn touch_moments(&self, ids: &[ParamId]) {
        let _ = ids;
    }

    /// Waits until everything asked so far is computed, for those who measure time: a GPU computes
    /// on while the host asks for more.
    fn synchronize(&self) {}

    // Values
    /// A constant (no gradient flows out of it).
    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Tensor;
    /// Copies a value to the host, row-major `[rows, cols]`.
    fn to_host(&self, x: &Tensor) -> Vec<f32>;
    /// The same numbers under another shape.
    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Tensor;

    // Operations
    /// `tokens[id_i] + sum over tables of table[hash(window ending at i)]`, `[n, dim]`. The window
    /// of size m is the last m ids ending at i, left-padded with id 0 at its span's start; `h =
    /// sum_j id[i-m+1+j] * prime^j` in wrapping i64, floored modulo `vocab`. No normalisation.
    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Tensor;
    /// One transformer block over spans `offsets` (`[spans + 1]` into the rows of x). `[n, dim] ->
    /// [n, dim]`
    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Tensor;
    /// `x @ W^T`, `[n, in] -> [n, out]`.
    fn linear(&self, x: &Tensor, weight: ParamId) -> Tensor;
    /// Pools each patch's rows of h. `[n, dim] -> [P, dim]`
    fn pool(&self, h: &Tensor, patches: &Patches, pooling: Pooling) -> Tensor;
    /// Encoder cross-attention: query row `p * k + j` (of `q`, `[P * k, dim]`) sees the rows of h
    /// in patch p alone. Returns `2 q + o_proj(attn(q_proj(q_norm q), k_proj(k_norm h),
    /// v_proj(k_norm h)))`, `[P * k, dim]`.
    fn encoder_cross(
        &self,
        q: &Tensor,
        h: &Tensor,
        patches: &Patches,
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Tensor;
    /// Decoder cross-attention: row i of x sees rows `reads[i] * k .. reads[i] * k + k` of kv
    /// (`[P * k, dim]`) alone. Returns `2 x + o_proj(attn(q_proj(q_norm x), k_proj(k_norm kv),
    /// v_proj(k_norm kv)))`, `[n, dim]`.
    fn decoder_cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        reads: &[u32],
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Tensor;
    /// `lm_head(RMSNorm(x))` and the cross-entropy of `targets` (`[n]`; None: nothing is predicted
    /// there). The logits are not kept beyond what backward needs.
    fn head_loss(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
        targets: &[Option<u16>],
        scale: f64,
    ) -> HeadLoss;
    /// `lm_head(RMSNorm(x))` on the host, `[n, vocab]`; never recorded.
    fn head_logits(&self, x: &Tensor, norm: ParamId, head: ParamId, eps: f64) -> Vec<f32>;
    /// Entropy in nats of the softmax of `head_logits`, `[n]`; never recorded, the logits are not
    /// kept.
    fn head_entropies(&self, x: &Tensor, norm: ParamId, head: ParamId, eps: f64) -> Vec<f32>;
    /// Sum of two losses or states of one shape.
    fn add(&self, a: &Tensor, b: &Tensor) -> Tensor;
}
