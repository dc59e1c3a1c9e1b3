//! Columns of lists: kinds, types, checks, and how they are cut.

use arrow::array::{
    FixedSizeListArray, Float16Array, Float32Array, Float64Array, Int32Array, LargeListArray,
    LargeListViewArray, ListArray, ListViewArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, FieldRef};

use super::*;

fn item(values: &ArrayRef) -> FieldRef {
    Arc::new(Field::new("item", values.data_type().clone(), true))
}

fn lists(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    Arc::new(ListArray::new(
        item(&values),
        OffsetBuffer::from_lengths(lengths.iter().copied()),
        values,
        None,
    ))
}

fn request(column: &str, kind: ListKind) -> Request {
    Request { lists: vec![ListColumn { column: column.into(), kind }], ..Request::all() }
}

/// Writes `text` and `list` as IPC and reads them back.
fn read_lists(texts: &[&str], list: ArrayRef, kind: ListKind) -> Result<Vec<Vec<f32>>, DataError> {
    let dir = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    write_ipc(&dir.path().join("a.arrow"), &[batch(vec![("text", text), ("list", list)])], false);
    let config = SourceConfig::new(SourceKind::ArrowIpc, "a.arrow", dir.path());
    let found = read(config, &request("list", kind))?;
    let list = |row| match row {
        Row::Document(mut d) => d.lists.remove("list").unwrap(),
        Row::Null(_) => panic!("no null was written"),
    };
    Ok(found.into_iter().map(list).collect())
}

#[test]
fn every_kind_of_list() {
    let numbers = [0.5f32, 1.0, 1.5, 2.0, 2.5, 3.0];
    let f32s: ArrayRef = Arc::new(Float32Array::from(numbers.to_vec()));
    let f64s: ArrayRef =
        Arc::new(Float64Array::from_iter_values(numbers.iter().map(|&v| v as f64)));
    let f16s: ArrayRef =
        Arc::new(Float16Array::from_iter_values(numbers.iter().map(|&v| half::f16::from_f32(v))));
    let expected = [numbers[..3].to_vec(), numbers[3..].to_vec()];
    for values in [f32s, f64s, f16s] {
        let (large, offsets) =
            (OffsetBuffer::from_lengths([3, 3]), OffsetBuffer::<i64>::from_lengths([3, 3]));
        let (at, sizes) = (ScalarBuffer::from(vec![0, 3]), ScalarBuffer::from(vec![3, 3]));
        let (large_at, large_sizes) =
            (ScalarBuffer::from(vec![0i64, 3]), ScalarBuffer::from(vec![3i64, 3]));
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(ListArray::new(item(&values), large, values.clone(), None)),
            Arc::new(LargeListArray::new(item(&values), offsets, values.clone(), None)),
            Arc::new(FixedSizeListArray::new(item(&values), 3, values.clone(), None)),
            Arc::new(ListViewArray::new(item(&values), at, sizes, values.clone(), None)),
            Arc::new(LargeListViewArray::new(
                item(&values),
                large_at,
                large_sizes,
                values.clone(),
                None,
            )),
        ];
        for array in arrays {
            let name = array.data_type().to_string();
            assert_eq!(
                read_lists(&["ab", "cd"], array, ListKind::PerId).unwrap(),
                expected,
                "{name}"
            );
        }
    }
    let lengths: ArrayRef = Arc::new(UInt64Array::from(vec![1, 2, 0, 1, 3]));
    let found = read_lists(&["ab", "cd"], lists(lengths, &[3, 2]), ListKind::PatchLengths).unwrap();
    assert_eq!(found, [vec![1.0, 2.0, 0.0], vec![1.0, 3.0]]);
}

#[test]
fn lists_in_parquet_and_only_those_of_the_part() {
    let dir = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b")]));
    let values: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0, 3.0]));
    let nulls = NullBuffer::from(vec![true, false, false]);
    let list =
        ListArray::new(item(&values), OffsetBuffer::from_lengths([2, 0, 1]), values, Some(nulls));
    write_parquet(
        &dir.path().join("a.parquet"),
        &batch(vec![("text", text), ("entropies", Arc::new(list))]),
        10,
    );
    let request = request("entropies", ListKind::PerId);
    let source = Corpus::new(parquet_corpus(dir.path())).unwrap();
    let mut reader = source.open(&request).unwrap();
    assert!(
        matches!(reader.next().unwrap(), Some(Row::Document(d)) if d.lists["entropies"] == [1.0, 2.0])
    );
    // Neither a null list of a null text ...
    assert_eq!(reader.next().unwrap(), Some(Row::Null(1)));
    // ... but one of a document; and the error stays.
    for _ in 0..2 {
        let error = reader.next().unwrap_err();
        assert!(matches!(error, DataError::NullList { row: 2, .. }), "{error}");
    }
    // In a part without that row, it is no matter.
    let mut splits = (1..100).map(|percent| Split::new(percent as f64 / 100.0, BY_CONTENT));
    let split = splits
        .find(|s| s.portion(b"a") != s.portion(b"b"))
        .expect("their hashes differ by more than a hundredth");
    let portion = split.portion(b"a");
    let source =
        Corpus::new(SourceConfig { split: Some(split), ..parquet_corpus(dir.path()) }).unwrap();
    let found = rows(&source, &Request { portion, ..request }).unwrap();
    assert_eq!(contents(&found).into_iter().flatten().collect::<Vec<_>>(), [b"a"]);
}

