//! The types that travel on wires: for each a marker (its name in messages), its value, and what is
//! known of it before any data is read.

use blt_core::backend::Tensor;
use blt_core::bytes::Batch;
use blt_core::model::Head;
use blt_core::patch::stream::PatchStream;
use blt_graph::Port;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Packed spans of byte ids.
pub enum Bytes {}

#[derive(Clone, Debug, PartialEq)]
pub struct BytesInfo {
    /// The source node.
    pub source: String,
}

impl Port for Bytes {
    const NAME: &'static str = "Bytes";
    const PORT: &'static str = "bytes";
    type Value = Rc<Batch>;
    type Info = BytesInfo;
}

/// Patch starts.
pub enum Patches {}

/// Whether a patcher looks ahead. Nobody writes that down: it follows from the patcher's type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PatchesInfo {
    /// Whether byte i+1 starts a patch may depend on bytes after i (BPE, columns): such runs are
    /// not ranked with the others.
    pub boundary_lookahead: bool,
}

impl PatchesInfo {
    /// Of an incremental patcher, whose state in a span is an `S`.
    pub fn streamed<S: PatchStream>() -> Self {
        PatchesInfo { boundary_lookahead: false }
    }

    /// Of any other.
    pub fn looks_ahead() -> Self {
        PatchesInfo { boundary_lookahead: true }
    }
}

impl Port for Patches {
    const NAME: &'static str = "Patches";
    const PORT: &'static str = "patches";
    type Value = Rc<blt_core::patch::Patches>;
    type Info = PatchesInfo;
}

/// Entropy of the next byte at each id, in nats, `[n]`; element t belongs to id t, BOS first.
pub enum Entropies {}

impl Port for Entropies {
    const NAME: &'static str = "Entropies";
    const PORT: &'static str = "entropies";
    type Value = Rc<Vec<f32>>;
    type Info = ();
}

/// Byte states `[n_bytes, dim]`.
pub enum ByteStates {}

#[derive(Clone)]
pub struct ByteStatesValue {
    pub states: Tensor,
    pub batch: Rc<Batch>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ByteStatesInfo {
    pub dim: usize,
}

impl Port for ByteStates {
    const NAME: &'static str = "ByteStates";
    const PORT: &'static str = "bytes";
    type Value = ByteStatesValue;
    type Info = ByteStatesInfo;
}

/// Patch states `[n_patches, dim]`.
pub enum PatchStates {}

#[derive(Clone)]
pub struct PatchStatesValue {
    pub states: Tensor,
    pub patches: Rc<blt_core::patch::Patches>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PatchStatesInfo {
    pub dim: usize,
    /// Rows of a byte's width that a patch is laid out to.
    pub k: usize,
}

impl Port for PatchStates {
    const NAME: &'static str = "PatchStates";
    const PORT: &'static str = "patches";
    type Value = PatchStatesValue;
    type Info = PatchStatesInfo;
}

/// Logits over the next byte id, `[n_bytes, 260]`, computed when asked for.
pub enum Logits {}

#[derive(Clone)]
pub struct LogitsValue {
    pub head: Head,
    pub batch: Rc<Batch>,
}

impl Port for Logits {
    const NAME: &'static str = "Logits";
    const PORT: &'static str = "logits";
    type Value = LogitsValue;
    type Info = ();
}

/// A scalar that training minimises, with the nats of each position.
pub enum Loss {}

#[derive(Clone)]
pub struct LossValue {
    /// `[1, 1]`
    pub loss: Tensor,
    /// Nats of each id's target, `[n]` on the axis of `batch`; 0 where nothing is predicted.
    pub nats: Rc<Vec<f32>>,
    pub batch: Rc<Batch>,
}

impl LossValue {
    /// Nats of all counted bytes of the batch.
    pub fn total_nats(&self) -> f64 {
        (0..self.batch.n_spans()).map(|s| self.span_nats(s)).sum()
    }

    /// Nats of span `s`'s counted bytes (EOS is not a byte).
    pub fn span_nats(&self, s: usize) -> f64 {
        let (a, b) = (self.batch.offsets[s], self.batch.offsets[s + 1]);
        self.nats[a..b - 1].iter().map(|&x| x as f64).sum()
    }
}

impl Port for Loss {
    const NAME: &'static str = "Loss";
    const PORT: &'static str = "loss";
    type Value = LossValue;
    type Info = ();
}

/// Named sums over counts; `evaluate` adds them up over all batches and reports sum / count.
pub enum Metric {}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricValue {
    /// Name to (sum, count).
    pub sums: BTreeMap<String, (f64, f64)>,
}

impl MetricValue {
    /// One sum with its count.
    pub fn of(name: impl Into<String>, sum: f64, count: f64) -> Self {
        MetricValue { sums: BTreeMap::from([(name.into(), (sum, count))]) }
    }

    /// The share `part / whole`.
    pub fn share(name: impl Into<String>, part: usize, whole: usize) -> Self {
        MetricValue::of(name, part as f64, whole as f64)
    }

    pub fn merge(&mut self, other: &MetricValue) {
        for (name, (sum, count)) in &other.sums {
            let mine = self.sums.entry(name.clone()).or_default();
            *mine = (mine.0 + sum, mine.1 + count);
        }
    }
}

impl Port for Metric {
    const NAME: &'static str = "Metric";
    const PORT: &'static str = "metric";
    type Value = MetricValue;
    type Info = ();
}
