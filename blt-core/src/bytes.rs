//! Byte ids, spans, and the packed batch.
//!
//! Byte `b` has id `b + 4`; 0 is BOE/pad, 1 BOS, 2 EOS, 3 the BPE delimiter. The vocabulary is 260.

use std::collections::BTreeMap;
use std::ops::Range;

pub const BOE: u16 = 0;
pub const BOS: u16 = 1;
pub const EOS: u16 = 2;
pub const BPE_DELIMITER: u16 = 3;
/// Byte `b` has id `b + OFFSET`.
pub const OFFSET: u16 = 4;
pub const VOCAB: usize = 260;

/// Where a span came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The document's row in its source, counted over all rows of all files in order.
    pub row: u64,
    /// Which bytes of the document the span holds (after its BOS).
    pub range: Range<usize>,
    /// How many of the span's first bytes are only context: seen by the model, counted by an
    /// earlier span.
    pub context: usize,
    /// The span ends its document.
    pub last: bool,
}

/// Packed spans: `ids` is `[n]`, `offsets` is `[spans + 1]`; each span is BOS and then its bytes.
///
/// Invariant: `offsets[0] == 0`, `offsets` ascends strictly (a span has at least its BOS),
/// `offsets.last() == ids.len()`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub ids: Vec<u16>,
    pub offsets: Vec<usize>,
    pub spans: Vec<Span>,
    /// Lists that came beside the bytes (entropies, patch lengths), already cut to the spans:
    /// `columns[name][span]`.
    pub lists: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Batch {
    pub fn new() -> Self {
        Batch { offsets: vec![0], ..Default::default() }
    }

    /// A batch of whole documents, one span each.
    pub fn from_documents<'a>(documents: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut batch = Batch::new();
        for (row, bytes) in documents.into_iter().enumerate() {
            batch.push(
                Span { row: row as u64, range: 0..bytes.len(), context: 0, last: true },
                bytes,
            );
        }
        batch
    }

    /// Appends BOS and `bytes` (the bytes of `span.range`).
    pub fn push(&mut self, span: Span, bytes: &[u8]) {
        debug_assert_eq!(span.range.len(), bytes.len());
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.push(BOS);
        self.ids.extend(bytes.iter().map(|&b| b as u16 + OFFSET));
        self.offsets.push(self.ids.len());
        self.spans.push(span);
    }

    /// The batch without the spans of a document.
    pub fn without_row(&self, row: u64) -> Batch {
        let kept: Vec<usize> = (0..self.n_spans()).filter(|&s| self.spans[s].row != row).collect();
        let lists = self.lists.iter().map(|(name, spans)| {
            (name.clone(), kept.iter().filter_map(|&s| spans.get(s).cloned()).collect())
        });
        let mut batch = Batch { lists: lists.collect(), ..Batch::new() };
        for s in kept {
            batch.ids.extend_from_slice(self.span_ids(s));
            batch.offsets.push(batch.ids.len());
            batch.spans.push(self.spans[s].clone());
        }
        batch
    }

    /// Ids in all, BOS of every span included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn n_spans(&self) -> usize {
        self.spans.len()
    }

    /// Bytes that this batch is to count: BOS and context left out.
    pub fn n_counted_bytes(&self) -> usize {
        self.spans.iter().map(|s| s.range.len() - s.context).sum()
    }

    /// The ids of span `s`, BOS first.
    pub fn span_ids(&self, s: usize) -> &[u16] {
        &self.ids[self.offsets[s]..self.offsets[s + 1]]
    }

    /// The bytes of span `s`, without its BOS. The span must hold bytes alone after BOS, as
    /// [`push`](Batch::push) makes it.
    pub fn bytes(&self, s: usize) -> Vec<u8> {
        self.span_ids(s)[1..].iter().map(|&id| (id - OFFSET) as u8).collect()
    }
}

/// Whether `id` stands for `byte`.
pub fn is_byte(id: u16, byte: u8) -> bool {
    id == byte as u16 + OFFSET
}
