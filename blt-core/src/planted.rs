//! Bugs that tests plant, to prove that a regression run notices them.
//!
//! Each is one that was seen in some implementation, at the one place where its meaning stands.
//! [`plant`] is the only way to one: no flag, file or environment variable of the program leads
//! here, so nobody runs with a bug by accident. It is code and not a feature of the build, so that
//! the program that is tested is the program that is used, and nothing is compiled twice. A place
//! asks [`planted`] once for an operation over a whole batch, which is one relaxed load.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A byte reads the latent of its own patch, which has not ended.
    DecoderShift = 1,
    /// The newest id of a hash n-gram has power 0 (reference path).
    HashWindow,
    /// RoPE rotates (i, i + head_dim / 2) instead of (2i, 2i + 1) (reference path).
    RopeHalves,
    /// A step takes the learning rate of the one before.
    ScheduleStep,
    /// An entropy equal to the global threshold starts a patch.
    EntropyTies,
    /// Every second span's bytes see the span before it.
    Neighbour,
    /// Adam's moments are not divided by `1 - beta^t`.
    AdamBias,
    /// Parameters begin the same whatever the seed.
    SeedIgnored,
}

impl Bug {
    pub const ALL: [Bug; 8] = [
        Bug::DecoderShift,
        Bug::HashWindow,
        Bug::RopeHalves,
        Bug::ScheduleStep,
        Bug::EntropyTies,
        Bug::Neighbour,
        Bug::AdamBias,
        Bug::SeedIgnored,
    ];
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Nothing planted: 0.
static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants a bug in this process, and says so on standard error. A later call plants another in its
/// place.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, Ordering::SeqCst);
    eprintln!("PLANTED BUG: this process computes wrong numbers on purpose ({bug})");
}

/// Whether `bug` was planted.
#[inline]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}
