//! The variants of a pipeline: `ablate:` with its names and its grid.

use std::collections::HashSet;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::spec::given::Overrides;
use crate::spec::grid::Edit;
use crate::spec::{Ablation, BASE_VARIANT, PipelineSpec, Variant};

crate::code! {
    /// Two variants have one name.
    ///
    /// A variant's name is the name of its folder and of its row in the results. The variants of a
    /// grid are named after their values: `stride=4,dim=64`. Rename the variant under `ablate`.
    pub(crate) SAME_NAME = "BLT0505"
}

impl PipelineSpec {
    /// The variants in order: the named ones, then those of the grid. A pipeline without `ablate`
    /// has one, called [`BASE_VARIANT`]. Each has its own edits, and after them those of
    /// [`set`](PipelineSpec::set).
    ///
    /// # Errors
    /// A path that names nothing, or a value that does not fit there. A grid that is too large.
    pub fn variants(&self) -> Result<Vec<Variant>, Diagnostics> {
        let mut found = Vec::new();
        let variants = self.variants_all(&mut found);
        if found.is_empty() { Ok(variants) } else { Err(Diagnostics(found)) }
    }

    /// The variants whose edits are right. Adds the errors of the others to `found`.
    pub(crate) fn variants_all(&self, found: &mut Vec<Diagnostic>) -> Vec<Variant> {
        match self.all_edits() {
            Ok(edits) => self.edited(edits, found),
            Err(Diagnostics(new)) => {
                found.extend(new);
                Vec::new()
            }
        }
    }

    /// The pipeline as written, without its variants.
    pub(crate) fn base(&self) -> PipelineSpec {
        // A variant needs no place of the others: with them, the memory would be quadratic.
        let mut places = self.places.clone();
        places.0.retain(|path, _| path.first().is_none_or(|key| key != "ablate"));
        let (ablate, overrides) = (Ablation::default(), Overrides::default());
        PipelineSpec { ablate, overrides, places, ..self.clone() }
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
        let mut found = Vec::new();
        let variant = self.edited(edits, &mut found).pop();
        match found.is_empty() {
            true => Ok(variant.map_or_else(|| self.clone(), |variant| variant.spec)),
            false => Err(Diagnostics(found)),
        }
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

    fn edited(&self, all: Vec<(String, Vec<Edit>)>, found: &mut Vec<Diagnostic>) -> Vec<Variant> {
        let base = self.base();
        let mut names = HashSet::new();
        let mut variants: Vec<Variant> = Vec::new();
        for (name, edits) in all {
            if !names.insert(name.clone()) {
                found.push(
                    SAME_NAME.error(format!("two variants are called `{name}`")).at(self
                        .places
                        .key(&["ablate", &name])
                        .or_else(|| self.places.key(&["ablate", "grid"]))),
                );
                continue;
            }
            match self.made(base.clone(), &name, edits) {
                Ok(spec) => variants.push(Variant { name, spec }),
                // The variants of a grid share their paths.
                Err(Diagnostics(new)) => new.into_iter().for_each(|diagnostic| {
                    if !found.contains(&diagnostic) {
                        found.push(diagnostic);
                    }
                }),
            }
        }
        variants
    }

    /// The variant that `edits` and overrides make of `spec`.
    fn made(
        &self,
        mut spec: PipelineSpec,
        name: &str,
        edits: Vec<Edit>,
    ) -> Result<PipelineSpec, Diagnostics> {
        let mut found = Vec::new();
        for Edit { written, path, value } in edits {
            match spec.edit(&path, value, &self.places, &written) {
                Ok(edited) => spec = edited,
                Err(Diagnostics(new)) => found.extend(new),
            }
        }
        match spec.overridden(name, &self.overrides.given) {
            Ok(spec) if found.is_empty() => Ok(spec),
            Ok(_) => Err(Diagnostics(found)),
            Err(Diagnostics(new)) => {
                found.extend(new);
                Err(Diagnostics(found))
            }
        }
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
