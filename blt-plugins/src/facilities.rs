//! What a node may give to steps beside the values of its ports: the trait [`Facilities`].

use blt_core::hf::ModelShape;
use blt_core::params::NamedParam;
use blt_core::patch::stream::PatchStream;
use blt_data::{ListColumn, Portion, Source};
use blt_graph::{BuildCx, Live, NodeError, StepError};
use serde_json::Value;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// What a node gives to steps beside the values of its ports. Every function has a default, which
/// gives nothing; a node implements those that apply to it, on its state or on a type of its own,
/// and hands the object to steps with [`provide`] while it is built.
///
/// | function | for a node that | read by |
/// |---|---|---|
/// | [`source`](Facilities::source) | reads documents | every step, for its batches |
/// | [`list_column`](Facilities::list_column) | reads a list column beside the bytes | every step |
/// | [`prepare`](Facilities::prepare) | learns something before training | [`TrainedGraph::prepare`] |
/// | [`check_end`](Facilities::check_end) | can find its parameters senseless on the data | train, evaluate |
/// | [`patch_stream`](Facilities::patch_stream) | patches without looking ahead | tests |
/// | [`params`](Facilities::params) | has trained parameters | train, checkpoints, export |
/// | [`param_files`](Facilities::param_files) | reads its parameters from files | digests of the model |
/// | [`whole_model`](Facilities::whole_model) | is a whole model | export, checkpoints |
/// | [`patcher_flops`](Facilities::patcher_flops) | contains a patcher and more | evaluate |
///
/// [`TrainedGraph::prepare`]: crate::TrainedGraph::prepare
pub trait Facilities {
    /// The source of documents that the node is. Its output has no value of its own: steps read
    /// batches from the source and give them to the graph.
    fn source(&self) -> Option<&SourceHandle> {
        None
    }

    /// A list column that is read beside the bytes and put into each batch.
    fn list_column(&self) -> Option<&ListColumn> {
        None
    }

    /// What the node learns before training.
    fn prepare(&self) -> Option<&dyn Prepare> {
        None
    }

    /// Called at the end of a step that has run the node on all its data, before the step's results
    /// count.
    ///
    /// # Errors
    /// If the node's parameters make no sense on those data.
    fn check_end(&self) -> Result<(), NodeError> {
        Ok(())
    }

    /// For a patcher that does not look ahead: its state at the start of a span, which makes the
    /// node's patches byte by byte. `bos_entropy`, in nats, is the entropy of the span's first
    /// byte; `None` if the patcher reads no entropies.
    ///
    /// # Errors
    /// If a threshold is yet to be found, or an entropy is missing.
    fn patch_stream(
        &self,
        bos_entropy: Option<f32>,
    ) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
        let _ = bos_entropy;
        Ok(None)
    }

    /// The node's parameters, in a fixed order. [`with_params`](crate::with_params) provides them.
    fn params(&self) -> &[NamedParam] {
        &[]
    }

    /// The files that the parameters were read from, where these determine all of them: a digest
    /// need not read large files as numbers.
    fn param_files(&self) -> Option<&[PathBuf]> {
        None
    }

    /// The shape of the model that the node is.
    fn whole_model(&self) -> Option<&ModelShape> {
        None
    }

    /// Forward FLOPs that the patcher inside the node took since the node was built.
    fn patcher_flops(&self) -> u64 {
        0
    }
}

/// Gives `facilities` to the steps that use the node being built. Returns them, for the node's own
/// state. A node may provide several objects.
pub fn provide<F: Facilities + 'static>(cx: &mut BuildCx, facilities: F) -> Rc<F> {
    let shared = Rc::new(facilities);
    let erased: Rc<dyn Facilities> = shared.clone();
    cx.provide(erased);
    shared
}

/// All that the nodes of a graph provide, with the names of the nodes, in graph order.
pub fn of_graph(live: &Live) -> impl Iterator<Item = (String, Rc<dyn Facilities>)> + use<> {
    let all = live.facilities::<Rc<dyn Facilities>>();
    all.into_iter().map(|(node, facilities)| (node, (*facilities).clone()))
}

/// What `node` provides.
pub fn of_node(live: &Live, node: &str) -> impl Iterator<Item = Rc<dyn Facilities>> {
    of_graph(live).filter(move |(name, _)| name == node).map(|(_, facilities)| facilities)
}

/// A source of documents, and how its node wants them cut and shuffled.
#[derive(Clone)]
pub struct SourceHandle {
    /// Reads the documents.
    pub source: Arc<dyn Source>,
    /// Longer documents are cut into spans of this many bytes.
    pub span_bytes: usize,
    /// Documents in the buffer from which training draws at random.
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

/// What a node learns from documents before training: a threshold, a tokenizer. It is learned once,
/// recorded in the checkpoint, and then stays as it is.
pub trait Prepare {
    /// Which documents to learn from; `None` if there is nothing (left) to learn.
    fn wants(&self) -> Option<Portion>;
    /// How many bytes of documents to learn from, at most.
    fn max_bytes(&self) -> u64;
    /// Starts learning. Until [`finish`](Prepare::finish), running the node shows it data and its
    /// output is not used.
    fn begin(&self);
    /// Ends learning. Returns what was learned, as a checkpoint records it.
    ///
    /// # Errors
    /// If the documents do not suffice.
    fn finish(&self) -> Result<Value, StepError>;
    /// Takes over what an earlier step recorded.
    ///
    /// # Errors
    /// If it was learned under other parameters.
    fn restore(&self, learned: &Value) -> Result<(), StepError>;
    /// What results.json holds of it.
    fn summary(&self, learned: &Value) -> Value {
        learned.clone()
    }
    /// A warning for the user before training goes on, if what was learned is uncertain.
    fn doubt(&self, _learned: &Value) -> Option<String> {
        None
    }
}
