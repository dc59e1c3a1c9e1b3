//! `match` of the step `evaluate`: equal patch sizes on the documents that are scored.

use crate::matched::{Matched, Pair, Rate};
use crate::plan_queries::patches_wire;
use crate::ports::Patches;
use crate::trained_graph::TrainedGraph;
use blt_core::patch::PatchStats;
use blt_core::sizes::MAX_BYTES;
use blt_data::Request;
use blt_derive::params;
use blt_graph::{NodeError, StepCx, StepError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far the mean patch size may lie from the wanted one, relative to it.
pub const TOLERANCE: f64 = 0.01;

/// The documents to match patch sizes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    #[default]
    Scored,
}

/// A patch size to match on the documents that are scored.
#[params]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Wanted mean patch size in bytes, reached within 1 %.
    #[range(1.0..=MAX_BYTES as f64)]
    pub bytes_per_patch: f64,
    /// `scored`: the documents that the step scores. Where patches start needs their bytes alone.
    #[default]
    #[schemars(schema_with = "blt_graph::words::<On>")]
    pub on: On,
    /// Whether to match each value of the column `by` on its own.
    #[default]
    pub groups: bool,
}

impl Match {
    /// Finds the thresholds on the documents of `request`, and gives them to the patcher of the
    /// `goals` for this step. `by` is the column of groups, which the request reads.
    ///
    /// # Errors
    /// If the size cannot be reached; the error has the nearest that can.
    pub fn apply(
        &self,
        cx: &StepCx,
        graph: &TrainedGraph,
        goals: &[&str],
        request: Request,
        (batch_bytes, by): (usize, Option<&str>),
    ) -> Result<Matched, StepError> {
        let refuse = |text: String| cx.refuse(&NodeError::param("match", text));
        let Some(wire) = patches_wire(cx.plan(), goals)? else {
            return Err(refuse("the goal has no patches".into()));
        };
        let patchers = || graph.facilities().filter(|(_, f)| f.matching().is_some());
        let patcher = patchers().next();
        if let Some((_, found)) = &patcher {
            found.matching().iter().for_each(|matching| matching.begin());
        }
        let (mut groups, mut stats) = (BTreeMap::new(), PatchStats::default());
        let mut batches = graph.batches(request, batch_bytes)?.read_ahead(2);
        cx.progress().start("match patch sizes", None);
        while let Some(batch) = batches.next()? {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            stats.add(&batch, &*graph.get::<Patches>(&batch, &wire)?);
            for (span, scalars) in batch.spans.iter().zip(batches.scalars()) {
                if let Some(by) = by.filter(|_| self.groups) {
                    let group = scalars.get(by).cloned().flatten();
                    groups.insert(span.row, group.unwrap_or_else(|| "null".into()));
                }
            }
            cx.progress().update(stats.bytes, &[]);
        }
        let wanted = self.bytes_per_patch;
        let (node, pairs) = match &patcher {
            Some((node, found)) => {
                let matching = found.matching().expect("filtered above");
                (node.clone(), matching.find(wanted, TOLERANCE, &groups)?)
            }
            None => {
                let node = wire.split('.').next().unwrap_or_default().to_string();
                let own = stats.mean().unwrap_or(f64::NAN);
                let near = (own / wanted - 1.0).abs() <= TOLERANCE;
                if !near {
                    return Err(refuse(format!(
                        "`{node}` makes patches of {own:.4} bytes on these documents, which is not \
                         {wanted} within {} %, and it has no threshold to change that",
                        100.0 * TOLERANCE
                    )));
                }
                let rate = || Rate { rule: None, bytes_per_patch: own };
                (node, BTreeMap::from([(None, Pair { trained: rate(), matched: rate() })]))
            }
        };
        let line = |(group, pair): (&Option<String>, &Pair)| {
            let group = group.as_ref().map_or(String::new(), |group| format!("{group} "));
            let rate = |rate: &Rate| {
                let rule = rate.rule.map_or(String::new(), |rule| format!(" ({rule})"));
                format!("{:.4}{rule}", rate.bytes_per_patch)
            };
            let (matched, trained) = (rate(&pair.matched), rate(&pair.trained));
            format!("{group}{matched} bytes per patch; as trained {trained}")
        };
        cx.progress().finish(&pairs.iter().map(line).collect::<Vec<_>>().join(", "));
        let all = pairs.get(&None).cloned();
        let groups = pairs.into_iter().filter_map(|(group, pair)| Some((group?, pair))).collect();
        Ok(Matched { node, wanted_bytes_per_patch: wanted, all, groups })
    }
}
