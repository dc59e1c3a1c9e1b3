//! What a run shows of its steps: their metrics in one file, links to their files.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use crate::files::{FileError, JsonLines};
use crate::run::report::StepRun;

/// Copies the lines of the file `from` into `to`, the fields of `tag` before those of each line. A
/// missing file has no lines.
pub(super) fn gather(
    from: &Path,
    tag: &Map<String, Value>,
    to: &mut JsonLines,
) -> Result<(), FileError> {
    let text = match fs::read_to_string(from) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::on("read", from)(error)),
    };
    for line in text.lines() {
        let fields: Map<String, Value> = serde_json::from_str(line)
            .map_err(|error| FileError::on("read", from)(io::Error::other(error)))?;
        let mut object = tag.clone();
        object.extend(fields);
        to.push(&object)?;
    }
    Ok(())
}

/// Links the `outputs/` and `checkpoints/` of a plan's steps into the run directory `run`, in the
/// folder `place`. Checkpoints are in a folder named after their step. Outputs are too, if several
/// steps of the plan have some.
pub(super) fn publish(run: &Path, place: &Path, steps: &[StepRun]) -> Result<(), FileError> {
    let with_outputs = steps.iter().filter(|step| step.dir.join("outputs").is_dir()).count();
    for step in steps {
        let own = format!("{}-{}", step.index, step.step);
        let checkpoints = step.dir.join("checkpoints");
        if checkpoints.is_dir() {
            link_tree(&checkpoints, &run.join("checkpoints").join(place).join(&own))?;
        }
        let outputs = step.dir.join("outputs");
        if outputs.is_dir() {
            let to = run.join("outputs").join(place);
            link_tree(&outputs, &if with_outputs > 1 { to.join(&own) } else { to })?;
        }
    }
    Ok(())
}

fn link_tree(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::create_dir_all(to).map_err(FileError::on("create", to))?;
    for item in fs::read_dir(from).map_err(FileError::on("read", from))? {
        let item = item.map_err(FileError::on("read", from))?;
        let (source, target) = (item.path(), to.join(item.file_name()));
        if item.file_type().map_err(FileError::on("read", &source))?.is_dir() {
            link_tree(&source, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            // Another file system, or one without links.
            fs::copy(&source, &target).map_err(FileError::on("write", &target))?;
        }
    }
    Ok(())
}
