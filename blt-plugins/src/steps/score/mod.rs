//! The step `score`.

mod wires;

pub use wires::Emit;

use self::wires::wires;
use crate::facilities::SourceHandle;
use crate::plan_queries::logits_wire;
use crate::scoring::{
    Columns, Job, JobConfig, JobError, KeptColumns, Manifest, Outputs, RemoteStep, Scheduler,
    Scorer, Seen, Summary, Units, Wires, Writer, Writes, refusal,
};
use crate::size;
use crate::sources::{check_source, fingerprints, sources};
use crate::split::Split;
use crate::trained_graph::TrainedGraph;
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::predicate::Predicate;
use blt_data::storage::{Location, StorageError};
use blt_data::{DataError, ListColumn, OnError, Packer, Packing, RowShare};
use blt_derive::{params, step};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError, write_atomic};
use blt_report::results::{ScoreResult, ScoredPart, StepResult, Timing};
use serde_json::json;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// Scores the documents of a source, and writes the rows of the source with their scores as Parquet
/// files under `outputs/` or in `output`.
///
/// The output has a row for each input row, in input order, except for those that `where`,
/// `sample`, `limit` or `keep` leave out. Its columns are all input columns (those of folders such
/// as `lang=en/` included), then `n_bytes`, `n_patches` (without the patch of BOS), `nats`,
/// `bits_per_byte`, and the lists named in `emit`. The scores of a null document are null; an empty
/// document has 0 bytes and null `bits_per_byte`. The goal is a loss (of a trained pipeline or a
/// `Blt`), entropies (a `ByteLm`, which has no patches, or `blt.entropies`, the entropy model of a
/// `Blt` on its own), or a patcher (which has patches only).
///
/// Each input file becomes a part with the same name, or several parts, named after their row
/// groups, if the file is large. A stopped run continues with the first part that is not finished,
/// and ends with the same files. The footer of a part holds digests of model, input and settings
/// under `blt.score`. Writes `result.json` and `manifest.json`.
#[params]
pub struct Score {
    /// The wire that gives scores: a loss, entropies (of a `ByteLm`, or of a `Blt`, whose entropy
    /// model then runs on its own), or a patcher.
    pub goal: String,
    /// Lists to write as well: `log_probs`, `entropies`, `patch_lengths`.
    #[default]
    #[schemars(schema_with = "blt_graph::list_of_words::<Emit>")]
    pub emit: Vec<Emit>,
    /// Where to write the parts, and a `_manifest.json` that lists them: a folder, relative to the
    /// pipeline's file, or a URL (`s3://`, `gs://`, `az://`) to which names are appended. It may
    /// hold the parts of an earlier run of the same job, and no other Parquet files. The run's own
    /// `outputs/` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Rows to read and write: `all`, `train` or `valid`.
    #[default(Split::All)]
    #[schemars(schema_with = "blt_graph::words::<Split>")]
    pub split: Split,
    /// The input columns to write beside the scores, `[id, lang]`, or those to leave out, `{except:
    /// [image]}`; all are written by default. Each keeps its values and type exactly; one of a type
    /// that Parquet does not have is an error before anything is scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<KeptColumns>,
    /// The source node to read documents from; the goal's own by default.
    pub source: Option<String>,
    /// Most ids in a batch. Results do not depend on it.
    #[default(32 * 1024)]
    #[range(1..=MAX_BYTES)]
    pub batch_bytes: usize,
    /// Documents longer than the source's `span_bytes` are scored in spans. Each span after the
    /// first sees this many bytes before it, which are not counted again.
    #[default(0)]
    #[range(0..=MAX_BYTES)]
    pub context_bytes: usize,
    /// Decoded bytes of input after which a new part begins, at the end of a row group.
    #[default(64 << 20)]
    #[range(1..=MAX_COUNT)]
    pub part_bytes: u64,
    /// A condition on input columns, such as `lang = 'en' and (n >= 100 or id in (1, 2))`. Only
    /// rows for which it is true are read. Row groups whose statistics rule it out are skipped.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// The share of these rows to score, above 0 and at most 1. Rows are drawn by file name, row
    /// number and the pipeline's seed.
    #[range(0.0..=1.0)]
    pub sample: Option<f64>,
    /// Most of these rows to score; the first ones are taken.
    #[range(1..=MAX_COUNT)]
    pub limit: Option<u64>,
    /// A condition on input columns and scores, such as `bits_per_byte < 1.2`. Only rows for which
    /// it is true are written. All rows are counted.
    pub keep: Option<String>,
    /// What to do with rows that cannot be read or scored (row groups that cannot be decoded, a
    /// file without the column, a loss that is not finite): `fail`, or `null`, which writes them
    /// with null scores and counts them by cause in `result.json`.
    #[default]
    #[schemars(schema_with = "blt_graph::words::<OnError>")]
    pub on_error: OnError,
    /// An input column; the results show how scores are distributed for each of its values.
    pub by: Option<String>,
    /// Of the step `generate`: what is written in place of scores.
    #[doc(hidden)]
    #[serde(skip)]
    #[schemars(skip)]
    pub writes: Option<Writes>,
}

