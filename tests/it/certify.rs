//! Leaks that fooled people are planted, and each is caught; pipelines without any are certified.

use crate::common::{PIPELINE, Place, text, write_parquet};
use blt::core::model;
use blt::graph::run::{RunOptions, Runner};
use blt::prelude::*;
use blt_plugins::Certificate;
use serde_json::Value;
use std::path::Path;
use std::process::Output;

const EMBED: &str = "{node: ByteEmbed, in: docs, dim: 16, ngrams: [3], table: 64}";

/// Documents of some 200 bytes that share words, and no sentence.
fn documents() -> Vec<String> {
    let mut state = 7u64;
    let mut draw = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % n
    };
    let syllables = ["ba", "re", "to", "mi", "lun", "s", "gr", "och", "e", "ya"];
    let mut word = || (0..3).map(|_| syllables[draw(10) as usize]).collect::<Vec<_>>().concat();
    (0..100).map(|_| (0..40).map(|_| word()).collect::<Vec<_>>().join(" ") + ".\n").collect()
}

/// A folder with a pipeline on such documents.
fn place(documents: &[String]) -> Place {
    let place = Place::new().with(PIPELINE);
    let texts: Vec<Option<&str>> = documents.iter().map(|text| Some(text.as_str())).collect();
    write_parquet(&place.path("docs.parquet"), &texts);
    place
}

/// The certificate of the pipeline, run in this process: its registry has the nodes below.
fn certificate(place: Place) -> Certificate {
    let place = place.edit("evaluate: {goal: loss, by: domain}", "certify: {goal: loss}");
    let spec = PipelineSpec::parse(&place.yaml, "p.yaml").unwrap_or_else(|e| panic!("{e}"));
    let options =
        RunOptions { runs_dir: place.path("runs"), ..RunOptions::new("the certify test") };
    let run = Runner::new(&spec, place.dir.path(), options).run();
    let run = run.unwrap_or_else(|e| panic!("{}", e.render(false)));
    let file = run.plans[0].steps.last().unwrap().dir.join("certificate.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn failed(certificate: &Certificate) -> Vec<&str> {
    let failed = certificate.verdicts.iter().filter(|verdict| !verdict.passed);
    failed.map(|verdict| verdict.name.as_str()).collect()
}

fn found<'a>(certificate: &'a Certificate, name: &str) -> &'a str {
    &certificate.verdicts.iter().find(|verdict| verdict.name == name).unwrap().found
}

/// Embeddings of ids that `change` made of those of each span.
fn embedded(
    part: &model::ByteEmbed,
    batch: Rc<Batch>,
    cx: &RunCx,
    change: impl Fn(&mut [u16]),
) -> Result<ByteStatesValue, NodeError> {
    let mut other = (*batch).clone();
    batch.offsets.windows(2).for_each(|w| change(&mut other.ids[w[0]..w[1]]));
    Ok(ByteStatesValue { states: part.forward(&session(cx), &other)?, batch })
}

/// Embeds the next id at each place, which the model is to predict there.
#[params]
struct PeekingEmbed {
    /// Width.
    dim: usize,
}

