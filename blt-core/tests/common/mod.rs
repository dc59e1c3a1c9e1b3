//! Random cases of every operation, and what they compute by plain loops and dense masks in f64.
#![allow(dead_code)] // each test file uses its part

use blt_core::backend::*;
use blt_core::patch::Patches;

/// xorshift64*: the tests need reproducible numbers, not good ones.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E3779B97F4A7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545F4914F6CDD1D) >> 11
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// In (-1, 1), exact in f32.
    pub fn number(&mut self) -> f32 {
        (self.next() % (1 << 20)) as f32 / (1 << 19) as f32 - 1.0
    }

    pub fn numbers(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.number() * scale).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Param {
    pub name: &'static str,
    pub shape: [usize; 2],
    pub data: Vec<f32>,
    pub by_rows: bool,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Embed {
        ids: Vec<u16>,
        offsets: Vec<usize>,
        hash: Option<HashConfig>,
    },
    Block {
        offsets: Vec<usize>,
        config: BlockConfig,
    },
    Linear,
    Pool {
        patches: Patches,
        pooling: Pooling,
    },
    Encoder {
        patches: Patches,
        k: usize,
        config: CrossConfig,
    },
    Decoder {
        reads: Vec<u32>,
        k: usize,
        config: CrossConfig,
    },
    Head {
        targets: Vec<Option<u16>>,
        eps: f64,
        scale: f64,
    },
    /// `x + reshape(y)`, x `[n, dim]`, y `[1, n * dim]`.
    Add,
}

/// An operation on inputs that are parameters themselves, so that every input has a gradient.
#[derive(Clone, Debug)]
pub struct Case {
    pub kind: Kind,
    pub params: Vec<Param>,
}

/// What an operation computed: its values, and for a loss what else it tells.
pub struct Outcome {
    pub out: Tensor,
    /// Nats, logits and entropies of a head.
    pub host: Vec<f32>,
}

impl Case {
    pub fn add_params(&self, backend: &dyn Backend) -> Vec<ParamId> {
        self.params
            .iter()
            .map(|p| backend.add_param(p.shape, p.data.clone(), p.by_rows).unwrap())
            .collect()
    }

    fn input(&self, backend: &dyn Backend, ids: &[ParamId], i: usize) -> Tensor {
        let [n, cols] = self.params[i].shape;
        if n * cols == 0 {
            return backend.constant(n, cols, Vec::new()).unwrap();
        }
        let all: Vec<u16> = (0..n as u16).collect();
        backend.embed(&all, &[0, n], ids[i], None).unwrap()
    }

    pub fn forward(&self, backend: &dyn Backend, ids: &[ParamId]) -> Outcome {
        let input = |i| self.input(backend, ids, i);
        let cross = |i: usize| CrossParams {
            q_norm: ids[i],
            k_norm: ids[i + 1],
            q: ids[i + 2],
            k: ids[i + 3],
            v: ids[i + 4],
            o: ids[i + 5],
        };
        let mut host = Vec::new();
        let out = match &self.kind {
            Kind::Embed { ids: bytes, offsets, hash } => backend
                .embed(bytes, offsets, ids[0], hash.as_ref().map(|config| (ids[1], config)))
                .unwrap(),
            Kind::Block { offsets, config } => {
                let params = BlockParams {
                    input_layernorm: ids[1],
                    q: ids[2],
                    k: ids[3],
                    v: ids[4],
                    o: ids[5],
                    post_attention_layernorm: ids[6],
                    gate: ids[7],
                    up: ids[8],
                    down: ids[9],
                };
                backend.block(&input(0), offsets, &params, config).unwrap()
            }
            Kind::Linear => backend.linear(&input(0), ids[1]).unwrap(),
            Kind::Pool { patches, pooling } => backend.pool(&input(0), patches, *pooling).unwrap(),
            Kind::Encoder { patches, k, config } => {
                backend.encoder_cross(&input(0), &input(1), patches, *k, &cross(2), config).unwrap()
            }
            Kind::Decoder { reads, k, config } => {
                backend.decoder_cross(&input(0), &input(1), reads, *k, &cross(2), config).unwrap()
            }
            Kind::Head { targets, eps, scale } => {
                let x = input(0);
                let HeadLoss { loss, nats } =
                    backend.head_loss(&x, ids[1], ids[2], *eps, targets, *scale).unwrap();
                host.extend(nats);
                host.extend(backend.head_logits(&x, ids[1], ids[2], *eps).unwrap());
                host.extend(backend.head_entropies(&x, ids[1], ids[2], *eps).unwrap());
                loss
            }
            Kind::Add => {
                let (x, y) = (input(0), input(1));
                backend.add(&x, &backend.reshape(&y, x.rows, x.cols).unwrap()).unwrap()
            }
        };
        Outcome { out, host }
    }

