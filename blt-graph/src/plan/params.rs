//! Errors in the parameters of a node or step.

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, list, nearest};
use crate::registry::ParamError;
use crate::schema::{self, Refused};
use crate::spec::{Places, flow};

crate::code! {
    /// A node or step has no such parameter.
    ///
    /// Every key beside `node`, `in` and `doc` is a parameter. `blt-run nodes NAME` and
    /// `blt-run steps NAME` list those of a node or step, with their defaults. A key that is
    /// ignored in silence would leave the parameter that was meant at its default.
    pub(crate) UNKNOWN_PARAMETER = "BLT0203"
}

crate::code! {
    /// A node or step needs a parameter that is not given.
    ///
    /// It has no default, because no value suits most pipelines. `blt-run nodes NAME` and
    /// `blt-run steps NAME` say what it is.
    pub(crate) MISSING_PARAMETER = "BLT0204"
}

crate::code! {
    /// A parameter has a value that it cannot have.
    ///
    /// The message says what the parameter takes: a number, one of some words, a list. A text is
    /// taken for a number where it looks like one: quote it (`'007'`) to keep it a text.
    pub(crate) WRONG_VALUE = "BLT0205"
}

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
                let mut diagnostic = WRONG_VALUE
                    .error(message)
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
        // `stride:4` is a key without a value, and `stride: 4` was meant.
        let parted =
            last.split_once([':', '=']).filter(|(name, _)| siblings.iter().any(|s| s == name));
        let near =
            parted.map(|(name, value)| format!("{name}: {value}")).or(near.map(str::to_owned));
        let owner = if parents.is_empty() {
            what.to_string()
        } else {
            format!("`{}` of {what}", parents.join("."))
        };
        let kind = if parents.is_empty() { "parameter" } else { "key" };
        let mut diagnostic = UNKNOWN_PARAMETER
            .error(format!("{owner} has no {kind} `{last}`"))
            .at(places.key(&full).or_else(|| places.value(&full)))
            .suggest(near.as_deref());
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
        let mut diagnostic = MISSING_PARAMETER
            .error(format!("{what} needs the parameter `{}`", param.name))
            .at(places.key(path).or_else(|| places.value(path)))
            .help(Some(format!("`{}` is {}: {first_line}", param.name, param.kind)));
        diagnostic.path = full.join(".");
        found.push(diagnostic);
    }
    found.len() == before
}

/// What `parse` makes of `params`. `None` if it refuses them: then each wrong value has a diagnostic
/// in `found`.
pub(crate) fn parsed<T>(
    schema: &Value,
    params: &Map<String, Value>,
    (places, path): (&Places, &[&str]),
    what: &str,
    found: &mut Vec<Diagnostic>,
    parse: impl Fn(&Value) -> Result<T, ParamError>,
) -> Option<T> {
    let mut rest = Value::Object(params.clone());
    let mut first = true;
    loop {
        let error = match parse(&rest) {
            Ok(parsed) => return first.then_some(parsed),
            // A value that was wrong is missing now.
            Err(error) if !first && error.path.is_empty() => return None,
            Err(error) => error,
        };
        found.push(param_diagnostic(schema, &rest, (places, path), what, &error, &parse));
        first = false;
        let removed = error.path.first().and_then(|name| rest.as_object_mut()?.shift_remove(name));
        removed?;
    }
}

/// serde's error about `params`, in words of the schema, as a diagnostic that points at the value.
fn param_diagnostic<T>(
    schema: &Value,
    params: &Value,
    (places, path): (&Places, &[&str]),
    what: &str,
    error: &ParamError,
    parse: &impl Fn(&Value) -> Result<T, ParamError>,
) -> Diagnostic {
    let full: Vec<&str> =
        path.iter().copied().chain(error.path.iter().map(String::as_str)).collect();
    let owner = match error.path.as_slice() {
        [] => what.to_string(),
        path => format!("`{}` of {what}", path.join(".")),
    };
    let mut whole = params.clone();
    let pointer: String = error
        .path
        .iter()
        .map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1")))
        .collect();
    let given = whole.pointer(&pointer).cloned().unwrap_or_default();
    let missing = error.message.strip_prefix("missing field ");
    let options = schema::options(&error.message);
    let quoted: Vec<String> = options.iter().map(|option| format!("\"{option}\"")).collect();
    let expected = match options.as_slice() {
        [] => schema::expected(schema, &error.path),
        _ => Some(quoted.join(" or ")),
    };
    let message = match (missing, expected) {
        (Some(field), _) => format!("{owner} needs {field}"),
        (None, Some(expected)) if of_serde(&error.message) => {
            format!("{owner} should be {expected}, and is {}", short(&given))
        }
        _ => format!("{owner}: {}", error.message),
    };
    let mut diagnostic = WRONG_VALUE.error(message).at(places.value(&full));
    diagnostic.path = full.join(".");
    if places.is_scalar(&full) {
        let mut meant = meant(&given, &options).into_iter();
        let fits = |value: &Value| {
            if let Some(at) = whole.pointer_mut(&pointer) {
                *at = value.clone();
            }
            // Another value may be wrong too.
            parse(&whole).map_or_else(|other| other.path != error.path, |_| true)
        };
        diagnostic = diagnostic.suggest(meant.find(fits).map(|value| flow(&value)));
    }
    diagnostic
}

/// Whether the message is one of serde's own, which names types of Rust.
fn of_serde(message: &str) -> bool {
    ["invalid type", "invalid value", "invalid length", "unknown variant", "data did not match"]
        .iter()
        .any(|begins| message.starts_with(begins))
}

/// A value as JSON, of which a reader needs no more than the beginning.
fn short(value: &Value) -> String {
    let text = if value.is_null() { "nothing".to_string() } else { value.to_string() };
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// What may be meant by `value`: a misspelt one of `texts`, a number in quotes, one item for a list.
fn meant(value: &Value, texts: &[&str]) -> Vec<Value> {
    let mut meant = Vec::new();
    if let Value::String(text) = value {
        meant.extend(nearest(text, texts.iter().copied()).map(Value::from));
        match text.as_str() {
            "yes" | "on" => meant.push(true.into()),
            "no" | "off" => meant.push(false.into()),
            text => meant.extend(serde_json::from_str::<Value>(text).ok()),
        }
    }
    if let Some(whole) = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15) {
        meant.push((whole as i64).into());
    }
    meant.push(Value::String(value.to_string()));
    meant.push(Value::Array(vec![value.clone()]));
    meant
}
