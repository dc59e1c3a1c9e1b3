//! Text from a model in files.

use crate::model_files::pipeline_of;
use crate::plan_queries::logits_wire;
use crate::trained_graph::TrainedGraph;
use blt_core::decoding::{Decoder, Generate, GenerateError, Generation};
use blt_graph::run::choose_variants;
use blt_graph::{Plan, StepCx, StepError, check_all};
use std::path::PathBuf;

/// Which model writes.
#[derive(Clone, Debug, Default)]
pub struct ModelFiles {
    /// A Hugging Face BLT directory, a checkpoint directory of a run, or a pipeline's YAML file.
    pub model: PathBuf,
    /// For a pipeline: the checkpoint with its parameters.
    pub checkpoint: Option<PathBuf>,
    /// For a pipeline: logits, or a loss of them; by default those of the last step that has such a
    /// goal.
    pub goal: Option<String>,
    /// For a pipeline with several variants: which one.
    pub variant: Option<String>,
}

/// A model that writes text.
pub struct Generator {
    graph: TrainedGraph,
    decoder: Decoder,
}

impl Generator {
    /// Builds the model. `threads`: the number of threads that nodes are told; the caller installs
    /// the thread pool.
    ///
    /// # Errors
    /// If the model cannot be read, needs a checkpoint, or has a node that does not run id by id.
    pub fn open(files: &ModelFiles, threads: usize) -> Result<Self, StepError> {
        let (spec, base_dir) = pipeline_of(&files.model)?;
        let plans = check_all(&spec, &base_dir).map_err(StepError::Document)?;
        let chosen: Vec<String> = files.variant.iter().cloned().collect();
        let plans = choose_variants(plans, &chosen, |plan: &Plan| &plan.variant)?;
        let file = files.model.display();
        let [plan] = plans.as_slice() else {
            let msg =
                format!("{file} has {} variants and seeds, and one model writes", plans.len());
            return Err(StepError::other(msg)
                .help("name a variant with `--variant`; of several seeds keep one"));
        };
        let (step, wire) = goal(plan, files)?;
        let trains = plan.steps().iter().any(|step| step.feeds_later_steps());
        if trains && files.checkpoint.is_none() {
            let msg = format!("{file} trains its model, and no checkpoint is given");
            return Err(StepError::other(msg).help(
                "run it, and give the checkpoint that it leaves: `--checkpoint RUN/checkpoints/1-train/final`",
            ));
        }
        let cx = StepCx::outside(plan, step, Vec::new(), threads, String::new());
        let mut graph = TrainedGraph::build(&cx, &[&wire])?;
        match &files.checkpoint {
            Some(dir) => drop(graph.restore(dir, true)?),
            None => graph.prepare(&cx)?,
        }
        let decoder = graph.decoder(&wire)?;
        Ok(Generator { graph, decoder })
    }

    /// Reads a prompt; the generation goes on from there. `document`: its number among those that
    /// one seed draws for.
    ///
    /// # Errors
    /// A number that is not finite where it must be.
    pub fn start(
        &self,
        options: Generate,
        prompt: &[u8],
        document: u64,
    ) -> Result<Generation<'_>, StepError> {
        Generation::start(&self.decoder, options, prompt, document).map_err(|e| self.error(e))
    }

    /// The graph, and the model in it as it runs id by id.
    pub(crate) fn parts(&self) -> (&TrainedGraph, &Decoder) {
        (&self.graph, &self.decoder)
    }

    /// An error of a generation, pointing at the node at fault.
    pub fn error(&self, error: GenerateError) -> StepError {
        self.graph.decoding_error(error)
    }
}

/// The step whose goal writes, and its wire of logits.
fn goal(plan: &Plan, files: &ModelFiles) -> Result<(usize, String), StepError> {
    let last = plan.steps().len().saturating_sub(1);
    if let Some(goal) = &files.goal {
        return Ok((last, logits_wire(plan, goal)?));
    }
    let of_step = |(index, step): (usize, &blt_graph::PlannedStep)| {
        step.goals.iter().find_map(|goal| Some((index, logits_wire(plan, goal).ok()?)))
    };
    plan.steps().iter().enumerate().rev().find_map(of_step).ok_or_else(|| {
        let msg = format!("no step of {} has a goal that gives logits", files.model.display());
        StepError::other(msg).help("name logits, or a loss of them: `--goal decoder`")
    })
}
