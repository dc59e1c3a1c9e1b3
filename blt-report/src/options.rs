//! The pipeline's `report` section.

use blt_graph::diagnostic::nearest;
use blt_graph::{Diagnostics, PipelineSpec};
use serde_json::{Map, Value};

/// What the `report` section asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportOptions {
    /// The variant that differences are to.
    pub baseline: Option<String>,
    /// The column whose values are the clusters of documents.
    pub cluster: Option<String>,
}

impl ReportOptions {
    /// Reads a section that [`check_report`] has passed.
    pub fn of(section: &Map<String, Value>) -> Self {
        let text = |key: &str| section.get(key).and_then(Value::as_str).map(str::to_owned);
        ReportOptions { baseline: text("baseline"), cluster: text("cluster") }
    }
}

/// The keys of the section, and what each is.
const KEYS: &[(&str, &str)] = &[
    ("baseline", "the variant that differences are to"),
    ("cluster", "the column whose values are clusters of documents"),
];

/// Checks the pipeline's `report` section: `baseline` is the name of a variant, `cluster` that of a
/// column. (The steps that read documents check that there is such a column.)
///
/// # Errors
/// Diagnostics that point at the key or the value at fault.
pub fn check_report(spec: &PipelineSpec) -> Result<(), Diagnostics> {
    let known = |key: &str| KEYS.iter().any(|(known, _)| *known == key);
    if let Some(key) = spec.report.keys().find(|key| !known(key)) {
        let takes: Vec<String> = KEYS.iter().map(|(key, is)| format!("`{key}`, {is}")).collect();
        let message = format!("`report` has no `{key}`; it takes {}", takes.join("; "));
        let meant = nearest(key, KEYS.iter().map(|(key, _)| *key));
        let meant = meant.map(|name| format!("did you mean `{name}`?"));
        return Err(spec.diagnose(&["report", key], message, meant));
    }
    if let Some(cluster) = spec.report.get("cluster").filter(|cluster| !cluster.is_string()) {
        let message = format!("`report.cluster` is {cluster}, and it takes the name of a column");
        return Err(spec.diagnose(&["report", "cluster"], message, None));
    }
    let Some(baseline) = spec.report.get("baseline") else { return Ok(()) };
    let names: Vec<String> = spec.variants()?.into_iter().map(|variant| variant.name).collect();
    is_variant(spec, &names, &["report", "baseline"], baseline)
}

fn is_variant(
    spec: &PipelineSpec,
    names: &[String],
    path: &[&str],
    named: &Value,
) -> Result<(), Diagnostics> {
    if names.iter().any(|name| Some(name.as_str()) == named.as_str()) {
        return Ok(());
    }
    let message =
        format!("`{}` is {named}, and the variants are `{}`", path.join("."), names.join("`, `"));
    let meant = named.as_str().and_then(|name| nearest(name, names.iter().map(String::as_str)));
    let meant = meant.map(|name| format!("did you mean `{name}`?"));
    Err(spec.diagnose(path, message, meant))
}
