//! Requests to object stores: finding objects, listing, reading and writing whole ones.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, coalesce_ranges,
};
use tokio::runtime::Runtime;

use super::failure::failed;
use crate::storage::location::{Entry, Scheme, StorageError, Url};

/// For how many seconds a request is tried again that a store did not answer, or answered by an
/// error of its own.
const RETRY_VARIABLE: &str = "BLT_CLOUD_RETRY_SECONDS";

/// The runtime of all requests. It has two threads, because requests mostly wait.
fn runtime() -> Result<&'static Runtime, StorageError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        // Fails if a provider is installed already, which serves as well.
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

/// The answer to a request, which may not have come yet.
pub struct Answer<T>(Receiver<Result<T, StorageError>>);

impl<T: Send + 'static> Answer<T> {
    pub(super) fn of(
        request: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Self {
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
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// None of a web server.
    pub(super) uploads: Option<Arc<dyn MultipartStore>>,
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
    /// Made once for each bucket, from environment variables.
    pub(super) fn of(url: &Url) -> Result<Store, StorageError> {
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
pub(super) fn path(url: &Url) -> Result<Path, StorageError> {
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

/// Writes a small object, in place of one that is there.
pub fn put(url: &Url, bytes: Vec<u8>) -> Result<(), StorageError> {
    put_as(url, bytes, PutMode::Overwrite).map(|_| ())
}

/// Writes a small object that is not there yet; returns false if there is one.
pub fn put_new(url: &Url, bytes: Vec<u8>) -> Result<bool, StorageError> {
    put_as(url, bytes, PutMode::Create)
}

fn put_as(url: &Url, bytes: Vec<u8>, mode: PutMode) -> Result<bool, StorageError> {
    let (store, path, url) = (Store::of(url)?, path(url)?, url.clone());
    if store.uploads.is_none() {
        return Err(StorageError::NoUpload { url: url.to_string() });
    }
    let request = async move {
        match store.objects.put_opts(&path, PutPayload::from(bytes), mode.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(e) => Err(failed("write", &url, e)),
        }
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
        // A weak tag is shared by versions of equal meaning, which is not enough for If-Match.
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
