//! The fused CPU path: each operation at the size of a block, forward and backward over packed host
//! slices.
//!
//! A [`Fused`] owns its parameters as host buffers and a tape of closures. An operation computes
//! its output into a fresh buffer and, while recording, pushes one closure that reads the output's
//! gradient and adds into those of its inputs and parameters. Same seed, same bits: reductions have
//! a fixed order, whatever the number of threads, and a row's numbers do not depend on what it is
//! batched with.

use crate::backend::{
    AdamWStep, Backend, BackendError, BlockConfig, BlockParams, CrossConfig, CrossParams,
    HashConfig, HeadLoss, Operations, Optimizer, ParamId, Parameters, Pooling, Probe, Tape, Tensor,
    check,
};
use crate::patch::Patches;
use crate::tensor_file::MappedTensor;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

mod adamw;
mod attention;
mod block;
mod buffer;
mod cross;
pub mod embed;
mod gemm;
mod grads;
mod head;
mod linear;
mod loops;
mod norm;
mod pool;
mod ragged;
mod rms_norm;
mod rope;
pub(crate) mod rows;
#[cfg(test)]
mod testing;
mod tile;
mod weight;
mod weight_grads;

use buffer::{Buffer, Lasting};
pub(crate) use grads::{Grads, Param, ParamGrad};
pub use weight::HostParam;
use weight::{Stored, Weight};

/// A value of the fused path: row-major `[rows, cols]`. `id` is its slot in [`Grads`].
pub(crate) struct Value {
    pub rows: usize,
    pub cols: usize,
    pub data: Arc<Buffer>,
    pub id: usize,
}

type BackwardOp = Box<dyn FnOnce(&mut Grads) + Send>;

/// The fused backend. Made by [`Fused::new`]; used from one thread, computes on rayon's.
#[derive(Default)]
pub struct Fused {
    params: RefCell<Vec<Param>>,
    tape: RefCell<Option<Vec<BackwardOp>>>,
    /// The tape during a pause.
    paused: RefCell<Option<Vec<BackwardOp>>>,
    next_id: Cell<usize>,
    recompute: Cell<bool>,
}

/// The best rate of large `f32` matrix products that this machine was seen to reach now, on rayon's
/// threads, in FLOP/s: what shares of the machine are measured against. Takes about a second.
pub fn machine_rate() -> f64 {
    gemm::machine_rate()
}

/// The vector instructions that kernels use here: `avx512`, `avx2` or `scalar`.
pub fn level() -> &'static str {
    crate::simd::Level::best().name()
}

/// Runs an operation on a thread of rayon's pool, and its parallel loops from there. A loop that
/// starts outside the pool puts the caller to sleep and wakes it at the end, and the pool's threads
/// in between: two hundredths of a training step's time.
pub(crate) fn on_pool<R: Send>(op: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| op())
}

impl Fused {
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend's own view of a tensor.
    pub(crate) fn value<'a>(&self, x: &'a Tensor) -> Result<&'a Value, BackendError> {
        let foreign = || BackendError::Foreign { shape: x.shape(), backend: "fused" };
        x.inner.downcast_ref().ok_or_else(foreign)
    }

    pub(crate) fn weight(&self, id: ParamId) -> Weight {
        let param = &mut self.params.borrow_mut()[id.0];
        adamw::catch_up(param);
        param.data.weight().clone()
    }

    fn add_stored(
        &self,
        shape: [usize; 2],
        data: Stored,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        check::fills("add_param", shape, data.len())?;
        let mut params = self.params.borrow_mut();
        params.push(Param {
            shape,
            data,
            by_rows,
            grad: None,
            moments: None,
            lag: Default::default(),
        });
        Ok(ParamId(params.len() - 1))
    }

    /// Makes an output value.
    pub(crate) fn output(
        &self,
        rows: usize,
        cols: usize,
        data: impl Into<Arc<Buffer>>,
    ) -> (Tensor, usize) {
        let data = data.into();
        debug_assert_eq!(data.len(), rows * cols);
        let id = self.next_id.replace(self.next_id.get() + 1);
        (Tensor { rows, cols, inner: Rc::new(Value { rows, cols, data, id }) as Rc<dyn Any> }, id)
    }

    /// Records a backward closure; call it only while recording (saving activations is what
    /// recording costs).
    pub(crate) fn push(&self, op: impl FnOnce(&mut Grads) + Send + 'static) {
        if let Some(tape) = self.tape.borrow_mut().as_mut() {
            tape.push(Box::new(op));
        }
    }
}

