//! Uploads in parts, which are recorded so that a later run can abort them.

use std::collections::VecDeque;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};

use super::failure::failed;
use super::store::{Answer, Store, path, put};
use crate::storage::upload_record::UploadRecord;
use crate::storage::{StorageError, Url};

/// Bytes of an upload that are sent as one. Stores take 10,000 such parts and more, none but the last
/// smaller than 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts of an upload that are sent at a time.
const PARTS_ON_THE_WAY: usize = 4;
/// How long to try to abort an upload that failed; if that fails, the next run does it.
const ABORT_SECONDS: u64 = 10;

/// An object that is being written, in parts if it has more than one. It appears when it is
/// complete; dropped before, it is aborted.
pub struct Upload {
    uploads: Arc<dyn MultipartStore>,
    path: Path,
    url: Url,
    /// The file that holds the upload's id while it goes on.
    record: PathBuf,
    id: Option<MultipartId>,
    buffer: Vec<u8>,
    sent: VecDeque<Answer<PartId>>,
    parts: Vec<PartId>,
}

impl Upload {
    /// Sends nothing yet. `record`: a file that says what to abort if this process is killed.
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

    /// Sends the buffer as a part.
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

    /// Waits for the part that was sent first.
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
        // If this fails, the next run finds the record. The error that ended the upload is reported.
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
