//! [`World`]: what a step lends to the nodes that it runs.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A map from types to one value each. A step puts in what nodes need and wires do not carry (a
/// backend session, the current batch), and nodes take it out by its type. This crate knows none of
/// those types.
///
/// A program lends to steps in the same way ([`Runner::lend`](crate::run::Runner::lend)).
///
/// It is shared: [`insert`](World::insert) takes `&self`, so that a step swaps the batch between
/// two runs of a graph.
#[derive(Default)]
pub struct World {
    // Looked up by type alone and never iterated, so its order reaches no result.
    entries: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `value` in, in place of an earlier one of the same type, which is returned.
    pub fn insert<T: 'static>(&self, value: T) -> Option<Rc<T>> {
        let old = self.entries.borrow_mut().insert(TypeId::of::<T>(), Rc::new(value));
        old.and_then(|old| old.downcast().ok())
    }

    /// The value of type `T`, if there is one.
    pub fn get<T: 'static>(&self) -> Option<Rc<T>> {
        self.entries
            .borrow()
            .get(&TypeId::of::<T>())
            .cloned()
            .and_then(|value| value.downcast().ok())
    }

    /// Takes the value of type `T` out.
    pub fn remove<T: 'static>(&self) -> Option<Rc<T>> {
        self.entries.borrow_mut().remove(&TypeId::of::<T>()).and_then(|value| value.downcast().ok())
    }

    /// Has `observer` told of each node before and after it runs.
    pub fn observe(&self, observer: Rc<dyn NodeObserver>) {
        self.insert(observer);
    }

    pub(crate) fn observer(&self) -> Option<Rc<dyn NodeObserver>> {
        self.get::<Rc<dyn NodeObserver>>().map(|observer| (*observer).clone())
    }
}

/// What a user can do about an error of a node, where the node itself says nothing: a step inserts
/// it, so that a node's `?` on an error of the backend is enough. None: nothing is known.
pub struct ErrorHelp(pub fn(&(dyn std::error::Error + 'static)) -> Option<String>);

/// Told of each node as a graph runs, so that a step can attribute time and FLOPs to nodes.
pub trait NodeObserver {
    /// Node `node` is about to run.
    fn before(&self, node: &str);
    /// Node `node` has run without an error.
    fn after(&self, node: &str);
}

#[cfg(test)]
mod tests {
    use super::World;

    #[test]
    fn one_value_a_type() {
        let world = World::new();
        assert!(world.insert(1u32).is_none());
        world.insert("one");
        assert_eq!(*world.insert(2u32).unwrap(), 1);
        assert_eq!((*world.get::<u32>().unwrap(), *world.get::<&str>().unwrap()), (2, "one"));
        assert_eq!(*world.remove::<u32>().unwrap(), 2);
        assert!(world.get::<u32>().is_none());
    }
}
