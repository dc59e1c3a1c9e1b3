//! The traits of a backend, one for each role.
//!
//! Methods take `&self`: a backend keeps its parameters and its tape behind cells, and is used from
//! one thread (it may compute on many). Shapes are `[rows, cols]`; `n` is ids on the packed axis,
//! `P` patches. Methods that return no `Result` change what the backend remembers, and compute
//! nothing.

use super::config::{AdamWStep, BlockConfig, BlockParams, CrossConfig, CrossParams, HashConfig};
use super::fused::HostParam;
use super::{BackendError, ParamId, Pooling, Tensor};
use crate::patch::Patches;
use crate::tensor_file::MappedTensor;

/// All that a model needs to be computed and trained.
pub trait Backend: Parameters + Tape + Operations + Optimizer + Probe {
    /// The compute path: `fused` or `reference`.
    fn path(&self) -> &'static str;
    /// `cpu` or `cuda:0`.
    fn device(&self) -> String;
}

/// The numbers that training learns.
pub trait Parameters {
    /// Registers a parameter of `shape` `[rows, cols]` (a norm's weight is `[1, dim]`) with the
    /// row-major `data`. `by_rows`: it is read by rows (an embedding or a hash table), so that a
    /// step touches few of them.
    ///
    /// # Errors
    /// Data that does not fill the shape, or a device that has no room.
    fn add_param(
        &self,
        shape: [usize; 2],
        data: Vec<f32>,
        by_rows: bool,
    ) -> Result<ParamId, BackendError>;
    /// As [`add_param`](Self::add_param), of numbers in a mapped file. By default they are copied
    /// now; a backend that can reads them in the file, and copies them when they are first written
    /// to.
    ///
    /// # Errors
    /// As `add_param`.
    fn add_mapped_param(
        &self,
        shape: [usize; 2],
        data: MappedTensor,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        self.add_param(shape, data.to_f32(), by_rows)
    }
    fn param_shape(&self, id: ParamId) -> [usize; 2];
    /// Copies a parameter to the host, row-major.
    ///
    /// # Errors
    /// A device that failed.
    fn read_param(&self, id: ParamId) -> Result<Vec<f32>, BackendError>;
    /// A parameter's numbers to compute with on the host. By default a copy; a backend that keeps
    /// them there shares them. Later updates of the parameter do not reach them.
    ///
    /// # Errors
    /// A device that failed.
    fn host_param(&self, id: ParamId) -> Result<HostParam, BackendError> {
        Ok(HostParam::new(self.param_shape(id), self.read_param(id)?))
    }
    /// # Errors
    /// Data that does not fill the parameter, or a device that failed.
    fn write_param(&self, id: ParamId, data: &[f32]) -> Result<(), BackendError>;
}

/// What was computed, for the way back to gradients.
pub trait Tape {
    /// True: operations are recorded from now on, on an empty tape. False: the tape is dropped and
    /// nothing is recorded.
    fn record(&self, on: bool);
    fn recording(&self) -> bool;
    /// While paused, operations compute and are not recorded; the tape is kept until the pause
    /// ends. For parts of a graph that no gradient flows through. Pausing what is not recording
    /// does nothing.
    fn pause(&self, on: bool);
    /// From now on a recorded block keeps its input alone, and backward computes the rest again:
    /// less memory, about a third more time, the same bits. A backend that cannot do so keeps
    /// everything.
    fn recompute(&self, on: bool) {
        let _ = on;
    }
    /// Runs the tape backward from `loss` (`[1, 1]`), adds into the parameters' gradients, and
    /// empties the tape. Recording stays on. Parameters that the loss does not depend on get no
    /// gradient.
    ///
    /// # Errors
    /// A device that failed; gradients are then incomplete.
    fn backward(&self, loss: &Tensor) -> Result<(), BackendError> {
        self.backward_observed(loss, &mut |_| Ok(()))
    }
    /// As [`backward`](Self::backward), for those who measure: calls `after(i)` when operation i of
    /// the tape has run, from the last to the first. Operations that no gradient reaches may be
    /// left out.
    ///
    /// # Errors
    /// As `backward`, and the first error of `after`.
    fn backward_observed(
        &self,
        loss: &Tensor,
        after: &mut dyn FnMut(usize) -> Result<(), BackendError>,
    ) -> Result<(), BackendError>;
    /// The dense gradient, row-major; None if no backward reached the parameter since
    /// [`zero_grads`](Self::zero_grads).
    ///
    /// # Errors
    /// A device that failed.
    fn grad(&self, id: ParamId) -> Result<Option<Vec<f32>>, BackendError>;
    fn zero_grads(&self);
}

