//! Finds which number of a graph is the first that is not finite.

use super::TrainedGraph;
use crate::device;
use crate::ports::{ByteStates, Entropies, Loss, PatchStates};
use blt_core::backend::{BackendError, ParamId, Tensor};
use blt_core::bytes::Batch;
use blt_graph::{Outputs, StepError};
use std::rc::Rc;

fn wrong(values: &[f32]) -> Option<f32> {
    values.iter().copied().find(|value| !value.is_finite())
}

impl TrainedGraph {
    /// The first parameter, in graph order, that is not finite, in words.
    ///
    /// # Errors
    /// If the device fails.
    pub fn parameter_not_finite(&self) -> Result<Option<String>, StepError> {
        self.first("parameter", |id| self.backend().read_param(id).map(Some))
    }

    /// The first parameter, in graph order, whose gradient is not finite, in words.
    ///
    /// # Errors
    /// If the device fails.
    pub fn gradient_not_finite(&self) -> Result<Option<String>, StepError> {
        self.first("gradient of the parameter", |id| self.backend().grad(id))
    }

    fn first(
        &self,
        what: &str,
        read: impl Fn(ParamId) -> Result<Option<Vec<f32>>, BackendError>,
    ) -> Result<Option<String>, StepError> {
        for p in &self.params {
            let numbers = read(p.canonical.id).map_err(device::failed)?;
            if let Some(found) = numbers.as_deref().and_then(wrong) {
                let (name, node) = (&p.canonical.name, &p.node);
                return Ok(Some(format!("the {what} `{name}` of `{node}` has a number {found}")));
            }
        }
        Ok(None)
    }

    /// The first output in the sub-graph of `goal`, in graph order, that is not finite on `batch`,
    /// in words. The graph is run again for it.
    ///
    /// # Errors
    /// If a node or the device fails.
    pub fn output_not_finite(
        &self,
        batch: &Rc<Batch>,
        goal: &str,
    ) -> Result<Option<String>, StepError> {
        let plan = self.live.plan();
        let mut wires = Vec::new();
        for node in plan.needs(&[goal])? {
            for (port, info) in node.entry.outputs.iter().zip(&node.infos) {
                let wire = format!("{}.{port}", node.name);
                let of = plan.goal(&wire);
                let numbers = of.is_ok_and(|of| {
                    of.is::<ByteStates>() || of.is::<PatchStates>() || of.is::<Entropies>()
                });
                if numbers && info.is_some() {
                    wires.push(wire);
                }
            }
        }
        wires.push(goal.to_owned());
        let outputs = self.run(batch, &wires)?;
        for wire in &wires {
            if let Some(found) = wrong(&self.numbers(&outputs, wire)?) {
                return Ok(Some(format!("the output `{wire}` has a number {found}")));
            }
        }
        Ok(None)
    }

    fn numbers(&self, outputs: &Outputs, wire: &str) -> Result<Vec<f32>, StepError> {
        let of = self.live.plan().goal(wire)?;
        let host = |states: &Tensor| self.backend().to_host(states).map_err(device::failed);
        if of.is::<ByteStates>() {
            host(&outputs.get::<ByteStates>(wire)?.states)
        } else if of.is::<PatchStates>() {
            host(&outputs.get::<PatchStates>(wire)?.states)
        } else if of.is::<Entropies>() {
            Ok(outputs.get::<Entropies>(wire)?.to_vec())
        } else {
            Ok(outputs.get::<Loss>(wire)?.nats.to_vec())
        }
    }

    /// What is the first that is not finite once a loss or a gradient is not: a parameter, else an
    /// output on `batch`, in words that follow an error's; empty if nothing is found.
    ///
    /// # Errors
    /// If the device fails.
    pub fn first_not_finite(&self, batch: &Rc<Batch>, goal: &str) -> Result<String, StepError> {
        let found = match self.parameter_not_finite()? {
            Some(found) => Some(found),
            None => self.output_not_finite(batch, goal)?,
        };
        Ok(found
            .map_or_else(String::new, |found| format!(": {found}, the first that is not finite")))
    }

    /// Forgets the gradients added so far.
    pub fn forget_gradients(&self) {
        self.backend().zero_grads();
    }
}
