//! Where files are: on this machine's disks, or on an object store or a web server, named by a URL.
//!
//! A [`Location`] is either. Reading ([`Input`]), listing and writing ([`Sink`]) go through it, so
//! readers and writers of formats are the same for both. A URL needs the cargo feature `cloud`;
//! without it, a URL is an error that says so.

mod input;
mod output;
#[cfg(feature = "cloud")]
mod remote;
#[cfg(not(feature = "cloud"))]
#[path = "no_remote.rs"]
mod remote;
mod upload_record;

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::input::{Fetching, Input};
pub use self::output::{Sink, abort_uploads, write_whole};

/// What a URL begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    Https,
    /// Of this machine itself alone: elsewhere anyone on the way could read and change what is
    /// sent.
    Http,
}

impl Scheme {
    const ALL: [(&str, Scheme); 5] = [
        ("s3", Scheme::S3),
        ("gs", Scheme::Gs),
        ("az", Scheme::Az),
        ("https", Scheme::Https),
        ("http", Scheme::Http),
    ];

    fn name(self) -> &'static str {
        Scheme::ALL.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    fn is_web(self) -> bool {
        matches!(self, Scheme::Http | Scheme::Https)
    }
}

/// `SCHEME://BUCKET/KEY`. It holds no credentials: they come from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    pub scheme: Scheme,
    /// Or container, or host with its port.
    pub bucket: String,
    /// As it is, or of a web server percent-encoded. No `/` before it; after it, it means a
    /// folder.
    pub key: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.bucket, self.key)
    }
}

/// Folder by folder, as paths on a disk are ordered.
impl Ord for Url {
    fn cmp(&self, other: &Self) -> Ordering {
        let bucket = (self.scheme, &self.bucket).cmp(&(other.scheme, &other.bucket));
        bucket.then_with(|| self.key.split('/').cmp(other.key.split('/')))
    }
}

impl PartialOrd for Url {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Url {
    /// Whether text is meant as a URL.
    fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        })
    }

    fn parse(text: &str) -> Result<Url, StorageError> {
        let bad = |cause: String| StorageError::BadUrl { url: without_user(text), cause };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let Some((_, scheme)) =
            Scheme::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme))
        else {
            return Err(bad(format!("`{scheme}` is none of s3, gs, az, https, http")));
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(bad("it names no bucket or host".into()));
        }
        if bucket.contains('@') {
            return Err(bad(
                "it holds a user or password, which belong in environment variables".into()
            ));
        }
        if scheme.is_web() && key.contains(['?', '#']) {
            return Err(bad(
                "a query or fragment is not supported, as it would be written into results".into(),
            ));
        }
        if key.starts_with('/') || key.contains("//") {
            return Err(bad("a name between two `/` is empty".into()));
        }
        let host = bucket.rsplit_once(':').map_or(bucket, |(host, _)| host);
        let here = host == "localhost" || host == "[::1]" || host.starts_with("127.");
        if *scheme == Scheme::Http && !here {
            return Err(bad("http:// is for servers on this machine alone; use https://".into()));
        }
        let url = Url { scheme: *scheme, bucket: bucket.to_owned(), key: key.to_owned() };
        match cfg!(feature = "cloud") {
            true => Ok(url),
            false => Err(StorageError::NoCloud { url: url.to_string() }),
        }
    }

    /// Whether it is of a plain web server, which lists nothing and takes nothing.
    pub fn is_web(&self) -> bool {
        self.scheme.is_web()
    }

    /// The URL of something in the same bucket.
    fn with_key(&self, key: &str) -> Url {
        Url { key: key.to_owned(), ..self.clone() }
    }
}

/// A wrong URL may hold a password, which no message repeats.
fn without_user(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)))
    {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}"),
        None => text.to_owned(),
    }
}

/// A file or folder on a disk, or an object or what begins with a key on a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    Local(PathBuf),
    /// Boxed: locations stand in errors, which are to be small.
    Remote(Box<Url>),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Local(path) => path.display().fmt(f),
            Location::Remote(url) => url.fmt(f),
        }
    }
}

/// As text: its path or URL.
impl Serialize for Location {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Location::Local(path) => path.serialize(to),
            Location::Remote(url) => to.collect_str(url),
        }
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Location::parse(&String::deserialize(from)?, Path::new("")).map_err(de::Error::custom)
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Location::Local(path)
    }
}

