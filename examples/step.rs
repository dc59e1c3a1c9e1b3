//! A step of one's own, on the built-in nodes: `overfit` trains on a single batch, which every
//! working model learns by heart. Run a pipeline that has one with `cargo run --release --example
//! step -- pipeline.yaml`.

use blt::prelude::*;

/// Trains on a single batch, and reports bits per byte before and after.
///
/// Parameters are as earlier steps left them, or fresh ones; what training changes is not kept.
/// Leaves `result.json`.
#[params]
pub struct Overfit {
    /// The loss to minimise, a wire.
    goal: String,
    /// Optimiser steps.
    steps: u64,
    /// Learning rate.
    lr: f64,
}

#[step(example = "goal: loss, steps: 50, lr: 1e-2")]
impl Step for Overfit {
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    /// It changes nothing that a later step would notice.
    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        match plan.goal(&self.goal)?.is::<port::Loss>() {
            true => Ok(()),
            false => Err(NodeError::param("goal", format!("`{}` is not a Loss", self.goal))),
        }
    }

    /// The result depends on the documents, beside the graph and these parameters.
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        fingerprints(cx, &[&self.goal])
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let mut graph = TrainedGraph::build(cx, &[&self.goal])?;
        graph.prepare(cx)?;
        let batch = graph.batches(Request::portion(Portion::Train), 4096)?.next_or_end()?;
        let bits_per_byte = |loss: LossValue| {
            loss.total_nats() / std::f64::consts::LN_2 / batch.n_counted_bytes() as f64
        };
        let before = bits_per_byte(graph.get::<port::Loss>(&batch, &self.goal)?);
        let optimiser = AdamWConfig::constant(self.lr);
        cx.progress().start(&format!("overfit {}", self.goal), Some(self.steps));
        for step in 1..=self.steps {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let now = bits_per_byte(graph.gradients(&batch, &self.goal, 1.0)?);
            graph.update(&optimiser, step, step)?;
            cx.progress().update(step, &[("bpb", format!("{now:.3}"))]);
        }
        let after = bits_per_byte(graph.get::<port::Loss>(&batch, &self.goal)?);
        let result =
            json!({"kind": "overfit", "goal": self.goal, "before": before, "after": after});
        write_atomic(cx.dir().join("result.json"), result.to_string())?;
        cx.progress().finish(&format!("{before:.3} to {after:.3} bits per byte"));
        Ok(())
    }
}

// The test that includes this file has a main of its own.
#[allow(dead_code)]
fn main() -> std::process::ExitCode {
    blt::main()
}
