use crate::facilities::{Facilities, Matching, Prepare, provide};
use crate::matched::{Pair, Rate, RuleOfRow};
use crate::model_part::ModelPart;
use crate::patcher::{check_max_patch_length, entropy_stream};
use crate::ports::{Bytes, BytesInfo, Entropies, Patches, PatchesInfo};
use crate::stop::Stop;
use blt_core::bytes::Batch;
use blt_core::patch::calibrate::{Calibrated, Calibration, TOLERANCE, Unknown};
use blt_core::patch::stream::{EntropyStream, PatchStream};
use blt_core::patch::{self, EntropyRule, Limits};
use blt_core::sizes::{MAX_BYTES, MAX_COUNT};
use blt_data::Portion;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx, StepError};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// Which comparison starts a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    Global,
    Relative,
    Both,
    Jump,
}

/// Where an entropy patcher's patches may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Align {
    Character,
}

/// A patch starts where the next byte is hard to predict.
///
/// `rule: global` starts one after id t where H(x_t) > threshold; `relative` where H(x_t) -
/// H(x_{t-1}) > relative_threshold (approximate monotonicity); `both` where both hold; `jump` where
/// H(x_t) - M_{t-1} > relative_threshold, M being the running mean of the entropies of the span so
/// far, M_t = M_{t-1} + (H(x_t) - M_{t-1}) / mean_bytes. Entropies are in nats.
///
/// Instead of a threshold, `bytes_per_patch` gives the wanted mean patch size. The threshold is
/// then found before training starts, within 2 %, on training documents that are set aside from all
/// training; patches are counted after `max_patch_length` has split them, and after
/// `min_patch_length` and `align`. The threshold is recorded in the checkpoint. Paper section 2.3.
///
/// `align: character` moves a border that falls inside a UTF-8 character to the character's end.
/// The Hugging Face layout has neither that nor a shortest patch: a model with one of them is
/// exported, and read from its checkpoint, without its patcher.
#[params]
pub struct EntropyPatch {
    /// Which comparison starts a patch: `global`, `relative`, `both` or `jump`.
    #[default(Rule::Global)]
    #[schemars(schema_with = "blt_graph::words::<Rule>")]
    pub rule: Rule,
    /// Threshold of the entropy, in nats.
    #[range(-1e6..=1e6)]
    pub threshold: Option<f64>,
    /// Threshold of the rise of the entropy, in nats: over the byte before, or with `rule: jump`
    /// over the running mean.
    #[range(-1e6..=1e6)]
    pub relative_threshold: Option<f64>,
    /// With `rule: jump`, about how many bytes the running mean is over; 16 if left out.
    #[range(1..=MAX_BYTES)]
    pub mean_bytes: Option<usize>,
    /// Wanted mean patch size in bytes, in place of a threshold.
    #[range(1.0..=MAX_BYTES as f64)]
    pub bytes_per_patch: Option<f64>,
    #[shared]
    pub max_patch_length: Option<usize>,
    /// Shortest patch in bytes; a border that comes earlier is left out.
    #[range(1..=MAX_BYTES)]
    pub min_patch_length: Option<usize>,
    /// `character`: a patch starts at a UTF-8 character, never inside one.
    #[schemars(schema_with = "blt_graph::words::<Option<Align>>")]
    pub align: Option<Align>,
    /// Bytes of documents to find the threshold on, at most.
    #[default(1 << 20)]
    #[range(1..=MAX_COUNT)]
    pub calibration_bytes: u64,
}

impl EntropyPatch {
    /// The global rule, calibrated to a mean patch size.
    pub fn bytes_per_patch(bytes_per_patch: f64) -> Self {
        EntropyPatch { bytes_per_patch: Some(bytes_per_patch), ..Self::default() }
    }

    /// The global rule at a threshold in nats.
    pub fn threshold(threshold: f64) -> Self {
        EntropyPatch { threshold: Some(threshold), ..Self::default() }
    }

