//! From Arrow columns to documents: which columns a request needs, whether their types serve, and
//! their values row by row.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::DataError;
use crate::nearest::nearest;
use crate::predicate::Predicate;
use crate::request::{Document, ListColumn, ListKind, Request, Row};
use crate::split::Filter;
use crate::storage::Location;

const TEXT: &str = "documents are read from text or binary: Utf8, LargeUtf8, Utf8View, Binary, LargeBinary, BinaryView, \
                    or a dictionary of one of these";
const SCALAR: &str = "a single value in each row was expected: text, a number, a date, ...";
const FLOATS: &str = "a list of Float16, Float32 or Float64 was expected";
const INTEGERS: &str = "a list of integers was expected";

/// Bytes that can be read as a document? A column without a type is null in all rows.
pub fn is_text(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Null | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        Dictionary(_, values) => !matches!(**values, Dictionary(..)) && is_text(values),
        _ => false,
    }
}

fn list_item(data_type: &DataType) -> Option<&DataType> {
    use DataType::*;
    match data_type {
        List(item)
        | LargeList(item)
        | ListView(item)
        | LargeListView(item)
        | FixedSizeList(item, _) => Some(item.data_type()),
        _ => None,
    }
}

/// The source's parameter that names the column of documents.
pub(crate) const COLUMN: Option<&str> = Some("column");
/// The source's parameter that names the column that decides a document's portion.
pub(crate) const SPLIT_BY: Option<&str> = Some("split.by");

/// The position of a column, which `parameter` of the source names.
///
/// # Errors
/// If there is no such column; the error names those there are.
pub(crate) fn position(
    schema: &Schema,
    column: &str,
    parameter: Option<&'static str>,
    path: &Location,
) -> Result<usize, DataError> {
    schema.index_of(column).map_err(|_| {
        let columns: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let (nearest, path) = (nearest(column, &columns), path.clone());
        DataError::NoSuchColumn { column: column.to_string(), parameter, path, nearest, columns }
    })
}

/// The columns a request needs, checked against the schema.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    text: String,
    filter: Filter,
    scalars: Vec<String>,
    lists: Vec<ListColumn>,
    condition: Option<Predicate>,
    /// All of these, each once.
    pub columns: Vec<String>,
}

impl Wanted {
    pub(crate) fn resolve(
        schema: &Schema,
        path: &Location,
        column: &str,
        condition: Option<&Predicate>,
        filter: Filter,
        request: &Request,
    ) -> Result<Self, DataError> {
        let mut columns = Vec::new();
        let mut need = |column: &str,
                        parameter: Option<&'static str>,
                        serves: &dyn Fn(&DataType) -> bool,
                        expected: &'static str| {
            let at = position(schema, column, parameter, path)?;
            let (column, found) = (column.to_string(), schema.field(at).data_type());
            if !serves(found) {
                let (path, found) = (path.clone(), found.to_string());
                return Err(DataError::ColumnType { column, parameter, path, found, expected });
            }
            columns.push(column);
            Ok(())
        };
        need(column, COLUMN, &is_text, TEXT)?;
        if let Some(column) = filter.column() {
            need(column, SPLIT_BY, &|t| !t.is_nested(), SCALAR)?;
        }
        for column in &request.scalars {
            need(column, None, &|t| !t.is_nested(), SCALAR)?;
        }
        for ListColumn { column, kind } in &request.lists {
            match kind {
                ListKind::PerId => {
                    let floats = |t: &DataType| list_item(t).is_some_and(DataType::is_floating);
                    need(column, None, &floats, FLOATS)?;
                }
                ListKind::PatchLengths => {
                    let integers = |t: &DataType| list_item(t).is_some_and(DataType::is_integer);
                    need(column, None, &integers, INTEGERS)?;
                }
            }
        }
        columns.extend(condition.iter().flat_map(|condition| condition.columns(schema)));
        columns.sort();
        columns.dedup();
        Ok(Wanted {
            text: column.to_string(),
            filter,
            scalars: request.scalars.clone(),
            lists: request.lists.clone(),
            condition: condition.cloned(),
            columns,
        })
    }
}

/// A text or binary column, dictionaries looked through.
struct Bytes {
    nulls: Option<NullBuffer>,
    keys: Option<Vec<usize>>,
    values: ArrayRef,
}

