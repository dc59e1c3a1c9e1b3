//! Evaluating a condition on the statistics of row groups, to leave out those without a row that it
//! is true for.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::kernels::boolean;
use arrow::datatypes::DataType;

use super::evaluate::{apply, failed};
use super::expr::{Expr, Op, PredicateError, Test};

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

pub(super) fn may_match(
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
        Test::Null(false) | Test::Like(..) => return Ok(not_all_null.collect()),
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
        // Bounds of text may be cut off, so equal ones do not mean that there is one value.
        Op::Ne => Vec::new(),
    };
    let may = |i: usize| known.iter().all(|k| k.is_null(i) || k.value(i));
    Ok(not_all_null.enumerate().map(|(i, some)| some && may(i)).collect())
}
