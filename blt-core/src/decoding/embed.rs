//! Byte embeddings of new ids, with their n-grams.

use super::stream::{Chunk, DecodingError, New, Rewind, Rows, Stream, Streaming};
use crate::backend::fused::rows::Embedding;
use crate::backend::{Backend, BackendError};
use crate::model::ByteEmbed;
use std::rc::Rc;

struct EmbedStream(Embedding);

/// A document's ids.
#[derive(Default)]
struct Ids(Vec<u16>);

impl Rewind for Ids {
    fn rewind(&mut self, ids: usize) {
        self.0.truncate(ids);
    }
}

impl ByteEmbed {
    /// The embeddings as decoding runs them, with the parameters as they are now.
    ///
    /// # Errors
    /// A device that failed.
    pub fn streaming(&self, backend: &dyn Backend) -> Result<Streaming, BackendError> {
        let hash = self.hash.as_ref().map(|(id, config)| (*id, config));
        Ok(Streaming::new(EmbedStream(Embedding::read(backend, self.tokens, hash)?)))
    }
}

impl Stream for EmbedStream {
    type State = Ids;

    fn begin(&self) -> Ids {
        Ids::default()
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut Ids],
        _: &New,
    ) -> Result<New, DecodingError> {
        let mut data = Vec::with_capacity(chunk.ids.len() * self.0.dim());
        for ((before, range), Ids(ids)) in chunk.documents().zip(states) {
            ids.extend_from_slice(&chunk.ids[range]);
            let tail = before.saturating_sub(self.0.look_back());
            data.extend(self.0.states(&ids[tail..], before - tail..ids.len() - tail));
        }
        let bytes = Rows { cols: self.0.dim(), data };
        Ok(New { bytes: Some(Rc::new(bytes)), ..New::default() })
    }
}
