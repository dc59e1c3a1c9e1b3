//! Memory that is used again: scratch of a thread, and activations and gradients of a step.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of the calling thread's, handed back when dropped, so that tasks do not ask the system for pages. Its
/// contents are whatever was there.
pub(crate) struct Scratch {
    data: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub fn new(len: usize) -> Self {
        let mut data = FREE.with_borrow_mut(|free| free.pop()).unwrap_or_default();
        if data.len() < len {
            data = vec![0.0; len];
        }
        Self { data, len }
    }

    /// A buffer with a copy of `from`.
    pub fn copy(from: &[f32]) -> Self {
        let mut scratch = Self::new(from.len());
        scratch.copy_from_slice(from);
        scratch
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| free.push(std::mem::take(&mut self.data)));
    }
}

/// Free buffers, and the elements that are lent and were ever lent at once.
struct Pool {
    /// The longest free first.
    free: VecDeque<Vec<f32>>,
    pooled: usize,
    lent: usize,
    most: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: VecDeque::new(), pooled: 0, lent: 0, most: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    // Every step leaves the pool whole.
    POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Elements that a buffer of `len` gets: the next of sixteen sizes between powers of two, so that steps whose batches differ a little
/// find their buffers again.
fn capacity(len: usize) -> usize {
    len.next_multiple_of((len.next_power_of_two() / 32).max(1024))
}

/// A large buffer from a pool of the process, handed back when dropped: an activation's pages are asked of the system in the
/// first step, not in each (page faults were a sixth of a training step). Its contents are whatever was there. The pool
/// makes the process hold at most a sixteenth more than was once lent at a time; beyond that, what lay free the longest goes.
pub(crate) struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { data: Vec::new(), len };
        }
        let capacity = capacity(len);
        let mut pool = pool();
        pool.lent += capacity;
        pool.most = pool.most.max(pool.lent);
        // The latest freed is the likeliest to be in a cache.
        if let Some(fits) = pool.free.iter().rposition(|data| data.len() == capacity) {
            let data = pool.free.remove(fits).unwrap_or_default();
            pool.pooled -= capacity;
            return Self { data, len };
        }
        let mut dropped = Vec::new();
        while pool.pooled + pool.lent > pool.most + pool.most / 16
            && let Some(data) = pool.free.pop_front()
        {
            pool.pooled -= data.len();
            dropped.push(data);
        }
        drop(pool);
        drop(dropped);
        Self { data: vec![0.0; capacity], len }
    }

    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `from`.
    pub fn copy(from: &[f32]) -> Self {
        let mut buffer = Self::new(from.len());
        buffer.copy_from_slice(from);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(data: Vec<f32>) -> Self {
        Self::copy(&data)
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::copy(self)
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.data.is_empty() {
            return;
        }
        let mut pool = pool();
        pool.lent -= self.data.len();
        pool.pooled += self.data.len();
        pool.free.push_back(std::mem::take(&mut self.data));
    }
}