    /// A rule whose thresholds are known.
    pub fn of_rule(rule: EntropyRule) -> Self {
        let default = Self::default();
        let (rule, threshold, relative_threshold, mean_bytes) = match rule {
            EntropyRule::Global { threshold } => (Rule::Global, Some(threshold), None, None),
            EntropyRule::Relative { threshold } => (Rule::Relative, None, Some(threshold), None),
            EntropyRule::Both { global, relative } => {
                (Rule::Both, Some(global), Some(relative), None)
            }
            EntropyRule::Jump { threshold, mean_bytes } => {
                (Rule::Jump, None, Some(threshold), Some(mean_bytes))
            }
        };
        EntropyPatch { rule, threshold, relative_threshold, mean_bytes, ..default }
    }

    fn limits(&self) -> Limits {
        Limits {
            max_patch_length: self.max_patch_length,
            min_patch_length: self.min_patch_length,
            characters: self.align.is_some(),
        }
    }

    /// The rule; a threshold that is to be found reads 0.
    fn rule_or_zero(&self) -> Result<EntropyRule, NodeError> {
        Ok(match self.given()? {
            Given::Rule(rule) => rule,
            Given::Find(unknown) => unknown.rule(0.0),
        })
    }
}

/// What is given: the whole rule, or which threshold is to be found.
#[derive(Clone, Copy)]
enum Given {
    Rule(EntropyRule),
    Find(Unknown),
}

impl EntropyPatch {
    fn given(&self) -> Result<Given, NodeError> {
        let neither = |name: &str| {
            let msg = format!(
                "rule: {} wants a `{name}` in nats, or `bytes_per_patch` to have it found",
                self.rule_name()
            );
            Err(NodeError::other(msg).help("for example `bytes_per_patch: 6`"))
        };
        let both = |name: &str| {
            let msg = format!(
                "rule: {} wants either `{name}` or `bytes_per_patch`, not both",
                self.rule_name()
            );
            Err(NodeError::param("bytes_per_patch", msg))
        };
        let unused = |name: &str| {
            Err(NodeError::param(name, format!("rule: {} does not use `{name}`", self.rule_name())))
        };
        let mean_bytes = self.mean_bytes.unwrap_or(16);
        match (self.rule, self.threshold, self.relative_threshold, self.bytes_per_patch) {
            (Rule::Global | Rule::Relative | Rule::Both, ..) if self.mean_bytes.is_some() => {
                unused("mean_bytes")
            }
            (Rule::Global, _, Some(_), _) => unused("relative_threshold"),
            (Rule::Relative | Rule::Jump, Some(_), _, _) => unused("threshold"),
            (Rule::Global, Some(threshold), None, None) => {
                Ok(Given::Rule(EntropyRule::Global { threshold }))
            }
            (Rule::Global, None, None, Some(_)) => Ok(Given::Find(Unknown::Global)),
            (Rule::Global, None, None, None) => neither("threshold"),
            (Rule::Global, Some(_), None, Some(_)) => both("threshold"),
            (Rule::Relative, None, Some(threshold), None) => {
                Ok(Given::Rule(EntropyRule::Relative { threshold }))
            }
            (Rule::Relative, None, None, Some(_)) => Ok(Given::Find(Unknown::Relative)),
            (Rule::Jump, None, Some(threshold), None) => {
                Ok(Given::Rule(EntropyRule::Jump { threshold, mean_bytes }))
            }
            (Rule::Jump, None, None, Some(_)) => Ok(Given::Find(Unknown::Jump { mean_bytes })),
            (Rule::Relative | Rule::Jump, None, None, None) => neither("relative_threshold"),
            (Rule::Relative | Rule::Jump, None, Some(_), Some(_)) => both("relative_threshold"),
            (Rule::Both, Some(global), Some(relative), None) => {
                Ok(Given::Rule(EntropyRule::Both { global, relative }))
            }
            (Rule::Both, None, Some(relative), Some(_)) => {
                Ok(Given::Find(Unknown::GlobalOfBoth { relative }))
            }
            (Rule::Both, Some(global), None, Some(_)) => {
                Ok(Given::Find(Unknown::RelativeOfBoth { global }))
            }
            (Rule::Both, ..) => Err(NodeError::param(
                "rule",
                "rule: both wants two of `threshold`, `relative_threshold` and `bytes_per_patch`, and not all three",
            )),
        }
    }

