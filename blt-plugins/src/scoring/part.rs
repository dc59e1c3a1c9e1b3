//! Writes a part: the Parquet file of a unit, the columns of the input first, then the scores.

use super::columns::RowScores;
use super::footer::{Footer, Hashed};
use super::job::Job;
use super::outputs::Outputs;
use super::summary::{Summary, histogram_of};
use super::units::{FOOTER_KEY, FORMAT, Unit};
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use blt_data::Unreadable;
use blt_data::storage::{Location, Sink};
use blt_graph::StepError;
use blt_report::results::{HistogramOf, UnreadableRows};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Bytes in memory (pages, dictionaries, rows not yet encoded) at which a row group ends. The
/// writer holds a row group in memory until it ends.
const ROW_GROUP_BYTES: usize = 4 << 20;

/// Writes a part. If it is dropped before [`finish`](PartWriter::finish), no file is left.
pub(super) struct PartWriter<'a> {
    /// `None` after `finish`.
    writer: Option<ArrowWriter<Hashed<Sink>>>,
    job: &'a Job,
    model: &'a str,
    unit: &'a Unit,
    path: Location,
    histogram: Option<HistogramOf>,
    summary: Summary,
}

impl<'a> PartWriter<'a> {
    pub fn create(
        job: &'a Job,
        model: &'a str,
        unit: &'a Unit,
        outputs: &Outputs,
    ) -> Result<Self, StepError> {
        let path = outputs.path(unit);
        // Unique, because another process, perhaps on another machine, may score the same unit.
        let random = RandomState::new().hash_one(std::process::id());
        let partial = outputs.partial.join(format!("{}.{random:016x}.parquet", unit.key));
        let sink = Sink::create(&path, &partial).map_err(|e| failed(&path, unit, e))?;
        let columns = &job.parts[unit.span.file];
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(columns.metadata()));
        // Few values repeat: a dictionary would hold nearly all of them once more.
        let list = |name: &str| vec![name.to_owned(), "list".into(), "item".into()];
        for path in [
            list("log_probs"),
            list("entropies"),
            vec!["nats".into()],
            vec!["bits_per_byte".into()],
        ] {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(path), false);
        }
        let mut part = PartWriter {
            writer: None,
            job,
            model,
            unit,
            path,
            histogram: histogram_of(&job.columns),
            summary: Summary::default(),
        };
        let (schema, types) = columns.written();
        let options = ArrowWriterOptions::new()
            .with_properties(properties.build())
            .with_parquet_schema(types)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Hashed::new(sink), schema, options);
        part.writer = Some(writer.map_err(|e| part.failed(e))?);
        Ok(part)
    }

    fn failed(&self, error: impl std::fmt::Display) -> StepError {
        failed(&self.path, self.unit, error)
    }

    /// Writes rows with their scores.
    pub fn write(
        &mut self,
        rows: &RecordBatch,
        mut scores: Vec<RowScores>,
    ) -> Result<(), StepError> {
        let Job { config, columns, parts, .. } = self.job;
        let schema = columns.beside(&rows.schema());
        let scored = columns.arrays(&mut scores)?;
        let own = schema.fields().iter().filter_map(|field| rows.column_by_name(field.name()));
        let own = own.take(schema.fields().len() - scored.len()).cloned();
        let arrays = own.chain(scored).collect();
        let mut batch =
            RecordBatch::try_new(Arc::new(schema), arrays).map_err(|e| self.failed(e))?;
        match config.by.as_ref().and_then(|by| batch.column_by_name(by)) {
            Some(by) => {
                // Text that is no UTF-8 came as bytes, with what is beside it.
                let is_text = |name: &String| {
                    let of = self.job.files[self.unit.span.file].schema.field_with_name(name);
                    of.is_ok_and(|field| field.data_type().is_string())
                };
                let by = match by.as_binary_opt::<i32>() {
                    Some(bytes) if config.by.as_ref().is_some_and(is_text) => {
                        let text = bytes.iter().map(|b| b.map(String::from_utf8_lossy));
                        &(Arc::new(StringArray::from_iter(text)) as ArrayRef)
                    }
                    _ => by,
                };
                let options = FormatOptions::new().with_null("null");
                let names = ArrayFormatter::try_new(by, &options).map_err(|e| self.failed(e))?;
                for (i, row) in scores.iter().enumerate() {
                    let name = names.value(i).try_to_string().map_err(|e| self.failed(e))?;
                    self.summary.add(row, Some(&name), self.histogram);
                }
            }
            None => {
                // A column that this file lacks is null in all of its rows.
                let name = config.by.is_some().then_some("null");
                scores.iter().for_each(|row| self.summary.add(row, name, self.histogram));
            }
        }
        if let Some(keep) = &config.keep {
            let kept = BooleanArray::from(keep.evaluate(&batch).map_err(|e| self.failed(e))?);
            if kept.true_count() < kept.len() {
                batch = filter_record_batch(&batch, &kept).map_err(|e| self.failed(e))?;
            }
        }
        self.summary.kept += batch.num_rows() as u64;
        let batch = parts[self.unit.span.file].rows(&batch).map_err(|e| self.failed(e))?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written =
            writer.write(&batch).and_then(|()| match writer.memory_size() >= ROW_GROUP_BYTES {
                true => writer.flush(),
                false => Ok(()),
            });
        written.map_err(|e| self.failed(e))
    }

    /// Counts a row group that cannot be read.
    pub fn unreadable(&mut self, group: Unreadable) {
        let Unreadable { group, rows, columns, cause } = group;
        let (input, group) = (self.unit.input.clone(), group as u64);
        self.summary.unreadable.push(UnreadableRows { input, group, rows, columns, cause });
    }

    /// Ends the file, and renames it to the part's name once all of it is on disk.
    pub fn finish(mut self, groups_skipped: u64) -> Result<Summary, StepError> {
        self.summary.groups_skipped = groups_skipped;
        let mut writer = self.writer.take().ok_or_else(|| self.failed("it was ended twice"))?;
        writer.flush().map_err(|e| self.failed(e))?;
        let footer = Footer {
            format: FORMAT,
            version: self.job.config.program.clone(),
            model: self.model.to_owned(),
            key: self.unit.key.clone(),
            input: self.unit.input.clone(),
            groups: self.unit.span.groups.clone(),
            summary: self.summary.clone(),
            data: Some(writer.inner().so_far()),
        };
        writer.append_key_value_metadata(KeyValue::new(
            FOOTER_KEY.to_owned(),
            serde_json::to_string(&footer)?,
        ));
        writer
            .into_inner()
            .map_err(|e| self.failed(e))?
            .into_inner()
            .finish()
            .map_err(|e| failed(&self.path, self.unit, e))?;
        Ok(footer.summary)
    }
}

fn failed(path: &Location, unit: &Unit, error: impl std::fmt::Display) -> StepError {
    let said = error.to_string();
    // The writer puts a prefix before errors of the disk; errors of an object store name the place
    // themselves.
    let cause = said.strip_prefix("External: ").unwrap_or(&said);
    let cause = cause.strip_prefix(&format!("cannot write {path}: ")).unwrap_or(cause);
    StepError::other(format!("cannot write {path} (the scores of {}): {cause}", unit.input))
        .help("parts that are finished stay; run it again to go on")
}
