//! A part: the Parquet file that is written for a unit, its columns first and the scores after
//! them.

use super::columns::RowScores;
use super::job::{FORMAT, Job, Unit};
use super::outputs::Outputs;
use super::summary::{Summary, histogram_of};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use blt_data::storage::{Location, Sink};
use blt_data::{Rows, Unreadable};
use blt_graph::StepError;
use blt_report::results::{HistogramOf, UnreadableRows};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::{Component, Path};

/// Under this key a part's footer says what is in it, as JSON ([`Footer`]).
pub const FOOTER_KEY: &str = "blt.score";

/// Bytes in memory (pages, dictionaries, what is not encoded yet) after which a row group ends: it
/// is held until then.
const ROW_GROUP_BYTES: usize = 4 << 20;

/// What a part's footer says under [`FOOTER_KEY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    pub format: u32,
    /// The version of this crate that wrote it.
    pub version: String,
    /// A digest of the model.
    pub model: String,
    /// [`Unit::key`].
    pub key: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    /// Of the input file.
    pub groups: Range<usize>,
    pub summary: Summary,
}

/// The names of the parts of these spans of input: a name follows from the input's and its groups
/// (None: all) alone, as long as no two come out the same.
///
/// `in/a.parquet` stays `in/a.parquet` (and `s3://bucket/in/a.parquet` is `bucket/in/a.parquet`),
/// its row groups 0 to 11 are `in/a.00000-00011.parquet`; other endings get `.parquet` after them.
/// What leads out of the folder (`..`, `/`) is left out. A folder `lang=en` becomes `lang-en`: its
/// value is a column of the part, and readers that also make one of the folder's name complain of
/// two.
pub fn names<'a>(
    inputs: impl IntoIterator<Item = (&'a str, Option<&'a Range<usize>>)>,
) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut name = |(input, groups): (&str, Option<&Range<usize>>)| {
        let input = input.split_once("://").map_or(input, |(_, below)| below);
        let normal = Path::new(input).components().filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        });
        let mut normal: Vec<String> = normal.collect();
        let file = normal.pop().unwrap_or_default();
        let folders = normal.into_iter().map(|folder| folder.replace('=', "-"));
        let path = folders.chain([file]).collect::<Vec<_>>().join("/");
        let mut stem = path.strip_suffix(".parquet").unwrap_or(&path).to_owned();
        if let Some(groups) = groups {
            stem += &format!(".{:05}-{:05}", groups.start, groups.end.saturating_sub(1));
        }
        let tries = std::iter::once(format!("{stem}.parquet"))
            .chain((2..).map(|n| format!("{stem}~{n}.parquet")));
        let free = tries.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    inputs.into_iter().map(&mut name).collect()
}

