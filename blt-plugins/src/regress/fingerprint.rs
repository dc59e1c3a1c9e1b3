//! What numbers were made with: pipeline, data, seeds, versions and processor.

use crate::loaded::SourceHandle;
use blt_data::storage::Location;
use blt_graph::run::cpu_features;
use blt_graph::{Live, Plan, StepError, World};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// What two runs may differ in, and a tolerance may be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    Pipeline,
    Data,
    Seeds,
    Version,
    Cpu,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Case::Pipeline => "pipeline",
            Case::Data => "data",
            Case::Seeds => "seeds",
            Case::Version => "version",
            Case::Cpu => "cpu",
        })
    }
}

/// What two runs do differ in, in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub case: Case,
    pub words: String,
}

/// All that numbers depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Digests of the pipeline's sections over all variants, as written, edits made: `graph`,
    /// `run`, `path`, ... Words (`name`, `doc`, `report`) are left out, and seeds stand apart.
    pub pipeline: BTreeMap<String, String>,
    /// Digests of the contents of all files that sources read, and of those that other nodes name
    /// in a parameter (a checkpoint's), by their names.
    pub data: BTreeMap<String, String>,
    pub seeds: Vec<u64>,
    /// Versions of this program's crates and of those that the nodes and steps come from.
    pub versions: BTreeMap<String, String>,
    /// The architecture and those vector extensions that choose the code that runs.
    pub cpu: String,
}

impl Fingerprint {
    /// Of a run's plans, on this machine. Reads every file of every source.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(plans: &[&Plan]) -> Result<Self, StepError> {
        let mut made = Fingerprint { cpu: cpu_features(), ..Fingerprint::default() };
        for (name, version) in [
            ("blt-core", blt_core::VERSION),
            ("blt-graph", blt_graph::VERSION),
            ("blt-plugins", env!("CARGO_PKG_VERSION")),
        ] {
            made.versions.insert(name.into(), version.into());
        }
        for plan in plans {
            let used = plan.nodes().iter().filter(|node| node.used);
            let origins = used
                .map(|node| node.entry.origin)
                .chain(plan.steps().iter().map(|step| step.entry.origin));
            made.versions
                .extend(origins.map(|origin| (origin.krate.to_owned(), origin.version.to_owned())));
            made.add_data(plan)?;
            if !made.seeds.contains(&plan.seed) {
                made.seeds.push(plan.seed);
            }
        }
        made.pipeline = pipeline_digests(plans);
        Ok(made)
    }

    fn add_data(&mut self, plan: &Plan) -> Result<(), StepError> {
        for node in plan.nodes().iter().filter(|node| node.used) {
            if !node.entry.inputs.is_empty() {
                for named in node.params.values().filter_map(Value::as_str) {
                    self.add_path(&plan.base_dir.join(named), named)?;
                }
                continue;
            }
            let live = Live::build(plan, &[&node.name], World::new())?;
            let Some(handle) = live.facility::<SourceHandle>(&node.name) else { continue };
            let Ok(tables) = handle.source.tables() else {
                // A source of someone's own, that is no files of rows.
                self.data.insert(node.name.clone(), short(&handle.source.fingerprint()?));
                continue;
            };
            for table in tables {
                match &table.path {
                    Location::Local(path) => self.add_path(path, &table.name)?,
                    Location::Remote(_) => {
                        self.data.insert(table.name, short(&table.fingerprint));
                    }
                }
            }
        }
        Ok(())
    }

    /// A file, or the files of a folder. What is neither was no path.
    fn add_path(&mut self, path: &Path, name: &str) -> Result<(), StepError> {
        if path.is_dir() {
            let failed = |e| StepError::other(format!("cannot read {}: {e}", path.display()));
            for item in std::fs::read_dir(path).map_err(failed)? {
                let item = item.map_err(failed)?.path();
                let below = item.file_name().unwrap_or_default().to_string_lossy();
                if item.is_file() {
                    self.add_path(&item, &format!("{}/{below}", name.trim_end_matches('/')))?;
                }
            }
        } else if path.is_file()
            && let Entry::Vacant(of_file) = self.data.entry(name.to_owned())
        {
            of_file.insert(digest(path)?);
        }
        Ok(())
    }

    /// What `now` differs from this in.
    pub fn differences(&self, now: &Fingerprint) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut say = |case, words: Vec<String>| {
            if !words.is_empty() {
                found.push(Difference { case, words: words.join("; ") });
            }
        };
        say(
            Case::Pipeline,
            differing(&self.pipeline, &now.pipeline, |name| format!("its `{name}`")),
        );
        say(Case::Data, differing(&self.data, &now.data, |name| name.to_owned()));
        let (old, new) = (&self.seeds, &now.seeds);
        say(
            Case::Seeds,
            if old == new { vec![] } else { vec![format!("{old:?} in the baseline, {new:?} now")] },
        );
        say(Case::Version, differing(&self.versions, &now.versions, |name| name.to_owned()));
        let (old, new) = (&self.cpu, &now.cpu);
        say(
            Case::Cpu,
            if old == new { vec![] } else { vec![format!("{old} in the baseline, {new} now")] },
        );
        found
    }
}

