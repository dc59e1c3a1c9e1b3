//! Small nodes and steps of numbers and texts, which the tests of this folder share.

use std::cell::Cell;
use std::rc::Rc;

use blt_graph::{
    AnyValue, BuildCx, CheckCx, JsonLines, Live, Node, NodeError, Plan, Port, RunCx, Step, StepCx,
    StepError, World, write_atomic,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub enum Number {}
impl Port for Number {
    const NAME: &'static str = "Number";
    const PORT: &'static str = "number";
    type Value = f64;
    type Info = ();
}

pub enum Text {}
impl Port for Text {
    const NAME: &'static str = "Text";
    const PORT: &'static str = "text";
    type Value = Rc<str>;
    type Info = TextInfo;
}

#[derive(Debug, Clone, PartialEq)]
pub struct TextInfo {
    pub width: usize,
}

/// A number that is always the same.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Constant {
    /// The number.
    pub value: f64,
}

impl Node for Constant {
    const NAME: &'static str = "Constant";
    const INPUTS: &'static [&'static str] = &[];
    const OUTPUTS: &'static [&'static str] = &["value"];
    const EXAMPLE: &'static str = "{node: Constant, value: 2.5}";
    type In = ();
    type Out = Number;
    type State = ();
    fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn build(&self, _: (), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(&self, _: &(), _: (), _: &RunCx) -> Result<f64, NodeError> {
        Ok(self.value)
    }
}
blt_graph::node!(Constant);

/// The batch of a [`Source`] called `source`.
pub fn batch(number: f64) -> [(&'static str, AnyValue); 1] {
    [("source", AnyValue::new::<Number>(number))]
}

/// The same, if the graph reads `source`.
pub fn given(live: &Live, number: f64) -> Vec<(&'static str, AnyValue)> {
    batch(number).into_iter().filter(|(node, _)| live.nodes().any(|name| name == *node)).collect()
}

/// The number of the current batch, from a file that must exist.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// The file.
    #[serde(default)]
    pub path: Option<String>,
}

impl Node for Source {
    const NAME: &'static str = "Source";
    const INPUTS: &'static [&'static str] = &[];
    const OUTPUTS: &'static [&'static str] = &["number"];
    const EXAMPLE: &'static str = "{node: Source}";
    type In = ();
    type Out = Number;
    type State = ();
    fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn build(&self, _: (), cx: &mut BuildCx) -> Result<(), NodeError> {
        if let Some(path) = &self.path {
            let path = cx.base_dir.join(path);
            std::fs::metadata(&path).map_err(|error| {
                NodeError::param("path", format!("no such file: {error}"))
                    .help("give a file that exists")
            })?;
        }
        Ok(())
    }
}
blt_graph::node!(Source);

/// How numbers are scaled.
#[derive(Serialize, Deserialize, JsonSchema, Default, Debug, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// By the factor.
    #[default]
    Global,
    /// By the factor and the limit.
    Relative,
}

/// Bounds of a number.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
pub struct Limits {
    /// At least this.
    pub low: f64,
    /// At most this.
    pub high: f64,
}

fn default_limits() -> Limits {
    Limits { low: -1e9, high: 1e9 }
}

fn one() -> f64 {
    1.0
}

/// Multiplies a number, and adds an offset if there is one.
///
/// The result is held within limits.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Scale {
    /// What to multiply by.
    #[serde(default = "one")]
    pub factor: f64,
    /// How.
    #[serde(default)]
    pub rule: Rule,
    /// The bounds of the result.
    #[serde(default = "default_limits")]
    pub limits: Limits,
    /// Sizes that nobody needs.
    #[serde(default)]
    pub sizes: Vec<usize>,
}

impl Default for Scale {
    fn default() -> Self {
        Scale { factor: 1.0, rule: Rule::Global, limits: default_limits(), sizes: Vec::new() }
    }
}

