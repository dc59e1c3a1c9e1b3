//! The operations, each composed of dfdx's.

use super::attention::{Pair, Visible, causal_pairs};
use super::functions::{
    Matrix, Taped, by_length, chunks, concat, detached, gather, index, inverse, linear,
    max_of_equals, rms_norm, silu, untaped,
};
use super::op::{Op, Value, tensor};
use super::tape::id_of;
use super::{Dfdx, Element, from_f32, host, to_f32};
use crate::backend::{
    BackendError, BlockConfig, BlockParams, CrossConfig, CrossParams, HashConfig, HeadLoss,
    Operations, ParamId, Parameters, Pooling, Tensor, check,
};
use crate::hash::hash_ids;
use crate::patch::Patches;
use dfdx::prelude::*;
use std::ops::Range;

/// Rows whose logits exist at once where they are not needed again.
const LOGIT_ROWS: usize = 4096;

impl<E: Element, D: Device<E> + Synchronize> Operations for Dfdx<E, D> {
    fn constant(&self, rows: usize, cols: usize, data: Vec<f32>) -> Result<Tensor, BackendError> {
        check::constant([rows, cols], data.len())?;
        if data.is_empty() {
            return self.empty(rows, cols);
        }
        let data = from_f32::<E>(&data);
        let data = self.computing(|| self.device.try_tensor_from_vec(data, (rows, cols)))?;
        Ok(tensor(Value { data, node: None }))
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<f32>, BackendError> {
        self.to_host_elements(x).map(to_f32)
    }

    fn reshape(&self, x: &Tensor, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
        check::reshape(x, [rows, cols])?;
        if rows * cols == 0 {
            return self.empty(rows, cols);
        }
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op_of(&[x]);
            let out = op.input(x).try_reshape_like(&(rows, cols))?;
            op.finish(out)
        })
    }

    fn embed(
        &self,
        ids: &[u16],
        offsets: &[usize],
        tokens: ParamId,
        hash: Option<(ParamId, &HashConfig)>,
    ) -> Result<Tensor, BackendError> {
        let tables = hash.map(|(table, _)| self.param_shape(table));
        check::embed(self.param_shape(tokens), tables, hash.map(|(_, config)| config))?;
        let n = ids.len();
        let dim = self.param_shape(tokens)[1];
        if n == 0 {
            return self.empty(0, dim);
        }
        self.computing(|| {
            let mut op = self.op();
            let mut out = op.param_rows(tokens, ids.iter().map(|&id| id as usize).collect())?;
            if let Some((table, config)) = hash
                && config.functions * config.sizes.len() > 0
            {
                let rows: Vec<usize> =
                    hash_ids(ids, offsets, config).into_iter().map(|row| row as usize).collect();
                let n_tables = rows.len() / n;
                let read = op.param_rows(table, rows)?.try_reshape_like(&(n, n_tables, dim))?;
                out = out.try_add(read.try_sum::<_, Axis<1>>()?)?;
            }
            op.finish(out)
        })
    }

    fn block(
        &self,
        x: &Tensor,
        offsets: &[usize],
        params: &BlockParams,
        config: &BlockConfig,
    ) -> Result<Tensor, BackendError> {
        let BlockConfig { heads, kv_heads, head_dim, window, rope_theta, eps, .. } = *config;
        let n = x.rows;
        check::block(x, offsets, config)?;
        if n == 0 {
            return self.empty(0, x.cols);
        }
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op();
            let x = op.input(x);
            let normed = rms_norm(x.clone(), op.param(params.input_layernorm)?, eps)?;
            let rotation = self.rotation(offsets, head_dim, rope_theta)?;
            let q = rotation.apply(linear(normed.clone(), op.param(params.q)?)?)?;
            let k = rotation.apply(linear(normed.clone(), op.param(params.k)?)?)?;
            let v = linear(normed, op.param(params.v)?)?;
            let v = v.try_reshape_like(&(n * kv_heads, head_dim))?;
            let scale = (head_dim as f64).powf(-0.5);
            let pairs = causal_pairs(offsets, window);
            let plan = self.plan((pairs, [heads, kv_heads], Visible::Causal(window), scale))?;
            let read = plan.attend(q, k, v)?.try_reshape_like(&(n, heads * head_dim))?;
            let x = x.try_add(linear(read, op.param(params.o)?)?)?;
            let normed = rms_norm(x.clone(), op.param(params.post_attention_layernorm)?, eps)?;
            let gate = silu(linear(normed.clone(), op.param(params.gate)?)?)?;
            let up = linear(normed, op.param(params.up)?)?;
            let out = x.try_add(linear(gate.try_mul(up)?, op.param(params.down)?)?)?;
            op.finish(out)
        })
    }

    fn linear(&self, x: &Tensor, weight: ParamId) -> Result<Tensor, BackendError> {
        check::linear(x, self.param_shape(weight))?;
        if x.rows == 0 {
            return self.empty(0, self.param_shape(weight)[0]);
        }
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op();
            let out = linear(op.input(x), op.param(weight)?)?;
            op.finish(out)
        })
    }

    fn pool(
        &self,
        h: &Tensor,
        patches: &Patches,
        pooling: Pooling,
    ) -> Result<Tensor, BackendError> {
        check::pool(h, patches)?;
        if patches.n_patches() == 0 {
            return self.empty(0, h.cols);
        }
        let dim = h.cols;
        let h = self.value_of(h)?;
        self.computing(|| {
            let mut op = self.op_of(&[h]);
            let h = op.input(h);
            let buckets = by_length(&patches.offsets());
            let pooled = buckets.iter().map(|(&length, patch)| {
                let first = |&p: &usize| patches.starts[p]..patches.starts[p] + length;
                let rows = index(&self.device, patch.iter().flat_map(first).collect())?;
                let x = gather(h.clone(), rows)?.try_reshape_like(&(patch.len(), length, dim))?;
                match pooling {
                    Pooling::Max => max_of_equals(x),
                    Pooling::Min => max_of_equals(x.try_negate()?)?.try_negate(),
                    Pooling::Mean => x.try_mean::<_, Axis<1>>(),
                }
            });
            let pooled = pooled.collect::<Result<_, _>>()?;
            let order = inverse(buckets.values().flatten().copied(), patches.n_patches());
            let out = gather(concat(pooled)?, index(&self.device, order)?)?;
            op.finish(out)
        })
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
        check::encoder_cross(q, h, patches, k, config)?;
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
    ) -> Result<Tensor, BackendError> {
        check::decoder_cross(x, kv, reads, k, config)?;
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
    ) -> Result<HeadLoss, BackendError> {
        check::head("head_loss", x, self.param_shape(head))?;
        check::targets(x, self.param_shape(head), targets)?;
        let (rows, ids): (Vec<usize>, Vec<usize>) =
            targets.iter().enumerate().filter_map(|(i, t)| t.map(|t| (i, t as usize))).unzip();
        let mut nats = vec![0.0; targets.len()];
        if rows.is_empty() {
            return Ok(HeadLoss { loss: self.constant(1, 1, vec![0.0])?, nats });
        }
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op();
            let x = gather(op.input(x), index(&self.device, rows.clone())?)?;
            let logits = Self::shifted_logits(&mut op, x, norm, head, eps)?;
            let sum: Taped<(usize,), E, D> = logits.clone().try_exp()?.try_sum::<_, Axis<1>>()?;
            let target: Taped<(usize,), E, D> = logits.try_select(index(&self.device, ids)?)?;
            let counted = sum.try_ln()?.try_sub(target)?;
            let flat = detached(&counted).try_reshape_like(&(rows.len(), 1usize))?;
            for (&row, x) in rows.iter().zip(host(&flat)?) {
                nats[row] = x.as_f64() as f32;
            }
            let loss = counted.try_sum::<Rank0, Axis<0>>()?.try_mul(E::of(scale))?;
            let loss = op.finish(loss.try_reshape_like(&(1usize, 1usize))?)?;
            Ok(HeadLoss { loss, nats })
        })
    }

    fn head_logits(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        check::head("head_logits", x, self.param_shape(head))?;
        let n = x.rows;
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op_if(false);
            let mut logits = Vec::with_capacity(n * self.param_shape(head)[0]);
            for rows in chunks(n, LOGIT_ROWS) {
                let x = rms_norm(self.rows_of(x, rows)?, op.param(norm)?, eps)?;
                logits.extend(to_f32(host(&linear(x, op.param(head)?)?.split_tape().0)?));
            }
            Ok(logits)
        })
    }

    fn head_entropies(
        &self,
        x: &Tensor,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Vec<f32>, BackendError> {
        check::head("head_entropies", x, self.param_shape(head))?;
        let n = x.rows;
        let x = self.value_of(x)?;
        self.computing(|| {
            let mut op = self.op_if(false);
            let mut entropies = Vec::with_capacity(n);
            for rows in chunks(n, LOGIT_ROWS) {
                // H = ln(sum e^s) - sum(s e^s) / sum(e^s)
                let column = (rows.len(), 1usize);
                let x = self.rows_of(x, rows)?;
                let logits = Self::shifted_logits(&mut op, x, norm, head, eps)?;
                let exp = logits.clone().try_exp()?;
                let sum: Taped<(usize,), E, D> = exp.clone().try_sum::<_, Axis<1>>()?;
                let mean: Taped<(usize,), E, D> = logits.try_mul(exp)?.try_sum::<_, Axis<1>>()?;
                let entropy = sum.clone().try_ln()?.try_sub(mean.try_div(sum)?)?;
                let entropy = entropy.try_reshape_like(&column)?;
                entropies.extend(to_f32(host(&entropy.split_tape().0)?));
            }
            Ok(entropies)
        })
    }

    fn add(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        check::add(a, b)?;
        if a.rows * a.cols == 0 {
            return self.empty(a.rows, a.cols);
        }
        let (a, b) = (self.value_of(a)?, self.value_of(b)?);
        self.computing(|| {
            let mut op = self.op_of(&[a, b]);
            let same = id_of(&a.data) == id_of(&b.data);
            let (a, b) = (op.input(a), op.input(b));
            // dfdx cannot add a value to itself: the two share a gradient.
            let out = if same { a.try_mul(E::of(2.0))? } else { a.try_add(b)? };
            op.finish(out)
        })
    }
}