impl Score {
    /// Where parts are written, if not in the step's own directory.
    fn elsewhere(&self, base: &Path) -> Result<Option<Location>, StorageError> {
        let location = self.output.as_ref().map(|text| Location::parse(text, base)).transpose()?;
        match &location {
            Some(Location::Remote(url)) if url.is_web() => {
                Err(StorageError::NoUpload { url: url.to_string() })
            }
            _ => Ok(location),
        }
    }

    fn outputs(&self, cx: &StepCx) -> Result<Outputs, StepError> {
        let own = cx.dir().join("partial");
        Ok(match self.elsewhere(cx.base_dir())? {
            None => Outputs { dir: cx.dir().join("outputs").into(), partial: own },
            Some(Location::Local(dir)) => {
                Outputs { partial: dir.join(".partial"), dir: dir.into() }
            }
            Some(dir) => Outputs { dir, partial: own },
        })
    }

    /// The step at `index` in a plan's `run:`; `None` if it is not a score step.
    pub fn of(plan: &Plan, index: usize) -> Option<Self> {
        plan.steps().get(index)?.downcast::<Self>().cloned()
    }

    /// The score columns, before anything is known of the data.
    pub(crate) fn columns(&self, plan: &Plan) -> Result<Columns, NodeError> {
        let columns = wires::columns(&self.wires(plan)?, &self.emit);
        Ok(Columns { generated: self.writes.is_some(), ..columns })
    }

    /// The wires that give scores; none for a step that writes.
    fn wires(&self, plan: &Plan) -> Result<Wires, NodeError> {
        match self.writes {
            None => wires(plan, &self.goal, &self.emit),
            Some(_) => logits_wire(plan, &self.goal)
                .map(|_| Wires { loss: None, patches: None, entropies: None })
                .map_err(|e| {
                    NodeError::param("goal", e.message())
                        .help("name a node that gives logits, or a loss of them")
                }),
        }
    }

    /// Packs documents into batches.
    pub(crate) fn packer(&self, span_bytes: usize) -> Packer {
        /// More bytes than a document has.
        const WHOLE: usize = 1 << 40;
        Packer {
            span_bytes: if self.writes.is_some() { WHOLE } else { span_bytes },
            batch_bytes: self.batch_bytes,
            context_bytes: self.context_bytes,
            // An empty document has an entropy, BOS's.
            keep_empty: true,
            packing: Packing::NextFit,
        }
    }

