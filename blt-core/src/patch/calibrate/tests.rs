//! Thresholds that are found, those that cannot be, and the counts behind them.

use super::*;
use crate::bytes::Span;
use crate::patch::PatchStats;
use crate::patch::entropy_patches;
use proptest::prelude::*;

/// Documents of `lengths` bytes; entropies fill the batch in order.
fn set(lengths: &[usize], entropies: &[f32]) -> (Batch, Calibration) {
    let texts: Vec<Vec<u8>> = lengths.iter().map(|&n| vec![b'x'; n]).collect();
    let batch = Batch::from_documents(texts.iter().map(|t| &t[..]));
    let mut calibration = Calibration::new();
    calibration.push(&batch, entropies).unwrap();
    (batch, calibration)
}

#[test]
fn the_threshold_lies_midway() {
    //                             BOS  1    2    3    4    5    6
    let (_, c) = set(&[6], &[9.0, 1.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
    // Positions 2..=6 are decided by 1, 3, 1, 5, 2; the last entropy decides nothing here.
    let found = c.find(Unknown::Global, 3.0, None).unwrap();
    assert_eq!((found.threshold, found.bytes_per_patch, found.patches), (4.0, 3.0, 2));
    assert_eq!((found.documents, found.bytes), (1, 6));
    assert_eq!(found.rule, EntropyRule::Global { threshold: 4.0 });
    assert_eq!(c.find(Unknown::Global, 2.0, None).unwrap().threshold, 2.5);
    assert_eq!(c.find(Unknown::Global, 1.5, None).unwrap().threshold, 1.5);
    // The ends: every byte a patch, and one patch.
    assert_eq!(c.find(Unknown::Global, 1.0, None).unwrap().threshold, 0.0);
    assert_eq!(c.find(Unknown::Global, 6.0, None).unwrap().threshold, 6.0);
    // Differences from position 1: -8, 2, -2, 4, -3.
    let found = c.find(Unknown::Relative, 3.0, None).unwrap();
    assert_eq!((found.threshold, found.rule), (3.0, EntropyRule::Relative { threshold: 3.0 }));
}

#[test]
fn its_standard_error_is_over_documents() {
    let (_, c) =
        set(&[6, 6], &[9.0, 1.0, 1.0, 5.0, 1.0, 1.0, 9.0, 9.0, 5.0, 5.0, 5.0, 1.0, 1.0, 9.0]);
    let found = c.find(Unknown::Global, 2.0, None).unwrap();
    // 2 and 4 patches of 6 bytes each: residuals 6 - 2 * 2 and 6 - 2 * 4, so sqrt(2 / 1 * 8) /
    // 6.
    assert_eq!((found.threshold, found.patches, found.standard_error), (3.0, 6, Some(4.0 / 6.0)));
    let (_, one) = set(&[6], &[9.0, 1.0, 1.0, 5.0, 1.0, 1.0, 9.0]);
    assert_eq!(one.find(Unknown::Global, 3.0, None).unwrap().standard_error, None);
}

#[test]
fn with_both_rules_one_threshold_is_given() {
    let (_, c) = set(&[6], &[0.0, 1.0, 3.0, 4.0, 2.0, 5.0, 9.0]);
    // (entropy, difference) for positions 2..=6: (1,1) (3,2) (4,1) (2,-2) (5,3).
    let found = c.find(Unknown::GlobalOfBoth { relative: 1.5 }, 3.0, None).unwrap();
    assert_eq!(
        (found.threshold, found.rule),
        (4.0, EntropyRule::Both { global: 4.0, relative: 1.5 })
    );
    let found = c.find(Unknown::RelativeOfBoth { global: 2.5 }, 2.0, None).unwrap();
    assert_eq!(
        (found.threshold, found.rule),
        (1.5, EntropyRule::Both { global: 2.5, relative: 1.5 })
    );
    // The given one alone already forbids most starts: patches can't be smaller than 2.
    let error = c.find(Unknown::GlobalOfBoth { relative: 1.5 }, 1.5, None).unwrap_err();
    let CalibrationError::Unreachable { below: None, above: Some(above), .. } = error else {
        panic!("{error}")
    };
    assert_eq!(above, Reach { threshold: 2.0, bytes_per_patch: 2.0 });
}

#[test]
fn what_cannot_be_reached_is_said() {
    // All entropies tie: one patch, or one a byte.
    let (_, ties) = set(&[8], &[2.0; 9]);
    let error = ties.find(Unknown::Global, 4.0, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no threshold gives 4 bytes per patch within 2 %: the nearest that can be reached are 1.0000 (threshold 1) and \
         8.0000 (threshold 3) (no max_patch_length, 1 documents of 8.0 bytes in the mean)"
    );
    // A maximum below the wanted size.
    let (_, c) = set(&[6], &[9.0, 1.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
    let error = c.find(Unknown::Global, 4.0, Some(3)).unwrap_err();
    assert!(error.to_string().contains("is the largest, 3.0000"), "{error}");
    assert!(error.to_string().contains("max_patch_length 3"), "{error}");
    // Documents of one byte.
    let (_, c) = set(&[1, 1, 0], &[1.0, 2.0, 1.0, 2.0, 1.0]);
    let error = c.find(Unknown::Global, 2.0, None).unwrap_err();
    assert!(error.to_string().contains("is the largest, 1.0000"), "{error}");
    assert!(error.to_string().contains("3 documents of 0.7 bytes"), "{error}");
    let found = c.find(Unknown::Relative, 1.0, None).unwrap();
    assert_eq!((found.patches, found.bytes), (2, 2));
    // Nothing at all.
    let (_, c) = set(&[0, 0], &[1.0, 1.0]);
    assert_eq!(c.find(Unknown::Global, 2.0, None), Err(CalibrationError::NoBytes { documents: 2 }));
    for wanted in [0.5, f64::NAN, f64::INFINITY] {
        assert!(matches!(c.find(Unknown::Global, wanted, None), Err(CalibrationError::Wanted(_))));
    }
    let given = Unknown::GlobalOfBoth { relative: f64::NAN };
    assert!(matches!(
        ties.find(given, 2.0, None),
        Err(CalibrationError::Patch(PatchError::ThresholdNotFinite { .. }))
    ));
    assert_eq!(
        ties.find(Unknown::Global, 2.0, Some(0)),
        Err(PatchError::ZeroMaxPatchLength.into())
    );
}

#[test]
fn the_maximum_counts() {
    // Without a start, 12 bytes in patches of 4 are 4 in the mean: the maximum alone reaches
    // it.
    let (_, c) = set(&[12], &[1.0; 13]);
    let found = c.find(Unknown::Global, 4.0, Some(4)).unwrap();
    assert_eq!((found.bytes_per_patch, found.patches, found.threshold), (4.0, 3, 2.0));
}

#[test]
fn a_cap_takes_whole_spans_until_it_is_reached() {
    let batch = Batch::from_documents([&b"aaa"[..], b"bbb", b"ccc"]);
    let entropies: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let mut c = Calibration::with_cap(4);
    assert!(!c.is_full());
    c.push(&batch, &entropies).unwrap();
    assert!(c.is_full());
    c.push(&batch, &entropies).unwrap();
    assert_eq!((c.bytes, c.documents, c.entropies.len()), (6, 2, 8));
    let mut c = Calibration::new();
    let error = c.push(&batch, &[f32::NAN; 12]).unwrap_err();
    assert!(matches!(error, PatchError::EntropyNotFinite { row: 0, position: 0, .. }));
    assert!(matches!(
        c.push(&batch, &[]),
        Err(PatchError::EntropyCount { expected: 12, found: 0 })
    ));
}

#[test]
fn midpoints_separate_even_neighbouring_floats() {
    let neighbours = [1.0f32, 1.0f32.next_up(), 1.0f32.next_up().next_up()];
    for c in 0..=3 {
        let t = threshold(&neighbours, c);
        assert_eq!(neighbours.iter().filter(|&&v| v > t).count(), 3 - c);
    }
    assert_eq!(threshold(&[f32::MIN, f32::MAX], 1), 0.0);
    // One less than 2^30 is 2^30 in f32.
    let large = (1u32 << 30) as f32;
    assert!(threshold(&[large], 0) < large);
}

#[test]
fn thresholds_keep_their_f32_as_decimals() {
    for x in [0.1f32, 1.3354421, f32::MIN_POSITIVE, f32::MAX, -2.75, 1e-40, 16777217.0] {
        assert_eq!(shortest_decimal(x) as f32, x);
    }
    assert_eq!(shortest_decimal(0.1), 0.1);
}

fn unknowns() -> [Unknown; 4] {
    let (relative, global) = (-0.4, 0.3);
    [
        Unknown::Global,
        Unknown::Relative,
        Unknown::GlobalOfBoth { relative },
        Unknown::RelativeOfBoth { global },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// On random entropies with few ties the wanted size is reached, what is reported is what the patcher does, and the
    /// threshold survives JSON.
    #[test]
    fn random_entropies_reach_the_wanted_size(
        entropies in prop::collection::vec(0.0f32..4.0, 3000),
        wanted in 2.5f64..12.0,
        max in prop::option::of(20usize..60),
    ) {
        let (batch, c) = set(&[998, 0, 1, 998, 997], &entropies[..2999]);
        for unknown in unknowns().into_iter().chain([Unknown::Jump { mean_bytes: 5 }]) {
            let found = c.find(unknown, wanted, max).unwrap();
            prop_assert!((found.bytes_per_patch / wanted - 1.0).abs() <= TOLERANCE);
            let read: Calibrated = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
            prop_assert_eq!((read.rule, read.threshold), (found.rule, found.threshold));
            let patches = entropy_patches(&batch, &entropies[..2999], read.rule, max).unwrap();
            let stats = PatchStats::of(&batch, &patches);
            prop_assert_eq!(stats.mean(), Some(found.bytes_per_patch));
            prop_assert_eq!((stats.patches, stats.bytes), (found.patches, found.bytes));
        }
    }

    /// Nothing that was passed over is nearer: compared with every threshold there is, ties and maximum included.
    #[test]
    fn no_threshold_is_nearer(
        entropies in prop::collection::vec((0u8..6).prop_map(f32::from), 30),
        wanted in 1.0f64..8.0,
        max in prop::option::of(1usize..6),
    ) {
        let (batch, c) = set(&[12, 0, 9, 5], &entropies);
        for unknown in unknowns() {
            let mean = |t: f64| {
                let p = entropy_patches(&batch, &entropies, unknown.rule(t), max).unwrap();
                PatchStats::of(&batch, &p).mean().unwrap()
            };
            let error = |m: f64| (m / wanted - 1.0).abs();
            let best = (-14..14).map(|t| error(mean(t as f64 / 2.0 + 0.25))).fold(f64::INFINITY, f64::min);
            match c.find(unknown, wanted, max) {
                Ok(found) => {
                    prop_assert_eq!(mean(found.threshold), found.bytes_per_patch);
                    prop_assert_eq!(error(found.bytes_per_patch), best);
                }
                Err(CalibrationError::Unreachable { below, above, .. }) => {
                    prop_assert!(best > TOLERANCE);
                    let reached: Vec<Reach> = below.into_iter().chain(above).collect();
                    prop_assert!(reached.iter().all(|r| mean(r.threshold) == r.bytes_per_patch));
                    prop_assert!(below.is_none_or(|r| r.bytes_per_patch < wanted));
                    prop_assert!(above.is_none_or(|r| r.bytes_per_patch >= wanted));
                    prop_assert!(reached.iter().any(|r| error(r.bytes_per_patch) == best));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    /// The count without building agrees with the patches built, context included.
    #[test]
    fn counting_is_what_patches_count(
        pieces in prop::collection::vec((prop::collection::vec((0u8..6).prop_map(f32::from), 1..30), 0usize..30), 1..4),
        max_patch_length in prop::option::of(1usize..6),
        min_patch_length in prop::option::of(1usize..4),
        characters: bool,
        t in 0u8..6,
    ) {
        let min_patch_length = min_patch_length.filter(|&min| max_patch_length.is_none_or(|max| min <= max));
        let limits = Limits { max_patch_length, min_patch_length, characters };
        let mut batch = Batch::new();
        let mut entropies = Vec::new();
        for (e, context) in &pieces {
            let n = e.len() - 1;
            let text: Vec<u8> = "xé한".bytes().cycle().take(n).collect();
            batch.push(Span { row: 0, range: 0..n, context: *context.min(&n), last: true }, &text);
            entropies.extend(e);
        }
        let mut c = Calibration::new();
        c.push(&batch, &entropies).unwrap();
        for unknown in unknowns() {
            let p = entropy_patches(&batch, &entropies, unknown.rule(t as f64), limits).unwrap();
            prop_assert_eq!(c.count(unknown, t as f32, limits), PatchStats::of(&batch, &p).patches);
        }
    }
}
