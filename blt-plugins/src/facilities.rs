//! [`Facilities`]: what a node can give to steps in addition to the values of its ports.

use crate::matched::Pair;
use blt_core::backend::{Backend, BackendError};
use blt_core::bytes::Batch;
use blt_core::decoding::{Decoder, Streaming, Wire};
use blt_core::hf::ModelShape;
use blt_core::params::NamedParam;
use blt_core::patch::stream::PatchStream;
use blt_data::{ListColumn, Portion, Source};
use blt_graph::{BuildCx, Live, NodeError, StepError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What a node gives to steps in addition to the values of its ports.
///
/// Every function has a default, which gives nothing. A node implements those that apply to it, on
/// its state or on a type of its own, and calls [`provide`] with the object while it is built.
///
/// | function | for a node that | used by |
/// |---|---|---|
/// | [`source`](Facilities::source) | reads documents | all steps |
/// | [`list_column`](Facilities::list_column) | reads a list column | all steps |
/// | [`prepare`](Facilities::prepare) | learns before training | [`TrainedGraph::prepare`] |
/// | [`matching`](Facilities::matching) | has a threshold to match patch sizes with | evaluate |
/// | [`check_end`](Facilities::check_end) | checks parameters on data | train, evaluate |
/// | [`n_targets`](Facilities::n_targets) | is a loss, not of the bytes alone | train |
/// | [`patch_stream`](Facilities::patch_stream) | patches without look-ahead | generation, tests |
/// | [`decode`](Facilities::decode) | runs id by id | generation |
/// | [`params`](Facilities::params) | has trained parameters | train, checkpoints, export |
/// | [`save`](Facilities::save) | has files of its own | checkpoints |
/// | [`param_files`](Facilities::param_files) | reads its parameters from files | digests |
/// | [`whole_model`](Facilities::whole_model) | is a whole model | export, checkpoints |
/// | [`patcher_flops`](Facilities::patcher_flops) | contains a patcher | evaluate |
///
/// [`TrainedGraph::prepare`]: crate::TrainedGraph::prepare
pub trait Facilities {
    /// The source of documents. Steps read batches from it, and give them to the graph as the
    /// output of the node, which is not run.
    fn source(&self) -> Option<&SourceHandle> {
        None
    }

    /// A list column to read in addition to the bytes, and to add to each batch.
    fn list_column(&self) -> Option<&ListColumn> {
        None
    }

    /// Learns from documents before training.
    fn prepare(&self) -> Option<&dyn Prepare> {
        None
    }

    /// Changes the mean patch size on the documents that a step reads.
    fn matching(&self) -> Option<&dyn Matching> {
        None
    }

    /// Checks the node's parameters against the data that it was run on. Steps call this after the
    /// last batch, before they write results.
    ///
    /// # Errors
    /// If the parameters do not make sense on those data.
    fn check_end(&self) -> Result<(), NodeError> {
        Ok(())
    }

    /// For a loss with other targets than the counted bytes: how many it has in `batch`. Training
    /// weighs the micro-batches of an optimiser step by them.
    fn n_targets(&self, batch: &Batch) -> Option<usize> {
        let _ = batch;
        None
    }

    /// For a patcher that does not look ahead: its state at the start of a span, which finds the
    /// node's patches byte by byte. `bos_entropy` is the entropy of the first byte of the span, in
    /// nats; `None` if the patcher reads no entropies.
    ///
    /// # Errors
    /// If the threshold has not been found yet, or an entropy is missing.
    fn patch_stream(
        &self,
        bos_entropy: Option<f32>,
    ) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
        let _ = bos_entropy;
        Ok(None)
    }

    /// For a node that runs id by id: adds its operations to `cx.decoder`, with the parameters as
    /// they are now, and returns the number of the one that gives the node's outputs. `None`: the
    /// node cannot, and text is not generated with it. A patcher needs only
    /// [`patch_stream`](Facilities::patch_stream); a node that is one operation needs only
    /// [`provide_streaming`].
    ///
    /// # Errors
    /// If the device fails, or what the node learns has not been learned yet.
    fn decode(&self, cx: &mut DecodeCx) -> Result<Option<usize>, NodeError> {
        let _ = cx;
        Ok(None)
    }

    /// The node's parameters, in a fixed order. [`with_params`](crate::with_params) provides them.
    fn params(&self) -> &[NamedParam] {
        &[]
    }

    /// Writes files of the node's own into the checkpoint directory `dir`: what is no parameter,
    /// and too large for the learned values, which hold its digest.
    ///
    /// # Errors
    /// If they cannot be written.
    fn save(&self, dir: &Path) -> Result<(), StepError> {
        let _ = dir;
        Ok(())
    }

    /// The files that all parameters were read from. A digest of the model can then use the bytes
    /// of the files instead of the parameters.
    fn param_files(&self) -> Option<&[PathBuf]> {
        None
    }

    /// The configuration of the model, if the node is a whole model.
    fn whole_model(&self) -> Option<&ModelShape> {
        None
    }

    /// Forward FLOPs of the patcher inside the node since the node was built.
    fn patcher_flops(&self) -> u64 {
        0
    }
}

