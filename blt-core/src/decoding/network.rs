//! [`Decoder`]: the streams of a model, and [`Decoding`]: a document in it.

use super::memory::PatchEnds;
use super::stream::{AnyState, Chunk, DecodingError, New, Rewind, Rows, Streaming, Wire};
use crate::bytes::BOS;
use std::rc::Rc;

/// New ids of all documents that go through a model in one go; longer ones are cut.
const CHUNK_IDS: usize = 1024;

struct Node {
    name: String,
    stream: Streaming,
    /// What it reads, and from which of those before it.
    inputs: Vec<(usize, Wire)>,
    /// Whether a draft needs it.
    drafts: bool,
}

/// Why decoding cannot go on, and in which operation.
#[derive(Debug, thiserror::Error)]
#[error("`{node}`: {error}")]
pub struct DecodingFailed {
    /// The name of the operation.
    pub node: String,
    pub error: DecodingError,
}

/// A model that runs byte by byte: its operations, each after those that it reads from. The last
/// one gives the logits.
#[derive(Default)]
pub struct Decoder {
    nodes: Vec<Node>,
}

/// A document in a [`Decoder`]: all that the model remembers of its ids.
///
/// Memory grows with the patches (the latent transformer's keys and values), and not with the bytes
/// once the windows of encoder, decoder and entropy model are full.
pub struct Decoding {
    states: Vec<Box<dyn AnyState>>,
    ids: Vec<u16>,
    ends: PatchEnds,
}

impl Decoding {
    /// The ids so far, BOS first.
    pub fn ids(&self) -> &[u16] {
        &self.ids
    }

    /// Patches that have ended, BOS's included: calls of the latent transformer.
    pub fn n_patches(&self) -> usize {
        self.ends.len()
    }

