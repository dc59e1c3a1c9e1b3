//! A part: the Parquet file that is written for an input file, its columns first and the scores after them.

use crate::data::{Rows, Table};
use arrow::array::{
    ArrayRef, Float32Array, Float64Array, GenericListArray, Int32Array, Int64Array, OffsetSizeTrait, RecordBatch,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use blt_graph::StepError;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::f64::consts::LN_2;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Under this key a part's footer says what is in it, as JSON ([`Footer`]).
pub const FOOTER_KEY: &str = "blt.score";

/// Encoded bytes after which a row group ends: it is held in memory until then.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Which columns are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    pub patches: bool,
    /// `nats` and `bits_per_byte`.
    pub nats: bool,
    pub log_probs: bool,
    pub entropies: bool,
    pub patch_lengths: bool,
    /// Lists have 64-bit offsets.
    pub large: bool,
}

/// What is known of a document, which is all of it once its last span has been scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    pub n_bytes: u64,
    pub nats: f64,
    pub n_patches: u64,
    /// One a byte.
    pub log_probs: Vec<f32>,
    /// One an id, BOS first.
    pub entropies: Vec<f32>,
    /// Ids at which patches start, BOS's 0 first.
    pub starts: Vec<u64>,
}

impl Scores {
    /// None where there is no byte to divide by.
    fn bits_per_byte(&self) -> Option<f64> {
        (self.n_bytes > 0).then(|| self.nats / LN_2 / self.n_bytes as f64)
    }

    /// They sum to the document's ids.
    fn patch_lengths(&self) -> impl Iterator<Item = u64> + '_ {
        let ends = self.starts.iter().skip(1).copied().chain([self.n_bytes + 1]);
        self.starts.iter().zip(ends).map(|(start, end)| end - start)
    }
}

impl Columns {
    fn list(&self, item: DataType) -> DataType {
        let item = Field::new_list_field(item, true).into();
        if self.large { DataType::LargeList(item) } else { DataType::List(item) }
    }

    /// The score columns in order. All are null where the document is.
    pub fn fields(&self) -> Vec<Field> {
        let (float, int) = (self.list(DataType::Float32), self.list(DataType::Int32));
        let all = [
            (true, "n_bytes", DataType::Int64),
            (self.patches, "n_patches", DataType::Int64),
            (self.nats, "nats", DataType::Float64),
            (self.nats, "bits_per_byte", DataType::Float64),
            (self.log_probs, "log_probs", float.clone()),
            (self.entropies, "entropies", float),
            (self.patch_lengths, "patch_lengths", int),
        ];
        all.into_iter().filter(|(on, ..)| *on).map(|(_, name, data_type)| Field::new(name, data_type, true)).collect()
    }

    /// The schema of a table with scores.
    ///
    /// # Errors
    /// If the table has one of the columns itself.
    pub fn schema(&self, table: &Table) -> Result<SchemaRef, StepError> {
        let scores = self.fields();
        let taken: Vec<&str> =
            scores.iter().map(|f| f.name().as_str()).filter(|name| table.schema.index_of(name).is_ok()).collect();
        if !taken.is_empty() {
            let path = table.path.display();
            return Err(StepError::other(format!(
                "{path} has columns `{}` itself, and scoring writes columns of these names",
                taken.join("`, `")
            ))
            .help("rename them in the input, or leave them out"));
        }
        let fields: Vec<FieldRef> =
            table.schema.fields().iter().cloned().chain(scores.into_iter().map(Arc::new)).collect();
        let mut metadata = table.schema.metadata().clone();
        // Of a part that was scored before.
        metadata.remove(FOOTER_KEY);
        Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
    }

    /// One array for each of [`Columns::fields`].
    fn arrays(&self, rows: &[Option<Scores>]) -> Result<Vec<ArrayRef>, StepError> {
        let known = || rows.iter().map(Option::as_ref);
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_iter(known().map(|s| s.map(|s| s.n_bytes as i64))))];
        if self.patches {
            arrays.push(Arc::new(Int64Array::from_iter(known().map(|s| s.map(|s| s.n_patches as i64)))));
        }
        if self.nats {
            arrays.push(Arc::new(Float64Array::from_iter(known().map(|s| s.map(|s| s.nats)))));
            arrays.push(Arc::new(Float64Array::from_iter(known().map(|s| s.and_then(Scores::bits_per_byte)))));
        }
        let floats = |of: fn(&Scores) -> &Vec<f32>| {
            let values: Vec<f32> = known().flatten().flat_map(|s| of(s).iter().copied()).collect();
            self.lists(Arc::new(Float32Array::from(values)), known().map(|s| s.map(|s| of(s).len())))
        };
        if self.log_probs {
            arrays.push(floats(|s| &s.log_probs)?);
        }
        if self.entropies {
            arrays.push(floats(|s| &s.entropies)?);
        }
        if self.patch_lengths {
            let values: Result<Vec<i32>, _> =
                known().flatten().flat_map(Scores::patch_lengths).map(i32::try_from).collect();
            let values = values
                .map_err(|_| StepError::other("a patch is too long for a list of int32; give `max_patch_length`"))?;
            arrays.push(self.lists(Arc::new(Int32Array::from(values)), known().map(|s| s.map(|s| s.starts.len())))?);
        }
        Ok(arrays)
    }

    fn lists(
        &self,
        values: ArrayRef,
        lengths: impl Iterator<Item = Option<usize>> + Clone,
    ) -> Result<ArrayRef, StepError> {
        match self.large {
            true => lists::<i64>(values, lengths),
            false => lists::<i32>(values, lengths),
        }
    }
}

