//! [`Reader`]: what every part of reading a document shares, the errors in its form.

use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::spec::Places;

/// The keys of a pipeline.
pub const KEYS: [&str; 10] =
    ["name", "doc", "seed", "seeds", "device", "path", "graph", "run", "ablate", "report"];

/// Turns a tree into a spec, collecting the errors in its form.
pub struct Reader<'a> {
    pub places: &'a Places,
    pub found: Vec<Diagnostic>,
}

/// The kind of a value in words.
pub fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

impl Reader<'_> {
    pub fn say(&mut self, path: &[&str], message: String) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::error(message).at(self.places.value(path));
        diagnostic.path = path.join(".");
        self.found.push(diagnostic);
        self.found.last_mut().expect("one was pushed just now")
    }

    pub fn expected(&mut self, path: &[&str], what: &str, value: &Value) -> &mut Diagnostic {
        let name = path.last().copied().unwrap_or("the document");
        self.say(path, format!("`{name}` should be {what}, and is {}", found(value)))
    }

    pub fn text(&mut self, path: &[&str], value: &Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text.clone()),
            other => {
                self.expected(path, "a text", other);
                None
            }
        }
    }
}
