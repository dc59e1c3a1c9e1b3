//! What numbers were made with: pipeline, data, seeds, versions and processor.

use blt_graph::Plan;
use blt_graph::run::cpu_features;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

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
    /// `run`, `path`, ... Words (`name`, `doc`, `report`) are left out, and seeds have a field of their own.
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
    /// Of a run's plans on this machine: everything but `data`, which is left empty.
    ///
    /// A graph alone does not know which files its sources read, so whoever knows the sources adds
    /// their digests, and the versions of crates that provide no node or step.
    pub fn of(plans: &[&Plan]) -> Self {
        let mut made = Fingerprint { cpu: cpu_features(), ..Fingerprint::default() };
        made.versions.insert("blt-graph".into(), blt_graph::VERSION.into());
        for plan in plans {
            let used = plan.nodes().iter().filter(|node| node.used);
            let origins = used
                .map(|node| node.entry.origin)
                .chain(plan.steps().iter().map(|step| step.entry.origin));
            made.versions
                .extend(origins.map(|origin| (origin.krate.to_owned(), origin.version.to_owned())));
            if !made.seeds.contains(&plan.seed) {
                made.seeds.push(plan.seed);
            }
        }
        made.pipeline = pipeline_digests(plans);
        made
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
    sections
        .into_iter()
        .map(|(key, hasher)| (key, short_digest(&hasher.finalize().to_hex())))
        .collect()
}

/// JSON with sorted keys and without the `doc` that authors give nodes.
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

/// The first 16 characters of a hexadecimal digest, which is what a baseline keeps of it.
pub fn short_digest(digest: &str) -> String {
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