    /// `[rows, cols]` of the output.
    pub fn out_shape(&self) -> [usize; 2] {
        let shape = |i: usize| self.params[i].shape;
        match &self.kind {
            Kind::Embed { ids, .. } => [ids.len(), shape(0)[1]],
            Kind::Linear => [shape(0)[0], shape(1)[0]],
            Kind::Pool { patches, .. } => [patches.n_patches(), shape(0)[1]],
            Kind::Head { .. } => [1, 1],
            Kind::Block { .. } | Kind::Encoder { .. } | Kind::Decoder { .. } | Kind::Add => {
                shape(0)
            }
        }
    }

    pub fn n_outputs(&self) -> usize {
        self.out_shape().iter().product()
    }

    /// Weights of the outputs in the scalar whose gradient the tests take.
    pub fn weights(&self) -> Vec<f32> {
        if matches!(self.kind, Kind::Head { .. }) {
            return vec![1.0];
        }
        Rng::new(0xB17).numbers(self.n_outputs(), 1.0)
    }

    /// Runs forward and backward: the outputs, the host values, and the gradient of each parameter.
    pub fn run(&self, backend: &dyn Backend) -> (Vec<f32>, Vec<f32>, Vec<Option<Vec<f32>>>) {
        backend.record(true);
        let ids = self.add_params(backend);
        let Outcome { out, host } = self.forward(backend, &ids);
        assert_eq!([out.rows, out.cols], self.out_shape());
        let values = backend.to_host(&out).unwrap();
        if out.rows * out.cols > 0 {
            let weights = backend.add_param([1, self.n_outputs()], self.weights(), false).unwrap();
            let loss = backend
                .linear(&backend.reshape(&out, 1, out.rows * out.cols).unwrap(), weights)
                .unwrap();
            backend.backward(&loss).unwrap();
        }
        let grads = ids.iter().map(|&id| backend.grad(id).unwrap()).collect();
        backend.zero_grads();
        backend.record(false);
        (values, host, grads)
    }
}

// Cases

pub fn offsets(lengths: &[usize]) -> Vec<usize> {
    lengths.iter().fold(vec![0], |mut offsets, length| {
        offsets.push(offsets.last().unwrap() + length);
        offsets
    })
}

/// Patches of these lengths, in one span.
pub fn patches(lengths: &[usize]) -> Patches {
    let offsets = offsets(lengths);
    let n_patches = lengths.len();
    let spans = (n_patches > 0) as usize;
    Patches {
        starts: offsets[..n_patches].to_vec(),
        span_offsets: vec![0, n_patches][..spans + 1].to_vec(),
        next_starts: vec![false; spans],
        n_ids: offsets[n_patches],
    }
}

fn param(rng: &mut Rng, name: &'static str, shape: [usize; 2]) -> Param {
    Param { name, shape, data: rng.numbers(shape[0] * shape[1], 1.0), by_rows: false }
}

fn norm(rng: &mut Rng, name: &'static str, dim: usize) -> Param {
    let data = rng.numbers(dim, 0.5).iter().map(|x| 1.0 + x).collect();
    Param { name, shape: [1, dim], data, by_rows: false }
}

fn weight(rng: &mut Rng, name: &'static str, shape: [usize; 2]) -> Param {
    let data = rng.numbers(shape[0] * shape[1], 1.5 / (shape[1] as f32).sqrt());
    Param { name, shape, data, by_rows: false }
}

