//! Paths and URLs, and the errors of reading and writing at them.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Amazon S3, and stores with its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    Https,
    /// Of this machine alone: elsewhere, anyone on the way could read and change the bytes.
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

    pub(super) fn is_web(self) -> bool {
        matches!(self, Scheme::Http | Scheme::Https)
    }
}

/// `SCHEME://BUCKET/KEY`. It holds no credentials: they come from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    pub scheme: Scheme,
    /// The bucket, the container, or the host with its port.
    pub bucket: String,
    /// The key as it is; of a web server, percent-encoded. It begins with no `/`, and ends with one
    /// if it is a folder.
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
    /// Whether a user meant `text` as a URL.
    fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty()
                && scheme
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        })
    }

    pub(super) fn parse(text: &str) -> Result<Url, StorageError> {
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

    /// Whether it is of a web server, which lists no files and takes none.
    pub fn is_web(&self) -> bool {
        self.scheme.is_web()
    }

    /// The URL of something in the same bucket.
    pub(super) fn with_key(&self, key: &str) -> Url {
        Url { key: key.to_owned(), ..self.clone() }
    }
}

/// The URL without its user and password, which no message repeats.
fn without_user(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)))
    {
        Some((scheme, rest)) => format!("{scheme}://…@{rest}"),
        None => text.to_owned(),
    }
}

/// Replaces `%XX` by the byte of that number, if the whole is valid UTF-8 then.
pub(crate) fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .filter(|h| bytes[at] == b'%' && h.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// A file or folder on a disk, or an object or a prefix of keys on a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    Local(PathBuf),
    /// Boxed, because errors hold locations and should be small.
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
    /// Parses what a user wrote: a URL, or a path that starts at `base` unless it is absolute or
    /// begins with `~/`.
    ///
    /// # Errors
    /// If a URL is not understood, or this build has no feature `cloud`.
    pub fn parse(text: &str, base: &Path) -> Result<Self, StorageError> {
        let home = || std::env::home_dir().filter(|home| home.is_absolute());
        let local = match (text.split_once("://"), text.strip_prefix('~')) {
            (Some((scheme, path)), _) if scheme.eq_ignore_ascii_case("file") => {
                let path = path.strip_prefix("localhost").unwrap_or(path);
                if !path.starts_with('/') {
                    let cause = "a file's has three `/` before an absolute path".into();
                    return Err(StorageError::BadUrl { url: text.to_owned(), cause });
                }
                PathBuf::from(decoded(path))
            }
            (_, Some(rest)) if rest.is_empty() || rest.starts_with('/') => match home() {
                Some(home) => home.join(rest.trim_start_matches('/')),
                None => base.join(text),
            },
            _ if Url::is_meant(text) => return Url::parse(text).map(Location::from),
            _ => base.join(text),
        };
        Ok(Location::Local(local))
    }

    /// A path that does not depend on the working directory.
    ///
    /// # Errors
    /// If the working directory cannot be found.
    pub fn absolute(&self) -> std::io::Result<Location> {
        match self {
            Location::Local(path) => std::path::absolute(path).map(Location::Local),
            Location::Remote(_) => Ok(self.clone()),
        }
    }

    /// The location of `name` below this one; `/` divides its folders.
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
}

/// A file that was found.
#[derive(Clone, Debug)]
pub struct Entry {
    pub location: Location,
    pub size: u64,
    /// Nanoseconds since 1970; 0 if unknown.
    pub modified: u128,
    /// The store's tag of this version of the file.
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