impl Backend for Fused {
    fn path(&self) -> &'static str {
        "fused"
    }

    fn device(&self) -> String {
        "cpu".into()
    }
}

impl Parameters for Fused {
    fn add_param(
        &self,
        shape: [usize; 2],
        data: Vec<f32>,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        self.add_stored(shape, Stored::F32(data.into()), by_rows)
    }

    /// f32, and tables of bf16, stay where they lie until they are first written to.
    fn add_mapped_param(
        &self,
        shape: [usize; 2],
        data: MappedTensor,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        self.add_stored(shape, Stored::mapped(data, by_rows), by_rows)
    }

    fn param_shape(&self, id: ParamId) -> [usize; 2] {
        self.params.borrow()[id.0].shape
    }

    fn read_param(&self, id: ParamId) -> Result<Vec<f32>, BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        adamw::catch_up(param);
        Ok(param.data.to_vec())
    }

    fn host_param(&self, id: ParamId) -> Result<HostParam, BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        adamw::catch_up(param);
        Ok(HostParam::shared(param.shape, &param.data))
    }

    fn write_param(&self, id: ParamId, data: &[f32]) -> Result<(), BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        check::fills("write_param", param.shape, data.len())?;
        adamw::catch_up(param);
        param.data = Stored::F32(Lasting::copy(data).into());
        Ok(())
    }
}

impl Tape for Fused {
    fn record(&self, on: bool) {
        *self.tape.borrow_mut() = on.then(Vec::new);
    }

    fn recording(&self) -> bool {
        self.tape.borrow().is_some()
    }

    fn pause(&self, on: bool) {
        let (from, to) = if on { (&self.tape, &self.paused) } else { (&self.paused, &self.tape) };
        if let Some(tape) = from.borrow_mut().take() {
            *to.borrow_mut() = Some(tape);
        }
    }

    fn recompute(&self, on: bool) {
        self.recompute.set(on);
    }

    fn backward_observed(
        &self,
        loss: &Tensor,
        after: &mut dyn FnMut(usize) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        check::loss(loss)?;
        let start = self.value(loss)?.id;
        let ops = self.tape.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        let mut params = self.params.borrow_mut();
        let mut grads = Grads { values: HashMap::new(), params: &mut params };
        grads.values.insert(start, vec![1.0].into());
        for (i, op) in ops.into_iter().enumerate().rev() {
            on_pool(|| op(&mut grads));
            after(i)?;
        }
        Ok(())
    }

    fn grad(&self, id: ParamId) -> Result<Option<Vec<f32>>, BackendError> {
        let params = self.params.borrow();
        let param = &params[id.0];
        Ok(param.grad.as_ref().map(|grad| match grad {
            ParamGrad::Dense(grad) => grad.to_vec(),
            ParamGrad::Rows(rows, grad) => {
                let cols = param.shape[1];
                let mut dense = vec![0.0; param.data.len()];
                for (&row, g) in rows.iter().zip(grad.chunks_exact(cols)) {
                    dense[row as usize * cols..][..cols].copy_from_slice(g);
                }
                dense
            }
        }))
    }

    fn zero_grads(&self) {
        self.params.borrow_mut().iter_mut().for_each(|p| p.grad = None);
    }
}

impl Optimizer for Fused {
    fn grad_norm_squared(&self, ids: &[ParamId]) -> Result<f64, BackendError> {
        let params = &*self.params.borrow();
        Ok(on_pool(|| {
            ids.iter().filter_map(|id| params[id.0].grad.as_ref()).map(adamw::squared_norm).sum()
        }))
    }

