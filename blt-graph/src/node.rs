//! The [`Node`] trait: what a node is, and what it is given.

use std::any::Any;
use std::cell::RefCell;
use std::error::Error as StdError;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::port::{AnyInfo, AnyValue, Ports};
use crate::spec::GraphSpec;
use crate::world::World;

/// A node: a struct whose fields are its parameters, with serde and schemars derives, and one
/// registration line.
///
/// The struct's doc comment is what `nodes NAME` prints, and so are its fields' doc comments; a
/// field with `#[serde(default)]` may be left out. Unknown and missing parameters are refused
/// before the struct sees them. No field may be called `node`, `in` or `doc`. Give floating-point
/// parameters as `f64`: an `f32` prints with noise digits.
///
/// ```
/// use blt_graph::{CheckCx, BuildCx, Node, NodeError, Port, RunCx};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// pub enum Number {}
/// impl Port for Number {
///     const NAME: &'static str = "Number";
///     const PORT: &'static str = "number";
///     type Value = f64;
///     type Info = ();
/// }
///
/// /// Multiplies a number.
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// pub struct Scale {
///     /// What to multiply by.
///     factor: f64,
/// }
///
/// impl Node for Scale {
///     const NAME: &'static str = "Scale";
///     const OUTPUTS: &'static [&'static str] = &["scaled"];
///     const EXAMPLE: &'static str = "{node: Scale, in: x, factor: 2.0}";
///     type In = Number;
///     type Out = Number;
///     type State = ();
///     fn check(&self, _: (), _: &CheckCx) -> Result<(), NodeError> {
///         if self.factor.is_finite() { Ok(()) } else { Err(NodeError::param("factor", "not finite")) }
///     }
///     fn build(&self, _: (), _: &mut BuildCx) -> Result<(), NodeError> {
///         Ok(())
///     }
///     fn run(&self, _: &(), number: f64, _: &RunCx) -> Result<f64, NodeError> {
///         Ok(number * self.factor)
///     }
/// }
/// blt_graph::node!(Scale);
/// # fn main() {}
/// ```
pub trait Node: Serialize + DeserializeOwned + JsonSchema + 'static {
    /// What `node:` says in YAML.
    const NAME: &'static str;
    /// Input port names, in the order of `In`; by default each port type's own,
    /// [`Port::PORT`](crate::Port::PORT).
    const INPUTS: &'static [&'static str] = <Self::In as Ports>::NAMES;
    /// Output port names, in the order of `Out`; by default each port type's own. The first is what
    /// a bare `node` wire means.
    const OUTPUTS: &'static [&'static str] = <Self::Out as Ports>::NAMES;
    /// The node in a pipeline, as a YAML flow mapping: `{node: Scale, in: x, factor: 2.0}`. Its
    /// wires may name anything.
    const EXAMPLE: &'static str;
    /// The inputs. `()` makes a source.
    type In: Ports;
    /// The outputs.
    type Out: Ports;
    /// What [`build`](Node::build) makes and [`run`](Node::run) uses: parameters on their device,
    /// buffers, tables.
    type State: 'static;

    /// Checks the parameters and what is known of the inputs; says what is known of the outputs. An
    /// optional output that these parameters do not give is `None`. Opens no file.
    ///
    /// # Errors
    /// [`NodeError::param`] or [`NodeError::input`] where one is at fault, so that the diagnostic
    /// points at it.
    fn check(
        &self,
        inputs: <Self::In as Ports>::Infos,
        cx: &CheckCx,
    ) -> Result<<Self::Out as Ports>::Infos, NodeError>;

    /// What the outputs depend on beside the parameters, the inputs and the seed: fingerprints of
    /// files. Part of the keys of steps that need this node. Asked before the first step
    /// starts, so what is wrong with the files is best found here. May open files.
    ///
    /// # Errors
    /// What the files answer.
    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        let _ = base_dir;
        Ok(Vec::new())
    }

    /// The graph that a node of several parts stands for; wires from outside carry the names of
    /// this node's inputs. May open files.
    ///
    /// # Errors
    /// What the files answer.
    fn stands_for(&self, base_dir: &Path) -> Result<Option<GraphSpec>, NodeError> {
        let _ = base_dir;
        Ok(None)
    }

    /// What this node is to a program that looks at a plan before anything is built: a value of a
    /// type that the program defines (`blt_plugins::ModelPart`), found with
    /// [`Plan::role`](crate::Plan::role). `None`: nothing in particular.
    ///
    /// # Errors
    /// If the parameters and what is known of the inputs do not give the value.
    fn role(&self, inputs: <Self::In as Ports>::Infos) -> Result<Option<Box<dyn Any>>, NodeError> {
        let _ = inputs;
        Ok(None)
    }

    /// Makes the state. May open files.
    ///
    /// # Errors
    /// What the files or the device answer.
    fn build(
        &self,
        inputs: <Self::In as Ports>::Infos,
        cx: &mut BuildCx,
    ) -> Result<Self::State, NodeError>;

    /// Computes the outputs for the current batch. An optional output is `Some` if
    /// [`RunCx::wanted`] returns true for it.
    ///
    /// A source of data leaves this function out: a step gives [`Live::run`](crate::Live::run) the
    /// source's value of each batch, and the source itself is not run. By default the function
    /// reports that no step did.
    ///
    /// # Errors
    /// What the data or the device answer.
    fn run(
        &self,
        state: &Self::State,
        inputs: <Self::In as Ports>::Values,
        cx: &RunCx,
    ) -> Result<<Self::Out as Ports>::Values, NodeError> {
        let _ = (state, inputs, cx);
        Err(NodeError::other("no step has handed in a batch"))
    }
}

