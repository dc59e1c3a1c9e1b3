//! What the model nodes share: their session, their parameter sets, and the checks of an
//! attention's sizes.

use crate::facilities::{ParamSet, provide};
use crate::ports::{LogitsValue, LossValue};
use blt_core::backend::{BlockConfig, CrossConfig};
use blt_core::bytes::Batch;
use blt_core::hf::{HfError, Weights};
use blt_core::model::{Head, Session, default_ffn, next_byte_targets};
use blt_core::params::ParamMaker;
use blt_core::planted::{Bug, planted};
use blt_graph::{BuildCx, NodeError, RunCx};
use std::collections::BTreeMap;
use std::rc::Rc;

const LENT: &str = "a step lends the session to the graph that it builds";

/// The session that the step lends: the backend that nodes compute on.
///
/// # Panics
/// If the graph was built without one.
pub fn session(cx: &RunCx) -> Rc<Session> {
    cx.world.get::<Session>().expect(LENT)
}

/// Entropies, loss and logits of a byte model, those that are wanted.
pub type ByteModelOutputs = (Option<Rc<Vec<f32>>>, Option<LossValue>, Option<LogitsValue>);

/// What a byte model's head gives for a batch: only what is wanted is computed.
///
/// # Errors
/// Of the device.
pub fn byte_model_outputs(
    head: Head,
    session: &Session,
    batch: &Rc<Batch>,
    cx: &RunCx,
) -> Result<ByteModelOutputs, NodeError> {
    let entropies = cx.wanted("entropies").then(|| head.entropies(session)).transpose()?;
    let loss_of = || head.loss(session, &next_byte_targets(batch, false));
    let loss = cx.wanted("loss").then(loss_of).transpose()?.map(|loss| LossValue {
        loss: loss.loss,
        nats: Rc::new(loss.nats),
        batch: batch.clone(),
    });
    let logits = cx.wanted("logits").then(|| LogitsValue { head, batch: batch.clone() });
    Ok((entropies.map(Rc::new), loss, logits))
}

/// Builds a part of the model whose parameters are read from `weights` (`names`: canonical names to
/// those in the files, where they differ), and provides them.
pub fn with_stored_params<T>(
    cx: &mut BuildCx,
    weights: &Weights,
    names: &BTreeMap<String, String>,
    make: impl FnOnce(&mut ParamMaker) -> T,
) -> Result<T, HfError> {
    let session = cx.world.get::<Session>().expect(LENT);
    let view = |name: &str, shape: &[usize]| {
        weights.view(names.get(name).map_or(name, String::as_str), shape)
    };
    let (part, params) = ParamMaker::read(&*session.backend, view, make)?;
    provide(cx, ParamSet(params));
    Ok(part)
}

/// Builds a part of the model and provides its parameters.
///
/// # Errors
/// A device that has no room for them.
pub fn with_params<T>(
    cx: &mut BuildCx,
    make: impl FnOnce(&mut ParamMaker) -> T,
) -> Result<T, NodeError> {
    let session = cx.world.get::<Session>().expect(LENT);
    let seed = if planted(Bug::SeedIgnored) { 0 } else { cx.seed };
    let mut maker = ParamMaker::new(&*session.backend, seed);
    let part = make(&mut maker);
    let params = maker.finish()?;
    provide(cx, ParamSet(params));
    Ok(part)
}

/// The sizes of a transformer block as a node's parameters give them.
pub struct Sizes {
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: Option<usize>,
    pub ffn: Option<usize>,
    pub window: Option<usize>,
    pub rope_theta: f64,
    pub eps: f64,
}

/// The [`Sizes`] in a node's parameters.
macro_rules! sizes {
    ($node:expr, dim: $dim:expr, window: $window:expr) => {
        $crate::model::Sizes {
            dim: $dim,
            layers: $node.layers,
            heads: $node.heads,
            kv_heads: $node.kv_heads,
            ffn: $node.ffn,
            window: $window,
            rope_theta: $node.rope_theta,
            eps: $node.eps,
        }
    };
}
pub(crate) use sizes;

impl Sizes {
    /// The sizes of a block as one would write them; inverse of `resolve` where a head's width is
    /// `dim / heads`.
    pub fn of(layers: usize, block: &BlockConfig) -> Self {
        let BlockConfig { dim, heads, kv_heads, ffn, window, rope_theta, eps, .. } = *block;
        let kv_heads = (kv_heads != heads).then_some(kv_heads);
        let ffn = (ffn != default_ffn(dim)).then_some(ffn);
        Sizes { dim, layers, heads, kv_heads, ffn, window, rope_theta, eps }
    }

    /// Checks the sizes and resolves what was left out. The errors name the parameter at fault.
    pub fn resolve(&self) -> Result<BlockConfig, NodeError> {
        if !self.dim.is_multiple_of(self.heads) {
            let msg = format!("a width of {} is not divisible by {} heads", self.dim, self.heads);
            let works = |h: &usize| self.dim.is_multiple_of(*h) && (self.dim / h).is_multiple_of(2);
            let heads: Vec<String> = (1..=self.dim).filter(works).map(|h| h.to_string()).collect();
            return Err(NodeError::param("heads", msg).help(match heads.is_empty() {
                true => format!("a width of {} is odd, and RoPE rotates pairs", self.dim),
                false => format!("heads that work here: {}", heads.join(", ")),
            }));
        }
        let head_dim = self.dim / self.heads;
        if !head_dim.is_multiple_of(2) {
            let msg = format!(
                "{} heads of a width of {} leave {head_dim} a head; RoPE rotates pairs and wants an even number",
                self.heads, self.dim
            );
            return Err(NodeError::param("heads", msg));
        }
        let kv_heads = self.kv_heads.unwrap_or(self.heads);
        if !self.heads.is_multiple_of(kv_heads) {
            return Err(NodeError::param(
                "kv_heads",
                format!("{} heads can't share {kv_heads} key/value heads evenly", self.heads),
            ));
        }
        Ok(BlockConfig {
            dim: self.dim,
            heads: self.heads,
            kv_heads,
            head_dim,
            ffn: self.ffn.unwrap_or_else(|| default_ffn(self.dim)),
            window: self.window,
            rope_theta: self.rope_theta,
            eps: self.eps,
        })
    }
}

/// Cross-attention of the same heads as a part's blocks.
pub fn cross_of(block: &BlockConfig) -> CrossConfig {
    CrossConfig {
        dim: block.dim,
        heads: block.heads,
        kv_heads: block.kv_heads,
        head_dim: block.head_dim,
        eps: block.eps,
    }
}
