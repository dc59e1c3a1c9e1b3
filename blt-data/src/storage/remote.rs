//! Object stores and web servers, by the crate `object_store`, asked from ordinary threads.
//!
//! Requests run on a small runtime of their own; who asks waits for the [`Answer`], now or later.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    ClientOptions, GetOptions, GetRange, MultipartId, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, coalesce_ranges,
};
use tokio::runtime::Runtime;

use super::output::UploadRecord;
use super::{Entry, Scheme, StorageError, Url};

/// Bytes of an upload that are sent as one. Stores take 10,000 such parts and more, and no smaller
/// ones than 5 MiB but for the last.
const PART_BYTES: usize = 8 << 20;
/// Parts of an upload that are on their way at a time.
const PARTS_ON_THE_WAY: usize = 4;
/// How long to try to abort an upload that failed; if that fails, the next run does it.
const ABORT_SECONDS: u64 = 10;
/// For how many seconds a request is tried again that a store did not answer, or answered by an
/// error of its own.
const RETRY_VARIABLE: &str = "BLT_CLOUD_RETRY_SECONDS";

/// What makes all requests. Two threads: they wait, for the most part.
fn runtime() -> Result<&'static Runtime, StorageError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        // The first to say so wins, and any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(2)
            .thread_name("blt-cloud")
            .enable_all()
            .build()
            .map_err(|e| e.to_string())
    });
    runtime
        .as_ref()
        .map_err(|e| StorageError::failed("start", "threads for requests to object stores", e))
}

/// What a request will give.
pub struct Answer<T>(Receiver<Result<T, StorageError>>);

impl<T: Send + 'static> Answer<T> {
    fn of(request: impl Future<Output = Result<T, StorageError>> + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(1);
        match runtime() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    // Who asked may be gone.
                    let _ = sender.send(request.await);
                });
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        }
        Answer(receiver)
    }

    pub fn wait(self) -> Result<T, StorageError> {
        let gone =
            |_| Err(StorageError::failed("end", "a request to an object store", "it broke off"));
        self.0.recv().unwrap_or_else(gone)
    }
}

/// A bucket, container or web server.
#[derive(Clone)]
struct Store {
    objects: Arc<dyn ObjectStore>,
    /// None of a web server.
    uploads: Option<Arc<dyn MultipartStore>>,
}

fn retry() -> Result<RetryConfig, StorageError> {
    let Ok(seconds) = std::env::var(RETRY_VARIABLE) else { return Ok(RetryConfig::default()) };
    match seconds.trim().parse::<u64>() {
        Ok(0) => Ok(RetryConfig { max_retries: 0, ..RetryConfig::default() }),
        Ok(seconds) => Ok(RetryConfig {
            retry_timeout: Duration::from_secs(seconds),
            ..RetryConfig::default()
        }),
        Err(_) => Err(StorageError::failed(
            "read",
            RETRY_VARIABLE,
            format!("`{seconds}` is no number of seconds"),
        )),
    }
}

impl Store {
    /// Made once for each bucket, by what the environment says.
    fn of(url: &Url) -> Result<Store, StorageError> {
        static STORES: OnceLock<Mutex<HashMap<(Scheme, String), Store>>> = OnceLock::new();
        let mut stores =
            STORES.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
        let key = (url.scheme, url.bucket.clone());
        if let Some(store) = stores.get(&key) {
            return Ok(store.clone());
        }
        let store = Store::new(url)?;
        stores.insert(key, store.clone());
        Ok(store)
    }

