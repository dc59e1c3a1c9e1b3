"""`blt.Scorer` gives record batches what a `score` step writes, to the bit, through Arrow's C data interface."""

from __future__ import annotations

import doctest
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import time

import blt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MODEL, Place, table, text

LISTS = ["log_probs", "entropies", "patch_lengths"]
SCORES = ["n_bytes", "n_patches", "nats", "bits_per_byte"]


@pytest.fixture(scope="module")
def scorer() -> blt.Scorer:
    return blt.Scorer(MODEL, emit=LISTS, span_bytes=2048, context_bytes=64, threads=2)


@pytest.fixture(scope="module")
def rows() -> pa.RecordBatch:
    return table(24, 3000).combine_chunks().to_batches()[0]


def scored(scorer: blt.Scorer, rows: object) -> pa.RecordBatch:
    return pa.record_batch(scorer.score(rows))


def test_the_same_bits_as_a_score_step(place: Place, scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    place.data("in/a.parquet", pa.table(rows), 10)
    place.write("emit: [log_probs, entropies, patch_lengths], context_bytes: 64")
    [part] = (place.run() / "outputs").iterdir()
    expected = pq.read_table(part)
    ours = pa.table(scorer.score(pq.read_table(place.path / "in" / "a.parquet")))
    assert ours.schema.equals(expected.schema)
    assert ours.equals(expected)
    assert ours.schema.metadata == {b"of": b"tests"}
    assert ours.schema.names == [*rows.schema.names, *SCORES, *LISTS]
    # The pipeline itself says it too, on one thread.
    assert pa.table(blt.Scorer(place.pipeline, threads=1).score(pa.table(rows))).equals(ours)


def test_rows_alone_and_together(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    together = scored(scorer, rows)
    alone = pa.Table.from_batches([scored(scorer, rows.slice(i, 1)) for i in range(len(rows))])
    assert alone.equals(pa.table(together))
    stream = pa.RecordBatchReader.from_batches(rows.schema, [rows.slice(0, 7), rows.slice(7, 0), rows.slice(7)])
    batches = pa.RecordBatchReader.from_stream(scorer.score(stream)).read_all().to_batches()
    assert [len(batch) for batch in batches] == [7, 0, 17]
    assert pa.Table.from_batches(batches).equals(pa.table(together))


def test_nothing_is_copied(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    ours = scored(scorer, rows)
    for name in ["id", "text", "tags"]:
        theirs = [buffer and buffer.address for buffer in rows.column(name).buffers()]
        assert [buffer and buffer.address for buffer in ours.column(name).buffers()] == theirs


def test_it_outlives_what_it_came_from(scorer: blt.Scorer) -> None:
    result = blt.Scorer(MODEL, threads=1).score(pa.record_batch({"text": ["one", "two"]}))
    first, second = pa.record_batch(result), pa.table(result)
    del result
    assert first.column("n_bytes").to_pylist() == second["n_bytes"].to_pylist() == [3, 3]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), None]
)
def test_types_of_text(scorer: blt.Scorer, kind: pa.DataType | None) -> None:
    documents = ["the cat", None, "", "고양이", "the cat"]
    column = pa.array(documents)
    if kind is None:
        column = column.dictionary_encode()
    else:
        column = column.cast(pa.binary() if "binary" in str(kind) else pa.string()).cast(kind)
    ours = scored(scorer, pa.record_batch({"text": column}))
    assert ours.column("text").equals(column)
    assert ours.column("n_bytes").to_pylist() == [7, None, 0, 9, 7]
    assert ours.column("bits_per_byte").is_null().to_pylist() == [False, True, True, False, False]
    assert ours.column("patch_lengths")[2].as_py() == [1]
    assert [len(p) for p in ours.column("log_probs").to_pylist() if p is not None] == [7, 0, 9, 7]


def test_bytes_are_bytes(scorer: blt.Scorer) -> None:
    ours = scored(scorer, pa.record_batch({"text": pa.array([b"\xff\xfe\x00", bytes(range(256))])}))
    assert ours.column("n_bytes").to_pylist() == [3, 256]