fn lists<O: OffsetSizeTrait>(
    values: ArrayRef,
    lengths: impl Iterator<Item = Option<usize>> + Clone,
) -> Result<ArrayRef, StepError> {
    let nulls = NullBuffer::from_iter(lengths.clone().map(|l| l.is_some()));
    let offsets = OffsetBuffer::<O>::try_from_lengths(lengths.map(Option::unwrap_or_default)).map_err(|_| {
        StepError::other("documents are too long for lists with 32-bit offsets")
            .help("emit less, or write the input uncompressed")
    })?;
    let item = Field::new_list_field(values.data_type().clone(), true).into();
    Ok(Arc::new(GenericListArray::<O>::try_new(item, offsets, values, Some(nulls))?))
}

/// What is in a part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub rows: u64,
    /// Rows that are not null, the empty ones included.
    pub documents: u64,
    pub nulls: u64,
    pub empty: u64,
    pub bytes: u64,
    pub patches: u64,
    /// Written as text, which comes back to the bit.
    #[serde(with = "as_text")]
    pub nats: f64,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Summary {
    pub fn add(&mut self, row: Option<&Scores>) {
        self.rows += 1;
        match row {
            None => self.nulls += 1,
            Some(scores) => {
                self.documents += 1;
                self.empty += (scores.n_bytes == 0) as u64;
                self.bytes += scores.n_bytes;
                self.patches += scores.n_patches;
                self.nats += scores.nats;
            }
        }
    }

    pub fn merge(&mut self, other: &Summary) {
        self.rows += other.rows;
        self.documents += other.documents;
        self.nulls += other.nulls;
        self.empty += other.empty;
        self.bytes += other.bytes;
        self.patches += other.patches;
        self.nats += other.nats;
    }

    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / LN_2 / self.bytes as f64)
    }
}

/// What a part's footer says under [`FOOTER_KEY`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// The version of this crate that wrote it.
    pub version: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    #[serde(flatten)]
    pub summary: Summary,
}

/// An input file's part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its name below `outputs/`, `/` between the parts.
    pub name: String,
    pub path: PathBuf,
    /// While it is written.
    pub partial: PathBuf,
    pub input: String,
    pub schema: SchemaRef,
    /// Once it is done.
    pub summary: Option<Summary>,
}

/// The names of the parts of these input files: a name follows from the input's alone, as long as no two inputs come out the same.
///
/// `in/a.parquet` stays `in/a.parquet`, other endings get `.parquet` after them, and what leads out of the folder (`..`, `/`) is left out.
pub fn names<'a>(inputs: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut name = |input: &str| {
        let normal = Path::new(input).components().filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        });
        let path = normal.collect::<Vec<_>>().join("/");
        let stem = path.strip_suffix(".parquet").unwrap_or(&path);
        let tries = std::iter::once(format!("{stem}.parquet")).chain((2..).map(|n| format!("{stem}~{n}.parquet")));
        let free = tries.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    inputs.into_iter().map(&mut name).collect()
}

impl Part {
    fn failed(&self, error: impl std::fmt::Display) -> StepError {
        StepError::other(format!("cannot write {} (the scores of {}): {error}", self.path.display(), self.input))
            .help("parts that are finished stay; run it again to go on")
    }

