//! Conditions on columns, as users write them: `lang = 'en' and (n_bytes >= 100 or source in ('a',
//! 'b')) and id is not null`.
//!
//! Comparisons of a column with a literal (`=`, `==`, `!=`, `<>`, `<`, `<=`, `>`, `>=`), `in
//! (...)`, `not in (...)`, `is null`, `is not null`, a column of booleans alone, and `and`, `or`,
//! `not` and parentheses over them. Text stands in single or double quotes, doubled to stand for
//! itself; a column whose name is no word stands in backticks; `a.b` is a column of that name, else
//! the field `b` of the column `a`. Dates and times are written as text. What is compared with null
//! is unknown, as in SQL, and so is NaN; a row is taken where the condition is true.

mod parse;

use self::parse::Parser;
use std::cmp::Ordering;
use std::fmt;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, StringArray, new_null_array,
};
use arrow::compute::kernels::{boolean, cmp};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, UInt64Type};
use arrow::error::ArrowError;

use crate::nearest::nearest;

/// Why a condition cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredicateError {
    #[error("`{text}` is not a condition: expected {expected} at character {at}, found {found}")]
    Syntax { text: String, at: usize, expected: &'static str, found: String },

    #[error("no column `{column}`{}; the columns: {}",
        .nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(), .columns.join(", "))]
    NoSuchColumn { column: String, nearest: Option<String>, columns: Vec<String> },

    #[error(
        "column `{column}` is {found}, which is not compared with {literal}; expected {expected}"
    )]
    Type { column: String, found: String, literal: String, expected: &'static str },

    #[error("column `{column}` is {found}, and {literal} is no such value")]
    Value { column: String, found: String, literal: String },

    #[error("column `{column}` cannot be compared: {cause}")]
    Evaluate { column: String, cause: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    /// The comparison that is true where this one is false.
    fn negated(self) -> Op {
        match self {
            Op::Eq => Op::Ne,
            Op::Ne => Op::Eq,
            Op::Lt => Op::Ge,
            Op::Le => Op::Gt,
            Op::Gt => Op::Le,
            Op::Ge => Op::Lt,
        }
    }

    /// The comparison with its sides exchanged.
    fn flipped(self) -> Op {
        match self {
            Op::Lt => Op::Gt,
            Op::Le => Op::Ge,
            Op::Gt => Op::Lt,
            Op::Ge => Op::Le,
            same => same,
        }
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Op::Eq => order.is_eq(),
            Op::Ne => order.is_ne(),
            Op::Lt => order.is_lt(),
            Op::Le => order.is_le(),
            Op::Gt => order.is_gt(),
            Op::Ge => order.is_ge(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Int(i64),
    Float(f64),
    Text(String),
    Bool(bool),
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Int(value) => write!(f, "{value}"),
            Literal::Float(value) => write!(f, "{value}"),
            Literal::Text(value) => write!(f, "'{value}'"),
            Literal::Bool(value) => write!(f, "{value}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Compare(Op, Literal),
    /// `is null`, or with false `is not null`.
    Null(bool),
}

/// `not` stands nowhere: it was carried inwards when the condition was read.
#[derive(Clone, Debug, PartialEq)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Test(String, Test),
}

impl Expr {
    fn negated(self) -> Expr {
        match self {
            Expr::All(of) => Expr::Any(of.into_iter().map(Expr::negated).collect()),
            Expr::Any(of) => Expr::All(of.into_iter().map(Expr::negated).collect()),
            Expr::Test(column, Test::Compare(op, literal)) => {
                Expr::Test(column, Test::Compare(op.negated(), literal))
            }
            Expr::Test(column, Test::Null(is)) => Expr::Test(column, Test::Null(!is)),
        }
    }

    fn columns<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self {
            Expr::All(of) | Expr::Any(of) => of.iter().for_each(|e| e.columns(into)),
            Expr::Test(column, _) if !into.contains(&column.as_str()) => into.push(column),
            Expr::Test(..) => {}
        }
    }
}

/// Statistics of a column of a file, an element for each row group.
#[derive(Clone, Debug)]
pub struct ColumnStatistics {
    /// Lower bounds of the values that are not null; null where unknown.
    pub min: ArrayRef,
    /// Upper bounds.
    pub max: ArrayRef,
    /// Nulls and rows; the nulls None where unknown.
    pub nulls: Vec<(Option<u64>, u64)>,
}

/// A condition on columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Predicate {
    text: String,
    expr: Expr,
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Predicate {
    /// Reads a condition.
    ///
    /// # Errors
    /// [`PredicateError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, PredicateError> {
        let mut parser = Parser::new(text)?;
        let expr = parser.any()?;
        match parser.peek() {
            None => Ok(Predicate { text: text.to_owned(), expr }),
            Some(_) => Err(parser.wrong("`and`, `or` or the end")),
        }
    }

    /// The top-level columns of `schema` that the condition reads; what it does not have is left
    /// out.
    pub fn columns(&self, schema: &Schema) -> Vec<String> {
        let mut columns: Vec<String> =
            self.names().into_iter().filter_map(|c| Some(find(schema, c)?.0)).collect();
        columns.sort();
        columns.dedup();
        columns
    }

    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.expr.columns(&mut names);
        names
    }

    /// Whether each of the condition's columns is in one of the schemas, and of a type that it is
    /// compared with in all of them.
    ///
    /// # Errors
    /// All but [`PredicateError::Syntax`].
    pub fn check<'a>(
        &self,
        schemas: impl IntoIterator<Item = &'a Schema> + Clone,
    ) -> Result<(), (usize, PredicateError)> {
        for name in self.names() {
            if schemas.clone().into_iter().all(|schema| find(schema, name).is_none()) {
                let mut columns: Vec<String> = Vec::new();
                for field in schemas.clone().into_iter().flat_map(|schema| schema.fields()) {
                    if !columns.contains(field.name()) {
                        columns.push(field.name().clone());
                    }
                }
                let nearest = nearest(name, &columns);
                return Err((
                    0,
                    PredicateError::NoSuchColumn { column: name.to_owned(), nearest, columns },
                ));
            }
        }
        fn types(expr: &Expr, schema: &Schema) -> Result<(), PredicateError> {
            match expr {
                Expr::All(of) | Expr::Any(of) => of.iter().try_for_each(|e| types(e, schema)),
                Expr::Test(column, test) => match find(schema, column) {
                    Some((_, field)) => {
                        apply(column, &new_null_array(field.data_type(), 1), test).map(|_| ())
                    }
                    None => Ok(()),
                },
            }
        }
        schemas
            .into_iter()
            .enumerate()
            .try_for_each(|(at, schema)| types(&self.expr, schema).map_err(|e| (at, e)))
    }

    /// Whether each row is taken, `[n_rows]`. A column that is not there is null.
    ///
    /// # Errors
    /// If the columns are not of types that [`Predicate::check`] accepts.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<bool>, PredicateError> {
        let truth = evaluate(&self.expr, batch)?;
        Ok((0..truth.len()).map(|i| truth.is_valid(i) && truth.value(i)).collect())
    }

    /// Whether a row group may hold a row that is taken, `[n_groups]`, by what is known of its
    /// columns (top-level ones, by name).
    ///
    /// # Errors
    /// As [`Predicate::evaluate`].
    pub fn may_match(
        &self,
        n_groups: usize,
        statistics: &mut dyn FnMut(&str) -> Option<ColumnStatistics>,
    ) -> Result<Vec<bool>, PredicateError> {
        may_match(&self.expr, n_groups, statistics)
    }
}

