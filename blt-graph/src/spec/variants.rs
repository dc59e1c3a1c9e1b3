//! The variants of a pipeline: `ablate:` with its names and its grid.

use std::collections::HashSet;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::given::Overrides;
use crate::spec::grid::Edit;
use crate::spec::{Ablation, BASE_VARIANT, PipelineSpec, Variant};

impl PipelineSpec {
    /// The variants in order: the named ones, then those of the grid. A pipeline without `ablate`
    /// has one, called [`BASE_VARIANT`]. Each has its own edits, and after them those of
    /// [`set`](PipelineSpec::set).
    ///
    /// # Errors
    /// A path that names nothing, or a value that does not fit there. A grid that is too large.
    pub fn variants(&self) -> Result<Vec<Variant>, Diagnostics> {
        self.edited(self.all_edits()?)
    }

    /// The names of the variants, in the order of [`variants`](Self::variants).
    ///
    /// # Errors
    /// A grid that is too large.
    pub fn variant_names(&self) -> Result<Vec<String>, Diagnostics> {
        Ok(self.all_edits()?.into_iter().map(|(name, _)| name).collect())
    }

    /// The variant of this name, or the pipeline itself if none has it.
    pub(crate) fn edited_variant(&self, name: &str) -> Result<PipelineSpec, Diagnostics> {
        let mut edits = self.all_edits()?;
        edits.retain(|(other, _)| other == name);
        Ok(self.edited(edits)?.pop().map_or_else(|| self.clone(), |variant| variant.spec))
    }

    /// Each variant's name and its own edits.
    fn all_edits(&self) -> Result<Vec<(String, Vec<Edit>)>, Diagnostics> {
        let named = self.ablate.named.iter().map(|(name, edits)| {
            let edits = edits.iter().map(|(path, value)| Edit {
                written: ["ablate", name, path].map(String::from).to_vec(),
                path: path.clone(),
                value: value.clone(),
            });
            (name.clone(), edits.collect())
        });
        let mut all: Vec<(String, Vec<Edit>)> = named.collect();
        all.extend(self.grid_variants()?);
        if all.is_empty() {
            all.push((BASE_VARIANT.to_string(), Vec::new()));
        }
        Ok(all)
    }

    fn edited(&self, all: Vec<(String, Vec<Edit>)>) -> Result<Vec<Variant>, Diagnostics> {
        // A variant needs no place of the others: with them, the memory would be quadratic.
        let mut places = self.places.clone();
        places.0.retain(|path, _| path.first().is_none_or(|key| key != "ablate"));
        let (ablate, overrides) = (Ablation::default(), Overrides::default());
        let base = PipelineSpec { ablate, overrides, places, ..self.clone() };
        let (mut found, mut names) = (Vec::new(), HashSet::new());
        let mut variants: Vec<Variant> = Vec::new();
        for (name, edits) in all {
            if !names.insert(name.clone()) {
                found.push(
                    Diagnostic::error(format!("two variants are called `{name}`")).at(self
                        .places
                        .key(&["ablate", &name])
                        .or_else(|| self.places.key(&["ablate", "grid"]))),
                );
                continue;
            }
            let mut spec = base.clone();
            let mut note = |Diagnostics(new): Diagnostics| {
                for diagnostic in new {
                    // The variants of a grid share their paths.
                    if !found.contains(&diagnostic) {
                        found.push(diagnostic);
                    }
                }
            };
            for Edit { written, path, value } in edits {
                match spec.edit(&path, value, &self.places, &written) {
                    Ok(edited) => spec = edited,
                    Err(new) => note(new),
                }
            }
            match spec.overridden(&name, &self.overrides.given) {
                Ok(spec) => variants.push(Variant { name, spec }),
                Err(new) => note(new),
            }
        }
        if found.is_empty() { Ok(variants) } else { Err(Diagnostics(found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_holds_no_place_of_the_others() {
        let yaml = "graph: {a: {node: A}}\nablate: {one: {seed: 1}, two: {seed: 2}}\n";
        let spec = PipelineSpec::parse(yaml, "x.yaml").unwrap();
        let variants = spec.variants().unwrap();
        assert!(spec.places.key(&["ablate", "one"]).is_some());
        for Variant { spec, .. } in &variants {
            assert!(spec.places.key(&["ablate"]).is_none());
            assert!(spec.places.value(&["seed"]).is_some());
            assert!(spec.places.key(&["ablate", "one", "seed"]).is_none());
        }
    }
}
