//! The rules against their definitions, byte for byte, and against themselves on prefixes.

use super::*;
use crate::bytes::Span;
use crate::patch::{Limits, entropy_patches};
use proptest::prelude::*;

fn batch(documents: &[&[u8]]) -> Batch {
    Batch::from_documents(documents.iter().copied())
}

/// The patches of one document as text, BOS's left out, and `next_starts`.
fn cut(text: &str, patches: impl Fn(&Batch) -> Patches) -> (Vec<String>, bool) {
    let b = batch(&[text.as_bytes()]);
    let p = patches(&b);
    let offsets = p.offsets();
    assert_eq!(offsets[..2], [0, 1], "BOS is a patch of its own");
    let piece =
        |w: &[usize]| String::from_utf8_lossy(&text.as_bytes()[w[0] - 1..w[1] - 1]).into_owned();
    (offsets[1..].windows(2).map(piece).collect(), p.next_starts[0])
}

fn entropy(e: &[f32], rule: EntropyRule, max: Option<usize>) -> (Vec<usize>, bool) {
    let text = vec![b'x'; e.len() - 1];
    let p = entropy_patches(&batch(&[&text]), e, rule, max).unwrap();
    (p.starts.clone(), p.next_starts[0])
}

const GLOBAL: EntropyRule = EntropyRule::Global { threshold: 1.0 };
const RELATIVE: EntropyRule = EntropyRule::Relative { threshold: 0.5 };
const BOTH: EntropyRule = EntropyRule::Both { global: 1.0, relative: 0.5 };

#[test]
fn bytes_and_strides() {
    let b = batch(&[b"abc", b"", b"x"]);
    let p = byte_patches(&b);
    assert_eq!(
        (p.starts, p.span_offsets, p.next_starts),
        ((0..7).collect(), vec![0, 4, 5, 7], vec![true; 3])
    );

    assert_eq!(
        cut("abcdefg", |b| stride_patches(b, 3).unwrap()),
        (vec!["abc".into(), "def".into(), "g".into()], false)
    );
    assert_eq!(
        cut("abcdef", |b| stride_patches(b, 3).unwrap()),
        (vec!["abc".into(), "def".into()], true)
    );
    assert_eq!(cut("ab", |b| stride_patches(b, 3).unwrap()), (vec!["ab".into()], false));
    let p = stride_patches(&batch(&[b"", b"a", b"abcd"]), 2).unwrap();
    assert_eq!((p.starts, p.next_starts), (vec![0, 1, 2, 3, 4, 6], vec![true, false, true]));
    assert_eq!(stride_patches(&b, 1).unwrap(), byte_patches(&b));
    assert_eq!(stride_patches(&b, 0), Err(PatchError::ZeroStride));
}

#[test]
fn a_patch_starts_after_the_space() {
    let space = |text| cut(text, space_patches);
    let owned = |pieces: &[&str]| pieces.iter().map(|p| p.to_string()).collect::<Vec<_>>();
    assert_eq!(space("ab cd  ef"), (owned(&["ab ", "cd ", " ef"]), false));
    assert_eq!(space("a, b"), (owned(&["a,", " b"]), false));
    // BOS counts as space-like, so a leading space starts nothing.
    assert_eq!(space(" ab"), (owned(&[" ab"]), false));
    assert_eq!(space("a9Z_b"), (owned(&["a9Z_", "b"]), false));
    assert_eq!(space("ab\n"), (owned(&["ab\n"]), true));
    assert_eq!(space("ab \n"), (owned(&["ab ", "\n"]), false));
    assert_eq!(space(""), (owned(&[]), true));
    assert_eq!(space("a"), (owned(&["a"]), false));
    // Every Korean syllable is 3 bytes: a leading byte (space-like) and two that are not.
    let p = space_patches(&batch(&["가나".as_bytes()]));
    assert_eq!(p.starts, [0, 1, 5]);
}

#[test]
fn space_like_is_the_table() {
    for byte in 0..=255u8 {
        let expected = byte.is_ascii() && !byte.is_ascii_alphanumeric() || byte >= 0xC0;
        assert_eq!(space_like(byte as u16 + OFFSET), expected, "{byte:#x}");
    }
    assert!((0..OFFSET).all(space_like));
}

