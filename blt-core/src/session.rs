//! What a forward pass runs in.

use crate::backend::{
    Backend, BackendError, BlockConfig, BlockParams, CrossConfig, CrossParams, HashConfig,
    HeadLoss, Operations, ParamId, Pooling, Tensor,
};
use crate::flops;
use crate::patch::Patches;
use crate::planted::{Bug, planted};
use std::cell::Cell;
use std::rc::Rc;

/// Sums of squares over all cross-attention of a decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossNorms {
    /// Of what the latents gave.
    pub attention: f64,
    /// Of the states that it was added to.
    pub residual: f64,
}

/// What a forward pass runs in: a backend whose operations count the FLOPs of the shapes that they
/// compute. An operation of [`Session::backend`] itself is not counted.
pub struct Session {
    pub backend: Rc<dyn Backend>,
    flops: Cell<u64>,
    /// Sums of squares while cross-attention of the decoder is watched.
    watched: Cell<Option<CrossNorms>>,
    /// Weight of the current micro-batch in its optimiser step; a loss multiplies its scale by it.
    pub loss_weight: Cell<f64>,
}

impl Session {
    pub fn new(backend: Rc<dyn Backend>) -> Self {
        Session {
            backend,
            flops: Cell::new(0),
            watched: Cell::new(None),
            loss_weight: Cell::new(1.0),
        }
    }

    /// Runs something that is not recorded if `paused`: a part of a graph that no gradient flows
    /// through.
    pub fn paused<T>(&self, paused: bool, run: impl FnOnce() -> T) -> T {
        self.backend.pause(paused);
        let out = run();
        self.backend.pause(false);
        out
    }

    /// Sums what the decoder's cross-attention adds to the states, from now on. Each of its
    /// operations is then copied to the host.
    pub fn watch_cross(&self) {
        self.watched.set(Some(CrossNorms::default()));
    }

    /// The sums since [`watch_cross`](Self::watch_cross), if it was called; ends watching.
    pub fn take_cross(&self) -> Option<CrossNorms> {
        self.watched.take()
    }

    fn count(&self, flops: u64) {
        self.flops.set(self.flops.get() + flops);
    }

    fn count_head(&self, x: &Tensor, head: ParamId) {
        self.count(flops::head(x.rows, x.cols, self.backend.param_shape(head)[0]));
    }

    /// Forward FLOPs since they were last taken.
    pub fn flops(&self) -> u64 {
        self.flops.get()
    }

    /// Forward FLOPs since the last call (a multiply-add is two; allowed pairs only).
    pub fn take_flops(&self) -> u64 {
        self.flops.replace(0)
    }
}

/// The backend's operations, counted. Those that are not counted are no matrix products.
impl Operations for Session {
    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Tensor, BackendError> {
        self.backend.constant(rows, cols, data)
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, BackendError> {
        self.backend.to_host(x)
    }

    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
        self.backend.reshape(x, rows, cols)
    }

    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Result<Tensor, BackendError> {
        self.count(flops::embed());
        self.backend.embed(ids, offsets, tokens, hash)
    }

    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Result<Tensor, BackendError> {
        self.count(flops::block(config, offsets));
        if planted(Bug::Neighbour) {
            let joined = |i: usize| i.is_multiple_of(2) || i + 1 == offsets.len();
            let offsets: Vec<usize> =
                (0..offsets.len()).filter(|&i| joined(i)).map(|i| offsets[i]).collect();
            return self.backend.block(x, &offsets, params, config);
        }
        self.backend.block(x, offsets, params, config)
    }

    fn linear(&self, x: &Tensor, weight: ParamId) -> Result<Tensor, BackendError> {
        self.count(flops::linear(x.rows, x.cols, self.backend.param_shape(weight)[0]));
        self.backend.linear(x, weight)
    }

    fn pool(
        &self,
        h: &Tensor,
        patches: &Patches,
        pooling: Pooling,
    ) -> Result<Tensor, BackendError> {
        self.backend.pool(h, patches, pooling)
    }

    fn encoder_cross(
        &self,
        q: &Tensor,
        h: &Tensor,
        patches: &Patches,
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Result<Tensor, BackendError> {
        self.count(flops::encoder_cross(config, h.rows, patches.n_patches(), k));
        self.backend.encoder_cross(q, h, patches, k, params, config)
    }

    fn decoder_cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        reads: &[u32],
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Result<Tensor, BackendError> {
        self.count(flops::decoder_cross(config, x.rows, kv.rows / k.max(1), k));
        let out = self.backend.decoder_cross(x, kv, reads, k, params, config)?;
        if let Some(mut norms) = self.watched.get() {
            for (x, out) in self.backend.to_host(x)?.into_iter().zip(self.backend.to_host(&out)?) {
                norms.residual += f64::from(2.0 * x).powi(2);
                norms.attention += f64::from(out - 2.0 * x).powi(2);
            }
            self.watched.set(Some(norms));
        }
        Ok(out)
    }

    fn head_loss(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
        targets: &[Option<u16>],
        scale: f64,
    ) -> Result<HeadLoss, BackendError> {
        self.count_head(x, head);
        self.backend.head_loss(x, norm, head, eps, targets, scale)
    }

    fn head_logits(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        self.count_head(x, head);
        self.backend.head_logits(x, norm, head, eps)
    }

    fn head_entropies(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        self.count_head(x, head);
        self.backend.head_entropies(x, norm, head, eps)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        self.backend.add(a, b)
    }
}