impl<E: Element, D: Device<E> + Synchronize> Dfdx<E, D> {
    /// `2 x + o_proj(attn(q_proj(q_norm x), k_proj(k_norm kv), v_proj(k_norm kv)))`, where x's rows
    /// see kv's by `pairs`.
    fn cross(
        &self,
        x: &Tensor,
        kv: &Tensor,
        pairs: Vec<Pair>,
        params: &CrossParams,
        config: &CrossConfig,
    ) -> Result<Tensor, BackendError> {
        let CrossConfig { heads, kv_heads, head_dim, eps, .. } = *config;
        let (n, m) = (x.rows, kv.rows);
        let (x, kv) = (self.value_of(x)?, self.value_of(kv)?);
        self.computing(|| {
            let mut op = self.op();
            let (x, kv) = (op.input(x), op.input(kv));
            let normed_x = rms_norm(x.clone(), op.param(params.q_norm)?, eps)?;
            let normed_kv = rms_norm(kv, op.param(params.k_norm)?, eps)?;
            let of_keys = (m * kv_heads, head_dim);
            let q = linear(normed_x, op.param(params.q)?)?;
            let q = q.try_reshape_like(&(n * heads, head_dim))?;
            let k = linear(normed_kv.clone(), op.param(params.k)?)?.try_reshape_like(&of_keys)?;
            let v = linear(normed_kv, op.param(params.v)?)?.try_reshape_like(&of_keys)?;
            let scale = (head_dim as f64).powf(-0.5);
            let plan = self.plan((pairs, [heads, kv_heads], Visible::All, scale))?;
            let read = plan.attend(q, k, v)?.try_reshape_like(&(n, heads * head_dim))?;
            let out = x.try_mul(E::of(2.0))?.try_add(linear(read, op.param(params.o)?)?)?;
            op.finish(out)
        })
    }

    /// Logits of the final norm and head less each row's maximum, `[n, vocab]`.
    fn shifted_logits(
        op: &mut Op<'_, E, D>,
        x: Matrix<E, D>,
        norm: ParamId,
        head: ParamId,
        eps: f64,
    ) -> Result<Matrix<E, D>, D::Err> {
        let logits = linear(rms_norm(x, op.param(norm)?, eps)?, op.param(head)?)?;
        let shape = *logits.shape();
        let max: dfdx::tensor::Tensor<(usize,), E, D> =
            detached(&logits).try_max::<_, Axis<1>>()?;
        logits.try_sub(max.try_broadcast_like::<_, Axis<1>>(&shape)?)
    }

    fn rows_of(&self, x: &Value<E, D>, rows: Range<usize>) -> Result<Matrix<E, D>, D::Err> {
        gather(untaped(&x.data), index(&self.device, rows.collect())?)
    }
}
