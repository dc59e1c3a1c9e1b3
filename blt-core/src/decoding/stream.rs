//! [`Stream`]: how an operation of a model runs on a few new ids of documents, from what it
//! remembers of those before them.

use crate::backend::BackendError;
use crate::patch::PatchError;
use std::any::Any;
use std::ops::Range;
use std::rc::Rc;

/// Ids that [`Decoding::rewind`](super::Decoding::rewind) can take back at once.
pub const MAX_REWIND: usize = 64;

/// Why decoding cannot go on. The documents of the call are then in no defined state.
#[derive(Debug, thiserror::Error)]
pub enum DecodingError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A mistake of the code that wired the model.
    #[error("nothing gives it {0}")]
    Missing(&'static str),
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// New ids of some documents, laid end to end.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// `[n]`; the first of a document is BOS.
    pub ids: Vec<u16>,
    /// Those of document d are `offsets[d]..offsets[d + 1]`; `[documents + 1]`.
    pub offsets: Vec<usize>,
    /// Ids that each document had before; `[documents]`.
    pub before: Vec<usize>,
    /// The ids are a guess that will be taken back: no patch ends in them, whatever a patcher would
    /// say, and no entropies are needed.
    pub draft: bool,
    /// Logits after each id are wanted; if not, those after the last id of each document.
    pub all_logits: bool,
}

impl Chunk {
    /// For each document: ids that it had before, and where its new ids lie.
    pub fn documents(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.before.iter().zip(self.offsets.windows(2)).map(|(&before, w)| (before, w[0]..w[1]))
    }

    /// Rows of `states` `[n, dim]` that logits are wanted of.
    pub fn wanted(&self, states: &Rows) -> Rows {
        if self.all_logits {
            return states.clone();
        }
        let last = self.offsets[1..].iter().map(|end| states.row(end - 1));
        Rows { cols: states.cols, data: last.flatten().copied().collect() }
    }
}

/// A matrix, row-major `[n, cols]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Rows {
    pub fn row(&self, i: usize) -> &[f32] {
        self.rows(i..i + 1)
    }

    pub fn rows(&self, range: Range<usize>) -> &[f32] {
        &self.data[range.start * self.cols..range.end * self.cols]
    }
}

/// What a chunk adds to the wires between operations: one field for each kind of wire. An operation
/// reads those fields that its inputs give, and returns those of its outputs.
#[derive(Clone, Debug, Default)]
pub struct New {
    /// Entropy of the byte after each id in nats, `[n]`.
    pub entropies: Option<Rc<Vec<f32>>>,
    /// Whether the byte after each id starts a patch, so that a patch ends with the id; `[n]`. One
    /// always does with BOS.
    pub ends: Option<Rc<Vec<bool>>>,
    /// Byte states of the ids, `[n, dim]`.
    pub bytes: Option<Rc<Rows>>,
    /// States of the patches that end, in the order of `ends`, which comes with them:
    /// `[patches, dim]`.
    pub patches: Option<Rc<Rows>>,
    /// Logits of the next id, `[n, 260]`, or `[documents, 260]` where not
    /// [all](Chunk::all_logits) are wanted.
    pub logits: Option<Rc<Rows>>,
}

impl New {
    /// # Errors
    /// If no input gives entropies.
    pub fn entropies(&self) -> Result<&[f32], DecodingError> {
        self.entropies.as_ref().map(|e| &e[..]).ok_or(DecodingError::Missing("entropies"))
    }

    /// # Errors
    /// If no input gives patches.
    pub fn ends(&self) -> Result<&Rc<Vec<bool>>, DecodingError> {
        self.ends.as_ref().ok_or(DecodingError::Missing("patches"))
    }

    /// # Errors
    /// If no input gives byte states.
    pub fn bytes(&self) -> Result<&Rows, DecodingError> {
        self.bytes.as_deref().ok_or(DecodingError::Missing("byte states"))
    }

    /// # Errors
    /// If no input gives patch states.
    pub fn patches(&self) -> Result<&Rows, DecodingError> {
        self.patches.as_deref().ok_or(DecodingError::Missing("patch states"))
    }