    /// Goes back to the first `ids` ids.
    ///
    /// # Panics
    /// If that takes back more than [`MAX_REWIND`](super::MAX_REWIND) ids, or BOS.
    pub fn rewind(&mut self, ids: usize) {
        assert!(ids > 0 && ids + super::MAX_REWIND >= self.ids.len(), "{ids}: too far back");
        self.states.iter_mut().for_each(|state| state.back_to(ids));
        self.ids.truncate(ids);
        self.ends.rewind(ids);
    }
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation that reads `inputs`, from operations with the numbers that earlier calls
    /// returned. Returns its own number. The operation that was added last gives the logits.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        stream: Streaming,
        inputs: &[(usize, Wire)],
    ) -> usize {
        self.nodes.iter_mut().for_each(|node| node.drafts = false);
        let own = self.nodes.len();
        self.nodes.push(Node { name: name.into(), stream, inputs: inputs.to_vec(), drafts: true });
        for i in (0..=own).rev() {
            if self.nodes[i].drafts && self.nodes[i].stream.reads_in_draft() {
                for (input, _) in self.nodes[i].inputs.clone() {
                    self.nodes[input].drafts = true;
                }
            }
        }
        own
    }

    /// A document with BOS alone, and the logits of its first byte (`[260]`).
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn begin(&self) -> Result<(Decoding, Vec<f32>), DecodingFailed> {
        let mut document = self.empty();
        let logits = self.push(&mut document, BOS)?;
        Ok((document, logits))
    }

    /// A document without ids. Its first id is to be BOS.
    pub fn empty(&self) -> Decoding {
        let states = self.nodes.iter().map(|node| node.stream.begin()).collect();
        Decoding { states, ids: Vec::new(), ends: PatchEnds::default() }
    }

    /// Adds an id to a document. Returns the logits of the next one, `[260]`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn push(&self, document: &mut Decoding, id: u16) -> Result<Vec<f32>, DecodingFailed> {
        Ok(self.extend_last(&mut [document], &[&[id]])?.data)
    }

    /// Adds ids to documents that advance together: each weight is read once for all. Returns the
    /// logits after each id, `[n, 260]`. They have the same bits as if the ids came one by one, and
    /// each document alone.
    ///
    /// # Errors
    /// If a number is not finite where it must be. The documents are then of no more use.
    ///
    /// # Panics
    /// If `ids` has another number of documents.
    pub fn extend(
        &self,
        documents: &mut [&mut Decoding],
        ids: &[&[u16]],
    ) -> Result<Rows, DecodingFailed> {
        self.run(documents, ids, true, false)
    }

    /// As [`extend`](Self::extend); returns the logits after each document's last id,
    /// `[documents, 260]`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    ///
    /// # Panics
    /// If a document has no new ids.
    pub fn extend_last(
        &self,
        documents: &mut [&mut Decoding],
        ids: &[&[u16]],
    ) -> Result<Rows, DecodingFailed> {
        let longest = ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let most = (CHUNK_IDS / documents.len().max(1)).max(1);
        if longest <= most {
            return self.run(documents, ids, false, false);
        }
        // All documents but their last ids first, so that the last chunk has a row for each.
        for start in (0..longest - 1).step_by(most) {
            let end = (start + most).min(longest - 1);
            let piece = |ids: &&[u16]| start.min(ids.len() - 1)..end.min(ids.len() - 1);
            let (mut some, mut pieces) = (Vec::new(), Vec::new());
            for (document, ids) in documents.iter_mut().zip(ids) {
                let range = piece(ids);
                if !range.is_empty() {
                    some.push(&mut **document);
                    pieces.push(&ids[range]);
                }
            }
            self.run(&mut some, &pieces, false, false)?;
        }
        let last: Vec<&[u16]> = ids.iter().map(|ids| &ids[ids.len() - 1..]).collect();
        self.run(documents, &last, false, false)
    }

    /// As [`push`](Self::push), for a guess that [`Decoding::rewind`] takes back before anything
    /// else is added: no patch ends, and what finds patches does not run.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn draft(&self, document: &mut Decoding, id: u16) -> Result<Vec<f32>, DecodingFailed> {
        Ok(self.run(&mut [document], &[&[id]], false, true)?.data)
    }

    fn run(
        &self,
        documents: &mut [&mut Decoding],
        ids: &[&[u16]],
        all_logits: bool,
        draft: bool,
    ) -> Result<Rows, DecodingFailed> {
        assert_eq!(documents.len(), ids.len(), "ids for each document");
        let mut chunk = Chunk { offsets: vec![0], draft, all_logits, ..Chunk::default() };
        for (document, ids) in documents.iter_mut().zip(ids) {
            chunk.before.push(document.ids.len());
            chunk.ids.extend_from_slice(ids);
            chunk.offsets.push(chunk.ids.len());
            document.ids.extend_from_slice(ids);
        }
        let mut all: Vec<New> = Vec::with_capacity(self.nodes.len());
        let mut ends: Option<Rc<Vec<bool>>> = None;
        for (i, node) in self.nodes.iter().enumerate() {
            if draft && !node.drafts {
                all.push(New::default());
                continue;
            }
            let mut inputs = New::default();
            node.inputs.iter().for_each(|&(from, wire)| inputs.take(wire, &all[from]));
            let states = documents.iter_mut().map(|document| &mut *document.states[i]).collect();
            let new = node.stream.extend(&chunk, states, &inputs);
            let new = new.map_err(|error| DecodingFailed { node: node.name.clone(), error })?;
            ends = ends.or(new.ends.clone());
            all.push(new);
        }
        if let Some(ends) = ends {
            for (document, (before, rows)) in documents.iter_mut().zip(chunk.documents()) {
                for (ids, row) in (before + 1..).zip(rows) {
                    if ends[row] {
                        document.ends.push(ids);
                    }
                }
            }
        }
        let last = all.pop().unwrap_or_default();
        let logits = last.logits().cloned();
        let node = || self.nodes.last().map_or(String::new(), |node| node.name.clone());
        let logits = logits.map_err(|error| DecodingFailed { node: node(), error })?;
        Ok(Rc::try_unwrap(logits).unwrap_or_else(|shared| (*shared).clone()))
    }
}
