//! Scores record batches in memory as the `score` step scores files.

use super::score::{Emit, Score};
use crate::model_files::pipeline_of;
use crate::scoring::{Columns, ColumnsTaken, Scorer};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use blt_data::{ListColumn, MemoryRows, OnError, Packer, in_memory, size_of};
use blt_graph::{Plan, Step, StepCx, StepError, check_all};
use std::path::{Path, PathBuf};

/// How to score record batches. Where a field is `None`, the pipeline's value holds, or the
/// default.
#[derive(Clone, Debug, Default)]
pub struct BatchOptions {
    /// The model: a Hugging Face BLT directory, a checkpoint directory of a run, or a YAML file of
    /// a pipeline with a `score` step.
    pub checkpoint: PathBuf,
    /// The column of text or binary that holds the documents.
    pub column: Option<String>,
    /// Lists to add.
    pub emit: Option<Vec<Emit>>,
    /// What to do with rows that cannot be scored.
    pub on_error: Option<OnError>,
    /// Longer documents are scored in spans of this many bytes.
    pub span_bytes: Option<usize>,
    /// Bytes before a span that the span sees and does not count.
    pub context_bytes: Option<usize>,
}

/// A model that scores record batches.
pub struct BatchScorer {
    scorer: Scorer,
    columns: Columns,
    column: String,
    packer: Packer,
    lists: Vec<ListColumn>,
    on_error: OnError,
}

/// Finds the score step of a plan.
///
/// # Errors
/// If there is none, or several; if it needs an earlier step; if it leaves out rows.
fn score_step(plan: &Plan, file: &Path) -> Result<(usize, Score), StepError> {
    let file = file.display();
    let mut found = None;
    for index in 0..plan.steps().len() {
        if let Some(score) = Score::of(plan, index)
            && found.replace((index, score)).is_some()
        {
            let msg = format!("{file} has several score steps, and one scores record batches");
            return Err(StepError::other(msg).help("keep one of them"));
        }
    }
    let Some((index, score)) = found else {
        return Err(StepError::other(format!("{file} has no score step, which says what scores"))
            .help("add `- score: {goal: ...}` under `run:`"));
    };
    if let Some(step) = plan.steps()[..index].iter().find(|step| step.feeds_later_steps()) {
        let msg = format!(
            "{file} has a step `{}` before it scores, which only a run of the pipeline does",
            step.entry.name
        );
        return Err(StepError::other(msg).help(
            "run it, and give the checkpoint that it leaves, RUN/checkpoints/0-train/final, here or to a `Blt` node",
        ));
    }
    let chooses = [
        ("where", score.condition.is_some()),
        ("sample", score.sample.is_some()),
        ("limit", score.limit.is_some()),
        ("keep", score.keep.is_some()),
        ("split", score.split != Score::new("").split),
    ];
    if let Some((name, _)) = chooses.into_iter().find(|(_, on)| *on) {
        let msg = format!(
            "the score step of {file} has `{name}`, and of record batches every row is scored and given"
        );
        return Err(StepError::other(msg)
            .help("leave it out, and choose rows before or after scoring them"));
    }
    Ok((index, score))
}

impl BatchScorer {
    /// Builds the model. `threads`: the number of threads that nodes are told; the caller installs
    /// the thread pool.
    ///
    /// # Errors
    /// If the checkpoint or pipeline does not exist, or the pipeline must be run before it can
    /// score.
    pub fn open(options: &BatchOptions, threads: usize) -> Result<Self, StepError> {
        let file = &options.checkpoint;
        let (spec, base_dir) = pipeline_of(file)?;
        let plans = check_all(&spec, &base_dir).map_err(StepError::Document)?;
        let [plan] = plans.as_slice() else {
            let msg = format!(
                "{} has {} variants and seeds, and one model scores",
                file.display(),
                plans.len()
            );
            return Err(StepError::other(msg).help("leave out `ablate:` and all seeds but one"));
        };
        let (index, mut score) = score_step(plan, file)?;
        score.emit = options.emit.clone().unwrap_or(score.emit);
        score.on_error = options.on_error.unwrap_or(score.on_error);
        score.context_bytes = options.context_bytes.unwrap_or(score.context_bytes);
        score.check(plan)?;
        let scorer =
            score.scorer(&StepCx::outside(plan, index, Vec::new(), threads, String::new()))?;
        let graph = scorer.graph();
        let packer = score.packer(options.span_bytes.unwrap_or(graph.source()?.handle.span_bytes));
        packer.check()?;
        // Text files have no parameter `column`.
        let source = plan.node(&graph.source()?.node);
        let column = || source?.params.get("column")?.as_str().map(str::to_owned);
        let column = options.column.clone().or_else(column).unwrap_or_else(|| "text".to_owned());
        Ok(BatchScorer {
            columns: score.columns(plan)?,
            column,
            packer,
            lists: graph.lists(),
            on_error: score.on_error,
            scorer,
        })
    }

    /// Returns the batches, whose schema is `schema`, with the scores as additional columns. Rows
    /// and other columns stay as they are.
    ///
    /// # Errors
    /// If a column is missing or of an unsupported type, if the batches already have a column with
    /// the name of a score, or if a row cannot be scored and `on_error` is not null.
    pub fn score(
        &self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
    ) -> Result<(SchemaRef, Vec<RecordBatch>), StepError> {
        let large = batches.iter().any(|batch| size_of(batch) >= i32::MAX as usize);
        let columns = Columns { large, ..self.columns };
        let scored = columns.schema(schema, &in_memory()).map_err(ColumnsTaken::into_step_error)?;
        let rows =
            MemoryRows::new(schema, batches.to_vec(), &self.column, &self.lists, self.on_error)?;
        let (packer, lists) = (self.packer.clone(), self.lists.clone());
        let scores =
            self.scorer.score_rows(Box::new(rows), columns, packer, lists, self.on_error)?;
        let batch = |(batch, mut scores): (&RecordBatch, Vec<_>)| {
            let arrays =
                batch.columns().iter().cloned().chain(columns.arrays(&mut scores)?).collect();
            Ok(RecordBatch::try_new(scored.clone(), arrays)?)
        };
        let batches =
            batches.iter().zip(scores).map(batch).collect::<Result<Vec<_>, StepError>>()?;
        Ok((scored, batches))
    }
}