#[test]
fn lists_that_do_not_serve() {
    let floats = |values: &[f32]| -> ArrayRef { Arc::new(Float32Array::from(values.to_vec())) };
    let ints = |values: &[i32]| -> ArrayRef { Arc::new(Int32Array::from(values.to_vec())) };
    let fails = |list: ArrayRef, kind, parts: &[&str]| {
        let error = read_lists(&["a", "bc"], list, kind).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\n{parts:?}");
    };
    use ListKind::{PatchLengths, PerId};
    fails(
        lists(floats(&[1.0; 4]), &[2, 2]),
        PerId,
        &["`list` has 2 elements in row 1", "2 bytes", "a.arrow"],
    );
    fails(lists(floats(&[1.0; 7]), &[2, 5]), PerId, &["5 elements in row 1"]);
    fails(
        lists(floats(&[1.0, 1.0, 1.0, f32::NAN, 1.0]), &[2, 3]),
        PerId,
        &["NaN as element 1 in row 1", "finite"],
    );
    let nulls: ArrayRef =
        Arc::new(Float32Array::from(vec![Some(1.0), None, Some(1.0), Some(1.0), Some(1.0)]));
    fails(lists(nulls, &[2, 3]), PerId, &["null as element 1 in row 0"]);
    let wide: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 1e300, 1.0, 1.0, 1.0]));
    fails(lists(wide, &[2, 3]), PerId, &["inf as element 1 in row 0"]);
    fails(
        lists(ints(&[1; 5]), &[2, 3]),
        PerId,
        &["`list`", "Int32", "a list of Float16, Float32 or Float64"],
    );
    fails(floats(&[1.0, 1.0]), PerId, &["is Float32, but a list of"]);

    fails(lists(floats(&[1.0; 5]), &[2, 3]), PatchLengths, &["Float32", "a list of integers"]);
    fails(lists(ints(&[1, 1, 1, 1]), &[2, 2]), PatchLengths, &["sum to 2 in row 1", "n_bytes + 1"]);
    fails(lists(ints(&[1, 1, 1, 4]), &[2, 2]), PatchLengths, &["sum to 5 in row 1"]);
    fails(
        lists(ints(&[1, 1, 2, 1]), &[2, 2]),
        PatchLengths,
        &["2 as element 0 in row 1", "BOS alone"],
    );
    fails(lists(ints(&[1, 2, -1, 3]), &[3, 1]), PatchLengths, &["-1 as element 2 in row 0"]);
    let huge: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX, 1, 2]));
    fails(lists(huge, &[2, 2]), PatchLengths, &["18446744073709551615 as element 1"]);
}

/// A span's lists read as a document's: patch lengths sum to its ids, and to one more where the
/// next byte is known.
#[test]
fn lists_are_cut_with_their_spans() {
    let dir = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["abcdefgh", ""]));
    let entropies =
        lists(Arc::new(Float32Array::from_iter_values((0..11).map(|v| v as f32))), &[9, 2]);
    // Patches: BOS | ab | cde | (zero) | fgh; and of the empty document BOS | the unseen byte.
    let patches = lists(Arc::new(Int32Array::from(vec![1, 2, 3, 0, 3, 1, 1])), &[5, 2]);
    let batch = batch(vec![("text", text), ("entropies", entropies), ("patch_lengths", patches)]);
    write_parquet(&dir.path().join("a.parquet"), &batch, 10);
    let columns = [("entropies", ListKind::PerId), ("patch_lengths", ListKind::PatchLengths)];
    let columns = columns.map(|(column, kind)| ListColumn { column: column.into(), kind });
    let request = Request { lists: columns.to_vec(), ..Request::all() };
    let cut = |packer: Packer| {
        let source = Arc::new(Corpus::new(parquet_corpus(dir.path())).unwrap());
        let batch = BatchReader::new(source, request.clone(), packer)
            .unwrap()
            .next_batch()
            .unwrap()
            .unwrap();
        (batch.lists["entropies"].clone(), batch.lists["patch_lengths"].clone())
    };
    let packer = Packer { keep_empty: true, ..Packer::new(100, 100).unwrap() };
    let (entropies, patches) = cut(packer.clone());
    assert_eq!(entropies, [(0..9).map(|v| v as f32).collect::<Vec<_>>(), vec![9.0]]);
    assert_eq!(patches, [vec![1.0, 2.0, 3.0, 3.0], vec![1.0, 1.0]]);

    // abc|def|gh: BOS ab c[de] | BOS de f[g] | BOS gh
    let (entropies, patches) = cut(Packer { span_bytes: 3, ..packer.clone() });
    assert_eq!(
        entropies[..3],
        [vec![0.0, 1.0, 2.0, 3.0], vec![3.0, 4.0, 5.0, 6.0], vec![6.0, 7.0, 8.0]]
    );
    assert_eq!(patches[..3], [vec![1.0, 2.0, 2.0], vec![1.0, 2.0, 2.0], vec![1.0, 2.0]]);

    // ab|cde is cut where a patch starts: the next byte's patch is one of its own. Context:
    // abcde|(de)fgh.
    let (_, patches) = cut(Packer { span_bytes: 5, context_bytes: 2, ..packer });
    assert_eq!(patches[..2], [vec![1.0, 2.0, 3.0, 1.0], vec![1.0, 2.0, 3.0]]);
}
