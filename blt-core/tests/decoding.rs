//! Decoding id by id: the logits of the forward pass, the same bits however ids are divided and
//! whatever a document is batched with, and the reference's greedy text.

mod common;
#[path = "common/peer.rs"]
mod peer;

use blt_core::backend::fused::Fused;
use blt_core::backend::{Backend, BlockConfig, CrossConfig, HashConfig, Pooling};
use blt_core::blt::Blt;
use blt_core::bytes::{BOS, Batch, OFFSET, VOCAB};
use blt_core::decoding::{
    Decoder, Decoding, Drafter, Generate, Generation, GenerationStats, Limits, MAX_REWIND,
    Sampling, Stopped, Text, patcher_streaming, write_texts,
};
use blt_core::hf::{ByteLmShape, HfConfig, ModelShape, PatchingShape, Weights};
use blt_core::model::{CrossLayers, LatentConfig, LocalDecoderConfig, LocalEncoderConfig, Session};
use blt_core::params::ParamMaker;
use blt_core::patch::stream::{SpaceStream, StrideStream, stream_patches};
use blt_core::patch::{EntropyRule, LimitStream, Patches};
use common::Rng;
use peer::Numbers;
use std::path::Path;
use std::rc::Rc;

const TEXTS: [&str; 5] = [
    "Twice two makes four,\nand never in any other place than here, my dear.\n\nSo it is.",
    "",
    "a",
    "한글과 emoji 🙂 are bytes too.\nfn main() { println!(\"{}\", 1 + 1); }",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
];

fn block(dim: usize, heads: usize, kv_heads: usize, window: Option<usize>) -> BlockConfig {
    let (head_dim, rope_theta, eps) = (dim / heads, 10_000.0, 1e-5);
    BlockConfig { dim, heads, kv_heads, head_dim, ffn: 2 * dim + 5, window, rope_theta, eps }
}

fn cross(b: &BlockConfig) -> CrossConfig {
    let BlockConfig { dim, heads, kv_heads, head_dim, eps, .. } = *b;
    CrossConfig { dim, heads, kv_heads, head_dim, eps }
}

/// A model of the i-th combination of settings.
fn shape(i: usize) -> ModelShape {
    let mut rest = i;
    let mut pick = |n: usize| {
        let picked = rest % n;
        rest /= n;
        picked
    };
    let k = [1, 2, 4][pick(3)];
    let cross_layers = [CrossLayers::Last, CrossLayers::All, CrossLayers::AllRepool][pick(3)];
    let pooling = [Pooling::Max, Pooling::Mean, Pooling::Min][pick(3)];
    let cross_all = pick(2) == 0;
    let window = [Some(3), Some(1000)][pick(2)];
    let max_patch_length = [None, Some(3)][pick(2)];
    let reset_at_newline = pick(2) == 0;
    let dim = 16;
    let local = block(dim, 4, if k == 2 { 2 } else { 4 }, window);
    let latent_dim = if k == 1 { 24 } else { k * dim };
    ModelShape {
        hash: (k > 1).then(|| HashConfig { sizes: vec![3, 5], functions: 2, vocab: 101 }),
        encoder: LocalEncoderConfig {
            layers: 2,
            block: local.clone(),
            cross: cross(&local),
            cross_layers,
            pooling,
            k,
        },
        latent: LatentConfig {
            layers: 2,
            block: block(latent_dim, 4, 2, None),
            input_dim: k * dim,
        },
        decoder: LocalDecoderConfig {
            layers: 2,
            block: local.clone(),
            cross: cross(&local),
            cross_all,
            k,
            latent_dim,
        },
        patching: PatchingShape::Entropy {
            model: ByteLmShape { layers: 2, block: block(12, 2, 2, window), reset_at_newline },
            rule: EntropyRule::Global { threshold: 0.0 },
            max_patch_length,
        },
    }
}

struct Made {
    model: Blt,
    cx: Session,
}