pub fn embed(
    rng: &mut Rng,
    lengths: &[usize],
    dim: usize,
    hash: Option<HashConfig>,
    by_rows: bool,
) -> Case {
    let offsets = offsets(lengths);
    let ids = (0..offsets[lengths.len()]).map(|_| rng.below(260) as u16).collect();
    let mut params = vec![Param { by_rows, ..param(rng, "tokens", [260, dim]) }];
    if let Some(config) = &hash {
        let rows = config.functions * config.sizes.len() * config.vocab;
        params.push(Param { by_rows, ..param(rng, "table", [rows, dim]) });
    }
    Case { kind: Kind::Embed { ids, offsets, hash }, params }
}

pub fn block(
    rng: &mut Rng,
    lengths: &[usize],
    dim: usize,
    heads: [usize; 3],
    window: Option<usize>,
) -> Case {
    let [heads, kv_heads, head_dim] = heads;
    let ffn = dim + 3;
    let rope_theta = rng.pick(&[10000.0, 500000.0]);
    let config = BlockConfig { dim, heads, kv_heads, head_dim, ffn, window, rope_theta, eps: 1e-5 };
    let offsets = offsets(lengths);
    let params = vec![
        param(rng, "x", [offsets[lengths.len()], dim]),
        norm(rng, "input_layernorm", dim),
        weight(rng, "q", [heads * head_dim, dim]),
        weight(rng, "k", [kv_heads * head_dim, dim]),
        weight(rng, "v", [kv_heads * head_dim, dim]),
        weight(rng, "o", [dim, heads * head_dim]),
        norm(rng, "post_attention_layernorm", dim),
        weight(rng, "gate", [ffn, dim]),
        weight(rng, "up", [ffn, dim]),
        weight(rng, "down", [dim, ffn]),
    ];
    Case { kind: Kind::Block { offsets, config }, params }
}

pub fn linear(rng: &mut Rng, n: usize, [rows, cols]: [usize; 2]) -> Case {
    Case {
        kind: Kind::Linear,
        params: vec![param(rng, "x", [n, cols]), weight(rng, "w", [rows, cols])],
    }
}

pub fn pool(rng: &mut Rng, lengths: &[usize], dim: usize, pooling: Pooling) -> Case {
    let patches = patches(lengths);
    Case {
        params: vec![param(rng, "h", [patches.n_ids, dim])],
        kind: Kind::Pool { patches, pooling },
    }
}

fn cross_params(rng: &mut Rng, rows: [usize; 2], config: &CrossConfig) -> Vec<Param> {
    let CrossConfig { dim, heads, kv_heads, head_dim, .. } = *config;
    vec![
        param(rng, "x", [rows[0], dim]),
        param(rng, "kv", [rows[1], dim]),
        norm(rng, "q_norm", dim),
        norm(rng, "k_norm", dim),
        weight(rng, "q", [heads * head_dim, dim]),
        weight(rng, "k", [kv_heads * head_dim, dim]),
        weight(rng, "v", [kv_heads * head_dim, dim]),
        weight(rng, "o", [dim, heads * head_dim]),
    ]
}

pub fn encoder(rng: &mut Rng, lengths: &[usize], k: usize, dim: usize, heads: [usize; 3]) -> Case {
    let [heads, kv_heads, head_dim] = heads;
    let config = CrossConfig { dim, heads, kv_heads, head_dim, eps: 1e-5 };
    let patches = patches(lengths);
    let params = cross_params(rng, [patches.n_patches() * k, patches.n_ids], &config);
    Case { kind: Kind::Encoder { patches, k, config }, params }
}

pub fn decoder(
    rng: &mut Rng,
    n: usize,
    n_patches: usize,
    k: usize,
    dim: usize,
    heads: [usize; 3],
) -> Case {
    let [heads, kv_heads, head_dim] = heads;
    let config = CrossConfig { dim, heads, kv_heads, head_dim, eps: 1e-5 };
    let mut reads: Vec<u32> = (0..n).map(|_| rng.below(n_patches) as u32).collect();
    reads.sort_unstable(); // as the decoder's are: they never go back
    let params = cross_params(rng, [n, n_patches * k], &config);
    Case { kind: Kind::Decoder { reads, k, config }, params }
}

