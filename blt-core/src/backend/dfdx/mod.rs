//! The meaning of every operation: a [`Backend`] composed of dfdx operations, over f32 or f64, on
//! any dfdx device.
//!
//! It computes what the packed layout allows and no more (no dense mask, no padding), and takes
//! indices from the host. Gradients are those of dfdx's own backward operations; where dfdx's
//! gradient is not the model's (ties of a maximum), the composition is another. It is not made to
//! be fast.
//!
//! An error of the device is a [`BackendError::Device`]: every dfdx operation is called in its
//! `try_` form.

mod attention;
mod functions;
mod op;
mod operations;
mod params;
mod tape;

use crate::backend::device::{Device as Place, DeviceError};
use crate::backend::{
    AdamWStep, Backend, BackendError, Optimizer, ParamId, Parameters, Probe, Tape, Tensor, check,
};
use attention::{GPU_TILE_SCORES, Pair, Plan, TILE_SCORES, Visible};
use dfdx::prelude::{Cpu, Device, Gradients, HasShape, Storage, Synchronize, TryAdd};
use functions::{Flat, Rotation, index};
use op::{Leaf, Node, Value};
use params::{Keeping, Param};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tape::id_of;

/// An element type of the reference.
pub trait Element: dfdx::dtypes::Dtype {
    fn of(x: f64) -> Self;
    fn as_f64(self) -> f64;
}

impl Element for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn as_f64(self) -> f64 {
        self as f64
    }
}

impl Element for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn as_f64(self) -> f64 {
        self
    }
}

/// The reference backend over elements `E` on dfdx device `D`.
pub struct Dfdx<E: Element, D: Device<E>> {
    device: D,
    /// What the device reports itself as, and errors name.
    place: Place,
    /// Parameters, gradients and moments are on the device, tables too.
    resident: bool,
    params: RefCell<Vec<Param<E, D>>>,
    nodes: RefCell<Vec<Node<E, D>>>,
    recording: Cell<bool>,
    /// Recording goes on when the pause ends.
    paused: Cell<bool>,
    /// Counts the tapes, so that a value of a tape that is gone is a constant.
    tape_number: Cell<u64>,
    /// By theta's bits and head_dim.
    rotations: RefCell<BTreeMap<(u64, usize), Rotation<E, D>>>,
    /// The last plans and what they were made of: layers of one stack attend alike, and a plan's
    /// indices are made on the host.
    plans: RefCell<Vec<Planned<E, D>>>,
}

/// What a [`Plan`] is made of: pairs, heads and key/value heads, what is visible, the scale.
type PlanOf = (Vec<Pair>, [usize; 2], Visible, f64);

/// A plan, and what it was made of.
type Planned<E, D> = (PlanOf, Rc<Plan<E, D>>);

/// Plans that are kept: of the entropy model, the encoder, the latent transformer, the decoder and
/// the two cross-attentions.
const PLANS: usize = 6;

impl<E: Element> Dfdx<E, Cpu>
where
    Cpu: Device<E>,
{
    /// On the processor.
    pub fn cpu() -> Self {
        Dfdx::new(Cpu::default(), Place::Cpu)
    }
}

impl<E: Element, D: Device<E> + Synchronize> Dfdx<E, D> {
    /// On `device`, which is at `place`.
    pub fn new(device: D, place: Place) -> Self {
        Dfdx {
            device,
            place,
            resident: false,
            params: Default::default(),
            nodes: Default::default(),
            recording: Cell::new(false),
            paused: Cell::new(false),
            tape_number: Cell::new(0),
            rotations: Default::default(),
            plans: Default::default(),
        }
    }

    /// As [`new`](Self::new), with every parameter, table, gradient and moment on the device,
    /// updated there by dfdx's Adam kernel: for a device that the host's memory is far from.
    /// Its second moments are up to 5e-5 from the composed update's.
    pub fn resident(device: D, place: Place) -> Self {
        Dfdx { resident: true, ..Dfdx::new(device, place) }
    }