impl Bytes {
    fn new(array: &ArrayRef) -> Self {
        let nulls = array.logical_nulls();
        match array.as_any_dictionary_opt() {
            // A dictionary without values has only null rows; its keys cannot be normalised.
            Some(dictionary) => Bytes {
                nulls: match dictionary.values().is_empty() {
                    true => Some(NullBuffer::new_null(array.len())),
                    false => nulls,
                },
                keys: Some(match dictionary.values().is_empty() {
                    true => Vec::new(),
                    false => dictionary.normalized_keys(),
                }),
                values: dictionary.values().clone(),
            },
            None => Bytes { nulls, keys: None, values: array.clone() },
        }
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return None;
        }
        let at = self.keys.as_ref().map_or(row, |keys| keys[row]);
        Some(match self.values.data_type() {
            DataType::Utf8 => self.values.as_string::<i32>().value(at).as_bytes(),
            DataType::LargeUtf8 => self.values.as_string::<i64>().value(at).as_bytes(),
            DataType::Utf8View => self.values.as_string_view().value(at).as_bytes(),
            DataType::Binary => self.values.as_binary::<i32>().value(at),
            DataType::LargeBinary => self.values.as_binary::<i64>().value(at),
            DataType::BinaryView => self.values.as_binary_view().value(at),
            other => unreachable!("{other} passed for text"),
        })
    }
}

/// Any column of single values, as text.
enum Scalar {
    Bytes(Bytes),
    Other(ArrayRef),
}

impl Scalar {
    fn new(array: &ArrayRef) -> Self {
        if is_text(array.data_type()) {
            Scalar::Bytes(Bytes::new(array))
        } else {
            Scalar::Other(array.clone())
        }
    }

    /// The bytes themselves, or the text that displays the value.
    fn bytes(&self, row: usize) -> Option<Cow<'_, [u8]>> {
        match self {
            Scalar::Bytes(column) => column.get(row).map(Cow::Borrowed),
            Scalar::Other(array) if array.logical_nulls().is_some_and(|n| n.is_null(row)) => None,
            Scalar::Other(array) => {
                let formatter = ArrayFormatter::try_new(array, &FormatOptions::new()).ok()?;
                Some(Cow::Owned(formatter.value(row).try_to_string().ok()?.into_bytes()))
            }
        }
    }

    /// The value as text; bytes that are no UTF-8 as hexadecimal.
    fn text(&self, row: usize) -> Option<String> {
        self.bytes(row).map(|bytes| match String::from_utf8(bytes.into_owned()) {
            Ok(text) => text,
            Err(error) => error.as_bytes().iter().map(|b| format!("{b:02x}")).collect(),
        })
    }
}

/// Where a row is, for messages.
pub(crate) struct Origin<'a> {
    pub path: &'a Location,
    /// The row's number in the source.
    pub row: u64,
    /// The row's number in the file.
    pub file_row: u64,
}

/// The wanted columns of a record batch.
pub(crate) struct Chunk {
    n_rows: usize,
    text: Bytes,
    /// Whether the source's condition is true for each row.
    chosen: Option<Vec<bool>>,
    key: Option<Scalar>,
    scalars: Vec<Scalar>,
    lists: Vec<ArrayRef>,
}

