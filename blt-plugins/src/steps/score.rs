mod part;

use self::part::{Columns, Part, PartWriter, Scores, Summary};
use super::evaluate::Split;
use crate::data::{Packer, RawEvent, Request, RowBatches, Rows, Table};
use crate::loaded::{Feed, Loaded, check_source, fingerprints, first_wire, sources};
use crate::ports::{Entropies, Loss, LossValue, Patches};
use crate::profile::NodeProfile;
use blt_core::bytes::{Batch, Span};
use blt_graph::{NodeError, Plan, Port, Step, StepCx, StepError, write_atomic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

/// A list that a row may be written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// Natural logarithm of each byte's probability, `[n_bytes]`.
    LogProbs,
    /// Entropy of the next byte at each id in nats, BOS first, `[n_bytes + 1]`.
    Entropies,
    /// BOS's own patch first; they sum to `n_bytes + 1`.
    PatchLengths,
}

impl Emit {
    fn name(self) -> &'static str {
        match self {
            Emit::LogProbs => "log_probs",
            Emit::Entropies => "entropies",
            Emit::PatchLengths => "patch_lengths",
        }
    }
}

/// Scores every document of a source and writes its rows back with the scores: a Parquet file under `outputs/` for each input file.
///
/// A row for each input row in input order; all input columns first, then `n_bytes`, `n_patches` (BOS's own is not counted), `nats`,
/// `bits_per_byte`, and the lists named in `emit`. A null document has null scores; an empty one has 0 bytes and null `bits_per_byte`.
/// The goal is a loss (of a trained pipeline, or a `ByteLm`, which has no patches) or a patcher (which has patches alone).
/// A run that was stopped goes on with the first file that is not finished. Leaves `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// What scores, a wire: a loss, a `ByteLm` or a patcher.
    pub goal: String,
    /// Lists to write as well: `log_probs`, `entropies`, `patch_lengths`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub emit: Vec<Emit>,
    /// Rows to read and write: `all`, `train` or `valid`.
    #[serde(default = "all")]
    #[schemars(with = "String")]
    pub split: Split,
    /// Another source node to read the documents from; the goal's own where left out.
    #[serde(default)]
    pub source: Option<String>,
    /// Ids in a batch; changes no number.
    #[serde(default = "batch_bytes")]
    pub batch_bytes: usize,
    /// Documents longer than the source's `span_bytes` are scored in spans; each after the first sees this many bytes before it, and
    /// does not count them again.
    #[serde(default)]
    pub context_bytes: usize,
}

fn all() -> Split {
    Split::All
}

fn batch_bytes() -> usize {
    32 * 1024
}

/// The wires that scores are read from.
struct Wires {
    loss: Option<String>,
    patches: Option<String>,
    entropies: Option<String>,
}

/// The wire of port `P` that a node of `goal`'s sub-graph reads, else one that a node of it gives.
fn read_wire<P: Port>(plan: &Plan, goal: &str) -> Result<Option<String>, NodeError> {
    for node in plan.needs(&[goal])? {
        for wire in plan.wires(node).into_iter().filter_map(|(_, wire)| wire) {
            if plan.goal(&wire)?.is::<P>() {
                return Ok(Some(wire));
            }
        }
    }
    first_wire::<P>(plan, &[goal])
}

impl Score {
    /// All else at its default.
    pub fn new(goal: impl Into<String>) -> Self {
        let (emit, split, batch_bytes) = (Vec::new(), all(), batch_bytes());
        Score { goal: goal.into(), emit, split, source: None, batch_bytes, context_bytes: 0 }
    }

    fn emits(&self, list: Emit) -> bool {
        self.emit.contains(&list)
    }

