//! The Arrow types that Parquet columns are read as, where the decoder's own choice would lose
//! some of a value.

use std::convert::Infallible;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::reader::ColumnReader;
use parquet::errors::Result;
use parquet::file::metadata::{FileMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};

use crate::nested::{self, fields, with_types};
use crate::storage::Input;

/// The metadata of a file, with the types that its columns are read as.
///
/// - The time zone of an Arrow schema in the file counts, even where the file holds the timestamps
///   in another unit.
/// - An INTERVAL, of months, days and milliseconds, is 12 bytes: no interval of Arrow's holds all
///   three.
/// - JSON is held to be UTF-8 before it is text.
pub(super) fn read_as(metadata: ArrowReaderMetadata) -> Result<ArrowReaderMetadata> {
    let mut types = Vec::new();
    for field in metadata.schema().fields() {
        leaf_types(field.data_type(), &mut types);
    }
    let retype = |leaf: usize, info: &BasicType| match types.get(leaf) {
        Some(DataType::Interval(_)) => Some(None),
        Some(text) if is_utf8(text) && info.converted_type() != ConvertedType::UTF8 => {
            Some(Some(LogicalType::String))
        }
        _ => None,
    };
    let leaves = metadata.parquet_schema().columns().iter().enumerate();
    let any = leaves
        .map(|(at, leaf)| (at, leaf.self_type().get_basic_info()))
        .any(|(at, info)| retype(at, info).is_some());
    let metadata = if any { with_leaves(&metadata, &retype)? } else { metadata };
    let Some(hint) = embedded(metadata.metadata()) else { return Ok(metadata) };
    let zone = |read: &DataType, hint: &DataType| match (read, hint) {
        (DataType::Timestamp(unit, Some(_)), DataType::Timestamp(_, Some(zone))) => {
            DataType::Timestamp(*unit, Some(zone.clone()))
        }
        _ => read.clone(),
    };
    with_schema(&metadata, |schema| {
        let of = |(at, field): (usize, &FieldRef)| match hint.fields().get(at) {
            Some(hint) => retyped(field, zip(field.data_type(), hint.data_type(), &zone)),
            None => field.clone(),
        };
        schema.fields().iter().enumerate().map(of).collect()
    })
}

/// The types that hold no others, in the order of Parquet's leaves.
fn leaf_types(of: &DataType, into: &mut Vec<DataType>) {
    match fields(of) {
        [] => into.push(of.clone()),
        fields => fields.iter().for_each(|field| leaf_types(field.data_type(), into)),
    }
}

fn is_utf8(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_utf8(value),
        other => other.is_string(),
    }
}

type BasicType = parquet::schema::types::BasicTypeInfo;

fn retyped(field: &FieldRef, data_type: DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(data_type))
}

/// `f` of each type in `read` that holds no other, and the one at its place in `hint`.
fn zip(read: &DataType, hint: &DataType, f: &dyn Fn(&DataType, &DataType) -> DataType) -> DataType {
    if fields(read).is_empty() {
        return f(read, hint);
    }
    let Ok(zipped) = with_types::<Infallible>(read, &mut |i, t| {
        Ok(fields(hint).get(i).map_or_else(|| t.clone(), |hint| zip(t, hint.data_type(), f)))
    });
    zipped
}

/// The Arrow schema that the file's writer put into it.
fn embedded(metadata: &ParquetMetaData) -> Option<Schema> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == ARROW_SCHEMA_META_KEY)?.value.as_ref()?;
    try_schema_from_ipc_buffer(&BASE64_STANDARD.decode(text).ok()?).ok()
}

/// The metadata with other types for its columns.
fn with_schema(
    metadata: &ArrowReaderMetadata,
    fields: impl FnOnce(&Schema) -> Vec<FieldRef>,
) -> Result<ArrowReaderMetadata> {
    let schema = metadata.schema();
    let retyped = Schema::new_with_metadata(fields(schema), schema.metadata().clone());
    read_with(metadata, &Arc::new(retyped))
}

/// The metadata, its columns to be read with the types of `schema`.
pub(super) fn read_with(
    metadata: &ArrowReaderMetadata,
    schema: &SchemaRef,
) -> Result<ArrowReaderMetadata> {
    if metadata.schema() == schema {
        return Ok(metadata.clone());
    }
    let options = ArrowReaderOptions::new().with_schema(schema.clone());
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)
}

/// The metadata, its text to be read as plain bytes.
pub(super) fn as_bytes(metadata: &ArrowReaderMetadata) -> Result<ArrowReaderMetadata> {
    let bytes = with_leaves(metadata, &|_, info| {
        (info.converted_type() == ConvertedType::UTF8).then_some(None)
    })?;
    with_schema(&bytes, |_| {
        let of = |field: &FieldRef| retyped(field, nested::as_bytes(field.data_type()));
        metadata.schema().fields().iter().map(of).collect()
    })
}