impl Chunk {
    /// `batch` holds the wanted columns (and may hold others). None if one is missing, or has a type
    /// that the condition cannot compare: the file changed.
    pub(crate) fn new(batch: &RecordBatch, wanted: &Wanted) -> Option<Self> {
        let text = batch.column_by_name(&wanted.text).filter(|c| is_text(c.data_type()))?;
        Some(Chunk {
            n_rows: batch.num_rows(),
            text: Bytes::new(text),
            chosen: match &wanted.condition {
                Some(condition) => Some(condition.evaluate(batch).ok()?),
                None => None,
            },
            key: match wanted.filter.column() {
                Some(column) => Some(Scalar::new(batch.column_by_name(column)?)),
                None => None,
            },
            scalars: wanted
                .scalars
                .iter()
                .map(|c| batch.column_by_name(c).map(Scalar::new))
                .collect::<Option<_>>()?,
            lists: wanted
                .lists
                .iter()
                .map(|l| batch.column_by_name(&l.column).cloned())
                .collect::<Option<_>>()?,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.n_rows
    }

    /// Row `i` of the chunk, or None if it is in another portion or the source leaves it out.
    pub(crate) fn row(
        &self,
        i: usize,
        wanted: &Wanted,
        origin: &Origin,
    ) -> Result<Option<Row>, DataError> {
        if self.admits(i, wanted) { self.content(i, wanted, origin).map(Some) } else { Ok(None) }
    }

    /// Whether the source's condition is true for row `i`, and the row is in the requested portion.
    pub(crate) fn admits(&self, i: usize, wanted: &Wanted) -> bool {
        let chosen = self.chosen.as_ref().is_none_or(|chosen| chosen[i]);
        chosen
            && wanted.filter.admits(|| {
                let by_column = self.key.as_ref().and_then(|key| key.bytes(i));
                by_column.unwrap_or_else(|| Cow::Borrowed(self.text.get(i).unwrap_or_default()))
            })
    }

    /// Row `i`, of any portion.
    pub(crate) fn content(
        &self,
        i: usize,
        wanted: &Wanted,
        origin: &Origin,
    ) -> Result<Row, DataError> {
        let Some(text) = self.text.get(i) else { return Ok(Row::Null(origin.row)) };
        let scalars = wanted
            .scalars
            .iter()
            .zip(&self.scalars)
            .map(|(name, c)| (name.clone(), c.text(i)))
            .collect();
        let mut lists = BTreeMap::new();
        for (list, array) in wanted.lists.iter().zip(&self.lists) {
            lists.insert(list.column.clone(), read_list(array, i, list, text.len(), origin)?);
        }
        Ok(Row::Document(Document { row: origin.row, bytes: text.to_vec(), scalars, lists }))
    }
}

/// A checked list, `[n_bytes + 1]` or `[n_bytes + 2]` numbers, or patch lengths of any number.
fn read_list(
    array: &ArrayRef,
    i: usize,
    list: &ListColumn,
    n_bytes: usize,
    origin: &Origin,
) -> Result<Vec<f32>, DataError> {
    let (column, row, path, file_row) =
        (list.column.clone(), origin.row, origin.path.clone(), origin.file_row);
    if array.is_null(i) || array.data_type() == &DataType::Null {
        return Err(DataError::NullList { column, row, path, file_row });
    }
    let items = match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().value(i),
        DataType::LargeList(_) => array.as_list::<i64>().value(i),
        DataType::ListView(_) => array.as_list_view::<i32>().value(i),
        DataType::LargeListView(_) => array.as_list_view::<i64>().value(i),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(i),
        other => unreachable!("{other} passed for a list"),
    };
    let value = |element: usize, found: String, expected: &'static str| DataError::ListValue {
        column: column.clone(),
        row,
        path: path.clone(),
        file_row,
        element,
        found,
        expected,
    };
    if let Some(element) = (0..items.len()).find(|&e| items.is_null(e)) {
        return Err(value(element, "null".into(), "a number"));
    }
    match list.kind {
        ListKind::PerId => {
            let values: Vec<f32> = match items.data_type() {
                DataType::Float16 => items
                    .as_primitive::<Float16Type>()
                    .values()
                    .iter()
                    .map(|v| v.to_f32())
                    .collect(),
                DataType::Float32 => items.as_primitive::<Float32Type>().values().to_vec(),
                DataType::Float64 => {
                    items.as_primitive::<Float64Type>().values().iter().map(|&v| v as f32).collect()
                }
                other => unreachable!("{other} passed for floats"),
            };
            if let Some(element) = values.iter().position(|v| !v.is_finite()) {
                return Err(value(element, values[element].to_string(), "a finite number"));
            }
            if !(n_bytes + 1..=n_bytes + 2).contains(&values.len()) {
                let (found, expected) =
                    (format!("{} elements", values.len()), "one for BOS and one for each byte");
                return Err(DataError::ListLength {
                    column,
                    row,
                    path,
                    file_row,
                    n_bytes,
                    found,
                    expected,
                });
            }
            Ok(values)
        }
        ListKind::PatchLengths => {
            let lengths = integers(&items);
            // Lengths travel as f32, which is exact to 2^24.
            const MOST: i128 = 1 << 24;
            if let Some(element) = lengths.iter().position(|v| !(0..=MOST).contains(v)) {
                return Err(value(
                    element,
                    lengths[element].to_string(),
                    "a patch length, 0 to 16777216",
                ));
            }
            let sum: i128 = lengths.iter().sum();
            if sum != n_bytes as i128 + 1 && sum != n_bytes as i128 + 2 {
                let found = format!("patch lengths that sum to {sum}");
                let expected = "a sum of n_bytes + 1 (BOS's own patch first), or one more with the unseen next byte";
                return Err(DataError::ListLength {
                    column,
                    row,
                    path,
                    file_row,
                    n_bytes,
                    found,
                    expected,
                });
            }
            let first = lengths.iter().position(|&v| v > 0).expect("the sum is above 0");
            if lengths[first] != 1 {
                return Err(value(
                    first,
                    lengths[first].to_string(),
                    "1 as the first patch: BOS alone",
                ));
            }
            Ok(lengths.into_iter().map(|v| v as f32).collect())
        }
    }
}

fn integers(items: &ArrayRef) -> Vec<i128> {
    macro_rules! widen {
        ($($variant:ident => $type:ident),*) => {
            match items.data_type() {
                $(DataType::$variant => items
                    .as_primitive::<arrow::datatypes::$type>().values().iter().map(|&v| v as i128).collect(),)*
                other => unreachable!("{other} passed for integers"),
            }
        };
    }
    widen!(Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type)
}
