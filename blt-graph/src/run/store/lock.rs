//! Locks on the keys of the store.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::files::FileError;

/// The two ways to hold a key.
#[derive(Clone, Copy)]
pub(super) enum Lock {
    /// Together with others, to use a finished step.
    Shared,
    /// Alone, to run or remove a step.
    Alone,
}

/// Takes the lock if it is free, and returns whether it was. `dir` is the step's directory, for
/// errors.
pub(super) fn try_lock(file: &File, dir: &Path, lock: Lock) -> Result<bool, FileError> {
    let taken = match lock {
        Lock::Shared => file.try_lock_shared(),
        Lock::Alone => file.try_lock(),
    };
    match taken {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(FileError::on("lock", dir)(error)),
    }
}
