//! Writing: a file that nobody sees before it is whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::location::{Location, StorageError, Url};
use super::remote;
use super::upload_record::UploadRecord;

/// How the records of uploads end.
const UPLOAD: &str = ".upload.json";

/// A file being written. On a disk it has a temporary name until it is finished; on a store it is
/// an upload, whose object appears when it is complete. Dropped before its end, it leaves nothing.
pub struct Sink(Option<Open>);

enum Open {
    File { file: File, partial: PathBuf, path: PathBuf },
    Upload(remote::Upload),
}

impl Sink {
    /// `partial`: a path for what is unfinished. It is the temporary name, on the same file system
    /// as the file; of an upload, it tells who comes after a kill what to abort.
    pub fn create(location: &Location, partial: &Path) -> Result<Self, StorageError> {
        let failed = |e: io::Error| StorageError::failed("write", location, e);
        partial.parent().map(std::fs::create_dir_all).transpose().map_err(failed)?;
        Ok(Sink(Some(match location {
            Location::Local(path) => {
                path.parent().map(std::fs::create_dir_all).transpose().map_err(failed)?;
                let file = File::create(partial).map_err(failed)?;
                Open::File { file, partial: partial.to_owned(), path: path.clone() }
            }
            Location::Remote(url) => {
                Open::Upload(remote::Upload::create(url, &with_ending(partial))?)
            }
        })))
    }

    /// Gives the file its name once all of it is on the disk, or completes the upload.
    pub fn finish(mut self) -> Result<(), StorageError> {
        match self.0.take() {
            None => Ok(()),
            Some(Open::Upload(upload)) => upload.finish(),
            Some(Open::File { file, partial, path }) => {
                let named = file
                    .sync_all()
                    .and_then(|()| std::fs::rename(&partial, &path))
                    .and_then(|()| sync_folder(&path));
                named.map_err(|e| {
                    remove(&partial);
                    StorageError::failed("write", path.display(), e)
                })
            }
        }
    }
}

/// Makes a rename survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn with_ending(partial: &Path) -> PathBuf {
    let mut name = partial.file_name().unwrap_or_default().to_os_string();
    name.push(UPLOAD);
    partial.with_file_name(name)
}

fn remove(partial: &Path) {
    // Best effort, to free the space. A failure here is ignored: the first error matters more.
    let _ = std::fs::remove_file(partial);
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(Open::File { partial, .. }) = &self.0 {
            remove(partial);
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(Open::File { file, .. }) => file.write(bytes),
            Some(Open::Upload(upload)) => upload.write(bytes),
            None => Err(io::Error::other("it is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Some(Open::File { file, .. }) => file.flush(),
            _ => Ok(()),
        }
    }
}

/// Writes a small file that is not there yet, so that nobody sees a part of it, and makes its
/// folder. Returns false, and leaves the file as it is, if there is one: of several processes only
/// one writes it.
///
/// # Errors
/// If the folder or the file cannot be written.
pub fn write_new(location: &Location, bytes: Vec<u8>) -> Result<bool, StorageError> {
    let path = match location {
        Location::Local(path) => path,
        Location::Remote(url) => return remote::put_new(url, bytes),
    };
    let failed = |e: io::Error| StorageError::failed("write", location, e);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new().prefix(".").tempfile_in(folder).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => sync_folder(path).map_err(failed).map(|()| true),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed(e.error)),
    }
}

/// Aborts the uploads that killed processes began and that have their records in this folder.
pub fn abort_uploads(folder: &Path) -> Result<(), StorageError> {
    let failed = |e: io::Error| StorageError::failed("read", folder.display(), e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if !path.to_string_lossy().ends_with(UPLOAD) {
            continue;
        }
        let record = std::fs::read(&path).map_err(failed)?;
        // A kill may have cut the record itself; then its upload has no parts yet.
        if let Ok(UploadRecord { url, id }) = serde_json::from_slice(&record) {
            remote::abort(&Url::parse(&url)?, &id)?;
        }
        remove(&path);
    }
    Ok(())
}
