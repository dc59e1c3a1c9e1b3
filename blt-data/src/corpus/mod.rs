//! Files of one format as a [`Source`]: finding them, and looking at them once.

pub(crate) mod files;
mod scans;

use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};

use self::files::Found;
use self::scans::Scans;
use crate::columns::{Wanted, position};
use crate::error::DataError;
use crate::formats::{self, DataFile, Format, Partition};
use crate::order::Order;
use crate::raw::{self, RowReader};
use crate::reader::{self, Cursor};
use crate::rows::{RowRequest, Table};
use crate::source::{
    Column, Description, DocumentReader, Request, Row, Source, SourceConfig, SourceKind,
};
use crate::split::{Filter, Split};
use crate::storage::Location;

/// Files of one format as a [`Source`].
pub struct Corpus {
    config: SourceConfig,
    format: Arc<dyn Format>,
    index: Mutex<Option<Arc<Index>>>,
}

/// All files and units, in order.
pub(crate) struct Index {
    pub files: Vec<DataFile>,
    pub units: Vec<UnitAt>,
    pub rows: u64,
    /// The first file whose columns are not those of the first.
    pub differs: Option<DataError>,
}

pub(crate) struct UnitAt {
    pub file: usize,
    /// In its file.
    pub unit: usize,
    pub rows: u64,
    /// In the corpus.
    pub first_row: u64,
    /// In its file.
    pub first_file_row: u64,
}

impl Corpus {
    /// Checks the settings; opens no file.
    pub fn new(config: SourceConfig) -> Result<Self, DataError> {
        if let Some(split) = &config.split {
            split.check()?;
        }
        let format: Arc<dyn Format> = match config.kind {
            SourceKind::Parquet => Arc::new(formats::parquet::Parquet),
            SourceKind::ArrowIpc => Arc::new(formats::arrow_ipc::ArrowIpc),
            SourceKind::Text { lines } => Arc::new(formats::text::Text { lines }),
        };
        Ok(Corpus { config, format, index: Mutex::new(None) })
    }

    pub fn config(&self) -> &SourceConfig {
        &self.config
    }

    /// The files in the order they are read.
    pub fn files(&self) -> Result<Vec<Location>, DataError> {
        Ok(self.find()?.into_iter().map(|f| f.path).collect())
    }

    fn find(&self) -> Result<Vec<Found>, DataError> {
        let own = self.config.kind.extensions();
        files::find(
            &self.config.paths,
            &self.config.base_dir,
            self.config.extensions.as_ref().unwrap_or(&own),
        )
    }

