//! Port types, and the tuples of them that a node's inputs and outputs are.
//!
//! A [`Port`] is a marker type, usually an empty enum, so the type of its values may be in a crate
//! that knows no graphs. A *slot* is a port `P`, or `Option<P>`: an input that may be left out, or
//! an output that is computed only when it is used. [`Ports`] is `()`, one slot, or a tuple of one
//! to five slots.

use std::any::{Any, TypeId};
use std::fmt::{self, Debug};
use std::marker::PhantomData;
use std::rc::Rc;

/// The type of a wire.
///
/// ```
/// pub enum Text {}
/// impl blt_graph::Port for Text {
///     const NAME: &'static str = "Text";
///     const PORT: &'static str = "text";
///     type Value = std::rc::Rc<str>;
///     type Info = ();
/// }
/// ```
pub trait Port: 'static {
    /// The name in help and diagnostics.
    const NAME: &'static str;
    /// The default name of an input or output of this type.
    const PORT: &'static str;
    /// The value on a wire while the graph runs. It is cloned for each consumer but the last, so
    /// put large data behind an `Rc`.
    type Value: Clone + 'static;
    /// What is known of the values before any data is read: widths, vocabulary sizes, counts. `()`
    /// for nothing.
    type Info: Clone + Debug + 'static;
}

/// A slot at run time: the port type, and whether the slot is optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotType {
    /// The identity of the port's marker type. A wire joins slots of equal identity.
    pub id: TypeId,
    /// [`Port::NAME`].
    pub name: &'static str,
    /// Whether the slot is `Option<P>` rather than `P`.
    pub optional: bool,
}

trait AnyDebug: Any {
    fn as_any(&self) -> &dyn Any;
    fn debug(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl<T: Any + Debug> AnyDebug for T {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn debug(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self, f)
    }
}

/// A port's [`Info`](Port::Info) with its type erased.
#[derive(Clone)]
pub struct AnyInfo {
    port: TypeId,
    info: Rc<dyn AnyDebug>,
}

impl AnyInfo {
    /// Erases the type of `info`.
    pub fn new<P: Port>(info: P::Info) -> Self {
        AnyInfo { port: TypeId::of::<P>(), info: Rc::new(info) }
    }

    /// The info, if it is one of port `P`.
    pub fn get<P: Port>(&self) -> Option<&P::Info> {
        // `Rc<dyn AnyDebug>` implements `AnyDebug` too, and method lookup finds it first, so name the
        // inner object.
        if self.port == TypeId::of::<P>() { (*self.info).as_any().downcast_ref() } else { None }
    }
}

impl Debug for AnyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (*self.info).debug(f)
    }
}

/// A port's [`Value`](Port::Value) with its type erased.
#[derive(Clone)]
pub struct AnyValue {
    port: TypeId,
    name: &'static str,
    value: Rc<dyn Any>,
}

impl AnyValue {
    /// Erases the type of `value`.
    pub fn new<P: Port>(value: P::Value) -> Self {
        AnyValue { port: TypeId::of::<P>(), name: P::NAME, value: Rc::new(value) }
    }

    /// The value, if it is one of port `P`. Moved for the last holder, cloned for others.
    pub fn take<P: Port>(self) -> Option<P::Value> {
        if self.port != TypeId::of::<P>() {
            return None;
        }
        let value = self.value.downcast::<P::Value>().ok()?;
        Some(Rc::try_unwrap(value).unwrap_or_else(|shared| (*shared).clone()))
    }

    /// Whether the value is of the port type of `slot`.
    pub(crate) fn fits(&self, slot: &SlotType) -> bool {
        self.port == slot.id
    }

    /// [`Port::NAME`] of the value's port type.
    pub fn port_name(&self) -> &'static str {
        self.name
    }
}

impl Debug for AnyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnyValue({})", self.name)
    }
}

/// A typed handle on one output of a node that was [added](crate::dsl::Graph::add) to a graph in
/// Rust.
pub struct Wire<P> {
    node: String,
    port: &'static str,
    /// Whether `port` is the node's first output, the one that a bare `node` means in YAML.
    first: bool,
    marker: PhantomData<fn() -> P>,
}

impl<P> Clone for Wire<P> {
    fn clone(&self) -> Self {
        Wire { node: self.node.clone(), port: self.port, first: self.first, marker: PhantomData }
    }
}

impl<P: Port> Debug for Wire<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire<{}>({})", P::NAME, self.path())
    }
}

impl<P> Wire<P> {
    /// A wire called `name`, from outside the graph under construction.
    pub fn outside(name: &str) -> Self {
        Wire { node: name.to_string(), port: "", first: true, marker: PhantomData }
    }

    /// The wire as YAML spells it: `node` for a node's first output, `node.port` for the others.
    pub fn path(&self) -> String {
        if self.first { self.node.clone() } else { format!("{}.{}", self.node, self.port) }
    }
}

