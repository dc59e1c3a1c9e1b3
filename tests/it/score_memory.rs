//! Memory does not grow with the data that is scored.

use crate::common::{Place, text};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

const PIPELINE: &str = "\
name: memory
graph:
  docs: {node: ParquetBytes, path: docs.parquet}
  patches: {node: SpacePatch, in: docs}
run:
  - score: {goal: patches, emit: [patch_lengths], part_bytes: 4000000}
";

/// Documents of 2,000 bytes in row groups of 500, none like another.
fn write(path: &Path, documents: usize) {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(500)).build();
    let mut writer: Option<ArrowWriter<fs::File>> = None;
    let mut state = 1u64;
    for from in (0..documents).step_by(500) {
        let rows = from..documents.min(from + 500);
        let mut document = |_| {
            let mut text = String::new();
            while text.len() < 2000 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text += &format!("{:x} ", state >> (20 + state % 24));
            }
            text
        };
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values(rows.clone().map(&mut document)));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.map(|i| i as i64)));
        let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
        let file = || fs::File::create(path).unwrap();
        let writer = writer.get_or_insert_with(|| {
            ArrowWriter::try_new(file(), batch.schema(), Some(properties.clone())).unwrap()
        });
        writer.write(&batch).unwrap();
    }
    writer.unwrap().close().unwrap();
}

/// The most memory that the program had at a time, in KiB.
fn peak(place: &Place) -> u64 {
    let mut child = place
        .command(&["pipeline.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        // The kernel's own high-water mark, so that nothing is missed between two looks.
        peak = peak.max(line.and_then(|l| l.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    peak
}

#[test]
fn memory_is_the_same_for_eight_times_the_rows() {
    let of = |documents: usize| {
        let place = Place::new().with(PIPELINE);
        write(&place.path("docs.parquet"), documents);
        (peak(&place), fs::metadata(place.path("docs.parquet")).unwrap().len())
    };
    let ((small, small_file), (large, large_file)) = (of(5_000), of(40_000));
    println!(
        "peak {small} KiB for a file of {small_file} bytes, {large} KiB for one of {large_file}"
    );
    assert!(large_file > 7 * small_file);
    // Eight times the input is some 70 MB more. What threads free, the allocator keeps for a
    // second.
    assert!(large < small + 32 * 1024, "{large} KiB, and {small} KiB for an eighth of the rows");
}
