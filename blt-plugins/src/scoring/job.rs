//! What is scored, and its division into units.

use super::columns::{Columns, ColumnsTaken};
use super::part_names::names;
use arrow::datatypes::SchemaRef;
use blt_data::predicate::Predicate;
use blt_data::{
    DataError, FileSlice, ListColumn, OnError, Packer, Portion, RowFile, RowRequest, RowShare,
    Source, count_rows, open_rows,
};
use blt_graph::StepError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// What a [`Job`] is made of.
#[derive(Clone)]
pub struct JobConfig {
    pub source: Arc<dyn Source>,
    /// `large` and `nullable` are set by the job.
    pub columns: Columns,
    pub packer: Packer,
    /// Columns of lists that the model reads.
    pub lists: Vec<ListColumn>,
    pub portion: Portion,
    /// On input columns: which rows are read.
    pub condition: Option<Predicate>,
    pub row_share: Option<RowShare>,
    /// On input columns and scores: which rows are written.
    pub keep: Option<Predicate>,
    pub on_error: OnError,
    /// The column that histograms are made by.
    pub by: Option<String>,
    /// All that the scores depend on beside input, model, and what is above.
    pub settings: Value,
}

/// What is scored, by what, and how.
pub struct Job {
    pub config: JobConfig,
    pub columns: Columns,
    /// The input.
    pub files: Arc<[RowFile]>,
    /// Digests of the files.
    fingerprints: Vec<String>,
    /// Of the parts of each file.
    pub(super) schemas: Vec<SchemaRef>,
}

/// Why a [`Job`] cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Columns(#[from] ColumnsTaken),
}

/// A span of input and its output part: what is scored as one, and again if it was not finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The part's name below the outputs, `/` between the parts of it. It follows from the input's
    /// name and the span.
    pub part: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    #[serde(flatten)]
    pub span: FileSlice,
    /// Rows of the span, or its limit if that is less.
    pub rows: u64,
    /// A digest of the input file, the span, the model and the settings.
    pub key: String,
}

/// A job divided.
#[derive(Clone, Debug)]
pub struct Units {
    /// A digest of the model.
    pub model: String,
    /// In input order.
    pub units: Vec<Unit>,
}

/// `manifest.json`: all units of a job. Which of them are done, their parts say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// The version of this crate that wrote it.
    pub version: String,
    pub model: String,
    pub settings: Value,
    pub units: Vec<Unit>,
}

impl Manifest {
    /// In what another job differs, in words; None if they are the same.
    pub(super) fn difference(&self, other: &Manifest) -> Option<String> {
        let named = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let (mine, theirs) = (named(&self.settings), named(&other.settings));
        let settings: BTreeSet<&String> = mine
            .keys()
            .chain(theirs.keys())
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .collect();
        let keys = |manifest: &Manifest| -> Vec<(String, String)> {
            manifest.units.iter().map(|unit| (unit.part.clone(), unit.key.clone())).collect()
        };
        if self.format != other.format || self.version != other.version {
            Some(format!("another version of this program, {}", self.version))
        } else if self.model != other.model {
            Some(format!("another model, {}", self.model))
        } else if !settings.is_empty() {
            let settings: Vec<String> =
                settings.into_iter().map(|key| format!("`{key}`")).collect();
            Some(format!("other settings: {}", settings.join(", ")))
        } else if keys(self) != keys(other) {
            Some(self.other_input(other))
        } else {
            None
        }
    }

    /// Where the units of another job's input differ.
    fn other_input(&self, other: &Manifest) -> String {
        let keys: BTreeMap<&str, &Unit> =
            other.units.iter().map(|unit| (unit.part.as_str(), unit)).collect();
        let changed = self
            .units
            .iter()
            .find(|unit| keys.get(unit.part.as_str()).is_some_and(|of| of.key != unit.key));
        let inputs = |manifest: &Manifest| {
            manifest.units.iter().map(|unit| unit.input.clone()).collect::<BTreeSet<_>>()
        };
        let (mine, theirs) = (inputs(self), inputs(other));
        let added = theirs.difference(&mine).next().map(|name| format!("{name} was added"));
        let gone =
            || mine.difference(&theirs).next().map(|name| format!("{name} is no longer there"));
        let what = added.or_else(gone).unwrap_or_else(|| match changed {
            Some(unit) => {
                format!("{} was written again since, or another `limit` ends in it", unit.input)
            }
            None => "it is divided by another `part_bytes` or `limit`".to_owned(),
        });
        format!("other input: {what}")
    }
}

