//! Finding and listing files at a [`Location`].

use std::io::ErrorKind;
use std::path::Path;

use walkdir::WalkDir;

use super::input::Input;
use super::location::{Entry, Location, StorageError};
use super::remote;

impl Location {
    /// The file at this location; None if there is no file.
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

    /// All files below this location, sorted; none if there is no such folder. Names that begin
    /// with `.` are left out, and a link back to a folder above is not followed.
    pub fn list(&self) -> Result<Vec<Entry>, StorageError> {
        let mut found = match self {
            Location::Local(path) if path.is_file() => {
                return Err(StorageError::failed(
                    "list",
                    self,
                    "it is a file, and a folder is expected",
                ));
            }
            Location::Local(path) => walk(path)?,
            Location::Remote(url) => {
                let folder = url.key.trim_end_matches('/');
                let prefix = url.with_key(&if folder.is_empty() {
                    String::new()
                } else {
                    format!("{folder}/")
                });
                let mut found = remote::list(&prefix)?;
                // Some stores keep an object for the folder itself.
                found.retain(|entry| match &entry.location {
                    Location::Remote(of) => of.key.strip_prefix(&prefix.key).is_some_and(|name| {
                        !name.is_empty() && !name.split('/').any(|part| part.starts_with('.'))
                    }),
                    Location::Local(_) => false,
                });
                found
            }
        };
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// All bytes of a small file; None if there is none.
    pub fn read(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(entry) = self.entry()? else { return Ok(None) };
        Input::open(&entry)?.read_at(0..entry.size).map(|bytes| Some(bytes.to_vec()))
    }
}

/// The files below `folder`.
fn walk(folder: &Path) -> Result<Vec<Entry>, StorageError> {
    let is_hidden = |entry: &walkdir::DirEntry| {
        entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
    };
    // `walkdir` finds a link to a folder on the way down, but not one that leads to where it began.
    let begin = folder.canonicalize().ok();
    let is_begin = |entry: &walkdir::DirEntry| {
        entry.depth() > 0 && entry.file_type().is_dir() && entry.path().canonicalize().ok() == begin
    };
    let mut found = Vec::new();
    let below = WalkDir::new(folder).follow_links(true).into_iter();
    for entry in below.filter_entry(|entry| !is_hidden(entry) && !is_begin(entry)) {
        let failed = |e: walkdir::Error| {
            let path = e.path().unwrap_or(folder).display();
            match e.io_error() {
                Some(cause) => StorageError::failed("read", path, cause),
                None => StorageError::failed("read", path, &e),
            }
        };
        match entry {
            Err(e) if e.loop_ancestor().is_some() => {}
            Err(e)
                if e.depth() == 0
                    && e.io_error().is_some_and(|e| e.kind() == ErrorKind::NotFound) => {}
            Err(e) => return Err(failed(e)),
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => {
                let meta = entry.metadata().map_err(failed)?;
                found.push(Entry::local(entry.into_path(), &meta));
            }
        }
    }
    Ok(found)
}
