//! What predicts the ids of a text one after the other.

use blt_core::bytes::{BOS, OFFSET, VOCAB};
use blt_core::decoding::{Decoder, Decoding};
use blt_graph::StepError;

/// Ids that the decoder takes at once where all of them are known.
const AT_ONCE: usize = 256;

/// Gives the logits of the next id, `[260]`.
pub trait Predictor {
    /// The logits that predict each byte of a known text, `[bytes, 260]`: to the bit those that
    /// [`begin`](Self::begin) and [`push`](Self::push) give.
    ///
    /// # Errors
    /// If the model does not run.
    fn of_text(&self, text: &[u8]) -> Result<Vec<f32>, StepError>;

    /// Begins a text.
    ///
    /// # Errors
    /// If the model does not run.
    fn begin(&mut self) -> Result<Vec<f32>, StepError>;

    /// Goes on with a byte.
    ///
    /// # Errors
    /// If the model does not run.
    fn push(&mut self, byte: u8) -> Result<Vec<f32>, StepError>;
}

/// A model that runs id by id.
pub struct Incremental<'a> {
    decoder: &'a Decoder,
    document: Decoding,
}

impl<'a> Incremental<'a> {
    pub fn new(decoder: &'a Decoder) -> Self {
        Incremental { decoder, document: decoder.empty() }
    }
}

impl Predictor for Incremental<'_> {
    fn of_text(&self, text: &[u8]) -> Result<Vec<f32>, StepError> {
        let bytes = text.iter().map(|&byte| u16::from(byte) + OFFSET);
        let ids: Vec<u16> = std::iter::once(BOS).chain(bytes).collect();
        let (mut document, mut logits) = (self.decoder.empty(), Vec::new());
        // The last byte predicts nothing that is coded.
        for piece in ids[..text.len()].chunks(AT_ONCE) {
            let rows = self.decoder.extend(&mut [&mut document], &[piece]);
            logits.extend(rows.map_err(StepError::other)?.data);
        }
        debug_assert_eq!(logits.len(), text.len() * VOCAB);
        Ok(logits)
    }

    fn begin(&mut self) -> Result<Vec<f32>, StepError> {
        let (document, logits) = self.decoder.begin().map_err(StepError::other)?;
        self.document = document;
        Ok(logits)
    }

    fn push(&mut self, byte: u8) -> Result<Vec<f32>, StepError> {
        let logits = self.decoder.push(&mut self.document, u16::from(byte) + OFFSET);
        logits.map_err(StepError::other)
    }
}
