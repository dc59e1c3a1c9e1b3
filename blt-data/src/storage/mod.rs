//! Where files are: on this machine's disks, or on an object store or a web server, named by a URL.
//!
//! A [`Location`] is either. Reading ([`Input`]), listing and writing ([`Sink`]) go through it, so
//! readers and writers of formats are the same for both. A URL needs the cargo feature `cloud`;
//! without it, a URL is an error.

mod input;
mod list;
mod location;
mod output;
#[cfg(feature = "cloud")]
mod remote;
#[cfg(not(feature = "cloud"))]
#[path = "no_remote.rs"]
mod remote;
mod upload_record;

pub use self::input::{Fetching, Input};
pub(crate) use self::location::decoded;
pub use self::location::{Entry, Location, Scheme, StorageError, Url};
pub use self::output::{Sink, abort_uploads, write_new};
