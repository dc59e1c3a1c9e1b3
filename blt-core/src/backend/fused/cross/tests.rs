//! Cross-attention against dense attention with a mask in f64, and its bits against themselves.

use super::super::testing::{Matrix, bits, check, linear, matrix, noise, rms_norm, scale};
use super::*;
use crate::backend::{Operations, ParamId, Parameters};
use proptest::prelude::*;

fn patches(lengths: &[usize]) -> Patches {
    let starts =
        lengths.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
    Patches {
        starts,
        span_offsets: vec![0, lengths.len()],
        next_starts: vec![true],
        n_ids: lengths.iter().sum(),
    }
}

fn weights(c: &CrossConfig, seed: u64) -> Vec<Matrix> {
    let (width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    vec![
        scale(c.dim, seed),
        scale(c.dim, seed + 1),
        matrix(width, c.dim, seed + 2),
        matrix(kv_width, c.dim, seed + 3),
        matrix(kv_width, c.dim, seed + 4),
        matrix(c.dim, width, seed + 5),
    ]
}

fn params(p: &[ParamId]) -> CrossParams {
    CrossParams { q_norm: p[0], k_norm: p[1], q: p[2], k: p[3], v: p[4], o: p[5] }
}

/// Dense attention with a mask, in f64: query row i sees key row j iff `visible(i, j)`.
fn meaning(at: &[Vec<f64>], c: &CrossConfig, visible: impl Fn(usize, usize) -> bool) -> Vec<f64> {
    let [x, memory, q_norm, k_norm, q, k, v, o] = at else {
        panic!("two inputs and six parameters")
    };
    let (width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let q = linear(&rms_norm(x, q_norm, c.eps), q, c.dim);
    let normed = rms_norm(memory, k_norm, c.eps);
    let (k, v) = (linear(&normed, k, c.dim), linear(&normed, v, c.dim));
    let (nq, nk) = (x.len() / c.dim, memory.len() / c.dim);
    let mut attended = vec![0.0; nq * width];
    for i in 0..nq {
        for h in 0..c.heads {
            let kv_at = h / (c.heads / c.kv_heads) * c.head_dim;
            let seen: Vec<usize> = (0..nk).filter(|&j| visible(i, j)).collect();
            let dot = |j: usize| {
                (0..c.head_dim)
                    .map(|d| q[i * width + h * c.head_dim + d] * k[j * kv_width + kv_at + d])
                    .sum::<f64>()
            };
            let scores: Vec<f64> =
                seen.iter().map(|&j| (dot(j) / (c.head_dim as f64).sqrt()).exp()).collect();
            let total: f64 = scores.iter().sum();
            for (&j, score) in seen.iter().zip(&scores) {
                for d in 0..c.head_dim {
                    attended[i * width + h * c.head_dim + d] +=
                        score / total * v[j * kv_width + kv_at + d];
                }
            }
        }
    }
    linear(&attended, o, width).iter().zip(x).map(|(a, x)| a + 2.0 * x).collect()
}

fn config() -> impl Strategy<Value = CrossConfig> {
    let heads = prop_oneof![Just((1, 1)), Just((2, 2)), Just((4, 2)), Just((6, 1))];
    (
        prop_oneof![Just(8usize), Just(20)],
        heads,
        prop_oneof![Just(2usize), Just(5), Just(16), Just(32)],
    )
        .prop_map(|(dim, (heads, kv_heads), head_dim)| CrossConfig {
            dim,
            heads,
            kv_heads,
            head_dim,
            eps: 1e-5,
        })
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(1usize), 1usize..7], 0..6),
        Just(vec![1, 90]),
        Just(vec![1; 20]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn encoder_agrees_with_masked_attention(lengths in lengths(), k in 1usize..5, c in config(), seed in 0u64..1000) {
        let patches = patches(&lengths);
        let owner = patches.owner();
        let inputs = [matrix(lengths.len() * k, c.dim, seed + 10), matrix(patches.n_ids, c.dim, seed + 11)];
        check(
            |fused, x, p| encoder(fused, &x[0], &x[1], &patches, k, &params(p), &c).unwrap(),
            &inputs,
            &weights(&c, seed),
            |at| meaning(at, &c, |i, j| owner[j] as usize == i / k),
        );
    }

    #[test]
    fn decoder_agrees_with_masked_attention(
        lengths in lengths(),
        shuffled: bool,
        k in 1usize..5,
        c in config(),
        seed in 0u64..1000,
    ) {
        let n_patches = lengths.len();
        let mut reads: Vec<u32> = patches(&lengths).owner().iter().map(|p| p.saturating_sub(1)).collect();
        if shuffled {
            let keys = noise(reads.len(), seed);
            let mut order: Vec<usize> = (0..reads.len()).collect();
            order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
            reads = order.iter().map(|&i| reads[i]).collect();
        }
        let inputs = [matrix(reads.len(), c.dim, seed + 10), matrix(n_patches * k, c.dim, seed + 11)];
        check(
            |fused, x, p| decoder(fused, &x[0], &x[1], &reads, k, &params(p), &c).unwrap(),
            &inputs,
            &weights(&c, seed),
            |at| meaning(at, &c, |i, j| reads[i] as usize == j / k),
        );
    }
}

#[test]
fn with_one_key_the_gradients_of_queries_and_keys_are_zeros() {
    let c = CrossConfig { dim: 16, heads: 4, kv_heads: 2, head_dim: 8, eps: 1e-5 };
    // The decoder by its short cut, and the encoder by the general way.
    for decode in [true, false] {
        let fused = Fused::new();
        let ids: Vec<ParamId> = weights(&c, 0)
            .into_iter()
            .map(|w| fused.add_param(w.shape, w.data, false).unwrap())
            .collect();
        fused.record(true);
        let (x, y) = (matrix(3, 16, 7), matrix(3, 16, 8));
        let (x, y) =
            (fused.constant(3, 16, x.data).unwrap(), fused.constant(3, 16, y.data).unwrap());
        let y = match decode {
            true => decoder(&fused, &x, &y, &[0, 1, 2], 1, &params(&ids), &c).unwrap(),
            false => encoder(&fused, &x, &y, &patches(&[1, 1, 1]), 1, &params(&ids), &c).unwrap(),
        };
        fused.backward(&super::super::testing::weighted_sum(&fused, &y, &noise(48, 1))).unwrap();
        for id in [ids[0], ids[2], ids[3]] {
            let grad = fused.grad(id).unwrap().expect("there is a path");
            assert!(grad.iter().all(|&g| g == 0.0));
        }
        for id in [ids[1], ids[4], ids[5]] {
            assert!(fused.grad(id).unwrap().expect("there is a path").iter().any(|&g| g != 0.0));
        }
    }
}

#[test]
fn rows_alone_have_the_bits_they_have_in_a_batch() {
    let c = CrossConfig { dim: 64, heads: 4, kv_heads: 2, head_dim: 16, eps: 1e-5 };
    let k = 2;
    let fused = Fused::new();
    let ids: Vec<ParamId> = weights(&c, 0)
        .into_iter()
        .map(|w| fused.add_param(w.shape, w.data, false).unwrap())
        .collect();
    let spans = [vec![1, 4, 3], vec![1], vec![1, 300, 2, 2, 2, 9], vec![1, 1, 1]];
    let all: Vec<usize> = spans.concat();
    let (bytes, rows) = (matrix(all.iter().sum(), 64, 1), matrix(all.len() * k, 64, 2));
    let encode = |lengths: &[usize], rows: &[f32], bytes: &[f32]| {
        let q = fused.constant(rows.len() / 64, 64, rows.to_vec()).unwrap();
        let h = fused.constant(bytes.len() / 64, 64, bytes.to_vec()).unwrap();
        fused
            .to_host(&encoder(&fused, &q, &h, &patches(lengths), k, &params(&ids), &c).unwrap())
            .unwrap()
    };
    let decode = |reads: &[u32], rows: &[f32], bytes: &[f32]| {
        let kv = fused.constant(rows.len() / 64, 64, rows.to_vec()).unwrap();
        let x = fused.constant(bytes.len() / 64, 64, bytes.to_vec()).unwrap();
        fused.to_host(&decoder(&fused, &x, &kv, reads, k, &params(&ids), &c).unwrap()).unwrap()
    };
    let owner = patches(&all).owner();
    let (encoded, decoded) =
        (encode(&all, &rows.data, &bytes.data), decode(&owner, &rows.data, &bytes.data));
    let (mut patch, mut byte) = (0, 0);
    for span in &spans {
        let (p, b) = (patch + span.len(), byte + span.iter().sum::<usize>());
        let (row_range, byte_range) = (patch * k * 64..p * k * 64, byte * 64..b * 64);
        let (span_rows, span_bytes) =
            (&rows.data[row_range.clone()], &bytes.data[byte_range.clone()]);
        assert_eq!(bits(&encode(span, span_rows, span_bytes)), bits(&encoded[row_range]));
        let reads: Vec<u32> = owner[byte..b].iter().map(|o| o - patch as u32).collect();
        assert_eq!(bits(&decode(&reads, span_rows, span_bytes)), bits(&decoded[byte_range]));
        (patch, byte) = (p, b);
    }
}