/// One input or output: a [`Port`] `P`, or `Option<P>`. Implemented for these two alone.
pub trait Slot: 'static {
    /// The port itself.
    type Port: Port;
    /// `P::Info`, or `Option` of it.
    type Info;
    /// `P::Value`, or `Option` of it.
    type Value;
    /// Whether this is `Option<P>`.
    const OPTIONAL: bool;
    #[doc(hidden)]
    fn info(erased: Option<&AnyInfo>) -> Self::Info;
    #[doc(hidden)]
    fn erase_info(info: Self::Info) -> Option<AnyInfo>;
    #[doc(hidden)]
    fn value(erased: Option<AnyValue>) -> Self::Value;
    #[doc(hidden)]
    fn erase_value(value: Self::Value) -> Option<AnyValue>;
}

// The graph checks port types and presence before it calls a node, so these fail only if this crate
// has a bug.
const CHECKED: &str =
    "the plan joins only wires of one port type, and leaves no required input out";

impl<P: Port> Slot for P {
    type Port = P;
    type Info = P::Info;
    type Value = P::Value;
    const OPTIONAL: bool = false;
    fn info(erased: Option<&AnyInfo>) -> P::Info {
        erased.and_then(AnyInfo::get::<P>).cloned().expect(CHECKED)
    }
    fn erase_info(info: P::Info) -> Option<AnyInfo> {
        Some(AnyInfo::new::<P>(info))
    }
    fn value(erased: Option<AnyValue>) -> P::Value {
        erased.and_then(AnyValue::take::<P>).expect(CHECKED)
    }
    fn erase_value(value: P::Value) -> Option<AnyValue> {
        Some(AnyValue::new::<P>(value))
    }
}

impl<P: Port> Slot for Option<P> {
    type Port = P;
    type Info = Option<P::Info>;
    type Value = Option<P::Value>;
    const OPTIONAL: bool = true;
    fn info(erased: Option<&AnyInfo>) -> Option<P::Info> {
        erased.map(|e| e.get::<P>().cloned().expect(CHECKED))
    }
    fn erase_info(info: Option<P::Info>) -> Option<AnyInfo> {
        info.map(AnyInfo::new::<P>)
    }
    fn value(erased: Option<AnyValue>) -> Option<P::Value> {
        erased.map(|e| e.take::<P>().expect(CHECKED))
    }
    fn erase_value(value: Option<P::Value>) -> Option<AnyValue> {
        value.map(AnyValue::new::<P>)
    }
}

fn slot_type<S: Slot>() -> SlotType {
    SlotType { id: TypeId::of::<S::Port>(), name: S::Port::NAME, optional: S::OPTIONAL }
}

/// A node's inputs or outputs: `()`, one slot, or a tuple of one to five slots.
pub trait Ports: 'static {
    /// What is known of each slot before data is read: a tuple of [`Port::Info`], or `Option` of it
    /// for an optional slot. A single slot has no tuple.
    type Infos;
    /// The values, in the same form.
    type Values;
    /// Typed handles on outputs, in the same form. An optional output has a plain wire; it is
    /// computed if the wire is used.
    type Wires;
    /// [`Port::PORT`] of each.
    const NAMES: &'static [&'static str];
    #[doc(hidden)]
    fn slots() -> Vec<SlotType>;
    #[doc(hidden)]
    fn infos(erased: &[Option<AnyInfo>]) -> Self::Infos;
    #[doc(hidden)]
    fn erase_infos(infos: Self::Infos) -> Vec<Option<AnyInfo>>;
    #[doc(hidden)]
    fn values(erased: Vec<Option<AnyValue>>) -> Self::Values;
    #[doc(hidden)]
    fn erase_values(values: Self::Values) -> Vec<Option<AnyValue>>;
    #[doc(hidden)]
    fn wires(node: &str, ports: &'static [&'static str]) -> Self::Wires;
}

fn wire<P>(node: &str, ports: &'static [&'static str], index: usize) -> Wire<P> {
    Wire {
        node: node.to_string(),
        port: ports.get(index).copied().unwrap_or_default(),
        first: index == 0,
        marker: PhantomData,
    }
}

impl Ports for () {
    type Infos = ();
    type Values = ();
    type Wires = ();
    const NAMES: &'static [&'static str] = &[];
    fn slots() -> Vec<SlotType> {
        Vec::new()
    }
    fn infos(_: &[Option<AnyInfo>]) {}
    fn erase_infos((): ()) -> Vec<Option<AnyInfo>> {
        Vec::new()
    }
    fn values(_: Vec<Option<AnyValue>>) {}
    fn erase_values((): ()) -> Vec<Option<AnyValue>> {
        Vec::new()
    }
    fn wires(_: &str, _: &'static [&'static str]) {}
}

impl<S: Slot> Ports for S {
    type Infos = S::Info;
    type Values = S::Value;
    type Wires = Wire<S::Port>;
    const NAMES: &'static [&'static str] = &[<S::Port as Port>::PORT];
    fn slots() -> Vec<SlotType> {
        vec![slot_type::<S>()]
    }
    fn infos(erased: &[Option<AnyInfo>]) -> S::Info {
        S::info(erased[0].as_ref())
    }
    fn erase_infos(info: S::Info) -> Vec<Option<AnyInfo>> {
        vec![S::erase_info(info)]
    }
    fn values(erased: Vec<Option<AnyValue>>) -> S::Value {
        S::value(erased.into_iter().next().flatten())
    }
    fn erase_values(value: S::Value) -> Vec<Option<AnyValue>> {
        vec![S::erase_value(value)]
    }
    fn wires(node: &str, ports: &'static [&'static str]) -> Wire<S::Port> {
        wire(node, ports, 0)
    }
}