    /// Looks whether an interrupted run finished the part.
    ///
    /// # Errors
    /// If a file of its name is there that is no such part.
    pub fn find(&mut self) -> Result<(), StepError> {
        if !self.path.exists() {
            return Ok(());
        }
        let read = || -> Result<Footer, Box<dyn std::error::Error>> {
            let metadata = ArrowReaderMetadata::load(&File::open(&self.path)?, ArrowReaderOptions::new())?;
            let pairs = metadata.metadata().file_metadata().key_value_metadata();
            let ours = pairs.into_iter().flatten().find(|pair| pair.key == FOOTER_KEY);
            let text = ours.and_then(|pair| pair.value.as_deref()).ok_or("its footer says nothing of scores")?;
            Ok(serde_json::from_str(text)?)
        };
        let footer = read().map_err(|e| {
            StepError::other(format!("{} is not the part that an interrupted run left: {e}", self.path.display()))
                .help("remove it, and run again")
        })?;
        self.summary = Some(footer.summary);
        Ok(())
    }
}

/// A part being written.
pub struct PartWriter {
    writer: ArrowWriter<File>,
    columns: Columns,
    summary: Summary,
}

impl PartWriter {
    pub fn create(part: &Part, columns: Columns) -> Result<Self, StepError> {
        let parent = |path: &Path| path.parent().map_or(Ok(()), std::fs::create_dir_all);
        parent(&part.path).map_err(|e| part.failed(e))?;
        let file = File::create(&part.partial).map_err(|e| part.failed(e))?;
        let metadata = part.schema.metadata();
        let mut pairs: Vec<KeyValue> = metadata.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone())).collect();
        // A map has no order, and the same scores are to be the same file.
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(pairs));
        for list in ["log_probs", "entropies"] {
            // Hardly any two are the same.
            let path = ColumnPath::new(vec![list.into(), "list".into(), "item".into()]);
            properties = properties.set_column_dictionary_enabled(path, false);
        }
        let writer =
            ArrowWriter::try_new(file, part.schema.clone(), Some(properties.build())).map_err(|e| part.failed(e))?;
        Ok(PartWriter { writer, columns, summary: Summary::default() })
    }

    pub fn write(&mut self, part: &Part, rows: &Rows, scores: &[Option<Scores>]) -> Result<(), StepError> {
        scores.iter().for_each(|s| self.summary.add(s.as_ref()));
        let columns = rows.columns.columns().iter().cloned().chain(self.columns.arrays(scores)?).collect();
        let batch = RecordBatch::try_new(part.schema.clone(), columns).map_err(|e| part.failed(e))?;
        self.writer.write(&batch).map_err(|e| part.failed(e))?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(|e| part.failed(e))?;
        }
        Ok(())
    }

    /// Ends the file, and gives it its name once all of it is on the disk.
    pub fn finish(mut self, part: &mut Part) -> Result<(), StepError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let footer = Footer { version, input: part.input.clone(), summary: self.summary.clone() };
        self.writer.append_key_value_metadata(KeyValue::new(FOOTER_KEY.to_owned(), serde_json::to_string(&footer)?));
        let file = self.writer.into_inner().map_err(|e| part.failed(e))?;
        let named = file.sync_all().and_then(|()| std::fs::rename(&part.partial, &part.path));
        named.map_err(|e| part.failed(e))?;
        part.summary = Some(self.summary);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_inputs_and_stay_inside() {
        let inputs =
            ["in/a.parquet", "in/b.txt", "../x/a.parquet", "/x/a.parquet", "in/year=2024/a.arrow", "x/a.parquet"];
        let expected = [
            "in/a.parquet",
            "in/b.txt.parquet",
            "x/a.parquet",
            "x/a~2.parquet",
            "in/year=2024/a.arrow.parquet",
            "x/a~3.parquet",
        ];
        assert_eq!(names(inputs), expected);
        for (input, expected) in inputs.into_iter().zip(expected).take(3) {
            assert_eq!(names([input]), [expected]);
        }
    }

    #[test]
    fn lists_of_either_width() {
        let scores = |n: u64| Scores {
            n_bytes: n,
            starts: (0..=n).collect(),
            log_probs: vec![-1.0; n as usize],
            ..Scores::default()
        };
        let rows = [Some(scores(2)), None, Some(scores(0))];
        for large in [false, true] {
            let columns =
                Columns { patches: false, nats: false, log_probs: true, entropies: false, patch_lengths: true, large };
            let arrays = columns.arrays(&rows).unwrap();
            for (array, field) in arrays.iter().zip(columns.fields()) {
                assert_eq!((array.data_type(), array.len(), array.null_count()), (field.data_type(), 3, 1));
            }
        }
    }

    #[test]
    fn a_summary_comes_back_to_the_bit() {
        for nats in [0.1 + 0.2, 1e300 / 3.0, f64::MIN_POSITIVE] {
            let summary = Summary { nats, rows: 3, ..Summary::default() };
            let footer = Footer { version: "1".into(), input: "a".into(), summary };
            let back: Footer = serde_json::from_str(&serde_json::to_string(&footer).unwrap()).unwrap();
            assert_eq!(back, footer);
        }
    }
}
