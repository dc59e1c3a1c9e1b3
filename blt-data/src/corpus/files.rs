//! From paths, folders and globs to an ordered list of files.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::formats::file::Found;
use crate::storage::{Entry, Location, StorageError, Url};

/// What makes a pattern a glob.
const GLOB: [char; 3] = ['*', '?', '['];

/// Finds the files of `patterns`, in order; inside a folder or glob they are sorted by path.
///
/// Each pattern is a file, a folder (searched all the way down for the extensions, in any case) or a
/// glob, relative to `base`, or a URL of such. Names that begin with `.` or `_` are left out, unless
/// the pattern has such a name itself. A path that exists is
/// taken as it is, even if it reads like a glob. A file named twice is read twice.
pub(crate) fn find(
    patterns: &[String],
    base: &Path,
    extensions: &[String],
) -> Result<Vec<Found>, DataError> {
    if patterns.is_empty() {
        return Err(DataError::Config { what: "no `path` is given".into() });
    }
    let mut found = Vec::new();
    for pattern in patterns {
        let (mut of_pattern, named) = match Location::parse(pattern, base)? {
            Location::Local(path) => find_local(pattern, path, base, extensions)?,
            Location::Remote(url) => find_remote(pattern, *url, base, extensions)?,
        };
        of_pattern.sort_by(|a, b| a.location.cmp(&b.location));
        found.extend(of_pattern.into_iter().map(|entry| Found::new(entry, base, &named)));
    }
    Ok(found)
}

/// Whether a path leads through a name that is not of data: `_temporary`, `_delta_log`, `.part`.
/// `_x=1` is a column's value.
fn is_aside(path: &str) -> bool {
    let mut names = path.split(['/', std::path::MAIN_SEPARATOR]);
    names.any(|name| name.starts_with('.') || name.starts_with('_') && !name.contains('='))
}

/// Of all files in a folder those that belong.
fn of_folder(folder: Location, extensions: &[String]) -> Result<Vec<Entry>, DataError> {
    let mut entries = folder.list()?;
    let above = folder.to_string();
    entries.retain(|entry| {
        let name = entry.location.to_string();
        let below = name.strip_prefix(&above).unwrap_or(&name);
        let lower = name.to_lowercase();
        !is_aside(below) && extensions.iter().any(|e| lower.ends_with(&e.to_lowercase()))
    });
    match entries.is_empty() {
        true => Err(DataError::EmptyFolder { path: folder, extensions: extensions.to_vec() }),
        false => Ok(entries),
    }
}

/// The files of a pattern, and the folder that it names.
fn find_local(
    pattern: &str,
    path: PathBuf,
    base: &Path,
    extensions: &[String],
) -> Result<(Vec<Entry>, Location), DataError> {
    let mut paths = Vec::new();
    let mut named = path.clone();
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => {
            for entry in of_folder(path.into(), extensions)? {
                match entry.location {
                    Location::Local(path) => paths.push(path),
                    Location::Remote(_) => unreachable!("a local folder holds local files"),
                }
            }
        }
        Ok(_) => {
            named.pop();
            paths.push(path);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !pattern.contains(GLOB) {
                return Err(DataError::NoSuchFile { path: path.into(), base: base.to_path_buf() });
            }
            let fixed = Path::new(pattern).components();
            let fixed = fixed.take_while(|c| !c.as_os_str().to_string_lossy().contains(GLOB));
            let fixed: PathBuf = fixed.collect();
            let of_glob = Path::new(pattern).strip_prefix(&fixed).unwrap_or(Path::new(pattern));
            let of_glob = of_glob.to_string_lossy().into_owned();
            named = base.join(fixed);
            // The base is a name and not a pattern.
            let full = match Path::new(pattern).is_absolute() {
                true => PathBuf::from(pattern),
                false => {
                    PathBuf::from(glob::Pattern::escape(&base.to_string_lossy())).join(pattern)
                }
            };
            let bad = |cause: String| DataError::BadGlob { pattern: pattern.to_owned(), cause };
            for entry in glob::glob(&full.to_string_lossy()).map_err(|e| bad(e.to_string()))? {
                let path = entry
                    .map_err(|e| DataError::read(&e.path().to_path_buf().into(), e.error()))?;
                let below = path.strip_prefix(&named).unwrap_or(&path).to_string_lossy();
                if !path.is_dir() && (is_aside(&of_glob) || !is_aside(&below)) {
                    paths.push(path);
                }
            }
            if paths.is_empty() {
                return Err(DataError::NoMatch {
                    pattern: pattern.to_owned(),
                    base: base.to_path_buf(),
                });
            }
        }
        Err(error) => return Err(DataError::read(&path.into(), error)),
    }
    let entry = |path: PathBuf| {
        let meta =
            std::fs::metadata(&path).map_err(|e| DataError::read(&path.clone().into(), e))?;
        match meta.is_file() {
            true => Ok(Entry::local(path, &meta)),
            false => Err(DataError::NotAFile { path: path.into() }),
        }
    };
    Ok((paths.into_iter().map(entry).collect::<Result<_, _>>()?, named.into()))
}

