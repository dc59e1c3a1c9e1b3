//! The units of a job, the names of their parts, and the manifest that lists them.

use blt_data::FileSlice;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path};

/// Version of [`Manifest`], of the footers of parts, and of the digests in [`Unit::key`].
pub const FORMAT: u32 = 1;

/// Key in the Parquet metadata of a part under which its [`Footer`](super::Footer) is stored, as
/// JSON.
pub const FOOTER_KEY: &str = "blt.score";

/// A span of input and the part that it is written to. A unit is scored whole, or again from its
/// start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The name of the part, relative to the folder of outputs, with `/` between folders. It
    /// depends on the input's name and the span alone.
    pub part: String,
    /// The input file, as named in the pipeline.
    pub input: String,
    /// The row groups of the input file.
    #[serde(flatten)]
    pub span: FileSlice,
    /// Rows in the span, or its limit if that is less.
    pub rows: u64,
    /// A digest of the input file, the span, the model and the settings.
    pub key: String,
}

/// All units of a job.
#[derive(Clone, Debug)]
pub struct Units {
    /// A digest of the model.
    pub model: String,
    /// The units, in the order of the input.
    pub units: Vec<Unit>,
}

/// `manifest.json`: all units of a job. It does not record which of them are done; the parts that
/// exist do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of this crate that wrote the manifest.
    pub version: String,
    /// A digest of the model.
    pub model: String,
    /// The settings that scores depend on.
    pub settings: Value,
    /// The units, in the order of the input.
    pub units: Vec<Unit>,
}

impl Manifest {
    /// How the job `other` differs from this one, in words; `None` if they are the same job.
    pub(super) fn difference(&self, other: &Manifest) -> Option<String> {
        let named = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let (mine, theirs) = (named(&self.settings), named(&other.settings));
        let settings: BTreeSet<&String> = mine
            .keys()
            .chain(theirs.keys())
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .collect();
        let keys = |manifest: &Manifest| -> Vec<(String, String)> {
            manifest.units.iter().map(|unit| (unit.part.clone(), unit.key.clone())).collect()
        };
        if self.format != other.format || self.version != other.version {
            Some(format!("another version of this program, {}", self.version))
        } else if self.model != other.model {
            Some(format!("another model, {}", self.model))
        } else if !settings.is_empty() {
            let settings: Vec<String> =
                settings.into_iter().map(|key| format!("`{key}`")).collect();
            Some(format!("other settings: {}", settings.join(", ")))
        } else if keys(self) != keys(other) {
            Some(self.other_input(other))
        } else {
            None
        }
    }

    /// How the input of the job `other` differs from the input of this one, in words.
    fn other_input(&self, other: &Manifest) -> String {
        let keys: BTreeMap<&str, &Unit> =
            other.units.iter().map(|unit| (unit.part.as_str(), unit)).collect();
        let changed = self
            .units
            .iter()
            .find(|unit| keys.get(unit.part.as_str()).is_some_and(|of| of.key != unit.key));
        let inputs = |manifest: &Manifest| {
            manifest.units.iter().map(|unit| unit.input.clone()).collect::<BTreeSet<_>>()
        };
        let (mine, theirs) = (inputs(self), inputs(other));
        let added = theirs.difference(&mine).next().map(|name| format!("{name} was added"));
        let gone =
            || mine.difference(&theirs).next().map(|name| format!("{name} is no longer there"));
        let what = added.or_else(gone).unwrap_or_else(|| match changed {
            Some(unit) => {
                format!("{} was written again since, or another `limit` ends in it", unit.input)
            }
            None => "it is divided by another `part_bytes` or `limit`".to_owned(),
        });
        format!("other input: {what}")
    }
}

/// Names the parts of spans of input, each given as the name of the input file and its row groups
/// (`None`: all of them). A name depends on these two alone, unless two names would be the same:
/// then the later one gets a number.
///
/// The part of `in/a.parquet` is `in/a.parquet`; of its row groups 0 to 11,
/// `in/a.00000-00011.parquet`; of `s3://bucket/in/a.parquet`, `bucket/in/a.parquet`; of `in/b.txt`,
/// `in/b.txt.parquet`. Components that lead out of the folder (`..`, `/`) are dropped. A folder
/// `lang=en` becomes `lang-en`: its value is already a column of the part, and a reader that makes
/// another column from the folder's name would report a duplicate.
pub fn names<'a>(
    inputs: impl IntoIterator<Item = (&'a str, Option<&'a Range<usize>>)>,
) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut name = |(input, groups): (&str, Option<&Range<usize>>)| {
        let input = input.split_once("://").map_or(input, |(_, below)| below);
        let normal = Path::new(input).components().filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        });
        let mut normal: Vec<String> = normal.collect();
        let file = normal.pop().unwrap_or_default();
        let folders = normal.into_iter().map(|folder| folder.replace('=', "-"));
        let path = folders.chain([file]).collect::<Vec<_>>().join("/");
        let mut stem = path.strip_suffix(".parquet").unwrap_or(&path).to_owned();
        if let Some(groups) = groups {
            stem += &format!(".{:05}-{:05}", groups.start, groups.end.saturating_sub(1));
        }
        let tries = std::iter::once(format!("{stem}.parquet"))
            .chain((2..).map(|n| format!("{stem}~{n}.parquet")));
        let free = tries.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    inputs.into_iter().map(&mut name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_inputs_and_stay_inside() {
        let (first, second) = (0..12, 12..13);
        let inputs = [
            ("in/a.parquet", None, "in/a.parquet"),
            ("in/a.parquet", Some(&first), "in/a.00000-00011.parquet"),
            ("in/a.parquet", Some(&second), "in/a.00012-00012.parquet"),
            ("in/b.txt", None, "in/b.txt.parquet"),
            ("../x/a.parquet", None, "x/a.parquet"),
            ("/x/a.parquet", None, "x/a~2.parquet"),
            ("in/year=2024/a=b.arrow", None, "in/year-2024/a=b.arrow.parquet"),
            ("in/year=2024/a=b.arrow", Some(&first), "in/year-2024/a=b.arrow.00000-00011.parquet"),
            ("x/a.parquet", None, "x/a~3.parquet"),
            ("s3://bucket/in/year=2024/a.parquet", None, "bucket/in/year-2024/a.parquet"),
        ];
        let found = names(inputs.iter().map(|(input, groups, _)| (*input, *groups)));
        assert_eq!(found, inputs.map(|(.., expected)| expected));
        for (input, groups, expected) in inputs.into_iter().take(5) {
            assert_eq!(names([(input, groups)]), [expected]);
        }
    }
}
