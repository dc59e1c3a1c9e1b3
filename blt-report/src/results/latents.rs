//! What latents are worth: the loss of a trained model that reads other latents in their place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `evaluate: {probe: latents}` measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LatentsProbe {
    /// Over all documents.
    pub all: LatentsWorth,
    /// By the column's values.
    pub by: BTreeMap<String, LatentsWorth>,
    /// Directions that latents of training documents vary in: the participation ratio of their
    /// covariance, `trace(C)^2 / trace(C^2)`, from 1 to the width.
    pub rank: Option<f64>,
    /// The norm of what the decoder's cross-attention gives, as a share of the states that it is
    /// added to, over all layers and bytes.
    pub cross_attention: Option<f64>,
}

/// What the latents of some documents are worth, in bits per byte: the smaller loss with latents
/// that say nothing of the text, minus the loss as trained. A decoder that reads something it was
/// not trained on loses by that alone, which is why the smaller counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LatentsWorth {
    pub worth: Option<f64>,
    /// Half the width of its 95 % interval over clusters of documents; None with fewer than 6.
    pub half_width: Option<f64>,
    pub clusters: Option<u64>,
    /// Which had the smaller loss: `mean` or `other`.
    pub replaced_by: String,
    /// Bits per byte as trained.
    pub bpb: Option<f64>,
    /// With each latent replaced by the mean over training documents.
    pub mean_bpb: Option<f64>,
    /// With the latents of another document of the group, at the same patch indices.
    pub other_bpb: Option<f64>,
    /// With zeros. Shown only; the worth does not use it.
    pub zero_bpb: Option<f64>,
}