#[test]
fn the_global_rule_is_strict_and_ignores_bos() {
    //          BOS  1    2    3    4
    let e = [9.0, 1.0, 1.1, 0.9, 1.0];
    assert_eq!(entropy(&e, GLOBAL, None), (vec![0, 1, 3], false));
    assert_eq!(entropy(&[0.0, 1.0001, 1.0001], GLOBAL, None), (vec![0, 1, 2], true));
    // Short documents: the byte after BOS alone always starts one; after one byte, its entropy
    // decides.
    assert_eq!(entropy(&[0.0], GLOBAL, None), (vec![0], true));
    assert_eq!(entropy(&[9.0, 1.0], GLOBAL, None), (vec![0, 1], false));
    assert_eq!(entropy(&[0.0, 1.5], GLOBAL, None), (vec![0, 1], true));
}

#[test]
fn the_relative_rule_uses_bos_and_forces_nothing() {
    //          BOS  1    2    3    4    5
    let e = [1.0, 1.5, 2.25, 2.25, 2.75, 3.5];
    // Differences from position 1: .5 (a tie), .75, 0 (equal neighbours), .5 (a tie), .75.
    assert_eq!(entropy(&e, RELATIVE, None), (vec![0, 1, 3], true));
    assert_eq!(entropy(&[0.0, 1.0, 1.0], RELATIVE, None), (vec![0, 1, 2], false));
    assert_eq!(entropy(&[0.0], RELATIVE, None), (vec![0], true));
    assert_eq!(entropy(&[1.0, 1.5], RELATIVE, None), (vec![0, 1], false));
    assert_eq!(entropy(&[1.0, 1.75], RELATIVE, None), (vec![0, 1], true));
    let falling = EntropyRule::Relative { threshold: -0.5 };
    assert_eq!(entropy(&[3.0, 2.75, 2.25, 2.25], falling, None), (vec![0, 1, 2], true));
}

#[test]
fn a_jump_is_above_the_running_mean() {
    let jump = |mean_bytes| EntropyRule::Jump { threshold: 0.5, mean_bytes };
    //       BOS  1    2    3    4
    let e = [1.0, 2.0, 2.0, 1.5, 3.0];
    // Means before positions 1 to 4: 1, 1.5, 1.75, 1.625.
    assert_eq!(entropy(&e, jump(2), None), (vec![0, 1, 2], true));
    // A mean that moves slowly lets the second of two high entropies start a patch too.
    assert_eq!(entropy(&e, jump(100), None), (vec![0, 1, 2, 3], true));
    assert_eq!(entropy(&e, jump(1), None), entropy(&e, RELATIVE, None));
    let refused = entropy_patches(&batch(&[b"x"]), &[0.0; 2], jump(0), None);
    assert_eq!(refused, Err(PatchError::ZeroMeanBytes));
}

#[test]
fn both_rules_must_hold() {
    //          BOS  1    2    3    4
    let e = [0.0, 0.9, 1.3, 2.0, 1.9];
    // Global holds at 2, 3, 4; relative at 1 and 3.
    assert_eq!(entropy(&e, BOTH, None), (vec![0, 1, 4], false));
    assert_eq!(entropy(&e[..4], BOTH, None), (vec![0, 1], true));
    // A tie with either threshold is not above it.
    assert_eq!(entropy(&[0.0, 1.0, 0.5], BOTH, None).0, [0, 1]);
    assert_eq!(entropy(&[1.0, 1.5, 0.5], BOTH, None).0, [0, 1]);
    assert_eq!(entropy(&[1.0, 1.75, 0.5], BOTH, None).0, [0, 1, 2]);
}

