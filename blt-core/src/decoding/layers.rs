//! Layers that streams are made of: a transformer block, cross-attention, a head.

use super::memory::Memory;
use super::stream::{Chunk, Rows};
use crate::backend::ParamId;
use crate::backend::fused::rows::{Attention, Matrix, Norm, swiglu};
use crate::backend::{Backend, BackendError, BlockConfig, BlockParams, CrossConfig, CrossParams};

/// A transformer block on new rows.
pub(super) struct BlockStream {
    input_layernorm: Norm,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    post_attention_layernorm: Norm,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    attention: Attention,
    window: Option<usize>,
}

/// New rows of one document in a block.
pub(super) struct Place {
    /// Rows in the block's input.
    pub rows: std::ops::Range<usize>,
    /// Where each row's context begins, and its own place, both counted in rows of the document's
    /// memory.
    pub contexts: Vec<(usize, usize)>,
}

impl Place {
    /// Rows that come after `before` others, in one context from the document's first.
    pub fn after(before: usize, rows: std::ops::Range<usize>) -> Self {
        let contexts = (before..before + rows.len()).map(|place| (0, place)).collect();
        Place { rows, contexts }
    }

    /// Those of a chunk's ids.
    pub fn of_chunk(chunk: &Chunk) -> Vec<Self> {
        chunk.documents().map(|(before, rows)| Place::after(before, rows)).collect()
    }
}

impl BlockStream {
    pub fn read(
        backend: &dyn Backend,
        p: &BlockParams,
        c: &BlockConfig,
    ) -> Result<Self, BackendError> {
        let matrix = |id| Matrix::read(backend, id);
        Ok(BlockStream {
            input_layernorm: Norm::read(backend, p.input_layernorm, c.eps)?,
            q: matrix(p.q)?,
            k: matrix(p.k)?,
            v: matrix(p.v)?,
            o: matrix(p.o)?,
            post_attention_layernorm: Norm::read(backend, p.post_attention_layernorm, c.eps)?,
            gate: matrix(p.gate)?,
            up: matrix(p.up)?,
            down: matrix(p.down)?,
            attention: Attention::of_block(c),
            window: c.window,
        })
    }

    /// The memory of a document: its keys and values.
    pub fn memory(&self) -> Memory {
        Memory::new(self.attention.memory_width())
    }

    /// `x` `[n, dim]` are new rows of documents, at `places` and with `memories`.
    pub fn extend(&self, x: &mut [f32], places: &[Place], memories: &mut [&mut Memory]) {
        let normed = self.input_layernorm.apply(x);
        let n = places.last().map_or(0, |place| place.rows.end);
        if n == 0 {
            return;
        }
        let positions =
            || places.iter().flat_map(|p| p.contexts.iter().map(|(from, at)| at - from));
        let (mut q, mut k) = (self.q.apply(&normed), self.k.apply(&normed));
        let (q_width, k_width) = (q.len() / n, k.len() / n);
        self.attention.rotate(&mut q, q_width, positions());
        self.attention.rotate(&mut k, k_width, positions());
        let rows = self.attention.memory(&k, &self.v.apply(&normed));
        let width = self.attention.memory_width();
        let mut seen = Vec::with_capacity(n);
        for (d, place) in places.iter().enumerate() {
            memories[d].extend(&rows[place.rows.start * width..place.rows.end * width]);
            seen.extend(place.contexts.iter().map(|&(from, at)| {
                let of_window = self.window.map_or(0, |window| (at + 1).saturating_sub(window));
                (d, from.max(of_window), at + 1)
            }));
        }
        let held: Vec<&Memory> = memories.iter().map(|memory| &**memory).collect();
        let attended = self.attention.attend(&q, |r| {
            let (d, from, to) = seen[r];
            held[d].rows(from, to)
        });
        add(x, &self.o.apply(&attended));
        let normed = self.post_attention_layernorm.apply(x);
        let mut gate = self.gate.apply(&normed);
        swiglu(&mut gate, &self.up.apply(&normed));
        add(x, &self.down.apply(&gate));
        for memory in memories {
            let from = self.window.map_or(0, |window| (memory.len() + 1).saturating_sub(window));
            memory.forget(from);
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Cross-attention to rows of memory.
pub(super) struct CrossStream {
    q_norm: Norm,
    k_norm: Norm,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    attention: Attention,
}

impl CrossStream {
    pub fn read(
        backend: &dyn Backend,
        p: &CrossParams,
        c: &CrossConfig,
    ) -> Result<Self, BackendError> {
        let matrix = |id| Matrix::read(backend, id);
        Ok(CrossStream {
            q_norm: Norm::read(backend, p.q_norm, c.eps)?,
            k_norm: Norm::read(backend, p.k_norm, c.eps)?,
            q: matrix(p.q)?,
            k: matrix(p.k)?,
            v: matrix(p.v)?,
            o: matrix(p.o)?,
            attention: Attention::of_cross(c),
        })
    }

    /// Width of a row of memory.
    pub fn width(&self) -> usize {
        self.attention.memory_width()
    }

    /// Rows of memory of states `[n, dim]`.
    pub fn memory(&self, states: &[f32]) -> Vec<f32> {
        let normed = self.k_norm.apply(states);
        self.attention.memory(&self.k.apply(&normed), &self.v.apply(&normed))
    }

    /// `x = 2 x + o(attention)`, row r attending to `memory(r)`.
    pub fn attend<'a>(&self, x: &mut [f32], memory: impl Fn(usize) -> &'a [f32] + Sync) {
        let q = self.q.apply(&self.q_norm.apply(x));
        let attended = self.o.apply(&self.attention.attend(&q, memory));
        x.iter_mut().zip(&attended).for_each(|(x, a)| *x = 2.0 * *x + a);
    }
}

/// The last norm and the language-model head.
pub(super) struct HeadStream {
    norm: Norm,
    head: Matrix,
}

impl HeadStream {
    pub fn read(
        backend: &dyn Backend,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Self, BackendError> {
        Ok(HeadStream { norm: Norm::read(backend, norm, eps)?, head: Matrix::read(backend, head)? })
    }

    /// `[n, dim] -> [n, 260]`
    pub fn logits(&self, states: &[f32]) -> Rows {
        Rows { cols: crate::bytes::VOCAB, data: self.head.apply(&self.norm.apply(states)) }
    }
}
