//! What is wrong with a text that is not YAML, in our words: the parser's are those of its grammar.

use std::ops::Range;

use saphyr_parser::ScanError;

use crate::diagnostic::Diagnostic;

crate::code! {
    /// The text is not YAML.
    ///
    /// The reader could not make out what the text means from the place that the error shows, so
    /// that nothing after it was checked. Most often one of these is missing: the space after a
    /// `:`, a `,` between two entries, the `}` or `]` of what a `{` or `[` opened, the second quote
    /// of a text; or a line is not indented as its neighbours are.
    pub(crate) NOT_YAML = "BLT0101"
}

/// What the parser's message speaks of, what is wrong in our words, and what the user can do.
const WORDS: &[(&str, &str, &str)] = &[
    ("tab", "a tab begins this line", "indent with spaces; YAML allows no tabs there"),
    (
        "flow mapping",
        "a `,` or a `}` is missing",
        "close what `{` opened, and put `,` between entries",
    ),
    (
        "flow sequence",
        "a `,` or a `]` is missing",
        "close what `[` opened, and put `,` between items",
    ),
    (
        "flow construct",
        "this belongs to a `{` or `[` above, and is not indented",
        "close the bracket, or indent the line",
    ),
    ("misplaced bracket", "this bracket closes nothing", "remove it, or open it before"),
    ("may not precede", "a space is missing after this `:`", "write `key: value`"),
    (
        "indentation in quoted",
        "a quote is not closed",
        "end the text with the quote that it begins with",
    ),
    ("end of stream", "a quote is not closed", "end the text with the quote that it begins with"),
    (
        "after double-quoted",
        "something follows a text in quotes",
        "put `,` between entries, or quote the whole text",
    ),
    (
        "quoted scalar",
        "this cannot stand in quotes",
        "write `\\\\` for a backslash, or use single quotes",
    ),
    ("unexpected character", "a value cannot begin with this character", "put the text in quotes"),
    ("anchor", "no value has this anchor", "write `&name` before the value that `*name` repeats"),
    ("alias", "a name is missing after `&` or `*`", "put a text that begins so in quotes"),
    (
        "tag",
        "a tag is not written so",
        "leave it out, or put a text that begins with `!` in quotes",
    ),
    ("directive", "a line cannot begin with `%` here", "put the text in quotes"),
    (
        "block scalar",
        "a text after `|` or `>` is not written so",
        "begin it on the next line, indented",
    ),
    (
        "block sequence",
        "a list cannot begin here",
        "begin it on a line of its own, indented as its neighbours",
    ),
    ("recursion", "nested too deep", "no pipeline needs so many levels"),
    ("unprintable", "this character is not text", "remove it"),
    ("comment", "a comment cuts a text of several lines", "put the text in quotes"),
];

/// The diagnostic for the parser's `error`, found at byte `at` of the text. `open` is the bracket
/// that is open there.
pub(super) fn explain(
    error: &ScanError,
    at: usize,
    open: Option<usize>,
    text: &str,
    diagnostic: impl Fn(Range<usize>, String) -> Diagnostic,
) -> Diagnostic {
    let info = error.info();
    let known = WORDS.iter().find(|(of, ..)| info.contains(of));
    let (what, help) = known.map_or(
        (
            "this line does not go on from the lines above it",
            "indent it as its neighbours are, with a space after each `:`",
        ),
        |(_, what, help)| (*what, *help),
    );
    let say = |at: usize| diagnostic(at..at, format!("not valid YAML: {what}")).help(Some(help));
    match open.filter(|_| info.contains("flow")) {
        // What is missing belongs to the line of the bracket.
        Some(open) if text[open..at].contains('\n') => {
            let seen = say(at).place;
            let mut opened = say(open).label("opened here, and not closed");
            if let Some(place) = &mut opened.place {
                place.span.end = open + 1;
            }
            opened.also(seen, "this does not belong to it")
        }
        _ => say(at),
    }
}
