//! The graph that is tried, and what it says of texts.

use crate::plan_queries::{logits_wire, patches_wire};
use crate::ports::{Logits, Loss, Patches};
use crate::trained_graph::TrainedGraph;
use blt_core::bytes::{Batch, VOCAB};
use blt_graph::{NodeError, Plan, StepError};
use std::ops::Range;
use std::rc::Rc;

/// A built graph and the wires that are asked for.
pub struct Subject {
    pub graph: TrainedGraph,
    wires: Wires,
}

pub struct Wires {
    goal: String,
    /// The logits that the loss is of; `None` of a loss that shows none.
    logits: Option<String>,
    patches: Option<String>,
}

impl Wires {
    pub fn goals(&self) -> Vec<&str> {
        let more = self.logits.iter().chain(&self.patches);
        std::iter::once(&self.goal).chain(more).map(String::as_str).collect()
    }
}

/// What the graph says of one text of a batch.
pub struct Said {
    /// Nats that the loss counts for each byte, `[bytes]`.
    pub nats: Vec<f32>,
    /// After BOS and after each byte, `[1 + bytes, 260]`; empty if the graph shows none.
    pub logits: Vec<f32>,
    /// Where patches start, counted from BOS.
    pub starts: Vec<usize>,
}

impl Said {
    /// The row of logits that predicts the byte at `place`.
    pub fn row(&self, place: usize) -> Option<&[f32]> {
        self.logits.get(place * VOCAB..(place + 1) * VOCAB)
    }

    /// The bits of everything that is computed before the byte at `place` is read: nats of the
    /// bytes before it, and logits up to the one that predicts it.
    pub fn before(&self, place: usize) -> Vec<u32> {
        let logits = &self.logits[..self.logits.len().min((place + 1) * VOCAB)];
        self.nats[..place].iter().chain(logits).map(|x| x.to_bits()).collect()
    }
}

impl Subject {
    /// The wires of the loss `goal`.
    ///
    /// # Errors
    /// If the plan does not have the goal.
    pub fn wires(plan: &Plan, goal: &str) -> Result<Wires, NodeError> {
        let patches = patches_wire(plan, &[goal])?;
        Ok(Wires { goal: goal.to_owned(), logits: logits_wire(plan, goal).ok(), patches })
    }

    pub fn new(graph: TrainedGraph, wires: Wires) -> Self {
        Subject { graph, wires }
    }

    /// The wire of the loss.
    pub fn goal(&self) -> &str {
        &self.wires.goal
    }

    /// The wire of the logits that the loss is of; `None` of a loss that shows none.
    pub fn logits(&self) -> Option<&str> {
        self.wires.logits.as_deref()
    }

    /// What the graph says of each span of a batch.
    ///
    /// # Errors
    /// If a node fails, or the loss is not of this batch.
    pub fn of_batch(&self, batch: &Rc<Batch>) -> Result<Vec<Said>, StepError> {
        let mut values = self.graph.run(batch, &self.wires.goals())?;
        let loss = values.take::<Loss>(&self.wires.goal)?;
        if loss.batch.offsets != batch.offsets || loss.nats.len() != batch.len() {
            return Err(StepError::other(format!(
                "`{}` counts nats of another batch than it was given",
                self.wires.goal
            )));
        }
        let logits = self.wires.logits.as_ref().map(|wire| values.take::<Logits>(wire));
        let logits = logits.transpose()?.map(|value| value.head.logits(self.graph.session()));
        let logits = logits.transpose()?.unwrap_or_default();
        let patches = self.wires.patches.as_ref().map(|wire| values.take::<Patches>(wire));
        let patches = patches.transpose()?;
        let said = batch.offsets.windows(2).map(|w| {
            let ids: Range<usize> = w[0]..w[1];
            let rows = ids.start * VOCAB..ids.end * VOCAB;
            let starts = patches.iter().flat_map(|patches| &patches.starts);
            Said {
                nats: loss.nats[ids.start..ids.end - 1].to_vec(),
                logits: logits.get(rows).unwrap_or_default().to_vec(),
                starts: starts.filter(|start| ids.contains(start)).map(|s| s - ids.start).collect(),
            }
        });
        Ok(said.collect())
    }

    /// What the graph says of texts, which it reads in one batch.
    ///
    /// # Errors
    /// As [`of_batch`](Self::of_batch).
    pub fn of_texts(&self, texts: &[&[u8]]) -> Result<Vec<Said>, StepError> {
        self.of_batch(&Rc::new(Batch::from_documents(texts.iter().copied())))
    }

    /// What the graph says of one text alone.
    ///
    /// # Errors
    /// As [`of_batch`](Self::of_batch).
    pub fn of_text(&self, text: &[u8]) -> Result<Said, StepError> {
        let said = self.of_texts(&[text])?.pop();
        said.ok_or_else(|| StepError::other("a batch of one text has no span"))
    }
}