    fn new(url: &Url) -> Result<Store, StorageError> {
        let failed = |e| failed("open", url, e);
        let (retry, bucket) = (retry()?, &url.bucket);
        // Clients are made within the runtime that they make their requests on.
        let _inside = runtime()?.enter();
        Ok(match url.scheme {
            Scheme::S3 => {
                let builder =
                    AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
                Store::both(Arc::new(builder.build().map_err(failed)?))
            }
            Scheme::Gs => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry);
                Store::both(Arc::new(builder.build().map_err(failed)?))
            }
            Scheme::Az => {
                let builder =
                    MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry);
                Store::both(Arc::new(builder.build().map_err(failed)?))
            }
            Scheme::Https | Scheme::Http => {
                let options = ClientOptions::new().with_allow_http(url.scheme == Scheme::Http);
                let builder = HttpBuilder::new().with_url(url.with_key("").to_string());
                let store = builder
                    .with_client_options(options)
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Store { objects: Arc::new(store), uploads: None }
            }
        })
    }

    fn both<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Store {
        Store { objects: store.clone(), uploads: Some(store) }
    }
}

/// The key in the crate's own form.
fn path(url: &Url) -> Result<Path, StorageError> {
    let parsed = match url.scheme.is_web() {
        true => Path::from_url_path(&url.key),
        false => Path::parse(&url.key),
    };
    parsed.map_err(|e| StorageError::BadUrl { url: url.to_string(), cause: e.to_string() })
}

fn entry(url: &Url, meta: ObjectMeta) -> Entry {
    let key = if url.scheme.is_web() { url.key.clone() } else { meta.location.to_string() };
    let nanos = meta.last_modified.timestamp_nanos_opt().and_then(|n| u128::try_from(n).ok());
    Entry {
        location: url.with_key(&key).into(),
        size: meta.size,
        modified: nanos.unwrap_or(0),
        tag: meta.e_tag,
    }
}

/// What is known of an object, None where there is none.
pub fn head(url: &Url) -> Result<Option<Entry>, StorageError> {
    if url.key.is_empty() || url.key.ends_with('/') {
        return Ok(None);
    }
    let (store, path, url) = (Store::of(url)?, path(url)?, url.clone());
    let request = async move {
        match store.objects.head(&path).await {
            Ok(meta) => Ok(Some(entry(&url, meta))),
            Err(e) => match failed("read", &url, e) {
                StorageError::Missing { .. } => Ok(None),
                error => Err(error),
            },
        }
    };
    Answer::of(request).wait()
}

/// All objects whose key begins with the URL's, which ends in `/` or is empty.
pub fn list(url: &Url) -> Result<Vec<Entry>, StorageError> {
    if url.scheme.is_web() {
        return Err(StorageError::NoListing { url: url.to_string() });
    }
    let (store, path, url) = (Store::of(url)?, path(url)?, url.clone());
    let request = async move {
        let prefix = Some(&path).filter(|path| !path.as_ref().is_empty());
        let found: Vec<ObjectMeta> =
            store.objects.list(prefix).try_collect().await.map_err(|e| failed("list", &url, e))?;
        Ok(found.into_iter().map(|meta| entry(&url, meta)).collect())
    };
    Answer::of(request).wait()
}

/// Writes a small object.
pub fn put(url: &Url, bytes: Vec<u8>) -> Result<(), StorageError> {
    let (store, path, url) = (Store::of(url)?, path(url)?, url.clone());
    if store.uploads.is_none() {
        return Err(StorageError::NoUpload { url: url.to_string() });
    }
    let request = async move {
        let put = store.objects.put(&path, PutPayload::from(bytes)).await;
        put.map(|_| ()).map_err(|e| failed("write", &url, e))
    };
    Answer::of(request).wait()
}

/// Ends an upload, of which nothing is left; one that is not there is ended.
pub fn abort(url: &Url, id: &str) -> Result<(), StorageError> {
    let (store, path, url, id) = (Store::of(url)?, path(url)?, url.clone(), id.to_owned());
    let request = async move {
        let Some(uploads) = store.uploads else { return Ok(()) };
        match uploads
            .abort_multipart(&path, &id)
            .await
            .map_err(|e| failed("abort the upload of", &url, e))
        {
            Err(StorageError::Missing { .. }) => Ok(()),
            other => other,
        }
    };
    Answer::of(request).wait()
}

/// An object that is read.
#[derive(Clone)]
pub struct Object {
    store: Store,
    path: Path,
    url: Url,
    tag: Option<String>,
}

