//! Typed access to the fields of a JSON object that remembers which were asked for, so that no
//! field is skipped silently.

use super::HfError;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// One object of `config.json`.
pub(super) struct Fields<'a> {
    file: &'a Path,
    /// Dotted path of the object, with its dot: `encoder_config.`; empty at the top.
    prefix: String,
    map: &'a Map<String, Value>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Fields<'a> {
    pub fn new(file: &'a Path, prefix: String, map: &'a Map<String, Value>) -> Self {
        Fields { file, prefix, map, asked: RefCell::default() }
    }

    /// None where the field is absent.
    pub fn get(&self, name: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(name);
        self.map.get(name)
    }

    /// None where the field is absent or null.
    pub fn some(&self, name: &'static str) -> Option<&'a Value> {
        self.get(name).filter(|v| !v.is_null())
    }

    pub fn wrong(&self, name: &str, expected: impl Into<String>, found: &Value) -> HfError {
        self.wrong_number(name, expected, found)
    }

    /// As `wrong`, for a value that is not the JSON as it stands (a default, say).
    pub fn wrong_number(
        &self,
        name: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> HfError {
        HfError::Field {
            file: self.file.to_owned(),
            field: format!("{}{name}", self.prefix),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub fn unsupported(
        &self,
        name: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> HfError {
        HfError::UnsupportedField {
            file: self.file.to_owned(),
            field: format!("{}{name}", self.prefix),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    fn count_of(&self, name: &str, value: &Value) -> Result<usize, HfError> {
        let n = value.as_u64().filter(|&n| n <= u32::MAX as u64);
        n.map(|n| n as usize).ok_or_else(|| self.wrong(name, "a whole number, not negative", value))
    }

    /// A whole number; absent or null: `default`.
    pub fn count(&self, name: &'static str, default: usize) -> Result<usize, HfError> {
        self.some(name).map_or(Ok(default), |v| self.count_of(name, v))
    }

    /// A whole number from 1; absent: `default`.
    pub fn positive(&self, name: &'static str, default: usize) -> Result<usize, HfError> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => match self.count_of(name, v)? {
                0 => Err(self.wrong(name, "at least 1", v)),
                n => Ok(n),
            },
        }
    }

    /// A whole number from 1 to `most`; absent: `default`.
    pub fn size(&self, name: &'static str, default: usize, most: usize) -> Result<usize, HfError> {
        let size = self.positive(name, default)?;
        self.at_most(name, size, most)?;
        Ok(size)
    }

    /// Refuses a value of the field `name` that is greater than `most`.
    pub fn at_most(&self, name: &str, value: usize, most: usize) -> Result<(), HfError> {
        match value <= most {
            true => Ok(()),
            false => Err(self.wrong_number(name, format!("at most {most}"), value)),
        }
    }

    /// A whole number from 1, or null; absent: `default`.
    pub fn optional(
        &self,
        name: &'static str,
        default: Option<usize>,
    ) -> Result<Option<usize>, HfError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.positive(name, 1).map(Some),
        }
    }

    pub fn float(&self, name: &'static str, default: f64) -> Result<f64, HfError> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.wrong(name, "a number", v)),
        }
    }

    pub fn positive_float(&self, name: &'static str, default: f64) -> Result<f64, HfError> {
        let x = self.float(name, default)?;
        if x > 0.0 { Ok(x) } else { Err(self.wrong_number(name, "a number greater than 0", x)) }
    }

    /// Null counts as false, as it does in the library.
    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool, HfError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(name, "true or false", v)),
        }
    }

    /// Whole numbers from 1; absent, null or empty: `default`.
    pub fn counts(&self, name: &'static str, default: &[usize]) -> Result<Vec<usize>, HfError> {
        let Some(value) = self.some(name) else { return Ok(default.to_vec()) };
        let expected = "a list of whole numbers, each at least 1";
        let list = value.as_array().ok_or_else(|| self.wrong(name, expected, value))?;
        if list.is_empty() {
            return Ok(default.to_vec());
        }
        list.iter()
            .map(|v| {
                self.count_of(name, v)
                    .ok()
                    .filter(|&n| n > 0)
                    .ok_or_else(|| self.wrong(name, expected, value))
            })
            .collect()
    }

    /// An object; absent or null: an empty one.
    pub fn object(&self, name: &'static str) -> Result<Fields<'a>, HfError> {
        static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        let map = match self.some(name) {
            None => &*EMPTY,
            Some(v) => v.as_object().ok_or_else(|| self.wrong(name, "an object", v))?,
        };
        Ok(Fields::new(self.file, format!("{}{name}.", self.prefix), map))
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// If present and not null, the field must be one of `allowed`; another value would change the
    /// numbers.
    pub fn only(&self, name: &'static str, allowed: &[Value]) -> Result<(), HfError> {
        let Some(v) = self.some(name) else { return Ok(()) };
        // 1 and 1.0 are one number.
        let equal = |a: &Value| a == v || (a.is_number() && a.as_f64() == v.as_f64());
        if allowed.iter().any(equal) {
            return Ok(());
        }
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        Err(self.unsupported(name, allowed.join(" or "), v))
    }

    /// Every field must have been asked for or be listed as inert.
    pub fn finish(&self, inert: &[&[&str]]) -> Result<(), HfError> {
        let asked = self.asked.borrow();
        for (name, value) in self.map {
            if !asked.contains(name.as_str())
                && !inert.iter().any(|list| list.contains(&name.as_str()))
            {
                return Err(HfError::UnknownField {
                    file: self.file.to_owned(),
                    field: format!("{}{name}", self.prefix),
                    found: value.to_string(),
                });
            }
        }
        Ok(())
    }
}
