"""Scores a data set with Ray Data, a model in each of up to two actors: python score_ray_data.py MODEL IN.parquet OUT/

`blt.ray.score` runs a whole pipeline on a cluster, resumes, and writes the parts that `blt-run` does; this is for data that is on its way through
Ray Data already.
"""

import sys

import blt
import pyarrow as pa
import ray


class Score:
    def __init__(self, model: str) -> None:
        self.scorer = blt.Scorer(model, threads=1)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return pa.table(self.scorer.score(rows))


if __name__ == "__main__":
    model, source, target = sys.argv[1:]
    rows = ray.data.read_parquet(source)
    scored = rows.map_batches(Score, fn_constructor_args=[model], batch_format="pyarrow", batch_size=64, concurrency=(1, 2))
    scored.write_parquet(target)
