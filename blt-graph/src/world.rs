//! [`World`]: what a step lends to the nodes that it builds and runs.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::rc::Rc;

/// A map from types to one value each: what nodes need and wires do not carry, such as the session
/// of a backend. A step fills it before it builds a graph, and nodes look values up by type. This
/// crate knows none of those types. Batches are not lent: they are an argument of
/// [`Live::run`](crate::run::Live::run).
///
/// A program lends to steps in the same way ([`Runner::lend`](crate::run::Runner::lend)).
#[derive(Clone, Default)]
pub struct World {
    // Looked up by type and never iterated, so its order reaches no result.
    entries: HashMap<TypeId, Rc<dyn Any>>,
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value`, in place of an earlier one of the same type. Returns the shared value.
    pub fn insert<T: 'static>(&mut self, value: T) -> Rc<T> {
        let value = Rc::new(value);
        self.entries.insert(TypeId::of::<T>(), value.clone());
        value
    }

    /// The value of type `T`, if there is one.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.entries.get(&TypeId::of::<T>()).cloned().and_then(|value| value.downcast().ok())
    }
}

/// What a user can do about an error of a node, where the node itself gives no help: with it in the
/// world, a `?` on an error of the backend is enough in a node. None: nothing is known.
pub struct ErrorHelp(pub fn(&(dyn std::error::Error + 'static)) -> Option<String>);

#[cfg(test)]
mod tests {
    use super::World;

    #[test]
    fn one_value_a_type() {
        let mut world = World::new();
        world.insert(1u32);
        world.insert("one");
        assert_eq!(*world.insert(2u32), 2);
        assert_eq!((*world.get::<u32>().unwrap(), *world.get::<&str>().unwrap()), (2, "one"));
        assert!(world.get::<u64>().is_none());
    }
}