    /// Builds the model, with the parameters that earlier steps left.
    pub(crate) fn scorer(&self, cx: &StepCx) -> Result<Scorer, StepError> {
        let wires = self.wires(cx.plan())?;
        let mut graph = TrainedGraph::build(cx, &[&self.goal])?;
        graph.prepare(cx)?;
        graph.read_from(cx, self.source.as_deref())?;
        let Some(mut writes) = self.writes.clone() else { return Ok(Scorer::new(graph, wires)) };
        writes.options.seed = cx.seed();
        let writer = Writer::new(&graph, &logits_wire(cx.plan(), &self.goal)?, writes)?;
        Ok(Scorer::new(graph, wires).writing(writer))
    }

    /// The job of this step, for the model of `scorer`.
    pub(crate) fn whole_job(&self, cx: &StepCx, scorer: &Scorer) -> Result<Job, StepError> {
        let graph = scorer.graph();
        self.job(cx, &graph.source()?.handle, graph.lists(), StepError::other)
    }

    /// The job on `source`, which may be made before the model is built. `lists`: list columns that
    /// the model reads. `of_source` converts errors that are not about the step's parameters.
    fn job(
        &self,
        cx: &StepCx,
        source: &SourceHandle,
        lists: Vec<ListColumn>,
        of_source: impl FnOnce(DataError) -> StepError,
    ) -> Result<Job, StepError> {
        let columns = self.columns(cx.plan())?;
        let (keep, condition) =
            (predicate("keep", &self.keep)?, predicate("where", &self.condition)?);
        // The parameters of the source say how documents are found and split. Their location is not
        // among the settings: each file has a digest of its own.
        let settings: Vec<_> = self.source_params(cx.plan())?;
        let config = JobConfig {
            source: source.source.clone(),
            columns,
            packer: self.packer(source.span_bytes),
            lists,
            portion: self.split.portion(),
            condition,
            row_share: self.sample.map(|share| RowShare { share, seed: cx.seed() }),
            keep,
            on_error: self.on_error,
            kept: self.columns.clone(),
            by: self.by.clone(),
            program: cx.program().to_owned(),
            settings: self.settings(cx, settings),
        };
        Job::new(config).map_err(|error| match error {
            JobError::Columns(taken) => taken.into_step_error(),
            JobError::Unkept(column) => {
                let help = format!("leave it out: `columns: {{except: [{}]}}`", column.column);
                StepError::other(column).help(help)
            }
            JobError::Data(error) => match self.parameter(&error) {
                Some(name) => cx.refuse(&NodeError::param(name, error.to_string())),
                None => of_source(error),
            },
        })
    }

    /// What scores depend on beside the input and the model.
    fn settings(&self, cx: &StepCx, source: Vec<serde_json::Value>) -> serde_json::Value {
        let (path, device) = (cx.compute_path().to_string(), cx.device());
        let mut settings =
            json!({"goal": self.goal, "source": source, "path": path, "device": device});
        if let Some(writes) = &self.writes {
            settings["writes"] = json!(format!("{writes:?}, seed {}", cx.seed()));
        }
        settings
    }

    /// The parameters of the sources, without those that say where they read.
    fn source_params(&self, plan: &Plan) -> Result<Vec<serde_json::Value>, StepError> {
        let goal = self.source.as_ref().unwrap_or(&self.goal);
        let sources = plan.needs(&[goal])?.into_iter().filter(|node| node.entry.inputs.is_empty());
        let params = sources.map(|node| {
            let mut params = node.params.clone();
            params.remove("path");
            params.remove("shuffle_buffer");
            json!([node.entry.name, params])
        });
        Ok(params.collect())
    }

    /// Points an error of the output at `output`.
    fn at_output(&self, cx: &StepCx, error: impl std::fmt::Display) -> StepError {
        let error = NodeError::param("output", error.to_string())
            .help("name another folder, or one that is not there yet");
        cx.refuse(&error)
    }

