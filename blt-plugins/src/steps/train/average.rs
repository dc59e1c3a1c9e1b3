//! `average`: the mean of the weights over training.

use super::params::Average;
use crate::device;
use crate::trained_graph::TrainedGraph;
use blt_core::checkpoint::{CheckpointError, write_tensors};
use blt_core::tensor_file::TensorFile;
use blt_graph::StepError;
use std::path::Path;

/// The file of the mean so far, in a checkpoint that a run resumes from.
const AVERAGE_FILE: &str = "average.safetensors";

/// At which optimiser steps weights are taken. Each reads all parameters, so not at every one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taken {
    /// The first, counted from 1.
    first: u64,
    /// Steps from one to the next.
    every: u64,
    /// Of an exponential mean, the factor from one to the next; else 1.
    factor: f64,
}

impl Taken {
    fn new(average: &Average, steps: u64) -> Self {
        let (span, most, decay) = match *average {
            Average::Last(share) => ((share * steps as f64).ceil(), 50.0, 1.0),
            // What is older than 8 times the time constant has a weight below e^-8.
            Average::Ema(factor) => ((8.0 / (1.0 - factor)).round(), 160.0, factor),
        };
        let span = (span as u64).clamp(1, steps);
        let every = ((span as f64 / most) as u64).max(1);
        // The last step is one of them.
        let first = steps - (span - 1) / every * every;
        Taken { first, every, factor: decay.powi(every as i32) }
    }

    /// Which one, from 1, `step` is; None where weights are not taken.
    fn number(&self, step: u64) -> Option<u64> {
        let since = step.checked_sub(self.first)?;
        since.is_multiple_of(self.every).then_some(since / self.every + 1)
    }

    /// The weight of the `number`-th in the mean of all up to it.
    fn weight(&self, number: u64) -> f64 {
        match self.factor {
            1.0 => 1.0 / number as f64,
            factor => (1.0 - factor) / (1.0 - factor.powf(number as f64)),
        }
    }
}

/// The mean so far of the weights of a graph.
pub struct Averaging<'a> {
    graph: &'a TrainedGraph,
    taken: Taken,
    /// By parameter, in graph order; empty before the first.
    means: Vec<Vec<f32>>,
}

impl<'a> Averaging<'a> {
    /// `begun`: the checkpoint that the training goes on from, and its step.
    pub fn new(
        average: &Average,
        steps: u64,
        graph: &'a TrainedGraph,
        begun: Option<(&Path, u64)>,
    ) -> Result<Self, StepError> {
        let taken = Taken::new(average, steps);
        let mut means = Vec::new();
        if let Some((dir, _)) = begun.filter(|(_, step)| *step >= taken.first) {
            let file = TensorFile::open(&dir.join(AVERAGE_FILE)).map_err(CheckpointError::from)?;
            for p in graph.params() {
                let mean = file.get_f32(&p.stored.name, &p.stored.stored_shape());
                means.push(mean.map_err(CheckpointError::from)?);
            }
        }
        Ok(Averaging { graph, taken, means })
    }

    /// Takes the weights after `step` into the mean, if it is their turn.
    pub fn after(&mut self, step: u64) -> Result<(), StepError> {
        let Some(number) = self.taken.number(step) else { return Ok(()) };
        let weight = self.taken.weight(number) as f32;
        self.means.resize_with(self.graph.params().len(), Vec::new);
        for (p, mean) in self.graph.params().iter().zip(&mut self.means) {
            let now = self.graph.backend().read_param(p.canonical.id).map_err(device::failed)?;
            match mean.is_empty() {
                true => *mean = now,
                false => mean.iter_mut().zip(now).for_each(|(m, now)| *m += (now - *m) * weight),
            }
        }
        Ok(())
    }

    /// Writes the mean so far into the checkpoint directory `dir`.
    pub fn save(&self, dir: &Path) -> Result<(), StepError> {
        if self.means.is_empty() {
            return Ok(());
        }
        let tensors = self.graph.params().iter().zip(&self.means);
        let tensors = tensors
            .map(|(p, mean)| (p.stored.name.clone(), p.stored.stored_shape(), || Ok(mean.clone())));
        Ok(write_tensors(&dir.join(AVERAGE_FILE), tensors)?)
    }

    /// Makes the mean the weights of the graph.
    pub fn write(&self) -> Result<(), StepError> {
        for (p, mean) in self.graph.params().iter().zip(&self.means) {
            self.graph.backend().write_param(p.canonical.id, mean).map_err(device::failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of numbers taken step by step, and the steps at which they were taken.
    fn mean(average: &Average, steps: u64, value: impl Fn(u64) -> f64) -> (f64, Vec<u64>) {
        let taken = Taken::new(average, steps);
        let at: Vec<u64> = (1..=steps).filter(|&step| taken.number(step).is_some()).collect();
        let mut mean = 0.0;
        for &step in &at {
            mean += (value(step) - mean) * taken.weight(taken.number(step).unwrap());
        }
        (mean, at)
    }

    #[test]
    fn the_last_steps_count_alike() {
        let (of_last, at) = mean(&Average::Last(0.2), 20, |step| step as f64);
        assert_eq!(at, [17, 18, 19, 20]);
        assert!((of_last - 18.5).abs() < 1e-12);
        let (of_many, at) = mean(&Average::Last(0.2), 5000, |step| step as f64);
        assert_eq!((at.len(), at[0], *at.last().unwrap()), (50, 4020, 5000));
        assert!((of_many - 4510.0).abs() < 1e-9);
        assert_eq!(mean(&Average::Last(1e-9), 7, |step| step as f64), (7.0, vec![7]));
    }

    #[test]
    fn an_exponential_mean_forgets() {
        let steps = 3000;
        let factor: f64 = 0.99;
        let weights = (1..=steps).map(|step| factor.powi(steps - step));
        let (sum, total) = weights.enumerate().fold((0.0, 0.0), |(sum, total), (i, weight)| {
            (sum + weight * (i + 1) as f64, total + weight)
        });
        let (got, at) = mean(&Average::Ema(factor), steps as u64, |step| step as f64);
        // Of every fifth step, which is up to two steps later in the mean.
        assert!((got - sum / total).abs() < 3.0, "{got} and {}", sum / total);
        assert_eq!((at.len(), *at.last().unwrap()), (160, 3000));
    }
}
