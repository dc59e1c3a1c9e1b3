//! Arrow IPC files and streams. A record batch is a row group: it is read whole, and only the
//! columns asked for are decoded.
//!
//! Both forms are indexed by the headers of their messages, so a stream can be read in any order
//! too.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::{
    Block, CompressionType, MessageHeader, MetadataVersion, root_as_footer, root_as_message,
};

use super::file::{DataFile, Extent, Found, Group, Message, Scan};
use super::{Format, FormatReader, guard};
use crate::error::DataError;
use crate::nested::as_bytes;
use crate::source::Batches;
use crate::storage::{Input, Location};

const MAGIC: &[u8; 6] = b"ARROW1";

pub(crate) struct ArrowIpc;

impl Format for ArrowIpc {
    fn scan(&self, found: &Found) -> Result<Scan, DataError> {
        let mut file = IpcFile::open(found)?;
        if file.is_file_form { file.scan_file() } else { file.scan_stream() }
    }

    fn contents(&self, found: &Found) -> Result<Option<blake3::Hash>, DataError> {
        let mut file = IpcFile::open(found)?;
        if file.is_file_form {
            return Ok(Some(blake3::hash(&file.footer()?)));
        }
        let scan = file.scan_stream()?;
        // Fingerprints that are stored were made when a `Group` was called `Unit`.
        let groups = format!("{:?}", scan.groups).replace("Group {", "Unit {");
        let text = format!("{:?} {groups} {:?}", scan.schema, scan.dictionaries);
        Ok(Some(blake3::hash(text.as_bytes())))
    }

    fn reader(&self, columns: &[String]) -> Box<dyn FormatReader> {
        Box::new(IpcReader { columns: columns.to_vec(), bytes: false, open: None })
    }
}

struct IpcFile {
    path: Location,
    input: Input,
    size: u64,
    is_file_form: bool,
}

impl IpcFile {
    fn open(found: &Found) -> Result<Self, DataError> {
        let (path, input) = (&found.path, found.open()?);
        let size = input.size();
        let mut head = vec![0; size.min(8) as usize];
        input.read_exact_at(0, &mut head)?;
        let wrong = |cause: &str| {
            let (path, expected) = (path.clone(), "an Arrow IPC file or stream");
            DataError::WrongFormat { path, expected, cause: cause.into() }
        };
        if head.starts_with(b"FEA1") {
            return Err(wrong(
                "it is Feather version 1, an older format; write it again as version 2 (Arrow IPC)",
            ));
        }
        if head.starts_with(b"PAR1") {
            return Err(wrong("it is a Parquet file; read it with ParquetBytes"));
        }
        let is_file_form = head.starts_with(MAGIC);
        // A stream begins with a continuation marker, or (before 0.15) with the length of its
        // schema message.
        let is_stream = head.starts_with(&[0xff; 4])
            || head.len() == 8
                && (8..1 << 28).contains(&i32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        if !is_file_form && !is_stream {
            return Err(wrong("it begins with neither ARROW1 nor a schema message"));
        }
        Ok(IpcFile { path: path.clone(), input, size, is_file_form })
    }

    fn corrupt(&self, place: &str, cause: impl ToString) -> DataError {
        DataError::Corrupt {
            path: self.path.clone(),
            place: place.into(),
            cause: cause.to_string(),
        }
    }

    /// `length` bytes from `offset`, in aligned memory; nothing is allocated that the file cannot
    /// fill.
    fn read(&mut self, offset: u64, length: u64, place: &str) -> Result<Buffer, DataError> {
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(self.corrupt(
                place,
                format!("it ends at byte {}, before the {place} does", self.size),
            ));
        }
        let mut buffer = MutableBuffer::from_len_zeroed(length as usize);
        self.input.read_exact_at(offset, &mut buffer)?;
        Ok(buffer.into())
    }

