//! The latent transformer, which runs when a patch ends.

use super::layers::{BlockStream, Place};
use super::memory::{Memory, PatchEnds};
use super::stream::{Chunk, DecodingError, New, Rewind, Rows, Stream, Streaming};
use crate::backend::fused::rows::Matrix;
use crate::backend::{Backend, BackendError};
use crate::model::Latent;
use std::rc::Rc;

struct LatentStream {
    projection: Option<Matrix>,
    layers: Vec<BlockStream>,
    dim: usize,
}

struct State {
    layers: Vec<Memory>,
    ends: PatchEnds,
}

impl Rewind for State {
    fn rewind(&mut self, ids: usize) {
        self.ends.rewind(ids);
        let patches = self.ends.len();
        self.layers.iter_mut().for_each(|memory| memory.truncate(patches));
    }
}

impl Latent {
    /// The latent transformer as decoding runs it, with the parameters as they are now. It reads
    /// patch states and gives patch states.
    ///
    /// # Errors
    /// A device that failed.
    pub fn streaming(&self, backend: &dyn Backend) -> Result<Streaming, BackendError> {
        let block = |params| BlockStream::read(backend, params, &self.stack.config);
        Ok(Streaming::new(LatentStream {
            projection: self.projection.map(|id| Matrix::read(backend, id)).transpose()?,
            layers: self.stack.layers.iter().map(block).collect::<Result<_, _>>()?,
            dim: self.stack.config.dim,
        }))
    }
}

impl Stream for LatentStream {
    type State = State;

    fn begin(&self) -> State {
        let layers = self.layers.iter().map(BlockStream::memory).collect();
        State { layers, ends: PatchEnds::default() }
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut State],
        inputs: &New,
    ) -> Result<New, DecodingError> {
        let ends = inputs.ends()?;
        let mut places = Vec::new();
        let mut n = 0;
        for ((before, rows), state) in chunk.documents().zip(states.iter_mut()) {
            let patches = state.ends.len();
            for (ids, row) in (before + 1..).zip(rows) {
                if ends[row] {
                    state.ends.push(ids);
                }
            }
            let ended = state.ends.len() - patches;
            places.push(Place::after(patches, n..n + ended));
            n += ended;
        }
        let input = &inputs.patches()?.data;
        let mut x = match &self.projection {
            Some(projection) => projection.apply(input),
            None => input.clone(),
        };
        for (layer, block) in self.layers.iter().enumerate() {
            let mut memories: Vec<_> = states.iter_mut().map(|s| &mut s.layers[layer]).collect();
            block.extend(&mut x, &places, &mut memories);
        }
        let patches = Rows { cols: self.dim, data: x };
        Ok(New { patches: Some(Rc::new(patches)), ends: Some(ends.clone()), ..New::default() })
    }
}