    fn rule_name(&self) -> &'static str {
        match self.rule {
            Rule::Global => "global",
            Rule::Relative => "relative",
            Rule::Both => "both",
            Rule::Jump => "jump",
        }
    }
}

/// The rule, or the entropies collected so far to find it.
pub struct Threshold {
    node: String,
    params: EntropyPatch,
    unknown: Option<Unknown>,
    rule: RefCell<Option<EntropyRule>>,
    collecting: RefCell<Option<Calibration>>,
    /// In place of the rule, where a step matches patch sizes.
    matched: RefCell<Option<RuleOfRow>>,
    /// Bytes that the rule decided on so far, each of which started a patch; None once one did
    /// not.
    one_byte: Cell<Option<u64>>,
    stop: Stop,
}

/// So many bytes that are all patches of their own are the threshold's doing, not the text's.
const ONE_BYTE_LIMIT: u64 = 8192;

impl Threshold {
    /// The rule, once its threshold is known.
    fn rule(&self) -> Result<EntropyRule, NodeError> {
        let rule = *self.rule.borrow();
        rule.ok_or_else(|| NodeError::other("the threshold has not been found yet"))
    }

    /// Watches for a given threshold under which every byte starts a patch: a far dearer model than
    /// was meant.
    fn watch(&self, batch: &Batch, patches: &blt_core::patch::Patches) -> Result<(), NodeError> {
        let Some(seen) = self.one_byte.get() else { return Ok(()) };
        if patches.n_patches() < batch.len() {
            self.one_byte.set(None);
            return Ok(());
        }
        // BOS and the first byte start patches whatever the rule says.
        let decided: usize =
            (0..batch.n_spans()).map(|s| batch.span_ids(s).len().saturating_sub(2)).sum();
        self.one_byte.set(Some(seen + decided as u64));
        if seen + decided as u64 >= ONE_BYTE_LIMIT {
            self.refuse_one_byte_patches()
        } else {
            Ok(())
        }
    }

    fn refuse_one_byte_patches(&self) -> Result<(), NodeError> {
        let Some(seen @ 1..) = self.one_byte.get() else { return Ok(()) };
        let (name, value) = match (self.params.threshold, self.params.relative_threshold) {
            (_, Some(relative)) => ("relative_threshold", relative),
            (global, None) => ("threshold", global.unwrap_or_default()),
        };
        let what = match name {
            "threshold" => format!("the entropies of all {seen} bytes seen are above {value} nats"),
            _ => format!("at all {seen} bytes seen the entropy rose by more than {value} nats"),
        };
        Err(NodeError::param(name, format!("every patch is one byte long: {what}")).help(format!(
            "raise `{name}`, or have it found: `bytes_per_patch: 4`; an untrained entropy model calls for a train step of its own; \
             one-byte patches on purpose are the node BytePatch"
        )))
    }
}

impl Facilities for Threshold {
    fn prepare(&self) -> Option<&dyn Prepare> {
        Some(self)
    }

    fn matching(&self) -> Option<&dyn Matching> {
        Some(self)
    }

    fn check_end(&self) -> Result<(), NodeError> {
        self.refuse_one_byte_patches()
    }

    fn patch_stream(
        &self,
        bos_entropy: Option<f32>,
    ) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
        entropy_stream(self.rule()?, self.params.limits(), bos_entropy)
    }
}

