//! Cutting record batches into pieces of limited size.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Rows of a piece, at most.
const PIECE_ROWS: usize = 1024;
/// Bytes aimed at for a piece, by its record batch's average.
const PIECE_BYTES: usize = 1 << 20;

/// About how many bytes the rows of a record batch have. A dictionary, which other batches may
/// share, counts as a whole.
pub fn size_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(size_of_array).sum()
}

fn size_of_array(array: &ArrayRef) -> usize {
    let of_views = |views: &[u128]| {
        views.iter().map(|view| std::mem::size_of::<u128>() + *view as u32 as usize).sum()
    };
    let of_range = |values: &ArrayRef, from: usize, to: usize| {
        size_of_array(&values.slice(from, to - from)) + array.len() * 8
    };
    match array.data_type() {
        DataType::Utf8View => of_views(array.as_string_view().views()),
        DataType::BinaryView => of_views(array.as_binary_view().views()),
        DataType::List(_) => {
            let (list, n) = (array.as_list::<i32>(), array.len());
            of_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[n] as usize,
            )
        }
        DataType::LargeList(_) => {
            let (list, n) = (array.as_list::<i64>(), array.len());
            of_range(
                list.values(),
                list.value_offsets()[0] as usize,
                list.value_offsets()[n] as usize,
            )
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(size_of_array).sum(),
        _ => array
            .to_data()
            .get_slice_memory_size()
            .unwrap_or_else(|_| array.get_array_memory_size()),
    }
}

/// Cuts a batch by the mean size of its rows: an IPC file may be a single batch.
pub(crate) fn pieces(batch: &RecordBatch) -> Vec<RecordBatch> {
    let n = batch.num_rows();
    let rows = (PIECE_BYTES / (size_of(batch) / n.max(1)).max(1)).clamp(1, PIECE_ROWS);
    (0..n).step_by(rows).map(|from| batch.slice(from, rows.min(n - from))).collect()
}
