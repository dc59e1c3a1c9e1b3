//! The columns that scoring adds to a table.

use arrow::array::{
    ArrayRef, Float32Array, Float64Array, GenericListArray, Int32Array, Int64Array, OffsetSizeTrait,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use blt_data::RowError;
use blt_data::storage::Location;
use blt_graph::StepError;
use serde::Serialize;
use std::f64::consts::LN_2;
use std::sync::Arc;

/// The key of the metadata in a part's footer. A part that is scored again does not keep it.
pub const FOOTER_KEY: &str = "blt.score";

/// Which columns are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Columns {
    pub patches: bool,
    /// `nats` and `bits_per_byte`.
    pub nats: bool,
    pub log_probs: bool,
    pub entropies: bool,
    pub patch_lengths: bool,
    /// Lists have 64-bit offsets.
    pub large: bool,
    /// The input's columns may be null in rows that cannot be read, whatever the input says.
    pub nullable: bool,
}

/// Running totals of a document; complete after its last span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    pub n_bytes: u64,
    pub nats: f64,
    pub n_patches: u64,
    /// One for each byte.
    pub log_probs: Vec<f32>,
    /// One for each byte id, BOS first.
    pub entropies: Vec<f32>,
    /// Ids at which patches start, BOS's 0 first.
    pub starts: Vec<u64>,
}

/// What a row is written with.
#[derive(Clone, Debug, PartialEq)]
pub enum RowScores {
    Document(Scores),
    /// Its document is null.
    Null,
    Failed(RowError),
}

impl RowScores {
    pub fn scores(&self) -> Option<&Scores> {
        match self {
            RowScores::Document(scores) => Some(scores),
            RowScores::Null | RowScores::Failed(_) => None,
        }
    }
}

impl Scores {
    /// None where there is no byte to divide by.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.n_bytes > 0).then(|| self.nats / LN_2 / self.n_bytes as f64)
    }

    /// They sum to the document's ids.
    fn patch_lengths(&self) -> impl Iterator<Item = u64> + '_ {
        let ends = self.starts.iter().skip(1).copied().chain([self.n_bytes + 1]);
        self.starts.iter().zip(ends).map(|(start, end)| end - start)
    }
}

/// Rows that are to be scored have columns that scoring writes.
#[derive(Debug, thiserror::Error)]
#[error("{path} has columns `{columns}` itself, and scoring writes columns of these names")]
pub struct ColumnsTaken {
    path: Location,
    columns: String,
}

impl ColumnsTaken {
    /// With what the user can do about it.
    pub fn into_step_error(self) -> StepError {
        StepError::other(self).help("rename them in the input, or leave them out")
    }
}

impl Columns {
    fn list(&self, item: DataType) -> DataType {
        let item = Field::new_list_field(item, true).into();
        if self.large { DataType::LargeList(item) } else { DataType::List(item) }
    }

