//! What the operations of a backend are configured by.

use super::ParamId;
use serde::{Deserialize, Serialize};

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