    fn wires(&self, plan: &Plan) -> Result<Wires, NodeError> {
        let goal = plan.goal(&self.goal)?;
        let mut wires = Wires {
            loss: None,
            patches: read_wire::<Patches>(plan, &self.goal)?,
            entropies: read_wire::<Entropies>(plan, &self.goal)?,
        };
        if goal.is::<Loss>() {
            wires.loss = Some(self.goal.clone());
        } else if goal.is::<Patches>() {
            wires.patches = Some(self.goal.clone());
        } else {
            // A bare `ByteLm` means its entropies.
            let sibling = goal.node.entry.out_slots().iter().position(|slot| slot.name == Loss::NAME);
            let sibling = sibling.filter(|_| goal.is::<Entropies>());
            let Some(port) = sibling.map(|at| goal.node.entry.outputs[at]) else {
                let msg =
                    format!("`{}` is {}, and scores come from a Loss, a ByteLm or Patches", self.goal, goal.port_type);
                return Err(NodeError::param("goal", msg));
            };
            wires.loss = Some(format!("{}.{port}", goal.node.name));
            wires.entropies = Some(self.goal.clone());
        }
        for (list, wire, whence) in [
            (Emit::LogProbs, &wires.loss, "a patcher has none; name a loss as the goal"),
            (Emit::Entropies, &wires.entropies, "they come from a ByteLm or ColumnEntropies that the goal depends on"),
            (Emit::PatchLengths, &wires.patches, "they come from a patcher that the goal depends on"),
        ] {
            if self.emits(list) && wire.is_none() {
                let msg = format!("there are no {} in what `{}` depends on", list.name(), self.goal);
                return Err(NodeError::param("emit", msg).help(whence));
            }
        }
        Ok(wires)
    }

    fn packer(&self, span_bytes: usize) -> Packer {
        // An empty document has an entropy, BOS's.
        Packer { span_bytes, batch_bytes: self.batch_bytes, context_bytes: self.context_bytes, keep_empty: true }
    }

    fn columns(&self, wires: &Wires, tables: &[Table]) -> Columns {
        Columns {
            patches: wires.patches.is_some(),
            nats: wires.loss.is_some(),
            log_probs: self.emits(Emit::LogProbs),
            entropies: self.emits(Emit::Entropies),
            patch_lengths: self.emits(Emit::PatchLengths),
            large: tables.iter().any(|t| t.document_bytes >= i32::MAX as u64),
        }
    }
}

impl Step for Score {
    const NAME: &'static str = "score";
    const EXAMPLE: &'static str = "score: {goal: loss, emit: [log_probs, entropies, patch_lengths]}";

