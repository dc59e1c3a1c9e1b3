//! How `check` prints what it found: for people, for programs, for GitHub.

use crate::output::{color, say};
use blt_graph::diagnostic::{Place, Severity};
use blt_graph::{Diagnostic, codes};
use blt_report::progress;
use clap::ValueEnum;
use serde_json::{Value, json};

/// How to print what is found.
#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    /// For people: with the lines at fault and fixes, on standard error.
    Text,
    /// One JSON object.
    Json,
    /// Annotations of GitHub's workflows, one a line.
    Github,
    /// A SARIF 2.1.0 log, which code scanning reads.
    Sarif,
}

impl Format {
    /// Prints what was `found`, and the lines about what is `fine`.
    pub fn print(self, found: &[Diagnostic], fine: &[String]) -> std::io::Result<()> {
        match self {
            Format::Text => {
                for (index, diagnostic) in found.iter().enumerate() {
                    let parted = if index > 0 { "\n" } else { "" };
                    progress::line(&format!("{parted}{}", diagnostic.render(color()).trim_end()));
                }
                fine.iter().try_for_each(|line| say(line))
            }
            Format::Json => {
                let all: Vec<Value> = found.iter().map(as_json).collect();
                say(&format!("{:#}", json!({ "diagnostics": all })))
            }
            Format::Github => found.iter().try_for_each(|diagnostic| say(&annotation(diagnostic))),
            Format::Sarif => say(&format!("{:#}", sarif(found))),
        }
    }
}

fn level(diagnostic: &Diagnostic) -> &'static str {
    match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// Notes and help below the message.
fn details(diagnostic: &Diagnostic) -> impl Iterator<Item = &String> {
    diagnostic.notes.iter().chain(&diagnostic.help)
}

/// A place with lines and columns, counted from 1, the end exclusive.
fn place(place: &Place) -> Value {
    let end = place.end();
    json!({
        "file": place.source.name, "line": place.line(), "column": place.column(),
        "end_line": end.line(), "end_column": end.column(),
        "start_byte": place.span.start, "end_byte": place.span.end,
    })
}

fn as_json(diagnostic: &Diagnostic) -> Value {
    let fix = diagnostic.patch().map(|(at, text)| json!({ "at": place(at), "text": text }));
    json!({
        "code": diagnostic.code.map(|code| code.id),
        "severity": level(diagnostic),
        "message": diagnostic.message,
        "path": diagnostic.path,
        "at": diagnostic.place.as_ref().map(place),
        "notes": diagnostic.notes,
        "help": diagnostic.help,
        "fix": fix,
    })
}

fn annotation(diagnostic: &Diagnostic) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| escape(text).replace(':', "%3A").replace(',', "%2C");
    let at = diagnostic.place.as_ref().map_or(String::new(), |place| {
        let (file, end) = (property(&place.source.name), place.end());
        let (line, column) = (place.line(), place.column());
        format!(
            " file={file},line={line},endLine={},col={column},endColumn={},title={}",
            end.line(),
            end.column(),
            diagnostic.code.map_or("blt-run", |code| code.id),
        )
    });
    let mut message = diagnostic.message.clone();
    details(diagnostic).for_each(|detail| message.push_str(&format!("\n{detail}")));
    if let Some((_, fix)) = diagnostic.patch() {
        message.push_str(&format!("\ndid you mean `{}`?", fix.trim()));
    }
    format!("::{}{at}::{}", level(diagnostic), escape(&message))
}

fn sarif(found: &[Diagnostic]) -> Value {
    let region = |place: &Place| {
        let end = place.end();
        json!({
            "startLine": place.line(), "startColumn": place.column(),
            "endLine": end.line(), "endColumn": end.column(),
        })
    };
    let file = |place: &Place| json!({ "uri": place.source.name });
    let result = |diagnostic: &Diagnostic| {
        let mut text = diagnostic.message.clone();
        details(diagnostic).for_each(|detail| text.push_str(&format!("\n{detail}")));
        let mut result = json!({ "level": level(diagnostic), "message": { "text": text } });
        if let Some(code) = diagnostic.code {
            result["ruleId"] = code.id.into();
        }
        if let Some(place) = &diagnostic.place {
            result["locations"] = json!([{ "physicalLocation": {
                "artifactLocation": file(place), "region": region(place),
            } }]);
        }
        if let Some((place, text)) = diagnostic.patch() {
            result["fixes"] = json!([{
                "description": { "text": "did you mean this?" },
                "artifactChanges": [{
                    "artifactLocation": file(place),
                    "replacements": [{
                        "deletedRegion": region(place), "insertedContent": { "text": text },
                    }],
                }],
            }]);
        }
        result
    };
    let rules = codes().into_iter().map(|code| {
        json!({
            "id": code.id,
            "shortDescription": { "text": code.name() },
            "help": { "text": code.text(), "markdown": code.text() },
        })
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "blt-run",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": found.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}
