"""Scores a data set with Spark's mapInArrow: python score_spark.py MODEL IN.parquet OUT/"""

import functools
import sys
from collections.abc import Iterable, Iterator

import blt
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema


def score(batches: Iterable[pa.RecordBatch], model: str) -> Iterator[pa.RecordBatch]:
    scorer = blt.Scorer(model, threads=1)  # One a task; the checkpoint is memory-mapped.
    for batch in batches:
        yield pa.record_batch(scorer.score(batch))


if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    spark = SparkSession.builder.getOrCreate()
    rows = spark.read.parquet(source)
    # The columns that come out: those of no rows.
    none = to_arrow_schema(rows.schema).empty_table()
    schema = from_arrow_schema(pa.table(blt.Scorer(model, threads=1).score(none)).schema)
    rows.mapInArrow(functools.partial(score, model=model), schema).write.parquet(target)
    spark.stop()
