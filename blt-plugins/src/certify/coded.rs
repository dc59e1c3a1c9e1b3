//! `coded`: held-out text, compressed to the size that the claim says, and decompressed.

use super::subject::{Said, Subject};
use super::verdict::Verdict;
use crate::coding::predictor::{Incremental, Predictor};
use crate::coding::stream::{decode, encode};
use blt_graph::StepError;
use std::f64::consts::LN_2;

const NAME: &str = "coded";
/// Bytes of a text that is run again for each byte.
const PREFIX_BYTES: usize = 96;

/// The whole graph as a predictor: for each byte, it runs on all before it.
struct Prefixes<'a> {
    subject: &'a Subject,
    text: Vec<u8>,
}

impl Prefixes<'_> {
    fn last(&self) -> Result<Vec<f32>, StepError> {
        let said = self.subject.of_text(&self.text)?;
        let row = said.row(self.text.len()).map(<[f32]>::to_vec);
        row.ok_or_else(|| StepError::other("a text has a row of logits for each byte"))
    }
}

impl Predictor for Prefixes<'_> {
    fn of_text(&self, text: &[u8]) -> Result<Vec<f32>, StepError> {
        Ok(self.subject.of_text(text)?.logits)
    }

    fn begin(&mut self) -> Result<Vec<f32>, StepError> {
        self.text.clear();
        self.last()
    }

    fn push(&mut self, byte: u8) -> Result<Vec<f32>, StepError> {
        self.text.push(byte);
        self.last()
    }
}

/// Compresses and decompresses the texts as one stream: id by id if the graph runs so, else by
/// running it on every prefix of their beginnings.
///
/// # Errors
/// If the graph does not run.
pub fn try_out(subject: &Subject, texts: &[Vec<u8>]) -> Result<Verdict, StepError> {
    let Some(logits) = subject.logits() else {
        let found = "the loss shows no logits, so there is nothing to code with";
        return Ok(Verdict::failed(NAME, "nothing", found));
    };
    match subject.graph.decoder(logits) {
        Ok(decoder) => {
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            through(subject, &mut Incremental::new(&decoder), &texts, "id by id")
        }
        Err(_) => {
            let texts: Vec<&[u8]> =
                texts.iter().map(|text| &text[..text.len().min(PREFIX_BYTES)]).collect();
            let mut model = Prefixes { subject, text: Vec::new() };
            through(subject, &mut model, &texts, "by running every prefix again")
        }
    }
}

fn through(
    subject: &Subject,
    model: &mut dyn Predictor,
    texts: &[&[u8]],
    how: &str,
) -> Result<Verdict, StepError> {
    let said = texts.iter().map(|text| subject.of_text(text)).collect::<Result<Vec<_>, _>>()?;
    let nats = |said: &Said| said.nats.iter().map(|&nats| f64::from(nats)).sum::<f64>();
    let claimed = said.iter().map(nats).sum::<f64>() / LN_2 / 8.0;
    let words = encode(model, texts)?;
    let bytes = 4 * words.len();
    let of: usize = texts.iter().map(|text| text.len()).sum();
    let tried = format!("{of} bytes of {} held-out texts in one stream, {how}", texts.len());
    let decoded = decode(model, words, texts.iter().map(|text| text.len()))?;
    if decoded.is_none_or(|decoded| decoded != texts) {
        let found = "decompression gives other bytes: what is predicted is not the same without the bytes that follow";
        return Ok(Verdict::failed(NAME, tried, found));
    }
    let far = (bytes as f64 - claimed).abs() > 1e-3 * claimed + 16.0;
    let found = format!("{bytes} bytes, and {claimed:.1} are claimed; the same text comes back");
    Ok(Verdict::of(NAME, tried, far.then(|| found.clone()), found))
}
