//! Floating-point operations of a forward pass, counted from the shapes that were executed.
//!
//! A multiply-add is 2 FLOPs. Counted are the matrix products and, of attention, the pairs of query
//! and key that are allowed (scores and weighted sums). As in the paper, lookups are 0 (byte and
//! hash n-gram embeddings, the sum of their rows included), and norms, RoPE, softmax, activations,
//! residuals and pooling are left out. The backward pass costs [`BACKWARD`] times the forward pass.
//!
//! [`closed_form`] is the paper's formula for the same model, with its own simplifications.

use crate::backend::{BlockConfig, CrossConfig};

/// The backward pass's FLOPs, in forward passes.
pub const BACKWARD: u64 = 2;

/// Pairs (i, j) with j visible to i in causal attention inside spans: `i - window < j <= i`, or all
/// `j <= i` without a window. `offsets` is `[spans + 1]`.
pub fn allowed_pairs(offsets: &[usize], window: Option<usize>) -> u64 {
    let pairs = |length: u64| {
        // The first `w` rows see 1, 2, ..., w keys; the others w each.
        let w = window.map_or(length, |w| (w as u64).min(length));
        w * (w + 1) / 2 + (length - w) * w
    };
    offsets.windows(2).map(|o| pairs((o[1] - o[0]) as u64)).sum()
}

/// `[rows, in] @ [in, out]`.
pub fn linear(rows: usize, inputs: usize, outputs: usize) -> u64 {
    2 * rows as u64 * inputs as u64 * outputs as u64
}

/// Scores and weighted sums of `pairs` pairs a head.
fn attention(pairs: u64, heads: usize, head_dim: usize) -> u64 {
    2 * 2 * pairs * (heads * head_dim) as u64
}

/// One transformer block over spans `offsets` (`[spans + 1]`): projections, attention's allowed
/// pairs, SwiGLU.
pub fn block(config: &BlockConfig, offsets: &[usize]) -> u64 {
    let n = offsets.last().copied().unwrap_or(0) - offsets.first().copied().unwrap_or(0);
    let BlockConfig { dim, heads, kv_heads, head_dim, ffn, window, .. } = *config;
    let projections =
        linear(n, dim, (heads + 2 * kv_heads) * head_dim) + linear(n, heads * head_dim, dim);
    projections
        + attention(allowed_pairs(offsets, window), heads, head_dim)
        + 3 * linear(n, dim, ffn)
}

/// Byte and hash n-gram embedding: lookups, 0.
pub fn embed() -> u64 {
    0
}

/// Cross-attention of `queries` rows over `keys` rows, `pairs` allowed pairs in all.
fn cross(config: &CrossConfig, queries: usize, keys: usize, pairs: usize) -> u64 {
    let CrossConfig { dim, heads, kv_heads, head_dim, .. } = *config;
    2 * linear(queries, dim, heads * head_dim)
        + linear(keys, dim, 2 * kv_heads * head_dim)
        + attention(pairs as u64, heads, head_dim)
}

/// Encoder cross-attention: k rows of each of `n_patches` patches over the patch's own ids, `n_ids`
/// in all.
pub fn encoder_cross(config: &CrossConfig, n_ids: usize, n_patches: usize, k: usize) -> u64 {
    cross(config, n_patches * k, n_ids, n_ids * k)
}

/// Decoder cross-attention: each of `n_ids` ids over the k rows of one of `n_patches` patches.
pub fn decoder_cross(config: &CrossConfig, n_ids: usize, n_patches: usize, k: usize) -> u64 {
    cross(config, n_ids, n_patches * k, n_ids * k)
}

/// The head's product (its norm is not counted), `[n_ids, dim] -> [n_ids, vocab]`.
pub fn head(n_ids: usize, dim: usize, vocab: usize) -> u64 {
    linear(n_ids, dim, vocab)
}

/// What the paper's closed formula reads of a Byte Latent Transformer.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Mean bytes per patch.
    pub patch_size: f64,
    /// Bytes of context; the latent transformer sees `context_bytes / patch_size` patches.
    pub context_bytes: f64,
    /// Rows of byte width for each patch.
    pub k: usize,
    pub encoder_dim: usize,
    pub encoder_layers: usize,
    /// Ids that an encoder query sees.
    pub encoder_window: usize,
    /// Encoder layers with cross-attention (the paper's text has all, its best models the last
    /// alone).
    pub encoder_cross_layers: usize,
    pub latent_dim: usize,
    pub latent_layers: usize,
    pub decoder_dim: usize,
    pub decoder_layers: usize,
    pub decoder_window: usize,
    pub decoder_cross_layers: usize,
    /// Outputs of the head (256 in the paper).
    pub vocab: usize,
}

