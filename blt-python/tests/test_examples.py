"""Each example runs, and gives what `blt.Scorer` does."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import blt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import EXAMPLES, MODEL, PATIENCE, table

SCORES = ["id", "n_bytes", "n_patches", "nats", "bits_per_byte"]


@pytest.mark.parametrize(
    ("example", "needs", "target"),
    [
        ("score_pyarrow.py", "pyarrow", "out.parquet"),
        ("score_polars.py", "polars", "out.parquet"),
        ("score_ray_data.py", "ray.data", "out"),
        ("score_spark.py", "pyspark", "out"),
    ],
)
def test_example(tmp_path: pathlib.Path, example: str, needs: str, target: str) -> None:
    pytest.importorskip(needs)
    rows = table(96, 300)
    if needs == "polars":
        # It hands out columns of nulls alone with a buffer, which the Arrow C data interface does not have.
        rows = rows.drop_columns(["tags"])
    pq.write_table(rows, tmp_path / "rows.parquet")
    expected = pa.table(blt.Scorer(MODEL).score(rows)).select(SCORES).combine_chunks()
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"}
    # Not the cluster of other tests.
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, MODEL, tmp_path / "rows.parquet", tmp_path / target],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    # Engines in several processes write the rows in an order of their own.
    found = ds.dataset(tmp_path / target, exclude_invalid_files=True).to_table().sort_by("id")
    assert found.select(SCORES).combine_chunks().equals(expected)
    assert set(rows.schema.names) <= set(found.schema.names)