    /// [`Parameters::add_param`] with data of the element type.
    ///
    /// # Errors
    /// As `add_param`.
    pub fn add_param_elements(
        &self,
        shape: [usize; 2],
        data: Vec<E>,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        check::fills("add_param", shape, data.len())?;
        let keeping = match (self.resident, by_rows) {
            (true, _) => Keeping::Resident,
            (false, true) => Keeping::Rows,
            (false, false) => Keeping::Tensor,
        };
        let param = self.computing(|| Param::new(&self.device, shape, data, keeping))?;
        let mut params = self.params.borrow_mut();
        params.push(param);
        Ok(ParamId(params.len() - 1))
    }

    /// [`Parameters::read_param`] without rounding to f32.
    ///
    /// # Errors
    /// As `read_param`.
    pub fn read_param_elements(&self, id: ParamId) -> Result<Vec<E>, BackendError> {
        self.computing(|| self.params.borrow()[id.0].read())
    }

    /// [`Parameters::write_param`] without rounding to f32.
    ///
    /// # Errors
    /// As `write_param`.
    pub fn write_param_elements(&self, id: ParamId, data: &[E]) -> Result<(), BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        check::fills("write_param", param.shape, data.len())?;
        self.computing(|| param.write(&self.device, data))
    }

    /// [`Tape::grad`] without rounding to f32.
    ///
    /// # Errors
    /// As `grad`.
    pub fn grad_elements(&self, id: ParamId) -> Result<Option<Vec<E>>, BackendError> {
        self.computing(|| self.params.borrow()[id.0].grad())
    }

    /// [`Operations::to_host`] without rounding to f32.
    ///
    /// # Errors
    /// As `to_host`.
    pub fn to_host_elements(&self, x: &Tensor) -> Result<Vec<E>, BackendError> {
        let value = self.value_of(x)?;
        if x.rows * x.cols == 0 {
            return Ok(Vec::new());
        }
        self.computing(|| host(&value.data))
    }

    /// Runs something that the device may fail in.
    fn computing<T>(&self, run: impl FnOnce() -> Result<T, D::Err>) -> Result<T, BackendError> {
        let run = || run().map_err(|error| format!("{error:?}"));
        let result = match self.place {
            #[cfg(feature = "cuda")]
            Place::Cuda(_) => super::cuda::caught(run),
            _ => run(),
        };
        result.map_err(|reason| DeviceError::named(self.place, reason).into())
    }

    fn value_of<'a>(&self, x: &'a Tensor) -> Result<&'a Value<E, D>, BackendError> {
        let foreign = || BackendError::Foreign { shape: x.shape(), backend: "reference" };
        x.inner.downcast_ref().ok_or_else(foreign)
    }

    /// The node that computed a value, if it is on the present tape.
    fn node_of(&self, value: &Value<E, D>) -> Option<usize> {
        value.node.filter(|(tape, _)| *tape == self.tape_number.get()).map(|(_, node)| node)
    }

    fn drop_tape(&self) {
        self.nodes.borrow_mut().clear();
        self.tape_number.set(self.tape_number.get() + 1);
    }

    /// A matrix without elements. Devices do not allocate nothing, so its data is one number that
    /// no operation reads.
    fn empty(&self, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
        let data = self.computing(|| self.device.try_zeros_like(&(1usize, 1usize)))?;
        Ok(Tensor { rows, cols, inner: Rc::new(Value::<E, D> { data, node: None }) })
    }

    /// RoPE for positions that restart at each span.
    fn rotation(
        &self,
        offsets: &[usize],
        head_dim: usize,
        theta: f64,
    ) -> Result<Rotation<E, D>, D::Err> {
        let longest = offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0);
        let mut tables = self.rotations.borrow_mut();
        let key = (theta.to_bits(), head_dim);
        if tables.get(&key).is_none_or(|table| table.cos.shape().0 < longest) {
            let positions = longest.next_power_of_two();
            tables.insert(key, Rotation::table(&self.device, positions, head_dim, theta)?);
        }
        let positions = offsets.windows(2).flat_map(|s| 0..s[1] - s[0]).collect();
        tables[&key].at(index(&self.device, positions)?)
    }

    fn plan(&self, of: PlanOf) -> Result<Rc<Plan<E, D>>, D::Err> {
        let mut plans = self.plans.borrow_mut();
        if let Some((_, plan)) = plans.iter().find(|(made_of, _)| *made_of == of) {
            return Ok(plan.clone());
        }
        let (pairs, heads, visible, scale) = &of;
        let tile_scores = if self.resident { GPU_TILE_SCORES } else { TILE_SCORES };
        let plan = Plan::new(&self.device, pairs, *heads, *visible, *scale, tile_scores)?;
        let plan = Rc::new(plan);
        plans.truncate(PLANS - 1);
        plans.insert(0, (of, plan.clone()));
        Ok(plan)
    }
}