/// A part being written. Dropped before its end, it leaves nothing.
pub(super) struct PartWriter<'a> {
    /// None once it is ended.
    writer: Option<ArrowWriter<Sink>>,
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
        // Of its own, should another process score the same unit, maybe on another machine.
        let random = RandomState::new().hash_one(std::process::id());
        let partial = outputs.partial.join(format!("{}.{random:016x}.parquet", unit.key));
        let sink = Sink::create(&path, &partial).map_err(|e| failed(&path, unit, e))?;
        let schema = &job.schemas[unit.span.table];
        let mut pairs: Vec<KeyValue> =
            schema.metadata().iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        // A map has no order, and the same scores are to be the same file.
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(pairs));
        // Hardly any two are the same: a dictionary would hold all of them beside their pages.
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
        let writer = ArrowWriter::try_new(sink, schema.clone(), Some(properties.build()));
        part.writer = Some(writer.map_err(|e| part.failed(e))?);
        Ok(part)
    }

    fn failed(&self, error: impl std::fmt::Display) -> StepError {
        failed(&self.path, self.unit, error)
    }

    pub fn write(&mut self, rows: &Rows, mut scores: Vec<RowScores>) -> Result<(), StepError> {
        let Job { config, columns, schemas, .. } = self.job;
        let arrays =
            rows.columns.columns().iter().cloned().chain(columns.arrays(&mut scores)?).collect();
        let schema = &schemas[self.unit.span.table];
        let mut batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|e| self.failed(e))?;
        match config.by.as_ref().and_then(|by| batch.column_by_name(by)) {
            Some(by) => {
                let options = FormatOptions::new().with_null("null");
                let names = ArrayFormatter::try_new(by, &options).map_err(|e| self.failed(e))?;
                for (i, row) in scores.iter().enumerate() {
                    let name = names.value(i).try_to_string().map_err(|e| self.failed(e))?;
                    self.summary.add(row, Some(&name), self.histogram);
                }
            }
            None => {
                // A column that this file does not have is null in all of its rows.
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
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written =
            writer.write(&batch).and_then(|()| match writer.memory_size() >= ROW_GROUP_BYTES {
                true => writer.flush(),
                false => Ok(()),
            });
        written.map_err(|e| self.failed(e))
    }

    pub fn unreadable(&mut self, group: Unreadable) {
        let Unreadable { group, rows, columns, cause } = group;
        let (input, group) = (self.unit.input.clone(), group as u64);
        self.summary.unreadable.push(UnreadableRows { input, group, rows, columns, cause });
    }

    /// Ends the file, and gives it its name once all of it is on the disk.
    pub fn finish(mut self, groups_skipped: u64) -> Result<Summary, StepError> {
        self.summary.groups_skipped = groups_skipped;
        let footer = Footer {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.model.to_owned(),
            key: self.unit.key.clone(),
            input: self.unit.input.clone(),
            groups: self.unit.span.groups.clone(),
            summary: self.summary.clone(),
        };
        let mut writer = self.writer.take().ok_or_else(|| self.failed("it was ended twice"))?;
        writer.append_key_value_metadata(KeyValue::new(
            FOOTER_KEY.to_owned(),
            serde_json::to_string(&footer)?,
        ));
        writer
            .into_inner()
            .map_err(|e| self.failed(e))?
            .finish()
            .map_err(|e| failed(&self.path, self.unit, e))?;
        Ok(footer.summary)
    }
}

fn failed(path: &Location, unit: &Unit, error: impl std::fmt::Display) -> StepError {
    let said = error.to_string();
    // What the writer passes on of a disk; and a store's error says where itself.
    let cause = said.strip_prefix("External: ").unwrap_or(&said);
    let cause = cause.strip_prefix(&format!("cannot write {path}: ")).unwrap_or(cause);
    StepError::other(format!("cannot write {path} (the scores of {}): {cause}", unit.input))
        .help("parts that are finished stay; run it again to go on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_inputs_and_stay_inside() {
        let (first, second) = (0..12, 12..13);
        let inputs = [
            ("in/a.parquet", None, "in/a.parquet"),
            ("in/a.parquet", Some(&first), "in/a.00000-00011.parquet"),
            ("in/a.parquet", Some(&second), "in/a.00012-00012.parquet"),
            ("in/b.txt", None, "in/b.txt.parquet"),
            ("../x/a.parquet", None, "x/a.parquet"),
            ("/x/a.parquet", None, "x/a~2.parquet"),
            ("in/year=2024/a=b.arrow", None, "in/year-2024/a=b.arrow.parquet"),
            ("in/year=2024/a=b.arrow", Some(&first), "in/year-2024/a=b.arrow.00000-00011.parquet"),
            ("x/a.parquet", None, "x/a~3.parquet"),
            ("s3://bucket/in/year=2024/a.parquet", None, "bucket/in/year-2024/a.parquet"),
        ];
        let found = names(inputs.iter().map(|(input, groups, _)| (*input, *groups)));
        assert_eq!(found, inputs.map(|(.., expected)| expected));
        for (input, groups, expected) in inputs.into_iter().take(5) {
            assert_eq!(names([(input, groups)]), [expected]);
        }
    }
}