/// Version of [`Manifest`], of a part's footer, and of what keys are made of.
pub const FORMAT: u32 = 1;

impl Job {
    /// Checks the config against the input's columns. Reads no rows.
    ///
    /// # Errors
    /// If a file or column is missing, a column's type does not serve, or a file has a score's
    /// column itself.
    pub fn new(config: JobConfig) -> Result<Self, JobError> {
        config.packer.check()?;
        let files = config.source.files()?;
        let fingerprints = config.source.file_fingerprints()?;
        let columns = Columns {
            large: files.iter().any(|f| f.document_bytes() >= i32::MAX as u64),
            nullable: config.on_error == OnError::Null,
            ..config.columns
        };
        let schemas = files
            .iter()
            .map(|f| columns.schema(&f.schema, &f.path))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(keep) = &config.keep {
            keep.check(schemas.iter().map(AsRef::as_ref)).map_err(|(at, error)| {
                let (condition, path) = (keep.to_string(), files[at].path.clone());
                DataError::Predicate { condition, path, error: error.into() }
            })?;
        }
        if let Some(by) = &config.by
            && files.iter().all(|f| f.schema.index_of(by).is_err())
        {
            let (path, schema) = (files[0].path.clone(), &files[0].schema);
            let columns = schema.fields().iter().map(|f| f.name().clone()).collect();
            return Err(DataError::NoSuchColumn {
                column: by.clone(),
                parameter: None,
                path,
                nearest: None,
                columns,
            }
            .into());
        }
        let job = Job { config, columns, files, fingerprints, schemas };
        // Opening checks.
        let whole = (0..job.files.len()).map(|file| job.whole(file)).collect();
        open_rows(job.config.source.clone(), job.request(whole))?;
        Ok(job)
    }

    fn whole(&self, file: usize) -> FileSlice {
        FileSlice { file, groups: 0..self.files[file].groups.len(), limit: None }
    }

    pub(super) fn request(&self, slices: Vec<FileSlice>) -> RowRequest {
        RowRequest {
            portion: self.config.portion,
            lists: self.config.lists.clone(),
            slices,
            condition: self.config.condition.clone(),
            row_share: self.config.row_share,
            on_error: self.config.on_error,
        }
    }

    /// Divides the input into units of about `part_bytes` decoded bytes, whole row groups of one
    /// file each.
    ///
    /// With a `limit`, units end with the one that has its last row; to find it, the columns are
    /// read on which it depends whether a row is chosen. `model`: a digest of what scores.
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
                // What was not counted lies behind the last row.
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

    /// [`Unit::key`] of a span of this job's input.
    fn key(&self, span: &FileSlice, model: &str) -> String {
        let key = json!({
            "format": FORMAT,
            "version": env!("CARGO_PKG_VERSION"),
            "model": model,
            "input": self.fingerprints[span.file],
            "groups": span.groups,
            "limit": span.limit,
            "settings": self.settings(),
        });
        blake3::hash(key.to_string().as_bytes()).to_hex()[..32].to_string()
    }

    /// Whether a unit that another process divided off its job is one of this job: of the same
    /// input, settings and model.
    pub fn has(&self, unit: &Unit, model: &str) -> bool {
        let file = self.files.get(unit.span.file).filter(|f| f.name == unit.input);
        file.is_some_and(|f| unit.span.groups.end <= f.groups.len())
            && self.key(&unit.span, model) == unit.key
    }

    /// The span's input, and its groups unless they are all.
    fn named(&self, span: &FileSlice) -> (&str, Option<Range<usize>>) {
        let file = &self.files[span.file];
        (&file.name, (span.groups.len() < file.groups.len()).then(|| span.groups.clone()))
    }

    /// All that a part depends on beside input, model and span. The size of batches changes no
    /// number.
    fn settings(&self) -> Value {
        let config = &self.config;
        json!({
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
        })
    }

    pub fn manifest(&self, units: &Units) -> Manifest {
        Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: units.model.clone(),
            settings: self.settings(),
            units: units.units.clone(),
        }
    }
}