/// Copies a matrix to the host, row-major.
///
/// dfdx panics where the device fails during a copy, so the device is waited for first: an error
/// of what it computed until now is returned.
fn host<E: Element, D: Device<E> + Synchronize>(x: &Flat<E, D>) -> Result<Vec<E>, D::Err> {
    x.device().try_synchronize()?;
    let mut data = vec![E::of(0.0); x.shape().0 * x.shape().1];
    x.copy_into(&mut data);
    Ok(data)
}

fn to_f32<E: Element>(data: Vec<E>) -> Vec<f32> {
    data.into_iter().map(|x| x.as_f64() as f32).collect()
}

fn from_f32<E: Element>(data: &[f32]) -> Vec<E> {
    data.iter().map(|&x| E::of(x as f64)).collect()
}

impl<E: Element, D: Device<E> + Synchronize> Backend for Dfdx<E, D> {
    fn path(&self) -> &'static str {
        "reference"
    }

    fn device(&self) -> String {
        self.place.to_string()
    }
}

impl<E: Element, D: Device<E> + Synchronize> Parameters for Dfdx<E, D> {
    fn add_param(
        &self,
        shape: [usize; 2],
        data: Vec<f32>,
        by_rows: bool,
    ) -> Result<ParamId, BackendError> {
        self.add_param_elements(shape, from_f32(&data), by_rows)
    }

    fn param_shape(&self, id: ParamId) -> [usize; 2] {
        self.params.borrow()[id.0].shape
    }

    fn read_param(&self, id: ParamId) -> Result<Vec<f32>, BackendError> {
        self.read_param_elements(id).map(to_f32)
    }

    fn write_param(&self, id: ParamId, data: &[f32]) -> Result<(), BackendError> {
        self.write_param_elements(id, &from_f32(data))
    }
}

impl<E: Element, D: Device<E> + Synchronize> Tape for Dfdx<E, D> {
    fn record(&self, on: bool) {
        if !on {
            self.drop_tape();
        }
        self.recording.set(on);
        self.paused.set(false);
    }

    fn recording(&self) -> bool {
        self.recording.get()
    }

    fn pause(&self, on: bool) {
        if on && self.recording.replace(false) {
            self.paused.set(true);
        } else if !on && self.paused.replace(false) {
            self.recording.set(true);
        }
    }

