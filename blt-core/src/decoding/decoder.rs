//! The local decoder on new ids.

use super::layers::{BlockStream, CrossStream, HeadStream, Place};
use super::memory::{Memory, PatchEnds};
use super::stream::{Chunk, DecodingError, MAX_REWIND, New, Rewind, Rows, Stream, Streaming};
use crate::backend::fused::rows::Matrix;
use crate::backend::{Backend, BackendError};
use crate::model::LocalDecoder;
use std::rc::Rc;

struct DecoderStream {
    projection: Matrix,
    layers: Vec<BlockStream>,
    /// Of the first layers.
    cross: Vec<CrossStream>,
    head: HeadStream,
    dim: usize,
    k: usize,
}

struct State {
    layers: Vec<Memory>,
    /// For each cross-attention: the k rows of keys and values of the last latents, as one row a
    /// patch.
    latents: Vec<Memory>,
    ends: PatchEnds,
}

impl Rewind for State {
    fn rewind(&mut self, ids: usize) {
        self.ends.rewind(ids);
        let patches = self.ends.len();
        self.layers.iter_mut().for_each(|memory| memory.truncate(ids));
        self.latents.iter_mut().for_each(|memory| memory.truncate(patches));
    }
}

impl LocalDecoder {
    /// The decoder as decoding runs it, with the parameters as they are now. It reads byte states
    /// and patch states, and gives logits.
    ///
    /// # Errors
    /// A device that failed.
    pub fn streaming(&self, backend: &dyn Backend) -> Result<Streaming, BackendError> {
        let c = &self.config;
        let block = |params| BlockStream::read(backend, params, &c.block);
        let cross = |params| CrossStream::read(backend, params, &c.cross);
        Ok(Streaming::new(DecoderStream {
            projection: Matrix::read(backend, self.projection)?,
            layers: self.stack.layers.iter().map(block).collect::<Result<_, _>>()?,
            cross: self.cross.iter().map(cross).collect::<Result<_, _>>()?,
            head: HeadStream::read(backend, self.norm, self.head, c.block.eps)?,
            dim: c.block.dim,
            k: c.k,
        }))
    }
}

impl Stream for DecoderStream {
    type State = State;

    fn begin(&self) -> State {
        State {
            layers: self.layers.iter().map(BlockStream::memory).collect(),
            latents: self.cross.iter().map(|c| Memory::new(self.k * c.width())).collect(),
            ends: PatchEnds::default(),
        }
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut State],
        inputs: &New,
    ) -> Result<New, DecodingError> {
        let (ends, latents) = (inputs.ends()?, inputs.patches()?);
        // Each id reads the last patch that ended with it or before it: the decoder's shift.
        let mut reads = Vec::with_capacity(chunk.ids.len());
        let mut new_patches = vec![0];
        for (d, (before, rows)) in chunk.documents().enumerate() {
            let state = &mut states[d];
            let patches = state.ends.len();
            for (ids, row) in (before + 1..).zip(rows) {
                if ends[row] {
                    state.ends.push(ids);
                }
                let read = state.ends.len().checked_sub(1);
                reads.push((d, read.ok_or(DecodingError::Missing("a patch that ends with BOS"))?));
            }
            new_patches.push(new_patches[d] + state.ends.len() - patches);
        }
        let kv = self.projection.apply(&latents.data);
        for (c, cross) in self.cross.iter().enumerate() {
            let memory = cross.memory(&kv);
            for (state, of) in states.iter_mut().zip(new_patches.windows(2)) {
                let width = self.k * cross.width();
                state.latents[c].extend(&memory[of[0] * width..of[1] * width]);
            }
        }
        let mut x = inputs.bytes()?.data.clone();
        let places = Place::of_chunk(chunk);
        for (layer, block) in self.layers.iter().enumerate() {
            if let Some(cross) = self.cross.get(layer) {
                let held: Vec<&Memory> = states.iter().map(|s| &s.latents[layer]).collect();
                cross.attend(&mut x, |row| {
                    let (d, patch) = reads[row];
                    held[d].rows(patch, patch + 1)
                });
            }
            let mut memories: Vec<_> = states.iter_mut().map(|s| &mut s.layers[layer]).collect();
            block.extend(&mut x, &places, &mut memories);
        }
        for state in states {
            let last = state.ends.len().saturating_sub(1 + MAX_REWIND);
            state.latents.iter_mut().for_each(|memory| memory.forget(last));
        }
        let states = Rows { cols: self.dim, data: x };
        let logits = self.head.logits(&chunk.wanted(&states).data);
        Ok(New { logits: Some(Rc::new(logits)), ..New::default() })
    }
}
