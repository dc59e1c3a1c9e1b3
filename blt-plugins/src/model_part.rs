//! What part of a model a node is.

use blt_core::backend::HashConfig;
use blt_core::hf::ByteLmShape;
use blt_core::model::{LatentConfig, LocalDecoderConfig, LocalEncoderConfig};
use blt_core::patch::EntropyRule;
use blt_graph::NodeError;
use std::any::Any;

/// The part of a Byte Latent Transformer that a node is, with its configuration: what
/// [`Node::role`](blt_graph::Node::role) returns. By these, and not by the names of nodes, `export`
/// and checkpoints find the model in a graph, and `evaluate` computes the paper's FLOPs. A node
/// that wraps [`LocalDecoder`](crate::nodes::LocalDecoder), or computes the same under the same
/// parameter names, returns the same role:
///
/// ```ignore
/// fn role(&self, inputs: (ByteStatesInfo, PatchStatesInfo)) -> Result<Option<Box<dyn Any>>, NodeError> {
///     self.inner.role(inputs)
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum ModelPart {
    /// Byte embeddings, with hash n-gram tables or without; the first output is the byte states.
    Embedding(Option<HashConfig>),
    /// Byte states and patches to byte states and patch states.
    Encoder(LocalEncoderConfig),
    /// Patch states to patch states.
    Latent(LatentConfig),
    /// Byte states and patch states to logits.
    Decoder(LocalDecoderConfig),
    /// A byte language model whose entropies a patcher reads.
    EntropyModel(ByteLmShape),
    /// A patcher with a rule on entropies; a threshold that is still to be found is 0.
    EntropyPatcher {
        /// Where patches start.
        rule: EntropyRule,
        /// Bytes of the longest patch.
        max_patch_length: Option<usize>,
    },
    /// All of a model; its shape is known once the node is built
    /// ([`Facilities::whole_model`](crate::Facilities::whole_model)).
    Whole,
}

impl ModelPart {
    /// As [`Node::role`](blt_graph::Node::role) returns it.
    ///
    /// # Errors
    /// None.
    pub fn role(self) -> Result<Option<Box<dyn Any>>, NodeError> {
        Ok(Some(Box::new(self)))
    }
}
