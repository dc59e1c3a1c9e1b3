//! The certificate of a bits-per-byte figure: what is tried on a trained graph, a file a verdict.

mod causal;
mod coded;
mod covers;
mod deterministic;
mod draws;
mod normalised;
mod subject;
mod unseen;
mod verdict;

pub use verdict::{Certificate, Verdict};

use crate::trained_graph::TrainedGraph;
use blt_data::Request;
use blt_graph::{StepCx, StepError};
use covers::HeldOut;
use draws::Draws;
use subject::Subject;

/// What is certified, and how much is tried.
pub struct Trial<'a> {
    /// The loss.
    pub goal: &'a str,
    /// The node that held-out documents are read from, if it is not the goal's own.
    pub source: Option<&'a str>,
    /// The held-out documents.
    pub request: Request,
    pub batch_bytes: usize,
    /// Random places at which a text is changed.
    pub changes: usize,
    /// Random places at which every possible byte is put.
    pub places: usize,
}

impl Trial<'_> {
    /// Builds the graph as an evaluation does.
    ///
    /// # Errors
    /// As [`TrainedGraph::build`].
    fn build(&self, cx: &StepCx) -> Result<Subject, StepError> {
        let wires = Subject::wires(cx.plan(), self.goal)?;
        let mut graph = TrainedGraph::build(cx, &wires.goals())?;
        graph.prepare(cx)?;
        graph.read_from(cx, self.source)?;
        Ok(Subject::new(graph, wires))
    }

    /// Tries everything.
    ///
    /// # Errors
    /// If the documents cannot be read, or the graph does not run.
    pub fn run(&self, cx: &StepCx) -> Result<Certificate, StepError> {
        let subject = self.build(cx)?;
        let say = |what: &str| cx.progress().start(&format!("certify {}: {what}", self.goal), None);
        say("documents");
        let held_out = HeldOut::read(&subject, &self.request, Draws::new(cx.seed(), "texts"))?;
        let texts = held_out.texts();
        say("covers");
        let covered = covers::measure(cx, &subject, &held_out, self.batch_bytes)?;
        say("not trained on");
        let unseen = unseen::try_out(cx, &subject, &held_out)?;
        let mut verdicts = Vec::new();
        if let Some(column) = subject.graph.lists().first() {
            let found = format!(
                "nodes read the column `{}`, which was computed elsewhere from bytes that nobody knows",
                column.column
            );
            verdicts.push(Verdict::failed("causal", "nothing", &found));
            verdicts.push(covered.verdict);
            verdicts.push(Verdict::failed("normalised", "nothing", &found));
            verdicts.push(unseen);
            verdicts.push(Verdict::failed("deterministic", "nothing", &found));
            verdicts.push(Verdict::failed("coded", "nothing", &found));
        } else {
            say("causal");
            let draws = Draws::new(cx.seed(), "changes");
            verdicts.push(causal::try_out(&subject, &texts, self.changes, draws)?);
            verdicts.push(covered.verdict);
            say("normalised");
            let draws = Draws::new(cx.seed(), "places");
            let outside = covered.outside;
            verdicts.push(normalised::try_out(&subject, &texts, self.places, draws, outside)?);
            verdicts.push(unseen);
            say("deterministic");
            verdicts.push(deterministic::try_out(cx, |cx| self.build(cx), &subject, &texts)?);
            say("coded");
            verdicts.push(coded::try_out(&subject, &texts)?);
        }
        Ok(Certificate {
            goal: self.goal.to_owned(),
            source: subject.graph.source()?.node.clone(),
            portion: self.request.portion,
            model: subject.graph.digest()?,
            documents: held_out.n_documents(),
            bytes: held_out.bytes(),
            bits: covered.bits,
            verdicts,
        })
    }
}