pub fn head(rng: &mut Rng, n: usize, dim: usize, vocab: usize) -> Case {
    let targets =
        (0..n).map(|i| (i == 0 || rng.below(4) > 0).then_some(rng.below(vocab) as u16)).collect();
    let kind = Kind::Head { targets, eps: 1e-5, scale: 0.37 };
    let head = Param { data: rng.numbers(vocab * dim, 2.0), ..param(rng, "head", [vocab, dim]) };
    Case { kind, params: vec![param(rng, "x", [n, dim]), norm(rng, "norm", dim), head] }
}

pub fn add(rng: &mut Rng, n: usize, dim: usize) -> Case {
    Case { kind: Kind::Add, params: vec![param(rng, "x", [n, dim]), param(rng, "y", [1, n * dim])] }
}

const HEADS: [[usize; 3]; 6] = [[1, 1, 4], [1, 1, 2], [2, 2, 4], [4, 2, 2], [3, 1, 4], [4, 1, 8]];

fn lengths(rng: &mut Rng, parts: usize) -> Vec<usize> {
    (0..1 + rng.below(parts)).map(|_| rng.pick(&[1, 1, 2, 3, 4, 7, 11])).collect()
}

/// One random case of each operation.
pub fn random_cases(seed: u64) -> Vec<Case> {
    let rng = &mut Rng::new(seed + 1);
    let (dim, k) = (rng.pick(&[4, 6, 8, 12]), 1 + rng.below(4));
    let windows = [None, Some(1), Some(2), Some(3), Some(5), Some(100)];
    let hash = rng.pick(&[
        None,
        Some(HashConfig { sizes: vec![3, 4, 5, 6, 7, 8], functions: 1, vocab: 31 }),
        Some(HashConfig { sizes: vec![1, 2], functions: 3, vocab: 17 }),
        Some(HashConfig { sizes: vec![3], functions: 11, vocab: 7 }),
    ]);
    let by_rows = rng.below(2) == 0;
    let spans = [lengths(rng, 4), lengths(rng, 4), lengths(rng, 4), lengths(rng, 4)];
    let (heads, window, pooling) = (
        [rng.pick(&HEADS), rng.pick(&HEADS), rng.pick(&HEADS)],
        rng.pick(&windows),
        rng.pick(&[Pooling::Max, Pooling::Mean, Pooling::Min]),
    );
    let (n, n_patches) = (1 + rng.below(9), 1 + rng.below(5));
    vec![
        embed(rng, &spans[0], dim, hash, by_rows),
        block(rng, &spans[1], dim, heads[0], window),
        linear(rng, n, [dim + 1, dim]),
        pool(rng, &spans[2], dim, pooling),
        encoder(rng, &spans[3], k, dim, heads[1]),
        decoder(rng, n, n_patches, k, dim, heads[2]),
        head(rng, n, dim, 11),
        add(rng, n, dim),
    ]
}