    fn footer(&mut self) -> Result<Buffer, DataError> {
        if self.size < 18 {
            return Err(self.corrupt("footer", "the file is shorter than any Arrow IPC file"));
        }
        let tail = self.read(self.size - 10, 10, "footer")?;
        if &tail[4..] != MAGIC {
            let cause = "it does not end with ARROW1, so it was cut off or never finished";
            return Err(self.corrupt("footer", cause));
        }
        let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        match (self.size - 10).checked_sub(length) {
            Some(start) => self.read(start, length, "footer"),
            None => Err(self.corrupt("footer", format!("its length is given as {length} bytes"))),
        }
    }

    /// The metadata flatbuffer of a message, past its length prefix.
    fn metadata(&mut self, message: &Message) -> Result<Buffer, DataError> {
        let buffer = self.read(message.offset, u64::from(message.metadata), "message header")?;
        let prefix = if buffer.starts_with(&[0xff; 4]) { 8 } else { 4 };
        if buffer.len() < prefix {
            return Err(self.corrupt("message header", "it is too short"));
        }
        Ok(buffer.slice(prefix))
    }

    /// The number of rows in a record batch's header.
    fn rows(&mut self, message: &Message, place: &str) -> Result<u64, DataError> {
        let metadata = self.metadata(message)?;
        let rows = root_as_message(&metadata)
            .map_err(|e| e.to_string())
            .and_then(|m| {
                m.header_as_record_batch().ok_or_else(|| "it is no record batch".to_string())
            })
            .and_then(|b| {
                u64::try_from(b.length()).map_err(|_| format!("it has {} rows", b.length()))
            });
        rows.map_err(|cause| self.corrupt(place, cause))
    }

    fn scan_file(&mut self) -> Result<Scan, DataError> {
        let footer = self.footer()?;
        let footer = root_as_footer(&footer).map_err(|e| self.corrupt("footer", e))?;
        let block = |b: &Block| -> Option<Message> {
            let (offset, metadata) =
                (u64::try_from(b.offset()).ok()?, u32::try_from(b.metaDataLength()).ok()?);
            Some(Message { offset, metadata, body: u64::try_from(b.bodyLength()).ok()? })
        };
        let negative = || self.corrupt("footer", "a message has a negative size");
        let batches =
            footer.recordBatches().iter().flatten().map(block).collect::<Option<Vec<_>>>();
        let batches = batches.ok_or_else(negative)?;
        let dictionaries =
            footer.dictionaries().iter().flatten().map(block).collect::<Option<Vec<_>>>();
        let dictionaries = dictionaries.ok_or_else(negative)?;
        let schema = footer.schema().ok_or_else(|| self.corrupt("footer", "it has no schema"))?;
        let schema = self.schema(schema)?;
        let mut groups = Vec::with_capacity(batches.len());
        for (i, message) in batches.into_iter().enumerate() {
            let rows = self.rows(&message, &format!("record batch {i}"))?;
            let bytes = message.body;
            groups.push(Group {
                extent: Extent::Batch { message, n_dictionaries: dictionaries.len() },
                rows,
                bytes,
            });
        }
        Ok(Scan { schema, groups, dictionaries, types: None, encrypted: Vec::new() })
    }

    fn schema(&self, schema: arrow::ipc::Schema) -> Result<SchemaRef, DataError> {
        if !schema.endianness().equals_to_target_endianness() {
            return Err(DataError::Unsupported {
                path: self.path.clone(),
                what: "its byte order is not this machine's".into(),
                help: "write it again on a machine of the same byte order",
            });
        }
        guard(&self.path, &|| "schema".into(), || {
            try_fb_to_schema(schema).map(Arc::new).map_err(|e| e.to_string())
        })
    }

