//! Parameters, their gradients and moments: tensors on the device, or host rows for tables of which
//! a step touches few.
//!
//! On the processor a table is kept by rows, because a dense gradient of it is mostly zeros, and
//! the update is composed of dfdx operations with coefficients rounded once. Where the device is a
//! GPU everything is [`Store::Resident`]: a table that crossed the bus at each step would cost more
//! than its zeros, and dfdx's own Adam kernel updates in place, in one pass.

use super::functions::Flat;
use super::tape::SharedTape;
use super::{Element, host};
use crate::backend::AdamWStep;
use dfdx::prelude::*;
use std::collections::BTreeMap;

/// What a device keeps a tensor's numbers in.
type Stored<E, D> = <D as Storage<E>>::Vec;

pub struct Param<E: Element, D: Device<E>> {
    pub shape: [usize; 2],
    store: Store<E, D>,
}

enum Store<E: Element, D: Device<E>> {
    OnDevice {
        value: Flat<E, D>,
        grad: Option<Flat<E, D>>,
        moments: Option<(Flat<E, D>, Flat<E, D>)>,
    },
    /// Row-major on the host. The gradient holds touched rows alone; the others are zero.
    ByRows {
        value: Vec<E>,
        grad: Option<BTreeMap<usize, Vec<E>>>,
        moments: Option<(Vec<E>, Vec<E>)>,
    },
    /// All of it on the device.
    Resident {
        value: Flat<E, D>,
        grad: Option<Flat<E, D>>,
        /// As dfdx's Adam kernel takes them.
        moments: Option<(Stored<E, D>, Stored<E, D>)>,
    },
}

/// Where a parameter is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    Tensor,
    Rows,
    Resident,
}

impl<E: Element, D: Device<E> + Synchronize> Param<E, D> {
    /// `data` fills `shape`.
    pub fn new(
        device: &D,
        shape: [usize; 2],
        data: Vec<E>,
        keeping: Keeping,
    ) -> Result<Self, D::Err> {
        let store = match keeping {
            Keeping::Rows => Store::ByRows { value: data, grad: None, moments: None },
            Keeping::Tensor => Store::OnDevice {
                value: device.try_tensor_from_vec(data, shape.into())?,
                grad: None,
                moments: None,
            },
            Keeping::Resident => Store::Resident {
                value: device.try_tensor_from_vec(data, shape.into())?,
                grad: None,
                moments: None,
            },
        };
        Ok(Param { shape, store })
    }

    /// The tensor on the device; None if the parameter is kept by rows.
    pub fn tensor(&self) -> Option<&Flat<E, D>> {
        match &self.store {
            Store::OnDevice { value, .. } | Store::Resident { value, .. } => Some(value),
            Store::ByRows { .. } => None,
        }
    }

    /// Rows of a parameter that is kept by rows, gathered into a tensor. `[rows, cols]`
    pub fn rows(&self, device: &D, rows: &[usize]) -> Result<Flat<E, D>, D::Err> {
        let Store::ByRows { value, .. } = &self.store else {
            unreachable!("a parameter on the device is read whole")
        };
        let cols = self.shape[1];
        let data = rows.iter().flat_map(|&row| &value[row * cols..][..cols]).copied().collect();
        device.try_tensor_from_vec(data, (rows.len(), cols))
    }

    pub fn read(&self) -> Result<Vec<E>, D::Err> {
        match &self.store {
            Store::OnDevice { value, .. } | Store::Resident { value, .. } => host(value),
            Store::ByRows { value, .. } => Ok(value.clone()),
        }
    }

    /// `data` fills the parameter's shape.
    pub fn write(&mut self, device: &D, data: &[E]) -> Result<(), D::Err> {
        match &mut self.store {
            Store::OnDevice { value, .. } | Store::Resident { value, .. } => {
                *value = device.try_tensor_from_vec(data.to_vec(), self.shape.into())?
            }
            Store::ByRows { value, .. } => value.copy_from_slice(data),
        }
        Ok(())
    }