impl Object {
    /// `tag`: of the version that is to be read; another one is an error.
    pub fn new(url: &Url, tag: Option<String>) -> Result<Self, StorageError> {
        // A weak mark says that two versions mean the same, which is not enough for If-Match.
        let tag = tag.filter(|tag| !tag.starts_with("W/"));
        Ok(Object { store: Store::of(url)?, path: path(url)?, url: url.clone(), tag })
    }

    /// Begins to fetch ranges: near ones by one request, several requests at a time.
    pub fn start(&self, ranges: Vec<Range<u64>>) -> Answer<Vec<Bytes>> {
        let object = self.clone();
        Answer::of(async move {
            let fetch = |range: Range<u64>| {
                let object = object.clone();
                async move { object.fetch(range).await }
            };
            coalesce_ranges(&ranges, fetch, OBJECT_STORE_COALESCE_DEFAULT).await
        })
    }

    async fn fetch(self, range: Range<u64>) -> Result<Bytes, StorageError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let expected = range.end - range.start;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let failed = |e| failed("read", &self.url, e);
        let bytes = self.store.objects.get_opts(&self.path, options).await.map_err(failed)?;
        let bytes = bytes.bytes().await.map_err(failed)?;
        match bytes.len() as u64 == expected {
            true => Ok(bytes),
            false => Err(StorageError::Changed { at: self.url.to_string() }),
        }
    }
}

/// An object that is written, in parts if it has more than one. It appears when it is complete.
/// Dropped before, it is aborted.
pub struct Upload {
    uploads: Arc<dyn MultipartStore>,
    path: Path,
    url: Url,
    /// Where the upload's id stands while it goes on.
    record: PathBuf,
    id: Option<MultipartId>,
    buffer: Vec<u8>,
    sent: VecDeque<Answer<PartId>>,
    parts: Vec<PartId>,
}

impl Upload {
    /// Sends nothing yet. `record`: a file for what is to be aborted if this process is killed.
    pub fn create(url: &Url, record: &FilePath) -> Result<Self, StorageError> {
        let uploads = Store::of(url)?
            .uploads
            .ok_or_else(|| StorageError::NoUpload { url: url.to_string() })?;
        let (path, url, record) = (path(url)?, url.clone(), record.to_owned());
        let (buffer, sent, parts) = (Vec::new(), VecDeque::new(), Vec::new());
        Ok(Upload { uploads, path, url, record, id: None, buffer, sent, parts })
    }

    fn begin(&mut self) -> Result<MultipartId, StorageError> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let (uploads, path, url) = (self.uploads.clone(), self.path.clone(), self.url.clone());
        let create = async move {
            uploads.create_multipart(&path).await.map_err(|e| failed("write", &url, e))
        };
        let id = self.id.insert(Answer::of(create).wait()?).clone();
        let record = serde_json::json!(UploadRecord { url: self.url.to_string(), id: id.clone() });
        let written = std::fs::write(&self.record, record.to_string());
        written.map_err(|e| StorageError::failed("write", self.record.display(), e))?;
        Ok(id)
    }

    /// Sends what is in the buffer.
    fn send(&mut self) -> Result<(), StorageError> {
        let id = self.begin()?;
        if self.sent.len() >= PARTS_ON_THE_WAY {
            self.take_one()?;
        }
        let (uploads, path, url) = (self.uploads.clone(), self.path.clone(), self.url.clone());
        let (at, payload) = (
            self.parts.len() + self.sent.len(),
            PutPayload::from(std::mem::take(&mut self.buffer)),
        );
        self.sent.push_back(Answer::of(async move {
            uploads.put_part(&path, &id, at, payload).await.map_err(|e| failed("write", &url, e))
        }));
        Ok(())
    }

    /// Waits for the part that is longest on its way.
    fn take_one(&mut self) -> Result<(), StorageError> {
        if let Some(answer) = self.sent.pop_front() {
            self.parts.push(answer.wait()?);
        }
        Ok(())
    }

    /// Completes it.
    pub fn finish(mut self) -> Result<(), StorageError> {
        if self.id.is_none() {
            return put(&self.url, std::mem::take(&mut self.buffer));
        }
        if !self.buffer.is_empty() {
            self.send()?;
        }
        while !self.sent.is_empty() {
            self.take_one()?;
        }
        let (uploads, path, url) = (self.uploads.clone(), self.path.clone(), self.url.clone());
        let (id, parts) = (self.begin()?, std::mem::take(&mut self.parts));
        Answer::of(async move {
            let done = uploads.complete_multipart(&path, &id, parts).await;
            done.map(|_| ()).map_err(|e| failed("write", &url, e))
        })
        .wait()?;
        self.id = None;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        // If it stays, an upload that has ended is aborted, which does nothing.
        let _ = std::fs::remove_file(&self.record);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        // A part that arrives after the end would be kept.
        while let Some(answer) = self.sent.pop_front() {
            let _ = answer.wait();
        }
        let (uploads, path, url) = (self.uploads.clone(), self.path.clone(), self.url.clone());
        let aborted = Answer::of(async move {
            let abort = tokio::time::timeout(
                Duration::from_secs(ABORT_SECONDS),
                uploads.abort_multipart(&path, &id),
            );
            match abort.await {
                Ok(aborted) => aborted.map_err(|e| failed("abort the upload of", &url, e)),
                Err(e) => Err(StorageError::failed("abort the upload of", &url, e)),
            }
        });
        // Else its record tells the next run; why the upload ended is the error to tell.
        if aborted.wait().is_ok() {
            self.forget();
        }
    }
}

impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PART_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == PART_BYTES {
            self.send().map_err(io::Error::other)?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Which environment variables matter.
fn variables(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL (AWS_SKIP_SIGNATURE=true for a public bucket)"
        }
        Scheme::Gs => {
            "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS (GOOGLE_SKIP_SIGNATURE=true for a public bucket)"
        }
        Scheme::Az => {
            "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (AZURE_SKIP_SIGNATURE=true for a public container)"
        }
        Scheme::Https | Scheme::Http => "the server's access rules: no credentials are sent",
    }
}

/// Where machines in a cloud are told their credentials, asked where the environment has none.
const METADATA_SERVERS: [&str; 3] =
    ["169.254.169.254", "metadata.google.internal", "169.254.170.2"];

/// An error of the crate as one that says what to do.
fn failed(action: &'static str, url: &Url, error: object_store::Error) -> StorageError {
    use object_store::Error;
    let (at, bucket, variables) = (url.to_string(), url.bucket.clone(), variables(url.scheme));
    let text = error.to_string();
    let cause = short(&text);
    let no_bucket = ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]
        .iter()
        .any(|sign| text.contains(sign));
    let has_no_credentials = METADATA_SERVERS.iter().any(|server| text.contains(server))
        || text.contains("MissingAccessKeyId")
        || text.contains("MissingSecretAccessKey");
    let denied = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AccessDenied",
        "AuthFailure",
        "ExpiredToken",
    ];
    match error {
        _ if no_bucket => StorageError::NoBucket { action, at, bucket, cause, variables },
        _ if has_no_credentials => StorageError::NoCredentials { action, at, cause, variables },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            StorageError::Denied { action, at, cause, variables }
        }
        _ if denied.iter().any(|sign| text.contains(sign)) => {
            StorageError::Denied { action, at, cause, variables }
        }
        Error::NotFound { .. } => StorageError::Missing { at },
        Error::Precondition { .. } => StorageError::Changed { at },
        Error::NotSupported { .. } if url.scheme.is_web() => StorageError::NoRanges { at },
        _ => StorageError::Failed { action, at, cause },
    }
}

/// The server's own words, where it said some in XML, in front of the rest; on one line.
fn short(text: &str) -> String {
    let of = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0.trim())
    };
    match (of("Code"), of("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            // Which store it was, the URL tells.
            let plain = words
                .strip_prefix("Generic ")
                .and_then(|rest| Some(rest.split_once(" error: ")?.1));
            plain.unwrap_or(&words).to_owned()
        }
    }
}
