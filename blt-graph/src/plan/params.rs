//! Errors in the parameters of a node or step.

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, list, nearest};
use crate::registry::ParamError;
use crate::schema::{self, Refused};
use crate::spec::Places;

/// Adds a diagnostic to `found` for each unknown and each missing parameter, and each number that is
/// not in its range. Returns whether there is none. `path` is the place of the parameters in the document; `what` names their owner.
pub(crate) fn check_params(
    schema: &Value,
    params: &Map<String, Value>,
    places: &Places,
    path: &[&str],
    what: &str,
    found: &mut Vec<Diagnostic>,
) -> bool {
    let before = found.len();
    let known = schema::params(schema);
    let refused = schema::refused(schema, params);
    let missing: Vec<_> =
        known.iter().filter(|p| p.required && !params.contains_key(&p.name)).collect();
    for (key, refused) in &refused {
        let full: Vec<&str> = path.iter().copied().chain(key.iter().map(String::as_str)).collect();
        let siblings = match refused {
            Refused::Key(siblings) => siblings,
            Refused::Range(number, expected) => {
                let message =
                    format!("`{}` of {what} is {number}; expected {expected}", key.join("."));
                let doc = known.iter().find(|param| param.name == key[0]).map(|param| &param.doc);
                let first_line = doc.and_then(|doc| doc.lines().next()).unwrap_or_default();
                let mut diagnostic = Diagnostic::error(message)
                    .at(places.value(&full))
                    .note(format!("`{}`: {first_line}", key[0]));
                diagnostic.path = full.join(".");
                found.push(diagnostic);
                continue;
            }
        };
        let (last, parents) = key.split_last().expect("an unknown key has a name");
        // A parameter that is given already is not what another key means.
        let free = |name: &&str| !parents.is_empty() || !params.contains_key(*name);
        let near = nearest(last, siblings.iter().map(String::as_str).filter(free));
        let owner = if parents.is_empty() {
            what.to_string()
        } else {
            format!("`{}` of {what}", parents.join("."))
        };
        let kind = if parents.is_empty() { "parameter" } else { "key" };
        let mut diagnostic = Diagnostic::error(format!("{owner} has no {kind} `{last}`"))
            .at(places.key(&full).or_else(|| places.value(&full)))
            .suggest(near);
        if near.is_none() {
            diagnostic = diagnostic.note(match siblings.as_slice() {
                [] => format!("{owner} takes none"),
                siblings => format!("it takes {}", list(siblings.iter().map(String::as_str))),
            });
        }
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    for param in missing {
        let full: Vec<&str> = path.iter().copied().chain([param.name.as_str()]).collect();
        // Most often it is there, misspelt; then the diagnostic above suggests the right name.
        let misspelt = |(key, refused): &(Vec<String>, Refused)| {
            matches!(refused, Refused::Key(_))
                && key.len() == 1
                && nearest(&key[0], [param.name.as_str()]).is_some()
        };
        if refused.iter().any(misspelt) {
            continue;
        }
        let first_line = param.doc.lines().next().unwrap_or_default();
        let mut diagnostic =
            Diagnostic::error(format!("{what} needs the parameter `{}`", param.name))
                .at(places.key(path).or_else(|| places.value(path)))
                .help(Some(format!("`{}` is {}: {first_line}", param.name, param.kind)));
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    found.len() == before
}

/// serde's error about a value, as a diagnostic that points at the value.
pub(crate) fn param_diagnostic(
    schema: &Value,
    places: &Places,
    path: &[&str],
    what: &str,
    error: &ParamError,
) -> Diagnostic {
    let full: Vec<&str> =
        path.iter().copied().chain(error.path.iter().map(String::as_str)).collect();
    let owner = if error.path.is_empty() {
        what.to_string()
    } else {
        format!("`{}` of {what}", error.path.join("."))
    };
    let message = in_words(&error.message);
    let mut diagnostic = Diagnostic::error(format!("{owner}: {message}")).at(places.value(&full));
    if let [name] = error.path.as_slice()
        && let Some(param) = schema::params(schema).iter().find(|param| param.name == *name)
    {
        diagnostic = diagnostic.note(format!("`{name}` is {}", param.kind));
    }
    if let Some(rest) = error.message.strip_prefix("unknown variant `") {
        let mut quoted = rest.split('`');
        let given = quoted.next().unwrap_or_default();
        let options: Vec<&str> = quoted.skip(1).step_by(2).collect();
        diagnostic = diagnostic.suggest(nearest(given, options));
    }
    diagnostic.path = full.join(".");
    diagnostic
}

/// serde's message, with Rust's types in words.
fn in_words(message: &str) -> String {
    let Some((head, kind)) = message.rsplit_once("expected ") else { return message.to_string() };
    let kind = match kind {
        "f64" | "f32" => "a number",
        "usize" | "u64" | "u32" | "u16" | "u8" => "an integer >= 0",
        "isize" | "i64" | "i32" | "i16" | "i8" => "an integer",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        other => other,
    };
    format!("{head}expected {kind}")
}
