//! From paths, folders and globs to an ordered list of files.

use std::path::{Path, PathBuf};

use super::error::DataError;

/// A file of a corpus as found on disk.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub path: PathBuf,
    /// As shown to users: relative to the base where it lies below it, `/` between the parts.
    pub name: String,
    pub size: u64,
    /// Nanoseconds since 1970, 0 where the file system keeps none.
    pub modified: u128,
}

/// Finds the files of `patterns`, in order; inside a folder or glob they are sorted by path.
///
/// Each pattern is a file, a folder (searched all the way down for the extensions; names that begin with `.` are left
/// out) or a glob, relative to `base`. A path that exists is taken as it is, even if it reads like a glob. A file named
/// twice is read twice.
pub(super) fn find(patterns: &[String], base: &Path, extensions: &[String]) -> Result<Vec<Found>, DataError> {
    if patterns.is_empty() {
        return Err(DataError::Config { what: "no `path` is given".into() });
    }
    let mut found = Vec::new();
    for pattern in patterns {
        let path = base.join(pattern);
        let mut paths = Vec::new();
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                walk(&path, extensions, &mut Vec::new(), &mut paths)?;
                if paths.is_empty() {
                    return Err(DataError::EmptyFolder { path, extensions: extensions.to_vec() });
                }
            }
            Ok(_) => paths.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !pattern.contains(['*', '?', '[']) {
                    return Err(DataError::NoSuchFile { path, base: base.to_path_buf() });
                }
                // The base is a name and not a pattern.
                let full = match Path::new(pattern).is_absolute() {
                    true => PathBuf::from(pattern),
                    false => PathBuf::from(glob::Pattern::escape(&base.to_string_lossy())).join(pattern),
                };
                let bad = |cause: String| DataError::BadGlob { pattern: pattern.clone(), cause };
                for entry in glob::glob(&full.to_string_lossy()).map_err(|e| bad(e.to_string()))? {
                    let path = entry.map_err(|e| DataError::read(e.path(), e.error()))?;
                    if !path.is_dir() {
                        paths.push(path);
                    }
                }
                if paths.is_empty() {
                    return Err(DataError::NoMatch { pattern: pattern.clone(), base: base.to_path_buf() });
                }
            }
            Err(error) => return Err(DataError::read(path, error)),
        }
        paths.sort();
        for path in paths {
            let meta = std::fs::metadata(&path).map_err(|e| DataError::read(&path, e))?;
            if !meta.is_file() {
                return Err(DataError::NotAFile { path });
            }
            let modified = meta.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            let shown = path.strip_prefix(base).unwrap_or(&path);
            let name = shown.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/");
            found.push(Found { name, size: meta.len(), modified: modified.map_or(0, |d| d.as_nanos()), path });
        }
    }
    Ok(found)
}

/// What Hive calls a null.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The columns that the folders of a file's name stand for: `lang=en/year=2024/a.parquet` has `lang` and `year`. Values are text, `%XX`
/// decoded; None for null.
pub(super) fn partitions(name: &str) -> Vec<(String, Option<String>)> {
    let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders).split('/');
    let pairs = folders.filter_map(|folder| folder.split_once('=')).filter(|(key, _)| !key.is_empty());
    pairs.map(|(key, value)| (decoded(key), (value != HIVE_NULL).then(|| decoded(value)))).collect()
}

/// `%XX` as the byte it stands for, where that gives text.
fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|h| bytes[at] == b'%' && h.bytes().all(|b| b.is_ascii_hexdigit()));
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

/// Collects files below `folder`; `above` holds the folders that lead here, so that a link back up ends.
fn walk(folder: &Path, ext: &[String], above: &mut Vec<PathBuf>, out: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let here = folder.canonicalize().map_err(|e| DataError::read(folder, e))?;
    if above.contains(&here) {
        return Ok(());
    }
    above.push(here);
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::read(folder, e))? {
        let path = entry.map_err(|e| DataError::read(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, ext, above, out)?;
        } else if ext.iter().any(|e| name.ends_with(e.as_str())) {
            out.push(path);
        }
    }
    above.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str], base: &Path) -> Result<Vec<String>, DataError> {
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        Ok(find(&patterns, base, &[".txt".into()])?.into_iter().map(|f| f.name).collect())
    }

    #[test]
    fn files_folders_and_globs() {
        let dir = tempfile::tempdir().unwrap();
        // The base itself reads like a glob.
        let base = dir.path().join("ba[s]e");
        std::fs::create_dir_all(base.join("in/deep")).unwrap();
        for name in ["in/b.txt", "in/a.txt", "in/deep/c.txt", "in/.hidden.txt", "in/x.md", "odd[1].txt"] {
            std::fs::write(base.join(name), "x").unwrap();
        }
        assert_eq!(names(&["in"], &base).unwrap(), ["in/a.txt", "in/b.txt", "in/deep/c.txt"]);
        assert_eq!(names(&["in/*.md", "in/b.txt"], &base).unwrap(), ["in/x.md", "in/b.txt"]);
        assert_eq!(names(&["**/c.*"], &base).unwrap(), ["in/deep/c.txt"]);
        assert_eq!(names(&["odd[1].txt"], &base).unwrap(), ["odd[1].txt"]);

        let error = names(&["in/no.txt"], &base).unwrap_err();
        assert!(matches!(&error, DataError::NoSuchFile { .. }) && error.to_string().contains("in/no.txt"), "{error}");
        assert!(matches!(names(&["in/*.parquet"], &base), Err(DataError::NoMatch { .. })));
        assert!(matches!(names(&["in/***"], &base), Err(DataError::BadGlob { .. })));
        assert!(matches!(names(&[], &base), Err(DataError::Config { .. })));
        std::fs::create_dir(base.join("none")).unwrap();
        let error = names(&["none"], &base).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains(".txt"), "{error}");
    }

    #[test]
    fn folders_of_partitions() {
        let pairs =
            |name| partitions(name).into_iter().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join(" ");
        assert_eq!(pairs("in/lang=en/year=2024/a=b.parquet"), r#"lang=Some("en") year=Some("2024")"#);
        assert_eq!(pairs("a=b.parquet"), "");
        assert_eq!(pairs("x=__HIVE_DEFAULT_PARTITION__/y=a%2Fb%3D%zz%ff/=c/f"), r#"x=None y=Some("a%2Fb%3D%zz%ff")"#);
        assert_eq!(pairs("y=a%2Fb%3D%zz=/f"), r#"y=Some("a/b=%zz=")"#);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_the_folder_above_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a.txt"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("in/up")).unwrap();
        assert_eq!(names(&["in"], dir.path()).unwrap(), ["in/a.txt"]);
    }
}