    fn scan_stream(&mut self) -> Result<Scan, DataError> {
        let (mut schema, mut groups, mut dictionaries) = (None, Vec::<Group>::new(), Vec::new());
        let mut offset = 0;
        while offset < self.size {
            let place = format!("message at byte {offset}");
            let prefix = self.read(offset, 4, &place)?;
            let marked = prefix.as_slice() == [0xff; 4];
            let length = if marked { self.read(offset + 4, 4, &place)? } else { prefix };
            let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
            if length == 0 {
                break;
            }
            let metadata = length
                .checked_add(if marked { 8 } else { 4 })
                .filter(|&m| m <= i32::MAX as u32)
                .ok_or_else(|| self.corrupt(&place, format!("its header has {length} bytes")))?;
            let mut message = Message { offset, metadata, body: 0 };
            let header = self.metadata(&message)?;
            let header = root_as_message(&header).map_err(|e| self.corrupt(&place, e))?;
            message.body = u64::try_from(header.bodyLength())
                .ok()
                .filter(|&body| body <= self.size)
                .ok_or_else(|| {
                    self.corrupt(&place, format!("it has {} bytes", header.bodyLength()))
                })?;
            let end = offset + u64::from(metadata) + message.body;
            if end > self.size {
                let cause = format!(
                    "the file ends at byte {}, before the message does (byte {end})",
                    self.size
                );
                return Err(self.corrupt(&place, cause));
            }
            match (header.header_type(), &schema) {
                (MessageHeader::Schema, None) => {
                    let found = header
                        .header_as_schema()
                        .ok_or_else(|| self.corrupt(&place, "it has no schema"))?;
                    schema = Some(self.schema(found)?);
                }
                (MessageHeader::DictionaryBatch, Some(_)) => dictionaries.push(message),
                (MessageHeader::RecordBatch, Some(_)) => {
                    let rows = header
                        .header_as_record_batch()
                        .and_then(|b| u64::try_from(b.length()).ok());
                    let rows =
                        rows.ok_or_else(|| self.corrupt(&place, "it has no number of rows"))?;
                    let n_dictionaries = dictionaries.len();
                    let bytes = message.body;
                    groups.push(Group {
                        extent: Extent::Batch { message, n_dictionaries },
                        rows,
                        bytes,
                    });
                }
                (MessageHeader::Schema, Some(_)) => {
                    return Err(self.corrupt(&place, "a second schema"));
                }
                (_, None) => return Err(self.corrupt(&place, "it comes before the schema")),
                (other, _) => {
                    return Err(self.corrupt(&place, format!("a message of kind {other:?}")));
                }
            }
            offset = end;
        }
        let schema = schema.ok_or_else(|| self.corrupt("schema", "there is none"))?;
        Ok(Scan { schema, groups, dictionaries, types: None, encrypted: Vec::new() })
    }

    /// A whole message, and the version its header names.
    fn message(
        &mut self,
        message: &Message,
        place: &str,
    ) -> Result<(Block, Buffer, MetadataVersion), DataError> {
        let length = u64::from(message.metadata).checked_add(message.body);
        let length = length.ok_or_else(|| self.corrupt(place, "its size is beyond any file"))?;
        let buffer = self.read(message.offset, length, place)?;
        let prefix = if buffer.starts_with(&[0xff; 4]) { 8 } else { 4 };
        let header = root_as_message(buffer.get(prefix..).unwrap_or_default())
            .map_err(|e| self.corrupt(place, e))?;
        let version = header.version();
        if version < MetadataVersion::V4 {
            return Err(DataError::Unsupported {
                path: self.path.clone(),
                what: format!("it is of Arrow's format {version:?}, from before 2018"),
                help: "write it again with a newer Arrow",
            });
        }
        let body = buffer.get(message.metadata as usize..).unwrap_or_default();
        if let Some(claim) = false_claim(&header, body) {
            return Err(self.corrupt(place, claim));
        }
        Ok((
            Block::new(message.offset as i64, message.metadata as i32, message.body as i64),
            buffer,
            version,
        ))
    }
}

/// What a compressed buffer cannot be when it is decompressed, which would be allocated all the
/// same: 255 times its length by LZ4, or more than a block of 128 KiB for each 4 bytes by Zstandard.
fn false_claim(header: &arrow::ipc::Message, body: &[u8]) -> Option<String> {
    let batch = header
        .header_as_record_batch()
        .or_else(|| header.header_as_dictionary_batch().and_then(|d| d.data()))?;
    let most = match batch.compression()?.codec() {
        CompressionType::LZ4_FRAME => 255,
        _ => 1 << 15,
    };
    batch.buffers()?.iter().find_map(|buffer| {
        let offset = usize::try_from(buffer.offset()).ok()?;
        // The claim's own eight bytes.
        let length = u64::try_from(buffer.length()).ok()?.checked_sub(8)?;
        let claim = body.get(offset..)?.first_chunk().map(|bytes| i64::from_le_bytes(*bytes))?;
        let claim = u64::try_from(claim).ok().filter(|c| *c > length.saturating_mul(most))?;
        Some(format!("a buffer of {length} compressed bytes claims to hold {claim}"))
    })
}