    fn backward_observed(
        &self,
        loss: &Tensor,
        after: &mut dyn FnMut(usize) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        check::loss(loss)?;
        let value = self.value_of(loss)?;
        let start = self.node_of(value);
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        self.drop_tape();
        let Some(start) = start else { return Ok(()) };
        let mut grads = Gradients::leaky();
        self.computing(|| self.device.try_fill_with_ones(grads.get_or_alloc_mut(&value.data)?))?;
        let mut reached = vec![false; start + 1];
        reached[start] = true;
        nodes.truncate(start + 1);
        let mut leaves: Vec<Leaf<E, D>> = Vec::new();
        while let Some(Node { out, ops, inputs, params }) = nodes.pop() {
            if !reached[nodes.len()] {
                continue;
            }
            self.computing(|| ops.run(&mut grads))?;
            for (node, _) in &inputs {
                reached[*node] = true;
            }
            // What the operation computed on its way is done with, and so is the gradient of its
            // result, unless the result is a view of an input.
            let mut keep: Vec<_> = inputs.iter().map(|(_, data)| id_of(data)).collect();
            let viewed = keep.contains(&id_of(&out));
            keep.extend(params.iter().map(|leaf| id_of(&leaf.data)));
            grads.retain_leafs(&keep);
            if !viewed {
                self.computing(|| {
                    let nothing = Storage::<E>::try_alloc_len(&self.device, 1)?;
                    *grads.get_or_alloc_mut(&out)? = nothing;
                    Ok(())
                })?;
            }
            for leaf in params {
                if leaves.iter().all(|l| id_of(&l.data) != id_of(&leaf.data)) {
                    leaves.push(leaf);
                }
            }
            after(nodes.len())?;
        }
        let mut params = self.params.borrow_mut();
        for leaf in leaves {
            self.computing(|| {
                grads.try_alloc_for(&leaf.data)?;
                params[leaf.param.0].add_grad(grads.get(&leaf.data), leaf.rows.as_deref())
            })?;
        }
        Ok(())
    }

    fn grad(&self, id: ParamId) -> Result<Option<Vec<f32>>, BackendError> {
        Ok(self.grad_elements(id)?.map(to_f32))
    }

    fn zero_grads(&self) {
        self.params.borrow_mut().iter_mut().for_each(Param::zero_grad);
    }
}

impl<E: Element, D: Device<E> + Synchronize> Optimizer for Dfdx<E, D> {
    fn grad_norm_squared(&self, ids: &[ParamId]) -> Result<f64, BackendError> {
        let params = self.params.borrow();
        self.computing(|| {
            let mut on_device = None;
            for id in ids {
                if let Some(squares) = params[id.0].grad_squares()? {
                    on_device = Some(match on_device {
                        Some(sum) => Flat::try_add(sum, squares)?,
                        None => squares,
                    });
                }
            }
            let on_device = match on_device {
                Some(sum) => host(&sum)?[0].as_f64(),
                None => 0.0,
            };
            let squares = ids.iter().map(|id| params[id.0].grad_norm_squared());
            Ok(on_device + squares.sum::<Result<f64, _>>()?)
        })
    }

    fn adamw(&self, ids: &[ParamId], step: &AdamWStep) -> Result<(), BackendError> {
        let mut params = self.params.borrow_mut();
        self.computing(|| ids.iter().try_for_each(|id| params[id.0].adamw(&self.device, step)))
    }

    fn moments(&self, id: ParamId) -> Result<(Vec<f32>, Vec<f32>), BackendError> {
        let (m, v) = self.computing(|| self.params.borrow_mut()[id.0].moments())?;
        Ok((to_f32(m), to_f32(v)))
    }

    fn write_moments(&self, id: ParamId, m: &[f32], v: &[f32]) -> Result<(), BackendError> {
        let param = &mut self.params.borrow_mut()[id.0];
        check::fills("write_moments", param.shape, m.len())?;
        check::fills("write_moments", param.shape, v.len())?;
        self.computing(|| param.write_moments(&self.device, from_f32(m), from_f32(v)))
    }
}

impl<E: Element, D: Device<E> + Synchronize> Probe for Dfdx<E, D> {
    fn synchronize(&self) -> Result<(), BackendError> {
        self.computing(|| self.device.try_synchronize())
    }

    fn tape_len(&self) -> usize {
        self.nodes.borrow().len()
    }
}