/// As [`find_local`].
fn find_remote(
    pattern: &str,
    url: Url,
    base: &Path,
    extensions: &[String],
) -> Result<(Vec<Entry>, Location), DataError> {
    // A folder's name ends with a `/` in a key.
    let folder = |key: &str| {
        let key = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let key = if key.is_empty() { String::new() } else { format!("{key}/") };
        Location::from(Url { key, ..url.clone() })
    };
    let is_glob = url.key.contains(GLOB);
    // A web server lists no folders, so a pattern cannot be the name of a file there.
    let whole = match is_glob && url.is_web() {
        true => None,
        false => Location::from(url.clone()).entry()?,
    };
    if let Some(entry) = whole {
        return Ok((vec![entry], folder(&url.key)));
    }
    if !is_glob {
        let named = folder(&format!("{}/", url.key.trim_end_matches('/')));
        return match of_folder(Location::from(url.clone()), extensions) {
            // A name that no `/` ends is a file's as much as a folder's, and there is neither.
            Err(DataError::EmptyFolder { path, .. })
                if !url.key.ends_with('/') && !url.key.is_empty() =>
            {
                Err(DataError::NoSuchFile { path, base: base.to_path_buf() })
            }
            Err(DataError::Storage(StorageError::NoListing { .. }))
                if !url.key.ends_with('/') && !url.key.is_empty() =>
            {
                Err(StorageError::Missing { at: url.to_string() }.into())
            }
            other => Ok((other?, named)),
        };
    }
    let bad = |cause: String| DataError::BadGlob { pattern: pattern.to_owned(), cause };
    let glob = glob::Pattern::new(&url.key).map_err(|e| bad(e.to_string()))?;
    // As on a disk, `*` ends at a `/`.
    let options =
        glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let before = &url.key[..url.key.find(GLOB).unwrap_or(0)];
    let listed = before.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut entries = Location::from(Url { key: listed.to_owned(), ..url.clone() }).list()?;
    entries.retain(|entry| match &entry.location {
        Location::Remote(of) => {
            let below = of.key.strip_prefix(listed).unwrap_or(&of.key);
            let of_glob = url.key.strip_prefix(listed).unwrap_or(&url.key);
            (is_aside(of_glob) || !is_aside(below)) && glob.matches_with(&of.key, options)
        }
        Location::Local(_) => false,
    });
    match entries.is_empty() {
        true => Err(DataError::NoMatch { pattern: pattern.to_owned(), base: base.to_path_buf() }),
        false => Ok((entries, folder(before))),
    }
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
        for name in
            ["in/b.txt", "in/a.txt", "in/deep/c.txt", "in/.hidden.txt", "in/x.md", "odd[1].txt"]
        {
            std::fs::write(base.join(name), "x").unwrap();
        }
        assert_eq!(names(&["in"], &base).unwrap(), ["in/a.txt", "in/b.txt", "in/deep/c.txt"]);
        assert_eq!(names(&["in/*.md", "in/b.txt"], &base).unwrap(), ["in/x.md", "in/b.txt"]);
        assert_eq!(names(&["**/c.*"], &base).unwrap(), ["in/deep/c.txt"]);
        assert_eq!(names(&["odd[1].txt"], &base).unwrap(), ["odd[1].txt"]);

        let error = names(&["in/no.txt"], &base).unwrap_err();
        assert!(
            matches!(&error, DataError::NoSuchFile { .. })
                && error.to_string().contains("in/no.txt"),
            "{error}"
        );
        assert!(matches!(names(&["in/*.parquet"], &base), Err(DataError::NoMatch { .. })));
        assert!(matches!(names(&["in/***"], &base), Err(DataError::BadGlob { .. })));
        assert!(matches!(names(&[], &base), Err(DataError::Config { .. })));
        std::fs::create_dir(base.join("none")).unwrap();
        let error = names(&["none"], &base).unwrap_err().to_string();
        assert!(error.contains("none") && error.contains(".txt"), "{error}");
    }

    #[test]
    fn what_is_below_the_path_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("run=3/ba[s]e");
        for name in ["in=1/lang=en/a.txt", "in=1/lang=de/a.txt"] {
            std::fs::create_dir_all(base.join(name).parent().unwrap()).unwrap();
            std::fs::write(base.join(name), "x").unwrap();
        }
        let below = |pattern: &str| -> Vec<String> {
            let found = find(&[pattern.to_string()], &base, &[".txt".into()]).unwrap();
            found.into_iter().map(|found| found.below).collect()
        };
        assert_eq!(below("in=1"), ["lang=de/a.txt", "lang=en/a.txt"]);
        assert_eq!(below(&base.join("in=1").to_string_lossy()), below("in=1"));
        assert_eq!(below("in=1/lang=en"), ["a.txt"]);
        assert_eq!(below("in=1/lang=en/a.txt"), ["a.txt"]);
        assert_eq!(below("in=1/*/a.txt"), below("in=1"));
        assert_eq!(below("in=1/lang=e*/a.txt"), ["lang=en/a.txt"]);
        assert_eq!(below("in*/lang=en/*.txt"), ["in=1/lang=en/a.txt"]);
        assert_eq!(below("."), ["in=1/lang=de/a.txt", "in=1/lang=en/a.txt"]);
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
