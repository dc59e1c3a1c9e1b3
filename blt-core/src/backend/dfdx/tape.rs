//! A dfdx tape that many values share, so that a value may have any number of consumers.

use dfdx::optim::UnusedTensors;
use dfdx::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

type BackwardOp<E, D> = Box<dyn FnOnce(&mut Gradients<E, D>) -> Result<(), <D as HasErr>::Err>>;
type BackwardOps<E, D> = Rc<RefCell<Vec<BackwardOp<E, D>>>>;

/// Backward operations in the order of execution, shared by all values computed on it; or, by
/// default, nothing: then operations are not recorded and intermediates are freed as they are
/// consumed.
pub struct SharedTape<E, D: Storage<E>>(Option<BackwardOps<E, D>>);

impl<E, D: Storage<E>> SharedTape<E, D> {
    pub fn recording() -> Self {
        SharedTape(Some(Default::default()))
    }

    /// Runs the recorded operations backward and empties the tape. The gradient of what the tape
    /// computed is in `grads`.
    pub fn run(&self, grads: &mut Gradients<E, D>) -> Result<(), D::Err> {
        let ops = self
            .0
            .iter()
            .flat_map(|ops| std::mem::take(&mut *ops.borrow_mut()))
            .collect::<Vec<_>>();
        ops.into_iter().rev().try_for_each(|op| op(grads))
    }
}

impl<E, D: Storage<E>> Clone for SharedTape<E, D> {
    fn clone(&self) -> Self {
        SharedTape(self.0.clone())
    }
}

impl<E, D: Storage<E>> Default for SharedTape<E, D> {
    fn default() -> Self {
        SharedTape(None)
    }
}

impl<E, D: Storage<E>> Merge<NoneTape> for SharedTape<E, D> {
    fn merge(self, _: NoneTape) -> Self {
        self
    }
}

impl<E, D: Storage<E>> Merge<SharedTape<E, D>> for SharedTape<E, D> {
    fn merge(self, other: Self) -> Self {
        debug_assert!(match (&self.0, &other.0) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            _ => true,
        });
        if self.0.is_some() { self } else { other }
    }
}

impl<E, D: Storage<E>> Tape<E, D> for SharedTape<E, D> {
    const OWNS_TAPE: bool = true;

    fn add_backward_op<F>(&mut self, op: F)
    where
        F: 'static + FnOnce(&mut Gradients<E, D>) -> Result<(), D::Err>,
    {
        if let Some(ops) = &self.0 {
            ops.borrow_mut().push(Box::new(op));
        }
    }
}

/// The key of a tensor's gradient: views of one tensor (reshaped, permuted, broadcast) share it.
/// dfdx keeps the field to itself, and tells it through its list of unused tensors.
pub fn id_of<S: Shape, E: Unit, D: Storage<E>>(x: &Tensor<S, E, D>) -> UniqueId {
    let mut ids = UnusedTensors::default();
    ids.add(x);
    ids.ids[0]
}
