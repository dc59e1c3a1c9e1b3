"""Scores a Parquet file with pyarrow, a batch at a time: python score_pyarrow.py MODEL IN.parquet OUT.parquet"""

import sys

import blt
import pyarrow as pa
import pyarrow.parquet as pq

model, source, target = sys.argv[1:]
scorer = blt.Scorer(model)
file = pq.ParquetFile(source)
writer = None
# Larger batches keep more processors busy.
for rows in file.iter_batches(batch_size=4096):
    scored = pa.table(scorer.score(rows))
    writer = writer or pq.ParquetWriter(target, scored.schema)
    writer.write_table(scored)
if writer:
    writer.close()
