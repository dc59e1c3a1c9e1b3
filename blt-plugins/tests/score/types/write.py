"""Writes the files of this folder: every type that pyarrow and DuckDB write, a column each.

    pip install pyarrow duckdb && python write.py

types.arrow and types.parquet hold the same table; older.parquet what older and Spark-like writers
make of its timestamps, dates and decimals; duckdb.parquet what DuckDB writes. unkept.arrow has the
types that Parquet lacks. tests/score/types.rs says what is to become of them.
"""

import datetime as d
import decimal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N = 3


def decimals(t, *values):
    return pa.array([decimal.Decimal(v) for v in values] + [None], t)


def plain():
    """Arrays of three rows, the last null."""
    first, last = d.date(1, 1, 1), d.date(9999, 12, 31)
    for t, values in [
        (pa.int8(), [1, -128]), (pa.int16(), [1, -3]), (pa.int32(), [1, -3]),
        (pa.int64(), [1, -(2**63)]), (pa.uint8(), [1, 255]), (pa.uint16(), [1, 65535]),
        (pa.uint32(), [1, 2**32 - 1]), (pa.uint64(), [1, 2**64 - 1]),
        (pa.float32(), [1.5, float("inf")]), (pa.float64(), [1.5, -0.0]), (pa.bool_(), [True, False]),
        (pa.float16(), [np.float16(1.5), np.float16(-2)]), (pa.null(), [None, None]),
        (pa.string(), ["x", "y"]), (pa.large_string(), ["x", "y"]),
        (pa.string_view(), ["x", "longer than twelve bytes"]),
        (pa.binary(), [b"x", b"\xff"]), (pa.large_binary(), [b"x", b"\xff"]),
        (pa.binary_view(), [b"x", b"\xff, longer than twelve"]), (pa.binary(3), [b"xyz", b"\xff00"]),
        (pa.date32(), [first, last]), (pa.date64(), [first, last]),
        (pa.time32("s"), [1, 86399]), (pa.time32("ms"), [1, 86399999]),
        (pa.time64("us"), [1, 86399999999]), (pa.time64("ns"), [1, 86399999999999]),
        *[(pa.duration(u), [1, -5]) for u in ("s", "ms", "us", "ns")],
    ]:
        yield str(t), pa.array(values + [None], t)
    for t in (pa.decimal32(7, 2), pa.decimal64(15, 2), pa.decimal128(7, 2), pa.decimal128(38, 10),
              pa.decimal256(76, 20)):
        yield str(t), decimals(t, "1.25", "-99999.99")
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "Europe/Paris", "+05:30"):
            far = d.datetime(2262, 1, 1) if unit == "ns" else d.datetime(9999, 12, 31, 23, 59, 59)
            values = [d.datetime(1900, 1, 1, 1, 2, 3), far, None]
            yield f"timestamp {unit} {zone}", pa.array(values, pa.timestamp(unit, zone))
    yield "uuid", pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"0123456789abcdef", b"\xfe" * 16, None], pa.binary(16)))
    yield "json", pa.ExtensionArray.from_storage(
        pa.json_(), pa.array(['{"a": 1}', "[]", None]))


NESTED = ["int8", "uint32", "string", "large_string", "string_view", "fixed_size_binary[3]",
          "date32[day]", "date64[ms]", "time32[s]", "duration[s]", "decimal128(7, 2)", "null",
          "timestamp s Europe/Paris", "timestamp us UTC", "timestamp ns None", "uuid"]


def nested(columns):
    offsets = [0, 2, 2, 3]
    for name in NESTED:
        a = columns[name]
        yield f"list of {name}", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), a)
        yield f"large list of {name}", pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), a)
        yield f"pairs of {name}", pa.FixedSizeListArray.from_arrays(pa.concat_arrays([a, a]), 2)
        yield f"struct of {name}", pa.StructArray.from_arrays(
            [a, pa.array([1, 2, 3])], ["x", "n"], mask=pa.array([False, True, False]))
        yield f"map to {name}", pa.MapArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(["a", "b", "c"]), a)
    words = columns["string"].dictionary_encode()
    yield "dictionary", words
    yield "ordered dictionary", pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None], pa.int8()), pa.array(["low", "high"]), ordered=True)
    yield "dictionary of int16", columns["int16"].dictionary_encode()
    yield "list of structs of dictionaries", pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays([words], ["word"]))


def table(columns):
    return pa.table({"text": ["a", "b", None], **columns})


def arrow(name, table):
    with pa.ipc.new_file(name, table.schema) as writer:
        writer.write_table(table)


columns = dict(plain())
columns |= dict(nested(columns))
arrow("types.arrow", table(columns))
pq.write_table(table(columns), "types.parquet", store_decimal_as_integer=True)

some = {n: a for n, a in columns.items() if n.startswith(("timestamp", "date", "decimal", "uint"))}
older = {n: a for n, a in some.items() if " ns " not in n}
pq.write_table(table(older), "older.parquet", version="1.0", use_deprecated_int96_timestamps=True)
nanos = {n: a for n, a in some.items() if " ns " in n}
pq.write_table(table(nanos), "nanos.parquet", use_deprecated_int96_timestamps=True)

runs = {"runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array(["x", "y"]))}
arrow("runs.arrow", table(runs))

unkept = {
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]),
    "no bytes": pa.array([b"", b"", None], pa.binary(0)),
    "no fields": pa.array([{}, {}, None], pa.struct([])),
    "interval": pa.array([(1, 2, 3), (0, 0, 1), None], pa.month_day_nano_interval()),
    "scale": decimals(pa.decimal128(5, -2), "12300", "100"),
}
unkept["in a struct"] = pa.StructArray.from_arrays([unkept["union"]], ["u"])
arrow("unkept.arrow", table(unkept))
arrow("hours.arrow", table({"hours": pa.array([86_400_000, 3_600_000, None], pa.date64())}))

duckdb.sql("""
    copy (select * from (values
        ('a', interval '14 months 3 days 4 seconds', uuid '01234567-89ab-cdef-0123-456789abcdef',
         '{"a": 1}'::json, 'low'::enum('low', 'high'), date '9999-12-31', time '01:02:03',
         timestamp '9999-12-31 23:59:59', timestamptz '2020-01-01 00:00:00+00',
         timestamp_s '2020-01-01 00:00:01', timestamp_ms '2020-01-01 00:00:01',
         timestamp_ns '2020-01-01 00:00:00.000000001', 1.25::decimal(5, 2), 1::decimal(30, 0),
         170141183460469231731687303715884105727::hugeint, 'x'::blob, [1, null], {'a': 1, 'b': 'x'},
         map {'k': 1}, 255::utinyint, 1.5::float, timetz '01:02:03+01'),
        ('b', null, null, null, null, null, null, null, null, null, null, null, null, null, null,
         null, null, null, null, null, null, null)
    ) t(text, "interval", "uuid", "json", "enum", "date", "time", "timestamp", "zoned", "seconds",
        "millis", "nanos", "decimal", "long decimal", "hugeint", "blob", "list", "struct", "map",
        "utinyint", "float", "timetz")) to 'duckdb.parquet' (format parquet)
""")
