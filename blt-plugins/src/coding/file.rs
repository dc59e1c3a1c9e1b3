//! A compressed file: a header that names the model and its arithmetic, and the stream.

use super::predictor::Incremental;
use super::stream::{decode, encode};
use crate::generation::Generator;
use blt_graph::StepError;
use blt_graph::run::cpu_features;
use serde::{Deserialize, Serialize};

/// How a file begins; the number is the format's.
const MAGIC: &[u8; 8] = b"bltcode1";
/// Bytes of a checksum.
const SUM: usize = 16;

/// What is written before the stream, as JSON.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    /// The digest of the model.
    model: String,
    /// What the bits of its probabilities depend on.
    arithmetic: String,
    /// Longer texts are cut into spans of so many bytes, which see no other.
    span_bytes: usize,
    /// Bytes of the text.
    bytes: usize,
    /// Digest of the text.
    text: String,
}

/// Version of the kernels, vector instructions, operating system (whose library has `exp`).
fn arithmetic() -> String {
    format!("{} f32 {} {}", blt_core::VERSION, cpu_features(), std::env::consts::OS)
}

fn checksum(bytes: &[u8]) -> [u8; SUM] {
    let mut sum = [0; SUM];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..SUM]);
    sum
}

fn digest(text: &[u8]) -> String {
    blake3::hash(text).to_hex()[..2 * SUM].to_owned()
}

/// Codes any bytes with the model: magic, length of the header (u32), header, words of the stream,
/// checksum of all before it.
///
/// # Errors
/// If the model does not run.
pub fn compress(model: &Generator, text: &[u8]) -> Result<Vec<u8>, StepError> {
    let (graph, decoder) = model.parts();
    let span_bytes = graph.source()?.handle.span_bytes;
    let header = Header {
        model: graph.digest()?,
        arithmetic: arithmetic(),
        span_bytes,
        bytes: text.len(),
        text: digest(text),
    };
    let header = serde_json::to_vec(&header)?;
    let spans: Vec<&[u8]> = text.chunks(span_bytes).collect();
    let words = encode(&Incremental::new(decoder), &spans)?;
    let mut file = MAGIC.to_vec();
    file.extend((header.len() as u32).to_le_bytes());
    file.extend(header);
    file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(checksum(&file));
    Ok(file)
}

/// The bytes that [`compress`] was given.
///
/// # Errors
/// Before any byte is decoded: a file that is damaged, or of another model or arithmetic. At the
/// end, if the text is not the one that was coded.
pub fn decompress(model: &Generator, file: &[u8]) -> Result<Vec<u8>, StepError> {
    let damaged = || {
        StepError::other("the file is damaged, or not one that `blt-run compress` wrote")
            .help("its checksum does not fit; copy it again, or compress the text again")
    };
    let (rest, sum) = file.split_last_chunk::<SUM>().ok_or_else(damaged)?;
    if checksum(rest) != *sum {
        return Err(damaged());
    }
    let rest = rest.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (header, words) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let header: Header = serde_json::from_slice(header).map_err(|_| damaged())?;
    let (graph, decoder) = model.parts();
    let own = [("model", graph.digest()?), ("arithmetic", arithmetic())];
    for ((what, own), theirs) in own.into_iter().zip([&header.model, &header.arithmetic]) {
        if own != *theirs {
            let message = format!("the file was made with the {what} {theirs}, and this is {own}");
            return Err(StepError::other(message)
                .help("probabilities must be the same to the bit; decompress with the model, the program and a processor as it was compressed with"));
        }
    }
    let spans = (0..header.bytes).step_by(header.span_bytes.max(1));
    let lengths = spans.map(|start| (header.bytes - start).min(header.span_bytes));
    let words = words.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let text = decode(&mut Incremental::new(decoder), words, lengths)?;
    let text = text.map(|spans| spans.concat()).filter(|text| digest(text) == header.text);
    text.ok_or_else(|| StepError::other("the decoded text is not the one that was compressed"))
}
