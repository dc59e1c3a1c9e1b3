//! Entropy models on new ids: a byte transformer, and counts.

use super::layers::{BlockStream, HeadStream, Place};
use super::memory::Memory;
use super::stream::{Chunk, DecodingError, New, Rewind, Rows, Stream, Streaming};
use crate::backend::fused::rows::{Embedding, entropies};
use crate::backend::{Backend, BackendError};
use crate::bytes::{BOS, OFFSET, VOCAB};
use crate::counts::{Counts, CountsStream, NO_BYTE};
use crate::model::ByteLm;
use std::rc::Rc;

const NEWLINE: u16 = b'\n' as u16 + OFFSET;

struct LmStream {
    embed: Embedding,
    layers: Vec<BlockStream>,
    head: HeadStream,
    reset_at_newline: bool,
}

/// A document in a byte model.
struct LmState {
    layers: Vec<Memory>,
    /// Ids at which a context begins: 0, and those of newlines where they reset it.
    contexts: Vec<usize>,
}

impl Rewind for LmState {
    fn rewind(&mut self, ids: usize) {
        self.layers.iter_mut().for_each(|memory| memory.truncate(ids));
        self.contexts.truncate(self.contexts.partition_point(|&start| start < ids));
    }
}

impl ByteLm {
    /// The model as decoding runs it, with the parameters as they are now. It gives entropies and
    /// logits. `reset_at_newline`: as [`newline_reset`](crate::patch::newline_reset) does.
    ///
    /// # Errors
    /// A device that failed.
    pub fn streaming(
        &self,
        backend: &dyn Backend,
        reset_at_newline: bool,
    ) -> Result<Streaming, BackendError> {
        let config = &self.stack.config;
        let block = |params| BlockStream::read(backend, params, config);
        Ok(Streaming::new(LmStream {
            embed: Embedding::read(backend, self.tokens, None)?,
            layers: self.stack.layers.iter().map(block).collect::<Result<_, _>>()?,
            head: HeadStream::read(backend, self.norm, self.head, config.eps)?,
            reset_at_newline,
        }))
    }
}

impl Stream for LmStream {
    type State = LmState;

    fn begin(&self) -> LmState {
        LmState {
            layers: self.layers.iter().map(BlockStream::memory).collect(),
            contexts: Vec::new(),
        }
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut LmState],
        _: &New,
    ) -> Result<New, DecodingError> {
        let mut ids = chunk.ids.clone();
        let mut places = Vec::new();
        for ((before, rows), state) in chunk.documents().zip(states.iter_mut()) {
            let mut contexts = Vec::with_capacity(rows.len());
            for (at, row) in (before..).zip(rows.clone()) {
                let resets = self.reset_at_newline && ids[row] == NEWLINE;
                if at == 0 || resets {
                    state.contexts.push(at);
                }
                if resets {
                    ids[row] = BOS;
                }
                contexts.push((state.contexts.last().copied().unwrap_or_default(), at));
            }
            places.push(Place { rows, contexts });
        }
        let mut x = self.embed.states(&ids, 0..ids.len());
        for (layer, block) in self.layers.iter().enumerate() {
            let mut memories: Vec<_> = states.iter_mut().map(|s| &mut s.layers[layer]).collect();
            block.extend(&mut x, &places, &mut memories);
        }
        let states = Rows { cols: self.embed.dim(), data: x };
        let logits = self.head.logits(&states.data);
        Ok(New {
            entropies: Some(Rc::new(entropies(&logits.data, VOCAB))),
            logits: Some(Rc::new(chunk.wanted(&logits))),
            ..New::default()
        })
    }
}

/// Counts as decoding runs them. They give entropies and logits.
pub fn counts_streaming(counts: Rc<Counts>) -> Streaming {
    Streaming::new(CountsOf(counts))
}

struct CountsOf(Rc<Counts>);

struct CountsState {
    stream: CountsStream<Rc<Counts>>,
    /// The bytes so far: going back reads them again.
    bytes: Vec<u8>,
}

impl Rewind for CountsState {
    fn rewind(&mut self, ids: usize) {
        let bytes = ids.saturating_sub(1);
        if bytes < self.bytes.len() {
            self.bytes.truncate(bytes);
            self.stream = self.stream.again();
            self.bytes.iter().for_each(|&byte| self.stream.push(byte));
        }
    }
}

impl Stream for CountsOf {
    type State = CountsState;

    fn begin(&self) -> CountsState {
        CountsState { stream: CountsStream::new(self.0.clone()), bytes: Vec::new() }
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut CountsState],
        _: &New,
    ) -> Result<New, DecodingError> {
        let mut entropies = Vec::with_capacity(chunk.ids.len());
        let mut logits = Vec::new();
        for ((before, rows), state) in chunk.documents().zip(states) {
            let last = rows.end - 1;
            for (at, row) in (before..).zip(rows) {
                if at > 0 {
                    let byte = chunk.ids[row].saturating_sub(OFFSET) as u8;
                    state.stream.push(byte);
                    state.bytes.push(byte);
                }
                entropies.push(state.stream.entropy());
                if chunk.all_logits || row == last {
                    let start = logits.len();
                    logits.resize(start + VOCAB, NO_BYTE);
                    state.stream.log_probabilities(&mut logits[start + OFFSET as usize..]);
                }
            }
        }
        let logits = Rows { cols: VOCAB, data: logits };
        Ok(New {
            entropies: Some(Rc::new(entropies)),
            logits: Some(Rc::new(logits)),
            ..New::default()
        })
    }
}
