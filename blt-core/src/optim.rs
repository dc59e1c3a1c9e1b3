//! The learning-rate schedule and the optimiser step.

use crate::backend::{AdamWStep, Backend, BackendError, ParamId};
use crate::planted::{Bug, planted};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    Constant,
    /// Cosine from the peak to `min_lr * lr` at the last step.
    Cosine,
}

/// AdamW with decoupled decay, linear warm-up, and clipping by global norm.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWConfig {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest global norm of the gradient; None: no clipping.
    pub clip: Option<f64>,
    /// Steps over which the rate rises linearly; step 1 already moves.
    pub warmup: u64,
    pub decay: Decay,
    /// Share of `lr` that cosine ends at.
    pub min_lr: f64,
    /// Steps in all.
    pub steps: u64,
}

impl AdamWConfig {
    /// A constant learning rate; betas of 0.9 and 0.95, a decay of 0.1, clipping at a norm of 1.
    pub fn constant(lr: f64) -> Self {
        AdamWConfig {
            lr,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.1,
            clip: Some(1.0),
            warmup: 0,
            decay: Decay::Constant,
            min_lr: 1.0,
            steps: 0,
        }
    }

    /// The learning rate of step `t`, counted from 1.
    pub fn lr_at(&self, t: u64) -> f64 {
        let t = if planted(Bug::ScheduleStep) { t - 1 } else { t };
        if t <= self.warmup {
            return self.lr * t as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.lr,
            Decay::Cosine => {
                let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = ((t - self.warmup) as f64 / span).min(1.0);
                let share = self.min_lr
                    + (1.0 - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.lr * share
            }
        }
    }

    /// Clips, updates those of `ids` that have a gradient, and clears all gradients. Returns the
    /// gradient's norm before clipping; one that is not finite updates and clears nothing. `step` places the learning rate, `t` the bias
    /// correction (they differ after continuing from a checkpoint); both count from 1.
    ///
    /// # Errors
    /// Of the device; some parameters may be updated then.
    pub fn step(
        &self,
        backend: &dyn Backend,
        ids: &[ParamId],
        step: u64,
        t: u64,
    ) -> Result<f64, BackendError> {
        self.step_by(backend, ids, |_| 1.0, step, t)
    }

    /// As [`step`](Self::step), with a learning rate multiplied by `rate(i)` for `ids[i]`. (Weight
    /// decay, which is a share of the learning rate, is multiplied too.)
    ///
    /// # Errors
    /// As `step`.
    pub fn step_by(
        &self,
        backend: &dyn Backend,
        ids: &[ParamId],
        rate: impl Fn(usize) -> f64,
        step: u64,
        t: u64,
    ) -> Result<f64, BackendError> {
        let norm = backend.grad_norm_squared(ids)?.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let grad_scale = match self.clip {
            Some(clip) if norm > clip => clip / norm,
            _ => 1.0,
        };
        let (beta1, beta2) = self.betas;
        // After so many steps the corrections are 1.
        let t = if planted(Bug::AdamBias) { u64::MAX } else { t };
        let lr = self.lr_at(step);
        let step = |rate| AdamWStep {
            lr: lr * rate,
            beta1,
            beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            grad_scale,
            t,
        };
        let mut by_rate: Vec<(f64, Vec<ParamId>)> = Vec::new();
        for (i, &id) in ids.iter().enumerate() {
            match by_rate.iter_mut().find(|(other, _)| *other == rate(i)) {
                Some((_, ids)) => ids.push(id),
                None => by_rate.push((rate(i), vec![id])),
            }
        }
        for (rate, ids) in by_rate {
            backend.adamw(&ids, &step(rate))?;
        }
        backend.zero_grads();
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_linearly_and_falls_as_a_cosine() {
        let c = AdamWConfig {
            lr: 1.0,
            betas: (0.9, 0.95),
            eps: 1e-8,
            weight_decay: 0.1,
            clip: None,
            warmup: 10,
            decay: Decay::Cosine,
            min_lr: 0.1,
            steps: 110,
        };
        assert_eq!(c.lr_at(1), 0.1);
        assert_eq!(c.lr_at(10), 1.0);
        assert!((c.lr_at(60) - 0.55).abs() < 1e-12);
        assert!((c.lr_at(110) - 0.1).abs() < 1e-12);
        assert_eq!(AdamWConfig { decay: Decay::Constant, ..c }.lr_at(110), 1.0);
    }
}
