//! The graph of pipelines/ablation_patching.yaml in the Rust DSL, as YAML: `cargo run --release --example dsl`.
//!
//! A wire of the wrong type does not compile: give `LocalDecoder` `&patches` in place of `&latents`, and see.

use blt::prelude::*;
use blt_core::backend::Pooling;
use blt_core::model::CrossLayers;

fn main() {
    let mut g = Graph::new();
    let docs = g.add(
        "docs",
        ParquetBytes {
            path: Paths::One("corpus/sample.parquet".into()),
            column: "text".into(),
            split: Some(DataSplit::new(0.1, "id")),
            span_bytes: 8192,
            shuffle_buffer: 256,
        },
        (),
    );
    let byte_lm = ByteLm {
        dim: 64,
        layers: 2,
        heads: 4,
        kv_heads: None,
        ffn: None,
        window: Some(128),
        context_reset: ContextReset::None,
        rope_theta: 1e4,
        eps: 1e-5,
    };
    let (entropies, _entropy_loss, _) = g.add("entropy", byte_lm, &docs);
    let entropy_patch = EntropyPatch {
        rule: Rule::Global,
        threshold: None,
        relative_threshold: None,
        bytes_per_patch: Some(6.0),
        max_patch_length: None,
        calibration_bytes: 1 << 20,
    };
    let patches = g.add("patches", entropy_patch, (&docs, &entropies));
    let embed = g.add("embed", ByteEmbed { dim: 64, ngrams: (3..=8).collect(), table: 4096, functions: 1 }, &docs);
    let local_encoder = LocalEncoder {
        layers: 1,
        heads: 4,
        kv_heads: None,
        ffn: None,
        window: Some(128),
        k: 2,
        cross: CrossLayers::Last,
        pooling: Pooling::Max,
        rope_theta: 5e5,
        eps: 1e-5,
    };
    let (bytes, patch_states) = g.add("encoder", local_encoder, (&embed, &patches));
    let latent = Latent { dim: 128, layers: 4, heads: 4, kv_heads: None, ffn: None, rope_theta: 5e5, eps: 1e-5 };
    let latents = g.add("latent", latent, &patch_states);
    let local_decoder = LocalDecoder {
        layers: 2,
        heads: 4,
        kv_heads: None,
        ffn: None,
        window: Some(128),
        cross: DecoderCross::All,
        rope_theta: 5e5,
        eps: 1e-5,
    };
    let logits = g.add("decoder", local_decoder, (&bytes, &latents));
    g.add("loss", NextByteLoss { eos: false }, (&logits, &docs));

    let pipeline = PipelineSpec::new("ablation_patching", g.finish());
    print!("{}", pipeline.to_yaml());
}
