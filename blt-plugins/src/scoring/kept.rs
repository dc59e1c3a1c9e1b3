//! Input columns as parts hold them: exactly as they are, or refused by name before anything is
//! scored.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use blt_data::nested::{as_bytes, fields, with_types};
use blt_data::storage::Location;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowSchemaConverter, encode_arrow_schema};
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::file::metadata::KeyValue;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type, TypePtr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A column that a part cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("column `{column}` of {path} is {why}")]
pub struct Unkept {
    pub column: String,
    pub path: Location,
    pub why: String,
}

/// Which input columns a part has: these, or all but these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum KeptColumns {
    Only(Vec<String>),
    Except { except: Vec<String> },
}

impl KeptColumns {
    pub fn named(&self) -> &[String] {
        match self {
            KeptColumns::Only(named) | KeptColumns::Except { except: named } => named,
        }
    }

    pub(super) fn has(&self, column: &str) -> bool {
        let named = self.named().iter().any(|name| name == column);
        named == matches!(self, KeptColumns::Only(_))
    }
}

/// The columns of a part.
pub(super) struct PartColumns {
    /// Their Arrow types, which are noted in the part.
    pub schema: SchemaRef,
    /// The Arrow types that are handed to the writer: text as its bytes, which may be no UTF-8.
    written: SchemaRef,
    /// Their Parquet types: those of the input where it has some.
    parquet: SchemaDescriptor,
}

/// The type of a column of a part that holds the values of a column of type `data_type`: Parquet has
/// no seconds, no dates in milliseconds, and no run ends.
fn held(data_type: &DataType) -> Result<DataType, String> {
    use DataType::*;
    match data_type {
        Timestamp(TimeUnit::Second, zone) => Ok(Timestamp(TimeUnit::Millisecond, zone.clone())),
        Time32(TimeUnit::Second) => Ok(Time32(TimeUnit::Millisecond)),
        Date64 => Ok(Date32),
        RunEndEncoded(_, values) => held(values.data_type()),
        Dictionary(_, values) => match values.as_ref() {
            Utf8 | LargeUtf8 | Binary | LargeBinary => Ok(data_type.clone()),
            other => held(other),
        },
        Interval(IntervalUnit::MonthDayNano)
        | Union(..)
        | FixedSizeBinary(0)
        | FixedSizeList(_, 0) => Err(format!("{data_type}, which Parquet has no type for")),
        nested => with_types(nested, &mut |_, t| held(t)),
    }
}

/// Whether values of the type may be more than those of the type that holds them.
fn may_lose(data_type: &DataType) -> bool {
    match data_type {
        DataType::Date64 => true,
        nested => fields(nested).iter().any(|field| may_lose(field.data_type())),
    }
}

impl PartColumns {
    /// `input`: the fields of the input's columns that are kept, in the order of the part. `types`:
    /// the Parquet types of the input.
    ///
    /// # Errors
    /// The first column that no Parquet type holds. `path`: its file.
    pub fn new(schema: &Schema, types: Option<&TypePtr>, path: &Location) -> Result<Self, Unkept> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        let mut parquet = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let unkept = |why| Unkept { column: field.name().clone(), path: path.clone(), why };
            let data_type = held(field.data_type()).map_err(unkept)?;
            let column = field.as_ref().clone().with_data_type(data_type);
            let ours = parquet_type(&column).map_err(unkept)?;
            let theirs =
                types.and_then(|t| t.get_fields().iter().find(|f| f.name() == field.name()));
            parquet.push(match theirs {
                Some(theirs) => of_input(theirs, ours, field.is_nullable()).map_err(unkept)?,
                None => ours,
            });
            columns.push(column);
        }
        let bytes = |field: &Field| field.clone().with_data_type(as_bytes(field.data_type()));
        let written: Vec<Field> = columns.iter().map(bytes).collect();
        // The name that the Arrow writer gives it.
        let root = Type::group_type_builder("arrow_schema").with_fields(parquet).build();
        let root = root.map_err(|e| Unkept {
            column: "*".into(),
            path: path.clone(),
            why: e.to_string(),
        })?;
        Ok(PartColumns {
            schema: Arc::new(Schema::new_with_metadata(columns, schema.metadata().clone())),
            written: Arc::new(Schema::new(written)),
            parquet: SchemaDescriptor::new(Arc::new(root)),
        })
    }

    /// The Arrow types that the writer is opened with, and the Parquet types.
    pub fn written(&self) -> (SchemaRef, SchemaDescriptor) {
        (self.written.clone(), self.parquet.clone())
    }

    /// What the part's metadata says: all that the input's says, and the Arrow types.
    pub fn metadata(&self) -> Vec<KeyValue> {
        let pairs = self.schema.metadata().iter();
        let mut pairs: Vec<KeyValue> =
            pairs.map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        // A hash map has no order, and the same scores must give the same file.
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let types = encode_arrow_schema(&self.schema);
        pairs.push(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), types));
        pairs
    }

    /// The rows as the writer takes them.
    ///
    /// # Errors
    /// If a column is missing, or a value is beyond the type that holds it.
    pub fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch, String> {
        let column = |(held, written): (&FieldRef, &FieldRef)| {
            let named = |e: String| format!("column `{}`: {e}", held.name());
            let array =
                rows.column_by_name(held.name()).ok_or_else(|| named("it is gone".into()))?;
            let exact = exactly(array, held.data_type()).map_err(named)?;
            cast(&exact, written.data_type()).map_err(|e| named(e.to_string()))
        };
        let fields = self.schema.fields().iter().zip(self.written.fields());
        let arrays = fields.map(column).collect::<Result<_, _>>()?;
        RecordBatch::try_new(self.written.clone(), arrays).map_err(|e| e.to_string())
    }
}