impl Made {
    fn new(shape: &ModelShape) -> Self {
        let backend: Rc<dyn Backend> = Rc::new(Fused::new());
        let mut maker = ParamMaker::new(&*backend, 7);
        let model = Blt::new(&mut maker, shape, None);
        let mut rng = Rng::new(3);
        for p in maker.finish().unwrap() {
            if p.vector {
                let weights = rng.numbers(p.n_elements(), 0.5);
                let weights: Vec<f32> = weights.iter().map(|w| 1.0 + w).collect();
                backend.write_param(p.id, &weights).unwrap();
            }
        }
        Made { model, cx: Session::new(backend) }
    }

    /// With a threshold in the middle of the widest gap between entropies of the texts, so that
    /// rounding decides no border.
    fn with_threshold(mut shape: ModelShape) -> Self {
        let made = Made::new(&shape);
        let batch = Batch::from_documents(TEXTS.map(str::as_bytes));
        let patched = made.model.patch(&made.cx, &batch, false).unwrap().unwrap().unwrap();
        let mut entropies = patched.entropies;
        entropies.sort_by(f32::total_cmp);
        let middle = &entropies[entropies.len() / 3..2 * entropies.len() / 3];
        let gap = middle.windows(2).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0]))).unwrap();
        assert!(gap[1] - gap[0] > 1e-5);
        if let PatchingShape::Entropy { rule, .. } = &mut shape.patching {
            *rule = EntropyRule::Global { threshold: (gap[0] + gap[1]) as f64 / 2.0 };
        }
        Made::new(&shape)
    }

    fn decoder(&self) -> Decoder {
        let mut decoder = Decoder::new();
        self.model.add_to(&mut decoder, "blt", None, &*self.cx.backend).unwrap().unwrap();
        decoder
    }

    /// With patches of a rule on bytes.
    fn decoder_of<S: blt_core::patch::stream::PatchStream + 'static>(
        &self,
        begin: impl Fn() -> S + 'static,
    ) -> Decoder {
        let mut decoder = Decoder::new();
        let patches = patcher_streaming(false, move |_| Ok(Box::new(begin())));
        let patches = decoder.add("patches", patches, &[]);
        self.model.add_to(&mut decoder, "blt", Some(patches), &*self.cx.backend).unwrap().unwrap();
        decoder
    }

    fn forward(&self, batch: &Batch, patches: &Patches) -> Vec<f32> {
        self.model.forward(&self.cx, batch, patches).unwrap().logits(&self.cx).unwrap()
    }
}

/// Logits of a document, id by id.
fn one_by_one(decoder: &Decoder, ids: &[u16]) -> (Decoding, Vec<f32>) {
    assert_eq!(ids[0], BOS);
    let (mut document, mut logits) = decoder.begin().unwrap();
    for &id in &ids[1..] {
        logits.extend(decoder.push(&mut document, id).unwrap());
    }
    (document, logits)
}

