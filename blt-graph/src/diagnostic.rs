//! Errors that point at their place in the document.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

use crate::code::Code;

/// A text with values: a YAML file, or an override from the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's path as the user wrote it, or another name, such as `--set`.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A place in a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// The range of bytes in the text.
    pub span: Range<usize>,
}

impl Place {
    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.source.text[..self.span.start].matches('\n').count() + 1
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> usize {
        let line_start = self.source.text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        self.source.text[line_start..self.span.start].chars().count() + 1
    }

    /// The empty place at its end.
    pub fn end(&self) -> Place {
        Place { source: self.source.clone(), span: self.span.end..self.span.end }
    }

    /// The length of the line in bytes.
    fn line_length(&self) -> usize {
        let (before, after) = self.source.text.split_at(self.span.start);
        let end = after.find('\n').unwrap_or(after.len());
        before.len() - before.rfind('\n').map_or(0, |at| at + 1) + end
    }

    /// The text of the place.
    pub fn text(&self) -> &str {
        &self.source.text[self.span.clone()]
    }
}

/// A second place that helps to explain the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub place: Place,
    /// The explanation.
    pub text: String,
}

/// Whether a diagnostic stops the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The document cannot be run.
    Error,
    /// The document can be run, and probably does not mean what its author intends.
    Warning,
}

/// One error or warning about a document: the problem, its place, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The kind of error, which `blt-run explain` explains. `None` for one that is not about a
    /// document.
    pub code: Option<&'static Code>,
    /// The problem, in one line.
    pub message: String,
    /// The place. A graph written in Rust has no text; then only `path` gives the place.
    pub place: Option<Place>,
    /// The text under the underline.
    pub label: String,
    /// Other places that explain the problem.
    pub labels: Vec<Label>,
    /// The document path: `graph.encoder.heads`. Empty for an error in the text itself.
    pub path: String,
    /// Facts that help to understand the problem.
    pub notes: Vec<String>,
    /// What the user can do.
    pub help: Option<String>,
    /// The probably intended text, in place of that at `fix_at`, or else at `place`.
    pub suggestion: Option<String>,
    /// The place that the suggestion replaces, where `place` is not it.
    pub fix_at: Option<Place>,
}

impl Code {
    /// An error of this kind.
    pub fn error(&'static self, message: impl Into<String>) -> Diagnostic {
        Diagnostic { code: Some(self), ..Diagnostic::error(message) }
    }
}

