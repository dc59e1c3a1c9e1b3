//! Conditions on columns, as users write them: `lang = 'en' and (n_bytes >= 100 or source in ('a',
//! 'b')) and id is not null`.
//!
//! Comparisons of a column with a literal (`=`, `==`, `!=`, `<>`, `<`, `<=`, `>`, `>=`), `in
//! (...)`, `not in (...)`, `between 1 and 3`, `like 'a%'`, `is null`, `is not null`, a column of booleans alone, and `and`, `or`,
//! `not` and parentheses over them. Text is in single or double quotes; a quote in it is doubled. A
//! column whose name is not a word is in backticks. `a.b` is a column of that name, or else the
//! field `b` of the column `a`. Dates and times are written as text. A comparison with null is
//! unknown, as in SQL, and so is one with NaN. A row is chosen if the condition is true for it.

mod bound;
mod evaluate;
mod expr;
mod parse;
mod statistics;

use std::fmt;

use arrow::array::{Array, RecordBatch, new_null_array};
use arrow::datatypes::Schema;

use self::evaluate::{apply, evaluate, find};
use self::expr::Expr;
use self::parse::Parser;
use self::statistics::may_match;
use crate::nearest::nearest;

pub use self::expr::PredicateError;
pub use self::statistics::ColumnStatistics;

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
    /// Parses a condition.
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

    /// The condition that both are true.
    pub fn and(&self, other: &Predicate) -> Predicate {
        Predicate {
            text: format!("({self}) and ({other})"),
            expr: Expr::All(vec![self.expr.clone(), other.expr.clone()]),
        }
    }

    /// The top-level columns of `schema` that the condition reads. Names that it does not have are
    /// left out.
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

    /// Checks that each of the condition's columns is in one of the schemas, and that its type in
    /// all of them can be compared as the condition does.
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

    /// Whether the condition is true for each row, `[n_rows]`. A missing column is null.
    ///
    /// # Errors
    /// If the columns are not of types that [`Predicate::check`] accepts.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<bool>, PredicateError> {
        let truth = evaluate(&self.expr, batch)?;
        Ok((0..truth.len()).map(|i| truth.is_valid(i) && truth.value(i)).collect())
    }

    /// Whether each row group may have a row that the condition is true for, `[n_groups]`.
    /// `statistics`: those of a top-level column, by its name.
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array,
        Int8Array, Int64Array, StringViewArray, StructArray, TimestampMillisecondArray,
        UInt64Array,
    };
    use arrow::buffer::NullBuffer;
    use arrow::datatypes::{DataType, Field, Int32Type};
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
