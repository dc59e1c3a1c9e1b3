//! The meaning of every operation: [`Backend`] composed of dfdx operations, over f32 or f64, on any
//! dfdx device.
//!
//! It computes only what the packed layout allows (no dense mask, no padding) and leans on the host
//! for indices alone. Speed is not its business. Gradients come from dfdx's own backward
//! operations; where dfdx's gradient is not the model's (ties of a maximum), the composition says
//! so.
//!
//! Errors of the device (out of memory) and shapes that break the contract of [`Backend`] panic;
//! [`crate::backend::gpu::failure`] tells the former.

mod attention;
mod functions;
mod params;
mod tape;

use crate::backend::{
    AdamWStep, Backend, BlockConfig, BlockParams, CrossConfig, CrossParams, HashConfig, HeadLoss,
    ParamId, Pooling, Tensor,
};
use crate::hash::hash_ids;
use crate::patch::Patches;
use attention::{GPU_TILE_SCORES, Pair, Plan, TILE_SCORES, Visible, causal_pairs};
use dfdx::prelude::{Axis, Cpu, Device, Gradients, Rank0, SplitTape, Storage, Synchronize};
use dfdx::prelude::{BroadcastTo, HasShape, MaxTo, MeanTo, PutTape, ReshapeTo, SelectTo, SumTo};
use functions::{
    Flat, Matrix, Rotation, Taped, by_length, chunks, concat, detached, gather, index, inverse,
    linear, max_of_equals, rms_norm, silu, untaped,
};
use params::{Keeping, Param};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use tape::{SharedTape, id_of};

/// Rows whose logits exist at once where they are not needed again.
const LOGIT_ROWS: usize = 4096;

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
    device_name: String,
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

/// What a [`Tensor`] holds.
struct Value<E: Element, D: Device<E>> {
    data: Flat<E, D>,
    /// Tape number and node; None for constants.
    node: Option<(u64, usize)>,
}

/// One recorded operation.
struct Node<E: Element, D: Device<E>> {
    out: Flat<E, D>,
    ops: SharedTape<E, D>,
    /// Inputs that were computed on the tape: their nodes and values.
    inputs: Vec<(usize, Flat<E, D>)>,
    params: Vec<Leaf<E, D>>,
}

/// A parameter as an operation read it.
struct Leaf<E: Element, D: Device<E>> {
    param: ParamId,
    data: Flat<E, D>,
    /// Which rows of the parameter `data` holds; None: all.
    rows: Option<Vec<usize>>,
}

/// An operation under way.
struct Op<'a, E: Element, D: Device<E>> {
    backend: &'a Dfdx<E, D>,
    tape: SharedTape<E, D>,
    recorded: bool,
    inputs: Vec<(usize, Flat<E, D>)>,
    params: Vec<Leaf<E, D>>,
}

impl<E: Element, D: Device<E>> Op<'_, E, D> {
    fn input(&mut self, x: &Tensor) -> Matrix<E, D> {
        let value = self.backend.value_of(x);
        if let Some(node) = self.backend.node_of(value)
            && self.inputs.iter().all(|(_, data)| id_of(data) != id_of(&value.data))
        {
            self.inputs.push((node, value.data.clone()));
        }
        value.data.clone().put_tape(self.tape.clone())
    }

    fn param(&mut self, id: ParamId) -> Matrix<E, D> {
        let (data, rows) = {
            let params = self.backend.params.borrow();
            let param = &params[id.0];
            match param.tensor() {
                Some(tensor) => (tensor.clone(), None),
                None => {
                    let rows: Vec<usize> = (0..param.shape[0]).collect();
                    (param.rows(&self.backend.device, &rows), Some(rows))
                }
            }
        };
        self.leaf(Leaf { param: id, data, rows })
    }

    /// Rows `rows` of a parameter; of one that is kept by rows, only these go to the device.
    /// `[rows, cols]`
    fn param_rows(&mut self, id: ParamId, rows: Vec<usize>) -> Matrix<E, D> {
        let device = &self.backend.device;
        let by_rows = self.backend.params.borrow()[id.0].tensor().is_none();
        if !by_rows {
            return gather(self.param(id), index(device, rows));
        }
        let mut touched = rows.clone();
        touched.sort_unstable();
        touched.dedup();
        let data = self.backend.params.borrow()[id.0].rows(device, &touched);
        let at =
            rows.iter().map(|row| touched.binary_search(row).expect("a touched row")).collect();
        gather(self.leaf(Leaf { param: id, data, rows: Some(touched) }), index(device, at))
    }

    fn leaf(&mut self, leaf: Leaf<E, D>) -> Matrix<E, D> {
        let data = leaf.data.clone().put_tape(self.tape.clone());
        if self.recorded && self.params.iter().all(|l| id_of(&l.data) != id_of(&leaf.data)) {
            self.params.push(leaf);
        }
        data
    }

    fn finish(self, out: Matrix<E, D>) -> Tensor {
        let (data, _) = out.contiguous().split_tape();
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
        tensor(Value { data, node })
    }
}

