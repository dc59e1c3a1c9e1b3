//! The parameters of a `BltForCausalLM` model: names and shapes.

use super::config::HfConfig;
use crate::backend::{BlockConfig, CrossConfig};
use crate::bytes::VOCAB;
use crate::model::CrossLayers;

/// A parameter's canonical name, and its shape as checkpoints write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub shape: Vec<usize>,
}

impl HfConfig {
    /// Every parameter of the model, in the order in which the parts register them: embeddings,
    /// encoder, latent, decoder, entropy model. Without hash functions their table is listed
    /// with no rows; no part registers that one.
    pub fn parameters(&self) -> Vec<TensorSpec> {
        let mut out = Vec::new();
        let mut add =
            |name: String, shape: &[usize]| out.push(TensorSpec { name, shape: shape.to_vec() });
        let dim = self.encoder.block.dim;
        let rows = self.hash.as_ref().map_or(0, |h| h.functions * h.sizes.len() * h.vocab);
        add("model.local_encoder.embed_tokens.weight".into(), &[VOCAB, dim]);
        add("model.encoder_hash_tok_embedding.weight".into(), &[rows, dim]);

        let e = &self.encoder;
        block_tensors(&mut add, "model.local_encoder", e.layers, &e.block);
        add("model.local_encoder.patch_embedding_projection.weight".into(), &[e.k * dim, dim]);
        let n_cross = if e.cross_layers == CrossLayers::Last { 1 } else { e.layers };
        cross_tensors(&mut add, "model.local_encoder", n_cross, &e.cross);

        let g = &self.latent;
        if g.input_dim != g.block.dim {
            add(
                "model.global_transformer.token_embedding_projection.weight".into(),
                &[g.block.dim, g.input_dim],
            );
        }
        block_tensors(&mut add, "model.global_transformer", g.layers, &g.block);

        let d = &self.decoder;
        block_tensors(&mut add, "model.local_decoder", d.layers, &d.block);
        add(
            "model.local_decoder.patch_embedding_projection.weight".into(),
            &[d.k * dim, d.latent_dim],
        );
        cross_tensors(
            &mut add,
            "model.local_decoder",
            if d.cross_all { d.layers } else { 1 },
            &d.cross,
        );
        add("model.local_decoder.norm.weight".into(), &[dim]);
        add("lm_head.weight".into(), &[VOCAB, dim]);

        if let Some(p) = &self.patching {
            let (layers, block) = (p.patcher.layers, &p.patcher.block);
            add("model.patcher.embed_tokens.weight".into(), &[VOCAB, block.dim]);
            block_tensors(&mut add, "model.patcher", layers, block);
            add("model.patcher.norm.weight".into(), &[block.dim]);
            add("model.patcher.lm_head.weight".into(), &[VOCAB, block.dim]);
        }
        out
    }
}

fn block_tensors(
    add: &mut impl FnMut(String, &[usize]),
    part: &str,
    layers: usize,
    c: &BlockConfig,
) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    for layer in 0..layers {
        let prefix = format!("{part}.layers.{layer}");
        add(format!("{prefix}.input_layernorm.weight"), &[c.dim]);
        add(format!("{prefix}.self_attn.q_proj.weight"), &[q, c.dim]);
        add(format!("{prefix}.self_attn.k_proj.weight"), &[kv, c.dim]);
        add(format!("{prefix}.self_attn.v_proj.weight"), &[kv, c.dim]);
        add(format!("{prefix}.self_attn.o_proj.weight"), &[c.dim, q]);
        add(format!("{prefix}.post_attention_layernorm.weight"), &[c.dim]);
        add(format!("{prefix}.mlp.gate_proj.weight"), &[c.ffn, c.dim]);
        add(format!("{prefix}.mlp.up_proj.weight"), &[c.ffn, c.dim]);
        add(format!("{prefix}.mlp.down_proj.weight"), &[c.dim, c.ffn]);
    }
}

fn cross_tensors(
    add: &mut impl FnMut(String, &[usize]),
    part: &str,
    layers: usize,
    c: &CrossConfig,
) {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    for layer in 0..layers {
        let prefix = format!("{part}.cross_attn_layers.{layer}");
        add(format!("{prefix}.q_norm.weight"), &[c.dim]);
        add(format!("{prefix}.k_norm.weight"), &[c.dim]);
        add(format!("{prefix}.q_proj.weight"), &[q, c.dim]);
        add(format!("{prefix}.k_proj.weight"), &[kv, c.dim]);
        add(format!("{prefix}.v_proj.weight"), &[kv, c.dim]);
        add(format!("{prefix}.o_proj.weight"), &[c.dim, q]);
    }
}
