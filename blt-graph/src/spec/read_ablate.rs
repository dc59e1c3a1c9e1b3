//! From the tree of `ablate:` to an [`Ablation`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::spec::form::{FORM, NAME, Reader, found};
use crate::spec::keys::keys;
use crate::spec::{Ablation, Axis};

crate::code! {
    /// The grid's keys or values get in each other's way.
    ///
    /// A grid makes a variant of each choice of values, and sets its keys in order. A value given
    /// twice, two options that set the same, and a key that replaces what another one set would give
    /// variants that differ in name alone.
    pub(crate) GRID = "BLT0506"
}

impl Reader<'_> {
    pub fn ablate(&mut self, value: &Value) -> Ablation {
        let mut ablation = Ablation::default();
        let map = match value {
            Value::Object(map) => map,
            Value::Null => return ablation,
            other => {
                self.expected(&["ablate"], "a map from names to variants", other);
                return ablation;
            }
        };
        for (name, value) in map {
            let path = ["ablate", name.as_str()];
            let edits = match value {
                Value::Object(edits) => edits,
                other => {
                    self.say(
                        &FORM,
                        &path,
                        format!(
                            "the variant `{name}` should be a map from paths to values, and is {}",
                            found(other)
                        ),
                    )
                    .help = Some("`{}` is the pipeline as it stands".into());
                    continue;
                }
            };
            if name != "grid" {
                if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
                    self.say(
                        &NAME,
                        &path,
                        format!("`{name}` cannot name a folder, which a variant's name must"),
                    );
                }
                ablation.named.push((
                    name.clone(),
                    edits.iter().map(|(p, v)| (p.clone(), v.clone())).collect(),
                ));
                continue;
            }
            ablation.grid = self.grid(edits);
        }
        ablation
    }

    fn grid(&mut self, map: &Map<String, Value>) -> Vec<(String, Axis)> {
        let mut grid: Vec<(String, Axis)> = Vec::new();
        // Each path that is set so far, and by which key.
        let mut set: Vec<(String, String)> = Vec::new();
        for (key, value) in map {
            let path = ["ablate", "grid", key.as_str()];
            let axis = match value {
                Value::Array(values) if !values.is_empty() => {
                    if let Some(i) = (1..values.len()).find(|i| values[..*i].contains(&values[*i]))
                    {
                        let index = i.to_string();
                        self.say(
                            &GRID,
                            &[&path[..], &[&index]].concat(),
                            format!("{} is given twice", values[i]),
                        );
                    }
                    Axis::Values(values.clone())
                }
                Value::Object(options) if !options.is_empty() => {
                    if key.contains('.') || keys().any(|known| known == key) {
                        self.say(
                            &FORM,
                            &path,
                            format!("`{key}` is a path, and wants a list of values"),
                        )
                        .help = Some("a group of options has a name of its own".into());
                        continue;
                    }
                    self.choice_name(&path);
                    Axis::Options(self.options(&path, options))
                }
                other => {
                    let what = "a list of values, or a map from options to what they set";
                    self.expected(&path, what, other);
                    continue;
                }
            };
            let new: BTreeSet<&String> = match &axis {
                Axis::Values(_) => [key].into(),
                Axis::Options(all) => all.iter().flat_map(|o| &o.1).map(|(path, _)| path).collect(),
            };
            // A later key may change a part of what an earlier one set, and not replace it.
            let replaces = |new: &str, old: &str| {
                old.strip_prefix(new).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let lost = new.iter().find_map(|new| {
                let (by, old) = set.iter().find(|(_, old)| replaces(new, old))?;
                Some(format!("`{key}` replaces `{old}`, which `{by}` sets"))
            });
            if let Some(message) = lost {
                self.say(&GRID, &path, message).help =
                    Some("what one variant has must not depend on the order of the grid".into());
            }
            set.extend(new.into_iter().map(|path| (key.clone(), path.clone())));
            grid.push((key.clone(), axis));
        }
        grid
    }

    fn options(
        &mut self,
        path: &[&str],
        options: &Map<String, Value>,
    ) -> Vec<(String, Vec<(String, Value)>)> {
        let mut all: Vec<(String, Vec<(String, Value)>)> = Vec::new();
        for (option, value) in options {
            let path = [path, &[option.as_str()]].concat();
            self.choice_name(&path);
            let Value::Object(edits) = value else {
                self.expected(&path, "a map from paths to values", value).help =
                    Some("`{}` is the pipeline as it stands".into());
                continue;
            };
            let edits: Vec<(String, Value)> =
                edits.iter().map(|(path, value)| (path.clone(), value.clone())).collect();
            if let Some((same, _)) = all.iter().find(|(_, other)| *other == edits) {
                self.say(&GRID, &path, format!("`{option}` sets the same as `{same}`"));
            }
            all.push((option.clone(), edits));
        }
        all
    }

    /// Checks the last key of `path`, which is part of the names of variants.
    fn choice_name(&mut self, path: &[&str]) {
        let name = path.last().copied().unwrap_or_default();
        if name.is_empty() || name.contains(['/', '\\', '\0', ',', '=', ':']) {
            let place = self.places.key(path);
            let said =
                self.say(&NAME, path, format!("`{name}` cannot be a part of a variant's name"));
            said.place = place;
            said.help = Some("use letters, digits, `_`, `-` and `.`".into());
        }
    }
}
