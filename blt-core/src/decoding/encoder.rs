//! The local encoder on new ids: its layers at each id, pooling and cross-attention when a patch
//! ends.

use super::layers::{BlockStream, CrossStream, Place};
use super::memory::{Memory, PatchEnds};
use super::stream::{Chunk, DecodingError, MAX_REWIND, New, Rewind, Rows, Stream, Streaming};
use crate::backend::fused::rows::{Matrix, pool};
use crate::backend::{Backend, BackendError, Pooling};
use crate::model::{CrossLayers, LocalEncoder};
use std::rc::Rc;

struct EncoderStream {
    layers: Vec<BlockStream>,
    /// The layers after which patches attend to their bytes, ascending.
    cross: Vec<(usize, CrossStream)>,
    projection: Matrix,
    pooling: Pooling,
    dim: usize,
    k: usize,
}

struct State {
    /// Keys and values of each layer.
    layers: Vec<Memory>,
    /// Byte states that patches attend to, after each layer of `cross`, from the patch that has not
    /// ended on.
    open: Vec<Memory>,
    ends: PatchEnds,
}

impl Rewind for State {
    fn rewind(&mut self, ids: usize) {
        self.layers.iter_mut().chain(&mut self.open).for_each(|memory| memory.truncate(ids));
        self.ends.rewind(ids);
    }
}

impl LocalEncoder {
    /// The encoder as decoding runs it, with the parameters as they are now. It reads byte states
    /// and patches, and gives byte states and patch states.
    ///
    /// # Errors
    /// A device that failed.
    pub fn streaming(&self, backend: &dyn Backend) -> Result<Streaming, BackendError> {
        let c = &self.config;
        let last = c.layers - 1;
        let of_layers = match c.cross_layers {
            CrossLayers::All => (0..c.layers).collect(),
            CrossLayers::Last | CrossLayers::AllRepool => vec![last],
        };
        let cross = of_layers.into_iter().map(|layer: usize| {
            let params = &self.cross[if self.cross.len() == 1 { 0 } else { layer }];
            Ok((layer, CrossStream::read(backend, params, &c.cross)?))
        });
        let layers = self.stack.layers.iter();
        Ok(Streaming::new(EncoderStream {
            layers: layers
                .map(|params| BlockStream::read(backend, params, &c.block))
                .collect::<Result<_, _>>()?,
            cross: cross.collect::<Result<_, BackendError>>()?,
            projection: Matrix::read(backend, self.projection)?,
            pooling: c.pooling,
            dim: c.block.dim,
            k: c.k,
        }))
    }
}

impl Stream for EncoderStream {
    type State = State;

    fn begin(&self) -> State {
        State {
            layers: self.layers.iter().map(BlockStream::memory).collect(),
            open: self.cross.iter().map(|_| Memory::new(self.dim)).collect(),
            ends: PatchEnds::default(),
        }
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut State],
        inputs: &New,
    ) -> Result<New, DecodingError> {
        let ends = inputs.ends()?;
        // Of each patch that ends: its document, and its ids.
        let mut patches = Vec::new();
        for (d, (before, rows)) in chunk.documents().enumerate() {
            let ids = before + 1..;
            for (ids, row) in ids.zip(rows) {
                if ends[row] {
                    patches.push((d, states[d].ends.start(ids - 1), ids));
                    states[d].ends.push(ids);
                }
            }
        }
        let mut h = inputs.bytes()?.data.clone();
        let places = Place::of_chunk(chunk);
        let mut cross = self.cross.iter().enumerate().peekable();
        let mut queries: Option<Vec<f32>> = None;
        for (layer, block) in self.layers.iter().enumerate() {
            let mut memories: Vec<_> = states.iter_mut().map(|s| &mut s.layers[layer]).collect();
            block.extend(&mut h, &places, &mut memories);
            let Some((c, (_, cross))) = cross.next_if(|(_, (of, _))| *of == layer) else {
                continue;
            };
            for (place, state) in places.iter().zip(states.iter_mut()) {
                let rows = place.rows.start * self.dim..place.rows.end * self.dim;
                state.open[c].extend(&h[rows]);
            }
            let bytes = |&(d, from, to): &(usize, usize, usize)| states[d].open[c].rows(from, to);
            let mut q = queries.take().unwrap_or_else(|| {
                let pooled = patches.iter().flat_map(|p| pool(bytes(p), self.dim, self.pooling));
                self.projection.apply(&pooled.collect::<Vec<f32>>())
            });
            let states_of_bytes = patches.iter().flat_map(|p| bytes(p).iter().copied());
            let memory = cross.memory(&states_of_bytes.collect::<Vec<f32>>());
            let mut offsets = vec![0];
            for (_, from, to) in &patches {
                offsets.push(offsets[offsets.len() - 1] + (to - from) * cross.width());
            }
            cross.attend(&mut q, |row| &memory[offsets[row / self.k]..offsets[row / self.k + 1]]);
            queries = Some(q);
        }
        for state in states {
            // A rewind may go back into a patch that has ended.
            let seen = state.open[0].len().saturating_sub(MAX_REWIND);
            let from = state.ends.start(seen);
            state.open.iter_mut().for_each(|memory| memory.forget(from));
        }
        let patches = Rows { cols: self.k * self.dim, data: queries.unwrap_or_default() };
        Ok(New {
            bytes: Some(Rc::new(Rows { cols: self.dim, data: h })),
            patches: Some(Rc::new(patches)),
            ends: Some(ends.clone()),
            ..New::default()
        })
    }
}