/// Gives `facilities` of the node being built to steps, and returns them for the node's own state.
/// A node may provide several objects.
pub fn provide<F: Facilities + 'static>(cx: &mut BuildCx, facilities: F) -> Rc<F> {
    let shared = Rc::new(facilities);
    let erased: Rc<dyn Facilities> = shared.clone();
    cx.provide(erased);
    shared
}

/// The context of [`Facilities::decode`].
pub struct DecodeCx<'a> {
    /// The decoder of the graph, with the nodes that come before this one.
    pub decoder: &'a mut Decoder,
    /// The node's name in the graph.
    pub node: &'a str,
    /// What the node's inputs carry, and the numbers of the operations that give it. Bytes are not
    /// among them: every operation has the ids.
    pub inputs: &'a [(usize, Wire)],
    /// The backend that has the parameters.
    pub backend: &'a dyn Backend,
}

impl DecodeCx<'_> {
    /// Adds an operation that reads the node's inputs. Returns its number.
    pub fn add(&mut self, streaming: Streaming) -> usize {
        self.decoder.add(self.node, streaming, self.inputs)
    }
}

/// A node that is one operation when it runs id by id.
struct OneStream<F>(F);

impl<F: Fn(&dyn Backend) -> Result<Streaming, BackendError>> Facilities for OneStream<F> {
    fn decode(&self, cx: &mut DecodeCx) -> Result<Option<usize>, NodeError> {
        let streaming = (self.0)(cx.backend)?;
        Ok(Some(cx.add(streaming)))
    }
}

/// Lets the node being built run id by id, as the operation that `make` makes of the parameters as
/// they are when text is generated.
pub fn provide_streaming(
    cx: &mut BuildCx,
    make: impl Fn(&dyn Backend) -> Result<Streaming, BackendError> + 'static,
) {
    provide(cx, OneStream(make));
}

/// Everything that the nodes of a graph provide, with the names of the nodes, in graph order.
pub fn of_graph(live: &Live) -> impl Iterator<Item = (String, Rc<dyn Facilities>)> + use<> {
    let all = live.facilities::<Rc<dyn Facilities>>();
    all.into_iter().map(|(node, facilities)| (node, (*facilities).clone()))
}

/// Everything that `node` provides.
pub fn of_node(live: &Live, node: &str) -> impl Iterator<Item = Rc<dyn Facilities>> {
    of_graph(live).filter(move |(name, _)| name == node).map(|(_, facilities)| facilities)
}

/// A source of documents, with the settings of its node for cutting and shuffling them.
#[derive(Clone)]
pub struct SourceHandle {
    /// Reads the documents.
    pub source: Arc<dyn Source>,
    /// Longer documents are cut into spans of this many bytes.
    pub span_bytes: usize,
    /// Documents in the buffer that training draws from at random.
    pub shuffle_buffer: usize,
}

impl Facilities for SourceHandle {
    fn source(&self) -> Option<&SourceHandle> {
        Some(self)
    }
}

impl Facilities for ListColumn {
    fn list_column(&self) -> Option<&ListColumn> {
        Some(self)
    }
}

/// A node's parameters.
pub struct ParamSet(pub Vec<NamedParam>);

impl Facilities for ParamSet {
    fn params(&self) -> &[NamedParam] {
        &self.0
    }
}

/// Learns something from documents before training, such as a threshold or a tokenizer. It is
/// learned once, recorded in the checkpoint, and fixed from then on.
pub trait Prepare {
    /// The documents to learn from; `None` if there is nothing to learn, or nothing left to learn.
    fn wants(&self) -> Option<Portion>;
    /// Most bytes of documents to learn from.
    fn max_bytes(&self) -> u64;
    /// Starts learning. Until [`finish`](Prepare::finish), the node is run to show it data, and its
    /// output is not used.
    fn begin(&self);
    /// Ends learning. Returns the learned values, as a checkpoint records them.
    ///
    /// # Errors
    /// If the documents are not sufficient.
    fn finish(&self) -> Result<Value, StepError>;
    /// Restores learned values that an earlier step recorded in the checkpoint directory `dir`.
    ///
    /// # Errors
    /// If they were learned with other parameters.
    fn restore(&self, learned: &Value, dir: &Path) -> Result<(), StepError>;
    /// The learned values as results.json shows them.
    fn summary(&self, learned: &Value) -> Value {
        learned.clone()
    }
    /// A warning for the user, if the learned values are uncertain.
    fn doubt(&self, _learned: &Value) -> Option<String> {
        None
    }
}

/// A patcher with a threshold that a step can set anew, for the documents that it measures. What
/// was learned for training stays as it is in checkpoints.
pub trait Matching {
    /// Starts collecting. Until [`find`](Matching::find), the node is run to show it the documents,
    /// and its output is not used.
    fn begin(&self);
    /// Finds the thresholds that give the wanted mean patch size within `tolerance` (relative), and
    /// patches with them from now on: one for all documents, or one for each of the `groups`, which
    /// are given by row. Returns for each group, or for `None`, both rates.
    ///
    /// # Errors
    /// If a size cannot be reached; the error has the nearest that can.
    fn find(
        &self,
        bytes_per_patch: f64,
        tolerance: f64,
        groups: &BTreeMap<u64, String>,
    ) -> Result<BTreeMap<Option<String>, Pair>, StepError>;
}
