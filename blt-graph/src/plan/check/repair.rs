//! [`repair`]: small changes of the text, tried one after the other.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Place, Source};
use crate::spec::NOT_YAML;

/// Errors without a fix for which one is looked for.
const ERRORS: usize = 4;
/// Changes that are tried for one error.
const TRIES: usize = 48;

/// A range of bytes of the text, and what stands there instead.
type Change = (Range<usize>, String);

/// Gives errors that have no fix one, if a small change of their line, or of a line beside it, leaves
/// fewer errors: a space after a colon, another indentation, a bracket, a comma. `check` finds the
/// errors of a changed text.
pub(super) fn repair(
    source: &Arc<Source>,
    errors: &mut [Diagnostic],
    check: impl Fn(String) -> Vec<Diagnostic>,
) {
    // A text that cannot be read has one error, whatever is behind it.
    let unread = |errors: &[Diagnostic]| errors.iter().any(|error| error.code == Some(&NOT_YAML));
    let was_unread = unread(errors);
    let messages: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
    let here = |error: &&mut Diagnostic| {
        error.patch().is_none() && error.place.as_ref().is_some_and(|place| place.source == *source)
    };
    for error in errors.iter_mut().filter(here).take(ERRORS) {
        let Some(at) = error.place.as_ref().map(|place| place.span.start) else { continue };
        let mut best: Option<(usize, Change)> = None;
        for change in changes(&source.text, at).into_iter().take(TRIES) {
            let (range, new) = &change;
            let text = [&source.text[..range.start], new, &source.text[range.end..]].concat();
            let left = check(text);
            let old = |error: &Diagnostic| messages.contains(&error.message);
            let better = match was_unread {
                true => !unread(&left),
                false => left.len() < messages.len() && left.iter().all(old),
            };
            if better && best.as_ref().is_none_or(|(least, _)| left.len() < *least) {
                best = Some((left.len(), change));
            }
            if matches!(best, Some((0, _))) {
                break;
            }
        }
        if let Some((_, (span, text))) = best {
            let place = Place { source: source.clone(), span };
            // The parser noticed it later than it was written.
            if let Some(noticed) = error.place.clone().filter(|at| at.line() != place.line())
                && was_unread
            {
                *error = error.clone().at(Some(place.clone())).also(Some(noticed), "noticed here");
            }
            *error = error.clone().fix(place, text);
        }
    }
}

/// The changes that are tried for an error at byte `at`, the likeliest first.
fn changes(text: &str, at: usize) -> Vec<Change> {
    let mut lines = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        lines.push(start..start + line.trim_end().len());
        start += line.len();
    }
    let index = lines.iter().rposition(|line| line.start <= at).unwrap_or(0);
    let full = |index: &usize| !text[lines[*index].clone()].trim().is_empty();
    let above = (0..index).rev().find(full);
    let below = (index + 1..lines.len()).find(full);
    let indent = |index: usize| {
        let line = &text[lines[index].clone()];
        line.len() - line.trim_start().len()
    };
    let mut changes = Vec::new();
    let near: Vec<usize> = [Some(index), above, below].into_iter().flatten().collect();
    for &index in &near {
        changes.extend(in_line(text, &lines[index], true));
    }
    for &index in &near {
        let line = &lines[index];
        let own = line.start..line.start + indent(index);
        let others = [index.checked_sub(1), Some(index + 1), index.checked_sub(2), Some(index + 2)];
        for other in
            others.into_iter().flatten().filter(|other| *other < lines.len() && full(other))
        {
            let (old, new) = (own.len(), indent(other));
            if text[own.clone()].contains('\t') {
                changes.push((own.clone(), " ".repeat(new)));
            } else if new < old {
                changes.push((own.end - (old - new)..own.end, String::new()));
            } else if old < new {
                changes.push((own.end..own.end, " ".repeat(new - old)));
            }
        }
    }
    for &index in &near {
        changes.extend(in_line(text, &lines[index], false));
    }
    changes
}

/// Changes within a line: a space after a colon and `: ` for `=`, or (`colons` false) brackets,
/// quotes and commas.
fn in_line(text: &str, line: &Range<usize>, colons: bool) -> Vec<Change> {
    let written = &text[line.clone()];
    let mut changes = Vec::new();
    let word = |c: char| c.is_alphanumeric() || "_-'\"".contains(c);
    let chars: Vec<(usize, char)> = written.char_indices().collect();
    for window in chars.windows(3) {
        let [(_, before), (at, c), (_, after)] = window else { continue };
        let at = line.start + at;
        match (c, colons) {
            (':', true) if word(*before) && *after != ' ' && *after != '/' => {
                changes.push((at + 1..at + 1, " ".to_string()));
            }
            ('=', true) if word(*before) => changes.push((at..at + 1, ": ".to_string())),
            (' ', false) if (word(*before) || "]}".contains(*before)) && word(*after) => {
                changes.push((at..at, ",".to_string()));
            }
            _ => {}
        }
    }
    if !colons {
        for closing in ["}", "]", "}}", "]}", "'", "\""] {
            changes.push((line.end..line.end, closing.to_string()));
        }
        let closes = chars.iter().rev().filter(|(_, c)| "]}".contains(*c));
        changes.extend(closes.map(|(at, _)| (line.start + at..line.start + at + 1, String::new())));
    }
    changes
}
