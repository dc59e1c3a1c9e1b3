//! Parameters, and the gradients that backward adds up.

use super::buffer::{Buffer, Lasting};
use super::weight::Stored;
use super::{ParamId, adamw, embed};
use std::collections::HashMap;

/// A parameter's gradient: dense, or rows of a table (sorted, each once).
#[derive(Clone)]
pub(crate) enum ParamGrad {
    Dense(Buffer),
    /// Row numbers, ascending, and their gradients `[rows.len(), cols]`.
    Rows(Vec<u32>, Buffer),
}

pub(crate) struct Param {
    pub shape: [usize; 2],
    pub data: Stored,
    pub by_rows: bool,
    pub grad: Option<ParamGrad>,
    /// First and second moments, allocated by the first update.
    pub moments: Option<(Lasting, Lasting)>,
    /// Steps that rows of a table have yet to see; data and moments are read through
    /// [`adamw::catch_up`].
    pub(super) lag: adamw::Lag,
}

/// What a backward closure reads and adds into.
pub(crate) struct Grads<'a> {
    pub(super) values: HashMap<usize, Buffer>,
    pub(super) params: &'a mut Vec<Param>,
}

impl Grads<'_> {
    /// Takes the gradient of a value that no later operation will add to (its producer's closure is
    /// running). None: no path from the loss reaches it, and the closure has nothing to do.
    pub fn take(&mut self, id: usize) -> Option<Buffer> {
        self.values.remove(&id)
    }

    /// Adds `grad` to a value's gradient.
    pub fn add(&mut self, id: usize, grad: Buffer) {
        match self.values.get_mut(&id) {
            None => {
                self.values.insert(id, grad);
            }
            Some(sum) => sum.iter_mut().zip(grad.iter()).for_each(|(s, g)| *s += g),
        }
    }

    /// The dense gradient of a parameter, zeros at first, to add into.
    pub fn dense(&mut self, id: ParamId) -> &mut [f32] {
        let param = &mut self.params[id.0];
        let len = param.data.len();
        match param.grad.get_or_insert_with(|| ParamGrad::Dense(Buffer::zeros(len))) {
            ParamGrad::Dense(grad) => grad,
            ParamGrad::Rows(..) => unreachable!("a table read by rows has no dense gradient"),
        }
    }

    /// Takes a parameter's dense gradient (zeros at first) to add into beside others;
    /// [`Grads::put_dense`] puts it back.
    pub fn take_dense(&mut self, id: ParamId) -> Buffer {
        let param = &mut self.params[id.0];
        match param.grad.take() {
            None => Buffer::zeros(param.data.len()),
            Some(ParamGrad::Dense(grad)) => grad,
            Some(ParamGrad::Rows(..)) => unreachable!("a table read by rows has no dense gradient"),
        }
    }

    /// Puts back what [`Grads::take_dense`] took.
    pub fn put_dense(&mut self, id: ParamId, grad: Buffer) {
        let param = &mut self.params[id.0];
        match &mut param.grad {
            // A parameter that was taken twice is summed.
            Some(ParamGrad::Dense(sum)) => {
                sum.iter_mut().zip(grad.iter()).for_each(|(s, g)| *s += g)
            }
            none => *none = Some(ParamGrad::Dense(grad)),
        }
    }

    /// Adds a gradient by rows (`rows` ascending, each once) to a table's.
    pub fn add_rows(&mut self, id: ParamId, rows: Vec<u32>, grad: Buffer) {
        let param = &mut self.params[id.0];
        param.grad = Some(match param.grad.take() {
            None => ParamGrad::Rows(rows, grad),
            Some(ParamGrad::Rows(r, g)) => embed::merge_rows(r, g, rows, grad, param.shape[1]),
            Some(ParamGrad::Dense(_)) => unreachable!("a table read by rows has no dense gradient"),
        });
    }
}
