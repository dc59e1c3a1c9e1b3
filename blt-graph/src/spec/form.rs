//! [`Reader`]: what every part of reading a document shares, the errors in its form.

use serde_json::Value;

use crate::code::Code;
use crate::diagnostic::Diagnostic;
use crate::spec::Places;

crate::code! {
    /// A value has another form than its key takes.
    ///
    /// Some keys take a text, some a list, some a map. `blt-run keys` lists the keys of a pipeline
    /// and what each takes.
    pub(crate) FORM = "BLT0202"
}

crate::code! {
    /// This cannot be a name.
    ///
    /// Names of nodes have letters, digits, `_` and `-`, since a `.` parts a node from its port in
    /// wires. Names of pipelines and variants are names of folders: not empty, no `/`, no `.` at the
    /// beginning. Names of a grid's groups and options also have no `,`, `=` and `:`.
    pub(crate) NAME = "BLT0206"
}

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
    pub fn say(&mut self, code: &'static Code, path: &[&str], message: String) -> &mut Diagnostic {
        let mut diagnostic = code.error(message).at(self.places.value(path));
        diagnostic.path = path.join(".");
        self.found.push(diagnostic);
        self.found.last_mut().expect("one was pushed just now")
    }

    pub fn expected(&mut self, path: &[&str], what: &str, value: &Value) -> &mut Diagnostic {
        let name = path.last().copied().unwrap_or("the document");
        self.say(&FORM, path, format!("`{name}` should be {what}, and is {}", found(value)))
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