/// The shapes at the edges, each named.
pub fn edge_cases() -> Vec<(&'static str, Case)> {
    let rng = &mut Rng::new(77);
    let hash = HashConfig { sizes: vec![3, 4], functions: 2, vocab: 13 };
    vec![
        ("one byte", embed(rng, &[1], 4, Some(hash.clone()), true)),
        ("one-byte documents", embed(rng, &[1, 1, 1], 4, Some(hash.clone()), true)),
        ("one byte", block(rng, &[1], 8, [2, 1, 4], Some(4))),
        ("one-byte documents", block(rng, &[1, 1, 1, 1, 1], 8, [2, 1, 4], None)),
        ("window of 1", block(rng, &[5, 1, 9], 8, [2, 2, 4], Some(1))),
        ("single head", block(rng, &[6, 3], 8, [1, 1, 8], Some(3))),
        ("grouped heads", block(rng, &[6, 3], 8, [4, 1, 2], Some(4))),
        ("tiles of a window", block(rng, &[300, 129, 2], 8, [2, 1, 4], Some(50))),
        ("tiles of a window wider than a tile", block(rng, &[513], 4, [1, 1, 4], Some(200))),
        ("tiles of all that came before", block(rng, &[290, 128], 8, [2, 1, 4], None)),
        ("one row", linear(rng, 1, [3, 5])),
        ("one-byte patches", pool(rng, &[1, 1, 1, 1], 4, Pooling::Max)),
        ("one huge patch", pool(rng, &[400], 4, Pooling::Max)),
        ("one huge patch", pool(rng, &[400], 4, Pooling::Mean)),
        ("one huge patch among small ones", pool(rng, &[1, 200, 1, 3], 4, Pooling::Min)),
        ("one-byte patches", encoder(rng, &[1, 1, 1], 2, 8, [2, 1, 4])),
        ("one huge patch", encoder(rng, &[400], 4, 8, [4, 2, 2])),
        ("one huge patch among small ones", encoder(rng, &[1, 2, 150, 1], 3, 8, [2, 2, 4])),
        ("k of 1", encoder(rng, &[1, 2, 5], 1, 8, [2, 2, 4])),
        ("one row", decoder(rng, 1, 1, 1, 8, [2, 1, 4])),
        ("k of 1", decoder(rng, 9, 4, 1, 8, [4, 2, 4])),
        ("k of 4", decoder(rng, 9, 4, 4, 8, [1, 1, 4])),
        ("one row", head(rng, 1, 8, 260)),
        ("the whole vocabulary", head(rng, 40, 8, 260)),
    ]
}

/// Every operation on no bytes at all.
pub fn empty_cases() -> Vec<Case> {
    let rng = &mut Rng::new(78);
    let hash = HashConfig { sizes: vec![3, 4], functions: 2, vocab: 13 };
    vec![
        embed(rng, &[], 4, Some(hash), true),
        block(rng, &[], 8, [2, 1, 4], Some(3)),
        block(rng, &[], 8, [2, 1, 4], None),
        linear(rng, 0, [3, 8]),
        pool(rng, &[], 4, Pooling::Max),
        encoder(rng, &[], 2, 8, [2, 1, 4]),
        Case {
            kind: Kind::Decoder {
                reads: vec![],
                k: 2,
                config: CrossConfig { dim: 8, heads: 2, kv_heads: 1, head_dim: 4, eps: 1e-5 },
            },
            ..encoder(rng, &[], 2, 8, [2, 1, 4])
        },
        head(rng, 0, 8, 11),
        add(rng, 0, 8),
    ]
}

// The same by plain loops

type Rows = Vec<Vec<f64>>;

fn rows(x: &[f64], cols: usize) -> Rows {
    x.chunks(cols).map(<[f64]>::to_vec).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn matmul_transposed(x: &Rows, w: &[f64], cols: usize) -> Rows {
    x.iter().map(|x| w.chunks(cols).map(|w| dot(x, w)).collect()).collect()
}

fn rms_norm(x: &Rows, w: &[f64], eps: f64) -> Rows {
    let scale = |x: &[f64]| 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().map(|row| row.iter().zip(w).map(|(x, w)| x * scale(row) * w).collect()).collect()
}

fn add_rows(a: &Rows, b: &Rows, times: f64) -> Rows {
    a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| times * a + b).collect()).collect()
}

/// `sees[i][j]`: a dense mask.
fn attention(
    q: &Rows,
    k: &Rows,
    v: &Rows,
    [heads, kv_heads, head_dim]: [usize; 3],
    sees: &[Vec<bool>],
) -> Rows {
    let head = |x: &[f64], h: usize| x[h * head_dim..(h + 1) * head_dim].to_vec();
    let one = |i: usize, h: usize| {
        let kv = h / (heads / kv_heads);
        let score = |j: usize| match sees[i][j] {
            true => dot(&head(&q[i], h), &head(&k[j], kv)) / (head_dim as f64).sqrt(),
            false => f64::NEG_INFINITY,
        };
        let scores: Vec<f64> = (0..k.len()).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        (0..head_dim)
            .map(move |d| {
                let read: f64 =
                    scores.iter().zip(v).map(|(s, v)| (s - max).exp() * v[kv * head_dim + d]).sum();
                read / sum
            })
            .collect::<Vec<f64>>()
    };
    (0..q.len()).map(|i| (0..heads).flat_map(|h| one(i, h)).collect()).collect()
}