impl Node for Scale {
    const NAME: &'static str = "Scale";
    const INPUTS: &'static [&'static str] = &["number", "offset"];
    const OUTPUTS: &'static [&'static str] = &["scaled"];
    const EXAMPLE: &'static str =
        "{node: Scale, in: x, factor: 2.0, limits: {low: 0.0, high: 9.0}}";
    type In = (Number, Option<Number>);
    type Out = Number;
    type State = ();
    fn check(&self, _: ((), Option<()>), cx: &CheckCx) -> Result<(), NodeError> {
        if self.factor == 0.0 {
            cx.warn(NodeError::param("factor", "0 makes every result the same"));
        }
        if self.limits.low > self.limits.high {
            return Err(NodeError::param(
                "limits.low",
                format!("{} is above the high limit", self.limits.low),
            )
            .help(format!("at most {}", self.limits.high)));
        }
        Ok(())
    }
    fn build(&self, _: ((), Option<()>), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(
        &self,
        _: &(),
        (number, offset): (f64, Option<f64>),
        _: &RunCx,
    ) -> Result<f64, NodeError> {
        Ok((number * self.factor + offset.unwrap_or(0.0)).clamp(self.limits.low, self.limits.high))
    }
}
blt_graph::node!(Scale);

/// Adds two numbers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Add {}

impl Node for Add {
    const NAME: &'static str = "Add";
    const INPUTS: &'static [&'static str] = &["left", "right"];
    const OUTPUTS: &'static [&'static str] = &["sum"];
    const EXAMPLE: &'static str = "{node: Add, in: {left: a, right: b}}";
    type In = (Number, Number);
    type Out = Number;
    type State = ();
    fn check(&self, _: ((), ()), _: &CheckCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn build(&self, _: ((), ()), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(&self, _: &(), (left, right): (f64, f64), _: &RunCx) -> Result<f64, NodeError> {
        Ok(left + right)
    }
}
blt_graph::node!(Add);

/// Writes a number out, and says how long that is.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Show {
    /// Digits after the point.
    pub digits: usize,
    /// Whether there is a `length`.
    #[serde(default)]
    pub measure: bool,
}

impl Node for Show {
    const NAME: &'static str = "Show";
    const INPUTS: &'static [&'static str] = &["number"];
    const OUTPUTS: &'static [&'static str] = &["text", "length"];
    const EXAMPLE: &'static str = "{node: Show, in: x, digits: 3}";
    type In = Number;
    type Out = (Text, Option<Number>);
    type State = Rc<Measured>;
    fn check(&self, _: (), _: &CheckCx) -> Result<(TextInfo, Option<()>), NodeError> {
        Ok((TextInfo { width: self.digits }, self.measure.then_some(())))
    }
    fn build(&self, _: (), cx: &mut BuildCx) -> Result<Rc<Measured>, NodeError> {
        cx.provide(cx.seed);
        Ok(cx.provide(Measured::default()))
    }
    fn run(
        &self,
        measured: &Rc<Measured>,
        number: f64,
        cx: &RunCx,
    ) -> Result<(Rc<str>, Option<f64>), NodeError> {
        let text: Rc<str> = format!("{number:.*}", self.digits).into();
        let length = cx.wanted("length").then(|| {
            measured.0.set(measured.0.get() + 1);
            text.len() as f64
        });
        Ok((text, length))
    }
}
blt_graph::node!(Show);

/// What `Show` provides to steps: how often it computed its optional output.
#[derive(Default)]
pub struct Measured(pub Cell<usize>);

/// Cuts a text into columns of equal width.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Columns {
    /// How many columns.
    #[serde(default = "four")]
    pub heads: usize,
}

fn four() -> usize {
    4
}

impl Node for Columns {
    const NAME: &'static str = "Columns";
    const INPUTS: &'static [&'static str] = &["text"];
    const OUTPUTS: &'static [&'static str] = &["count"];
    const EXAMPLE: &'static str = "{node: Columns, in: x}";
    type In = Text;
    type Out = Number;
    type State = ();
    fn check(&self, text: TextInfo, _: &CheckCx) -> Result<(), NodeError> {
        if text.width == 0 {
            return Err(NodeError::input("text", "it has no width"));
        }
        if !text.width.is_multiple_of(self.heads) {
            return Err(NodeError::param(
                "heads",
                format!("{} columns do not divide the width {}", self.heads, text.width),
            )
            .help(format!("choose a divisor of {}", text.width)));
        }
        Ok(())
    }
    fn build(&self, _: TextInfo, _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }
    fn run(&self, _: &(), text: Rc<str>, _: &RunCx) -> Result<f64, NodeError> {
        match text.len() {
            0 => Err(NodeError::other("an empty text has no columns")),
            length => Ok((length / self.heads) as f64),
        }
    }
}
blt_graph::node!(Columns);