#[test]
fn max_patch_length_splits_what_the_rule_made() {
    let flat = vec![0.0; 11];
    assert_eq!(entropy(&flat, GLOBAL, Some(4)), (vec![0, 1, 5, 9], false));
    assert_eq!(entropy(&flat[..9], GLOBAL, Some(4)), (vec![0, 1, 5], true));
    assert_eq!(entropy(&flat[..2], GLOBAL, Some(1)), (vec![0, 1], true));
    //          BOS  1    2    3    4    5    6
    let e = [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(entropy(&e, GLOBAL, Some(3)), (vec![0, 1, 3, 6], false));
    for rule in [RELATIVE, BOTH] {
        assert_eq!(entropy(&e, rule, Some(2)), (vec![0, 1, 3, 5], true));
    }
}

#[test]
fn thresholds_are_compared_as_f32() {
    // The released threshold has more digits than f32; an entropy that equals it in f32 is a
    // tie.
    let threshold = 1.335442066192627_f64;
    let rule = EntropyRule::Global { threshold };
    assert_eq!(entropy(&[0.0, threshold as f32, 0.0], rule, None).0, [0, 1]);
    assert_eq!(entropy(&[0.0, (threshold as f32).next_up(), 0.0], rule, None).0, [0, 1, 2]);
    // 0.1 in f64 lies below 0.1 in f32: compared in f64, this would start a patch.
    assert_eq!(
        entropy(&[0.0, 0.1_f32, 0.0], EntropyRule::Global { threshold: 0.1 }, None).0,
        [0, 1]
    );
    // A float16 value is exact in f32.
    let stored = half::f16::from_f32(1.3).to_f32();
    assert!(stored < 1.3);
    assert_eq!(
        entropy(&[0.0, stored, 0.0], EntropyRule::Global { threshold: stored as f64 }, None).0,
        [0, 1]
    );
}

#[test]
fn bad_entropies_are_named() {
    let mut b = Batch::new();
    b.push(Span { row: 7, range: 0..2, context: 0, last: false }, b"ab");
    b.push(Span { row: 7, range: 2..4, context: 0, last: true }, b"cd");
    let mut e = [1.0; 6];
    assert_eq!(
        entropy_patches(&b, &e[..5], GLOBAL, None),
        Err(PatchError::EntropyCount { expected: 6, found: 5 })
    );
    e[5] = f32::INFINITY;
    let error = entropy_patches(&b, &e, GLOBAL, None).unwrap_err();
    assert_eq!(error, PatchError::EntropyNotFinite { row: 7, position: 4, value: f32::INFINITY });
    e[0] = f32::NAN;
    let error = entropy_patches(&b, &e, RELATIVE, None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("row 7: the entropy at position 0 (BOS is position 0) is NaN")
    );
    let nan = EntropyRule::Both { global: 1.0, relative: f64::NAN };
    assert!(matches!(
        entropy_patches(&b, &[0.0; 6], nan, None),
        Err(PatchError::ThresholdNotFinite { name: "the relative threshold", .. })
    ));
    assert_eq!(
        entropy_patches(&b, &[0.0; 6], GLOBAL, Some(0)),
        Err(PatchError::ZeroMaxPatchLength)
    );
    assert_eq!(entropy_patches(&Batch::new(), &[], GLOBAL, None).unwrap().n_patches(), 0);
}

/// An entropy model that any change to the context moves: a hash of the span's ids so far, in
/// [0, 2).
fn toy_entropies(batch: &Batch) -> Vec<f32> {
    let mut entropies = Vec::new();
    for s in 0..batch.n_spans() {
        let mut h = 17u64;
        for &id in batch.span_ids(s) {
            h = (h ^ id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            entropies.push((h >> 40) as f32 / (1 << 23) as f32);
        }
    }
    entropies
}

#[test]
fn newlines_reset_the_entropy_models_context() {
    let lines = |text: &str| {
        let l = newline_reset(&batch(&[text.as_bytes()]));
        assert_eq!(l.offsets.len(), l.n_spans() + 1);
        let decode = |s: usize| {
            let ids = l.span_ids(s);
            assert_eq!(ids[0], BOS);
            let line: Vec<u8> = ids[1..].iter().map(|&id| (id - OFFSET) as u8).collect();
            assert_eq!(line, text.as_bytes()[l.spans[s].range.clone()], "the range is the line's");
            String::from_utf8(line).unwrap()
        };
        (0..l.n_spans()).map(decode).collect::<Vec<_>>()
    };
    assert_eq!(lines("no newline"), ["no newline"]);
    assert_eq!(lines("ab\ncd"), ["ab", "cd"]);
    assert_eq!(lines("ab\n"), ["ab", ""]);
    assert_eq!(lines("\nab"), ["", "ab"]);
    assert_eq!(lines("a\n\n\nb\n"), ["a", "", "", "b", ""]);
    assert_eq!(lines("\n"), ["", ""]);
    assert_eq!(lines(""), [""]);
    assert_eq!(lines("a\r\nb"), ["a\r", "b"]);
}

#[test]
fn reset_entropies_belong_to_the_original_ids() {
    let whole = batch(&[b"ab\n\nab", b"ab"]);
    let e = toy_entropies(&newline_reset(&whole));
    assert_eq!(e.len(), whole.len());
    // Ids of the first document: BOS a b \n \n a b. A newline has the entropy of a fresh BOS,
    // and a line that repeats repeats its entropies, in the second document too.
    let fresh = toy_entropies(&batch(&[b"ab"]));
    assert_eq!(e[..3], fresh[..]);
    assert_eq!(e[3], fresh[0]);
    assert_eq!(e[4..7], fresh[..]);
    assert_eq!(e[7..], fresh[..]);
    assert_ne!(
        toy_entropies(&whole)[5..7],
        fresh[1..],
        "without the reset the context would carry over"
    );
}

#[test]
fn reset_spans_keep_row_context_and_end() {
    let mut b = Batch::new();
    b.push(Span { row: 3, range: 10..16, context: 3, last: true }, b"a\nbc\nd");
    let l = newline_reset(&b);
    let spans = [(10..11, 1, false), (12..14, 1, false), (15..16, 0, true)];
    assert_eq!(l.spans, spans.map(|(range, context, last)| Span { row: 3, range, context, last }));
}

type Patcher = Box<dyn Fn(&Batch) -> Patches>;

/// Every incremental patcher, entropies from the toy model, which reads the context alone.
fn incremental(max: Option<usize>) -> Vec<(&'static str, Patcher)> {
    let by_entropy =
        |rule| move |b: &Batch| entropy_patches(b, &toy_entropies(b), rule, None).unwrap();
    let mut all: Vec<(&str, Patcher)> = vec![
        ("byte", Box::new(byte_patches)),
        ("stride", Box::new(|b: &Batch| stride_patches(b, 3).unwrap())),
        ("space", Box::new(space_patches)),
        ("global", Box::new(by_entropy(EntropyRule::Global { threshold: 1.2 }))),
        ("relative", Box::new(by_entropy(EntropyRule::Relative { threshold: 0.2 }))),
        ("both", Box::new(by_entropy(EntropyRule::Both { global: 0.8, relative: 0.1 }))),
        ("jump", Box::new(by_entropy(EntropyRule::Jump { threshold: 0.2, mean_bytes: 4 }))),
        (
            "reset",
            Box::new(|b: &Batch| {
                let rule = EntropyRule::Global { threshold: 1.2 };
                entropy_patches(b, &toy_entropies(&newline_reset(b)), rule, None).unwrap()
            }),
        ),
    ];
    for limits in [
        Limits { min_patch_length: Some(3), ..Limits::default() },
        Limits { characters: true, max_patch_length: Some(7), ..Limits::default() },
    ] {
        let rule = EntropyRule::Global { threshold: 1.2 };
        let patches = move |b: &Batch| entropy_patches(b, &toy_entropies(b), rule, limits).unwrap();
        all.push(("limits", Box::new(patches)));
    }
    if let Some(max) = max {
        all = all
            .into_iter()
            .map(|(name, patcher)| {
                (name, Box::new(move |b: &Batch| patcher(b).split(max).unwrap()) as Patcher)
            })
            .collect();
    }
    all
}

fn documents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = prop_oneof![3 => Just(b'a'), 2 => Just(b' '), 1 => Just(b'\n'), 1 => any::<u8>()];
    prop::collection::vec(prop::collection::vec(byte, 0..40), 1..4)
}

/// A patcher that starts at its newline, not after it: what the truncation test must catch.
fn at_newline(b: &Batch) -> Patches {
    let flags: Vec<bool> = b.ids.iter().map(|&id| id == b'\n' as u16 + OFFSET).collect();
    Patches::from_flags(b, &flags, vec![false; b.n_spans()])
}

/// Truncated at any j, a document has the same starts before j, and `next_starts` iff the whole
/// has a start at j.
fn truncation_agrees(document: &[u8], patcher: &dyn Fn(&Batch) -> Patches) -> bool {
    let whole = patcher(&batch(&[document]));
    (0..document.len()).all(|n_bytes| {
        let prefix = patcher(&batch(&[&document[..n_bytes]]));
        let j = n_bytes + 1;
        prefix.starts.iter().eq(whole.starts.iter().take_while(|&&i| i < j))
            && prefix.next_starts[0] == whole.starts.contains(&j)
    })
}

#[test]
fn the_truncation_test_has_teeth() {
    assert!(!truncation_agrees(b"ab\ncd", &at_newline));
    assert!(truncation_agrees(b"ab\ncd", &space_patches));
}

proptest! {
    #[test]
    fn incremental_rules_need_no_later_byte(documents in documents(), max in prop::option::of(1usize..6)) {
        for (name, patcher) in incremental(max) {
            for document in &documents {
                prop_assert!(truncation_agrees(document, &*patcher), "{name}");
            }
        }
    }

    #[test]
    fn patches_cover_the_batch_and_spans_do_not_meet(documents in documents(), max in prop::option::of(1usize..6)) {
        let b = Batch::from_documents(documents.iter().map(|d| &d[..]));
        for (name, patcher) in incremental(max) {
            let p = patcher(&b);
            prop_assert_eq!(p.n_ids, b.len());
            prop_assert_eq!(p.span_offsets.len(), b.n_spans() + 1);
            prop_assert_eq!(p.next_starts.len(), b.n_spans());
            for (s, document) in documents.iter().enumerate() {
                let lengths: Vec<usize> = p.span_lengths(s).collect();
                prop_assert_eq!(lengths[0], 1, "{}", name);
                prop_assert_eq!(lengths.iter().sum::<usize>(), document.len() + 1, "{}", name);
                prop_assert!(lengths.iter().all(|&l| l >= 1 && max.is_none_or(|m| l <= m)), "{}", name);
                let alone = patcher(&batch(&[document]));
                prop_assert_eq!(alone.span_lengths(0).collect::<Vec<_>>(), lengths, "{}", name);
                prop_assert_eq!(alone.next_starts[0], p.next_starts[s], "{}", name);
            }
        }
    }

    /// The fast loops against the rules as they are written down, over spans longer than a chunk.
    #[test]
    fn entropy_rules_are_as_written(
        e in prop::collection::vec(prop_oneof![Just(1.0f32), Just(0.5), 0.0f32..2.0], 1..2 * CHUNK + 50),
        global in prop_oneof![Just(1.0f64), 0.0..2.0f64],
        relative in prop_oneof![Just(0.0f64), Just(0.5), -1.0..1.0f64],
    ) {
        for rule in [
            EntropyRule::Global { threshold: global },
            EntropyRule::Relative { threshold: relative },
            EntropyRule::Both { global, relative },
        ] {
            let above = |t: usize| e[t] > global as f32;
            let rises = |t: usize| e[t] - e[t - 1] > relative as f32;
            let holds = |t: usize| match rule {
                EntropyRule::Global { .. } => above(t),
                EntropyRule::Relative { .. } => rises(t),
                EntropyRule::Both { .. } => above(t) && rises(t),
                EntropyRule::Jump { .. } => unreachable!("not among the rules above"),
            };
            let expected: Vec<usize> = (0..e.len()).filter(|&p| p < 2 || holds(p - 1)).collect();
            let (starts, next) = entropy(&e, rule, None);
            prop_assert_eq!(starts, expected);
            prop_assert_eq!(next, e.len() == 1 || holds(e.len() - 1));
        }
    }

    #[test]
    fn lengths_and_starts_say_the_same(documents in documents(), max in 1usize..6) {
        let b = Batch::from_documents(documents.iter().map(|d| &d[..]));
        for (_, patcher) in incremental(Some(max)) {
            let p = patcher(&b);
            let lists: Vec<Vec<f32>> = (0..b.n_spans())
                .map(|s| {
                    let mut lengths: Vec<f32> = p.span_lengths(s).map(|l| l as f32).collect();
                    match p.next_starts[s] {
                        true => lengths.push(1.0),
                        false => *lengths.last_mut().unwrap() += 1.0,
                    }
                    lengths
                })
                .collect();
            prop_assert_eq!(&Patches::from_lengths(&b, &lists).unwrap(), &p);
        }
    }
}