def test_no_rows(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    empty = scored(scorer, rows.slice(0, 0))
    assert len(empty) == 0 and empty.schema.equals(scored(scorer, rows).schema)
    none = scorer.score(pa.RecordBatchReader.from_batches(rows.schema, []))
    assert pa.table(none).num_rows == 0 and none.column_names == empty.schema.names


def test_other_libraries(scorer: blt.Scorer) -> None:
    frame = pl.DataFrame({"text": ["one", None, "three"], "n": [1, 2, 3]})
    ours = pl.DataFrame(scorer.score(frame))
    assert ours.columns == ["text", "n", *SCORES, *LISTS]
    assert ours["n_bytes"].to_list() == [3, None, 5] and ours["n"].to_list() == [1, 2, 3]
    # What it gives, it takes.
    assert len(scorer.score(pa.table(scorer.score(frame)).select(["text"]))) == 3


def test_other_threads_run_meanwhile(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    turns, stop = 0, threading.Event()

    def take_turns() -> None:
        nonlocal turns
        while not stop.is_set():
            turns += 1
            time.sleep(0.001)

    # From here on, a thread gets a turn only when another lets go of the interpreter.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        before = turns
        scorer.score(rows)
        assert turns - before > 3
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()


def test_threads_take_turns(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    expected, found = scored(scorer, rows), []
    threads = [threading.Thread(target=lambda: found.append(scored(scorer, rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(batch.equals(expected) for batch in found)


def test_it_is_pickled_as_its_arguments(scorer: blt.Scorer, rows: pa.RecordBatch) -> None:
    again = pickle.loads(pickle.dumps(scorer))
    assert repr(again) == repr(scorer)
    assert repr(scorer) == f"blt.Scorer({str(MODEL)!r}, emit={LISTS!r}, span_bytes=2048, context_bytes=64, threads=2)"
    assert scored(again, rows).equals(scored(scorer, rows))


def test_a_fork_is_told(scorer: blt.Scorer) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            scorer.score(pa.record_batch({"text": ["one"]}))
        except RuntimeError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_is_no_such_data(scorer: blt.Scorer) -> None:
    with pytest.raises(TypeError, match="Arrow data is expected .* not list"):
        scorer.score(["text"])
    with pytest.raises(ValueError, match="a record batch is expected"):
        scorer.score(pa.array([1, 2]))
    with pytest.raises(ValueError, match="nulls of its own"):
        scorer.score(pa.array([{"text": "a"}, None]))
    with pytest.raises(blt.Error, match="no column `text` in the record batch, did you mean `txet`"):
        scorer.score(pa.record_batch({"txet": ["a"]}))
    with pytest.raises(blt.Error, match="column `text` of the record batch is Int64"):
        scorer.score(pa.record_batch({"text": [1]}))
    with pytest.raises(blt.Error, match="the record batch has columns `nats` itself"):
        scorer.score(pa.record_batch({"text": ["a"], "nats": [1.0]}))
    # It goes on after each of them.
    assert len(scorer.score(pa.record_batch({"text": ["a"]}))) == 1


def test_what_is_no_such_model(place: Place, tmp_path: pathlib.Path) -> None:
    with pytest.raises(blt.Error, match="cannot read .*missing"):
        blt.Scorer(tmp_path / "missing")
    with pytest.raises(blt.Error, match="config.json"):
        blt.Scorer(tmp_path)
    with pytest.raises(ValueError, match='emit is "logprobs"; expected "log_probs", "entropies", "patch_lengths"'):
        blt.Scorer(MODEL, emit=["logprobs"])
    with pytest.raises(ValueError, match='on_error is "skip"'):
        blt.Scorer(MODEL, on_error="skip")
    with pytest.raises(blt.Error, match="span_bytes"):
        blt.Scorer(MODEL, span_bytes=0)
    place.write("limit: 10")
    with pytest.raises(blt.Error, match="has `limit`, and of record batches every row is scored"):
        blt.Scorer(place.pipeline)
    place.write("emit: []", before="  - train: {goal: blt, steps: 1, batch_bytes: 4096, lr: 1e-3}\n")
    with pytest.raises(blt.Error, match="has a step `train` before it scores"):
        blt.Scorer(place.pipeline)
    place.write("emit: []", before="  - score: {goal: blt}\n")
    with pytest.raises(blt.Error, match="several score steps"):
        blt.Scorer(place.pipeline)
    place.write("gaol: blt")
    with pytest.raises(blt.Error, match="gaol"):
        blt.Scorer(place.pipeline)


def test_a_row_that_fails(place: Place) -> None:
    # Patch lengths that do not fit their document.
    place.pipeline.write_text(
        f"""name: score
graph:
  docs: {{node: ParquetBytes, path: none.parquet, column: body}}
  patches: {{node: ColumnPatch, in: docs, column: lengths}}
  blt: {{node: Blt, in: {{bytes: docs, patches: patches}}, checkpoint: {MODEL}}}
run:
  - score: {{goal: blt}}
"""
    )
    rows = pa.record_batch({"body": ["abc", "abc", None], "lengths": [[1, 2, 1], [9], None]})
    with pytest.raises(blt.Error, match="row 1"):
        blt.Scorer(place.pipeline).score(rows)
    ours = scored(blt.Scorer(place.pipeline, on_error="null"), rows)
    assert ours.column("n_bytes").to_pylist() == [3, None, None]
    assert ours.column("n_patches").to_pylist() == [2, None, None]
    assert ours.select(["body", "lengths"]).equals(rows)


def test_examples_in_docstrings_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import blt.ray

    place.data("in/rows.parquet", table(6, 200), 6)
    place.write("emit: []")
    (place.path / "model").symlink_to(MODEL)
    monkeypatch.chdir(place.path)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False)
    for name, item in [("Scorer", blt.Scorer), ("Scorer.score", blt.Scorer.score)]:
        test = parser.get_doctest(item.__doc__, {}, name, None, 0)
        assert test.examples
        assert runner.run(test).failed == 0, name
    # On a local cluster, which the example starts; in a process of its own, so that no other test meets it.
    code = (
        "import doctest, blt.ray, ray\n"
        "ray.init(num_cpus=1, include_dashboard=False)\n"
        "result = doctest.testmod(blt.ray)\n"
        "raise SystemExit(result.failed or not result.attempted)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stubs_say_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy.stubtest", "blt._blt"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (pathlib.Path(blt.__file__).parent / "py.typed").is_file()