/// Sums a goal over a number of batches, and can be stopped between any two of them.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Sum {
    /// What to sum.
    pub goal: String,
    /// How many batches.
    #[serde(default = "three")]
    pub steps: u64,
    /// Fails after so many batches.
    #[serde(default)]
    pub fail_after: Option<u64>,
    /// A file whose content the result depends on.
    #[serde(default)]
    pub file: Option<String>,
}

fn three() -> u64 {
    3
}

#[derive(Serialize, Deserialize, Default)]
struct SumState {
    done: u64,
    total: f64,
}

impl Step for Sum {
    const NAME: &'static str = "sum";
    const EXAMPLE: &'static str = "sum: {goal: x, steps: 10}";
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }
    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        let goal = plan.goal(&self.goal)?;
        if !goal.is::<Number>() {
            return Err(NodeError::param(
                "goal",
                format!("`{}` is {}, and only a Number can be summed", self.goal, goal.port_type),
            ));
        }
        Ok(())
    }
    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        let file = self.file.as_ref().map(|file| {
            std::fs::read_to_string(cx.base_dir().join(file)).map_err(|error| {
                StepError::other(format!("cannot read `{file}`: {error}"))
                    .help("give a file that exists")
            })
        });
        Ok(file.transpose()?.into_iter().collect())
    }
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let live = Live::build(cx.plan(), &[&self.goal], World::new())?;
        let path = cx.dir().join("state.json");
        let mut state: SumState = if cx.resumed() && path.exists() {
            serde_json::from_slice(&std::fs::read(&path)?)?
        } else {
            SumState::default()
        };
        let mut metrics = JsonLines::open(cx.dir().join("metrics.jsonl"), state.done)?;
        cx.progress().start("batches", Some(self.steps));
        while state.done < self.steps {
            if self.fail_after == Some(state.done) {
                return Err(StepError::other("it was told to fail").help("do not tell it to"));
            }
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            state.total += live.get::<Number>(&given(&live, state.done as f64), &self.goal)?;
            state.done += 1;
            metrics.push(&json!({"step": state.done, "total": state.total}))?;
            metrics.sync()?;
            write_atomic(&path, serde_json::to_vec(&state)?)?;
            cx.progress().update(state.done, &[("total", state.total.to_string())]);
        }
        std::fs::create_dir_all(cx.dir().join("checkpoints"))?;
        write_atomic(cx.dir().join("checkpoints/total.txt"), state.total.to_string())?;
        write_atomic(cx.dir().join("result.json"), json!({"total": state.total}).to_string())?;
        cx.progress().finish("summed");
        Ok(())
    }
}
blt_graph::step!(Sum);

/// Looks at a goal once, and changes nothing that a later step would see.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Look {
    /// What to look at.
    pub goal: String,
    /// Written beside it.
    #[serde(default)]
    pub note: String,
}

impl Step for Look {
    const NAME: &'static str = "look";
    const EXAMPLE: &'static str = "look: {goal: x}";
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }
    fn check(&self, _: &Plan) -> Result<(), NodeError> {
        Ok(())
    }
    fn feeds_later_steps(&self) -> bool {
        false
    }
    fn depends(&self, _: &StepCx) -> Result<Vec<String>, StepError> {
        Ok(Vec::new())
    }
    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let earlier: Vec<_> =
            cx.earlier().iter().map(|e| format!("{} {}", e.index, e.step)).collect();
        let live = Live::build(cx.plan(), &[&self.goal], World::new())?;
        live.run(&given(&live, 7.0), &[&self.goal])?;
        std::fs::create_dir_all(cx.dir().join("outputs"))?;
        write_atomic(cx.dir().join("outputs/earlier.txt"), earlier.join(", "))?;
        Ok(())
    }
}
blt_graph::step!(Look);
