//! The baseline file: numbers, what they were made with, and how far a run may be from them.
//!
//! ```yaml
//! format: 1
//! made_with:
//!   pipeline: {graph: 1f0c..., run: 93b1...}
//!   data: {corpus/sample.parquet: 88aa...}
//!   seeds: [42]
//!   versions: {blt-core: 0.1.0, blt-graph: 0.1.0, blt-plugins: 0.1.0}
//!   cpu: x86_64+avx+avx2+fma
//! tolerances:
//!   "*bpb": {better: lower, same: absolute 1e-4, cpu: absolute 5e-4}
//!   "*": {same: exact, cpu: relative 1e-3}
//! variants:
//!   entropy:
//!     bpb: 2.3117
//! ```
//!
//! It is sorted, with one number a line, so that a diff names what moved. Everything but
//! `tolerances` is rewritten by an update; that block is kept as a maintainer wrote it, comments
//! included.

use super::fingerprint::{Case, Fingerprint};
use super::measure::{Measured, Number, Numbers};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Version of the file's format.
const FORMAT: u64 = 1;

/// What a new baseline begins with. Small enough to notice a thousandth of a bit; kernels that sum
/// in another order pass.
const DEFAULT_TOLERANCES: &str = "\
tolerances:
  # The first pattern that fits a metric's name is its rule. `same` holds between equal pipelines, data, seeds, versions and processors;
  # `pipeline`, `data`, `seeds`, `version` and `cpu` are what holds as well where that differs. A tolerance is `exact`, `absolute X`,
  # `relative X` or `standard_errors X` (over seeds). With `better: lower` or `higher`, only the other way is a regression.
  \"*bpb*\": {same: absolute 1e-4, cpu: absolute 5e-4}
  \"*nats\": {same: relative 1e-4, cpu: relative 5e-4}
  \"*.lr\": {same: relative 1e-9}
  \"*grad_norm\": {same: relative 1e-3, cpu: relative 1e-2}
  \"*patch*\": {same: relative 1e-3, cpu: relative 1e-2}
  \"*flops*\": {same: relative 1e-3, cpu: relative 1e-2}
  \"*threshold*\": {same: absolute 1e-3, cpu: absolute 1e-2}
  \"*largest_difference\": {same: absolute 1e-4}
  \"*\": {same: exact}
";

/// Why a baseline can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error("there is no baseline {path}; make one with `--update`, look at it, and commit it", path = .0.display())]
    Missing(PathBuf),
    #[error("cannot read the baseline {path}: {error}", path = .path.display())]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the baseline {path} is damaged: {cause}; restore it, or remove it and make it again with `--update`", path = .path.display())]
    Damaged { path: PathBuf, cause: String },
    #[error("the baseline {path} has format {found}; this version reads format {FORMAT}", path = .path.display())]
    Format { path: PathBuf, found: String },
    #[error("the baseline {path} has no number to compare with; make it again with `--update`", path = .0.display())]
    Empty(PathBuf),
    #[error(
        "the run measured nothing, so there is no baseline to make of it; give the pipeline an `evaluate` step"
    )]
    NothingMeasured,
}

/// How far a number may be from the baseline's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Not at all.
    Exact,
    /// As far as it likes, and either side may lack it.
    Ignore,
    /// So much.
    Absolute(f64),
    /// This share of the baseline's number.
    Relative(f64),
    /// So many standard errors of the difference, over the seeds of both sides.
    StandardErrors(f64),
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tolerance::Exact => write!(f, "exact"),
            Tolerance::Ignore => write!(f, "ignore"),
            Tolerance::Absolute(x) => write!(f, "absolute {x:?}"),
            Tolerance::Relative(x) => write!(f, "relative {x:?}"),
            Tolerance::StandardErrors(x) => write!(f, "standard_errors {x:?}"),
        }
    }
}

impl FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no tolerance; write `exact`, `ignore`, `absolute X`, `relative X` or `standard_errors X`"
            )
        };
        let mut words = text.split_whitespace();
        let (kind, size, more) = (words.next(), words.next(), words.next());
        let size = match size.map(f64::from_str) {
            None => None,
            Some(Ok(size)) if size.is_finite() && size >= 0.0 => Some(size),
            Some(_) => return Err(wrong()),
        };
        match (kind, size, more) {
            (Some("exact"), None, None) => Ok(Tolerance::Exact),
            (Some("ignore"), None, None) => Ok(Tolerance::Ignore),
            (Some("absolute"), Some(x), None) => Ok(Tolerance::Absolute(x)),
            (Some("relative"), Some(x), None) => Ok(Tolerance::Relative(x)),
            (Some("standard_errors"), Some(x), None) => Ok(Tolerance::StandardErrors(x)),
            _ => Err(wrong()),
        }
    }
}

