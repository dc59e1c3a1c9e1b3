//! What nodes learn from documents before training.

use super::TrainedGraph;
use super::reading::only;
use crate::facilities::{self, Prepare};
use crate::sources::source_nodes;
use blt_data::{Order, Packer, Request};
use blt_graph::{StepCx, StepError};
use serde_json::Value;
use std::collections::BTreeMap;

/// Ids in a batch while nodes learn.
const PREPARE_BATCH: usize = 32 * 1024;

impl TrainedGraph {
    /// Lets every node that has something to learn learn it, in graph order: a later node may run
    /// on an earlier one's output.
    ///
    /// # Errors
    /// What reading, running or learning answers; [`StepError::Interrupted`].
    pub fn prepare(&mut self, cx: &StepCx) -> Result<(), StepError> {
        for (node, facilities) in facilities::of_graph(&self.live) {
            if let Some(prepare) = facilities.prepare() {
                self.prepare_node(cx, node, prepare)?;
            }
        }
        self.session.take_flops();
        Ok(())
    }

    fn prepare_node(
        &mut self,
        cx: &StepCx,
        node: String,
        prepare: &dyn Prepare,
    ) -> Result<(), StepError> {
        let Some(portion) = prepare.wants() else { return Ok(()) };
        let names = source_nodes(self.live.plan(), &[&node])?;
        let sources = self.sources.iter().filter(|source| names.contains(&&*source.node));
        let source = only(sources.collect(), &[&*node])?;
        // In the order of training: files may be sorted by domain.
        let order = Order::Shuffled { seed: cx.seed(), buffer: source.handle.shuffle_buffer };
        let request = Request { exclude_calibration: true, order, ..Request::portion(portion) };
        let packer = Packer::new(source.handle.span_bytes, PREPARE_BATCH)?;
        let mut batches = self.read(source, request, packer, None)?;
        cx.progress().start(&format!("prepare {node}"), None);
        prepare.begin();
        let mut seen = 0u64;
        while seen < prepare.max_bytes() {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let Some(batch) = batches.next()? else { break };
            seen += batch.n_counted_bytes() as u64;
            self.run_given(&[(&source.node, batch)], &[&node])?;
            cx.progress().update(seen, &[]);
        }
        drop(batches);
        let learned = prepare.finish()?;
        cx.progress().finish(&brief(&prepare.summary(&learned)));
        if let Some(doubt) = prepare.doubt(&learned) {
            cx.progress().message(&format!("warning: {node}: {doubt}"));
        }
        self.learned.insert(node, learned);
        Ok(())
    }

    /// What nodes learned before training, as results.json holds it.
    pub fn prepared_summary(&self) -> BTreeMap<String, Value> {
        let summary = |(node, learned): (&String, &Value)| {
            Some((node.clone(), self.with_prepare(node, |p| p.summary(learned))?))
        };
        self.learned.iter().filter_map(summary).collect()
    }

    pub(super) fn with_prepare<T>(
        &self,
        node: &str,
        f: impl FnOnce(&dyn Prepare) -> T,
    ) -> Option<T> {
        let mut of_node = facilities::of_node(&self.live, node);
        let facilities = of_node.find(|facilities| facilities.prepare().is_some())?;
        facilities.prepare().map(f)
    }
}

/// `threshold 1.3354, bytes_per_patch 6.01` of an object of numbers.
fn brief(value: &Value) -> String {
    let field = |(key, value): (&String, &Value)| {
        value.as_f64().map(|v| format!("{key} {}", (v * 1e4).round() / 1e4))
    };
    let fields = value.as_object().into_iter().flatten().filter_map(field);
    fields.collect::<Vec<_>>().join(", ")
}
