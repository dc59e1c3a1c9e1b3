//! The [`Node`] trait, and the contexts that its functions receive.

use std::any::Any;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::NodeError;
use crate::port::{AnyInfo, AnyValue, Ports};
use crate::spec::GraphSpec;
use crate::world::World;

/// A node: a struct whose fields are its parameters, with serde and schemars derives, and one
/// registration line.
///
/// `nodes NAME` prints the doc comments of the struct and of its fields. A field with
/// `#[serde(default)]` may be left out in YAML. Unknown and missing parameters are refused before
/// the struct is made. No field may be called `node`, `in` or `doc`. Use `f64` for floating-point
/// parameters: an `f32` prints with noise digits.
///
/// The attributes `#[params]` and `#[node]` of the crate `blt-derive` write the derives, the
/// defaults, the name, the registration and what a node without a state repeats. This is a node
/// without them:
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
///         if !self.factor.is_finite() {
///             return Err(NodeError::param("factor", "not finite"));
///         }
///         Ok(())
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
    /// The value of `node:` in YAML.
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

    /// Checks the parameters and what is known of the inputs, and returns what is known of the
    /// outputs. An optional output that these parameters turn off is `None`. Opens no file.
    ///
    /// # Errors
    /// [`NodeError::param`] or [`NodeError::input`] where one is at fault, so that the diagnostic
    /// points at it.
    fn check(
        &self,
        inputs: <Self::In as Ports>::Infos,
        cx: &CheckCx,
    ) -> Result<<Self::Out as Ports>::Infos, NodeError>;

    /// Fingerprints of files: what the outputs depend on beside the parameters, the inputs and the
    /// seed. They are part of the keys of the steps that need this node. Called before the first
    /// step starts, so this is the place to check the files. May open files.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        let _ = base_dir;
        Ok(Vec::new())
    }

    /// The graph that a node of several parts stands for. In it, wires from outside have the names
    /// of this node's inputs. May open files.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn stands_for(&self, base_dir: &Path) -> Result<Option<GraphSpec>, NodeError> {
        let _ = base_dir;
        Ok(None)
    }

    /// The node's role in the model, for a program that reads a plan before anything is built. It
    /// is a value of a type that the program defines (`blt_plugins::ModelPart`), and
    /// [`Plan::role`](crate::Plan::role) finds it. `None`: no role.
    ///
    /// # Errors
    /// If the parameters and what is known of the inputs do not determine the value.
    fn role(&self, inputs: <Self::In as Ports>::Infos) -> Result<Option<Box<dyn Any>>, NodeError> {
        let _ = inputs;
        Ok(None)
    }

    /// Makes the state. May open files.
    ///
    /// # Errors
    /// If a file cannot be read, or the device fails.
    fn build(
        &self,
        inputs: <Self::In as Ports>::Infos,
        cx: &mut BuildCx,
    ) -> Result<Self::State, NodeError>;

    /// Computes the outputs for the current batch. An optional output is `Some` if
    /// [`RunCx::wanted`] returns true for it.
    ///
    /// A source of data does not implement this function. A step passes each batch to
    /// [`Live::run`](crate::Live::run) as the source's output, and the source itself does not run.
    /// The default returns the error that no step passed a batch.
    ///
    /// # Errors
    /// If the data is wrong, or the device fails.
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

/// The context of [`Node::check`].
#[derive(Debug, Clone, Copy)]
pub struct CheckCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// The folder that relative paths in parameters start from.
    pub base_dir: &'a Path,
    pub(crate) warnings: &'a RefCell<Vec<NodeError>>,
    pub(crate) facts: &'a RefCell<Vec<Rc<dyn Any>>>,
}

impl CheckCx<'_> {
    /// Reports a warning: something is allowed and probably not meant.
    pub fn warn(&self, warning: NodeError) {
        self.warnings.borrow_mut().push(warning);
    }

    /// States a fact of the node to those who read the plan, of a type that the program defines.
    /// They find it by type, with [`PlannedNode::fact`](crate::PlannedNode::fact).
    pub fn state<T: 'static>(&self, fact: T) {
        self.facts.borrow_mut().push(Rc::new(fact));
    }
}

/// The context of [`Node::build`].
pub struct BuildCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// The node's seed. It is derived from the pipeline's seed and the node's name, so adding a
    /// node changes no other node's numbers.
    pub seed: u64,
    /// The folder that relative paths in parameters start from.
    pub base_dir: &'a Path,
    /// The values that the step lends.
    pub world: &'a World,
    pub(crate) facilities: &'a mut Vec<(String, Rc<dyn Any>)>,
}

impl BuildCx<'_> {
    /// Offers `facility` to the step that builds this node: a source of documents, a set of
    /// parameters, a threshold that can be calibrated. The step finds it by type, with
    /// [`Live::facility`](crate::run::Live::facility). Returns the shared object, for the node's
    /// own state.
    pub fn provide<T: 'static>(&mut self, facility: T) -> Rc<T> {
        let facility = Rc::new(facility);
        self.facilities.push((self.node.to_string(), facility.clone()));
        facility
    }
}

/// The context of [`Node::run`].
pub struct RunCx<'a> {
    /// The node's name in the graph.
    pub node: &'a str,
    /// The values that the step lends.
    pub world: &'a World,
    pub(crate) outputs: &'a [&'static str],
    pub(crate) wanted: &'a [bool],
}

impl RunCx<'_> {
    /// Whether the output `port` is used in this run, by a node downstream or by the step itself.
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

/// A seed for the node or part `path`, from the pipeline's `seed`: `blake3(seed, path)`.
pub fn derive_seed(seed: u64, path: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("blt 2025 seed of a node");
    hasher.update(&seed.to_le_bytes());
    hasher.update(path.as_bytes());
    let mut first = [0u8; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}
