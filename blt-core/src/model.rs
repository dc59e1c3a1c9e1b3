//! The parts of the model, over any [`Backend`].
//!
//! Each part is a configuration as resolved, a `new` that registers its parameters under their
//! canonical names, and a `forward` over packed states. Arithmetic and names are those of the
//! Hugging Face `BltForCausalLM` layout.

use crate::backend::{
    BackendError, BlockConfig, BlockParams, CrossConfig, CrossParams, HashConfig, HeadLoss,
    Operations, ParamId, Pooling, Tensor,
};
use crate::bytes::{Batch, VOCAB};
use crate::counts::Counts;
use crate::params::ParamMaker;
use crate::patch::Patches;
pub use crate::session::Session;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Width of the feed-forward layer where none is given: 8/3 dim, rounded up to a multiple of 64.
pub fn default_ffn(dim: usize) -> usize {
    (8 * dim).div_ceil(3).div_ceil(64) * 64
}

fn block_params(maker: &mut ParamMaker, prefix: &str, c: &BlockConfig) -> BlockParams {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    BlockParams {
        input_layernorm: maker.norm(format!("{prefix}.input_layernorm.weight"), c.dim),
        q: maker.linear(format!("{prefix}.self_attn.q_proj.weight"), q, c.dim),
        k: maker.linear(format!("{prefix}.self_attn.k_proj.weight"), kv, c.dim),
        v: maker.linear(format!("{prefix}.self_attn.v_proj.weight"), kv, c.dim),
        o: maker.linear(format!("{prefix}.self_attn.o_proj.weight"), c.dim, q),
        post_attention_layernorm: maker
            .norm(format!("{prefix}.post_attention_layernorm.weight"), c.dim),
        gate: maker.linear(format!("{prefix}.mlp.gate_proj.weight"), c.ffn, c.dim),
        up: maker.linear(format!("{prefix}.mlp.up_proj.weight"), c.ffn, c.dim),
        down: maker.linear(format!("{prefix}.mlp.down_proj.weight"), c.dim, c.ffn),
    }
}

fn cross_params(maker: &mut ParamMaker, prefix: &str, c: &CrossConfig) -> CrossParams {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    CrossParams {
        q_norm: maker.norm(format!("{prefix}.q_norm.weight"), c.dim),
        k_norm: maker.norm(format!("{prefix}.k_norm.weight"), c.dim),
        q: maker.linear(format!("{prefix}.q_proj.weight"), q, c.dim),
        k: maker.linear(format!("{prefix}.k_proj.weight"), kv, c.dim),
        v: maker.linear(format!("{prefix}.v_proj.weight"), kv, c.dim),
        o: maker.linear(format!("{prefix}.o_proj.weight"), c.dim, q),
    }
}

/// A stack of blocks of one configuration.
#[derive(Clone)]
pub(crate) struct Stack {
    pub(crate) config: BlockConfig,
    pub(crate) layers: Vec<BlockParams>,
}

impl Stack {
    fn new(maker: &mut ParamMaker, prefix: &str, layers: usize, config: &BlockConfig) -> Self {
        let layers = (0..layers)
            .map(|i| block_params(maker, &format!("{prefix}.layers.{i}"), config))
            .collect();
        Stack { config: config.clone(), layers }
    }

    fn run(
        &self,
        cx: &Session,
        layer: usize,
        x: &Tensor,
        offsets: &[usize],
    ) -> Result<Tensor, BackendError> {
        cx.block(x, offsets, &self.layers[layer], &self.config)
    }
}

/// Byte embeddings plus hash n-gram embeddings, summed without normalisation.
#[derive(Clone)]
pub struct ByteEmbed {
    pub(crate) tokens: ParamId,
    pub(crate) hash: Option<(ParamId, HashConfig)>,
}

impl ByteEmbed {
    /// `hash: None` has no n-gram tables.
    pub fn new(maker: &mut ParamMaker, dim: usize, hash: Option<HashConfig>) -> Self {
        Self::with_tables(maker, dim, hash, ParamMaker::table)
    }

