//! [`Stop`]: whether the user wants to stop, for work that does not ask by itself.

use blt_graph::{BuildCx, StepCx, StepError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often a signal is looked for while other code works.
const EVERY: Duration = Duration::from_millis(50);

/// Becomes true when the user stops the run. A step lends it to the nodes that it builds.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The run's.
    pub fn of_step(cx: &StepCx) -> Self {
        Stop(cx.interrupt())
    }

    /// What the step lends to the node being built; without one, nobody stops.
    pub fn of_node(cx: &BuildCx) -> Self {
        cx.world.get::<Stop>().map(|stop| (*stop).clone()).unwrap_or_default()
    }

    /// Does `work` on a thread of its own, and waits for it: for work that may take long and asks
    /// nobody, as learning merges. Once the run is stopped, the work is left behind; it ends with
    /// the process, and what it makes is dropped.
    ///
    /// # Errors
    /// [`StepError::Interrupted`].
    pub fn or_end_of<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StepError> {
        let (done, end) = channel();
        let worker = std::thread::spawn(move || done.send(work()).unwrap_or_default());
        loop {
            match end.recv_timeout(EVERY) {
                Ok(made) => return Ok(made),
                Err(RecvTimeoutError::Timeout) if self.0.load(Ordering::Relaxed) => {
                    return Err(StepError::Interrupted);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Err(StepError::other("a thread ended without a result")),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_never_ends_is_left_behind() {
        let (_open, never) = channel::<u32>();
        let stop = Stop(Arc::new(AtomicBool::new(true)));
        let left = stop.or_end_of(move || never.recv());
        assert!(matches!(left, Err(StepError::Interrupted)));
    }

    #[test]
    fn work_that_ends_is_had() {
        assert_eq!(Stop::default().or_end_of(|| 3).ok(), Some(3));
    }
}