    /// Adds the gradient of `rows` (None: of all).
    pub fn add_grad(&mut self, more: Flat<E, D>, rows: Option<&[usize]>) -> Result<(), D::Err> {
        match (&mut self.store, rows) {
            (Store::OnDevice { grad, .. } | Store::Resident { grad, .. }, None) => {
                *grad = Some(match grad.take() {
                    Some(grad) => grad.try_add(more)?,
                    None => more,
                })
            }
            (Store::ByRows { grad, .. }, Some(rows)) => {
                let cols = self.shape[1];
                let (grad, more) = (grad.get_or_insert_default(), host(&more)?);
                for (i, &row) in rows.iter().enumerate() {
                    let sum = grad.entry(row).or_insert_with(|| vec![E::of(0.0); cols]);
                    sum.iter_mut().zip(&more[i * cols..]).for_each(|(a, &b)| *a += b);
                }
            }
            _ => unreachable!("a parameter is read as it is kept"),
        }
        Ok(())
    }

    pub fn zero_grad(&mut self) {
        match &mut self.store {
            Store::OnDevice { grad, .. } | Store::Resident { grad, .. } => *grad = None,
            Store::ByRows { grad, .. } => *grad = None,
        }
    }

    /// Dense, row-major.
    pub fn grad(&self) -> Result<Option<Vec<E>>, D::Err> {
        Ok(match &self.store {
            Store::OnDevice { grad, .. } | Store::Resident { grad, .. } => {
                grad.as_ref().map(host).transpose()?
            }
            Store::ByRows { grad, .. } => grad.as_ref().map(|grad| {
                let cols = self.shape[1];
                let mut dense = vec![E::of(0.0); self.shape[0] * cols];
                for (row, grad) in grad {
                    dense[row * cols..][..cols].copy_from_slice(grad);
                }
                dense
            }),
        })
    }

    /// Sum of squares on the device, `[1, 1]`, of what is kept there whole: the host reads the sum
    /// over all parameters once.
    pub fn grad_squares(&self) -> Result<Option<Flat<E, D>>, D::Err> {
        let Store::Resident { grad: Some(grad), .. } = &self.store else { return Ok(None) };
        let rows: Tensor<(usize,), E, D> = grad.clone().try_square()?.try_sum::<_, Axis<1>>()?;
        rows.try_sum::<Rank0, Axis<0>>()?.try_reshape_like(&(1usize, 1usize)).map(Some)
    }

    /// Sum of squares of what [`Param::grad_squares`] leaves out, in f64.
    pub fn grad_norm_squared(&self) -> Result<f64, D::Err> {
        let squares = |x: &[E]| x.iter().map(|x| x.as_f64() * x.as_f64()).sum::<f64>();
        Ok(match &self.store {
            Store::OnDevice { grad: Some(grad), .. } => squares(&host(grad)?),
            Store::OnDevice { grad: None, .. } | Store::Resident { .. } => 0.0,
            Store::ByRows { grad, .. } => grad.iter().flatten().map(|(_, row)| squares(row)).sum(),
        })
    }

    pub fn moments(&mut self) -> Result<(Vec<E>, Vec<E>), D::Err> {
        match &mut self.store {
            Store::OnDevice { moments: Some((m, v)), .. } => Ok((host(m)?, host(v)?)),
            Store::ByRows { moments: Some(moments), .. } => Ok(moments.clone()),
            Store::Resident { value, moments: Some((m, v)), .. } => {
                Ok((host(&tensor_of(value, m)?)?, host(&tensor_of(value, v)?)?))
            }
            _ => {
                let zeros = vec![E::of(0.0); self.shape[0] * self.shape[1]];
                Ok((zeros.clone(), zeros))
            }
        }
    }

    /// `m` and `v` fill the parameter's shape.
    pub fn write_moments(&mut self, device: &D, m: Vec<E>, v: Vec<E>) -> Result<(), D::Err> {
        let shape = self.shape;
        match &mut self.store {
            Store::OnDevice { moments, .. } => {
                *moments = Some((
                    device.try_tensor_from_vec(m, shape.into())?,
                    device.try_tensor_from_vec(v, shape.into())?,
                ))
            }
            Store::ByRows { moments, .. } => *moments = Some((m, v)),
            Store::Resident { value, moments, .. } => {
                let storage = |x| storage_of(value, device.try_tensor_from_vec(x, shape.into())?);
                *moments = Some((storage(m)?, storage(v)?));
            }
        }
        Ok(())
    }