fn differing(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    name: impl Fn(&str) -> String,
) -> Vec<String> {
    let only_new = new.keys().filter(|key| !old.contains_key(*key));
    let words = |key: &String| match (old.get(key), new.get(key)) {
        (Some(a), Some(b)) => {
            (a != b).then(|| format!("{} is {a} in the baseline, {b} now", name(key)))
        }
        (Some(_), None) => Some(format!("{} is in the baseline alone", name(key))),
        (None, _) => Some(format!("{} is not in the baseline", name(key))),
    };
    old.keys().chain(only_new).filter_map(words).collect()
}

fn pipeline_digests(plans: &[&Plan]) -> BTreeMap<String, String> {
    const WORDS: [&str; 5] = ["name", "doc", "report", "seed", "seeds"];
    let mut sections: BTreeMap<String, blake3::Hasher> = BTreeMap::new();
    let mut variants: Vec<&&Plan> =
        plans.iter().filter(|plan| Some(&plan.seed) == plan.spec.seeds.first()).collect();
    variants.sort_by(|a, b| a.variant.cmp(&b.variant));
    for plan in variants {
        let written = plan.spec.to_value();
        for (key, value) in written.as_object().into_iter().flatten() {
            if !WORDS.contains(&key.as_str()) {
                let hasher = sections.entry(key.clone()).or_default();
                hasher
                    .update(plan.variant.as_bytes())
                    .update(b": ")
                    .update(canonical(value).as_bytes())
                    .update(b"\n");
            }
        }
    }
    sections.into_iter().map(|(key, hasher)| (key, short(&hasher.finalize().to_hex()))).collect()
}

/// JSON with keys in order and without what authors say about nodes.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, String> = map
                .iter()
                .filter(|(key, _)| *key != "doc")
                .map(|(key, value)| (key, canonical(value)))
                .collect();
            let fields: Vec<String> =
                sorted.into_iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// Of a file's contents: modification times differ from checkout to checkout.
fn digest(path: &Path) -> Result<String, StepError> {
    let failed = |e| StepError::other(format!("cannot read {}: {e}", path.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    Ok(short(&hasher.finalize().to_hex()))
}

fn short(digest: &str) -> String {
    digest.chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_said_in_words() {
        let old = Fingerprint {
            data: [("a.parquet".into(), "01".into()), ("b.parquet".into(), "02".into())].into(),
            versions: [("mine".into(), "1.0.0".into())].into(),
            seeds: vec![1],
            cpu: "x86_64+avx2".into(),
            ..Fingerprint::default()
        };
        assert_eq!(old.differences(&old), []);
        let new = Fingerprint {
            data: [("a.parquet".into(), "09".into()), ("c.parquet".into(), "02".into())].into(),
            versions: [("mine".into(), "1.1.0".into())].into(),
            seeds: vec![1, 2],
            cpu: "aarch64".into(),
            pipeline: [("graph".into(), "77".into())].into(),
        };
        let words: Vec<String> =
            old.differences(&new).into_iter().map(|d| format!("{}: {}", d.case, d.words)).collect();
        let expected = [
            "pipeline: its `graph` is not in the baseline",
            "data: a.parquet is 01 in the baseline, 09 now; b.parquet is in the baseline alone; c.parquet is not in the baseline",
            "seeds: [1] in the baseline, [1, 2] now",
            "version: mine is 1.0.0 in the baseline, 1.1.0 now",
            "cpu: x86_64+avx2 in the baseline, aarch64 now",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn order_and_words_of_a_pipeline_do_not_count() {
        let a = json!({"docs": {"node": "X", "doc": "read", "path": "p"}, "b": [1, "2"]});
        let b = json!({"b": [1, "2"], "docs": {"path": "p", "node": "X"}});
        assert_eq!(canonical(&a), canonical(&b));
        assert_ne!(
            canonical(&a),
            canonical(&json!({"b": [1, 2], "docs": {"path": "p", "node": "X"}}))
        );
    }
}