    fn adamw(&self, ids: &[ParamId], step: &AdamWStep) -> Result<(), BackendError> {
        let params = &mut *self.params.borrow_mut();
        on_pool(|| ids.iter().for_each(|id| adamw::update(&mut params[id.0], step)));
        Ok(())
    }

    fn moments(&self, id: ParamId) -> Result<(Vec<f32>, Vec<f32>), BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        adamw::catch_up(param);
        let zeros = || vec![0.0; param.data.len()];
        let moments = param.moments.as_ref().map(|(m, v)| (m.to_vec(), v.to_vec()));
        Ok(moments.unwrap_or_else(|| (zeros(), zeros())))
    }

    fn write_moments(&self, id: ParamId, m: &[f32], v: &[f32]) -> Result<(), BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        check::fills("write_moments", param.shape, m.len())?;
        check::fills("write_moments", param.shape, v.len())?;
        adamw::catch_up(param);
        param.moments = Some((Lasting::copy(m), Lasting::copy(v)));
        Ok(())
    }
}

impl Probe for Fused {
    fn tape_len(&self) -> usize {
        let len =
            |tape: &RefCell<Option<Vec<BackwardOp>>>| tape.borrow().as_ref().map_or(0, Vec::len);
        len(&self.tape) + len(&self.paused)
    }

    fn touch_moments(&self, ids: &[ParamId]) {
        /// Elements of a page, at most: pages are at least 4 KiB.
        const PAGE: usize = 4096 / size_of::<f32>();
        let params = &mut *self.params.borrow_mut();
        for id in ids {
            let param = &mut params[id.0];
            let (m, v) = adamw::moments(&mut param.moments, param.data.len());
            for x in m.iter_mut().step_by(PAGE).chain(v.iter_mut().step_by(PAGE)) {
                *x = std::hint::black_box(*x);
            }
        }
    }
}

impl Operations for Fused {
    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Tensor, BackendError> {
        check::constant([rows, cols], data.len())?;
        Ok(self.output(rows, cols, Buffer::from(data)).0)
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, BackendError> {
        Ok(self.value(x)?.data.to_vec())
    }

    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
        check::reshape(x, [rows, cols])?;
        let from = self.value(x)?;
        let (y, out) = self.output(rows, cols, from.data.clone());
        if self.recording() {
            let into = from.id;
            self.push(move |grads| {
                if let Some(grad) = grads.take(out) {
                    grads.add(into, grad);
                }
            });
        }
        Ok(y)
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        check::add(a, b)?;
        let (a, b) = (self.value(a)?, self.value(b)?);
        let mut sum = Buffer::copy(&a.data);
        sum.iter_mut().zip(b.data.iter()).for_each(|(a, b)| *a += b);
        let (y, out) = self.output(a.rows, a.cols, sum);
        if self.recording() {
            let (a, b) = (a.id, b.id);
            self.push(move |grads| {
                if let Some(grad) = grads.take(out) {
                    grads.add(a, grad.clone());
                    grads.add(b, grad);
                }
            });
        }
        Ok(y)
    }

    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Result<Tensor, BackendError> {
        embed::embed(self, ids, offsets, tokens, hash)
    }

    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Result<Tensor, BackendError> {
        block::block(self, x, offsets, params, config)
    }

    fn linear(&self, x: &Tensor, weight: ParamId) -> Result<Tensor, BackendError> {
        linear::linear(self, x, weight)
    }

    fn pool(
        &self,
        h: &Tensor,
        patches: &Patches,
        pooling: Pooling,
    ) -> Result<Tensor, BackendError> {
        pool::pool(self, h, patches, pooling)
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
        cross::encoder(self, q, h, patches, k, params, config)
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
        cross::decoder(self, x, kv, reads, k, params, config)
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
        head::loss(self, x, norm, head, eps, targets, scale)
    }

    fn head_logits(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        head::logits(self, x, norm, head, eps)
    }

    fn head_entropies(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        head::entropies(self, x, norm, head, eps)
    }
}