impl Prepare for Threshold {
    fn wants(&self) -> Option<Portion> {
        self.rule.borrow().is_none().then_some(Portion::Calibration)
    }

    fn max_bytes(&self) -> u64 {
        self.params.calibration_bytes
    }

    fn begin(&self) {
        *self.collecting.borrow_mut() = Some(Calibration::with_cap(self.params.calibration_bytes));
    }

    fn finish(&self) -> Result<serde_json::Value, StepError> {
        let collected = self.collecting.borrow_mut().take().unwrap_or_default();
        let (Some(unknown), Some(wanted)) = (self.unknown, self.params.bytes_per_patch) else {
            return Err(StepError::other(format!("node `{}` has no threshold to find", self.node)));
        };
        let limits = self.params.limits();
        let find = move || collected.find(unknown, wanted, limits);
        let found = self.stop.or_end_of(find)?.map_err(|e| {
            StepError::other(format!("node `{}`: {e}", self.node))
                .help("ask for another `bytes_per_patch`, set aside more documents (`split.calibration`), or train the entropy model longer")
        })?;
        *self.rule.borrow_mut() = Some(found.rule);
        Ok(serde_json::to_value(found)?)
    }

    fn doubt(&self, learned: &serde_json::Value) -> Option<String> {
        let found: Calibrated = serde_json::from_value(learned.clone()).ok()?;
        let (mean, documents) = (found.bytes_per_patch, found.documents);
        match found.standard_error {
            None => Some(format!(
                "the threshold was found on one document; others may give any mean patch size but {mean:.2}"
            )),
            Some(se) if se > TOLERANCE * mean => Some(format!(
                "the threshold was found on {documents} documents that differ: {mean:.2} ± {se:.2} bytes per patch (standard error); more \
                 documents make it surer (`split.calibration`, `calibration_bytes`)"
            )),
            Some(_) => None,
        }
    }

    fn restore(&self, learned: &serde_json::Value, _: &Path) -> Result<(), StepError> {
        let Some(unknown) = self.unknown else { return Ok(()) };
        let found: Calibrated = serde_json::from_value(learned.clone())?;
        let wanted = (Some(found.wanted_bytes_per_patch), found.limits, found.rule);
        let says =
            (self.params.bytes_per_patch, self.params.limits(), unknown.rule(found.threshold));
        if wanted != says {
            return Err(StepError::other(format!(
                "node `{}`: the checkpoint's threshold was found for bytes_per_patch {}, {} and {}, which is not what \
                 the pipeline says",
                self.node, found.wanted_bytes_per_patch, found.limits, found.rule
            ))
            .help("write the same in the pipeline, or give it the threshold that the checkpoint's state.json records"));
        }
        *self.rule.borrow_mut() = Some(found.rule);
        Ok(())
    }
}

impl Matching for Threshold {
    fn begin(&self) {
        *self.collecting.borrow_mut() = Some(Calibration::new());
    }

    fn find(
        &self,
        bytes_per_patch: f64,
        tolerance: f64,
        groups: &BTreeMap<u64, String>,
    ) -> Result<BTreeMap<Option<String>, Pair>, StepError> {
        let collected = self.collecting.borrow_mut().take().unwrap_or_default();
        let (rule, limits) = (self.rule()?, self.params.limits());
        let unknown = self.unknown.unwrap_or(Unknown::of(rule));
        let mut names: Vec<Option<&String>> = groups.values().map(Some).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            names.push(None);
        }
        let (mut matched, mut pairs) = (RuleOfRow::default(), BTreeMap::new());
        for (at, name) in names.into_iter().enumerate() {
            let of_group = collected.of_rows(|row| groups.get(&row) == name);
            let trained = of_group.mean(rule, limits).unwrap_or(f64::NAN);
            let find = move || of_group.find_within(tolerance, unknown, bytes_per_patch, limits);
            let found = self.stop.or_end_of(find)?.map_err(|e| {
                let group = name.map_or(String::new(), |name| format!(", documents of `{name}`"));
                StepError::other(format!("node `{}`{group}: {e}", self.node))
                    .help("match another `bytes_per_patch`, or change the patcher's limits")
            })?;
            let rate = |rule, bytes_per_patch| Rate { rule: Some(rule), bytes_per_patch };
            let pair = Pair {
                trained: rate(rule, trained),
                matched: rate(found.rule, found.bytes_per_patch),
            };
            pairs.insert(name.cloned(), pair);
            matched.rules.push(found.rule);
            let rows = groups.iter().filter(|(_, group)| Some(*group) == name);
            matched.of_row.extend(rows.map(|(&row, _)| (row, at)));
        }
        *self.matched.borrow_mut() = Some(matched);
        Ok(pairs)
    }
}

