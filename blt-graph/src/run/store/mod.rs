//! The step store: it keeps a step's files under the key of everything that they depend on, so that
//! an unchanged step does not run again.
//!
//! ```text
//! runs/.store/<key>/           a finished step: its files, and step.json (the key, what the key is
//!                              a hash of, the time)
//! runs/.store/<key>.partial/   a step that is running or was stopped, and continues there
//! runs/.store/locks/<key>      held by the process that runs the step (alone), or by the processes
//!                              that use its files (shared)
//! ```
//!
//! A finished directory appears by one rename, so it is either whole or not there. `step.json` has
//! the size and the hash of each of its files, which are compared whenever the step is used again.

mod claim;
mod folder;
mod key;
mod listing;
mod lock;
mod record;
mod seal;

pub use claim::{Claim, Finished, Work};
pub use folder::Store;
pub use key::{STORE_FORMAT, key_of};
pub use listing::{Cleaned, StoreEntry, named};
pub use record::StepRecord;
pub use seal::{Damage, Seal};