    fn goals(&self) -> Vec<String> {
        std::iter::once(&self.goal).chain(&self.source).cloned().collect()
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        self.wires(plan)?;
        check_source(plan, self.source.as_deref())?;
        if self.batch_bytes == 0 {
            return Err(NodeError::param("batch_bytes", "batch_bytes must be at least 1"));
        }
        if let Some(twice) = self.emit.iter().enumerate().find(|(i, list)| self.emit[..*i].contains(list)) {
            return Err(NodeError::param("emit", format!("{} is named twice", twice.1.name())));
        }
        Ok(())
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        // What cannot be written is told before earlier steps have trained for an hour.
        let wires = self.wires(cx.plan())?;
        for (_, handle) in sources(cx, &[self.source.as_ref().unwrap_or(&self.goal)])? {
            self.packer(handle.span_bytes).check()?;
            let tables = handle.source.tables()?;
            let columns = self.columns(&wires, &tables);
            tables.iter().try_for_each(|table| columns.schema(table).map(|_| ()))?;
        }
        let goals = self.goals();
        fingerprints(cx, &goals.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let wires = self.wires(cx.plan())?;
        let mut loaded = Loaded::build(cx, &[&self.goal])?;
        loaded.prepare(cx)?;
        loaded.read_from(cx, self.source.as_deref())?;
        let profile = Rc::new(NodeProfile::new(loaded.session.clone()));
        loaded.live.world().observe(profile.clone());
        let source = loaded.source.source.clone();
        let tables = source.tables()?;
        let columns = self.columns(&wires, &tables);
        let parts = self.parts(cx, &tables, columns)?;
        let to_do: Vec<usize> = (0..parts.len()).filter(|&i| parts[i].summary.is_none()).collect();
        let rows_to_do: u64 = to_do.iter().map(|&i| tables[i].rows).sum();

        let lists = loaded.lists();
        let request = Request { lists: lists.clone(), ..Request::part(self.split.part()) };
        let packer = self.packer(loaded.source.span_bytes);
        let mut events = RowBatches::start(source.open_rows(&request, &to_do)?, packer, lists, 8)?;
        let mut scoring =
            Scoring { wires, columns, loaded, parts, waiting: VecDeque::new(), writer: None, seen: Summary::default() };
        cx.progress().start(&format!("score {}", self.goal), Some(rows_to_do));
        let started = Instant::now();
        while let Some(event) = events.next_event()? {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            match event {
                RawEvent::Rows(rows) => scoring.waiting.push_back(Waiting::Rows(OpenRows::new(rows))),
                RawEvent::End(table) => scoring.waiting.push_back(Waiting::End(table)),
                RawEvent::Batch(batch) => scoring.score(batch)?,
            }
            scoring.write()?;
            let rate = scoring.seen.bytes as f64 / started.elapsed().as_secs_f64();
            let bpb = scoring.seen.bits_per_byte().filter(|_| scoring.columns.nats).map(|b| ("bpb", format!("{b:.3}")));
            let fields: Vec<_> = bpb.into_iter().chain([("bytes/s", format!("{rate:.0}"))]).collect();
            cx.progress().update(scoring.seen.rows, &fields);
        }
        scoring.finish(self, cx, &tables, &profile, started.elapsed().as_secs_f64())
    }
}

impl Score {
    /// The parts, with what an interrupted run finished of them.
    fn parts(&self, cx: &StepCx, tables: &[Table], columns: Columns) -> Result<Vec<Part>, StepError> {
        let outputs = cx.dir().join("outputs");
        let failed = |e: std::io::Error| StepError::other(format!("cannot create {}: {e}", outputs.display()));
        std::fs::create_dir_all(&outputs).map_err(failed)?;
        let names = part::names(tables.iter().map(|t| t.name.as_str()));
        let part = |(table, name): (&Table, String)| {
            let mut part = Part {
                path: outputs.join(&name),
                // Not below `outputs`: what a killed run leaves there is not to be taken for a part.
                partial: cx.dir().join("part.partial"),
                input: table.name.clone(),
                schema: columns.schema(table)?,
                summary: None,
                name,
            };
            if cx.resumed() {
                part.find()?;
            }
            Ok(part)
        };
        tables.iter().zip(names).map(part).collect()
    }
}

/// Rows of which documents are still to be scored.
struct OpenRows {
    rows: Rows,
    scores: Vec<Option<Scores>>,
    /// Documents whose last span was not scored yet.
    open: usize,
}

impl OpenRows {
    fn new(rows: Rows) -> Self {
        let new = |n_bytes: usize| Scores { n_bytes: n_bytes as u64, ..Scores::default() };
        let scores: Vec<Option<Scores>> = rows.documents.iter().map(|(_, n)| n.map(new)).collect();
        OpenRows { open: scores.iter().flatten().count(), rows, scores }
    }
}

/// What is to be written, in order.
enum Waiting {
    Rows(OpenRows),
    /// The end of this table's part.
    End(usize),
}

struct Scoring {
    wires: Wires,
    columns: Columns,
    loaded: Loaded,
    parts: Vec<Part>,
    waiting: VecDeque<Waiting>,
    writer: Option<PartWriter>,
    /// What this run wrote; of a resumed one, without the parts that were there.
    seen: Summary,
}

/// What the graph says of a batch.
struct Values {
    loss: Option<LossValue>,
    patches: Option<Rc<blt_core::patches::Patches>>,
    entropies: Option<Rc<Vec<f32>>>,
}

impl Values {
    /// Adds what a span says to its document's scores; what it has in common with the span before is left out.
    fn add(&self, batch: &Batch, s: usize, columns: &Columns, scores: &mut Scores) {
        let span = &batch.spans[s];
        let (start, end) = (batch.offsets[s], batch.offsets[s + 1]);
        let is_first = span.range.start + span.context == 0;
        if let Some(loss) = &self.loss {
            // The nats at an id are those of the byte after it.
            let nats = &loss.nats[start + span.context..end - 1];
            scores.nats += nats.iter().map(|&x| x as f64).sum::<f64>();
            if columns.log_probs {
                scores.log_probs.extend(nats.iter().map(|x| 0.0 - x));
            }
        }
        // The first id that counts: the document's BOS, or the first byte that no span before had.
        let first = if is_first { start } else { start + 1 + span.context };
        if let Some(entropies) = self.entropies.as_ref().filter(|_| columns.entropies) {
            scores.entropies.extend_from_slice(&entropies[first..end]);
        }
        if let Some(patches) = &self.patches {
            scores.n_patches += patches.n_counted(batch, s) as u64;
            if columns.patch_lengths {
                let starts = &patches.starts[patches.span_offsets[s]..patches.span_offsets[s + 1]];
                let counted = starts[starts.partition_point(|&i| i < first)..].iter();
                scores.starts.extend(counted.map(|i| (span.range.start + i - start) as u64));
            }
        }
    }
}

/// The row of a span, looked for from place `at` on, which is moved to where it is.
fn row_of<'a>(
    waiting: &'a mut VecDeque<Waiting>,
    at: &mut usize,
    span: &Span,
) -> Result<(&'a mut OpenRows, usize), StepError> {
    let found = waiting.iter().enumerate().skip(*at).find_map(|(place, waiting)| match waiting {
        Waiting::Rows(open) => {
            let row = open.rows.documents.binary_search_by_key(&span.row, |(row, _)| *row).ok()?;
            Some((place, row))
        }
        Waiting::End(_) => None,
    });
    match found.map(|(place, row)| (place, row, waiting.get_mut(place))) {
        Some((place, row, Some(Waiting::Rows(open)))) => {
            *at = place;
            Ok((open, row))
        }
        _ => Err(StepError::other(format!("row {} was scored and not read", span.row))),
    }
}