/// A decoder with the dictionaries that were read into it.
struct Decoder {
    decoder: FileDecoder,
    n_dictionaries: usize,
}

struct IpcReader {
    columns: Vec<String>,
    /// Whether text is read as bytes.
    bytes: bool,
    open: Option<(IpcFile, Option<Decoder>)>,
}

fn is_utf8_error(cause: &str) -> bool {
    cause.to_lowercase().replace('-', "").contains("utf8")
}

impl IpcReader {
    fn schema(&self, file: &DataFile) -> SchemaRef {
        let schema = &file.scan.schema;
        if !self.bytes {
            return schema.clone();
        }
        let bytes = |field: &FieldRef| {
            Arc::new(field.as_ref().clone().with_data_type(as_bytes(field.data_type())))
        };
        let fields: Vec<FieldRef> = schema.fields().iter().map(bytes).collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }
}

impl FormatReader for IpcReader {
    fn open(
        &mut self,
        file: &DataFile,
        at: usize,
        ranges: &[Range<u64>],
    ) -> Result<Batches, DataError> {
        let path = &file.found.path;
        let Group { extent: Extent::Batch { message, n_dictionaries }, rows, .. } =
            file.scan.groups[at]
        else {
            unreachable!("a row group of an IPC file is a record batch");
        };
        let schema = self.schema(file);
        if self.open.as_ref().is_none_or(|(open, _)| &open.path != path) {
            self.open = Some((IpcFile::open(&file.found)?, None));
        }
        let (ipc, decoder) = self.open.as_mut().expect("opened above");
        let place = format!("record batch {at}");
        let (block, buffer, version) = ipc.message(&message, &place)?;
        // A stream may replace a dictionary: going back before it begins anew.
        if decoder.as_ref().is_some_and(|d| d.n_dictionaries > n_dictionaries) {
            *decoder = None;
        }
        let mut current = decoder.take().unwrap_or_else(|| Decoder {
            decoder: FileDecoder::new(schema.clone(), version)
                .with_projection(file.projection(&self.columns)),
            n_dictionaries: 0,
        });
        while current.n_dictionaries < n_dictionaries {
            let place = format!("dictionary {}", current.n_dictionaries);
            let (block, buffer, _) =
                ipc.message(&file.scan.dictionaries[current.n_dictionaries], &place)?;
            let read = guard(path, &|| place.clone(), || {
                current.decoder.read_dictionary(&block, &buffer).map_err(|e| e.to_string())
            });
            match read {
                Err(DataError::Corrupt { cause, .. }) if is_utf8_error(&cause) && !self.bytes => {
                    (self.open, self.bytes) = (None, true);
                    return self.open(file, at, ranges);
                }
                read => read?,
            }
            current.n_dictionaries += 1;
        }
        let batch: Result<Option<RecordBatch>, _> = guard(path, &|| place.clone(), || {
            current.decoder.read_record_batch(&block, &buffer).map_err(|e| e.to_string())
        });
        let batch = match batch {
            // One string that is no UTF-8 costs no other: text is read as bytes from here on.
            Err(DataError::Corrupt { cause, .. }) if is_utf8_error(&cause) && !self.bytes => {
                (self.open, self.bytes) = (None, true);
                return self.open(file, at, ranges);
            }
            batch => batch?,
        };
        *decoder = Some(current);
        let batch = batch.ok_or_else(|| ipc.corrupt(&place, "it is empty"))?;
        if batch.num_rows() as u64 != rows {
            return Err(DataError::Changed { path: path.clone() });
        }
        let slices: Vec<RecordBatch> = ranges
            .iter()
            .map(|r| batch.slice(r.start as usize, (r.end - r.start) as usize))
            .collect();
        Ok(Box::new(slices.into_iter().map(Ok)))
    }
}