fn tensor<E: Element, D: Device<E>>(value: Value<E, D>) -> Tensor {
    let (rows, cols) = *value.data.shape();
    Tensor { rows, cols, inner: Rc::new(value) as Rc<dyn Any> }
}

impl<E: Element> Dfdx<E, Cpu>
where
    Cpu: Device<E>,
{
    /// On the processor.
    pub fn cpu() -> Self {
        Dfdx::new(Cpu::default(), "cpu")
    }
}

impl<E: Element, D: Device<E>> Dfdx<E, D> {
    /// On `device`, which reports itself as `device_name` (`cpu`, `cuda:0`).
    pub fn new(device: D, device_name: impl Into<String>) -> Self {
        Dfdx {
            device,
            device_name: device_name.into(),
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
    pub fn resident(device: D, device_name: impl Into<String>) -> Self {
        Dfdx { resident: true, ..Dfdx::new(device, device_name) }
    }

    /// [`Backend::add_param`] with data of the element type.
    pub fn add_param_elements(&self, shape: [usize; 2], data: Vec<E>, by_rows: bool) -> ParamId {
        let keeping = match (self.resident, by_rows) {
            (true, _) => Keeping::Resident,
            (false, true) => Keeping::Rows,
            (false, false) => Keeping::Tensor,
        };
        let mut params = self.params.borrow_mut();
        params.push(Param::new(&self.device, shape, data, keeping));
        ParamId(params.len() - 1)
    }

    /// [`Backend::read_param`] without rounding to f32.
    pub fn read_param_elements(&self, id: ParamId) -> Vec<E> {
        self.params.borrow()[id.0].read()
    }

    /// [`Backend::write_param`] without rounding to f32.
    pub fn write_param_elements(&self, id: ParamId, data: &[E]) {
        self.params.borrow_mut()[id.0].write(&self.device, data);
    }

    /// [`Backend::grad`] without rounding to f32.
    pub fn grad_elements(&self, id: ParamId) -> Option<Vec<E>> {
        self.params.borrow()[id.0].grad()
    }

    /// [`Backend::to_host`] without rounding to f32.
    pub fn to_host_elements(&self, x: &Tensor) -> Vec<E> {
        if x.rows * x.cols == 0 {
            return Vec::new();
        }
        host(&self.value_of(x).data)
    }

    fn value_of<'a>(&self, x: &'a Tensor) -> &'a Value<E, D> {
        x.inner.downcast_ref().expect("a tensor of this backend")
    }

    /// The node that computed a value, if it is on the present tape.
    fn node_of(&self, value: &Value<E, D>) -> Option<usize> {
        value.node.filter(|(tape, _)| *tape == self.tape_number.get()).map(|(_, node)| node)
    }

    fn drop_tape(&self) {
        self.nodes.borrow_mut().clear();
        self.tape_number.set(self.tape_number.get() + 1);
    }