#[node(example = "in: docs, dim: 64")]
impl Node for PeekingEmbed {
    type In = port::Bytes;
    type Out = port::ByteStates;
    type State = model::ByteEmbed;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<ByteStatesInfo, NodeError> {
        Ok(ByteStatesInfo { dim: self.dim })
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteEmbed, NodeError> {
        with_params(cx, |maker| model::ByteEmbed::new(maker, self.dim, None))
    }

    fn run(
        &self,
        part: &model::ByteEmbed,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<ByteStatesValue, NodeError> {
        embedded(part, batch, cx, |ids| ids.rotate_left(1))
    }
}

/// Embeds the half of a span's ids that are greatest, and blanks the others.
#[params]
struct RoutedEmbed {
    /// Width.
    dim: usize,
}

#[node(example = "in: docs, dim: 64")]
impl Node for RoutedEmbed {
    type In = port::Bytes;
    type Out = port::ByteStates;
    type State = model::ByteEmbed;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<ByteStatesInfo, NodeError> {
        Ok(ByteStatesInfo { dim: self.dim })
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteEmbed, NodeError> {
        with_params(cx, |maker| model::ByteEmbed::new(maker, self.dim, None))
    }

    fn run(
        &self,
        part: &model::ByteEmbed,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<ByteStatesValue, NodeError> {
        embedded(part, batch, cx, |ids| {
            let mut order: Vec<usize> = (0..ids.len()).collect();
            order.sort_by_key(|&at| (ids[at], at));
            order[..ids.len() / 2].iter().for_each(|&at| ids[at] = 0);
        })
    }
}

/// The loss of the next byte, with nats that were thought better of.
fn loss_with(
    (logits, batch): (LogitsValue, Rc<Batch>),
    cx: &RunCx,
    nats: impl Fn(f32) -> f32,
) -> Result<LossValue, NodeError> {
    let loss = logits.head.loss(&session(cx), &next_byte_targets(&batch, false))?;
    let nats = loss.nats.into_iter().map(nats).collect();
    Ok(LossValue { loss: loss.loss, nats: Rc::new(nats), batch })
}

/// Counts no byte that is hard to predict.
#[params]
struct EasyBytesLoss {}

#[node(example = "in: {logits: decoder, bytes: docs}")]
impl Node for EasyBytesLoss {
    type In = (port::Logits, port::Bytes);
    type Out = port::Loss;

    fn run(
        &self,
        _: &(),
        inputs: (LogitsValue, Rc<Batch>),
        cx: &RunCx,
    ) -> Result<LossValue, NodeError> {
        loss_with(inputs, cx, |nats| if nats > 5.0 { 0.0 } else { nats })
    }
}

/// Counts as if all probabilities summed to 1.01.
#[params]
struct GenerousLoss {}

#[node(example = "in: {logits: decoder, bytes: docs}")]
impl Node for GenerousLoss {
    type In = (port::Logits, port::Bytes);
    type Out = port::Loss;

    fn run(
        &self,
        _: &(),
        inputs: (LogitsValue, Rc<Batch>),
        cx: &RunCx,
    ) -> Result<LossValue, NodeError> {
        loss_with(inputs, cx, |nats| nats - 1.01f32.ln())
    }
}

#[test]
fn a_pipeline_without_a_leak_is_certified() {
    let certificate = certificate(place(&documents()));
    assert_eq!(failed(&certificate), [""; 0], "{certificate:#?}");
    assert!(found(&certificate, "causal").contains("moved borders"), "{certificate:#?}");
}

#[test]
fn a_node_that_reads_its_target_is_caught() {
    let place = place(&documents()).edit(EMBED, "{node: PeekingEmbed, in: docs, dim: 16}");
    assert_eq!(failed(&certificate(place))[0], "causal");
}

#[test]
fn a_patcher_that_looks_a_byte_ahead_and_does_not_say_so_is_caught() {
    let place = place(&documents()).edit(
        "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
        "{node: StartsAtNewline, in: docs}",
    );
    assert_eq!(failed(&certificate(place))[0], "causal");
}

#[test]
fn a_router_over_the_whole_span_is_caught() {
    let place = place(&documents()).edit(EMBED, "{node: RoutedEmbed, in: docs, dim: 16}");
    assert_eq!(failed(&certificate(place))[0], "causal");
}

#[test]
fn a_loss_that_skips_hard_bytes_is_caught() {
    let certificate = certificate(place(&documents()).edit("NextByteLoss", "EasyBytesLoss"));
    assert_eq!(failed(&certificate), ["covers", "normalised", "coded"], "{certificate:#?}");
    assert!(found(&certificate, "covers").contains("counts 0 nats"), "{certificate:#?}");
}

#[test]
fn probabilities_that_sum_to_more_than_one_are_caught() {
    let certificate = certificate(place(&documents()).edit("NextByteLoss", "GenerousLoss"));
    assert!(failed(&certificate).contains(&"normalised"), "{certificate:#?}");
    assert!(found(&certificate, "normalised").contains("1.0"), "{certificate:#?}");
}

#[test]
fn a_patcher_that_looks_ahead_is_not_certified() {
    let place = place(&documents()).edit(
        "{node: EntropyPatch, in: {bytes: docs, entropies: entropy}, bytes_per_patch: 3}",
        "{node: BpePatch, in: docs, vocab: 300}",
    );
    assert_eq!(failed(&certificate(place))[0], "causal");
}

fn certify(place: &Place, more: &[&str]) -> (Option<i32>, String) {
    let args = [&["certify", "pipeline.yaml"], more].concat();
    let Output { status, stdout, stderr } = place.command(&args).output().unwrap();
    (status.code(), text(&stdout) + &text(&stderr))
}

#[test]
fn a_document_in_training_and_held_out_is_caught_by_the_program() {
    let mut documents = documents();
    let (code, said) = certify(&place(&documents), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("  certified"), "{said}");
    // Each twice, with other white space; two thirds of a document.
    let twice: Vec<String> = documents.iter().map(|d| d.replace(' ', "\n ")).collect();
    let most = documents.iter().map(|d| format!("Another beginning. {}", &d[..d.len() * 2 / 3]));
    let most: Vec<String> = documents.iter().cloned().chain(most).collect();
    documents.extend(twice);
    for (documents, found) in [(documents, "is the training one"), (most, "of the windows")] {
        let (code, said) = certify(&place(&documents), &["--goal", "loss"]);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains(found) && said.contains("NOT CERTIFIED: not trained on"), "{said}");
    }
}

#[test]
fn the_claim_is_the_figure_that_is_evaluated() {
    let place = place(&documents());
    let run = place.done(&[]);
    let results = std::fs::read(run.dir.join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    let evaluated = results["variants"]["base"]["bpb"].as_f64().unwrap();
    let (code, said) = certify(&place, &["--format", "json"]);
    assert_eq!(code, Some(0), "{said}");
    // What follows it was printed on stderr.
    let said = serde_json::Deserializer::from_str(&said).into_iter::<Value>().next();
    let said = said.unwrap().unwrap();
    let certificate: Certificate =
        serde_json::from_value(said["certificates"][0]["certificate"].clone()).unwrap();
    assert!((certificate.bits_per_byte() - evaluated).abs() < 1e-9, "{evaluated} {certificate:#?}");
}

#[test]
fn nodes_that_other_variants_and_steps_use_are_no_mistake() {
    let place = place(&documents());
    let ablate =
        "ablate: {tables: {}, other: {graph.embed: {node: ByteEmbed, in: docs, dim: 16}}}\n";
    let lone =
        "  lone: {node: NgramLm, in: docs, order: 2}\nrun:\n  - evaluate: {goal: lone.loss}\n";
    let yaml = place.yaml.replacen("run:\n", lone, 1) + ablate;
    let place = place.with(&yaml);
    let (code, said) = certify(&place, &["--goal", "loss", "--variant", "other"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_pipeline_that_evaluates_nothing_is_one_clear_error() {
    let place = place(&documents()).edit("  - evaluate: {goal: loss, by: domain}\n", "");
    let (code, said) = certify(&place, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no step of the pipeline evaluates a loss"), "{said}");
    let (code, said) = certify(&place, &["--goal", "patches"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is not a Loss"), "{said}");
}

/// Every variant that patches without looking ahead, reads no patches from a column, and evaluates;
/// on the fused path, which the others agree with.
#[test]
fn no_shipped_incremental_pipeline_raises_a_false_alarm() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/ci_regression.yaml");
    let names = PipelineSpec::read(Path::new(file)).unwrap().variant_names().unwrap();
    let names = names.iter().filter(|name| {
        let others = ["bpe", "column", "entropies", "export", "reference"];
        !others.iter().any(|other| name.contains(other))
    });
    let variants: Vec<&str> = names.flat_map(|name| ["--variant", name.as_str()]).collect();
    assert!(variants.len() >= 20, "{variants:?}");
    let place = Place::new();
    let output = place.command(&[&["certify", file], &variants[..]].concat()).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert_eq!(said.matches("  certified").count(), variants.len() / 2, "{said}");
}
