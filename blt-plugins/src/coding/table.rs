//! A prediction as a table of integers, which coder and decoder make alike.

use blt_core::bytes::VOCAB;
use constriction::stream::model::DefaultContiguousCategoricalEntropyModel;

/// All counts of a table sum to this; the coder's precision.
const SUM: u32 = 1 << 24;

/// How often each id is said to come of [`SUM`] times, `[260]`: `1 + floor(p * (SUM - 260))` of its
/// probability p, so that every id can be coded; what is left goes to the most likely id. `None` if
/// a logit is not finite.
fn counts(logits: &[f32]) -> Option<Vec<u32>> {
    let (mut best, mut most) = (0, f64::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        if f64::from(logit) > most {
            (best, most) = (id, f64::from(logit));
        }
    }
    let weights: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - most).exp()).collect();
    let scale = f64::from(SUM - VOCAB as u32) / weights.iter().sum::<f64>();
    let mut counts: Vec<u32> = weights.iter().map(|w| 1 + (w * scale) as u32).collect();
    let others: u32 = counts.iter().sum::<u32>() - counts[best];
    counts[best] = SUM.checked_sub(others)?;
    Some(counts)
}

/// The table of the id that follows; `None` if a logit is not finite.
pub fn table(logits: &[f32]) -> Option<DefaultContiguousCategoricalEntropyModel> {
    let counts = counts(logits)?;
    DefaultContiguousCategoricalEntropyModel::from_nonzero_fixed_point_probabilities(counts, false)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_a_count_and_all_sum_to_the_precision() {
        let peaked: Vec<f32> = (0..VOCAB).map(|id| if id == 77 { 60.0 } else { -60.0 }).collect();
        let flat = vec![0.5; VOCAB];
        let wavy: Vec<f32> = (0..VOCAB).map(|id| (id as f32).sin() * 9.0).collect();
        for logits in [peaked, flat, wavy] {
            let counts = counts(&logits).unwrap();
            assert!(counts.iter().all(|&count| count > 0));
            assert_eq!(counts.iter().sum::<u32>(), SUM);
            assert!(table(&logits).is_some());
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            for (&count, &logit) in counts.iter().zip(&logits) {
                let p = f64::from(logit).exp() / sum;
                let off = f64::from(count) / f64::from(SUM) - p;
                assert!(off.abs() < 1e-4 * p + 600.0 / f64::from(SUM), "{p} {off}");
            }
        }
        assert!(table(&[f32::NAN; VOCAB]).is_none());
    }
}
