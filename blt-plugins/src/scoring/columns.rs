//! The columns that scoring adds to a table.

use super::units::FOOTER_KEY;
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

/// Which score columns are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// `n_patches`.
    pub patches: bool,
    /// `nats` and `bits_per_byte`.
    pub nats: bool,
    /// The list `log_probs`.
    pub log_probs: bool,
    /// The list `entropies`.
    pub entropies: bool,
    /// The list `patch_lengths`.
    pub patch_lengths: bool,
    /// Lists have 64-bit offsets.
    pub large: bool,
    /// Input columns are nullable whatever the input's schema says: rows that cannot be read are
    /// null.
    pub nullable: bool,
}

/// Running totals of a document; complete after its last span.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Bytes.
    pub n_bytes: u64,
    /// Negative log probability of the bytes, in nats.
    pub nats: f64,
    /// Patches, without the patch of BOS.
    pub n_patches: u64,
    /// Natural logarithm of each byte's probability, `[n_bytes]`.
    pub log_probs: Vec<f32>,
    /// Entropy of the next byte at each id in nats, BOS first, `[n_bytes + 1]`.
    pub entropies: Vec<f32>,
    /// Positions of the ids at which patches start, `[n_patches + 1]`; BOS's 0 is first.
    pub starts: Vec<u64>,
}

/// The scores of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowScores {
    Document(Scores),
    /// The document is null.
    Null,
    Failed(RowError),
}

impl RowScores {
    /// The scores, if the row has any.
    pub fn scores(&self) -> Option<&Scores> {
        match self {
            RowScores::Document(scores) => Some(scores),
            RowScores::Null | RowScores::Failed(_) => None,
        }
    }
}

impl Scores {
    /// Bits per byte; `None` if there are no bytes.
    pub fn bits_per_byte(&self) -> Option<f64> {
        (self.n_bytes > 0).then(|| self.nats / LN_2 / self.n_bytes as f64)
    }

    /// Ids in each patch; they sum to the number of ids.
    fn patch_lengths(&self) -> impl Iterator<Item = u64> + '_ {
        let ends = self.starts.iter().skip(1).copied().chain([self.n_bytes + 1]);
        self.starts.iter().zip(ends).map(|(start, end)| end - start)
    }
}

/// The input already has columns with the names of scores.
#[derive(Debug, thiserror::Error)]
#[error("{path} has columns `{columns}` itself, and scoring writes columns of these names")]
pub struct ColumnsTaken {
    path: Location,
    columns: String,
}

impl ColumnsTaken {
    /// The error of a step, with what the user can do about it.
    pub fn into_step_error(self) -> StepError {
        StepError::other(self).help("rename them in the input, or leave them out")
    }
}

impl Columns {
    fn list(&self, item: DataType) -> DataType {
        let item = Field::new_list_field(item, true).into();
        if self.large { DataType::LargeList(item) } else { DataType::List(item) }
    }

    /// The score columns, in order. They are null in rows without scores.
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

    /// The columns of rows, and the scores in place of those of the same names.
    pub(super) fn beside(&self, rows: &Schema) -> Schema {
        let scores = self.fields();
        let own = rows.fields().iter().filter(|f| scores.iter().all(|s| s.name() != f.name()));
        Schema::new(own.cloned().chain(scores.iter().cloned().map(Arc::new)).collect::<Vec<_>>())
    }

    /// The schema of rows with scores. `rows`: their schema without; `path`: their file, for
    /// errors.
    ///
    /// # Errors
    /// If the rows already have one of the columns.
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
        // The input may be a part itself.
        metadata.remove(FOOTER_KEY);
        Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
    }

    /// The arrays of the columns in [`Columns::fields`]. Takes the lists out of the rows, so that
    /// the lists of large documents are not copied.
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

    /// An array of the lists that `of` selects, which are taken out of the rows.
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
