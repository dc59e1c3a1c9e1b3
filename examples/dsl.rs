//! The graph of pipelines/ablation_patching.yaml in the Rust DSL, printed as YAML: `cargo run
//! --release --example dsl`.
//!
//! A wire of the wrong type does not compile: give `LocalDecoder` `&patches` in place of
//! `&latents`, and see.

use blt::prelude::*;

/// The same graph as in YAML; `tests/it/dsl.rs` holds the two against each other.
pub fn graph() -> GraphSpec {
    let mut g = Graph::new();
    let docs = ParquetBytes {
        condition: Some("domain = 'prose'".into()),
        split: Some(Split::of(0.2, "work")),
        span_bytes: 511,
        ..ParquetBytes::new("corpus/sample.parquet")
    };
    let docs = g.add("docs", docs, ());
    let (entropies, ..) = g.add("counts", NgramLm { order: 5, ..NgramLm::default() }, &docs);
    g.add("counts-3", NgramLm { order: 3, ..NgramLm::default() }, &docs);
    let entropy =
        || EntropyPatch { max_patch_length: Some(24), ..EntropyPatch::bytes_per_patch(6.3) };
    let patches = g.add("patches", entropy(), (&docs, &entropies));
    g.add("placed", entropy(), (&docs, &entropies));
    let embed = g.add("embed", ByteEmbed { ngrams: vec![], ..ByteEmbed::new(64) }, &docs);
    let encoder = LocalEncoder { window: Some(16), ..LocalEncoder::new(4) };
    let (bytes, patch_states) = g.add("encoder", encoder, (&embed, &patches));
    let latents = g.add("latent", Latent::new(128, 3, 4), &patch_states);
    let decoder = LocalDecoder { window: Some(16), ..LocalDecoder::new(1, 4) };
    let logits = g.add("decoder", decoder, (&bytes, &latents));
    g.add("loss", NextByteLoss { eos: false }, (&logits, &docs));
    g.finish()
}

// The test that includes this file has a main of its own.
#[allow(dead_code)]
fn main() {
    let pipeline = PipelineSpec::new("from_rust", graph())
        .step(Train::new("loss", 4000, 2048, 4e-3))
        .step(Evaluate { by: Some("source".into()), ..Evaluate::new("loss") })
        .variant(
            "stride-6",
            [("graph.patches", json!({"node": "StridePatch", "in": "docs", "stride": 6}))],
        )
        .variant("entropy", []);
    print!("{}", pipeline.to_yaml());
}