impl From<Url> for Location {
    fn from(url: Url) -> Self {
        Location::Remote(Box::new(url))
    }
}

impl Location {
    /// What a user wrote: a URL, or a path that starts at `base` unless it is absolute.
    ///
    /// # Errors
    /// If a URL is not understood, or this build has no feature `cloud`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, StorageError> {
        match Url::is_meant(text) {
            true => Url::parse(text).map(Location::from),
            false => Ok(Location::Local(base.join(text))),
        }
    }

    /// A path that does not depend on the working directory.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn absolute(&self) -> std::io::Result<Location> {
        match self {
            Location::Local(path) => std::path::absolute(path).map(Location::Local),
            Location::Remote(_) => Ok(self.clone()),
        }
    }

    /// Something below, its name with `/` between the parts.
    #[must_use]
    pub fn join(&self, name: &str) -> Location {
        match self {
            Location::Local(path) => Location::Local(path.join(name)),
            Location::Remote(url) if url.key.is_empty() => url.with_key(name).into(),
            Location::Remote(url) => {
                url.with_key(&format!("{}/{name}", url.key.trim_end_matches('/'))).into()
            }
        }
    }

    /// What is there, if it is a file.
    pub fn entry(&self) -> Result<Option<Entry>, StorageError> {
        match self {
            Location::Remote(url) => remote::head(url),
            Location::Local(path) => match std::fs::metadata(path) {
                Ok(meta) if meta.is_file() => Ok(Some(Entry::local(path.clone(), &meta))),
                Ok(_) => Ok(None),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(StorageError::failed("read", self, e)),
            },
        }
    }

    /// All files below, sorted; names that begin with `.` are left out. None where no such folder
    /// is.
    pub fn list(&self) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        match self {
            Location::Local(path) if path.is_file() => {
                return Err(StorageError::failed(
                    "list",
                    self,
                    "it is a file, and a folder is expected",
                ));
            }
            Location::Local(path) => walk(path, &mut Vec::new(), &mut found)?,
            Location::Remote(url) => {
                let folder = url.key.trim_end_matches('/');
                let prefix = url.with_key(&if folder.is_empty() {
                    String::new()
                } else {
                    format!("{folder}/")
                });
                found = remote::list(&prefix)?;
                // An object that stands for the folder itself is none of its files.
                found.retain(|entry| match &entry.location {
                    Location::Remote(of) => of.key.strip_prefix(&prefix.key).is_some_and(|name| {
                        !name.is_empty() && !name.split('/').any(|part| part.starts_with('.'))
                    }),
                    Location::Local(_) => false,
                });
            }
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// All of a small file, None where there is none.
    pub fn read(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(entry) = self.entry()? else { return Ok(None) };
        Input::open(&entry)?.read_at(0..entry.size).map(|bytes| Some(bytes.to_vec()))
    }
}

/// A file as found.
#[derive(Clone, Debug)]
pub struct Entry {
    pub location: Location,
    pub size: u64,
    /// Nanoseconds since 1970, 0 where that is not known.
    pub modified: u128,
    /// The store's mark of this version of it.
    pub tag: Option<String>,
}

impl Entry {
    pub fn local(path: PathBuf, meta: &std::fs::Metadata) -> Self {
        let modified =
            meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |d| d.as_nanos());
        Entry { location: Location::Local(path), size: meta.len(), modified, tag: None }
    }
}

/// Collects files below `folder`; `above` holds the folders that lead here, so that a link back up
/// ends.
fn walk(folder: &Path, above: &mut Vec<PathBuf>, out: &mut Vec<Entry>) -> Result<(), StorageError> {
    let failed = |e: std::io::Error| StorageError::failed("read", folder.display(), e);
    let here = match folder.canonicalize() {
        Err(e) if above.is_empty() && e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    if above.contains(&here) {
        return Ok(());
    }
    above.push(here);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().unwrap_or_default().to_string_lossy().starts_with('.') {
            continue;
        }
        let meta = std::fs::metadata(&path)
            .map_err(|e| StorageError::failed("read", path.display(), e))?;
        match meta.is_dir() {
            true => walk(&path, above, out)?,
            false => out.push(Entry::local(path, &meta)),
        }
    }
    above.pop();
    Ok(())
}