    /// As [`new`](Self::new), with n-gram tables that begin at zero.
    pub fn with_zero_tables(maker: &mut ParamMaker, dim: usize, hash: Option<HashConfig>) -> Self {
        Self::with_tables(maker, dim, hash, ParamMaker::zero_table)
    }

    fn with_tables<'a>(
        maker: &mut ParamMaker<'a>,
        dim: usize,
        hash: Option<HashConfig>,
        table: impl FnOnce(&mut ParamMaker<'a>, &'static str, usize, usize) -> ParamId,
    ) -> Self {
        let tokens = maker.table("model.local_encoder.embed_tokens.weight", VOCAB, dim);
        let hash = hash.map(|h| {
            let rows = h.functions * h.sizes.len() * h.vocab;
            (table(maker, "model.encoder_hash_tok_embedding.weight", rows, dim), h)
        });
        ByteEmbed { tokens, hash }
    }

    /// `[n, dim]`
    pub fn forward(&self, cx: &Session, batch: &Batch) -> Result<Tensor, BackendError> {
        cx.embed(&batch.ids, &batch.offsets, self.tokens, self.hash.as_ref().map(|(p, c)| (*p, c)))
    }
}

/// In which encoder layers patches attend to their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossLayers {
    /// After the last layer.
    Last,
    /// After every layer; patch states are pooled once, after the first, and refined from layer to
    /// layer (the paper).
    All,
    /// After every layer, pooling anew and overwriting: only the last one has an effect (the
    /// Hugging Face layout's `cross_attn_all_layers`). The others' parameters are kept, and get
    /// no gradient.
    AllRepool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalEncoderConfig {
    pub layers: usize,
    pub block: BlockConfig,
    pub cross: CrossConfig,
    pub cross_layers: CrossLayers,
    pub pooling: Pooling,
    /// Query rows a patch.
    pub k: usize,
}

/// A light byte transformer, and cross-attention from pooled patch queries to the patch's bytes.
#[derive(Clone)]
pub struct LocalEncoder {
    pub(crate) config: LocalEncoderConfig,
    pub(crate) stack: Stack,
    pub(crate) projection: ParamId,
    pub(crate) cross: Vec<CrossParams>,
}

impl LocalEncoder {
    pub fn new(maker: &mut ParamMaker, config: &LocalEncoderConfig) -> Self {
        let prefix = "model.local_encoder";
        let stack = Stack::new(maker, prefix, config.layers, &config.block);
        let dim = config.block.dim;
        let projection = maker.linear(
            format!("{prefix}.patch_embedding_projection.weight"),
            config.k * dim,
            dim,
        );
        let n_cross = if config.cross_layers == CrossLayers::Last { 1 } else { config.layers };
        let cross = (0..n_cross)
            .map(|i| cross_params(maker, &format!("{prefix}.cross_attn_layers.{i}"), &config.cross))
            .collect();
        LocalEncoder { config: config.clone(), stack, projection, cross }
    }

