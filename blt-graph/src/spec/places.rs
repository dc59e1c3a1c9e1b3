//! [`Places`]: where in a text each value of a document was written.

use std::collections::BTreeMap;

use crate::diagnostic::Place;

/// The place of a value in a text.
#[derive(Debug, Clone)]
pub(crate) struct Loc {
    /// The place of its key, if it is in a map.
    pub key: Option<Place>,
    pub value: Place,
    pub scalar: bool,
}

impl Loc {
    /// The place to underline: a scalar itself. For a map or list, which may be pages long, the
    /// key.
    pub fn point(&self) -> Place {
        match &self.key {
            Some(key) if !self.scalar => key.clone(),
            _ => self.value.clone(),
        }
    }
}

/// The place of each value of a document, by its path. Two documents that differ only in places are
/// equal, so all `Places` are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(pub BTreeMap<Vec<String>, Loc>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// The place of the value at `path`. For a value that is not written, because it is a default,
    /// the place of the nearest ancestor that is.
    pub fn value(&self, path: &[&str]) -> Option<Place> {
        let mut path: Vec<String> = path.iter().map(ToString::to_string).collect();
        loop {
            if let Some(loc) = self.0.get(&path) {
                return Some(loc.point());
            }
            path.pop()?;
        }
    }

    /// The place of the key at `path`, if it is written.
    pub fn key(&self, path: &[&str]) -> Option<Place> {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        self.0.get(&path).and_then(|loc| loc.key.clone())
    }

    /// Whether a single value is written at `path` itself.
    pub fn is_scalar(&self, path: &[&str]) -> bool {
        let path: Vec<String> = path.iter().map(ToString::to_string).collect();
        self.0.get(&path).is_some_and(|loc| loc.scalar)
    }

    /// Replaces the places at and under `to` by those at and under `from` in `other`.
    pub fn replace(&mut self, to: &[String], other: &Places, from: &[String]) {
        self.0.retain(|path, _| !path.starts_with(to));
        for (path, loc) in
            other.0.range(from.to_vec()..).take_while(|(path, _)| path.starts_with(from))
        {
            self.0.insert(to.iter().chain(&path[from.len()..]).cloned().collect(), loc.clone());
        }
    }
}