fn rope(x: &Rows, positions: &[usize], head_dim: usize, theta: f64) -> Rows {
    let frequencies = blt_core::rope::frequencies(theta, head_dim);
    let turn = |x: &[f64], position: usize| {
        let mut out = x.to_vec();
        for c in (0..x.len()).step_by(2) {
            let angle = blt_core::rope::angle(position, frequencies[c % head_dim / 2]);
            out[c] = x[c] * angle.cos() - x[c + 1] * angle.sin();
            out[c + 1] = x[c] * angle.sin() + x[c + 1] * angle.cos();
        }
        out
    };
    x.iter().zip(positions).map(|(x, &p)| turn(x, p)).collect()
}

fn cross(p: &[Vec<f64>], config: &CrossConfig, sees: &[Vec<bool>]) -> Vec<f64> {
    let CrossConfig { dim, heads, kv_heads, head_dim, eps } = *config;
    let (x, kv) = (rows(&p[0], dim), rows(&p[1], dim));
    let (normed_x, normed_kv) = (rms_norm(&x, &p[2], eps), rms_norm(&kv, &p[3], eps));
    let q = matmul_transposed(&normed_x, &p[4], dim);
    let (k, v) =
        (matmul_transposed(&normed_kv, &p[5], dim), matmul_transposed(&normed_kv, &p[6], dim));
    let read = attention(&q, &k, &v, [heads, kv_heads, head_dim], sees);
    add_rows(&x, &matmul_transposed(&read, &p[7], heads * head_dim), 2.0).concat()
}

