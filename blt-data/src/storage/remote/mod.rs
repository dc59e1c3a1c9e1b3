//! Object stores and web servers, for ordinary threads: requests run on a small runtime of their
//! own, and a thread waits for an [`Answer`] when it needs it.
//!
//! The crate `object_store` makes the requests. One trait covers S3, Google Cloud Storage, Azure
//! and HTTP, with each vendor's credentials, retries, ranges that are fetched together and uploads
//! in parts. `opendal` covers more stores than we name, with more dependencies; the vendors' own
//! kits are three clients to learn and three sets of errors. `parquet`'s reader on top of
//! `object_store` is asynchronous, and decoding here is not, so the requests have a runtime and the
//! readers have none.

mod failure;
mod store;
mod upload;

pub use self::store::{Answer, Object, abort, head, list, put_new};
pub use self::upload::Upload;
