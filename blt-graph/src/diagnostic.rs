//! Errors that point at the place in the document where they come from.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

/// A text that values come from: a YAML file, or an override from the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's path as the user wrote it, or what stands for one, such as `--set`.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A place in a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// Bytes of the text.
    pub span: Range<usize>,
}

impl Place {
    /// Line, counted from 1.
    pub fn line(&self) -> usize {
        self.source.text[..self.span.start].matches('\n').count() + 1
    }

    /// Column in characters, counted from 1.
    pub fn column(&self) -> usize {
        let line_start = self.source.text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        self.source.text[line_start..self.span.start].chars().count() + 1
    }

    /// The text underlined.
    pub fn text(&self) -> &str {
        &self.source.text[self.span.clone()]
    }
}

/// A second place that helps to understand the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub place: Place,
    /// What is to be said about it.
    pub text: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The document cannot be run.
    Error,
    /// It can, but probably does not mean what its author thinks.
    Warning,
}

/// One thing wrong with a document: what, where, what was expected, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where. A graph written in Rust has no text, and then `path` says where.
    pub place: Option<Place>,
    /// What stands under the underline.
    pub label: String,
    /// Other places that matter.
    pub labels: Vec<Label>,
    /// The document path: `graph.encoder.heads`. Empty for an error in the text itself.
    pub path: String,
    /// Facts that help.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
    /// What probably was meant, to stand where `place` is.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// An error of this message, with nothing else known yet.
    pub fn error(message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            label: String::new(),
            labels: Vec::new(),
            path: String::new(),
            notes: Vec::new(),
            help: None,
            suggestion: None,
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
        let title = level.primary_title(self.message.as_str());
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
                // Labels in the same text share one snippet; others get their own below it.
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
            group = group.element(Level::NOTE.message(note.as_str()));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let mut report = vec![group];
        if let Some(suggestion) = &self.suggestion {
            match &self.place {
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

/// An empty span would underline nothing: show the character there, or the one before the end of
/// the text.
fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    if !span.is_empty() {
        return span.clone();
    }
    match text[span.start..].chars().next() {
        Some(c) => span.start..span.start + c.len_utf8(),
        None => span.clone(),
    }
}

/// Everything that was found wrong; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All of them as text, a blank line between.
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
            // Of names of one or two letters, any other is one letter away.
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