    /// Byte states `[n, dim]` to byte states `[n, dim]` and patch states `[P, k * dim]`. (States
    /// come by value, so that those that nobody else holds are gone when the first layer has
    /// read them.)
    pub fn forward(
        &self,
        cx: &Session,
        x: Tensor,
        batch: &Batch,
        patches: &Patches,
    ) -> Result<(Tensor, Tensor), BackendError> {
        let c = &self.config;
        let mut h = x;
        let mut queries: Option<Tensor> = None;
        for layer in 0..c.layers {
            h = self.stack.run(cx, layer, &h, &batch.offsets)?;
            let last = layer + 1 == c.layers;
            if c.cross_layers != CrossLayers::All && !last {
                continue;
            }
            let q = match queries.take() {
                Some(q) => q,
                None => {
                    let pooled = cx.pool(&h, patches, c.pooling)?;
                    let q = cx.linear(&pooled, self.projection)?;
                    cx.reshape(&q, patches.n_patches() * c.k, c.block.dim)?
                }
            };
            let params = &self.cross[if self.cross.len() == 1 { 0 } else { layer }];
            queries = Some(cx.encoder_cross(&q, &h, patches, c.k, params, &c.cross)?);
        }
        let queries = queries.expect("an encoder has at least one layer");
        let patch_states = cx.reshape(&queries, patches.n_patches(), c.k * c.block.dim)?;
        Ok((h, patch_states))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatentConfig {
    pub layers: usize,
    pub block: BlockConfig,
    /// Width of the patch states that come in: `k * dim` of the encoder. A projection exists where
    /// it differs from `block.dim`.
    pub input_dim: usize,
}

/// The latent transformer over patches; no final norm.
#[derive(Clone)]
pub struct Latent {
    pub(crate) stack: Stack,
    pub(crate) projection: Option<ParamId>,
}

impl Latent {
    pub fn new(maker: &mut ParamMaker, config: &LatentConfig) -> Self {
        let prefix = "model.global_transformer";
        let projection = (config.input_dim != config.block.dim).then(|| {
            maker.linear(
                format!("{prefix}.token_embedding_projection.weight"),
                config.block.dim,
                config.input_dim,
            )
        });
        Latent { stack: Stack::new(maker, prefix, config.layers, &config.block), projection }
    }

    /// Patch states `[P, input_dim] -> [P, dim]`, causal inside a span.
    pub fn forward(
        &self,
        cx: &Session,
        x: Tensor,
        patches: &Patches,
    ) -> Result<Tensor, BackendError> {
        let mut x = match self.projection {
            Some(w) => cx.linear(&x, w)?,
            None => x,
        };
        for layer in 0..self.stack.layers.len() {
            x = self.stack.run(cx, layer, &x, &patches.span_offsets)?;
        }
        Ok(x)
    }
}

/// What logits come from. The logits themselves are computed when asked for.
#[derive(Clone)]
pub enum Head {
    /// Final states that a norm and a head turn into logits.
    States {
        /// `[n, dim]`
        states: Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    },
    /// Counts, which have no gradient, and the ids to read.
    Counts { counts: Rc<Counts>, batch: Batch },
}

impl Head {
    /// `[n, vocab]` on the host.
    ///
    /// # Errors
    /// Of the device.
    pub fn logits(&self, cx: &Session) -> Result<Vec<f32>, BackendError> {
        match self {
            Head::States { states, norm, head, eps } => cx.head_logits(states, *norm, *head, *eps),
            Head::Counts { counts, batch } => Ok(counts.logits(batch)),
        }
    }

    /// Entropy of the next byte in nats, `[n]`.
    ///
    /// # Errors
    /// Of the device.
    pub fn entropies(&self, cx: &Session) -> Result<Vec<f32>, BackendError> {
        match self {
            Head::States { states, norm, head, eps } => {
                cx.head_entropies(states, *norm, *head, *eps)
            }
            Head::Counts { counts, batch } => Ok(counts.entropies(batch)),
        }
    }

    /// Cross-entropy of `targets` (`[n]`): `weight * mean nats`, and the nats of each position.
    ///
    /// # Errors
    /// Targets of another length, or an error of the device.
    pub fn loss(&self, cx: &Session, targets: &[Option<u16>]) -> Result<HeadLoss, BackendError> {
        let counted = targets.iter().flatten().count().max(1);
        let scale = cx.loss_weight.get() / counted as f64;
        match self {
            Head::States { states, norm, head, eps } => {
                cx.head_loss(states, *norm, *head, *eps, targets, scale)
            }
            Head::Counts { counts, batch } => {
                let nats = counts.nats(batch, targets);
                let sum: f64 = nats.iter().map(|&nats| nats as f64).sum();
                let loss = cx.constant(1, 1, vec![(scale * sum) as f32])?;
                Ok(HeadLoss { loss, nats })
            }
        }
    }
}

/// What each id predicts: the next id of its span; at the end of a document EOS if `eos`, else
/// nothing. `[n]`
///
/// The last id of a span that does not end its document predicts nothing: the next span counts that
/// byte from its BOS.
pub fn next_byte_targets(batch: &Batch, eos: bool) -> Vec<Option<u16>> {
    let mut targets = Vec::with_capacity(batch.len());
    for (s, span) in batch.spans.iter().enumerate() {
        let ids = batch.span_ids(s);
        // Id i predicts byte i of the span; the first `context` bytes were counted by an earlier
        // span.
        targets.extend((1..ids.len()).map(|i| (i > span.context).then(|| ids[i])));
        targets.push((eos && span.last).then_some(crate::bytes::EOS));
    }
    targets
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalDecoderConfig {
    pub layers: usize,
    pub block: BlockConfig,
    pub cross: CrossConfig,
    /// Cross-attention before every layer, or before the first alone.
    pub cross_all: bool,
    /// Rows that a patch's latent is laid out to.
    pub k: usize,
    /// Width of the latent states.
    pub latent_dim: usize,
}

/// A byte transformer that cross-attends to the latents; its head predicts the next byte.
#[derive(Clone)]
pub struct LocalDecoder {
    pub(crate) config: LocalDecoderConfig,
    pub(crate) stack: Stack,
    pub(crate) projection: ParamId,
    pub(crate) cross: Vec<CrossParams>,
    pub(crate) norm: ParamId,
    pub(crate) head: ParamId,
}

impl LocalDecoder {
    pub fn new(maker: &mut ParamMaker, config: &LocalDecoderConfig) -> Self {
        let prefix = "model.local_decoder";
        let dim = config.block.dim;
        let stack = Stack::new(maker, prefix, config.layers, &config.block);
        let projection = maker.linear(
            format!("{prefix}.patch_embedding_projection.weight"),
            config.k * dim,
            config.latent_dim,
        );
        let n_cross = if config.cross_all { config.layers } else { 1 };
        let cross = (0..n_cross)
            .map(|i| cross_params(maker, &format!("{prefix}.cross_attn_layers.{i}"), &config.cross))
            .collect();
        let norm = maker.norm(format!("{prefix}.norm.weight"), dim);
        let head = maker.linear("lm_head.weight", VOCAB, dim);
        LocalDecoder { config: config.clone(), stack, projection, cross, norm, head }
    }

    /// The encoder's byte states `[n, dim]` and latents `[P, latent_dim]`.
    pub fn forward(
        &self,
        cx: &Session,
        bytes: Tensor,
        latents: Tensor,
        batch: &Batch,
        patches: &Patches,
    ) -> Result<Head, BackendError> {
        let c = &self.config;
        let kv = cx.linear(&latents, self.projection)?;
        drop(latents);
        let kv = cx.reshape(&kv, patches.n_patches() * c.k, c.block.dim)?;
        let reads = patches.decoder_reads(&batch.offsets);
        let mut x = bytes;
        for layer in 0..c.layers {
            if let Some(params) = self.cross.get(layer) {
                x = cx.decoder_cross(&x, &kv, &reads, c.k, params, &c.cross)?;
            }
            x = self.stack.run(cx, layer, &x, &batch.offsets)?;
        }
        Ok(Head::States { states: x, norm: self.norm, head: self.head, eps: c.block.eps })
    }
}

/// A plain byte language model: the entropy model.
#[derive(Clone)]
pub struct ByteLm {
    pub(crate) tokens: ParamId,
    pub(crate) stack: Stack,
    pub(crate) norm: ParamId,
    pub(crate) head: ParamId,
}

impl ByteLm {
    pub fn new(maker: &mut ParamMaker, layers: usize, block: &BlockConfig) -> Self {
        let prefix = "model.patcher";
        let tokens = maker.table(format!("{prefix}.embed_tokens.weight"), VOCAB, block.dim);
        let stack = Stack::new(maker, prefix, layers, block);
        let norm = maker.norm(format!("{prefix}.norm.weight"), block.dim);
        let head = maker.linear(format!("{prefix}.lm_head.weight"), VOCAB, block.dim);
        ByteLm { tokens, stack, norm, head }
    }

    pub fn forward(&self, cx: &Session, batch: &Batch) -> Result<Head, BackendError> {
        let mut x = cx.embed(&batch.ids, &batch.offsets, self.tokens, None)?;
        for layer in 0..self.stack.layers.len() {
            x = self.stack.run(cx, layer, &x, &batch.offsets)?;
        }
        let eps = self.stack.config.eps;
        Ok(Head::States { states: x, norm: self.norm, head: self.head, eps })
    }
}
