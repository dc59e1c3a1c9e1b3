//! The row groups of a source, in the order of its files.

use std::sync::Arc;

use crate::error::DataError;
use crate::source::RowFile;
use crate::storage::Location;

/// Where a row group is in its source.
pub(crate) struct GroupAt {
    pub file: usize,
    /// Its number in the file.
    pub group: usize,
    pub rows: u64,
    /// The number of its first row in the source.
    pub first_row: u64,
    /// The number of its first row in the file.
    pub first_file_row: u64,
}

/// All files and row groups of a source.
pub(crate) struct Layout {
    pub files: Arc<[RowFile]>,
    pub groups: Vec<GroupAt>,
    /// Rows of all row groups.
    pub rows: u64,
}

impl Layout {
    /// # Errors
    /// If there are 2^32 row groups or more.
    pub fn new(files: Arc<[RowFile]>) -> Result<Self, DataError> {
        let (mut groups, mut rows) = (Vec::new(), 0);
        for (file, row_file) in files.iter().enumerate() {
            let first = rows;
            for (group, g) in row_file.groups.iter().enumerate() {
                let first_file_row = rows - first;
                groups.push(GroupAt { file, group, rows: g.rows, first_row: rows, first_file_row });
                rows += g.rows;
            }
        }
        if u32::try_from(groups.len()).is_err() {
            return Err(DataError::Config {
                what: format!("{} row groups or files are more than can be read", groups.len()),
            });
        }
        Ok(Layout { files, groups, rows })
    }

    /// The path of a row group's file.
    pub fn path(&self, at: &GroupAt) -> &Location {
        &self.files[at.file].path
    }

    /// The place in [`groups`](Layout::groups) of a file's first row group.
    pub fn first_group(&self, file: usize) -> usize {
        self.groups.partition_point(|g| g.file < file)
    }
}
