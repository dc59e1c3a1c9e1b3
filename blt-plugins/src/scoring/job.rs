//! A scoring job: input, model and settings, and how the input is divided into units.

use super::columns::{Columns, ColumnsTaken};
use super::kept::{KeptColumns, PartColumns, Unkept};
use super::part_names::names;
use super::units::{FORMAT, Manifest, Unit, Units};
use arrow::datatypes::{FieldRef, Schema};
use blt_data::predicate::Predicate;
use blt_data::{
    DataError, FileSlice, ListColumn, OnError, Packer, Portion, RowFile, RowRequest, RowShare,
    Source, count_rows, open_rows,
};
use blt_graph::StepError;
use serde_json::{Value, json};
use std::ops::Range;
use std::sync::Arc;

/// Input and settings of a [`Job`].
#[derive(Clone)]
pub struct JobConfig {
    /// The source of the input.
    pub source: Arc<dyn Source>,
    /// The score columns. The job sets `large` and `nullable`.
    pub columns: Columns,
    /// Packs documents into batches.
    pub packer: Packer,
    /// List columns that the model reads.
    pub lists: Vec<ListColumn>,
    /// The documents to read.
    pub portion: Portion,
    /// The condition on input columns for which rows are read.
    pub condition: Option<Predicate>,
    /// The share of these rows to read.
    pub row_share: Option<RowShare>,
    /// The condition on input columns and scores for which rows are written.
    pub keep: Option<Predicate>,
    /// What to do with rows that cannot be read or scored.
    pub on_error: OnError,
    /// Which input columns are written; all if none are named.
    pub kept: Option<KeptColumns>,
    /// The column by whose values histograms are made.
    pub by: Option<String>,
    /// The program and its arithmetic.
    pub program: String,
    /// Everything else that the scores depend on, apart from input and model.
    pub settings: Value,
}

/// A scoring job, checked against the columns of its input.
pub struct Job {
    /// Input and settings.
    pub config: JobConfig,
    /// The score columns.
    pub columns: Columns,
    /// The input files.
    pub files: Arc<[RowFile]>,
    /// Digests of the input files.
    fingerprints: Vec<String>,
    /// For each input file, the columns of its parts.
    pub(super) parts: Vec<PartColumns>,
}

/// Why a [`Job`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Columns(#[from] ColumnsTaken),
    #[error(transparent)]
    Unkept(#[from] Unkept),
}

/// Checks that one of the files has a column.
fn has_column(files: &[RowFile], column: &str) -> Result<(), DataError> {
    if files.iter().any(|file| file.schema.index_of(column).is_ok()) {
        return Ok(());
    }
    let (path, schema) = (files[0].path.clone(), &files[0].schema);
    let columns = schema.fields().iter().map(|f| f.name().clone()).collect();
    let column = column.to_owned();
    Err(DataError::NoSuchColumn { column, parameter: None, path, nearest: None, columns })
}

impl Job {
    /// Checks the config against the columns of the input. Reads no rows.
    ///
    /// # Errors
    /// If a file or column is missing, a column has an unsupported type, or the input already has a
    /// column with the name of a score.
    pub fn new(config: JobConfig) -> Result<Self, JobError> {
        config.packer.check()?;
        let files = config.source.files()?;
        let fingerprints = config.source.file_fingerprints()?;
        let columns = Columns {
            large: files.iter().any(|f| f.document_bytes() >= i32::MAX as u64),
            nullable: config.on_error == OnError::Null,
            ..config.columns
        };
        for column in config.kept.iter().flat_map(KeptColumns::named) {
            has_column(&files, column)?;
        }
        let part = |file: &RowFile| -> Result<PartColumns, JobError> {
            let fields = file.schema.fields().iter();
            let kept = |f: &&FieldRef| config.kept.as_ref().is_none_or(|kept| kept.has(f.name()));
            let kept: Vec<FieldRef> = fields.filter(kept).cloned().collect();
            let input = Schema::new_with_metadata(kept, file.schema.metadata().clone());
            let schema = columns.schema(&input, &file.path)?;
            Ok(PartColumns::new(&schema, file.types.as_ref(), &file.path)?)
        };
        let parts = files.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        if let Some(keep) = &config.keep {
            let schemas: Vec<Schema> = files.iter().map(|f| columns.beside(&f.schema)).collect();
            keep.check(&schemas).map_err(|(at, error)| {
                let (condition, path) = (keep.to_string(), files[at].path.clone());
                DataError::Predicate { condition, path, error: error.into() }
            })?;
        }
        if let Some(by) = &config.by {
            has_column(&files, by)?;
        }
        let job = Job { config, columns, files, fingerprints, parts };
        // Opening the rows checks the request.
        let whole = (0..job.files.len()).map(|file| job.whole(file)).collect();
        open_rows(job.config.source.clone(), job.request(whole))?;
        Ok(job)
    }

    fn whole(&self, file: usize) -> FileSlice {
        FileSlice { file, groups: 0..self.files[file].groups.len(), limit: None }
    }

