//! Texts to one stream of words, and back.

use super::predictor::Predictor;
use super::table::table;
use blt_core::bytes::{OFFSET, VOCAB};
use blt_graph::StepError;
use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

/// Codes texts, one after the other.
///
/// # Errors
/// If the model does not run, or a logit is not finite.
pub fn encode(model: &dyn Predictor, texts: &[&[u8]]) -> Result<Vec<u32>, StepError> {
    let mut coder = DefaultRangeEncoder::new();
    for text in texts {
        let logits = model.of_text(text)?;
        for (byte, row) in text.iter().zip(logits.chunks_exact(VOCAB)) {
            let table = table(row).ok_or_else(not_finite)?;
            let id = usize::from(u16::from(*byte) + OFFSET);
            coder.encode_symbol(id, &table).map_err(|e| StepError::other(format!("{e:?}")))?;
        }
    }
    coder.into_compressed().map_err(StepError::other)
}

/// The texts of a stream, which have the `lengths`. `None` if the stream is not one that the model
/// coded.
///
/// # Errors
/// If the model does not run, or a logit is not finite.
pub fn decode(
    model: &mut dyn Predictor,
    words: Vec<u32>,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<Option<Vec<Vec<u8>>>, StepError> {
    let mut coder = DefaultRangeDecoder::from_compressed(words).map_err(StepError::other)?;
    let mut texts = Vec::new();
    for length in lengths {
        let mut text = Vec::new();
        let mut logits = if length > 0 { model.begin()? } else { Vec::new() };
        while text.len() < length {
            let table = table(&logits).ok_or_else(not_finite)?;
            let Ok(id) = coder.decode_symbol(&table) else { return Ok(None) };
            let byte = id.checked_sub(usize::from(OFFSET)).and_then(|byte| u8::try_from(byte).ok());
            let Some(byte) = byte else { return Ok(None) };
            text.push(byte);
            if text.len() < length {
                logits = model.push(byte)?;
            }
        }
        texts.push(text);
    }
    Ok(Some(texts))
}

fn not_finite() -> StepError {
    StepError::other("a logit is not finite")
        .help("the checkpoint's parameters are damaged, or were trained to no end")
}