    /// One step, if there is a gradient. dfdx's own Adam kernel rounds beta to the element before
    /// it takes `1 - beta` and the bias corrections from it, which in f32 puts the second
    /// moment up to 5e-5 off (and the update, which divides the one by the other, by rounding
    /// alone); so the update is composed, with coefficients rounded once, except for what is
    /// resident.
    pub fn adamw(&mut self, device: &D, step: &AdamWStep) -> Result<(), D::Err> {
        let AdamWStep { lr, beta1, beta2, eps, weight_decay, grad_scale, t } = *step;
        let keep = E::of(1.0 - lr * weight_decay);
        let (b1, c1, b2, c2) = (E::of(beta1), E::of(1.0 - beta1), E::of(beta2), E::of(1.0 - beta2));
        let rate = E::of(lr / (1.0 - beta1.powf(t as f64)));
        let unbias = E::of(1.0 / (1.0 - beta2.powf(t as f64)));
        let (grad_scale, eps) = (E::of(grad_scale), E::of(eps));
        match &mut self.store {
            Store::OnDevice { value, grad: Some(grad), moments } => {
                let zeros = || device.try_zeros_like(value.shape());
                let (m, v) = match moments.take() {
                    Some(moments) => moments,
                    None => (zeros()?, zeros()?),
                };
                let g = grad.clone().try_mul(grad_scale)?;
                let m = m.try_mul(b1)?.try_add(g.clone().try_mul(c1)?)?;
                let v = v.try_mul(b2)?.try_add(g.try_square()?.try_mul(c2)?)?;
                let root = v.clone().try_mul(unbias)?.try_sqrt()?.try_add(eps)?;
                let update = m.clone().try_mul(rate)?.try_div(root)?;
                *value = value.clone().try_mul(keep)?.try_sub(update)?;
                *moments = Some((m, v));
            }
            Store::ByRows { value, grad: Some(grad), moments } => {
                let cols = self.shape[1];
                let zeros = || vec![E::of(0.0); value.len()];
                let (m, v) = moments.get_or_insert_with(|| (zeros(), zeros()));
                let untouched = vec![E::of(0.0); cols];
                for row in 0..self.shape[0] {
                    let grad = grad.get(&row).unwrap_or(&untouched);
                    for (i, &g) in (row * cols..).zip(grad) {
                        let g = g * grad_scale;
                        m[i] = m[i] * b1 + g * c1;
                        v[i] = v[i] * b2 + g * g * c2;
                        let root = E::of((v[i] * unbias).as_f64().sqrt());
                        value[i] = value[i] * keep - m[i] * rate / (root + eps);
                    }
                }
            }
            Store::Resident { value, grad: Some(grad), moments } => {
                let config = AdamConfig {
                    lr,
                    betas: [beta1, beta2],
                    eps: step.eps,
                    weight_decay: Some(WeightDecay::Decoupled(weight_decay)),
                };
                let zeros =
                    || Storage::<E>::try_alloc_len(device, value.shape().0 * value.shape().1);
                if moments.is_none() {
                    *moments = Some((zeros()?, zeros()?));
                }
                let (m, v) = moments.as_mut().expect("made just now");
                let grad = match step.grad_scale == 1.0 {
                    true => grad.clone(),
                    false => grad.clone().try_mul(grad_scale)?,
                };
                let grad = storage_of(value, grad)?;
                config.try_update(i32::try_from(t).unwrap_or(i32::MAX), value, m, v, &grad)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A copy of storage of `like`'s shape as a tensor. dfdx makes tensors of storage for gradients
/// alone.
fn tensor_of<E: Element, D: Device<E>>(
    like: &Flat<E, D>,
    storage: &mut Stored<E, D>,
) -> Result<Flat<E, D>, D::Err> {
    let mut grads = Gradients::leaky();
    std::mem::swap(grads.get_or_alloc_mut(like)?, storage);
    let tensor = grads.get(like);
    std::mem::swap(grads.get_or_alloc_mut(like)?, storage);
    Ok(tensor)
}

/// A copy of `data` as storage, by way of the gradient of `sum(like * data)` in `like`, which is
/// `data`: dfdx lends no tensor's storage.
fn storage_of<E: Element, D: Device<E>>(
    like: &Flat<E, D>,
    data: Flat<E, D>,
) -> Result<Stored<E, D>, D::Err> {
    let tape = SharedTape::recording();
    let product = like.clone().put_tape(tape.clone()).try_mul(data)?;
    let (sum, _) = product.try_sum::<Rank0, _>()?.split_tape();
    let mut grads = Gradients::leaky();
    sum.device().try_fill_with_ones(grads.get_or_alloc_mut(&sum)?)?;
    tape.run(&mut grads)?;
    let nothing = Storage::<E>::try_alloc_len(like.device(), 1)?;
    Ok(std::mem::replace(grads.get_or_alloc_mut(like)?, nothing))
}
