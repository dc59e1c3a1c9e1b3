//! The graph of pipelines/ablation_patching.yaml in the Rust DSL, printed as YAML: `cargo run
//! --release --example dsl`.
//!
//! A wire of the wrong type does not compile: give `LocalDecoder` `&patches` in place of
//! `&latents`, and see.

use blt::prelude::*;

/// The same graph as in YAML; `tests/it/dsl.rs` holds the two against each other.
pub fn graph() -> GraphSpec {
    let mut g = Graph::new();
    let split = Some(Split::of(0.1, "id"));
    let corpus =
        ParquetBytes { split, span_bytes: 4096, ..ParquetBytes::new("corpus/sample.parquet") };
    let docs = g.add("docs", corpus, ());
    let (entropies, _, _) =
        g.add("entropy", ByteLm { window: Some(128), ..ByteLm::new(64, 2, 4) }, &docs);
    let patches = g.add("patches", EntropyPatch::bytes_per_patch(6.0), (&docs, &entropies));
    let embed = g.add("embed", ByteEmbed::new(64), &docs);
    let encoder = LocalEncoder { window: Some(128), ..LocalEncoder::new(4) };
    let (bytes, patch_states) = g.add("encoder", encoder, (&embed, &patches));
    let latents = g.add("latent", Latent::new(128, 4, 4), &patch_states);
    let logits = g.add(
        "decoder",
        LocalDecoder { window: Some(128), ..LocalDecoder::new(2, 4) },
        (&bytes, &latents),
    );
    g.add("loss", NextByteLoss { eos: false }, (&logits, &docs));
    g.finish()
}

// The test that includes this file has a main of its own.
#[allow(dead_code)]
fn main() {
    let train = |goal: &str, steps| Train::new(goal, steps, 4096, 6e-3);
    let pipeline = PipelineSpec::new("from_rust", graph())
        .step(train("entropy.loss", 500))
        .step(train("loss", 800))
        .step(Evaluate { by: Some("domain".into()), ..Evaluate::new("loss") })
        .variant(
            "stride-6",
            [("graph.patches", json!({"node": "StridePatch", "in": "docs", "stride": 6}))],
        )
        .variant("entropy", []);
    print!("{}", pipeline.to_yaml());
}
