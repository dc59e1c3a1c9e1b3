//! What `bench` measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `bench` measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BenchResult {
    pub goal: String,
    pub path: String,
    pub device: String,
    pub threads: u64,
    /// Vector instructions of the fused kernels.
    pub simd: String,
    /// The best rate of large f32 matrix products on the device, in FLOP/s.
    pub machine_flops_per_second: f64,
    pub parameters: u64,
    pub training: Option<PhaseRate>,
    pub training_memory: Option<TrainingMemory>,
    pub evaluation: PhaseRate,
    /// Entropies, if there is a patcher that reads them, and patch starts.
    pub patching: Option<PhaseRate>,
    /// The most bytes resident in the whole step; unknown where the device has a memory of its
    /// own.
    pub peak_memory_bytes: Option<u64>,
}

/// How fast one phase went. Bytes are ids: BOS is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseRate {
    /// The median repetition's.
    pub bytes_per_second: f64,
    pub slowest_bytes_per_second: f64,
    pub fastest_bytes_per_second: f64,
    /// Of a repetition, in wall time.
    pub mean_seconds: f64,
    pub bytes_per_repetition: f64,
    /// Of matrix products and allowed attention pairs, backward counted twice.
    pub flops_per_byte: f64,
    pub flops_per_second: f64,
    /// `flops_per_second` as a share of the machine's rate.
    pub share_of_machine: f64,
    /// Of the first repetition, where the goal is a loss: shows that two programs did the same
    /// work.
    pub first_nats_per_byte: Option<f64>,
    /// Of the last repetition: training's falls.
    pub last_nats_per_byte: Option<f64>,
    /// In graph order; the optimiser last.
    pub nodes: Vec<NodeSeconds>,
}

/// A node's part of a repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeSeconds {
    pub node: String,
    pub forward_seconds: f64,
    pub backward_seconds: f64,
    /// Forward and backward.
    pub flops: f64,
}

/// Resident memory of training, every page of parameters and moments touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingMemory {
    /// Parameters and both moments, in f32.
    pub parameters_and_moments_bytes: u64,
    /// What optimiser steps took at their peak beyond what was resident before this process
    /// measured anything, and beyond parameters and moments: activations, gradients, scratch,
    /// and whatever earlier measurements left behind.
    pub beyond_bytes: Option<u64>,
}
