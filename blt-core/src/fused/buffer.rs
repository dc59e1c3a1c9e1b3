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

/// Elements that a new buffer of `len` gets: whole pages.
fn capacity(len: usize) -> usize {
    len.next_multiple_of(1024)
}

/// The largest free buffer that is lent for `len`: batches differ a little from step to step.
fn largest(len: usize) -> usize {
    capacity(len) + len / 16
}

/// A large buffer from a pool of the process, handed back when dropped: an activation's pages are asked of the system in the
/// first step, not in each (page faults were a sixth of a training step). Its contents are whatever was there. The pool
/// makes the process hold no more than was once lent at a time: before it grows beyond that, what lay free the longest goes.
pub(crate) struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { data: Vec::new(), len };
        }
        let mut pool = pool();
        // The closest fit; of equal ones the latest freed, which is the likeliest to be in a cache.
        let fits = |data: &Vec<f32>| data.len() >= len && data.len() <= largest(len);
        let free = pool.free.iter().enumerate().rev().filter(|(_, data)| fits(data));
        if let Some(at) = free.min_by_key(|(_, data)| data.len()).map(|(at, _)| at) {
            let data = pool.free.remove(at).unwrap_or_default();
            pool.pooled -= data.len();
            pool.lent += data.len();
            pool.most = pool.most.max(pool.lent);
            return Self { data, len };
        }
        let capacity = capacity(len);
        pool.lent += capacity;
        pool.most = pool.most.max(pool.lent);
        let mut dropped = Vec::new();
        while pool.pooled + pool.lent > pool.most
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
