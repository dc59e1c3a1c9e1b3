//! What a run's numbers were made with, the contents of its data included.

use crate::sources::{DocumentSource, sources};
use blt_data::storage::Location;
use blt_graph::{Plan, StepError};
use blt_report::regress::{Fingerprint, short_digest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::Path;

/// The fingerprint of a run's plans on this machine. Reads every file of every source.
///
/// # Errors
/// If a file cannot be read.
pub fn fingerprint(plans: &[&Plan]) -> Result<Fingerprint, StepError> {
    let mut made = Fingerprint::of(plans);
    for (name, version) in
        [("blt-core", blt_core::VERSION), ("blt-plugins", env!("CARGO_PKG_VERSION"))]
    {
        made.versions.insert(name.into(), version.into());
    }
    for plan in plans {
        add_data(&mut made.data, plan)?;
    }
    Ok(made)
}

/// Adds digests of the files that a plan's sources read, and of those that other nodes name in a
/// parameter, by their names.
fn add_data(data: &mut BTreeMap<String, String>, plan: &Plan) -> Result<(), StepError> {
    for node in plan.nodes().iter().filter(|node| node.used) {
        if !node.entry.inputs.is_empty() {
            for named in node.params.values().filter_map(Value::as_str) {
                add_path(data, &plan.base_dir.join(named), named)?;
            }
            continue;
        }
        for source in sources(plan, &[&node.name])? {
            add_source(data, plan, &source)?;
        }
    }
    Ok(())
}

/// Adds digests of what a source reads.
fn add_source(
    data: &mut BTreeMap<String, String>,
    plan: &Plan,
    source: &DocumentSource,
) -> Result<(), StepError> {
    let documents = &source.handle.source;
    let digests = || Ok((documents.files()?, documents.file_fingerprints()?));
    let (files, digests) = digests().map_err(|e| source.error(plan, e))?;
    for (file, digest) in files.iter().zip(digests) {
        match &file.path {
            Location::Local(path) if path.exists() => add_path(data, path, &file.name)?,
            // An object, or a file that a user's own source makes up.
            _ => {
                data.insert(file.name.clone(), short_digest(&digest));
            }
        }
    }
    Ok(())
}

/// Adds the digest of a file, or of the files of a folder. A text that names neither is no path
/// and adds nothing.
fn add_path(data: &mut BTreeMap<String, String>, path: &Path, name: &str) -> Result<(), StepError> {
    if path.is_dir() {
        let failed = |e| StepError::other(format!("cannot read {}: {e}", path.display()));
        for item in std::fs::read_dir(path).map_err(failed)? {
            let item = item.map_err(failed)?.path();
            let below = item.file_name().unwrap_or_default().to_string_lossy();
            if item.is_file() {
                add_path(data, &item, &format!("{}/{below}", name.trim_end_matches('/')))?;
            }
        }
    } else if path.is_file()
        && let Entry::Vacant(of_file) = data.entry(name.to_owned())
    {
        of_file.insert(digest(path)?);
    }
    Ok(())
}

/// The digest of a file's contents. Modification times would differ from checkout to checkout.
fn digest(path: &Path) -> Result<String, StepError> {
    let failed = |e| StepError::other(format!("cannot read {}: {e}", path.display()));
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    Ok(short_digest(&hasher.finalize().to_hex()))
}
