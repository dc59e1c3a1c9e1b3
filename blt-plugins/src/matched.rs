//! [`Matched`]: what matching patch sizes on scored documents found.

use blt_core::bytes::Batch;
use blt_core::patch::{EntropyRule, Limits, PatchError, Patches, entropy_patches};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A rule and the mean patch size that it gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// `None`: of a patcher without a threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<EntropyRule>,
    pub bytes_per_patch: f64,
}

/// On the same documents, what the patcher of training does, and what was found for the wanted
/// patch size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub trained: Rate,
    pub matched: Rate,
}

/// What was found, over all documents or for each group of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The patcher.
    pub node: String,
    pub wanted_bytes_per_patch: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Pair>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, Pair>,
}

/// The rule of each document.
#[derive(Clone, Debug, Default)]
pub struct RuleOfRow {
    pub rules: Vec<EntropyRule>,
    /// The rule of a row, by its place in `rules`; the first one if it is left out.
    pub of_row: BTreeMap<u64, usize>,
}

impl RuleOfRow {
    /// The patches of a batch whose documents have rules of their own.
    ///
    /// # Errors
    /// As [`entropy_patches`].
    pub fn patches(
        &self,
        batch: &Batch,
        entropies: &[f32],
        limits: Limits,
    ) -> Result<Patches, PatchError> {
        let (mut flags, mut next) = (vec![false; batch.len()], vec![false; batch.n_spans()]);
        for (at, &rule) in self.rules.iter().enumerate() {
            let patches = entropy_patches(batch, entropies, rule, limits)?;
            for (s, span) in batch.spans.iter().enumerate() {
                if self.of_row.get(&span.row).copied().unwrap_or(0) == at {
                    let starts = patches.span_offsets[s]..patches.span_offsets[s + 1];
                    patches.starts[starts].iter().for_each(|&start| flags[start] = true);
                    next[s] = patches.next_starts[s];
                }
            }
        }
        Ok(Patches::from_flags(batch, &flags, next))
    }
}