/// The array in another type, or an error where a value is not the same in it.
fn exactly(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let from = array.data_type();
    // Text that is no UTF-8 comes as bytes.
    if from == to || *from == as_bytes(to) {
        return Ok(array.clone());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let held = cast_with_options(array, to, &strict).map_err(|e| e.to_string())?;
    if may_lose(from) && cast(&held, from).map_err(|e| e.to_string())?.as_ref() != array.as_ref() {
        return Err(format!("a {from} with a time of the day, which Parquet's dates have none of"));
    }
    Ok(held)
}

/// The Parquet type of a column by its Arrow type.
fn parquet_type(field: &Field) -> Result<TypePtr, String> {
    let schema = Schema::new(vec![field.clone()]);
    let types = ArrowSchemaConverter::new().convert(&schema).map_err(|e| {
        let said = e.to_string();
        let cause = said.split_once(": ").map_or(said.as_str(), |(_, cause)| cause);
        format!("{}: {cause}", field.data_type())
    })?;
    Ok(types.root_schema().get_fields()[0].clone())
}

/// The Parquet type of a column of the input, where a column of the type that is written, `ours`,
/// holds the same values; else `ours`, if it means the same.
///
/// # Errors
/// If it means something else.
fn of_input(theirs: &TypePtr, ours: TypePtr, nullable: bool) -> Result<TypePtr, String> {
    let leaves = |column: &TypePtr| -> Vec<ColumnDescPtr> {
        let root = Type::group_type_builder("root").with_fields(vec![column.clone()]).build();
        root.map_or(Vec::new(), |root| SchemaDescriptor::new(Arc::new(root)).columns().to_vec())
    };
    let theirs = if nullable { optional(theirs)? } else { theirs.clone() };
    let (of_theirs, of_ours) = (leaves(&theirs), leaves(&ours));
    let same = |(a, b): (&ColumnDescPtr, &ColumnDescPtr)| {
        (a.max_def_level(), a.max_rep_level()) == (b.max_def_level(), b.max_rep_level())
            && written_alike(a, b)
            // Of an Arrow schema in the file alone is known what it means.
            && (is_plain(b) || !is_plain(a))
    };
    let pairs = || of_theirs.iter().zip(&of_ours);
    if of_theirs.len() == of_ours.len() && pairs().all(same) {
        return Ok(theirs);
    }
    match pairs().find(|(a, b)| !is_plain(a) && !mean_the_same(a, b)) {
        Some((leaf, _)) => {
            let (logical, converted) = (leaf.logical_type_ref(), leaf.converted_type());
            let of = logical.map_or_else(|| converted.to_string(), |l| format!("{l:?}"));
            Err(format!("Parquet's {of} of {}, which is not written", leaf.physical_type()))
        }
        None => Ok(ours),
    }
}

/// A type that may be null.
fn optional(of: &TypePtr) -> Result<TypePtr, String> {
    let info = of.get_basic_info();
    if info.repetition() != Repetition::REQUIRED {
        return Ok(of.clone());
    }
    let id = info.has_id().then(|| info.id());
    let (converted, logical) = (info.converted_type(), info.logical_type_ref().cloned());
    let built = match of.as_ref() {
        Type::PrimitiveType { physical_type, type_length, scale, precision, .. } => {
            Type::primitive_type_builder(of.name(), *physical_type)
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(converted)
                .with_logical_type(logical)
                .with_length(*type_length)
                .with_scale(*scale)
                .with_precision(*precision)
                .with_id(id)
                .build()
        }
        Type::GroupType { fields, .. } => Type::group_type_builder(of.name())
            .with_repetition(Repetition::OPTIONAL)
            .with_converted_type(converted)
            .with_logical_type(logical)
            .with_fields(fields.clone())
            .with_id(id)
            .build(),
    };
    built.map(Arc::new).map_err(|e| e.to_string())
}

/// Whether a leaf's values are numbers or bytes and no more.
fn is_plain(leaf: &ColumnDescPtr) -> bool {
    leaf.logical_type_ref().is_none() && leaf.converted_type() == ConvertedType::NONE
}

fn mean_the_same(a: &ColumnDescPtr, b: &ColumnDescPtr) -> bool {
    match (decimal(a), a.converted_type()) {
        (Some(of), _) => Some(of) == decimal(b),
        (None, ConvertedType::NONE) => a.logical_type_ref() == b.logical_type_ref(),
        (None, converted) => converted == b.converted_type(),
    }
}

/// The precision and scale of a decimal.
fn decimal(leaf: &ColumnDescPtr) -> Option<(i32, i32)> {
    match (leaf.logical_type_ref(), leaf.converted_type()) {
        (Some(LogicalType::Decimal(_)), _) | (_, ConvertedType::DECIMAL) => {
            Some((leaf.type_precision(), leaf.type_scale()))
        }
        _ => None,
    }
}

/// Whether the writer writes the values for a leaf `b` the same for a leaf `a`.
fn written_alike(a: &ColumnDescPtr, b: &ColumnDescPtr) -> bool {
    use Physical::*;
    match (a.physical_type(), b.physical_type()) {
        (FIXED_LEN_BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY) => a.type_length() == b.type_length(),
        // Decimals in more bytes than they need, as many writers have them.
        (INT64, INT32) => decimal(a).is_some() && decimal(a) == decimal(b),
        (FIXED_LEN_BYTE_ARRAY, INT32 | INT64) => decimal(a).is_some_and(|(precision, scale)| {
            let most = 10_i128.pow(precision.clamp(0, 18) as u32);
            let length = (1..16).find(|n| most <= 1 << (8 * n - 1));
            decimal(b) == Some((precision, scale)) && length == Some(a.type_length())
        }),
        (a, b) => a == b,
    }
}
