//! The record of an upload that is going on: a file beside the parts that are not finished.

use serde::{Deserialize, Serialize};

/// Which upload to abort if its process was killed.
#[derive(Serialize, Deserialize)]
pub(super) struct UploadRecord {
    pub url: String,
    pub id: String,
}
