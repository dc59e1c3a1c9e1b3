//! A condition as it is parsed.

use std::cmp::Ordering;
use std::fmt;

use super::bound::Number;

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
pub(super) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    /// The comparison that is true where this one is false.
    pub(super) fn negated(self) -> Op {
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
    pub(super) fn flipped(self) -> Op {
        match self {
            Op::Lt => Op::Gt,
            Op::Le => Op::Ge,
            Op::Gt => Op::Lt,
            Op::Ge => Op::Le,
            same => same,
        }
    }

    pub(super) fn holds(self, order: Ordering) -> bool {
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
pub(super) enum Literal {
    Number(Number),
    Text(String),
    Bool(bool),
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Number(number) => f.write_str(&number.text),
            Literal::Text(value) => write!(f, "'{value}'"),
            Literal::Bool(value) => write!(f, "{value}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Compare(Op, Literal),
    /// `like`, or with false `not like`.
    Like(bool, String),
    /// `is null`, or with false `is not null`.
    Null(bool),
}

/// A condition without `not`, which parsing carries inwards.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Test(String, Test),
}

impl Expr {
    pub(super) fn negated(self) -> Expr {
        match self {
            Expr::All(of) => Expr::Any(of.into_iter().map(Expr::negated).collect()),
            Expr::Any(of) => Expr::All(of.into_iter().map(Expr::negated).collect()),
            Expr::Test(column, Test::Compare(op, literal)) => {
                Expr::Test(column, Test::Compare(op.negated(), literal))
            }
            Expr::Test(column, Test::Like(is, of)) => Expr::Test(column, Test::Like(!is, of)),
            Expr::Test(column, Test::Null(is)) => Expr::Test(column, Test::Null(!is)),
        }
    }

    pub(super) fn columns<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self {
            Expr::All(of) | Expr::Any(of) => of.iter().for_each(|e| e.columns(into)),
            Expr::Test(column, _) if !into.contains(&column.as_str()) => into.push(column),
            Expr::Test(..) => {}
        }
    }
}