    pub(super) fn request(&self, slices: Vec<FileSlice>) -> RowRequest {
        let config = &self.config;
        // What is written, and what decides on it.
        let columns = config.kept.as_ref().map(|kept| {
            let schemas = self.files.iter().map(|f| &f.schema);
            let names = schemas.clone().flat_map(|s| s.fields()).map(|f| f.name().clone());
            let keep = schemas.flat_map(|s| config.keep.as_ref().map(|keep| keep.columns(s)));
            let more = keep.flatten().chain(config.by.clone());
            names.filter(|name| kept.has(name)).chain(more).collect()
        });
        RowRequest {
            columns,
            portion: self.config.portion,
            lists: self.config.lists.clone(),
            slices,
            condition: self.config.condition.clone(),
            row_share: self.config.row_share,
            on_error: self.config.on_error,
        }
    }

    /// Divides the input into units of about `part_bytes` decoded bytes. A unit is a range of whole
    /// row groups of one file.
    ///
    /// With a `limit`, the last unit is the one with the last row. To find that row, the columns
    /// that decide whether a row is chosen are read. `model`: a digest of the model.
    ///
    /// # Errors
    /// If rows cannot be counted.
    pub fn divide(
        &self,
        part_bytes: u64,
        limit: Option<u64>,
        model: &str,
    ) -> Result<Units, StepError> {
        let mut spans: Vec<FileSlice> = Vec::new();
        for (file, row_file) in self.files.iter().enumerate() {
            let whole = self.whole(file);
            let (mut from, mut bytes) = (0, 0u64);
            for (at, group) in row_file.groups.iter().enumerate() {
                if at > from && bytes + group.bytes > part_bytes {
                    spans.push(FileSlice { groups: from..at, ..whole.clone() });
                    (from, bytes) = (at, 0);
                }
                bytes += group.bytes;
            }
            spans.push(FileSlice { groups: from..whole.groups.end, ..whole });
        }
        let inputs: Vec<(&str, Option<Range<usize>>)> =
            spans.iter().map(|span| self.named(span)).collect();
        let names = names(inputs.iter().map(|(input, groups)| (*input, groups.as_ref())));
        if let Some(limit) = limit {
            let counts =
                count_rows(self.config.source.clone(), self.request(spans.clone()), limit)?;
            let mut left = limit;
            for (span, count) in spans.iter_mut().zip(counts) {
                // Spans that were not counted are past the last row.
                span.limit = Some(left);
                left = left.saturating_sub(count);
            }
            let last = spans.iter().position(|s| s.limit == Some(0)).unwrap_or(spans.len());
            spans.truncate(last.max(1));
        }
        let unit = |(span, part): (FileSlice, String)| {
            let file = &self.files[span.file];
            let rows: u64 = file.groups[span.groups.clone()].iter().map(|g| g.rows).sum();
            Unit {
                part,
                input: file.name.clone(),
                rows: rows.min(span.limit.unwrap_or(u64::MAX)),
                key: self.key(&span, model),
                span,
            }
        };
        Ok(Units {
            model: model.to_owned(),
            units: spans.into_iter().zip(names).map(unit).collect(),
        })
    }

    /// The [`Unit::key`] of a span of the input.
    fn key(&self, span: &FileSlice, model: &str) -> String {
        let key = json!({
            "format": FORMAT,
            "version": self.config.program,
            "model": model,
            "input": self.fingerprints[span.file],
            "groups": span.groups,
            "limit": span.limit,
            "settings": self.settings(),
        });
        blake3::hash(key.to_string().as_bytes()).to_hex()[..32].to_string()
    }

    /// Whether a unit that another process made belongs to this job: its input, settings and model
    /// are the same.
    pub fn has(&self, unit: &Unit, model: &str) -> bool {
        let file = self.files.get(unit.span.file).filter(|f| f.name == unit.input);
        file.is_some_and(|f| unit.span.groups.end <= f.groups.len())
            && self.key(&unit.span, model) == unit.key
    }

    /// The name of the input file of a span, and its row groups unless they are all of the file's.
    fn named(&self, span: &FileSlice) -> (&str, Option<Range<usize>>) {
        let file = &self.files[span.file];
        (&file.name, (span.groups.len() < file.groups.len()).then(|| span.groups.clone()))
    }

    /// Everything that a part depends on apart from input, model and span. Scores do not depend on
    /// the size of batches.
    fn settings(&self) -> Value {
        let config = &self.config;
        let mut settings = json!({
            "columns": self.columns,
            "span_bytes": config.packer.span_bytes,
            "context_bytes": config.packer.context_bytes,
            "lists": config.lists,
            "part": config.portion,
            "where": config.condition.as_ref().map(ToString::to_string),
            "sample": config.row_share,
            "keep": config.keep.as_ref().map(ToString::to_string),
            "on_error": config.on_error,
            "by": config.by,
            "more": config.settings,
        });
        if let Some(kept) = &config.kept {
            settings["input_columns"] = json!(kept);
        }
        settings
    }

    /// The manifest of the job.
    pub fn manifest(&self, units: &Units) -> Manifest {
        Manifest {
            format: FORMAT,
            version: self.config.program.clone(),
            model: units.model.clone(),
            settings: self.settings(),
            units: units.units.clone(),
        }
    }
}