    /// The parameter of the step that names the columns that the error is about.
    fn parameter(&self, error: &DataError) -> Option<&'static str> {
        match error {
            DataError::Predicate { condition, .. } => {
                let is_where = self.condition.as_ref() == Some(condition);
                Some(if is_where { "where" } else { "keep" })
            }
            DataError::NoSuchColumn { column, .. } if self.by.as_ref() == Some(column) => {
                Some("by")
            }
            DataError::NoSuchColumn { column, .. }
                if self.columns.as_ref().is_some_and(|c| c.named().contains(column)) =>
            {
                Some("columns")
            }
            _ => None,
        }
    }
}

/// Parses the condition in the parameter `name`.
fn predicate(name: &str, text: &Option<String>) -> Result<Option<Predicate>, NodeError> {
    text.as_ref()
        .map(|text| Predicate::parse(text).map_err(|e| NodeError::param(name, e)))
        .transpose()
}

#[step(example = "goal: loss, emit: [log_probs, entropies, patch_lengths]")]
impl Step for Score {
    fn goals(&self) -> Vec<String> {
        std::iter::once(&self.goal).chain(&self.source).cloned().collect()
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        self.wires(plan)?;
        check_source(plan, self.source.as_deref())?;
        let param = |name: &str, msg: String| Err(NodeError::param(name, msg));
        if let Some(twice) =
            self.emit.iter().enumerate().find(|(i, list)| self.emit[..*i].contains(list))
        {
            return param("emit", format!("{} is named twice", twice.1.name()));
        }
        if let Some(share) = self.sample.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return param(
                "sample",
                format!("a sample is a share of the rows, above 0 and up to 1, not {share}"),
            );
        }
        if self.output.as_ref().is_some_and(|output| output.trim().is_empty()) {
            return param("output", "an output is a folder or a URL, and not empty".into());
        }
        self.elsewhere(Path::new("")).map_err(|e| NodeError::param("output", e))?;
        predicate("where", &self.condition)?;
        predicate("keep", &self.keep)?;
        size::check(plan, &[&self.goal], None)
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        // Fail before training starts if input is unreadable or output not writable.
        let output = self.elsewhere(cx.base_dir())?;
        if let Some(output) = &output {
            output.list().map_err(|e| self.at_output(cx, e))?;
        }
        for source in sources(cx.plan(), &[self.source.as_ref().unwrap_or(&self.goal)])? {
            let of_source = |error| source.error(cx.plan(), error);
            let job = self.job(cx, &source.handle, Vec::new(), of_source)?;
            if let Some(output) = &output {
                let input: Vec<Location> = job.files.iter().map(|file| file.path.clone()).collect();
                let refusal = refusal(output, &input).map_err(|e| self.at_output(cx, e))?;
                refusal.map_or(Ok(()), |why| Err(self.at_output(cx, why)))?;
            }
        }
        let goals = self.goals();
        fingerprints(cx, &goals.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn stands(&self, cx: &StepCx) -> Result<bool, StepError> {
        if self.output.is_none() {
            return Ok(true);
        }
        let path = cx.dir().join("manifest.json");
        match std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice::<Manifest>(&text).ok())
        {
            Some(manifest) => self.outputs(cx)?.are_whole(&manifest),
            None => Ok(false),
        }
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let scorer = self.scorer(cx)?;
        let job = self.whole_job(cx, &scorer)?;
        let units = job.divide(self.part_bytes, self.limit, &scorer.graph().digest()?)?;
        let outputs = self.outputs(cx)?;
        let mut wait = |busy: Option<&str>| {
            if let Some(line) = busy {
                cx.progress().message(line);
            }
            !cx.interrupted()
        };
        // No other process works in a step's own directory.
        let _alone = self.output.as_ref().map(|_| outputs.lock(&mut wait)).transpose()?;
        outputs.clear_partial()?;
        let manifest = job.manifest(&units);
        if self.output.is_some() {
            outputs.claim(&manifest)?;
        }
        write_atomic(cx.dir().join("manifest.json"), serde_json::to_string_pretty(&manifest)?)?;
        let mut summaries = outputs.find_all(&units.units, true)?;
        let to_do: Vec<usize> = (0..summaries.len()).filter(|&i| summaries[i].is_none()).collect();

        let rows = to_do.iter().map(|&i| units.units[i].rows).sum();
        let what = if self.writes.is_some() { "generate" } else { "score" };
        cx.progress().start(&format!("{what} {}", self.goal), Some(rows));
        let started = Instant::now();
        let mut seen = Seen::default();
        let mut watch = |now: &Seen| {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            seen = *now;
            let rate = seen.bytes as f64 / started.elapsed().as_secs_f64();
            let bpb = seen
                .bits_per_byte()
                .filter(|_| job.columns.nats)
                .map(|b| ("bpb", format!("{b:.3}")));
            let fields: Vec<_> =
                bpb.into_iter().chain([("bytes/s", format!("{rate:.0}"))]).collect();
            cx.progress().update(seen.rows, &fields);
            Ok(())
        };
        let (scored, seconds_by_node) = match cx.lent::<Rc<dyn Scheduler>>() {
            Some(scheduler) => {
                let step = RemoteStep::new(cx, &units, &outputs)?;
                let message = &mut |line: &str| cx.progress().message(line);
                step.score(&**scheduler, &units, &to_do, &mut watch, message)?
            }
            None => {
                let profile = scorer.profile();
                (scorer.score(&job, &units, &to_do, &outputs, &mut watch)?, profile.seconds())
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        if scored.len() != to_do.len() {
            return Err(StepError::other(format!(
                "{} parts of {} were written",
                scored.len(),
                to_do.len()
            )));
        }
        for (i, summary) in to_do.into_iter().zip(scored) {
            summaries[i] = Some(summary);
        }
        outputs.clear_partial()?;
        outputs.check(&units.units, &summaries)?;
        // Parts that a resumed run found are not timed.
        let timing = Timing {
            score_bytes_per_second: Some(seen.bytes as f64 / seconds),
            seconds_by_node: Some(seconds_by_node),
            ..Timing::default()
        };
        timing.write(cx.dir())?;
        self.finish(cx, &job, &units, &summaries.into_iter().flatten().collect::<Vec<_>>())
    }
}

impl Score {
    fn finish(
        &self,
        cx: &StepCx,
        job: &Job,
        units: &Units,
        summaries: &[Summary],
    ) -> Result<(), StepError> {
        let mut total = Summary::default();
        let mut parts = Vec::new();
        for (unit, summary) in units.units.iter().zip(summaries) {
            total.merge(summary);
            let groups = &unit.span.groups;
            parts.push(ScoredPart {
                input: unit.input.clone(),
                groups: (groups.start as u64, groups.end as u64),
                part: unit.part.clone(),
                counts: summary.counts(&job.columns)?,
            });
        }
        let result = ScoreResult {
            goal: self.goal.clone(),
            emit: self.emit.iter().map(|list| list.name().to_owned()).collect(),
            output: self.output.clone(),
            split: self.split.name().to_owned(),
            model: units.model.clone(),
            counts: total.counts(&job.columns)?,
            row_groups_skipped: total.groups_skipped,
            unreadable: total.unreadable.clone(),
            histogram: total.histogram(&job.columns, self.by.as_deref()),
            parts,
        };
        StepResult::Score(result).write(cx.dir())?;
        let bpb = total.all.bits_per_byte().filter(|_| job.columns.nats);
        let mut said = bpb.map_or(String::new(), |b| format!("{b:.4} bits per byte over "));
        said += &format!("{} bytes in {} rows ({} null)", total.all.bytes, total.rows, total.nulls);
        let failed: u64 = total.failed.values().sum();
        if failed > 0 {
            said += &format!(", {failed} failed");
        }
        if self.keep.is_some() {
            said += &format!(", {} kept", total.kept);
        }
        if let Some(output) = &self.output {
            said += &format!(", in {output}");
        }
        cx.progress().finish(&said);
        Ok(())
    }
}
