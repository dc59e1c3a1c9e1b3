//! Files that no reader sees incomplete: atomic writes, and logs of JSON lines that can be cut
//! back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A file operation that failed: the action, the path, and the system's error.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct FileError {
    /// The action: `write`, `create`, ...
    pub action: &'static str,
    /// The path.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: `fs::read(&path).map_err(FileError::on("read", &path))`.
    pub fn on(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> FileError {
        let path = path.as_ref().to_path_buf();
        move |source| FileError { action, path, source }
    }
}

/// Writes `bytes` to `path` so that no reader ever sees a part of them: into a temporary file in
/// the same folder, which is flushed to the disk and then renamed.
///
/// # Errors
/// If the disk is full, or the folder cannot be written to. The old file remains, and the temporary
/// file is removed.
pub fn write_atomic(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    write_atomic_with(path, |file| file.write_all(bytes.as_ref()))
}

/// As [`write_atomic`], for content that `write` writes piece by piece.
///
/// # Errors
/// As [`write_atomic`], and the errors of `write`.
pub fn write_atomic_with(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> Result<(), FileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let path = path.as_ref();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(
        ".{name}.{}-{}.tmp",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let result = (|| {
        let mut writer = io::BufWriter::new(File::create(&temporary)?);
        write(&mut writer)?;
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    })();
    result.map_err(|source| {
        // Remove the incomplete file. If that fails too, the first error matters more.
        let _ = fs::remove_file(&temporary);
        FileError { action: "write", path: path.to_path_buf(), source }
    })
}

/// Flushes the folder of `path`, so that a rename in it survives a power cut.
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

/// An append-only log of JSON objects, one a line, such as `metrics.jsonl`.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
}

impl JsonLines {
    /// Opens the log at `path` and cuts it back to its first `lines` complete lines. 0 starts an
    /// empty log; a step that continues passes the number in its checkpoint.
    ///
    /// # Errors
    /// If the file cannot be opened or cut, or holds fewer complete lines than that.
    pub fn open(path: impl AsRef<Path>, lines: u64) -> Result<Self, FileError> {
        let path = path.as_ref().to_path_buf();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(FileError::on("open", &path))?;
        let mut log = JsonLines { path, file, hasher: blake3::Hasher::new() };
        log.cut(lines).map_err(FileError::on("cut back", &log.path))?;
        Ok(log)
    }

    fn cut(&mut self, lines: u64) -> io::Result<()> {
        let mut reader = BufReader::new(&self.file);
        let mut length = 0u64;
        let mut line = Vec::new();
        for have in 0..lines {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                return Err(io::Error::other(format!(
                    "it has {have} complete lines, {lines} were recorded"
                )));
            }
            length += read as u64;
            self.hasher.update(&line);
        }
        drop(reader);
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Appends `object` as one line.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub fn push(&mut self, object: &impl Serialize) -> Result<(), FileError> {
        let mut line = serde_json::to_vec(object)
            .map_err(|error| FileError::on("write", &self.path)(io::Error::other(error)))?;
        line.push(b'\n');
        self.hasher.update(&line);
        self.file.write_all(&line).map_err(FileError::on("write", &self.path))
    }

    /// The hash of the lines so far, 64 hex digits: a checkpoint that counts the lines records it, so
    /// that a log that was changed since is found.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_string()
    }

    /// Flushes the log to the disk. A step calls this before it writes the checkpoint that counts
    /// the lines.
    ///
    /// # Errors
    /// If the log cannot be flushed.
    pub fn sync(&mut self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::on("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, "one").unwrap();
        write_atomic(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        let failed = write_atomic_with(&path, |_| Err(io::Error::from(io::ErrorKind::StorageFull)))
            .unwrap_err();
        assert!(failed.to_string().contains("a.json"), "{failed}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomic(dir.path().join("no/such"), "x").unwrap_err();
        assert!(error.to_string().contains("no/such"), "{error}");
    }

    #[test]
    fn a_log_is_cut_back_to_the_lines_that_were_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = JsonLines::open(&path, 0).unwrap();
        for step in 0..3 {
            log.push(&serde_json::json!({ "step": step })).unwrap();
        }
        assert_eq!(log.hash(), blake3::hash(&fs::read(&path).unwrap()).to_string());
        drop(log);
        let whole = blake3::hash(b"{\"step\":0}\n{\"step\":1}\n").to_string();
        // A kill tears the last line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"st").unwrap();
        let mut log = JsonLines::open(&path, 2).unwrap();
        assert_eq!(log.hash(), whole);
        log.push(&serde_json::json!({ "step": 9 })).unwrap();
        log.sync().unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\"step\":0}\n{\"step\":1}\n{\"step\":9}\n"
        );
        assert!(
            JsonLines::open(&path, 7).unwrap_err().source.to_string().contains("3 complete lines")
        );
    }
}
