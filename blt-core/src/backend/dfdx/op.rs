//! Values, and an operation under way: what it reads, and what of it is recorded.

use super::functions::{Flat, Matrix, gather, index};
use super::tape::{SharedTape, id_of};
use super::{Dfdx, Element};
use crate::backend::{ParamId, Tensor};
use dfdx::prelude::{Device, HasShape, PutTape, ReshapeTo, SplitTape, Synchronize};
use std::any::Any;
use std::rc::Rc;

/// What a [`Tensor`] holds.
pub(super) struct Value<E: Element, D: Device<E>> {
    pub data: Flat<E, D>,
    /// Tape number and node; None for constants.
    pub node: Option<(u64, usize)>,
}

/// One recorded operation.
pub(super) struct Node<E: Element, D: Device<E>> {
    pub out: Flat<E, D>,
    pub ops: SharedTape<E, D>,
    /// Inputs that were computed on the tape: their nodes and values.
    pub inputs: Vec<(usize, Flat<E, D>)>,
    pub params: Vec<Leaf<E, D>>,
}

/// A parameter as an operation read it.
pub(super) struct Leaf<E: Element, D: Device<E>> {
    pub param: ParamId,
    pub data: Flat<E, D>,
    /// Which rows of the parameter `data` holds; None: all.
    pub rows: Option<Vec<usize>>,
}

/// An operation under way.
pub(super) struct Op<'a, E: Element, D: Device<E>> {
    backend: &'a Dfdx<E, D>,
    tape: SharedTape<E, D>,
    recorded: bool,
    inputs: Vec<(usize, Flat<E, D>)>,
    params: Vec<Leaf<E, D>>,
}

impl<E: Element, D: Device<E> + Synchronize> Op<'_, E, D> {
    /// A value as an input.
    pub fn input(&mut self, value: &Value<E, D>) -> Matrix<E, D> {
        if let Some(node) = self.backend.node_of(value)
            && self.inputs.iter().all(|(_, data)| id_of(data) != id_of(&value.data))
        {
            self.inputs.push((node, value.data.clone()));
        }
        value.data.clone().put_tape(self.tape.clone())
    }

    /// A whole parameter.
    pub fn param(&mut self, id: ParamId) -> Result<Matrix<E, D>, D::Err> {
        let (data, rows) = {
            let params = self.backend.params.borrow();
            let param = &params[id.0];
            match param.tensor() {
                Some(tensor) => (tensor.clone(), None),
                None => {
                    let rows: Vec<usize> = (0..param.shape[0]).collect();
                    (param.rows(&self.backend.device, &rows)?, Some(rows))
                }
            }
        };
        Ok(self.leaf(Leaf { param: id, data, rows }))
    }

    /// Rows `rows` of a parameter; of one that is kept by rows, only these go to the device.
    /// `[rows, cols]`
    pub fn param_rows(&mut self, id: ParamId, rows: Vec<usize>) -> Result<Matrix<E, D>, D::Err> {
        let device = &self.backend.device;
        let by_rows = self.backend.params.borrow()[id.0].tensor().is_none();
        if !by_rows {
            return gather(self.param(id)?, index(device, rows)?);
        }
        let mut touched = rows.clone();
        touched.sort_unstable();
        touched.dedup();
        let data = self.backend.params.borrow()[id.0].rows(device, &touched)?;
        let at =
            rows.iter().map(|row| touched.binary_search(row).expect("a touched row")).collect();
        gather(self.leaf(Leaf { param: id, data, rows: Some(touched) }), index(device, at)?)
    }

    fn leaf(&mut self, leaf: Leaf<E, D>) -> Matrix<E, D> {
        let data = leaf.data.clone().put_tape(self.tape.clone());
        if self.recorded && self.params.iter().all(|l| id_of(&l.data) != id_of(&leaf.data)) {
            self.params.push(leaf);
        }
        data
    }

    /// Ends the operation with its result.
    pub fn finish(self, out: Matrix<E, D>) -> Result<Tensor, D::Err> {
        let (data, _) = out.try_contiguous()?.split_tape();
        let node = self.recorded.then(|| {
            let mut nodes = self.backend.nodes.borrow_mut();
            nodes.push(Node {
                out: data.clone(),
                ops: self.tape,
                inputs: self.inputs,
                params: self.params,
            });
            (self.backend.tape_number.get(), nodes.len() - 1)
        });
        Ok(tensor(Value { data, node }))
    }
}

pub(super) fn tensor<E: Element, D: Device<E>>(value: Value<E, D>) -> Tensor {
    let (rows, cols) = *value.data.shape();
    Tensor { rows, cols, inner: Rc::new(value) as Rc<dyn Any> }
}

impl<E: Element, D: Device<E> + Synchronize> Dfdx<E, D> {
    /// Starts an operation that reads parameters.
    pub(super) fn op(&self) -> Op<'_, E, D> {
        self.op_if(self.recording.get())
    }

    /// Starts an operation that is recorded only where one of its inputs was.
    pub(super) fn op_of(&self, inputs: &[&Value<E, D>]) -> Op<'_, E, D> {
        let depends = |x: &&Value<E, D>| self.node_of(x).is_some();
        self.op_if(self.recording.get() && inputs.iter().any(depends))
    }

    pub(super) fn op_if(&self, recorded: bool) -> Op<'_, E, D> {
        let tape = if recorded { SharedTape::recording() } else { SharedTape::default() };
        Op { backend: self, tape, recorded, inputs: Vec::new(), params: Vec::new() }
    }
}
