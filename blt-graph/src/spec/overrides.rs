//! Overrides: `--set path=value` and `--set VARIANT:path=value`.

use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::{Diagnostics, Place, Source};
use crate::spec::given::Override;
use crate::spec::places::Loc;
use crate::spec::{PipelineSpec, Places, yaml};

crate::code! {
    /// An override is not written as one.
    ///
    /// `--set` takes `PATH=VALUE`, as in `--set graph.latent.dim=256`, or `VARIANT:PATH=VALUE` to
    /// change one variant. The value is YAML: `--set 'graph.embed.ngrams=[3, 4]'`.
    pub(crate) NO_ASSIGNMENT = "BLT0503"
}

/// The root of an override's places.
const NAME: &str = "--set";

impl Override {
    pub fn apply(&self, spec: &PipelineSpec) -> Result<PipelineSpec, Diagnostics> {
        spec.edit(&self.path, self.value.clone(), &self.places, &[NAME.to_string()])
    }
}

impl PipelineSpec {
    /// The pipeline with the assignment `path=value` applied, to it and, last of all, to each of
    /// its variants, so that the value wins over a variant's own. In a variant where the path names
    /// nothing, because it replaced that part, nothing changes. `VARIANT:path=value` changes that
    /// variant alone, and may name what the variant put there. The value is YAML. Overrides are
    /// applied in the order in which they were given.
    ///
    /// # Errors
    /// If the path names nothing (the error suggests the nearest one), or the value does not fit
    /// there.
    pub fn set(&self, assignment: &str) -> Result<Self, Diagnostics> {
        let new = self.parse_override(assignment)?;
        let mut spec = match &new.variant {
            None => new.apply(self)?,
            Some(name) => {
                new.apply(&self.edited_variant(name)?)?;
                self.clone()
            }
        };
        spec.overrides.given.push(new);
        Ok(spec)
    }

    fn parse_override(&self, assignment: &str) -> Result<Override, Diagnostics> {
        let whole = Arc::new(Source { name: NAME.to_string(), text: assignment.to_string() });
        // Names of a grid's variants have `=` and may have `:`, so they are looked for whole.
        let names = if assignment.contains(':') { self.variant_names()? } else { Vec::new() };
        let addressed = |name: &String| assignment.starts_with(&format!("{name}:"));
        let variant = names.into_iter().filter(addressed).max_by_key(String::len);
        let start = variant.as_ref().map_or(0, |name| name.len() + 1);
        let Some((path, text)) = assignment[start..].split_once('=') else {
            return Err(NO_ASSIGNMENT
                .error("an override is `path=value`")
                .at(Some(Place { source: whole, span: 0..assignment.len() }))
                .label("no `=` in it")
                .help(Some("for example `graph.latent.dim=256` or `run.0.train.steps=50`"))
                .into());
        };
        let offset = start + path.len() + 1;
        let value_source = Arc::new(Source { name: NAME.to_string(), text: text.to_string() });
        let (value, places) = if text.trim().is_empty() {
            (Value::Null, Places::default())
        } else {
            yaml::parse(&value_source).map_err(|Diagnostics(mut found)| {
                let places = found.iter_mut().flat_map(|d| {
                    d.place.iter_mut().chain(d.labels.iter_mut().map(|label| &mut label.place))
                });
                places.for_each(|place| *place = shift(place, &whole, offset));
                Diagnostics(found)
            })?
        };
        // The places of the value in the whole assignment, under one root whose key is the path.
        let mut moved = Places::default();
        for (at, loc) in places.0 {
            let mut full = vec![NAME.to_string()];
            full.extend(at);
            let place = |place: &Place| shift(place, &whole, offset);
            moved.0.insert(
                full,
                Loc {
                    key: loc.key.as_ref().map(place),
                    value: place(&loc.value),
                    scalar: loc.scalar,
                },
            );
        }
        let key = Place { source: whole.clone(), span: start..start + path.trim_end().len() };
        let value_place = Place { source: whole.clone(), span: offset..assignment.len() };
        let loc = moved.0.entry(vec![NAME.to_string()]).or_insert(Loc {
            key: None,
            value: value_place,
            scalar: true,
        });
        loc.key = Some(key);
        Ok(Override { variant, path: path.trim().to_string(), value, places: moved })
    }

    /// What two variants that compute the same have in common: all but names and texts.
    pub(crate) fn identity(&self) -> String {
        let mut value = self.to_value();
        if let Some(map) = value.as_object_mut() {
            ["name", "doc", "report"].iter().for_each(|key| drop(map.shift_remove(*key)));
        }
        value.to_string()
    }

    /// Gives a variant its overrides.
    pub(crate) fn overridden(mut self, name: &str, all: &[Override]) -> Result<Self, Diagnostics> {
        self.overrides.before = (!all.is_empty()).then(|| self.identity());
        for given in all {
            match &given.variant {
                Some(only) if only != name => {}
                // Checked as a whole: it was given for this variant.
                Some(_) => self = given.apply(&self)?,
                // It fits the pipeline as written, so what it does not fit was replaced here.
                None => match given.apply(&self) {
                    Ok(changed) => self = changed,
                    Err(_) => self.overrides.missed.push(given.path.clone()),
                },
            }
        }
        Ok(self)
    }
}

fn shift(place: &Place, whole: &Arc<Source>, offset: usize) -> Place {
    Place { source: whole.clone(), span: place.span.start + offset..place.span.end + offset }
}
