//! Evaluating a condition on the rows of a batch.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, StringArray, new_null_array,
};
use arrow::compute::kernels::{boolean, cmp};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, UInt64Type};
use arrow::error::ArrowError;

use super::expr::{Expr, Literal, Op, PredicateError, Test};

/// A column by its name, else a field of one: the name of the top-level column, and the field.
pub(super) fn find(schema: &Schema, name: &str) -> Option<(String, Field)> {
    if let Ok(field) = schema.field_with_name(name) {
        return Some((name.to_owned(), field.clone()));
    }
    let mut path = name.split('.');
    let top = schema.field_with_name(path.next()?).ok()?;
    let mut field = top.clone();
    for name in path {
        let DataType::Struct(fields) = field.data_type() else { return None };
        field = fields.find(name)?.1.as_ref().clone();
    }
    Some((top.name().clone(), field))
}

/// The values of a column, or of a field of one. A field is null where its column is.
fn values(batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>, ArrowError> {
    if let Some(column) = batch.column_by_name(name) {
        return Ok(Some(column.clone()));
    }
    let mut path = name.split('.');
    let Some(mut array) = path.next().and_then(|top| batch.column_by_name(top)).cloned() else {
        return Ok(None);
    };
    for name in path {
        let Some(parent) = array.as_struct_opt() else { return Ok(None) };
        let Some(child) = parent.column_by_name(name) else { return Ok(None) };
        array = match parent.nulls() {
            Some(nulls) => {
                let absent = BooleanArray::new(!nulls.inner(), None);
                arrow::compute::nullif(child, &absent)?
            }
            None => child.clone(),
        };
    }
    Ok(Some(array))
}

pub(super) fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<BooleanArray, PredicateError> {
    type Join = fn(&BooleanArray, &BooleanArray) -> Result<BooleanArray, ArrowError>;
    let (of, join, empty): (_, Join, bool) = match expr {
        Expr::All(of) => (of, boolean::and_kleene, true),
        Expr::Any(of) => (of, boolean::or_kleene, false),
        Expr::Test(column, test) => {
            let array = values(batch, column).map_err(|e| failed(column, e))?;
            let array = array.unwrap_or_else(|| new_null_array(&DataType::Null, batch.num_rows()));
            return apply(column, &array, test);
        }
    };
    let start = BooleanArray::from(vec![empty; batch.num_rows()]);
    of.iter()
        .try_fold(start, |truth, e| join(&truth, &evaluate(e, batch)?).map_err(|e| failed("", e)))
}

pub(super) fn failed(column: &str, error: ArrowError) -> PredicateError {
    PredicateError::Evaluate { column: column.to_owned(), cause: error.to_string() }
}

/// A test of each element; null where it is unknown.
pub(super) fn apply(
    column: &str,
    array: &ArrayRef,
    test: &Test,
) -> Result<BooleanArray, PredicateError> {
    let (op, literal) = match test {
        Test::Null(is) => {
            let nulls = array.logical_nulls();
            let is_null = |i| nulls.as_ref().is_some_and(|n| n.is_null(i));
            return Ok((0..array.len()).map(|i| Some(is_null(i) == *is)).collect());
        }
        Test::Compare(op, literal) => (*op, literal),
    };
    use DataType::*;
    let data_type = array.data_type();
    let wrong = |expected| PredicateError::Type {
        column: column.to_owned(),
        found: data_type.to_string(),
        literal: literal.to_string(),
        expected,
    };
    let fails = |e: ArrowError| failed(column, e);
    match (data_type, literal) {
        (Null, _) => Ok(BooleanArray::new_null(array.len())),
        (Dictionary(_, of), _) => apply(column, &cast(array, of).map_err(fails)?, test),
        (UInt64, Literal::Int(value)) => {
            let array = array.as_primitive::<UInt64Type>();
            Ok(BooleanArray::from_unary(array, |x| {
                op.holds(i128::from(x).cmp(&i128::from(*value)))
            }))
        }
        (t, Literal::Int(value)) if t.is_integer() => {
            let array = cast(array, &Int64).map_err(fails)?;
            Ok(BooleanArray::from_unary(array.as_primitive::<Int64Type>(), |x| {
                op.holds(x.cmp(value))
            }))
        }
        (t, Literal::Int(_) | Literal::Float(_)) if t.is_numeric() => {
            let value = match literal {
                Literal::Int(value) => *value as f64,
                Literal::Float(value) => *value,
                Literal::Text(_) | Literal::Bool(_) => unreachable!("matched above"),
            };
            let array = cast(array, &Float64).map_err(fails)?;
            let order =
                |x: Option<f64>| x.and_then(|x| x.partial_cmp(&value)).map(|order| op.holds(order));
            Ok(array.as_primitive::<Float64Type>().iter().map(order).collect())
        }
        (t, _) if t.is_numeric() => Err(wrong("a number")),
        (Boolean, Literal::Bool(value)) if matches!(op, Op::Eq | Op::Ne) => {
            let array = array.as_boolean();
            Ok(array.iter().map(|x| x.map(|x| (x == *value) == (op == Op::Eq))).collect())
        }
        (Boolean, _) => Err(wrong("`= true` or `= false`")),
        (
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | Date32 | Date64
            | Timestamp(..) | Time32(_) | Time64(_),
            Literal::Text(text),
        ) => {
            // An error and not null where the text is no such date.
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let scalar =
                cast_with_options(&StringArray::from(vec![text.as_str()]), data_type, &strict);
            let scalar = Scalar::new(scalar.map_err(|_| PredicateError::Value {
                column: column.to_owned(),
                found: data_type.to_string(),
                literal: literal.to_string(),
            })?);
            let compare = match op {
                Op::Eq => cmp::eq,
                Op::Ne => cmp::neq,
                Op::Lt => cmp::lt,
                Op::Le => cmp::lt_eq,
                Op::Gt => cmp::gt,
                Op::Ge => cmp::gt_eq,
            };
            compare(array, &scalar).map_err(fails)
        }
        (Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView, _) => {
            Err(wrong("text in quotes"))
        }
        (Date32 | Date64 | Timestamp(..) | Time32(_) | Time64(_), _) => {
            Err(wrong("a date or time in quotes"))
        }
        _ => Err(wrong("a column of text, numbers, booleans, dates or times")),
    }
}
