//! Cutting ragged work into tasks of about equal size, and a buffer into the tasks' parts.

use std::ops::Range;

/// Groups consecutive segments (`offsets` is `[segments + 1]`) until a group has at least `rows`
/// rows. The groups depend on the offsets alone, and every segment lies in one group.
pub(super) fn task_groups(offsets: &[usize], rows: usize) -> Vec<Range<usize>> {
    let segments = offsets.len() - 1;
    let mut groups = Vec::new();
    let mut start = 0;
    for end in 1..=segments {
        if offsets[end] - offsets[start] >= rows || end == segments {
            groups.push(start..end);
            start = end;
        }
    }
    groups
}

/// Cuts `data` into the groups' parts: a group's part is `at(group.start)..at(group.end)`, and the
/// parts are adjacent.
pub(super) fn split_by_groups<'a, T>(
    mut data: &'a mut [T],
    groups: &[Range<usize>],
    at: impl Fn(usize) -> usize,
) -> Vec<&'a mut [T]> {
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let (part, rest) = data.split_at_mut(at(group.end) - at(group.start));
        parts.push(part);
        data = rest;
    }
    parts
}