    /// Starts an operation that reads parameters.
    fn op(&self) -> Op<'_, E, D> {
        self.op_if(self.recording.get())
    }

    /// Starts an operation that is recorded only where one of its inputs was.
    fn op_of(&self, inputs: &[&Tensor]) -> Op<'_, E, D> {
        self.op_if(
            self.recording.get() && inputs.iter().any(|x| self.node_of(self.value_of(x)).is_some()),
        )
    }

    fn op_if(&self, recorded: bool) -> Op<'_, E, D> {
        let tape = if recorded { SharedTape::recording() } else { SharedTape::default() };
        Op { backend: self, tape, recorded, inputs: Vec::new(), params: Vec::new() }
    }

    /// A matrix without elements. Devices do not allocate nothing, so its data is one number that
    /// no operation reads.
    fn empty(&self, rows: usize, cols: usize) -> Tensor {
        assert_eq!(rows * cols, 0, "[{rows}, {cols}] has elements");
        let data = self.device.zeros_like(&(1usize, 1usize));
        Tensor { rows, cols, inner: Rc::new(Value::<E, D> { data, node: None }) }
    }

    /// RoPE for positions that restart at each span.
    fn rotation(&self, offsets: &[usize], head_dim: usize, theta: f64) -> Rotation<E, D> {
        let longest = offsets.windows(2).map(|s| s[1] - s[0]).max().unwrap_or(0);
        let mut tables = self.rotations.borrow_mut();
        let table = tables.entry((theta.to_bits(), head_dim)).or_insert_with(|| {
            Rotation::table(&self.device, longest.next_power_of_two(), head_dim, theta)
        });
        if table.cos.shape().0 < longest {
            *table = Rotation::table(&self.device, longest.next_power_of_two(), head_dim, theta);
        }
        table.at(index(&self.device, offsets.windows(2).flat_map(|s| 0..s[1] - s[0]).collect()))
    }

    fn plan(&self, of: PlanOf) -> Rc<Plan<E, D>> {
        let mut plans = self.plans.borrow_mut();
        if let Some((_, plan)) = plans.iter().find(|(made_of, _)| *made_of == of) {
            return plan.clone();
        }
        let (pairs, heads, visible, scale) = &of;
        let tile_scores = if self.resident { GPU_TILE_SCORES } else { TILE_SCORES };
        let plan = Rc::new(Plan::new(&self.device, pairs, *heads, *visible, *scale, tile_scores));
        plans.truncate(PLANS - 1);
        plans.insert(0, (of, plan.clone()));
        plan
    }

    /// `2 x + o_proj(attn(q_proj(q_norm x), k_proj(k_norm kv), v_proj(k_norm kv)))`, where x's rows
    /// see kv's by `pairs`.
    fn cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        pairs: Vec<Pair>,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Tensor {
        let CrossConfig { heads, kv_heads, head_dim, eps, .. } = *config;
        let mut op = self.op();
        let (x, kv) = (op.input(x), op.input(kv));
        let (n, m) = (x.shape().0, kv.shape().0);
        let normed_x = rms_norm(x.clone(), op.param(params.q_norm), eps);
        let normed_kv = rms_norm(kv, op.param(params.k_norm), eps);
        let q = linear(normed_x, op.param(params.q)).reshape_like(&(n * heads, head_dim));
        let k =
            linear(normed_kv.clone(), op.param(params.k)).reshape_like(&(m * kv_heads, head_dim));
        let v = linear(normed_kv, op.param(params.v)).reshape_like(&(m * kv_heads, head_dim));
        let plan =
            self.plan((pairs, [heads, kv_heads], Visible::All, (head_dim as f64).powf(-0.5)));
        let read = plan.attend(q, k, v).reshape_like(&(n, heads * head_dim));
        let out = x * E::of(2.0) + linear(read, op.param(params.o));
        op.finish(out)
    }

    /// Logits of the final norm and head less each row's maximum, `[n, vocab]`.
    fn shifted_logits(
        op: &mut Op<'_, E, D>,
        x: Matrix<E, D>,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Matrix<E, D> {
        let logits = linear(rms_norm(x, op.param(norm), eps), op.param(head));
        let shape = *logits.shape();
        let max: dfdx::tensor::Tensor<(usize,), E, D> = detached(&logits).max::<_, Axis<1>>();
        logits - max.broadcast_like::<_, Axis<1>>(&shape)
    }

    fn rows_of(&self, x: &Tensor, rows: Range<usize>) -> Matrix<E, D> {
        gather(untaped(&self.value_of(x).data), index(&self.device, rows.collect()))
    }
}

