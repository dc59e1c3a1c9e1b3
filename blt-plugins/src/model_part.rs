//! [`ModelPart`]: the roles of nodes in a model.

use blt_core::backend::HashConfig;
use blt_core::counts::CountsConfig;
use blt_core::hf::ByteLmShape;
use blt_core::model::{LatentConfig, LocalDecoderConfig, LocalEncoderConfig};
use blt_core::patch::EntropyRule;
use blt_graph::NodeError;
use std::any::Any;

/// The role of a node in a Byte Latent Transformer, with the configuration of that part.
/// [`Node::role`](blt_graph::Node::role) returns it.
///
/// The step `export` and checkpoints use roles, not names of nodes, to find the model in a graph,
/// and `evaluate` uses them for the paper's FLOPs. A node that wraps
/// [`LocalDecoder`](crate::nodes::LocalDecoder), or computes the same with the same parameter
/// names, returns the same role:
///
/// ```ignore
/// fn role(
///     &self,
///     inputs: (ByteStatesInfo, PatchStatesInfo),
/// ) -> Result<Option<Box<dyn Any>>, NodeError> {
///     self.inner.role(inputs)
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum ModelPart {
    /// Byte embeddings, with or without hash n-gram tables. The first output is the byte states.
    Embedding(Option<HashConfig>),
    /// Byte states and patches to byte states and patch states.
    Encoder(LocalEncoderConfig),
    /// Patch states to patch states.
    Latent(LatentConfig),
    /// Byte states and patch states to logits.
    Decoder(LocalDecoderConfig),
    /// A byte language model whose entropies a patcher reads.
    EntropyModel(ByteLmShape),
    /// Counts whose entropies a patcher reads.
    EntropyCounts(CountsConfig),
    /// A patcher with a rule on entropies. A threshold that has not been found yet is 0.
    EntropyPatcher {
        /// The rule for where patches start.
        rule: EntropyRule,
        /// Bytes of the longest patch.
        max_patch_length: Option<usize>,
    },
    /// A whole model. Its configuration is known once the node is built
    /// ([`Facilities::whole_model`](crate::Facilities::whole_model)).
    Whole,
}

impl ModelPart {
    /// The part as [`Node::role`](blt_graph::Node::role) returns it.
    ///
    /// # Errors
    /// Never.
    pub fn role(self) -> Result<Option<Box<dyn Any>>, NodeError> {
        Ok(Some(Box::new(self)))
    }
}
