"""Scores a Parquet file with Polars: python score_polars.py MODEL IN.parquet OUT.parquet"""

import sys

import blt
import polars as pl

model, source, target = sys.argv[1:]
scorer = blt.Scorer(model)
rows = pl.read_parquet(source)
scored = pl.DataFrame(scorer.score(rows))
print(scored.group_by(pl.col("lang").cast(pl.String)).agg(pl.col("nats").sum() / pl.col("n_bytes").sum()).sort("lang"))
scored.write_parquet(target)
