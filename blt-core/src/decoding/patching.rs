//! Patchers on new ids.

use super::stream::{Chunk, DecodingError, New, Rewind, Stream, Streaming};
use crate::bytes::OFFSET;
use crate::patch::PatchError;
use crate::patch::stream::PatchStream;
use std::rc::Rc;

/// Makes a patcher's state at the start of a document, given the entropy of its first byte if the
/// patcher reads entropies.
type Begin = dyn Fn(Option<f32>) -> Result<Box<dyn PatchStream>, DecodingError>;

struct Patching {
    begin: Box<Begin>,
    reads_entropies: bool,
}

/// A document in a patcher.
#[derive(Default)]
struct State {
    stream: Option<Box<dyn PatchStream>>,
    /// Entropies of the document's ids (if they are read) and the ids: going back reads them
    /// again.
    read: Vec<(u16, Option<f32>)>,
}

impl State {
    fn push(
        &mut self,
        id: u16,
        entropy: Option<f32>,
        begin: &Begin,
    ) -> Result<bool, DecodingError> {
        self.read.push((id, entropy));
        match &mut self.stream {
            // BOS is a patch of its own.
            None => {
                self.stream = Some(begin(entropy)?);
                Ok(true)
            }
            Some(stream) => Ok(stream.push(id.saturating_sub(OFFSET) as u8, entropy)),
        }
    }
}

impl Rewind for State {
    fn rewind(&mut self, ids: usize) {
        if ids < self.read.len() {
            self.read.truncate(ids);
            // Read again with the next id.
            self.stream = None;
        }
    }
}

/// An incremental patcher as decoding runs it. It gives patches, and reads entropies if
/// `reads_entropies`. `begin` makes its state at the start of a document.
pub fn patcher_streaming(
    reads_entropies: bool,
    begin: impl Fn(Option<f32>) -> Result<Box<dyn PatchStream>, DecodingError> + 'static,
) -> Streaming {
    Streaming::new(Patching { begin: Box::new(begin), reads_entropies })
}

impl Stream for Patching {
    type State = State;

    fn begin(&self) -> State {
        State::default()
    }

    fn reads_in_draft(&self) -> bool {
        false
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut State],
        inputs: &New,
    ) -> Result<New, DecodingError> {
        let mut ends = vec![false; chunk.ids.len()];
        if chunk.draft {
            return Ok(New { ends: Some(Rc::new(ends)), ..New::default() });
        }
        let entropies = match self.reads_entropies {
            true => Some(inputs.entropies()?),
            false => None,
        };
        for (d, ((before, rows), state)) in chunk.documents().zip(states).enumerate() {
            if state.stream.is_none() {
                for (id, entropy) in std::mem::take(&mut state.read) {
                    state.push(id, entropy, &self.begin)?;
                }
            }
            for (position, row) in (before..).zip(rows) {
                let entropy = entropies.map(|entropies| entropies[row]);
                if let Some(value) = entropy.filter(|entropy| !entropy.is_finite()) {
                    let row = d as u64;
                    return Err(PatchError::EntropyNotFinite { row, position, value }.into());
                }
                ends[row] = state.push(chunk.ids[row], entropy, &self.begin)?;
            }
        }
        Ok(New { ends: Some(Rc::new(ends)), ..New::default() })
    }
}
