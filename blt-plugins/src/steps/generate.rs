//! The step `generate`.

use super::score::Score;
use crate::scoring::Writes;
use crate::split::Split;
use blt_core::bytes::VOCAB;
use blt_core::decoding::{Generate as Draw, Limits, Sampling, SamplingError};
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::OnError;
use blt_derive::{params, step};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError};

/// Goes on from the documents of a source with a model, and writes the rows of the source with what
/// was generated as Parquet files under `outputs/` or in `output`.
///
/// The output has a row for each input row, in input order. Its columns are all input columns, then
/// `generated` (bytes, which need not be whole characters), `n_bytes` (of `generated`) and
/// `stopped_by` (`eos`, `stop` or `bytes`). All three are null for a null document; an empty
/// document is an empty prompt, and the model begins a document. The graph must run id by id: its
/// patcher does not look ahead.
///
/// Parts, their names and footers, and how a stopped run continues are those of the step `score`.
/// Draws depend on the pipeline's seed and the row alone.
#[params]
pub struct Generate {
    /// Logits, or a loss of them.
    pub goal: String,
    /// Most bytes to write after each document.
    #[default(256)]
    #[range(0..=MAX_BYTES)]
    pub bytes: usize,
    /// Logits are divided by it; 0 takes the most likely byte each time.
    #[default(0.0)]
    #[range(0.0..=1e6)]
    pub temperature: f64,
    /// Draws from so many of the most likely bytes alone.
    #[range(1..=VOCAB)]
    pub top_k: Option<usize>,
    /// Draws from the most likely bytes alone that together have this probability.
    #[default(1.0)]
    #[range(f64::MIN_POSITIVE..=1.0)]
    pub top_p: f64,
    /// Texts after which a row ends; they are part of what is written.
    #[default]
    pub stop: Vec<String>,
    /// Where to write the parts: as in the step `score`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Rows to read and write: `all`, `train` or `valid`.
    #[default(Split::All)]
    #[schemars(with = "String")]
    pub split: Split,
    /// The source node to read documents from; the goal's own by default.
    pub source: Option<String>,
    /// Most ids of documents in a batch, whose documents advance together. Results do not depend on
    /// it.
    #[default(4096)]
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Decoded bytes of input after which a new part begins, at the end of a row group.
    #[default(64 << 20)]
    #[range(1..=MAX_COUNT)]
    pub part_bytes: u64,
    /// A condition on input columns, as in the step `score`.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// The share of these rows to read, as in the step `score`.
    #[range(0.0..=1.0)]
    pub sample: Option<f64>,
    /// Most of these rows to read; the first ones are taken.
    #[range(1..=MAX_COUNT)]
    pub limit: Option<u64>,
    /// What to do with rows that cannot be read: `fail`, or `null`, as in the step `score`.
    #[default]
    #[schemars(with = "Option<String>")]
    pub on_error: OnError,
}

impl Generate {
    /// The step at `index` in a plan's `run:`, as a score step that writes; `None` if it is no
    /// generate step.
    pub(super) fn of(plan: &Plan, index: usize) -> Option<Score> {
        Some(plan.steps().get(index)?.downcast::<Self>()?.score())
    }

    fn sampling(&self) -> Sampling {
        let Generate { temperature, top_k, top_p, .. } = *self;
        Sampling { temperature, top_k, top_p, all_ids: false }
    }

    fn score(&self) -> Score {
        let stop = self.stop.iter().map(|stop| stop.as_bytes().to_vec()).collect();
        let options = Draw { sampling: self.sampling(), seed: 0, speculate: None };
        let writes = Writes { options, limits: Limits { bytes: self.bytes, stop } };
        Score {
            output: self.output.clone(),
            split: self.split,
            source: self.source.clone(),
            batch_bytes: self.batch_bytes,
            part_bytes: self.part_bytes,
            condition: self.condition.clone(),
            sample: self.sample,
            limit: self.limit,
            on_error: self.on_error,
            writes: Some(writes),
            ..Score::new(&*self.goal)
        }
    }
}

#[step(example = "goal: loss, bytes: 100, temperature: 0.8")]
impl Step for Generate {
    fn goals(&self) -> Vec<String> {
        self.score().goals()
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        self.sampling().check().map_err(|error| {
            let name = match error {
                SamplingError::Temperature(_) => "temperature",
                SamplingError::TopK => "top_k",
                SamplingError::TopP(_) => "top_p",
            };
            NodeError::param(name, error)
        })?;
        if self.stop.iter().any(String::is_empty) {
            return Err(NodeError::param("stop", "an empty text would stop each row at once"));
        }
        self.score().check(plan)
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        self.score().depends(cx)
    }

    fn stands(&self, cx: &StepCx) -> Result<bool, StepError> {
        self.score().stands(cx)
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        self.score().run(cx)
    }
}
