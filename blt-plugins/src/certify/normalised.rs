//! `normalised`: what the loss claims of all possible bytes at a place sums to one.

use super::covers::Prediction;
use super::draws::Draws;
use super::subject::Subject;
use super::verdict::Verdict;
use blt_graph::StepError;

const NAME: &str = "normalised";
/// Bytes before a place, at most.
const BEFORE: usize = 256;
/// Texts in one batch.
const AT_ONCE: usize = 64;
const NEAR: f64 = 1e-5;

/// Puts each of the 256 bytes at random places. `outside`: the mean probability of ids that are
/// neither a byte nor the end.
///
/// # Errors
/// If the graph does not run.
pub fn try_out(
    subject: &Subject,
    texts: &[Vec<u8>],
    places: usize,
    mut draws: Draws,
    outside: Option<f64>,
) -> Result<Verdict, StepError> {
    let tried = format!("every byte at {places} random places, by what the loss counts for it");
    let mut furthest = 0.0f64;
    for _ in 0..places {
        let text = &texts[draws.below(texts.len())];
        let place = draws.below(text.len().min(BEFORE));
        let mut sum = 0.0;
        for bytes in (0..=u8::MAX).collect::<Vec<u8>>().chunks(AT_ONCE) {
            let alternatives: Vec<Vec<u8>> =
                bytes.iter().map(|byte| [&text[..place], &[*byte]].concat()).collect();
            let refs: Vec<&[u8]> = alternatives.iter().map(Vec::as_slice).collect();
            for (said, byte) in subject.of_texts(&refs)?.iter().zip(bytes) {
                sum += (-f64::from(said.nats[place])).exp();
                // Of one of them: they are the same for all, or `causal` fails.
                if *byte == 0
                    && let Some(logits) = said.row(place)
                {
                    sum += Prediction::of(logits).not_bytes();
                }
            }
        }
        let over = sum - 1.0;
        // A loss without logits does not say what it gives to ids that are no byte.
        let off = if outside.is_some() { over.abs() } else { over.max(0.0) };
        if !sum.is_finite() || off > NEAR {
            let found = format!(
                "after {place} bytes of a text, the probabilities of all ids sum to {sum:.6}"
            );
            return Ok(Verdict::failed(NAME, tried, found));
        }
        furthest = furthest.max(off);
    }
    let outside = match outside {
        Some(share) => format!("{share:.1e} lies outside bytes and end"),
        None => "the loss shows no logits, so what lies outside bytes is not known".to_owned(),
    };
    Ok(Verdict::passed(NAME, tried, format!("sums are 1 within {furthest:.0e}; {outside}")))
}
