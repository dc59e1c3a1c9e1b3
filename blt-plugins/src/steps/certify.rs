use crate::certify::Trial;
use crate::device::backend;
use crate::ports::Loss;
use crate::sources::{check_source, check_sources, fingerprints};
use crate::split::Split;
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::Request;
use blt_derive::{params, step};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError, write_atomic};

/// Tries whether a bits-per-byte figure is what it says, on the model that earlier steps trained.
///
/// The claim is that of an `evaluate` step of the same goal, split and source. Tried are: that no
/// prediction depends on the byte that it predicts or on later ones; that every byte of the
/// held-out documents is counted once, at what its prediction costs; that the probabilities of all
/// ids sum to one; that the documents were not trained on; that threads and batches change no bit.
/// Writes `certificate.json`. `blt-run certify PIPELINE` runs this step for each `evaluate` step of
/// a pipeline, and prints the verdicts.
#[params]
pub struct Certify {
    /// The wire of the loss.
    pub goal: String,
    /// Held-out documents: `valid`, `train` or `all`.
    #[default(Split::Valid)]
    #[schemars(with = "String")]
    pub split: Split,
    /// The source node to read documents from; the goal's own by default.
    pub source: Option<String>,
    /// Most ids in a batch.
    #[default(32 * 1024)]
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Most documents to read, empty ones included.
    #[range(1..=MAX_COUNT)]
    pub limit: Option<u64>,
    /// Random places at which a text is changed; at each of them in three ways.
    #[default(32)]
    #[range(1..=1_000_000)]
    pub changes: usize,
    /// Random places at which each of the 256 bytes is put.
    #[default(4)]
    #[range(1..=100_000)]
    pub places: usize,
}

impl Certify {
    fn request(&self) -> Request {
        Request { limit: self.limit, ..Request::portion(self.split.portion()) }
    }

    fn read(&self) -> Vec<&str> {
        vec![self.source.as_deref().unwrap_or(&self.goal)]
    }
}

#[step(example = "goal: loss, split: valid")]
impl Step for Certify {
    fn goals(&self) -> Vec<String> {
        std::iter::once(&self.goal).chain(&self.source).cloned().collect()
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        if !plan.goal(&self.goal)?.is::<Loss>() {
            let what = format!("`{}` is not a Loss, and bits per byte are one", self.goal);
            return Err(NodeError::param("goal", what));
        }
        check_source(plan, self.source.as_deref())
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        backend(cx)?;
        check_sources(cx, &self.read(), &self.request())?;
        let goals = self.goals();
        fingerprints(cx, &goals.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let trial = Trial {
            goal: &self.goal,
            source: self.source.as_deref(),
            request: self.request(),
            batch_bytes: self.batch_bytes,
            changes: self.changes,
            places: self.places,
        };
        let certificate = trial.run(cx)?;
        let (bits, holds) = (certificate.bits_per_byte(), certificate.holds());
        let text = serde_json::to_string_pretty(&certificate)?;
        write_atomic(cx.dir().join("certificate.json"), text)?;
        let said = if holds { "certified" } else { "not certified" };
        cx.progress().finish(&format!("{bits:.4} bits per byte, {said}"));
        Ok(())
    }
}
