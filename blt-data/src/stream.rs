//! The stream of rows from reading to writing.

use crate::rows::Unreadable;

/// What comes next in a stream of rows that are read span by span. `R` is some rows of one span as
/// a stage holds them: read, packed, scored.
#[derive(Clone, Debug)]
pub enum Stream<R> {
    /// Rows that were chosen, in order.
    Rows { span: usize, rows: R },
    /// A row group that does not decode: of its rows, those came before that could be chosen.
    Unreadable { span: usize, group: Unreadable },
    /// The span has no more rows. `groups_skipped`: row groups that were not read, because their
    /// statistics exclude the condition.
    End { span: usize, groups_skipped: u64 },
}

impl<R> Stream<R> {
    /// The span's number in the request.
    pub fn span(&self) -> usize {
        match self {
            Stream::Rows { span, .. }
            | Stream::Unreadable { span, .. }
            | Stream::End { span, .. } => *span,
        }
    }

    /// Takes rows to the next stage.
    ///
    /// # Errors
    /// Those of `next`.
    pub fn try_map<N, E>(self, next: impl FnOnce(R) -> Result<N, E>) -> Result<Stream<N>, E> {
        Ok(match self {
            Stream::Rows { span, rows } => Stream::Rows { span, rows: next(rows)? },
            Stream::Unreadable { span, group } => Stream::Unreadable { span, group },
            Stream::End { span, groups_skipped } => Stream::End { span, groups_skipped },
        })
    }

    /// Takes rows to the next stage.
    pub fn map<N>(self, next: impl FnOnce(R) -> N) -> Stream<N> {
        match self.try_map(|rows| Ok::<N, std::convert::Infallible>(next(rows))) {
            Ok(stream) => stream,
            Err(never) => match never {},
        }
    }
}
