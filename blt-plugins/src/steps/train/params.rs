//! The parameters of `train`, and what their values may be.

use crate::size::Training;
use blt_core::optim::{AdamWConfig, Decay};
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::Packing;
use blt_derive::params;
use blt_graph::NodeError;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Trains the parameters that have a gradient path to `goal`, with AdamW (decoupled decay), linear
/// warm-up and cosine decay.
///
/// Before the first optimiser step, nodes learn thresholds (for `bytes_per_patch`) and tokenizers,
/// which stay fixed from then on. Documents are shuffled with the pipeline's seed while they are
/// read. Writes `checkpoints/final`.
#[params]
pub struct Train {
    /// The wire of the loss to minimise.
    pub goal: String,
    /// Number of optimiser steps.
    #[range(1..=MAX_COUNT)]
    pub steps: u64,
    /// Most ids in a micro-batch (the bytes, and one BOS for each span). A longer span becomes a
    /// micro-batch of its own, so the source's `span_bytes` should be smaller.
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Micro-batches in each optimiser step.
    #[default(1)]
    #[range(1..=1 << 20)]
    pub accumulate: usize,
    /// How documents become micro-batches: `next_fit` (in the order of reading; a span that does
    /// not fit begins the next micro-batch) or `best_fit` (of 64 documents at a time, first the
    /// oldest one's span, and then the longest spans that fit). `best_fit` leaves few ids unused
    /// where `batch_bytes` holds few spans.
    #[default(Packing::NextFit)]
    #[schemars(schema_with = "blt_graph::words::<Packing>")]
    pub packing: Packing,
    /// Peak learning rate.
    #[range(0.0..=1e30)]
    pub lr: f64,
    /// Optimiser steps of linear warm-up; a tenth of `steps` by default.
    #[range(0..=MAX_COUNT)]
    pub warmup: Option<u64>,
    /// After warm-up: `cosine` (down to `min_lr`) or `constant`.
    #[default(Decay::Cosine)]
    #[schemars(schema_with = "blt_graph::words::<Decay>")]
    pub decay: Decay,
    /// Learning rate at the end of the cosine, as a share of `lr`.
    #[default(0.1)]
    #[range(0.0..=1.0)]
    pub min_lr: f64,
    /// Factors of the learning rate, by part: a node (`latent: 0.5`), or the beginning of
    /// parameters' names (`model.encoder_hash_tok_embedding: 3`). Where both name a parameter, its
    /// own name wins, and of several names the longest.
    #[default]
    #[range(0.0..=1e6)]
    pub lr_by: BTreeMap<String, f64>,
    /// AdamW's decoupled weight decay.
    #[default(0.1)]
    #[range(0.0..=1e30)]
    pub weight_decay: f64,
    /// AdamW's beta1 and beta2.
    #[default((0.9, 0.95))]
    #[range(0.0..=1.0 - 1e-12)]
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    #[default(1e-8)]
    #[range(1e-30..=1e6)]
    pub eps: f64,
    /// Largest global norm of the gradient; null turns clipping off.
    #[default(Some(1.0))]
    #[range(1e-30..=1e30)]
    pub clip: Option<f64>,
    /// Optimiser steps between checkpoints, the most that a killed run loses.
    #[default(100)]
    #[range(1..=MAX_COUNT)]
    pub checkpoint_every: u64,
    /// Optimiser steps between lines of metrics.jsonl.
    #[default(10)]
    #[range(1..=MAX_COUNT)]
    pub log_every: u64,
    /// Leave the mean of the weights over training in place of the last ones: `{last: 0.2}` (an
    /// even mean over the last fifth of the optimiser steps) or `{ema: 0.999}` (an exponential
    /// moving mean). Weights are taken at about 50 steps, or 20 in a time of `1 / (1 - ema)` steps.
    /// The optimiser's moments are those of the last step.
    pub average: Option<Average>,
    /// Also write the gradient's norm by node into metrics.jsonl, at every `log_every`.
    #[default(false)]
    pub log_parts: bool,
    /// Measure the loss on held-out documents during training, for a curve: `{every: 200}`.
    pub evaluate: Option<HeldOut>,
    /// Keep only the inputs of transformer blocks, and compute the rest again in the backward pass.
    /// This takes less memory and about a third more time, and gives the same bits. (`--path
    /// reference` ignores it.)
    #[default(false)]
    pub recompute: bool,
    /// The checkpoint directory to continue from: it gives parameters, moments, thresholds and
    /// tokenizers.
    pub from: Option<PathBuf>,
}

/// The loss on held-out documents during training, with the weights of the step.
#[params]
pub struct HeldOut {
    /// Optimiser steps from one measurement to the next.
    #[range(1..=MAX_COUNT)]
    pub every: u64,
    /// Bytes of documents to read, about: the same ones each time and in every variant, drawn with
    /// the pipeline's seed. They stay in memory.
    #[default(64 * 1024)]
    #[range(1..=MAX_COUNT)]
    pub bytes: u64,
    /// Most documents to read.
    #[range(1..=MAX_COUNT)]
    pub documents: Option<u64>,
}

/// Which mean of the weights `train` leaves.
#[params]
pub enum Average {
    /// Exponential, with this factor from one optimiser step to the next.
    Ema(#[schemars(range(min = 0, max = 1))] f64),
    /// Even, over this share of the optimiser steps, the last ones.
    Last(#[schemars(range(min = 0, max = 1))] f64),
}

impl Train {
    /// The optimiser's settings.
    pub(super) fn optimiser(&self) -> AdamWConfig {
        AdamWConfig {
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            clip: self.clip,
            warmup: self.warmup.unwrap_or(self.steps / 10),
            decay: self.decay,
            min_lr: self.min_lr,
            steps: self.steps,
        }
    }

    /// What it holds of batches at once.
    pub(crate) fn memory(&self) -> Training {
        Training { batch_bytes: self.batch_bytes, accumulate: self.accumulate, trains: true }
    }

    /// Whether the values fit together.
    pub(super) fn check_values(&self) -> Result<(), NodeError> {
        if self.warmup.is_some_and(|w| w > self.steps) {
            return Err(NodeError::param(
                "warmup",
                format!("warm-up is longer than the {} steps", self.steps),
            ));
        }
        match self.average {
            Some(Average::Ema(factor)) if !(factor > 0.0 && factor < 1.0) => {
                let msg = format!("ema is {factor}; expected a number between 0 and 1, as 0.999");
                Err(NodeError::param("average", msg))
            }
            Some(Average::Last(share)) if !(share > 0.0 && share <= 1.0) => {
                let msg = format!("last is {share}; expected a share of the steps, as 0.2");
                Err(NodeError::param("average", msg))
            }
            _ => Ok(()),
        }
    }
}