    /// # Errors
    /// If no input gives logits.
    pub fn logits(&self) -> Result<&Rc<Rows>, DecodingError> {
        self.logits.as_ref().ok_or(DecodingError::Missing("logits"))
    }

    /// Takes over what `wire` carries.
    pub(super) fn take(&mut self, wire: Wire, from: &New) {
        match wire {
            Wire::Entropies => self.entropies = from.entropies.clone(),
            Wire::Patches => self.ends = from.ends.clone(),
            Wire::ByteStates => self.bytes = from.bytes.clone(),
            Wire::PatchStates => {
                self.patches = from.patches.clone();
                self.ends = from.ends.clone();
            }
            Wire::Logits => self.logits = from.logits.clone(),
        }
    }
}

/// The kinds of wires between operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Entropies,
    Patches,
    ByteStates,
    PatchStates,
    Logits,
}

/// What an operation remembers of one document.
pub trait Rewind: 'static {
    /// Goes back to the document's first `ids` ids, at most [`MAX_REWIND`] fewer than it has. Does
    /// nothing if it has no more.
    fn rewind(&mut self, ids: usize);
}

impl Rewind for () {
    fn rewind(&mut self, _: usize) {}
}

/// An operation of a model that runs on new ids.
///
/// The rows of a document must be those, to the bit, that the same ids give in chunks of any other
/// length and beside any other documents.
pub trait Stream: 'static {
    type State: Rewind;

    /// The state of a document without ids.
    fn begin(&self) -> Self::State;

    /// Whether it reads its inputs in a [draft](Chunk::draft): a patcher does not.
    fn reads_in_draft(&self) -> bool {
        true
    }

    /// Computes what the new ids add. `states` are those of the chunk's documents.
    ///
    /// # Errors
    /// If an input is missing, or numbers are not finite where they must be.
    fn extend(
        &self,
        chunk: &Chunk,
        states: &mut [&mut Self::State],
        inputs: &New,
    ) -> Result<New, DecodingError>;
}

/// A [`Stream`] with its state's type erased. A clone shares it.
#[derive(Clone)]
pub struct Streaming(Rc<dyn AnyStream>);

impl Streaming {
    pub fn new(stream: impl Stream) -> Self {
        Streaming(Rc::new(stream))
    }

    pub(super) fn begin(&self) -> Box<dyn AnyState> {
        self.0.begin()
    }

    pub(super) fn reads_in_draft(&self) -> bool {
        self.0.reads_in_draft()
    }

    pub(super) fn extend(
        &self,
        chunk: &Chunk,
        states: Vec<&mut dyn AnyState>,
        inputs: &New,
    ) -> Result<New, DecodingError> {
        self.0.extend(chunk, states, inputs)
    }
}

pub(super) trait AnyState: Any {
    fn back_to(&mut self, ids: usize);
}

impl<T: Rewind> AnyState for T {
    fn back_to(&mut self, ids: usize) {
        self.rewind(ids);
    }
}

trait AnyStream {
    fn begin(&self) -> Box<dyn AnyState>;
    fn reads_in_draft(&self) -> bool;
    fn extend(
        &self,
        chunk: &Chunk,
        states: Vec<&mut dyn AnyState>,
        inputs: &New,
    ) -> Result<New, DecodingError>;
}

impl<S: Stream> AnyStream for S {
    fn begin(&self) -> Box<dyn AnyState> {
        Box::new(Stream::begin(self))
    }

    fn reads_in_draft(&self) -> bool {
        Stream::reads_in_draft(self)
    }

    fn extend(
        &self,
        chunk: &Chunk,
        states: Vec<&mut dyn AnyState>,
        inputs: &New,
    ) -> Result<New, DecodingError> {
        let own = states.into_iter().map(|state| {
            let state: &mut dyn Any = state;
            state.downcast_mut().expect("a stream is given the states that it began")
        });
        Stream::extend(self, chunk, &mut own.collect::<Vec<&mut S::State>>(), inputs)
    }
}
