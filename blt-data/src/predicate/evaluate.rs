//! Evaluating a condition on the rows of a batch.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, StringArray, new_null_array,
};
use arrow::compute::kernels::{boolean, cmp};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Decimal256Type, Field, Float64Type, Int32Type, Int64Type, Schema, UInt64Type, i256,
};
use arrow::error::ArrowError;

use half::f16;

use super::bound::{Bound, is_like, time};
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
    if let Test::Null(is) = test {
        let nulls = array.logical_nulls();
        let is_null = |i| nulls.as_ref().is_some_and(|n| n.is_null(i));
        return Ok((0..array.len()).map(|i| Some(is_null(i) == *is)).collect());
    }
    use DataType::*;
    let data_type = array.data_type();
    let fails = |e: ArrowError| failed(column, e);
    match data_type {
        Null => return Ok(BooleanArray::new_null(array.len())),
        Dictionary(_, of) => return apply(column, &cast(array, of).map_err(fails)?, test),
        RunEndEncoded(_, of) => {
            return apply(column, &cast(array, of.data_type()).map_err(fails)?, test);
        }
        _ => {}
    }
    let wrong = |literal: String, expected| PredicateError::Type {
        column: column.to_owned(),
        found: data_type.to_string(),
        literal,
        expected,
    };
    let (op, literal) = match test {
        Test::Null(_) => unreachable!("answered above"),
        Test::Like(is, pattern) => {
            let like = |value: &[u8]| is_like(value, pattern.as_bytes()) == *is;
            return match data_type {
                Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => {
                    let bytes = cast(array, &LargeBinary).map_err(fails)?;
                    Ok(bytes.as_binary::<i64>().iter().map(|value| value.map(like)).collect())
                }
                _ => Err(wrong(format!("the pattern '{pattern}'"), "a column of text")),
            };
        }
        Test::Compare(op, literal) => (*op, literal),
    };
    let wrong = |expected| wrong(literal.to_string(), expected);
    let no_such = || PredicateError::Value {
        column: column.to_owned(),
        found: data_type.to_string(),
        literal: literal.to_string(),
    };
    // Numbers, dates and times are integers of some unit.
    let integers = |bound: Bound| -> Result<BooleanArray, PredicateError> {
        let holds = |x: i256| op.holds(bound.order(x));
        match data_type {
            UInt64 => {
                let array = array.as_primitive::<UInt64Type>();
                Ok(BooleanArray::from_unary(array, |x| holds(i256::from_i128(i128::from(x)))))
            }
            Decimal32(_, scale)
            | Decimal64(_, scale)
            | Decimal128(_, scale)
            | Decimal256(_, scale) => {
                let array = cast(array, &Decimal256(76, *scale)).map_err(fails)?;
                Ok(BooleanArray::from_unary(array.as_primitive::<Decimal256Type>(), holds))
            }
            Date32 | Time32(_) => {
                let array = cast(array, &Int32).map_err(fails)?;
                let array = array.as_primitive::<Int32Type>();
                Ok(BooleanArray::from_unary(array, |x| holds(i256::from_i128(i128::from(x)))))
            }
            _ => {
                let array = cast(array, &Int64).map_err(fails)?;
                let array = array.as_primitive::<Int64Type>();
                Ok(BooleanArray::from_unary(array, |x| holds(i256::from_i128(i128::from(x)))))
            }
        }
    };
    match (data_type, literal) {
        (
            Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale),
            Literal::Number(number),
        ) => integers(number.bound(*scale)),
        (t, Literal::Number(number)) if t.is_integer() => integers(number.bound(0)),
        (t, Literal::Number(number)) if t.is_floating() => {
            // A literal is of the column's type, as text is where it names a date: 0.1 is the
            // float32 nearest to it.
            let narrow = match t {
                Float16 => f64::from(f16::from_f64(number.float)),
                Float32 => f64::from(number.float as f32),
                _ => number.float,
            };
            let value = if narrow.is_finite() { narrow } else { number.float };
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
        (Date32 | Date64 | Timestamp(..), Literal::Text(text)) => {
            integers(time(text, data_type).ok_or_else(no_such)?)
        }
        (
            Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | Time32(_) | Time64(_),
            Literal::Text(text),
        ) => {
            // An error and not null where the text is no such time.
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let text = StringArray::from(vec![text.as_str()]);
            let scalar = cast_with_options(&text, data_type, &strict).map_err(|_| no_such())?;
            let compare = match op {
                Op::Eq => cmp::eq,
                Op::Ne => cmp::neq,
                Op::Lt => cmp::lt,
                Op::Le => cmp::lt_eq,
                Op::Gt => cmp::gt,
                Op::Ge => cmp::gt_eq,
            };
            compare(array, &Scalar::new(scalar)).map_err(fails)
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