/// The outputs and the host values that [`Case::forward`] is to give for parameters `p`.
pub fn oracle(case: &Case, p: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let cols = case.params[0].shape[1];
    let out = match &case.kind {
        Kind::Embed { ids, offsets, hash } => {
            let mut out = Vec::new();
            for (i, &id) in ids.iter().enumerate() {
                let mut row = p[0][id as usize * cols..][..cols].to_vec();
                let start = offsets.iter().copied().filter(|&o| o <= i).max().unwrap();
                let Some(config) = hash else {
                    out.extend(row);
                    continue;
                };
                for (function, &prime) in HASH_PRIMES[..config.functions].iter().enumerate() {
                    for (s, &size) in config.sizes.iter().enumerate() {
                        // Windows as signed positions, in 128-bit arithmetic modulo 2^64.
                        let (mut h, mut power) = (0i128, 1i128);
                        for at in i as i64 - size as i64 + 1..=i as i64 {
                            let id = if at < start as i64 { 0 } else { ids[at as usize] };
                            h = (h + id as i128 * power).rem_euclid(1 << 64);
                            power = (power * prime as i128).rem_euclid(1 << 64);
                        }
                        let signed = if h >= 1 << 63 { h - (1 << 64) } else { h };
                        let table = function * config.sizes.len() + s;
                        let at =
                            table * config.vocab + signed.rem_euclid(config.vocab as i128) as usize;
                        row.iter_mut().zip(&p[1][at * cols..]).for_each(|(a, b)| *a += b);
                    }
                }
                out.extend(row);
            }
            out
        }
        Kind::Block { offsets, config } => {
            let BlockConfig { dim, heads, kv_heads, head_dim, ffn, window, rope_theta, eps } =
                *config;
            let x = rows(&p[0], dim);
            let n = x.len();
            let span = |i: usize| offsets.iter().copied().filter(|&o| o <= i).max().unwrap();
            let positions: Vec<usize> = (0..n).map(|i| i - span(i)).collect();
            let sees = |i: usize, j: usize| {
                span(i) == span(j)
                    && j <= i
                    && window.is_none_or(|w| j as i64 > i as i64 - w as i64)
            };
            let sees: Vec<Vec<bool>> =
                (0..n).map(|i| (0..n).map(|j| sees(i, j)).collect()).collect();
            let normed = rms_norm(&x, &p[1], eps);
            let q = rope(&matmul_transposed(&normed, &p[2], dim), &positions, head_dim, rope_theta);
            let k = rope(&matmul_transposed(&normed, &p[3], dim), &positions, head_dim, rope_theta);
            let v = matmul_transposed(&normed, &p[4], dim);
            let read = attention(&q, &k, &v, [heads, kv_heads, head_dim], &sees);
            let x = add_rows(&x, &matmul_transposed(&read, &p[5], heads * head_dim), 1.0);
            let normed = rms_norm(&x, &p[6], eps);
            let (gate, up) =
                (matmul_transposed(&normed, &p[7], dim), matmul_transposed(&normed, &p[8], dim));
            let silu = |g: f64| g / (1.0 + (-g).exp());
            let inner: Rows = gate
                .iter()
                .zip(&up)
                .map(|(g, u)| g.iter().zip(u).map(|(&g, u)| silu(g) * u).collect())
                .collect();
            add_rows(&x, &matmul_transposed(&inner, &p[9], ffn), 1.0).concat()
        }
        Kind::Linear => matmul_transposed(&rows(&p[0], cols), &p[1], cols).concat(),
        Kind::Pool { patches, pooling } => {
            let h = rows(&p[0], cols);
            let mut out = Vec::new();
            for o in patches.offsets().windows(2) {
                for d in 0..cols {
                    let column = h[o[0]..o[1]].iter().map(|row| row[d]);
                    out.push(match pooling {
                        Pooling::Max => column.fold(f64::NEG_INFINITY, f64::max),
                        Pooling::Min => column.fold(f64::INFINITY, f64::min),
                        Pooling::Mean => column.sum::<f64>() / (o[1] - o[0]) as f64,
                    });
                }
            }
            out
        }
        Kind::Encoder { patches, k, config } => {
            let owner = patches.owner();
            let sees = |q: usize| owner.iter().map(|&p| p as usize == q / k).collect();
            cross(p, config, &(0..patches.n_patches() * k).map(sees).collect::<Vec<_>>())
        }
        Kind::Decoder { reads, k, config } => {
            let n_keys = case.params[1].shape[0];
            let sees = |&read: &u32| (0..n_keys).map(|j| j / k == read as usize).collect();
            cross(p, config, &reads.iter().map(sees).collect::<Vec<_>>())
        }
        Kind::Head { targets, eps, scale } => {
            let logits = matmul_transposed(&rms_norm(&rows(&p[0], cols), &p[1], *eps), &p[2], cols);
            let log_probs: Rows = logits
                .iter()
                .map(|row| {
                    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let lse = max + row.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
                    row.iter().map(|l| l - lse).collect()
                })
                .collect();
            let nats: Vec<f64> = targets
                .iter()
                .zip(&log_probs)
                .map(|(t, lp)| t.map_or(0.0, |t| -lp[t as usize]))
                .collect();
            let entropies =
                log_probs.iter().map(|lp| -lp.iter().map(|lp| lp.exp() * lp).sum::<f64>());
            let loss = scale * nats.iter().sum::<f64>();
            return (
                vec![loss],
                nats.iter().copied().chain(logits.concat()).chain(entropies).collect(),
            );
        }
        Kind::Add => p[0].iter().zip(&p[1]).map(|(a, b)| a + b).collect(),
    };
    (out, Vec::new())
}

/// Fails unless `got` is `expected` within `tolerance` of the largest magnitude expected (at least
/// `floor`).
pub fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64, floor: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    let scale = expected.iter().fold(floor, |m, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            (g - e).abs() <= tolerance * scale,
            "{what}[{i}]: {g} against {e} (scale {scale:.3e})"
        );
    }
}

pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x as f64).collect()
}