/// What a node or a step found wrong, and which part of it is at fault.
///
/// Like a boxed error, it takes any other by `?`, and therefore is not [`std::error::Error`]
/// itself; the graph turns it into a [`Diagnostic`](crate::diagnostic::Diagnostic) that points at
/// the node's line.
#[derive(Debug)]
pub struct NodeError {
    pub(crate) at: At,
    pub(crate) error: Box<dyn StdError + Send + Sync>,
    pub(crate) help: Option<String>,
}

/// The part of a node that a [`NodeError`] is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Param(String),
    Input(String),
    Node,
}

impl NodeError {
    /// The parameter `name` is wrong; `name` may go deeper: `split.valid`.
    pub fn param(
        name: impl Into<String>,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        NodeError { at: At::Param(name.into()), error: error.into(), help: None }
    }

    /// What is known of the input `port` does not fit.
    pub fn input(
        port: impl Into<String>,
        error: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        NodeError { at: At::Input(port.into()), error: error.into(), help: None }
    }

    /// Anything else: a message, or an error (boxed ones too).
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        NodeError { at: At::Node, error: error.into(), help: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn without_help(mut self) -> Self {
        self.help = None;
        self
    }

    /// The message, causes included, on one line.
    pub fn message(&self) -> String {
        chain(self.error.as_ref())
    }
}

/// An error and its causes, joined by `: `; a cause that its parent's message already quotes is not
/// said twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Param(name) => write!(f, "parameter `{name}`: ")?,
            At::Input(port) => write!(f, "input `{port}`: ")?,
            At::Node => {}
        }
        f.write_str(&self.message())?;
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        Ok(())
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for NodeError {
    fn from(error: E) -> Self {
        NodeError::other(error)
    }
}

/// What [`Node::check`] is given.
#[derive(Debug, Clone, Copy)]
pub struct CheckCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// The folder that relative paths in parameters start from.
    pub base_dir: &'a Path,
    pub(crate) warnings: &'a RefCell<Vec<NodeError>>,
}

impl CheckCx<'_> {
    /// Warns of what is allowed, and probably not meant.
    pub fn warn(&self, warning: NodeError) {
        self.warnings.borrow_mut().push(warning);
    }
}