/// Wires that a node's inputs accept, in [`Graph::add`](crate::dsl::Graph::add): `()` for none, a
/// [`Wire`] or `&Wire` for one, a tuple of them for more. An optional input takes a wire, or
/// `None::<Wire<P>>`.
#[diagnostic::on_unimplemented(
    message = "these wires do not fit the node's inputs `{Inputs}`",
    label = "expected wires for `{Inputs}`, found `{Self}`",
    note = "an input of port `P` takes a `Wire<P>` or `&Wire<P>`; two or more inputs take a tuple of wires, in the node's order"
)]
pub trait IntoWires<Inputs> {
    #[doc(hidden)]
    fn paths(self) -> Vec<Option<String>>;
}

/// A wire that one slot accepts.
#[diagnostic::on_unimplemented(
    message = "this wire does not fit an input of `{S}`",
    label = "expected a wire for `{S}`, found `{Self}`"
)]
pub trait IntoSlot<S> {
    #[doc(hidden)]
    fn wire_path(self) -> Option<String>;
}

impl<P: Port> IntoSlot<P> for Wire<P> {
    fn wire_path(self) -> Option<String> {
        Some(self.path())
    }
}
impl<P: Port> IntoSlot<P> for &Wire<P> {
    fn wire_path(self) -> Option<String> {
        Some(self.path())
    }
}
impl<P: Port> IntoSlot<Option<P>> for Wire<P> {
    fn wire_path(self) -> Option<String> {
        Some(self.path())
    }
}
impl<P: Port> IntoSlot<Option<P>> for &Wire<P> {
    fn wire_path(self) -> Option<String> {
        Some(self.path())
    }
}
impl<P: Port> IntoSlot<Option<P>> for Option<Wire<P>> {
    fn wire_path(self) -> Option<String> {
        self.map(|w| w.path())
    }
}
impl<P: Port> IntoSlot<Option<P>> for Option<&Wire<P>> {
    fn wire_path(self) -> Option<String> {
        self.map(Wire::path)
    }
}

impl IntoWires<()> for () {
    fn paths(self) -> Vec<Option<String>> {
        Vec::new()
    }
}

macro_rules! single_wires {
    ($(($($generics:tt)*) $slot:ty, $wire:ty;)*) => {$(
        impl<$($generics)*> IntoWires<$slot> for $wire {
            fn paths(self) -> Vec<Option<String>> {
                vec![IntoSlot::<$slot>::wire_path(self)]
            }
        }
    )*};
}
single_wires! {
    (P: Port) P, Wire<P>;
    (P: Port) P, &Wire<P>;
    (P: Port) Option<P>, Wire<P>;
    (P: Port) Option<P>, &Wire<P>;
    (P: Port) Option<P>, Option<Wire<P>>;
    (P: Port) Option<P>, Option<&Wire<P>>;
}

macro_rules! tuple_ports {
    ($($slot:ident $w:ident $index:tt),+) => {
        impl<$($slot: Slot),+> Ports for ($($slot,)+) {
            type Infos = ($($slot::Info,)+);
            type Values = ($($slot::Value,)+);
            type Wires = ($(Wire<$slot::Port>,)+);
            const NAMES: &'static [&'static str] = &[$(<$slot::Port as Port>::PORT),+];
            fn slots() -> Vec<SlotType> {
                vec![$(slot_type::<$slot>()),+]
            }
            fn infos(erased: &[Option<AnyInfo>]) -> Self::Infos {
                ($($slot::info(erased[$index].as_ref()),)+)
            }
            fn erase_infos(infos: Self::Infos) -> Vec<Option<AnyInfo>> {
                vec![$($slot::erase_info(infos.$index)),+]
            }
            fn values(erased: Vec<Option<AnyValue>>) -> Self::Values {
                let mut erased = erased.into_iter();
                ($($slot::value(erased.next().flatten()),)+)
            }
            fn erase_values(values: Self::Values) -> Vec<Option<AnyValue>> {
                vec![$($slot::erase_value(values.$index)),+]
            }
            fn wires(node: &str, ports: &'static [&'static str]) -> Self::Wires {
                ($(wire::<$slot::Port>(node, ports, $index),)+)
            }
        }
        impl<$($slot: Slot, $w: IntoSlot<$slot>),+> IntoWires<($($slot,)+)> for ($($w,)+) {
            fn paths(self) -> Vec<Option<String>> {
                vec![$(self.$index.wire_path()),+]
            }
        }
    };
}
tuple_ports!(A WA 0);
tuple_ports!(A WA 0, B WB 1);
tuple_ports!(A WA 0, B WB 1, C WC 2);
tuple_ports!(A WA 0, B WB 1, C WC 2, D WD 3);
tuple_ports!(A WA 0, B WB 1, C WC 2, D WD 3, E WE 4);