impl Scoring {
    fn score(&mut self, batch: Batch) -> Result<(), StepError> {
        let batch = Rc::new(batch);
        self.loaded.live.world().insert(Feed(batch.clone()));
        let Wires { loss, patches, entropies } = &self.wires;
        let entropies = entropies.as_ref().filter(|_| self.columns.entropies);
        let goals: Vec<&String> = loss.iter().chain(patches).chain(entropies).collect();
        let mut found = self.loaded.live.run(&goals)?;
        let values = Values {
            loss: loss.as_ref().map(|wire| found.take::<Loss>(wire)).transpose()?,
            patches: patches.as_ref().map(|wire| found.take::<Patches>(wire)).transpose()?,
            entropies: entropies.map(|wire| found.take::<Entropies>(wire)).transpose()?,
        };
        let lengths = [values.loss.as_ref().map(|l| l.nats.len()), values.entropies.as_ref().map(|e| e.len())];
        if let Some(found) = lengths.into_iter().flatten().find(|&n| n != batch.len()) {
            let msg = format!("`{}` gives {found} numbers for a batch of {} ids", goals[0], batch.len());
            return Err(StepError::other(msg).help("a loss that scores has its nats at every id, and entropies too"));
        }
        let columns = self.columns;
        // Spans come in the order of their rows, which wait in that order.
        let mut at = 0;
        for (s, span) in batch.spans.iter().enumerate() {
            let (open, i) = row_of(&mut self.waiting, &mut at, span)?;
            let Some(scores) = &mut open.scores[i] else {
                return Err(StepError::other(format!("row {} is null, and was scored", span.row)));
            };
            values.add(&batch, s, &columns, scores);
            if span.last {
                open.open -= 1;
                if !scores.nats.is_finite() {
                    return Err(StepError::other(format!(
                        "the loss of the document in row {} is not finite",
                        span.row
                    )));
                }
            }
        }
        Ok(())
    }