/// What [`Node::build`] is given.
pub struct BuildCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// Derived from the pipeline's seed and the node's name, so that adding a node moves no other
    /// node's numbers.
    pub seed: u64,
    /// The folder that relative paths in parameters start from.
    pub base_dir: &'a Path,
    /// What the step lends.
    pub world: &'a World,
    pub(crate) facilities: &'a mut Vec<(String, Rc<dyn Any>)>,
}

impl BuildCx<'_> {
    /// Offers `facility` to the step that built this node, which finds it by type with
    /// [`Live::facility`](crate::run::Live::facility): a source of documents, a set of parameters,
    /// a threshold that can be calibrated. Returns the shared object, for the node's own state.
    pub fn provide<T: 'static>(&mut self, facility: T) -> Rc<T> {
        let facility = Rc::new(facility);
        self.facilities.push((self.node.to_string(), facility.clone()));
        facility
    }
}

/// What [`Node::run`] is given.
pub struct RunCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// What the step lends.
    pub world: &'a World,
    pub(crate) outputs: &'a [&'static str],
    pub(crate) wanted: &'a [bool],
}

impl RunCx<'_> {
    /// Whether somebody uses the output `port` in this run: a node downstream, or the step itself.
    pub fn wanted(&self, port: &str) -> bool {
        self.outputs.iter().position(|name| *name == port).is_some_and(|index| self.wanted[index])
    }
}

/// A [`Node`] with its types erased.
pub(crate) trait AnyNode: Any {
    fn check(
        &self,
        inputs: &[Option<AnyInfo>],
        cx: &CheckCx,
    ) -> Result<Vec<Option<AnyInfo>>, NodeError>;
    fn build(
        &self,
        inputs: &[Option<AnyInfo>],
        cx: &mut BuildCx,
    ) -> Result<Box<dyn Any>, NodeError>;
    fn run(
        &self,
        state: &dyn Any,
        inputs: Vec<Option<AnyValue>>,
        cx: &RunCx,
    ) -> Result<Vec<Option<AnyValue>>, NodeError>;
    fn params(&self) -> Result<serde_json::Value, serde_json::Error>;
    fn role(&self, inputs: &[Option<AnyInfo>]) -> Result<Option<Box<dyn Any>>, NodeError>;
    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError>;
    fn stands_for(&self, base_dir: &Path) -> Result<Option<GraphSpec>, NodeError>;
}

impl<N: Node> AnyNode for N {
    fn check(
        &self,
        inputs: &[Option<AnyInfo>],
        cx: &CheckCx,
    ) -> Result<Vec<Option<AnyInfo>>, NodeError> {
        Node::check(self, N::In::infos(inputs), cx).map(N::Out::erase_infos)
    }
    fn build(
        &self,
        inputs: &[Option<AnyInfo>],
        cx: &mut BuildCx,
    ) -> Result<Box<dyn Any>, NodeError> {
        Ok(Box::new(Node::build(self, N::In::infos(inputs), cx)?))
    }
    fn run(
        &self,
        state: &dyn Any,
        inputs: Vec<Option<AnyValue>>,
        cx: &RunCx,
    ) -> Result<Vec<Option<AnyValue>>, NodeError> {
        let state =
            state.downcast_ref::<N::State>().expect("a node runs on the state that it built");
        Node::run(self, state, N::In::values(inputs), cx).map(N::Out::erase_values)
    }
    fn params(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }
    fn role(&self, inputs: &[Option<AnyInfo>]) -> Result<Option<Box<dyn Any>>, NodeError> {
        Node::role(self, N::In::infos(inputs))
    }
    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        Node::depends(self, base_dir)
    }
    fn stands_for(&self, base_dir: &Path) -> Result<Option<GraphSpec>, NodeError> {
        Node::stands_for(self, base_dir)
    }
}

/// A seed for `path` from the seed of the whole: `blake3(seed, path)`.
pub fn derive_seed(seed: u64, path: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("blt 2025 seed of a node");
    hasher.update(&seed.to_le_bytes());
    hasher.update(path.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}