/// Updates parameters by their gradients.
pub trait Optimizer {
    /// Sum of squares of the gradients of `ids`, in a fixed order, accumulated in f64 (on a GPU in
    /// f32, in any order).
    ///
    /// # Errors
    /// A device that failed.
    fn grad_norm_squared(&self, ids: &[ParamId]) -> Result<f64, BackendError>;
    /// Updates those of `ids` that have a gradient; the others are neither updated nor decayed.
    ///
    /// # Errors
    /// A device that failed; some parameters are then updated and others are not.
    fn adamw(&self, ids: &[ParamId], step: &AdamWStep) -> Result<(), BackendError>;
    /// First and second moments, row-major (zeros before the first update).
    ///
    /// # Errors
    /// A device that failed.
    fn moments(&self, id: ParamId) -> Result<(Vec<f32>, Vec<f32>), BackendError>;
    /// # Errors
    /// Data that does not fill the parameter's shape, or a device that failed.
    fn write_moments(&self, id: ParamId, m: &[f32], v: &[f32]) -> Result<(), BackendError>;
}

/// What measuring needs and computing does not.
pub trait Probe {
    /// Waits until everything asked so far is computed: a GPU computes on while the host asks for
    /// more.
    ///
    /// # Errors
    /// A device that failed since it was last waited for.
    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }
    /// Operations on the tape.
    fn tape_len(&self) -> usize;
    /// Makes every page of the moments of `ids` exist: a table's rows that no step has reached may
    /// have none yet.
    fn touch_moments(&self, ids: &[ParamId]) {
        let _ = ids;
    }
}

/// Result of [`Operations::head_loss`].
pub struct HeadLoss {
    /// `[1, 1]`: `scale * sum of nats over the counted positions`; the value that `backward`
    /// starts from.
    pub loss: Tensor,
    /// Nats of each position's target, `[n]`; 0 where nothing is predicted.
    pub nats: Vec<f32>,
}

/// Every differentiable operation of the model.
///
/// # Errors
/// All of them: operands that do not fit together ([`BackendError::Operands`]), a configuration
/// that cannot be computed, a tensor of another backend, a device that failed.
pub trait Operations {
    /// A constant (no gradient flows out of it).
    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Tensor, BackendError>;
    /// Copies a value to the host, row-major `[rows, cols]`.
    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, BackendError>;
    /// The same numbers under another shape.
    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Result<Tensor, BackendError>;
    /// `tokens[id_i] + sum over tables of table[hash(window ending at i)]`, `[n, dim]`. The window
    /// of size m is the last m ids ending at i, left-padded with id 0 at its span's start; `h =
    /// sum_j id[i-m+1+j] * prime^j` in wrapping i64, floored modulo `vocab`. No normalisation.
    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Result<Tensor, BackendError>;
    /// One transformer block over spans `offsets` (`[spans + 1]` into the rows of x). `[n, dim] ->
    /// [n, dim]`
    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Result<Tensor, BackendError>;
    /// `x @ W^T`, `[n, in] -> [n, out]`.
    fn linear(&self, x: &Tensor, weight: ParamId) -> Result<Tensor, BackendError>;
    /// Pools each patch's rows of h. `[n, dim] -> [P, dim]`
    fn pool(&self, h: &Tensor, patches: &Patches, pooling: Pooling)
    -> Result<Tensor, BackendError>;
    /// Encoder cross-attention: query row `p * k + j` (of `q`, `[P * k, dim]`) sees the rows of h
    /// in patch p alone. Returns `2 q + o_proj(attn(q_proj(q_norm q), k_proj(k_norm h),
    /// v_proj(k_norm h)))`, `[P * k, dim]`.
    fn encoder_cross(
        &self,
        q: &Tensor,
        h: &Tensor,
        patches: &Patches,
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Result<Tensor, BackendError>;
    /// Decoder cross-attention: row i of x sees rows `reads[i] * k .. reads[i] * k + k` of kv
    /// (`[P * k, dim]`) alone. Returns `2 x + o_proj(attn(q_proj(q_norm x), k_proj(k_norm kv),
    /// v_proj(k_norm kv)))`, `[n, dim]`.
    fn decoder_cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        reads: &[u32],
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Result<Tensor, BackendError>;
    /// `lm_head(RMSNorm(x))` and the cross-entropy of `targets` (`[n]`; None: nothing is predicted
    /// there). The logits are not kept beyond what backward needs.
    fn head_loss(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
        targets: &[Option<u16>],
        scale: f64,
    ) -> Result<HeadLoss, BackendError>;
    /// `lm_head(RMSNorm(x))` on the host, `[n, vocab]`; never recorded.
    fn head_logits(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError>;
    /// Entropy in nats of the softmax of `head_logits`, `[n]`; never recorded, the logits are not
    /// kept.
    fn head_entropies(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError>;
    /// Sum of two losses or states of one shape.
    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError>;
}