    /// A digest of a file's table of contents. Of an object, its version is known without reading.
    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        if found.is_remote() { Ok(None) } else { self.format.contents(found) }
    }

    /// The schema that all files share, and the file it was read from.
    fn schema(&self) -> Result<(SchemaRef, Location), DataError> {
        let known = self.index.lock().unwrap_or_else(|e| e.into_inner()).is_some();
        if let Some(schema) = self.format.fixed_schema()
            && !known
        {
            let first = self.find()?.swap_remove(0);
            return Ok((schema, first.path));
        }
        let index = self.index()?;
        match &index.differs {
            Some(error) => Err(error.clone()),
            None => Ok((index.files[0].schema.clone(), index.files[0].found.path.clone())),
        }
    }

    /// Finds and scans the files, once.
    pub(crate) fn index(&self) -> Result<Arc<Index>, DataError> {
        let mut cached = self.index.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(index) = &*cached {
            return Ok(index.clone());
        }
        let (mut files, mut units, mut rows) = (Vec::<DataFile>::new(), Vec::new(), 0);
        let (found, mut differs) = (self.find()?, None);
        let partitions = match self.format.fixed_schema() {
            // A column has the path.
            Some(_) => vec![Vec::new(); found.len()],
            None => partitions(&found),
        };
        let mut scans = Scans::new(&*self.format, &found);
        for (at, (found, mut partitions)) in found.iter().cloned().zip(partitions).enumerate() {
            let scan = scans.next(at)?;
            partitions.retain(|p| scan.schema.index_of(p.field.name()).is_err());
            let file = DataFile::new(found, scan, partitions);
            if let Some(first) = files.first()
                && differs.is_none()
            {
                differs = same_schema(first, &file).err();
            }
            let scan = &file.scan;
            let mut first_file_row = 0;
            for (unit, u) in scan.units.iter().enumerate() {
                units.push(UnitAt {
                    file: files.len(),
                    unit,
                    rows: u.rows,
                    first_row: rows,
                    first_file_row,
                });
                rows += u.rows;
                first_file_row += u.rows;
            }
            files.push(file);
        }
        if u32::try_from(units.len()).is_err() {
            return Err(DataError::Config {
                what: format!("{} row groups or files are more than can be read", units.len()),
            });
        }
        let index = Arc::new(Index { files, units, rows, differs });
        *cached = Some(index.clone());
        Ok(index)
    }

    fn wanted(&self, request: &Request) -> Result<Wanted, DataError> {
        let config = |what: &str| Err(DataError::Config { what: what.into() });
        if request.epochs == Some(0) {
            return config("epochs is 0; expected 1 or more, or none for ever");
        }
        if matches!(request.order, Order::Shuffled { buffer: 0, .. }) {
            return config("the shuffle buffer holds 0 documents; expected 1 or more");
        }
        let filter =
            Filter::new(self.config.split.as_ref(), request.part, request.exclude_calibration)?;
        let (schema, path) = self.schema()?;
        // A split column that is mistyped shows whichever part is read.
        if let Some(column) = self.config.split.as_ref().and_then(Split::column) {
            position(&schema, column, &path)?;
        }
        Wanted::resolve(&schema, &path, &self.config.column, filter, request)
    }

    fn plan(&self, request: &Request) -> Result<reader::Plan, DataError> {
        let wanted = self.wanted(request)?;
        let index = self.index()?;
        let mut hasher = blake3::Hasher::new();
        let settings = serde_json::to_vec(&(&self.config.column, &self.config.split, request));
        hasher.update(&settings.map_err(|e| DataError::Config { what: e.to_string() })?);
        for unit in &index.units {
            hasher.update(&(unit.file as u64).to_le_bytes()).update(&unit.rows.to_le_bytes());
        }
        Ok(reader::Plan {
            format: self.format.clone(),
            index,
            wanted,
            request: request.clone(),
            corpus: self.config.paths.join(", "),
            layout: hasher.finalize().to_hex()[..16].to_string(),
        })
    }
}

impl Corpus {
    /// A request for rows, held against the schema of each table that it reads.
    fn row_plan(&self, request: &RowRequest) -> Result<raw::RowPlan, DataError> {
        let index = self.index()?;
        raw::RowPlan::new(self.format.clone(), index, &self.config, request.clone())
    }
}

impl Source for Corpus {
    fn open(&self, request: &Request) -> Result<Box<dyn DocumentReader>, DataError> {
        Ok(Box::new(reader::Reader::new(self.plan(request)?)))
    }

    fn resume(
        &self,
        request: &Request,
        cursor: &Cursor,
    ) -> Result<Box<dyn DocumentReader>, DataError> {
        Ok(Box::new(reader::Reader::resume(self.plan(request)?, cursor)?))
    }

    fn fetch(&self, request: &Request, rows: &[u64]) -> Result<Vec<Row>, DataError> {
        reader::fetch(&self.plan(request)?, rows)
    }

