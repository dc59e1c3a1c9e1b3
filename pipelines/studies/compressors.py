#!/usr/bin/env python3
"""What general compressors make of the main job's held-out documents, in bits per byte.

  pip install pyarrow pyppmd
  blt-run pipelines/studies/compressors.yaml
  pipelines/studies/compressors.py pipelines/studies/compressors/train pipelines/studies/compressors/valid

A compressor first reads all training documents, then the held-out ones, in the order of the file: what the second
part adds is its size. So it goes on learning while it reads held-out documents, which no model of ours does.
"""
import glob
import lzma
import sys

import pyarrow.parquet as pq
import pyppmd

XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]


def text(folder):
    files = sorted(glob.glob(f"{folder}/**/*.parquet", recursive=True))
    rows = [row for file in files for row in pq.read_table(file, columns=["text"])["text"].to_pylist()]
    return "".join(row for row in rows if row is not None).encode()


def xz(data):
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=XZ))


def ppmd(order):
    def size(data):
        encoder = pyppmd.Ppmd7Encoder(order, 1 << 28)
        return len(encoder.encode(data)) + len(encoder.flush())

    return size


train, valid = map(text, sys.argv[1:])
print(f"{len(train)} bytes of training, {len(valid)} held out")
for name, size in [("xz -9e", xz)] + [(f"PPMd of order {n}", ppmd(n)) for n in (4, 6, 10)]:
    print(f"{name:16} {8 * (size(train + valid) - size(train)) / len(valid):.4f}")