    /// Writes what is scored and not behind something that is not.
    fn write(&mut self) -> Result<(), StepError> {
        loop {
            match self.waiting.front() {
                Some(Waiting::Rows(open)) if open.open > 0 => return Ok(()),
                None => return Ok(()),
                Some(_) => {}
            }
            match self.waiting.pop_front() {
                Some(Waiting::Rows(OpenRows { rows, scores, .. })) => {
                    let part = &self.parts[rows.table];
                    let writer = match &mut self.writer {
                        Some(writer) => writer,
                        None => self.writer.insert(PartWriter::create(part, self.columns)?),
                    };
                    writer.write(part, &rows, &scores)?;
                    scores.iter().for_each(|s| self.seen.add(s.as_ref()));
                }
                Some(Waiting::End(table)) => {
                    let part = &mut self.parts[table];
                    let writer = match self.writer.take() {
                        Some(writer) => writer,
                        None => PartWriter::create(part, self.columns)?,
                    };
                    writer.finish(part)?;
                }
                None => return Ok(()),
            }
        }
    }

    fn finish(
        self,
        step: &Score,
        cx: &StepCx,
        tables: &[Table],
        profile: &NodeProfile,
        seconds: f64,
    ) -> Result<(), StepError> {
        let mut total = Summary::default();
        let mut parts = Vec::new();
        for (part, table) in self.parts.iter().zip(tables) {
            let summary =
                part.summary.as_ref().ok_or_else(|| StepError::other(format!("{} was not scored", table.name)))?;
            total.merge(summary);
            parts.push(self.columns.json(summary, &[("input", json!(part.input)), ("part", json!(part.name))]));
        }
        let head = [
            ("kind", json!("score")),
            ("goal", json!(step.goal)),
            ("emit", json!(step.emit)),
            ("split", json!(step.split)),
        ];
        let mut result = self.columns.json(&total, &head);
        result["parts"] = json!(parts);
        write_atomic(cx.dir().join("result.json"), serde_json::to_string_pretty(&result)?)?;
        let timing = json!({
            "score_bytes_per_second": self.seen.bytes as f64 / seconds,
            "seconds_by_node": profile.seconds(),
        });
        write_atomic(cx.dir().join("timing.json"), timing.to_string())?;
        let bpb = total
            .bits_per_byte()
            .filter(|_| self.columns.nats)
            .map_or(String::new(), |b| format!("{b:.4} bits per byte over "));
        cx.progress().finish(&format!("{bpb}{} bytes in {} rows ({} null)", total.bytes, total.rows, total.nulls));
        Ok(())
    }
}

impl Columns {
    /// Sums, as far as these columns have them.
    fn json(&self, of: &Summary, head: &[(&str, serde_json::Value)]) -> serde_json::Value {
        let mut map: serde_json::Map<_, _> = head.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        for (key, value) in [
            ("rows", of.rows),
            ("documents", of.documents),
            ("bytes", of.bytes),
            ("nulls", of.nulls),
            ("empty", of.empty),
        ] {
            map.insert(key.into(), json!(value));
        }
        if self.nats {
            map.insert("nats".into(), json!(of.nats));
            map.insert("bpb".into(), json!(of.bits_per_byte()));
        }
        if self.patches {
            map.insert("patches".into(), json!(of.patches));
            map.insert("bytes_per_patch".into(), json!((of.patches > 0).then(|| of.bytes as f64 / of.patches as f64)));
        }
        map.into()
    }
}

blt_graph::step!(Score);