#[node(example = "in: {bytes: docs, entropies: entropy}, bytes_per_patch: 6")]
impl Node for EntropyPatch {
    type In = (Bytes, Entropies);
    type Out = Patches;
    type State = Rc<Threshold>;

    fn check(&self, _: (BytesInfo, ()), _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        check_max_patch_length(self.max_patch_length)?;
        self.limits().check().map_err(|e| NodeError::param("min_patch_length", e))?;
        self.given()?;
        if let (Some(max), Some(wanted)) = (self.max_patch_length, self.bytes_per_patch)
            && wanted > max as f64
        {
            let msg = format!("patches of at most {max} bytes can't have a mean of {wanted}");
            return Err(NodeError::param("bytes_per_patch", msg));
        }
        if let (Some(min), Some(wanted)) = (self.min_patch_length, self.bytes_per_patch)
            && wanted < min as f64
        {
            let msg = format!("patches of at least {min} bytes can't have a mean of {wanted}");
            return Err(NodeError::param("bytes_per_patch", msg));
        }
        Ok(PatchesInfo::streamed::<EntropyStream>())
    }

    fn role(&self, _: (BytesInfo, ())) -> Result<Option<Box<dyn Any>>, NodeError> {
        if !self.limits().only_split() {
            return Ok(None);
        }
        let (rule, max_patch_length) = (self.rule_or_zero()?, self.max_patch_length);
        ModelPart::EntropyPatcher { rule, max_patch_length }.role()
    }

    fn build(&self, _: (BytesInfo, ()), cx: &mut BuildCx) -> Result<Rc<Threshold>, NodeError> {
        let (rule, unknown) = match self.given()? {
            Given::Rule(rule) => (Some(rule), None),
            Given::Find(unknown) => (None, Some(unknown)),
        };
        let threshold = Threshold {
            node: cx.node.to_owned(),
            params: self.clone(),
            unknown,
            rule: RefCell::new(rule),
            collecting: RefCell::new(None),
            matched: RefCell::new(None),
            stop: Stop::of_node(cx),
            one_byte: Cell::new(
                (unknown.is_none() && self.max_patch_length != Some(1)).then_some(0),
            ),
        };
        Ok(provide(cx, threshold))
    }

    fn run(
        &self,
        threshold: &Rc<Threshold>,
        (batch, entropies): (Rc<Batch>, Rc<Vec<f32>>),
        _: &RunCx,
    ) -> Result<Rc<blt_core::patch::Patches>, NodeError> {
        if let Some(collecting) = threshold.collecting.borrow_mut().as_mut() {
            collecting.push(&batch, &entropies)?;
            return Ok(Rc::new(patch::byte_patches(&batch)));
        }
        if let Some(matched) = &*threshold.matched.borrow() {
            return Ok(Rc::new(matched.patches(&batch, &entropies, self.limits())?));
        }
        let rule = threshold.rule()?;
        let patches = patch::entropy_patches(&batch, &entropies, rule, self.limits())?;
        threshold.watch(&batch, &patches)?;
        Ok(Rc::new(patches))
    }
}
