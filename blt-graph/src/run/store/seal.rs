//! [`Seal`]: the sizes and hashes of a directory's files, by which damage is found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::FileError;

/// The size and the hash of every file below a directory, by its path there (with `/`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seal(BTreeMap<String, SealedFile>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SealedFile {
    bytes: u64,
    /// 64 hex digits.
    blake3: String,
}

/// The first difference between a directory and its [`Seal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A file is gone.
    #[error("`{file}` is missing")]
    Missing {
        /// Its path in the directory.
        file: String,
    },
    /// A file is longer or shorter than it was.
    #[error("`{file}` has {found} bytes; it had {kept} when it was written")]
    Size {
        /// Its path in the directory.
        file: String,
        /// Its size when it was sealed.
        kept: u64,
        /// Its size now.
        found: u64,
    },
    /// A file of the same size has other bytes.
    #[error("the bytes of `{file}` are not those that were written")]
    Bytes {
        /// Its path in the directory.
        file: String,
    },
    /// A file has appeared.
    #[error("`{file}` was not written by this program")]
    Added {
        /// Its path in the directory.
        file: String,
    },
    /// There is no seal that can be read.
    #[error("`{file}`, which has the sizes and hashes of the files, cannot be read")]
    Unsealed {
        /// The file that should hold it.
        file: String,
    },
}

impl Seal {
    /// Reads every file below `dir`, except those whose paths are in `without`.
    ///
    /// # Errors
    /// If a file or folder cannot be read.
    pub fn of(dir: &Path, without: &[&str]) -> Result<Self, FileError> {
        let mut files = BTreeMap::new();
        for (name, bytes) in sizes(dir, without)? {
            let blake3 = hash(&dir.join(&name))?;
            files.insert(name, SealedFile { bytes, blake3 });
        }
        Ok(Seal(files))
    }

    /// Compares the files below `dir` with the seal, all but those whose paths are in `without`.
    /// Sizes come first, so that a cut file is found without reading the others.
    ///
    /// # Errors
    /// If a file or folder cannot be read.
    pub fn damage(&self, dir: &Path, without: &[&str]) -> Result<Option<Damage>, FileError> {
        let found = sizes(dir, without)?;
        for (file, SealedFile { bytes, .. }) in &self.0 {
            let file = file.clone();
            match found.get(&file) {
                None => return Ok(Some(Damage::Missing { file })),
                Some(&found) if found != *bytes => {
                    return Ok(Some(Damage::Size { file, kept: *bytes, found }));
                }
                Some(_) => {}
            }
        }
        if let Some(file) = found.into_keys().find(|file| !self.0.contains_key(file)) {
            return Ok(Some(Damage::Added { file }));
        }
        for (file, SealedFile { blake3, .. }) in &self.0 {
            if hash(&dir.join(file))? != *blake3 {
                return Ok(Some(Damage::Bytes { file: file.clone() }));
            }
        }
        Ok(None)
    }

    /// Takes the right to write from all sealed files below `dir`, which runs link to: an editor
    /// that would change both then fails, or writes a file of its own.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(super) fn make_read_only(&self, dir: &Path) -> Result<(), FileError> {
        for path in self.0.keys().map(|file| dir.join(file)) {
            fs::metadata(&path)
                .and_then(|meta| {
                    let mut permissions = meta.permissions();
                    permissions.set_readonly(true);
                    fs::set_permissions(&path, permissions)
                })
                .map_err(FileError::on("take the right to write from", &path))?;
        }
        Ok(())
    }
}

fn sizes(dir: &Path, without: &[&str]) -> Result<BTreeMap<String, u64>, FileError> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, u64>) -> io::Result<()> {
        for item in fs::read_dir(dir)? {
            let item = item?;
            let name = format!("{prefix}{}", item.file_name().to_string_lossy());
            let meta = item.metadata()?;
            if meta.is_dir() {
                walk(&item.path(), &format!("{name}/"), found)?;
            } else {
                found.insert(name, meta.len());
            }
        }
        Ok(())
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found).map_err(FileError::on("read", dir))?;
    found.retain(|name, _| !without.contains(&name.as_str()));
    Ok(found)
}

fn hash(path: &Path) -> Result<String, FileError> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(|hasher| hasher.finalize().to_string()))
        .map_err(FileError::on("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("a"), "one").unwrap();
        fs::write(at("sub/b"), "two").unwrap();
        fs::write(at("seal"), "not sealed").unwrap();
        let seal = Seal::of(dir.path(), &["seal"]).unwrap();
        let damage = || seal.damage(dir.path(), &["seal"]).unwrap();
        assert_eq!(damage(), None);
        fs::write(at("sub/b"), "twx").unwrap();
        assert_eq!(damage(), Some(Damage::Bytes { file: "sub/b".into() }));
        fs::write(at("sub/b"), "tw").unwrap();
        assert_eq!(damage(), Some(Damage::Size { file: "sub/b".into(), kept: 3, found: 2 }));
        fs::remove_file(at("sub/b")).unwrap();
        assert_eq!(damage(), Some(Damage::Missing { file: "sub/b".into() }));
        fs::write(at("sub/b"), "two").unwrap();
        fs::write(at("c"), "").unwrap();
        assert_eq!(damage(), Some(Damage::Added { file: "c".into() }));
    }
}