/// What is made of a leaf, by its number and type: another logical type, or none. `None` leaves it.
type Retype<'a> = &'a dyn Fn(usize, &BasicType) -> Option<Option<LogicalType>>;

/// The metadata with other logical types.
fn with_leaves(metadata: &ArrowReaderMetadata, retype: Retype) -> Result<ArrowReaderMetadata> {
    let file = metadata.metadata().file_metadata();
    let root = rebuilt(&file.schema_descr().root_schema_ptr(), &mut 0, retype)?;
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(root)),
        file.column_orders().cloned(),
    );
    let groups = metadata.metadata().row_groups().to_vec();
    let retyped = Arc::new(ParquetMetaData::new(file, groups));
    ArrowReaderMetadata::try_new(retyped, ArrowReaderOptions::new())
}

fn rebuilt(of: &TypePtr, leaf: &mut usize, retype: Retype) -> Result<TypePtr> {
    let info = of.get_basic_info();
    let id = info.has_id().then(|| info.id());
    let built = match of.as_ref() {
        Type::PrimitiveType { physical_type, type_length, .. } => {
            *leaf += 1;
            let Some(logical) = retype(*leaf - 1, info) else { return Ok(of.clone()) };
            Type::primitive_type_builder(of.name(), *physical_type)
                .with_repetition(info.repetition())
                .with_length(*type_length)
                .with_logical_type(logical)
                .with_id(id)
                .build()
        }
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(|f| rebuilt(f, leaf, retype)).collect::<Result<_>>()?;
            let mut group = Type::group_type_builder(of.name())
                .with_fields(fields)
                .with_converted_type(info.converted_type())
                .with_logical_type(info.logical_type_ref().cloned())
                .with_id(id);
            if info.has_repetition() {
                group = group.with_repetition(info.repetition());
            }
            group.build()
        }
    };
    built.map(Arc::new)
}

/// The schema with the unit of each column of INT96 timestamps: nanoseconds, or microseconds where a
/// date is beyond what nanoseconds since 1970 hold, such as a year 9999 that Spark wrote. All of
/// these columns is read, since nothing else says which dates they hold.
///
/// Gives the name of a column that has both such a date and nanoseconds as well.
pub(super) fn int96_units(
    input: &Input,
    metadata: &ArrowReaderMetadata,
) -> Result<(SchemaRef, Option<String>)> {
    let leaves = metadata.parquet_schema().columns();
    if leaves.iter().all(|leaf| leaf.physical_type() != Physical::INT96) {
        return Ok((metadata.schema().clone(), None));
    }
    let mut both = None;
    let file = SerializedFileReader::new(input.clone())?;
    let mut micros = vec![false; leaves.len()];
    for (at, leaf) in
        leaves.iter().enumerate().filter(|(_, l)| l.physical_type() == Physical::INT96)
    {
        let (mut beyond, mut nanos) = (false, false);
        for group in 0..file.num_row_groups() {
            let ColumnReader::Int96ColumnReader(mut column) =
                file.get_row_group(group)?.get_column_reader(at)?
            else {
                continue;
            };
            loop {
                let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
                let (records, n, _) = column.read_records(
                    1024,
                    Some(&mut defined),
                    Some(&mut repeated),
                    &mut values,
                )?;
                if (records, n) == (0, 0) {
                    break;
                }
                for value in &values {
                    let (all, micros) = (value.to_nanos(), value.to_micros());
                    nanos |= all.wrapping_sub(micros.wrapping_mul(1000)) != 0;
                    beyond |= micros.checked_mul(1000).is_none_or(|n| n > all || all - n > 999);
                }
            }
        }
        if beyond && nanos {
            both = Some(leaf.path().string());
        }
        micros[at] = beyond;
    }
    fn units(data_type: &DataType, micros: &mut std::vec::IntoIter<bool>) -> DataType {
        match data_type {
            leaf if fields(leaf).is_empty() => match (leaf, micros.next()) {
                (DataType::Timestamp(_, zone), Some(true)) => {
                    DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
                }
                _ => leaf.clone(),
            },
            nested => {
                let Ok(of) = with_types::<Infallible>(nested, &mut |_, t| Ok(units(t, micros)));
                of
            }
        }
    }
    let mut micros = micros.into_iter();
    let read = with_schema(metadata, |schema| {
        let of = |field: &FieldRef| retyped(field, units(field.data_type(), &mut micros));
        schema.fields().iter().map(of).collect()
    })?;
    Ok((read.schema().clone(), both))
}