    fn fingerprint(&self) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        for found in self.find()? {
            hasher.update(&(found.name.len() as u64).to_le_bytes()).update(found.name.as_bytes());
            hasher.update(&found.size.to_le_bytes()).update(found.version().as_bytes());
            if let Some(contents) = self.contents(&found)? {
                hasher.update(contents.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn describe(&self) -> Result<Description, DataError> {
        let wanted = self.schema()?;
        let at = position(&wanted.0, &self.config.column, &wanted.1)?;
        let index = self.index()?;
        Ok(Description {
            paths: self.config.paths.join(", "),
            column: self.config.column.clone(),
            column_type: wanted.0.field(at).data_type().to_string(),
            files: index.files.len(),
            units: index.units.len(),
            rows: index.rows,
            file_bytes: index.files.iter().map(|f| f.found.size).sum(),
        })
    }

    fn columns(&self) -> Result<Vec<Column>, DataError> {
        let (schema, _) = self.schema()?;
        let column = |f: &Arc<arrow::datatypes::Field>| Column {
            name: f.name().clone(),
            data_type: f.data_type().clone(),
        };
        Ok(schema.fields().iter().map(column).collect())
    }

    fn check(&self, request: &Request) -> Result<(), DataError> {
        self.wanted(request).map(|_| ())
    }

    fn tables(&self) -> Result<Vec<Table>, DataError> {
        self.index()?
            .files
            .iter()
            .map(|file| Table::of(file, self.contents(&file.found)?))
            .collect()
    }

    fn open_rows(&self, request: &RowRequest) -> Result<Box<dyn RowReader>, DataError> {
        Ok(Box::new(raw::Reader::new(self.row_plan(request)?, false)))
    }

    fn count_rows(&self, request: &RowRequest, at_most: u64) -> Result<Vec<u64>, DataError> {
        raw::count(self.row_plan(request)?, at_most)
    }
}

/// The columns that the files' folders stand for, file by file: integers where all values are, else
/// text; all that one file has, each has.
fn partitions(found: &[Found]) -> Vec<Vec<Partition>> {
    let of_files: Vec<Vec<(String, Option<String>)>> =
        found.iter().map(|f| files::partitions(&f.name)).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (key, _) in of_files.iter().flatten() {
        if !columns.contains(&key) {
            columns.push(key);
        }
    }
    // `007` is a name, not a number.
    let integer = |text: &str| text.parse::<i64>().ok().filter(|n| n.to_string() == text);
    let numbers = |column: &String| {
        let mut values = of_files
            .iter()
            .flatten()
            .filter(|(key, _)| key == column)
            .filter_map(|(_, v)| v.as_deref());
        values.all(|v| integer(v).is_some())
    };
    let columns: Vec<(&String, bool)> =
        columns.into_iter().map(|column| (column, numbers(column))).collect();
    let of_file = |pairs: &Vec<(String, Option<String>)>| {
        let partition = |(column, numbers): &(&String, bool)| {
            let value = pairs
                .iter()
                .rev()
                .find(|(key, _)| key == *column)
                .and_then(|(_, value)| value.as_deref());
            let value: ArrayRef = match numbers {
                true => Arc::new(Int64Array::from(vec![value.and_then(integer)])),
                false => Arc::new(StringArray::from(vec![value])),
            };
            Partition {
                field: Arc::new(Field::new(*column, value.data_type().clone(), true)),
                value,
            }
        };
        columns.iter().map(partition).collect()
    };
    of_files.iter().map(of_file).collect()
}

/// Names and types of columns must agree; order, nullability and metadata need not.
fn same_schema(first: &DataFile, file: &DataFile) -> Result<(), DataError> {
    let (expected, schema) = (&first.schema, &file.schema);
    let names = expected.fields().iter().chain(schema.fields()).map(|f| f.name());
    for column in names {
        let of =
            |schema: &SchemaRef| schema.field_with_name(column).ok().map(|f| f.data_type().clone());
        let (a, b) = (of(expected), of(schema));
        if !matches!((&a, &b), (Some(a), Some(b)) if a.equals_datatype(b)) {
            let show = |t: Option<DataType>| t.map_or("missing".to_string(), |t| t.to_string());
            return Err(DataError::SchemaDiffers {
                path: file.found.path.clone(),
                first: first.found.path.clone(),
                column: column.clone(),
                found: show(b),
                expected: show(a),
            });
        }
    }
    Ok(())
}
