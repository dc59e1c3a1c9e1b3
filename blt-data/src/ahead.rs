//! A thread that makes values ahead of the thread that takes them.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Values that a thread of its own makes in advance.
pub(crate) struct Ahead<T> {
    /// None while this is dropped.
    receiver: Option<Receiver<T>>,
    /// None once it was joined.
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts a thread that calls `make` until `is_last` is true of what it made. At most `ahead`
    /// values (1 or more) wait to be taken.
    pub fn start(
        ahead: usize,
        is_last: impl Fn(&T) -> bool + Send + 'static,
        mut make: impl FnMut() -> T + Send + 'static,
    ) -> Self {
        // The thread holds one more, which it waits to send.
        let (sender, receiver) = sync_channel(ahead.saturating_sub(1));
        let thread = std::thread::spawn(move || {
            loop {
                let made = make();
                let last = is_last(&made);
                // Sending fails once this was dropped.
                if sender.send(made).is_err() || last {
                    break;
                }
            }
        });
        Ahead { receiver: Some(receiver), thread: Some(thread) }
    }

    /// The next value; None after the last. A panic of the thread goes on here.
    pub fn next(&mut self) -> Option<T> {
        match self.receiver.as_ref().map(Receiver::recv) {
            Some(Ok(made)) => Some(made),
            _ => match self.thread.take().map(JoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                _ => None,
            },
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        // A thread that waits to send ends when the receiver is dropped.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // Nobody waits for a value, so a panic has nobody to go on in.
            let _ = thread.join();
        }
    }
}