impl<'de> Deserialize<'de> for Tolerance {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which way a metric may move as far as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// The tolerances of metrics whose names match a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Their names; `*` matches any characters.
    pub pattern: String,
    /// Neither way, if None.
    pub better: Option<Better>,
    pub same: Tolerance,
    /// What is allowed as well where the two runs differ.
    pub cases: BTreeMap<Case, Tolerance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    better: Option<Better>,
    same: Tolerance,
    pipeline: Option<Tolerance>,
    data: Option<Tolerance>,
    seeds: Option<Tolerance>,
    version: Option<Tolerance>,
    cpu: Option<Tolerance>,
}

impl Rule {
    fn read(pattern: &Value, rule: &Value) -> Result<Self, String> {
        let text = || format!("the pattern {pattern:?} is no text");
        let pattern = pattern.as_str().ok_or_else(text)?.to_owned();
        let written: WrittenRule = serde_yaml::from_value(rule.clone())
            .map_err(|e| format!("tolerances of `{pattern}`: {e}"))?;
        let WrittenRule { better, same, pipeline, data, seeds, version, cpu } = written;
        let cases = [
            (Case::Pipeline, pipeline),
            (Case::Data, data),
            (Case::Seeds, seeds),
            (Case::Version, version),
            (Case::Cpu, cpu),
        ];
        let cases =
            cases.into_iter().filter_map(|(case, tolerance)| Some((case, tolerance?))).collect();
        Ok(Rule { pattern, better, same, cases })
    }
}

/// Whether `name` matches `pattern`, in which `*` matches any characters.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| fits(after, &rest[at..]))
        }),
    }
}

/// Numbers written down, and how far a run may be from them.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    pub made_with: Fingerprint,
    pub rules: Vec<Rule>,
    pub variants: Numbers,
    /// The block `tolerances`, as written.
    pub(super) tolerances: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[allow(dead_code, reason = "looked at before the rest, which may be of another format")]
    format: u64,
    made_with: Fingerprint,
    tolerances: serde_yaml::Mapping,
    variants: BTreeMap<String, BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverSeeds {
    mean: f64,
    se: f64,
}

fn number(written: &Value) -> Result<Number, String> {
    let number = match (written.as_f64(), serde_yaml::from_value(written.clone())) {
        (Some(value), _) => Number { value, se: None },
        (None, Ok(OverSeeds { mean, se })) => Number { value: mean, se: Some(se) },
        (None, Err(_)) => return Err("neither a number nor `{mean: X, se: X}`".into()),
    };
    match number.value.is_finite() && number.se.is_none_or(|se| se.is_finite() && se >= 0.0) {
        true => Ok(number),
        false => Err("not finite, so nothing can be compared with it".into()),
    }
}