/// Copies a matrix to the host, row-major.
fn host<E: Element, D: Device<E>>(x: &Flat<E, D>) -> Vec<E> {
    let mut data = vec![E::of(0.0); x.shape().0 * x.shape().1];
    x.copy_into(&mut data);
    data
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
        self.device_name.clone()
    }

    fn add_param(&self, shape: [usize; 2], data: Vec<f32>, by_rows: bool) -> ParamId {
        self.add_param_elements(shape, from_f32(&data), by_rows)
    }

    fn param_shape(&self, id: ParamId) -> [usize; 2] {
        self.params.borrow()[id.0].shape
    }

    fn read_param(&self, id: ParamId) -> Vec<f32> {
        to_f32(self.read_param_elements(id))
    }

    fn write_param(&self, id: ParamId, data: &[f32]) {
        self.write_param_elements(id, &from_f32(data));
    }

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

    fn backward_observed(&self, loss: &Tensor, after: &mut dyn FnMut(usize)) {
        assert_eq!((loss.rows, loss.cols), (1, 1), "backward starts from a [1, 1]");
        let value = self.value_of(loss);
        let start = self.node_of(value);
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        self.drop_tape();
        let Some(start) = start else { return };
        let mut run = || -> Result<(), <D as dfdx::tensor::HasErr>::Err> {
            let mut grads = Gradients::leaky();
            self.device.try_fill_with_ones(grads.get_or_alloc_mut(&value.data)?)?;
            let mut reached = vec![false; start + 1];
            reached[start] = true;
            nodes.truncate(start + 1);
            let mut leaves: Vec<Leaf<E, D>> = Vec::new();
            while let Some(Node { out, ops, inputs, params }) = nodes.pop() {
                if !reached[nodes.len()] {
                    continue;
                }
                ops.run(&mut grads)?;
                for (node, _) in &inputs {
                    reached[*node] = true;
                }
                // What the operation computed on its way is done with, and so is the gradient of
                // its result, unless the result is a view of an input.
                let mut keep: Vec<_> = inputs.iter().map(|(_, data)| id_of(data)).collect();
                let viewed = keep.contains(&id_of(&out));
                keep.extend(params.iter().map(|leaf| id_of(&leaf.data)));
                grads.retain_leafs(&keep);
                if !viewed {
                    *grads.get_or_alloc_mut(&out)? = Storage::<E>::try_alloc_len(&self.device, 1)?;
                }
                for leaf in params {
                    if leaves.iter().all(|l| id_of(&l.data) != id_of(&leaf.data)) {
                        leaves.push(leaf);
                    }
                }
                after(nodes.len());
            }
            let mut params = self.params.borrow_mut();
            for leaf in leaves {
                grads.try_alloc_for(&leaf.data)?;
                params[leaf.param.0].add_grad(grads.get(&leaf.data), leaf.rows.as_deref());
            }
            Ok(())
        };
        run().unwrap_or_else(|error| panic!("backward on {}: {error}", self.device_name));
    }

    fn tape_len(&self) -> usize {
        self.nodes.borrow().len()
    }

    fn grad(&self, id: ParamId) -> Option<Vec<f32>> {
        self.grad_elements(id).map(to_f32)
    }

    fn zero_grads(&self) {
        self.params.borrow_mut().iter_mut().for_each(Param::zero_grad);
    }

    fn grad_norm_squared(&self, ids: &[ParamId]) -> f64 {
        let params = self.params.borrow();
        let on_device =
            ids.iter().filter_map(|id| params[id.0].grad_squares()).reduce(|a, b| a + b);
        let on_device = on_device.map_or(0.0, |sum| host(&sum)[0].as_f64());
        on_device + ids.iter().map(|id| params[id.0].grad_norm_squared()).sum::<f64>()
    }

    fn adamw(&self, ids: &[ParamId], step: &AdamWStep) {
        let mut params = self.params.borrow_mut();
        ids.iter().for_each(|id| params[id.0].adamw(&self.device, step));
    }

    fn moments(&self, id: ParamId) -> (Vec<f32>, Vec<f32>) {
        let (m, v) = self.params.borrow_mut()[id.0].moments();
        (to_f32(m), to_f32(v))
    }

    fn write_moments(&self, id: ParamId, m: &[f32], v: &[f32]) {
        self.params.borrow_mut()[id.0].write_moments(&self.device, from_f32(m), from_f32(v));
    }

    fn synchronize(&self) {
        self.device.synchronize();
    }

    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Tensor {
        assert_eq!(data.len(), rows * cols, "a constant of shape [{rows}, {cols}]");
        if data.is_empty() {
            return self.empty(rows, cols);
        }
        tensor(Value {
            data: self.device.tensor_from_vec(from_f32::<E>(&data), (rows, cols)),
            node: None,
        })
    }

    fn to_host(&self, x: &Tensor) -> Vec<f32> {
        to_f32(self.to_host_elements(x))
    }

    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Tensor {
        assert_eq!(x.rows * x.cols, rows * cols, "[{}, {}] as [{rows}, {cols}]", x.rows, x.cols);
        if rows * cols == 0 {
            return self.empty(rows, cols);
        }
        let mut op = self.op_of(&[x]);
        let out = op.input(x).reshape_like(&(rows, cols));
        op.finish(out)
    }

    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Tensor {
        let n = ids.len();
        let dim = self.param_shape(tokens)[1];
        if n == 0 {
            return self.empty(0, dim);
        }
        let mut op = self.op();
        let mut out = op.param_rows(tokens, ids.iter().map(|&id| id as usize).collect());
        if let Some((table, config)) = hash
            && config.functions * config.sizes.len() > 0
        {
            let rows = hash_ids(ids, offsets, config)
                .into_iter()
                .map(|row| row as usize)
                .collect::<Vec<_>>();
            let n_tables = rows.len() / n;
            let read = op.param_rows(table, rows).reshape_like(&(n, n_tables, dim));
            out = out + read.sum::<_, Axis<1>>();
        }
        op.finish(out)
    }

    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Tensor {
        let BlockConfig { heads, kv_heads, head_dim, window, rope_theta, eps, .. } = *config;
        let n = x.rows;
        assert_eq!(offsets.last().copied().unwrap_or(0), n, "offsets end at the rows of x");
        if n == 0 {
            return self.empty(0, x.cols);
        }
        let mut op = self.op();
        let x = op.input(x);
        let normed = rms_norm(x.clone(), op.param(params.input_layernorm), eps);
        let rotation = self.rotation(offsets, head_dim, rope_theta);
        let q = rotation.apply(linear(normed.clone(), op.param(params.q)));
        let k = rotation.apply(linear(normed.clone(), op.param(params.k)));
        let v = linear(normed, op.param(params.v)).reshape_like(&(n * kv_heads, head_dim));
        let scale = (head_dim as f64).powf(-0.5);
        let plan = self.plan((
            causal_pairs(offsets, window),
            [heads, kv_heads],
            Visible::Causal(window),
            scale,
        ));
        let read = plan.attend(q, k, v).reshape_like(&(n, heads * head_dim));
        let x = x + linear(read, op.param(params.o));
        let normed = rms_norm(x.clone(), op.param(params.post_attention_layernorm), eps);
        let gate = silu(linear(normed.clone(), op.param(params.gate)));
        let up = linear(normed, op.param(params.up));
        let out = x + linear(gate * up, op.param(params.down));
        op.finish(out)
    }

    fn linear(&self, x: &Tensor, weight: ParamId) -> Tensor {
        if x.rows == 0 {
            return self.empty(0, self.param_shape(weight)[0]);
        }
        let mut op = self.op();
        let out = linear(op.input(x), op.param(weight));
        op.finish(out)
    }

    fn pool(&self, h: &Tensor, patches: &Patches, pooling: Pooling) -> Tensor {
        assert_eq!(patches.n_ids, h.rows, "patches of these rows");
        if patches.n_patches() == 0 {
            return self.empty(0, h.cols);
        }
        let mut op = self.op_of(&[h]);
        let dim = h.cols;
        let h = op.input(h);
        let buckets = by_length(&patches.offsets());
        let pooled = buckets.iter().map(|(&length, patch)| {
            let rows =
                patch.iter().flat_map(|&p| patches.starts[p]..patches.starts[p] + length).collect();
            let x = gather(h.clone(), index(&self.device, rows)).reshape_like(&(
                patch.len(),
                length,
                dim,
            ));
            match pooling {
                Pooling::Max => max_of_equals(x),
                Pooling::Min => -max_of_equals(-x),
                Pooling::Mean => x.mean::<_, Axis<1>>(),
            }
        });
        let order = inverse(buckets.values().flatten().copied(), patches.n_patches());
        let out = gather(concat(pooled.collect()), index(&self.device, order));
        op.finish(out)
    }

    fn encoder_cross(
        &self,
        q: &Tensor,
        h: &Tensor,
        patches: &Patches,
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Tensor {
        assert_eq!(
            (q.rows, h.rows),
            (patches.n_patches() * k, patches.n_ids),
            "k queries a patch, patches of h's rows"
        );
        if q.rows == 0 {
            return self.empty(0, q.cols);
        }
        let offsets = patches.offsets();
        let pairs = offsets
            .windows(2)
            .enumerate()
            .map(|(p, o)| Pair { queries: p * k..(p + 1) * k, keys: o[0]..o[1] });
        self.cross(q, h, pairs.collect(), params, config)
    }

    fn decoder_cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        reads: &[u32],
        k: usize,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Tensor {
        assert_eq!(x.rows, reads.len(), "one patch to read for each row");
        if x.rows == 0 {
            return self.empty(0, x.cols);
        }
        let pairs = reads.iter().enumerate().map(|(i, &p)| {
            let p = p as usize;
            Pair { queries: i..i + 1, keys: p * k..(p + 1) * k }
        });
        self.cross(x, kv, pairs.collect(), params, config)
    }

    fn head_loss(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
        targets: &[Option<u16>],
        scale: f64,
    ) -> HeadLoss {
        assert_eq!(x.rows, targets.len(), "a target for each row");
        let (rows, ids): (Vec<usize>, Vec<usize>) =
            targets.iter().enumerate().filter_map(|(i, t)| t.map(|t| (i, t as usize))).unzip();
        let mut nats = vec![0.0; targets.len()];
        if rows.is_empty() {
            return HeadLoss { loss: self.constant(1, 1, vec![0.0]), nats };
        }
        let mut op = self.op();
        let x = gather(op.input(x), index(&self.device, rows.clone()));
        let logits = Self::shifted_logits(&mut op, x, norm, head, eps);
        let sum: Taped<(usize,), E, D> = logits.clone().exp().sum::<_, Axis<1>>();
        let target: Taped<(usize,), E, D> = logits.select(index(&self.device, ids));
        let counted = sum.ln() - target;
        let flat = detached(&counted).reshape_like(&(rows.len(), 1usize));
        for (&row, x) in rows.iter().zip(host(&flat)) {
            nats[row] = x.as_f64() as f32;
        }
        let loss = (counted.sum::<Rank0, Axis<0>>() * E::of(scale)).reshape_like(&(1usize, 1usize));
        HeadLoss { loss: op.finish(loss), nats }
    }

    fn head_logits(&self, x: &Tensor, norm: ParamId, head: ParamId, eps: f64) -> Vec<f32> {
        let mut op = self.op_if(false);
        let mut logits = Vec::with_capacity(x.rows * self.param_shape(head)[0]);
        for rows in chunks(x.rows, LOGIT_ROWS) {
            let x = rms_norm(self.rows_of(x, rows), op.param(norm), eps);
            logits.extend(to_f32(host(&linear(x, op.param(head)).split_tape().0)));
        }
        logits
    }

    fn head_entropies(&self, x: &Tensor, norm: ParamId, head: ParamId, eps: f64) -> Vec<f32> {
        let mut op = self.op_if(false);
        let mut entropies = Vec::with_capacity(x.rows);
        for rows in chunks(x.rows, LOGIT_ROWS) {
            // H = ln(sum e^s) - sum(s e^s) / sum(e^s)
            let n = rows.len();
            let logits = Self::shifted_logits(&mut op, self.rows_of(x, rows), norm, head, eps);
            let exp = logits.clone().exp();
            let sum: Taped<(usize,), E, D> = exp.clone().sum::<_, Axis<1>>();
            let mean: Taped<(usize,), E, D> = (logits * exp).sum::<_, Axis<1>>();
            let entropy = sum.clone().ln() - mean / sum;
            entropies.extend(to_f32(host(&entropy.reshape_like(&(n, 1usize)).split_tape().0)));
        }
        entropies
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Tensor {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols), "a sum of one shape");
        if a.rows * a.cols == 0 {
            return self.empty(a.rows, a.cols);
        }
        let mut op = self.op_of(&[a, b]);
        let same = id_of(&self.value_of(a).data) == id_of(&self.value_of(b).data);
        let (a, b) = (op.input(a), op.input(b));
        // dfdx cannot add a value to itself: the two share a gradient.
        let out = if same { a * E::of(2.0) } else { a + b };
        op.finish(out)
    }
}