/// The paper's forward FLOPs per byte: latent transformer over patches, local encoder and decoder
/// over bytes, and both cross-attentions.
///
/// `Tr(h_G, l_G, context / p, 0) / p + Tr(h_E, l_E, w_E, 0) + Tr(h_D, l_D, w_D, V) + X(h_E, l_E, p,
/// p / k) k / p + X(h_D, l_D, k, k / p)` with `Tr(h, l, m, V) = Attn(h, l, m) + QKVO(h, l, 1) +
/// FFN(h, l) + 2 h V`, `X(h, l, m, r) = Attn(h, l, m) + QKVO(h, l, r)`, `Attn = 4 l h (m + 1) / 2`,
/// `QKVO = (2 r + 2) 2 l h^2`, `FFN = 2 l 2 h 4 h`.
///
/// It differs from the counts above: the feed-forward layer is two matrices of width 4 h (SwiGLU's
/// three of 8/3 h cost the same), windows count as if they were a causal context that long,
/// key/value heads are not grouped, projections between widths are left out. The entropy
/// model is not in it.
pub fn closed_form(shape: &Shape) -> f64 {
    let attention = |h: usize, l: usize, m: f64| 4.0 * l as f64 * h as f64 * (m + 1.0) / 2.0;
    let qkvo = |h: usize, l: usize, r: f64| (2.0 * r + 2.0) * 2.0 * l as f64 * (h * h) as f64;
    let ffn = |h: usize, l: usize| 2.0 * l as f64 * 2.0 * h as f64 * 4.0 * h as f64;
    let transformer = |h, l, m, vocab: usize| {
        attention(h, l, m) + qkvo(h, l, 1.0) + ffn(h, l) + 2.0 * (h * vocab) as f64
    };
    let cross = |h, l, m, r| attention(h, l, m) + qkvo(h, l, r);
    let Shape { patch_size: p, .. } = *shape;
    let k = shape.k as f64;
    transformer(shape.latent_dim, shape.latent_layers, shape.context_bytes / p, 0) / p
        + transformer(shape.encoder_dim, shape.encoder_layers, shape.encoder_window as f64, 0)
        + transformer(
            shape.decoder_dim,
            shape.decoder_layers,
            shape.decoder_window as f64,
            shape.vocab,
        )
        + cross(shape.encoder_dim, shape.encoder_cross_layers, p, p / k) * k / p
        + cross(shape.decoder_dim, shape.decoder_cross_layers, k, k / p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_config(dim: usize, kv_heads: usize, ffn: usize, window: Option<usize>) -> BlockConfig {
        BlockConfig {
            dim,
            heads: 4,
            kv_heads,
            head_dim: dim / 4,
            ffn,
            window,
            rope_theta: 5e5,
            eps: 1e-5,
        }
    }

    #[test]
    fn pairs_by_hand() {
        assert_eq!(allowed_pairs(&[0, 4], None), 10);
        assert_eq!(allowed_pairs(&[0, 4], Some(2)), 7);
        assert_eq!(allowed_pairs(&[0, 4], Some(1)), 4);
        assert_eq!(allowed_pairs(&[0, 4], Some(100)), 10);
        assert_eq!(allowed_pairs(&[0, 1, 4], None), 1 + 6);
        assert_eq!(allowed_pairs(&[0], None), 0);
        assert_eq!(allowed_pairs(&[], Some(3)), 0);
    }

    #[test]
    fn a_block_by_hand() {
        // 3 ids, dim 8, 4 heads of 2, 2 key/value heads, ffn 16: q 64, k and v 32 each, o 64
        // multiply-adds a row; 3 x 128 in the feed-forward layer; 6 pairs of 8
        // multiply-adds, twice.
        let expected = 2 * (3 * (64 + 32 + 32 + 64) + 3 * 3 * 128 + 2 * 6 * 8);
        assert_eq!(block(&block_config(8, 2, 16, None), &[0, 3]), expected);
        // A window of 1 leaves 3 pairs; so do three spans of one id.
        let alone = expected - 2 * 2 * 3 * 8;
        assert_eq!(block(&block_config(8, 2, 16, Some(1)), &[0, 3]), alone);
        assert_eq!(block(&block_config(8, 2, 16, None), &[0, 1, 2, 3]), alone);
    }

    #[test]
    fn cross_attentions_by_hand() {
        let c = CrossConfig { dim: 8, heads: 4, kv_heads: 2, head_dim: 2, eps: 1e-5 };
        // 5 ids in 2 patches, k = 3: 6 patch rows. q and o 64 a query row, k and v 32 each a key
        // row, 15 pairs of 8, twice.
        assert_eq!(encoder_cross(&c, 5, 2, 3), 2 * (6 * 128 + 5 * 64 + 2 * 15 * 8));
        assert_eq!(decoder_cross(&c, 5, 2, 3), 2 * (5 * 128 + 6 * 64 + 2 * 15 * 8));
        assert_eq!(head(5, 8, 260), 2 * 5 * 8 * 260);
        assert_eq!(linear(2, 3, 4), 48);
        assert_eq!(embed(), 0);
    }

    #[test]
    fn the_closed_form_is_the_count_where_their_assumptions_meet() {
        // No grouped heads, no windows shorter than the context, feed-forward 8/3 dim in three
        // matrices, one patch size throughout, latent width k x dim (no projection between
        // widths).
        let (dim, k, p, n) = (24, 2, 4, 64);
        let config = |dim: usize| block_config(dim, 4, 8 * dim / 3, None);
        let cross = CrossConfig { dim, heads: 4, kv_heads: 4, head_dim: dim / 4, eps: 1e-5 };
        let (bytes, patches) = ([0, n], [0, n / p]);
        let counted = 2 * block(&config(dim), &bytes)
            + 3 * block(&config(k * dim), &patches)
            + 5 * block(&config(dim), &bytes)
            + encoder_cross(&cross, n, n / p, k)
            + 5 * decoder_cross(&cross, n, n / p, k)
            + head(n, dim, 256);
        let shape = Shape {
            patch_size: p as f64,
            context_bytes: n as f64,
            k,
            encoder_dim: dim,
            encoder_layers: 2,
            encoder_window: n,
            encoder_cross_layers: 1,
            latent_dim: k * dim,
            latent_layers: 3,
            decoder_dim: dim,
            decoder_layers: 5,
            decoder_window: n,
            decoder_cross_layers: 5,
            vocab: 256,
        };
        // The closed form counts a cross-attention's pairs as causal, (m + 1) / 2 of m keys.
        let pairs_left_out = |l: usize, m: f64, per_byte: f64| {
            4.0 * (l * dim) as f64 * (m - (m + 1.0) / 2.0) * per_byte
        };
        let left_out =
            pairs_left_out(1, p as f64, k as f64 / p as f64) + pairs_left_out(5, k as f64, 1.0);
        let per_byte = counted as f64 / n as f64;
        assert!((closed_form(&shape) + left_out - per_byte).abs() < 1e-9 * per_byte);
    }

    #[test]
    fn the_papers_8b_model_costs_what_its_parameters_say() {
        // 6.4e9 latent parameters once a patch of 4.5 bytes, and the local layers once a byte, 2
        // FLOPs a parameter; attention on top.
        let shape = Shape {
            patch_size: 4.5,
            context_bytes: 16384.0,
            k: 4,
            encoder_dim: 1280,
            encoder_layers: 1,
            encoder_window: 512,
            encoder_cross_layers: 1,
            latent_dim: 4096,
            latent_layers: 32,
            decoder_dim: 1280,
            decoder_layers: 6,
            decoder_window: 512,
            decoder_cross_layers: 6,
            vocab: 256,
        };
        let flops = closed_form(&shape);
        assert!((3.2e9..3.8e9).contains(&flops), "{flops:e}");
    }

    proptest! {
        #[test]
        fn pairs_are_those_that_the_mask_allows(
            lengths in prop::collection::vec(0usize..12, 0..5),
            window in prop::option::of(1usize..14),
        ) {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |end, l| { *end += l; Some(*end) }));
            let visible = |i: usize, j: usize| j <= i && window.is_none_or(|w| i < j + w);
            let expected: usize =
                lengths.iter().map(|&l| (0..l).map(|i| (0..l).filter(|&j| visible(i, j)).count()).sum::<usize>()).sum();
            prop_assert_eq!(allowed_pairs(&offsets, window), expected as u64);
        }
    }
}