/// Within 1e-5 of each row's largest logit (at least 1).
fn assert_near(got: &[f32], want: &[f32], place: &str) {
    assert_eq!(got.len(), want.len(), "{place}");
    for (i, (got, want)) in got.chunks(VOCAB).zip(want.chunks(VOCAB)).enumerate() {
        let near = want.iter().fold(1.0f32, |near, want| near.max(want.abs())) * 1e-5;
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= near, "{place}: id {i}: {got} {want}");
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

const COMBINATIONS: usize = 3 * 3 * 3 * 2 * 2 * 2 * 2;

#[test]
fn logits_are_those_of_the_forward_pass() {
    let batch = Batch::from_documents(TEXTS.map(str::as_bytes));
    // Coprime with every number of choices, so that all pairs of settings come up.
    for i in (0..COMBINATIONS).step_by(5) {
        let made = Made::with_threshold(shape(i));
        let patched = made.model.patch(&made.cx, &batch, false).unwrap().unwrap().unwrap();
        let want = made.forward(&batch, &patched.patches);
        let decoder = made.decoder();
        let mut cut = 0;
        for s in 0..batch.n_spans() {
            let (document, got) = one_by_one(&decoder, batch.span_ids(s));
            let rows = batch.offsets[s] * VOCAB..batch.offsets[s + 1] * VOCAB;
            assert_near(&got, &want[rows], &format!("settings {i}, text {s}"));
            let patches = patched.patches.span_offsets[s + 1] - patched.patches.span_offsets[s];
            // A patch that ends with the last id has ended; else the last one has not.
            let ended = patches - usize::from(!patched.patches.next_starts[s]);
            assert_eq!(document.n_patches(), ended, "settings {i}, text {s}");
            cut += usize::from(patches > 3 && patches < batch.span_ids(s).len());
        }
        assert!(cut > 0, "settings {i}: the threshold cuts nothing, or all");
    }
}

#[test]
fn every_prefix_has_the_logits_of_its_forward_pass() {
    let made = Made::with_threshold(shape(1));
    let text = TEXTS[0].as_bytes();
    let whole = Batch::from_documents([text]);
    let (_, got) = one_by_one(&made.decoder(), whole.span_ids(0));
    for n in 0..=text.len() {
        let batch = Batch::from_documents([&text[..n]]);
        let patched = made.model.patch(&made.cx, &batch, false).unwrap().unwrap().unwrap();
        let want = made.forward(&batch, &patched.patches);
        let last = n * VOCAB..(n + 1) * VOCAB;
        assert_near(&got[last.clone()], &want[last], &format!("prefix {n}"));
    }
}

#[test]
fn patchers_that_read_no_entropies_stream() {
    let made = Made::new(&shape(4));
    let batch = Batch::from_documents(TEXTS.map(str::as_bytes));
    let check = |decoder: Decoder, patches: Patches| {
        let want = made.forward(&batch, &patches);
        for s in 0..batch.n_spans() {
            let (_, got) = one_by_one(&decoder, batch.span_ids(s));
            let rows = batch.offsets[s] * VOCAB..batch.offsets[s + 1] * VOCAB;
            assert_near(&got, &want[rows], &format!("text {s}"));
        }
    };
    let space = || LimitStream::new(SpaceStream::default(), Some(5));
    check(made.decoder_of(space), stream_patches(&batch, None, |_| space()));
    let stride = || StrideStream::new(4.5);
    check(made.decoder_of(stride), stream_patches(&batch, None, |_| stride()));
}

#[test]
fn bits_do_not_depend_on_chunks_or_on_the_other_documents() {
    let batch = Batch::from_documents(TEXTS.map(str::as_bytes));
    for i in [0, 7, 100, 211] {
        let decoder = Made::with_threshold(shape(i)).decoder();
        let alone: Vec<Vec<f32>> =
            (0..TEXTS.len()).map(|s| one_by_one(&decoder, batch.span_ids(s)).1).collect();
        let mut rng = Rng::new(i as u64 + 1);
        for most in [2, 9, 200] {
            let mut documents: Vec<Decoding> = TEXTS.iter().map(|_| decoder.empty()).collect();
            let mut got = vec![Vec::new(); TEXTS.len()];
            // Each time some of the documents go on, by some ids.
            while (0..TEXTS.len()).any(|s| documents[s].ids().len() < batch.span_ids(s).len()) {
                let next: Vec<usize> = (0..TEXTS.len()).map(|_| rng.below(most + 1)).collect();
                let mut chosen = Vec::new();
                for (s, document) in documents.iter_mut().enumerate() {
                    let ids = batch.span_ids(s);
                    let from = document.ids().len();
                    let to = (from + next[s]).min(ids.len());
                    if to > from {
                        chosen.push((s, document, &ids[from..to]));
                    }
                }
                let ids: Vec<&[u16]> = chosen.iter().map(|(_, _, ids)| *ids).collect();
                let order: Vec<usize> = chosen.iter().map(|(s, ..)| *s).collect();
                let mut documents: Vec<&mut Decoding> =
                    chosen.into_iter().map(|(_, document, _)| document).collect();
                let logits = decoder.extend(&mut documents, &ids).unwrap();
                let mut row = 0;
                for (s, ids) in order.into_iter().zip(ids) {
                    got[s].extend_from_slice(logits.rows(row..row + ids.len()));
                    row += ids.len();
                }
            }
            for (s, (got, alone)) in got.iter().zip(&alone).enumerate() {
                assert_eq!(bits(got), bits(alone), "settings {i}, text {s}, chunks to {most}");
            }
        }
        // In one go, with the last logits alone.
        let mut documents: Vec<Decoding> = TEXTS.iter().map(|_| decoder.empty()).collect();
        let ids: Vec<&[u16]> = (0..TEXTS.len()).map(|s| batch.span_ids(s)).collect();
        let last =
            decoder.extend_last(&mut documents.iter_mut().collect::<Vec<_>>(), &ids).unwrap();
        for (s, alone) in alone.iter().enumerate() {
            assert_eq!(bits(last.row(s)), bits(&alone[alone.len() - VOCAB..]), "text {s}");
        }
    }
}

#[test]
fn a_document_that_went_back_goes_on_with_the_same_bits() {
    let text = TEXTS[0].repeat(4);
    let batch = Batch::from_documents([text.as_bytes()]);
    let ids = batch.span_ids(0);
    for i in [0, 26, 133] {
        let decoder = Made::with_threshold(shape(i)).decoder();
        let (_, want) = one_by_one(&decoder, ids);
        let mut rng = Rng::new(5);
        let mut document = decoder.empty();
        decoder.push(&mut document, BOS).unwrap();
        while document.ids().len() < ids.len() {
            let at = document.ids().len();
            // A wrong guess: of the decoder alone, or of ids that all parts have read.
            let guess = 1 + rng.below(MAX_REWIND);
            let wrong: Vec<u16> = (0..guess).map(|_| OFFSET + rng.below(256) as u16).collect();
            if rng.below(2) == 0 {
                for &id in &wrong {
                    decoder.draft(&mut document, id).unwrap();
                }
            } else {
                decoder.extend(&mut [&mut document], &[&wrong]).unwrap();
            }
            document.rewind(at);
            let next = (1 + rng.below(40)).min(ids.len() - at);
            let got = decoder.extend(&mut [&mut document], &[&ids[at..at + next]]).unwrap();
            let rows = at * VOCAB..(at + next) * VOCAB;
            assert_eq!(bits(&got.data), bits(&want[rows]), "settings {i}, from {at}");
        }
    }
}

#[test]
fn a_long_text_goes_through_in_pieces() {
    let made = Made::new(&shape(0));
    let decoder = made.decoder_of(|| StrideStream::new(1e300));
    let mut document = decoder.empty();
    let ids: Vec<u16> =
        std::iter::once(BOS).chain((0..5000).map(|i| OFFSET + (i * 7 % 250) as u16)).collect();
    decoder.extend_last(&mut [&mut document], &[&ids]).unwrap();
    assert_eq!(document.n_patches(), 1);
    let (_, one) = one_by_one(&decoder, &ids);
    let mut again = decoder.empty();
    let last = decoder.extend_last(&mut [&mut again], &[&ids]).unwrap();
    assert_eq!(bits(&last.data), bits(&one[one.len() - VOCAB..]));
}

/// The reference's models, their texts and its greedy continuations.
#[test]
fn fixtures_have_their_logits_and_their_greedy_text() {
    for name in ["k1_proj_gqa_win", "k2_base", "k4_all_fullattn"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity").join(name);
        let shape = HfConfig::read(&dir).unwrap().to_model();
        let weights = Weights::open(&dir).unwrap();
        let backend: Rc<dyn Backend> = Rc::new(Fused::new());
        let view = |name: &str, shape: &[usize]| weights.view(name, shape);
        let (model, _) =
            ParamMaker::read(&*backend, view, |maker| Blt::new(maker, &shape, None)).unwrap();
        let made = Made { model, cx: Session::new(backend) };
        let decoder = made.decoder();
        let expected = Numbers::read(&dir.join("expected.safetensors"));
        for i in 0..3 {
            let ids: Vec<u16> =
                expected.of_text(i, "input_ids").iter().map(|&id| id as u16).collect();
            let (_, got) = one_by_one(&decoder, &ids);
            let difference = peer::largest_difference(&got, expected.of_text(i, "logits"));
            assert!(difference < 1e-4, "{name} text {i}: {difference}");
        }
        let ids = |key: &str| -> Vec<u16> {
            expected.get(key).unwrap().iter().map(|&id| id as u16).collect()
        };
        let (mut ids, want) = (ids("gen.prompt_ids"), ids("gen.output_ids"));
        let mut document = decoder.empty();
        let mut logits = decoder.extend_last(&mut [&mut document], &[&ids]).unwrap().data;
        while ids.len() < want.len() {
            let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            ids.push(best as u16);
            logits = decoder.push(&mut document, best as u16).unwrap();
        }
        assert_eq!(ids, want, "{name}");
    }
}

/// The ids that a model writes after a prompt, up to `n`, and how many passes that took.
fn write(decoder: &Decoder, options: Generate, n: usize) -> (Vec<u16>, GenerationStats) {
    let mut generation = Generation::start(decoder, options, b"Twice two makes", 0).unwrap();
    let mut ids = Vec::new();
    while ids.len() < n
        && let Some(more) = generation.advance().unwrap()
    {
        ids.extend(more);
    }
    ids.truncate(n);
    (ids, generation.stats)
}

#[test]
fn drafts_change_no_greedy_id_whatever_the_patcher() {
    let made = Made::with_threshold(shape(10));
    let stride = made.decoder_of(|| StrideStream::new(4.0));
    let space = made.decoder_of(|| LimitStream::new(SpaceStream::default(), Some(7)));
    for (name, decoder) in [("entropy", made.decoder()), ("stride", stride), ("space", space)] {
        // All ids: a model that was not trained soon writes an end.
        let sampling = Sampling { all_ids: true, ..Sampling::default() };
        let options = |speculate| Generate { sampling, seed: 0, speculate };
        let (plain, stats) = write(&decoder, options(None), 10_000);
        assert_eq!(stats.passes, stats.ids, "{name}");
        for speculate in [(2, Drafter::Decoder), (8, Drafter::Decoder), (16, Drafter::Ngram)] {
            let (ids, stats) = write(&decoder, options(Some(speculate)), 10_000);
            assert!(ids == plain, "{name} {speculate:?}");
            assert!(stats.accepted > 0 && stats.accepted < stats.drafted, "{name} {stats:?}");
            assert!(stats.passes < stats.ids, "{name} {stats:?}");
        }
    }
}

#[test]
fn draws_are_those_of_the_seed() {
    let decoder = Made::with_threshold(shape(10)).decoder();
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    for speculate in [None, Some((4, Drafter::Decoder))] {
        let text = |seed| write(&decoder, Generate { sampling, seed, speculate }, 60).0;
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}

#[test]
fn texts_written_together_are_those_written_alone() {
    let decoder = Made::with_threshold(shape(10)).decoder();
    let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    let options = Generate { sampling, seed: 3, speculate: None };
    let prompts: Vec<(u64, Vec<u8>)> =
        TEXTS.iter().enumerate().map(|(i, text)| (i as u64, text.as_bytes().to_vec())).collect();
    let limits = Limits { bytes: 40, stop: vec![b"a".to_vec()] };
    let texts = write_texts(&decoder, &options, &limits, &prompts).unwrap();
    for (text, (number, prompt)) in texts.iter().zip(&prompts) {
        let mut generation = Generation::start(&decoder, options.clone(), prompt, *number).unwrap();
        let mut alone = Text::new(&limits);
        while alone.stopped.is_none() {
            generation.advance().unwrap().unwrap().iter().for_each(|&id| alone.push(id, &limits));
        }
        assert_eq!(*text, alone);
    }
    let none = Limits { bytes: 0, stop: Vec::new() };
    let none = write_texts(&decoder, &options, &none, &prompts).unwrap();
    assert!(none.iter().all(|t| t.bytes.is_empty() && t.stopped == Some(Stopped::Bytes)));
}
