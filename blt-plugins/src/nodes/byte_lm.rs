use crate::model::{Sizes, default_eps, default_window, session, with_params};
use crate::ports::{Bytes, BytesInfo, Entropies, Logits, LogitsValue, Loss, LossValue};
use blt_core::backend::BlockConfig;
use blt_core::bytes::Batch;
use blt_core::model::{self, next_byte_targets};
use blt_core::patching::newline_reset;
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Where the model's context begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextReset {
    /// At the start of a span alone.
    None,
    /// Also at the byte after each newline, as after BOS: the paper's cure for entropy drift.
    Newline,
}

/// A small byte language model: the entropy model that patchers read.
///
/// A bare wire means its entropies (nats of the next byte, at each id). Train it with `goal:
/// NAME.loss`; a graph that only uses its entropies does not train it, since patch borders have no
/// gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByteLm {
    /// Width.
    pub dim: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Key/value heads; as many as `heads` where left out.
    #[serde(default)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layers; 8/3 of the width rounded up to a multiple of 64 where
    /// left out.
    #[serde(default)]
    pub ffn: Option<usize>,
    /// How many bytes back a byte sees, itself included; null: the whole span.
    #[serde(default = "default_window")]
    pub window: Option<usize>,
    /// Where the context begins anew: `none`, or `newline` (at the byte after each newline, as
    /// after BOS).
    #[serde(default = "no_reset")]
    #[schemars(with = "String")]
    pub context_reset: ContextReset,
    /// RoPE's base.
    #[serde(default = "theta")]
    pub rope_theta: f64,
    /// RMSNorm's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
}

fn no_reset() -> ContextReset {
    ContextReset::None
}

fn theta() -> f64 {
    10_000.0
}

impl ByteLm {
    /// All else at its default; set fields with `..ByteLm::new(64, 2, 4)`.
    pub fn new(dim: usize, layers: usize, heads: usize) -> Self {
        ByteLm {
            dim,
            layers,
            heads,
            kv_heads: None,
            ffn: None,
            window: default_window(),
            context_reset: no_reset(),
            rope_theta: theta(),
            eps: default_eps(),
        }
    }
}

impl ByteLm {
    pub(crate) fn block(&self) -> Result<BlockConfig, NodeError> {
        Sizes {
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            ffn: self.ffn,
            window: self.window,
            rope_theta: self.rope_theta,
            eps: self.eps,
        }
        .resolve()
    }
}

impl Node for ByteLm {
    const NAME: &'static str = "ByteLm";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["entropies", "loss", "logits"];
    const EXAMPLE: &'static str =
        "{node: ByteLm, in: docs, dim: 64, layers: 2, heads: 4, window: 128}";
    type In = Bytes;
    type Out = (Option<Entropies>, Option<Loss>, Option<Logits>);
    type State = model::ByteLm;

    fn check(
        &self,
        _: BytesInfo,
        _: &CheckCx,
    ) -> Result<(Option<()>, Option<()>, Option<()>), NodeError> {
        self.block()?;
        Ok((Some(()), Some(()), Some(())))
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<model::ByteLm, NodeError> {
        let block = self.block()?;
        with_params(cx, |maker| model::ByteLm::new(maker, self.layers, &block))
    }

    fn run(
        &self,
        part: &model::ByteLm,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<(Option<Rc<Vec<f32>>>, Option<LossValue>, Option<LogitsValue>), NodeError> {
        let session = session(cx);
        // A fresh context replaces the newline by BOS at the same place: positions stay, and
        // targets are the document's own.
        let lines = (self.context_reset == ContextReset::Newline).then(|| newline_reset(&batch));
        let seen: &Batch = lines.as_ref().unwrap_or(&batch);
        // Borders have no gradient: a graph that wants entropies alone records nothing here.
        let trains = cx.wanted("loss") || cx.wanted("logits");
        session.paused(!trains, || {
            let head = part.forward(&session, seen)?;
            let entropies = cx.wanted("entropies").then(|| head.entropies(&session)).transpose()?;
            let loss_of = || head.loss(&session, &next_byte_targets(&batch, false));
            let loss = cx.wanted("loss").then(loss_of).transpose()?.map(|loss| LossValue {
                loss: loss.loss,
                nats: Rc::new(loss.nats),
                batch: batch.clone(),
            });
            let logits = cx.wanted("logits").then(|| LogitsValue { head, batch: batch.clone() });
            Ok((entropies.map(Rc::new), loss, logits))
        })
    }
}

blt_graph::node!(ByteLm);