/// Why something could not be read, listed or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    #[error(
        "{url} needs the cargo feature `cloud`, which this build does not have; build it with `cargo build --release \
         --features cloud`"
    )]
    NoCloud { url: String },

    #[error(
        "`{url}` is not a URL that can be read: {cause}; expected s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or \
         https://HOST/PATH"
    )]
    BadUrl { url: String, cause: String },

    #[error(
        "{url}: a web server lists no files, so a folder or glob can't be read from it; name each file by its own URL"
    )]
    NoListing { url: String },

    #[error("{url}: a web server takes no files; write to a folder, or to s3://, gs:// or az://")]
    NoUpload { url: String },

    #[error(
        "{at}: its server answers requests for a range of bytes with all of the file, and Parquet is read in ranges; \
         use a server that supports range requests, or fetch the file first"
    )]
    NoRanges { at: String },

    #[error("cannot {action} {at}: no credentials were found ({cause}); set {variables}")]
    NoCredentials { action: &'static str, at: String, cause: String, variables: &'static str },

    #[error(
        "cannot {action} {at}: access is denied ({cause}); check {variables}, and what they are allowed to do"
    )]
    Denied { action: &'static str, at: String, cause: String, variables: &'static str },

    #[error(
        "cannot {action} {at}: there is no bucket `{bucket}` ({cause}); check its name, and {variables}"
    )]
    NoBucket {
        action: &'static str,
        at: String,
        bucket: String,
        cause: String,
        variables: &'static str,
    },

    #[error("{at} is not there any more, or was never; check its name")]
    Missing { at: String },

    #[error("{at} changed while it was being read; start again, with the file left alone")]
    Changed { at: String },

    #[error("cannot {action} {at}: {cause}")]
    Failed { action: &'static str, at: String, cause: String },
}

impl StorageError {
    pub fn failed(action: &'static str, at: impl fmt::Display, cause: impl fmt::Display) -> Self {
        StorageError::Failed { action, at: at.to_string(), cause: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, String> {
        Location::parse(text, Path::new("/base")).map(|l| l.to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_start_at_the_base_and_urls_do_not() {
        assert_eq!(parsed("in/a.parquet").unwrap(), "/base/in/a.parquet");
        assert_eq!(parsed("/in/a.parquet").unwrap(), "/in/a.parquet");
        assert_eq!(parsed("a:b/c").unwrap(), "/base/a:b/c");
        let url = parsed("s3://bucket/in/lang=en/a.parquet");
        match cfg!(feature = "cloud") {
            true => assert_eq!(url.unwrap(), "s3://bucket/in/lang=en/a.parquet"),
            false => assert!(url.unwrap_err().contains("--features cloud")),
        }
    }

    #[test]
    fn wrong_urls_are_told_apart() {
        for (text, said) in [
            ("ftp://host/a", "none of s3"),
            ("s3:///a", "no bucket"),
            ("https://me:word@host/a", "environment variables"),
            ("https://host/a?key=word", "query"),
            ("s3://bucket/a//b", "empty"),
            ("http://example.org/a", "use https"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("me:word"), "{error}");
        }
    }

    #[cfg(feature = "cloud")]
    #[test]
    fn urls_join_and_are_ordered_as_paths_are() {
        let at = |text: &str| Location::parse(text, Path::new("")).unwrap();
        assert_eq!(at("s3://b/out").join("in/a"), at("s3://b/out/in/a"));
        assert_eq!(at("s3://b/out/").join("in/a"), at("s3://b/out/in/a"));
        assert_eq!(at("gs://b").join("a"), at("gs://b/a"));
        let mut keys = ["s3://b/a-b/x", "s3://b/a/x", "s3://b/a.parquet", "s3://a/z"].map(at);
        keys.sort();
        let text = serde_json::to_string(&keys[3]).unwrap();
        assert_eq!(
            (text.as_str(), serde_json::from_str(&text).ok()),
            (r#""s3://b/a.parquet""#, Some(keys[3].clone()))
        );
        assert_eq!(keys, ["s3://a/z", "s3://b/a/x", "s3://b/a-b/x", "s3://b/a.parquet"].map(at));
    }
}
