//! The pipeline's `report` section.

use blt_graph::diagnostic::nearest;
use blt_graph::{Diagnostics, PipelineSpec, Variant};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What the `report` section asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportOptions {
    /// The variant that differences are to.
    pub baseline: Option<String>,
    /// The column whose values are the clusters of documents.
    pub cluster: Option<String>,
    /// The variants that are controls, in order, and what each controls.
    pub controls: Vec<(String, ControlOf)>,
    /// Rows beside the variants: a name, and the goal of which an `evaluate` step has the numbers.
    pub references: Vec<(String, String)>,
}

/// What a control controls: `NAME: ARM`, or `NAME: {of: ARM, what: TEXT}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlOf {
    /// The variant that it is compared with.
    #[serde(rename = "of")]
    pub arm: String,
    /// What it changes, in words that a cost can follow: "no latents".
    pub what: Option<String>,
}

impl ControlOf {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(arm) => Some(ControlOf { arm: arm.clone(), what: None }),
            other => serde_json::from_value(other.clone()).ok(),
        }
    }
}

impl ReportOptions {
    /// Reads a section that [`check_report`] has passed.
    pub fn of(section: &Map<String, Value>) -> Self {
        let text = |key: &str| section.get(key).and_then(Value::as_str).map(str::to_owned);
        let controls = section.get("controls").and_then(Value::as_object).into_iter().flatten();
        let controls = controls.filter_map(|(name, of)| Some((name.clone(), ControlOf::read(of)?)));
        let references = section.get("references").and_then(Value::as_object).into_iter().flatten();
        let references =
            references.filter_map(|(name, goal)| Some((name.clone(), goal.as_str()?.to_owned())));
        ReportOptions {
            baseline: text("baseline"),
            cluster: text("cluster"),
            controls: controls.collect(),
            references: references.collect(),
        }
    }

    /// Whether the variant is a control.
    pub fn is_control(&self, variant: &str) -> bool {
        self.controls.iter().any(|(name, _)| name == variant)
    }
}

/// The keys of the section, and what each is.
const KEYS: &[(&str, &str)] = &[
    ("baseline", "the variant that differences are to"),
    ("cluster", "the column whose values are clusters of documents"),
    ("controls", "variants that show what the run can see"),
    ("references", "goals of other `evaluate` steps that are rows of the table"),
];

/// Checks the pipeline's `report` section: `baseline` and `controls` name variants, `cluster` a
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
    let named =
        ["baseline", "controls", "references"].iter().any(|key| spec.report.contains_key(*key));
    if !named {
        return Ok(());
    }
    let variants = spec.variants()?;
    let names: Vec<String> = variants.iter().map(|variant| variant.name.clone()).collect();
    if let Some(baseline) = spec.report.get("baseline") {
        is_variant(spec, &names, &["report", "baseline"], "`report.baseline` is", baseline)?;
    }
    check_controls(spec, &names)?;
    check_references(spec, &names, &variants)
}

/// References are goals that some `evaluate` step measures, under names that no variant has.
fn check_references(
    spec: &PipelineSpec,
    names: &[String],
    variants: &[Variant],
) -> Result<(), Diagnostics> {
    let Some(section) = spec.report.get("references") else { return Ok(()) };
    let Value::Object(references) = section else {
        let message =
            format!("`report.references` is {section}; expected `references: {{NAME: GOAL}}`");
        return Err(spec.diagnose(&["report", "references"], message, None));
    };
    let steps = variants.iter().flat_map(|variant| &variant.spec.run);
    let evaluated = steps.filter(|step| step.step == "evaluate");
    let goals = evaluated.filter_map(|step| step.params.get("goal")?.as_str());
    let goals: Vec<&str> = goals.collect::<BTreeSet<_>>().into_iter().collect();
    for (name, goal) in references {
        let (message, meant) = if names.contains(name) {
            (format!("the reference `{name}` has the name of a variant"), None)
        } else if goal.as_str().is_some_and(|goal| goals.contains(&goal)) {
            continue;
        } else {
            let message = format!(
                "the reference `{name}` is {goal}, and `evaluate` steps have the goals `{}`",
                goals.join("`, `")
            );
            (message, goal.as_str().and_then(|goal| nearest(goal, goals.iter().copied())))
        };
        let help = meant.map(|goal| format!("did you mean `{goal}`?"));
        return Err(spec.diagnose(&["report", "references", name], message, help));
    }
    Ok(())
}

/// Controls and what they control are variants, and no variant is both.
fn check_controls(spec: &PipelineSpec, names: &[String]) -> Result<(), Diagnostics> {
    const GRAMMAR: &str =
        "`controls: {CONTROL: ARM}` or `controls: {CONTROL: {of: ARM, what: TEXT}}`";
    let Some(section) = spec.report.get("controls") else { return Ok(()) };
    let Value::Object(controls) = section else {
        let message = format!("`report.controls` is {section}; expected {GRAMMAR}");
        return Err(spec.diagnose(&["report", "controls"], message, None));
    };
    for (name, value) in controls {
        let at = ["report", "controls", name.as_str()];
        let Some(of) = ControlOf::read(value) else {
            let message = format!("the control `{name}` is {value}; expected {GRAMMAR}");
            return Err(spec.diagnose(&at, message, None));
        };
        is_variant(spec, names, &at, "a control is", &Value::String(name.clone()))?;
        is_variant(
            spec,
            names,
            &at,
            &format!("`{name}` controls"),
            &Value::String(of.arm.clone()),
        )?;
        let wrong = if controls.contains_key(&of.arm) {
            format!("`{name}` controls `{}`, which is a control itself", of.arm)
        } else if spec.report.get("baseline").and_then(Value::as_str) == Some(name) {
            format!("`{name}` is the baseline, and as a control it is not ranked")
        } else {
            continue;
        };
        return Err(spec.diagnose(&at, wrong, None));
    }
    Ok(())
}

/// `says`: what the name is for.
fn is_variant(
    spec: &PipelineSpec,
    names: &[String],
    path: &[&str],
    says: &str,
    named: &Value,
) -> Result<(), Diagnostics> {
    if names.iter().any(|name| Some(name.as_str()) == named.as_str()) {
        return Ok(());
    }
    let message = format!("{says} {named}, and the variants are `{}`", names.join("`, `"));
    let meant = named.as_str().and_then(|name| nearest(name, names.iter().map(String::as_str)));
    let meant = meant.map(|name| format!("did you mean `{name}`?"));
    Err(spec.diagnose(path, message, meant))
}