/// A column by its name, else a field of one: the name of the top-level column, and the field.
fn find(schema: &Schema, name: &str) -> Option<(String, Field)> {
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

/// The values of a column, or of a field of one, which is null where what it lies in is.
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

fn evaluate(expr: &Expr, batch: &RecordBatch) -> Result<BooleanArray, PredicateError> {
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

fn failed(column: &str, error: ArrowError) -> PredicateError {
    PredicateError::Evaluate { column: column.to_owned(), cause: error.to_string() }
}

/// A test of each element; null where it is unknown.
fn apply(column: &str, array: &ArrayRef, test: &Test) -> Result<BooleanArray, PredicateError> {
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

fn may_match(
    expr: &Expr,
    n_groups: usize,
    statistics: &mut dyn FnMut(&str) -> Option<ColumnStatistics>,
) -> Result<Vec<bool>, PredicateError> {
    let mut join = |of: &[Expr], start: bool, join: fn(bool, bool) -> bool| {
        of.iter().try_fold(vec![start; n_groups], |may, e| {
            let of_e = may_match(e, n_groups, statistics)?;
            Ok(may.into_iter().zip(of_e).map(|(a, b)| join(a, b)).collect())
        })
    };
    let (column, test) = match expr {
        Expr::All(of) => return join(of, true, |a, b| a && b),
        Expr::Any(of) => return join(of, false, |a, b| a || b),
        Expr::Test(column, test) => (column, test),
    };
    let Some(ColumnStatistics { min, max, nulls }) = statistics(column) else {
        return Ok(vec![true; n_groups]);
    };
    let not_all_null = nulls.iter().map(|(nulls, rows)| *nulls != Some(*rows));
    let (op, literal) = match test {
        Test::Null(true) => return Ok(nulls.iter().map(|(nulls, _)| *nulls != Some(0)).collect()),
        Test::Null(false) => return Ok(not_all_null.collect()),
        Test::Compare(op, literal) => (*op, literal),
    };
    let bound = |array: &ArrayRef, op: Op| -> Result<BooleanArray, PredicateError> {
        apply(column, array, &Test::Compare(op, literal.clone()))
    };
    let booleans = min.data_type() == &DataType::Boolean;
    let known: Vec<BooleanArray> = match op {
        Op::Lt | Op::Le => vec![bound(&min, op)?],
        Op::Gt | Op::Ge => vec![bound(&max, op)?],
        // Booleans are not ordered here, and their bounds are values that occur.
        Op::Eq if booleans => {
            let (min, max) = (bound(&min, op)?, bound(&max, op)?);
            vec![boolean::or_kleene(&min, &max).map_err(|e| failed(column, e))?]
        }
        Op::Eq => vec![bound(&min, Op::Le)?, bound(&max, Op::Ge)?],
        // Bounds of text may be cut off, so that equal ones do not say that there is one value.
        Op::Ne => Vec::new(),
    };
    let may = |i: usize| known.iter().all(|k| k.is_null(i) || k.value(i));
    Ok(not_all_null.enumerate().map(|(i, some)| some && may(i)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int8Array, Int64Array,
        StringViewArray, StructArray, TimestampMillisecondArray, UInt64Array,
    };
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch() -> RecordBatch {
        let words: DictionaryArray<Int32Type> =
            [Some("a"), None, Some("b"), Some("a")].into_iter().collect();
        let inner: ArrayRef = Arc::new(Int8Array::from(vec![1, 2, 3, 4]));
        let nested = StructArray::new(
            vec![Field::new("n", DataType::Int8, true)].into(),
            vec![inner],
            Some(NullBuffer::from(vec![true, true, false, true])),
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("i", Arc::new(Int8Array::from(vec![Some(-1), Some(0), None, Some(100)]))),
            ("u", Arc::new(UInt64Array::from(vec![0, 1, u64::MAX, 7]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None, Some(-0.0)]))),
            (
                "d",
                Arc::new(
                    Decimal128Array::from(vec![5, 10, 15, 20])
                        .with_precision_and_scale(9, 1)
                        .unwrap(),
                ),
            ),
            ("t", Arc::new(StringViewArray::from(vec![Some("x"), Some(""), Some("it's"), None]))),
            ("w", Arc::new(words)),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
            ("day", Arc::new(Date32Array::from(vec![0, 1, 2, 19_000]))),
            ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 1_000, 86_400_000, 0]))),
            ("and", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
            ("s", Arc::new(nested)),
            ("s.m", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
            .unwrap()
    }

    #[test]
    fn conditions_take_the_rows_they_name() {
        let batch = batch();
        for (text, expected) in [
            ("i >= 0", "0101"),
            ("0 <= i", "0101"),
            ("i < 1000", "1101"),
            ("i < 0.5", "1100"),
            ("i != 0", "1001"),
            ("not i = 0", "1001"),
            ("not (i >= 0 and ok)", "1100"),
            ("i is null", "0010"),
            ("i is not null and not i is null", "1101"),
            ("u > 9223372036854775807", "0010"),
            ("u > -1", "1111"),
            ("x >= 0", "1001"),
            ("not x < 0", "1001"),
            ("x != 0.5", "0001"),
            ("d >= 1.5", "0011"),
            ("d = 1", "0100"),
            ("t = ''", "0100"),
            ("t = 'it''s' or t == \"x\"", "1010"),
            ("t > 'i'", "1010"),
            ("w in ('a', 'c')", "1001"),
            ("w not in ('a', 'c')", "0010"),
            ("NOT w IN ('a')", "0010"),
            ("ok", "1001"),
            ("not ok", "0100"),
            ("ok = false or i = 100", "0101"),
            ("day < '1970-01-03'", "1100"),
            ("at >= '1970-01-01T00:00:01'", "0110"),
            ("`and` <> 2", "1011"),
            ("s.n <= 3", "1100"),
            ("s.n is null", "0010"),
            ("s.m = 3", "0010"),
            ("i = -1 and ok or i = 100 and ok", "1001"),
            ("i = 0 and (t = '' or x = 1e0)", "0100"),
        ] {
            let predicate = Predicate::parse(text).unwrap_or_else(|e| panic!("{e}"));
            predicate
                .check([batch.schema().as_ref()])
                .unwrap_or_else(|(_, e)| panic!("{text}: {e}"));
            let taken: String = predicate
                .evaluate(&batch)
                .unwrap()
                .into_iter()
                .map(|t| if t { '1' } else { '0' })
                .collect();
            assert_eq!(taken, expected, "{text}");
        }
        assert_eq!(
            Predicate::parse("s.n = 1 and i = 2").unwrap().columns(&batch.schema()),
            ["i", "s"]
        );
    }

    #[test]
    fn a_column_that_one_file_lacks_is_null_there() {
        let (batch, less) = (batch(), batch().project(&[0]).unwrap());
        let predicate = Predicate::parse("t = 'x' or i = 100 or t is null and i = 0").unwrap();
        predicate.check([less.schema().as_ref(), batch.schema().as_ref()]).unwrap();
        assert_eq!(predicate.evaluate(&less).unwrap(), [false, true, false, true]);
    }

    #[test]
    fn errors_say_where_and_what() {
        for (text, said) in [
            ("", "expected a column, a literal, `not` or `(` at character 1, found the end"),
            ("i <", "at character 4, found the end"),
            (
                "i < j",
                "expected a number, text in quotes, `true` or `false` at character 5, found `j`",
            ),
            ("i < 3 t = 4", "expected `and`, `or` or the end at character 7, found `t`"),
            ("(i < 3", "or `)` at character 7"),
            ("i in (1, 2", "expected `,` or `)`"),
            ("i not 3", "expected `in`"),
            ("t = 'x", "a closing quote at character 5"),
            ("i = 3x", "found `3x`"),
            ("i ~ 3", "found `~`"),
            ("i is 3", "`null` or `not null`"),
            ("3 < 4", "expected a column"),
        ] {
            let error = Predicate::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let deep = "not ".repeat(5000) + "i = 1";
        assert!(Predicate::parse(&deep).unwrap_err().to_string().contains("fewer"));
        let deep = "(".repeat(5000);
        assert!(Predicate::parse(&deep).unwrap_err().to_string().contains("fewer"));
        let batch = batch();
        for (text, said) in [
            ("ii > 3", "no column `ii`, did you mean `i`?"),
            ("unknown > 3", "no column `unknown`; the columns: i, u"),
            ("i = 'x'", "column `i` is Int8, which is not compared with 'x'; expected a number"),
            ("t = 3", "expected text in quotes"),
            ("w < 3", "expected text in quotes"),
            ("day = 'yesterday'", "column `day` is Date32, and 'yesterday' is no such value"),
            ("ok > true", "`= true` or `= false`"),
            ("t", "expected text in quotes"),
            ("s = 3", "expected a column of text, numbers"),
        ] {
            let error = Predicate::parse(text)
                .unwrap()
                .check([batch.schema().as_ref()])
                .unwrap_err()
                .1
                .to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    fn conditions() -> impl Strategy<Value = String> {
        let op = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
        let test = prop_oneof![
            (op, -4i64..4).prop_map(|(op, v)| format!("v {op} {v}")),
            (-4i64..4, -4i64..4).prop_map(|(a, b)| format!("v in ({a}, {b})")),
            Just("v is null".to_string()),
            Just("v is not null".to_string()),
        ];
        test.prop_recursive(3, 8, 2, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) or ({b})")),
                inner.prop_map(|a| format!("not ({a})")),
            ]
        })
    }

    proptest! {
        /// Groups are left out only if no row of theirs is taken.
        #[test]
        fn statistics_leave_out_no_row_that_is_taken(
            groups in prop::collection::vec(prop::collection::vec(prop::option::of(-3i64..3), 1..4), 1..5),
            condition in conditions(),
        ) {
            let predicate = Predicate::parse(&condition).unwrap();
            let of_group = |of: fn(&mut dyn Iterator<Item = i64>) -> Option<i64>| -> ArrayRef {
                Arc::new(Int64Array::from_iter(groups.iter().map(|g| of(&mut g.iter().flatten().copied()))))
            };
            let may = predicate.may_match(groups.len(), &mut |_| Some(ColumnStatistics {
                min: of_group(|v| v.min()),
                max: of_group(|v| v.max()),
                nulls: groups.iter().map(|g| (Some(g.iter().filter(|v| v.is_none()).count() as u64), g.len() as u64)).collect(),
            })).unwrap();
            for (group, may) in groups.iter().zip(may) {
                let column: ArrayRef = Arc::new(Int64Array::from(group.clone()));
                let batch = RecordBatch::try_from_iter_with_nullable([("v", column, true)]).unwrap();
                let any = predicate.evaluate(&batch).unwrap().contains(&true);
                prop_assert!(may || !any, "{condition} on {group:?}");
            }
            prop_assert_eq!(predicate.may_match(3, &mut |_| None).unwrap(), vec![true; 3]);
        }
    }
}