    /// The score columns in order. All are null where the row has no scores.
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
        all.into_iter()
            .filter(|(on, ..)| *on)
            .map(|(_, name, data_type)| Field::new(name, data_type, true))
            .collect()
    }

    /// The schema of rows with scores. `path`: what they are rows of.
    ///
    /// # Errors
    /// If the rows have one of the columns themselves.
    pub fn schema(&self, rows: &Schema, path: &Location) -> Result<SchemaRef, ColumnsTaken> {
        let scores = self.fields();
        let taken: Vec<&str> = scores
            .iter()
            .map(|f| f.name().as_str())
            .filter(|name| rows.index_of(name).is_ok())
            .collect();
        if !taken.is_empty() {
            return Err(ColumnsTaken { path: path.clone(), columns: taken.join("`, `") });
        }
        let kept = rows.fields().iter().map(|field| match self.nullable && !field.is_nullable() {
            true => Arc::new(field.as_ref().clone().with_nullable(true)),
            false => field.clone(),
        });
        let fields: Vec<FieldRef> = kept.chain(scores.into_iter().map(Arc::new)).collect();
        let mut metadata = rows.metadata().clone();
        // Of a part that was scored before.
        metadata.remove(FOOTER_KEY);
        Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
    }

    /// One array for each of [`Columns::fields`]. Takes the lists out of the rows: those of a large
    /// document are not copied.
    pub(crate) fn arrays(&self, rows: &mut [RowScores]) -> Result<Vec<ArrayRef>, StepError> {
        let log_probs = self
            .log_probs
            .then(|| self.floats(rows, |scores| &mut scores.log_probs))
            .transpose()?;
        let entropies = self
            .entropies
            .then(|| self.floats(rows, |scores| &mut scores.entropies))
            .transpose()?;
        let known = || rows.iter().map(RowScores::scores);
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_iter(known().map(|s| s.map(|s| s.n_bytes as i64))))];
        if self.patches {
            arrays.push(Arc::new(Int64Array::from_iter(
                known().map(|s| s.map(|s| s.n_patches as i64)),
            )));
        }
        if self.nats {
            arrays.push(Arc::new(Float64Array::from_iter(known().map(|s| s.map(|s| s.nats)))));
            arrays.push(Arc::new(Float64Array::from_iter(
                known().map(|s| s.and_then(Scores::bits_per_byte)),
            )));
        }
        arrays.extend(log_probs.into_iter().chain(entropies));
        if self.patch_lengths {
            let values: Result<Vec<i32>, _> =
                known().flatten().flat_map(Scores::patch_lengths).map(i32::try_from).collect();
            let values = values.map_err(|_| {
                StepError::other("a patch is too long for a list of int32; give `max_patch_length`")
            })?;
            arrays.push(self.lists(
                Arc::new(Int32Array::from(values)),
                known().map(|s| s.map(|s| s.starts.len())),
            )?);
        }
        Ok(arrays)
    }

    /// The lists that `of` takes out of the rows.
    fn floats(
        &self,
        rows: &mut [RowScores],
        of: fn(&mut Scores) -> &mut Vec<f32>,
    ) -> Result<ArrayRef, StepError> {
        let mut values: Vec<f32> = Vec::new();
        let mut lengths = Vec::with_capacity(rows.len());
        for row in rows {
            let list = match row {
                RowScores::Document(scores) => Some(std::mem::take(of(scores))),
                RowScores::Null | RowScores::Failed(_) => None,
            };
            lengths.push(list.as_ref().map(Vec::len));
            match list {
                Some(list) if values.is_empty() => values = list,
                Some(list) => values.extend_from_slice(&list),
                None => {}
            }
        }
        self.lists(Arc::new(Float32Array::from(values)), lengths.into_iter())
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
    let offsets = OffsetBuffer::<O>::try_from_lengths(lengths.map(Option::unwrap_or_default))
        .map_err(|_| {
            StepError::other("documents are too long for lists with 32-bit offsets")
                .help("emit less, or write the input uncompressed")
        })?;
    let item = Field::new_list_field(values.data_type().clone(), true).into();
    Ok(Arc::new(GenericListArray::<O>::try_new(item, offsets, values, Some(nulls))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_either_width() {
        let scores = |n: u64| {
            RowScores::Document(Scores {
                n_bytes: n,
                starts: (0..=n).collect(),
                log_probs: vec![-1.0; n as usize],
                ..Scores::default()
            })
        };
        let rows = || [scores(2), RowScores::Failed(RowError::NotFinite), scores(0)];
        for large in [false, true] {
            let columns = Columns {
                patches: false,
                nats: false,
                log_probs: true,
                entropies: false,
                patch_lengths: true,
                large,
                nullable: false,
            };
            let arrays = columns.arrays(&mut rows()).unwrap();
            for (array, field) in arrays.iter().zip(columns.fields()) {
                assert_eq!(
                    (array.data_type(), array.len(), array.null_count()),
                    (field.data_type(), 3, 1)
                );
            }
        }
    }
}