impl Baseline {
    /// The rules of a new baseline, and nothing to compare with.
    pub fn new() -> Self {
        let rules = rules_of(DEFAULT_TOLERANCES).expect("the default tolerances can be read");
        let (made_with, variants) = (Fingerprint::default(), Numbers::new());
        Baseline { made_with, rules, variants, tolerances: DEFAULT_TOLERANCES.to_owned() }
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// That there is none, that it is damaged or of another format, or that it has no number.
    pub fn read(path: &Path) -> Result<Self, BaselineError> {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BaselineError::Missing(path.to_owned()),
            _ => BaselineError::Read { path: path.to_owned(), error },
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, BaselineError> {
        let damaged = |cause: String| BaselineError::Damaged { path: path.to_owned(), cause };
        // By way of a tree, which refuses two equal keys: a merge gone wrong must not drop a
        // number.
        let tree: Value = serde_yaml::from_str(text).map_err(|e| damaged(e.to_string()))?;
        match tree.get("format") {
            Some(found) if found.as_u64() == Some(FORMAT) => {}
            Some(found) => {
                let found = serde_yaml::to_string(found).unwrap_or_default().trim().to_owned();
                return Err(BaselineError::Format { path: path.to_owned(), found });
            }
            None => return Err(damaged("it does not say its `format`".into())),
        }
        let written: Written = serde_yaml::from_value(tree).map_err(|e| damaged(e.to_string()))?;
        let rules: Result<Vec<Rule>, String> =
            written.tolerances.iter().map(|(pattern, rule)| Rule::read(pattern, rule)).collect();
        let mut variants = Numbers::new();
        for (variant, metrics) in written.variants {
            let numbers = variants.entry(variant.clone()).or_default();
            for (metric, written) in metrics {
                let number = number(&written)
                    .map_err(|what| damaged(format!("`{metric}` of `{variant}` is {what}")))?;
                numbers.insert(metric, number);
            }
        }
        if variants.values().all(BTreeMap::is_empty) {
            return Err(BaselineError::Empty(path.to_owned()));
        }
        let rules = rules.map_err(damaged)?;
        Ok(Baseline {
            made_with: written.made_with,
            rules,
            variants,
            tolerances: tolerance_block(text),
        })
    }

    /// The rule of a metric: the first whose pattern fits. Where none does, numbers must be the
    /// same.
    pub fn rule(&self, metric: &str) -> Rule {
        let exact = || Rule {
            pattern: "*".into(),
            better: None,
            same: Tolerance::Exact,
            cases: BTreeMap::new(),
        };
        self.rules.iter().find(|rule| fits(&rule.pattern, metric)).cloned().unwrap_or_else(exact)
    }

    /// The file that has `measured` for its numbers and keeps this one's tolerances as they are
    /// written.
    ///
    /// # Errors
    /// That nothing was measured.
    pub fn updated(&self, measured: &Measured) -> Result<String, BaselineError> {
        let Measured { pipeline, made_with, variants } = measured;
        if variants.values().all(BTreeMap::is_empty) {
            return Err(BaselineError::NothingMeasured);
        }
        let map = |map: &BTreeMap<String, String>| {
            let fields: Vec<String> =
                map.iter().map(|(k, v)| format!("{}: {}", scalar(k), scalar(v))).collect();
            format!("{{{}}}", fields.join(", "))
        };
        // A line for each file: there may be many.
        let lines = |map: &BTreeMap<String, String>| match map.is_empty() {
            true => " {}".to_owned(),
            false => {
                map.iter().map(|(k, v)| format!("\n    {}: {}", scalar(k), scalar(v))).collect()
            }
        };
        let mut text = format!(
            "# What runs of the pipeline `{pipeline}` are compared with. `blt-run regress PIPELINE --baseline FILE --update` rewrites all but\n\
             # `tolerances`, which is written by hand.\n\
             format: {FORMAT}\n\
             made_with:\n  pipeline: {}\n  data:{}\n  seeds: {:?}\n  versions: {}\n  cpu: {}\n\
             {}variants:\n",
            map(&made_with.pipeline),
            lines(&made_with.data),
            made_with.seeds,
            map(&made_with.versions),
            scalar(&made_with.cpu),
            self.tolerances,
        );
        for (variant, metrics) in variants {
            let none = if metrics.is_empty() { " {}" } else { "" };
            text.push_str(&format!("  {}:{none}\n", scalar(variant)));
            for (metric, number) in metrics {
                let number = match number.se {
                    None => written(number.value),
                    Some(se) => format!("{{mean: {}, se: {}}}", written(number.value), written(se)),
                };
                text.push_str(&format!("    {}: {number}\n", scalar(metric)));
            }
        }
        Ok(text)
    }
}

impl Default for Baseline {
    fn default() -> Self {
        Self::new()
    }
}

fn rules_of(block: &str) -> Result<Vec<Rule>, String> {
    let tree: Value = serde_yaml::from_str(block).map_err(|e| e.to_string())?;
    let rules = tree.get("tolerances").and_then(Value::as_mapping).ok_or("no `tolerances`")?;
    rules.iter().map(|(pattern, rule)| Rule::read(pattern, rule)).collect()
}

/// The lines from `tolerances:` up to the next key of the file's first level.
fn tolerance_block(text: &str) -> String {
    let key = |line: &str| line.starts_with(|c: char| !c.is_whitespace() && c != '#' && c != '}');
    let from = text.lines().skip_while(|line| !line.starts_with("tolerances:"));
    let lines: Vec<&str> =
        from.clone().take(1).chain(from.skip(1).take_while(|line| !key(line))).collect();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A number that is read back to the same bits.
pub(super) fn written(value: f64) -> String {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => format!("{value:.0}"),
        false => format!("{value:?}"),
    }
}

/// Text as YAML: bare where that can only be text.
fn scalar(text: &str) -> String {
    const NOT_TEXT: [&str; 10] =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/+".contains(c))
        && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let number = |value| Number { value, se: None };
        let metrics: BTreeMap<String, Number> = [
            ("bpb".into(), number(0.1 + 0.2)),
            ("bytes".into(), number(81234.0)),
            ("metrics.Odd name: #1".into(), Number { value: -1e-300, se: Some(0.25) }),
            ("y".into(), number(1e300)),
        ]
        .into();
        Measured {
            pipeline: "p".into(),
            made_with: Fingerprint {
                pipeline: [
                    ("graph".into(), "0123456789012345".into()),
                    ("run".into(), "12e4567890123456".into()),
                ]
                .into(),
                data: [("a b/c.parquet".into(), "77".into())].into(),
                seeds: vec![1, 2],
                versions: [("blt-core".into(), "0.1.0".into())].into(),
                cpu: "x86_64+avx".into(),
            },
            variants: [("k=1,path=fused".into(), metrics), ("none".into(), BTreeMap::new())].into(),
        }
    }

    fn parse(text: &str) -> Result<Baseline, BaselineError> {
        Baseline::parse(text, Path::new("b.yaml"))
    }

    #[test]
    fn what_is_written_is_read_back_to_the_bit() {
        let measured = measured();
        let text = Baseline::new().updated(&measured).unwrap();
        let read = parse(&text).unwrap();
        assert_eq!(read.variants, measured.variants);
        assert_eq!(read.made_with, measured.made_with);
        assert_eq!(read.rules, Baseline::new().rules);
        assert_eq!(read.updated(&measured).unwrap(), text);
    }

    #[test]
    fn an_update_keeps_the_tolerances_as_they_are_written() {
        let text = Baseline::new().updated(&measured()).unwrap();
        let (head, tail) = (text.find("tolerances:").unwrap(), text.find("variants:").unwrap());
        let mine = "tolerances:\n  # mine\n\n  bpb: {same: absolute 0.5,\n    better: lower}\n# not indented\n  \"*\": {same: exact}\n";
        let edited = format!("{}{mine}{}", &text[..head], &text[tail..]);
        let baseline = parse(&edited).unwrap();
        assert_eq!(baseline.rules.len(), 2);
        let again = baseline.updated(&measured()).unwrap();
        assert!(again.contains(mine), "{again}");
        assert_eq!(again, edited);
    }

    #[test]
    fn the_first_pattern_that_fits_is_the_rule() {
        assert!(
            fits("*", "")
                && fits("*", "a.b")
                && fits("run.*.lr", "run.0.train.lr")
                && fits("bpb", "bpb")
        );
        assert!(fits("*bpb*", "run.1.train.bpb") && fits("a*b*c", "aXbYbZc"));
        assert!(
            !fits("bpb", "bpb_by.x")
                && !fits("*.lr", "lr")
                && !fits("a*b", "ab!")
                && !fits("", "a")
        );
        let baseline = Baseline::new();
        assert_eq!(baseline.rule("bpb_by.é").same, Tolerance::Absolute(1e-4));
        assert_eq!(baseline.rule("bytes").same, Tolerance::Exact);
        assert_eq!(Baseline { rules: vec![], ..baseline }.rule("bpb").same, Tolerance::Exact);
    }

    #[test]
    fn what_cannot_be_compared_with_is_refused() {
        let text = Baseline::new().updated(&measured()).unwrap();
        let edited = |old: &str, new: &str| {
            assert!(text.contains(old), "{old}");
            parse(&text.replacen(old, new, 1)).unwrap_err().to_string()
        };
        for (old, new, words) in [
            ("bytes: 81234", "bpb: 81234", "duplicate"),
            ("bytes: 81234", "bytes: .nan", "`bytes` of `k=1,path=fused` is not finite"),
            ("bytes: 81234", "bytes: many", "`bytes` of `k=1,path=fused` is neither a number"),
            ("same: exact", "same: about right", "`about right` is no tolerance"),
            ("same: exact", "same: absolute -1", "is no tolerance"),
            ("same: exact", "same: relative inf", "is no tolerance"),
            ("same: exact", "cpu: exact", "missing field `same`"),
            ("same: exact", "same: exact, gpu: exact", "unknown field `gpu`"),
            ("format: 1", "format: 2", "has format 2; this version reads format 1"),
            ("format: 1\n", "", "does not say its `format`"),
            ("variants:", "variantes:", "unknown field `variantes`"),
            ("seeds: [1, 2]", "seeds: [1, 2", "is damaged"),
        ] {
            let error = edited(old, new);
            assert!(error.contains(words) && error.contains("b.yaml"), "{new}: {error}");
        }
        let empty = format!("{}variants: {{}}\n", &text[..text.find("variants:").unwrap()]);
        assert!(matches!(parse(&empty), Err(BaselineError::Empty(_))));
        let nothing = Measured { variants: [("v".into(), BTreeMap::new())].into(), ..measured() };
        assert!(matches!(Baseline::new().updated(&nothing), Err(BaselineError::NothingMeasured)));
        assert!(
            Baseline::read(Path::new("no/such.yaml")).unwrap_err().to_string().contains("--update")
        );
    }
}