impl Diagnostic {
    /// An error with this message and nothing else.
    pub fn error(message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            code: None,
            message: message.into(),
            place: None,
            label: String::new(),
            labels: Vec::new(),
            path: String::new(),
            notes: Vec::new(),
            help: None,
            suggestion: None,
            fix_at: None,
        }
    }

    pub(crate) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn also(mut self, place: Option<Place>, text: impl Into<String>) -> Self {
        if let Some(place) = place {
            self.labels.push(Label { place, text: text.into() });
        }
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn help(mut self, help: Option<impl Into<String>>) -> Self {
        self.help = help.map(Into::into).or(self.help);
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Self {
        self.suggestion = suggestion.map(Into::into).or(self.suggestion);
        self
    }

    /// Suggests `text` in place of that at `place`.
    pub(crate) fn fix(mut self, place: Place, text: impl Into<String>) -> Self {
        (self.fix_at, self.suggestion) = (Some(place), Some(text.into()));
        self
    }

    /// The place and the text that the suggestion puts there.
    pub fn patch(&self) -> Option<(&Place, &str)> {
        Some((self.fix_at.as_ref().or(self.place.as_ref())?, self.suggestion.as_deref()?))
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|place| place.source.name.as_str())
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(Place::line)
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(Place::column)
    }

    /// The text as `rustc` would show it, in colours if `color`.
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut title = level.primary_title(clipped(&self.message));
        if let Some(code) = self.code {
            title = title.id(code.id);
        }
        let mut group = match &self.place {
            None => Group::with_title(title),
            Some(place) => {
                let mut primary =
                    AnnotationKind::Primary.span(visible(&place.source.text, &place.span));
                if !self.label.is_empty() {
                    primary = primary.label(self.label.as_str());
                }
                let snippet = Snippet::source(place.source.text.as_str())
                    .path(place.source.name.as_str())
                    .annotation(primary);
                // Labels in the same text share one snippet; each other label has its own below it.
                let (same, others): (Vec<_>, Vec<_>) =
                    self.labels.iter().partition(|label| label.place.source == place.source);
                let snippet = snippet.annotations(same.into_iter().map(|label| {
                    AnnotationKind::Context
                        .span(visible(&label.place.source.text, &label.place.span))
                        .label(label.text.as_str())
                }));
                let mut group = title.element(snippet);
                for label in others {
                    group = group.element(
                        Snippet::source(label.place.source.text.as_str())
                            .path(label.place.source.name.as_str())
                            .annotation(
                                AnnotationKind::Context
                                    .span(visible(&label.place.source.text, &label.place.span))
                                    .label(label.text.as_str()),
                            ),
                    );
                }
                group
            }
        };
        if self.place.is_none() && !self.path.is_empty() {
            group = group.element(Level::NOTE.message(format!("at {}", self.path)));
        }
        for note in &self.notes {
            group = group.element(Level::NOTE.message(clipped(note)));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(clipped(help)));
        }
        let mut report = vec![group];
        if let Some(suggestion) = &self.suggestion {
            // The renderer prints the line of a patch whole.
            let place = self.fix_at.as_ref().or(self.place.as_ref());
            match place.filter(|place| place.line_length() <= LONG) {
                Some(place) => report.push(
                    Level::HELP.secondary_title("did you mean this?").element(
                        Snippet::source(place.source.text.as_str())
                            .path(place.source.name.as_str())
                            .patch(Patch::new(place.span.clone(), suggestion.as_str())),
                    ),
                ),
                None => {
                    report[0] = report[0]
                        .clone()
                        .element(Level::HELP.message(format!("did you mean `{suggestion}`?")))
                }
            }
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&report)
    }
}

/// Bytes of a line that are printed whole.
const LONG: usize = 2000;

/// `text` with the middle of each line left out that is longer than anyone reads, as of a value of
/// megabytes that an error repeats.
fn clipped(text: &str) -> Cow<'_, str> {
    if text.lines().all(|line| line.len() <= LONG) {
        return text.into();
    }
    let clip = |line: &str| {
        if line.len() <= LONG {
            return line.to_string();
        }
        let head: String = line.chars().take(LONG / 2).collect();
        let tail: usize = line.chars().rev().take(LONG / 4).map(char::len_utf8).sum();
        let tail = &line[line.len() - tail..];
        format!("{head} ... ({} bytes) ... {tail}", line.len() - head.len() - tail.len())
    };
    text.lines().map(clip).collect::<Vec<_>>().join("\n").into()
}

/// The span to underline. For an empty one, the character after it, if there is one.
fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    if !span.is_empty() {
        return span.clone();
    }
    match text[span.start..].chars().next() {
        Some(c) => span.start..span.start + c.len_utf8(),
        None => span.clone(),
    }
}

/// One or more errors of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All errors as text, with a blank line between them; in colour if `color`.
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|diagnostic| diagnostic.render(color)).collect::<Vec<_>>().join("\n\n")
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Diagnostics(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Those of the `new` errors that do not follow from `earlier` ones: their place in the document is
/// not within, or around, that of an error of its form.
pub(crate) fn not_shadowed(new: Vec<Diagnostic>, earlier: &[Diagnostic]) -> Vec<Diagnostic> {
    let within = |a: &str, b: &str| {
        !b.is_empty()
            && a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let follows = |new: &Diagnostic| {
        earlier.iter().any(|earlier| {
            let same_place = match (&new.place, &earlier.place) {
                (Some(new), Some(earlier)) => {
                    new.source == earlier.source && new.span.start == earlier.span.start
                }
                _ => false,
            };
            same_place || within(&new.path, &earlier.path) || within(&earlier.path, &new.path)
        })
    };
    new.into_iter().filter(|new| !follows(new)).collect()
}

/// The candidate nearest to `word`, if one is near enough to be a misspelling of it.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, candidate)| {
            let length = word.chars().count().max(candidate.chars().count());
            // Any name of one or two letters is one letter away from many others.
            *distance <= length / 3 || (*distance <= 1 && length >= 3)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``, in the order given.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "none".to_string(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
