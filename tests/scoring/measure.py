#!/usr/bin/env python3
"""How fast and in how much memory a score step works: the tables of docs/scoring.md.

  python tests/scoring/measure.py                     # all tables; --table rate, --table memory ... for some
  python tests/scoring/measure.py --python venv/bin/python --table ray    # a Python with blt-python[ray] installed

Needs numpy, pyarrow and a release build, and an idle machine. Documents' lengths are log-normal with a mean of 3 KB; the longest is cut
at 1 MB, and one of 1 MB is in every corpus but where another longest is named, so that memory can be compared. Models are trained for a few steps: what weights hold changes no
time.
"""
import argparse, json, re, statistics, subprocess, sys, sysconfig, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEAN, LONGEST = 3000, 1_000_000

GRAPH = """name: {name}
graph:
  docs:    {{node: ParquetBytes, path: some.parquet, column: text}}
  entropy: {{node: ByteLm, in: docs, dim: {dim}, layers: {lm}, heads: 4, window: {window}}}
  patches: {{node: EntropyPatch, in: {{bytes: docs, entropies: entropy}}, bytes_per_patch: 4.5}}
  embed:   {{node: ByteEmbed, in: docs, dim: {dim}, table: {table}}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, layers: 1, heads: 4, k: 2, window: {window}}}
  latent:  {{node: Latent, in: encoder.patches, dim: {latent}, layers: {layers}, heads: {heads}}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: {decoder}, heads: 4, window: {window}}}
  loss:    {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
  - train: {{goal: entropy.loss, steps: 8, batch_bytes: 16384, lr: 1e-3}}
  - train: {{goal: loss, steps: 1, batch_bytes: 16384, lr: 1e-3}}
"""
# small: the peer's preset. tiny: about the model of pipelines/score_parquet.yaml.
MODELS = {
    "small": dict(dim=128, lm=2, window=512, table=30000, latent=256, layers=6, heads=8, decoder=4),
    "tiny": dict(dim=48, lm=1, window=64, table=4096, latent=96, layers=2, heads=4, decoder=1),
}
DOCS = "  docs: {node: ParquetBytes, path: %s.parquet, column: text}\n"
BLT = "  blt: {node: Blt, in: docs, checkpoint: '%s/latest/checkpoints/1-train/final'}\n"
# What is scored, and with what: name, further nodes, goal.
SCORED = {
    "small": (BLT % "small", "blt"),
    "tiny": (BLT % "tiny", "blt"),
    "entropy model": (BLT % "small", "blt.entropies"),
    "tiny entropy model": (BLT % "tiny", "blt.entropies"),
    "stride": ("  patches: {node: StridePatch, in: docs, stride: 6}\n", "patches"),
}


def corpus(path, documents, mean, longest=LONGEST, seed=1, group=1000):
    """Rows `id`, `lang`, `text`, `group` to a row group; some are null, some empty, one is of `longest` bytes. Text is Python's own library from a random place on."""
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq
    library = b"".join(p.read_bytes() for p in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))
    random, sigma = np.random.RandomState(seed), 1.5
    lengths = random.lognormal(np.log(mean) - sigma * sigma / 2, sigma, documents).astype(int).clip(0, longest)
    lengths[documents // 2] = longest
    starts = random.randint(0, len(library) - LONGEST, documents)
    schema = pa.schema([("id", pa.int64()), ("lang", pa.string()), ("text", pa.binary())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, documents, group):
            rows = range(first, min(first + group, documents))
            texts = [None if i % 500 == 7 else library[starts[i]:starts[i] + lengths[i]] for i in rows]
            writer.write_table(pa.table({"id": list(rows), "lang": ["py" if i % 3 else "c" for i in rows], "text": texts}, schema))
    return int(lengths.sum())


def run(command, place):
    """Standard output, and the most bytes that were resident (as the kernel counts the process itself: what wait4 tells begins with this one's)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child, peak = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, cwd=place), 0
        while child.poll() is None:
            try:
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child.pid}/status").read_text())
                peak = max(peak, int(found[1]) * 1024 if found else 0)
            except ProcessLookupError:
                pass
            time.sleep(0.02)
        for file in (out, err):
            file.seek(0)
        if child.returncode:
            sys.exit(err.read().decode())
        return out.read().decode(), peak


class Place:
    def __init__(self, path, binary):
        self.path, self.binary, self.runs = Path(path), binary, 0
        corpus(self.path / "some.parquet", 300, MEAN)
        for name, sizes in MODELS.items():
            (self.path / f"{name}.yaml").write_text(GRAPH.format(name=name, **sizes))
            run([binary, f"{name}.yaml", "--runs", "."], self.path)

    def pipeline(self, name, data, extra=""):
        nodes, goal = SCORED[name]
        yaml = f"name: score\ngraph:\n{DOCS % data}{nodes}run:\n  - score: {{goal: {goal}{extra}}}\n"
        (self.path / "score.yaml").write_text(yaml)

    def score(self, *more):
        """Bytes/s that the step itself tells, and the peak of memory."""
        self.runs += 1
        out, memory = run([self.binary, "score.yaml", "--runs", f"runs{self.runs}", *more], self.path)
        results = json.loads((self.path / f"runs{self.runs}/score/latest/results.json").read_text())
        step = next(iter(results["variants"].values()))["steps"][0]["score"]
        return step["score_bytes_per_second"], memory

    def bench(self, size):
        """Bytes/s of evaluation over all `size` bytes, in batches as the step makes them."""
        batches = str(size // (32 << 10))
        out, _ = run([self.binary, "bench", "score.yaml", "--format", "json", "--batches", batches, "--repeats", batches], self.path)
        measured = json.loads(out)["goals"][0]["measured"]["evaluation"]
        return measured["bytes_per_repetition"] / measured["mean_seconds"]


def rate(place, args):
    """A score step against `blt-run bench`, in turn, on the same documents."""
    size = corpus(place.path / "mixed.parquet", args.rate_documents, MEAN)
    print(f"\n{args.rate_documents:,} documents, {size / 1e6:.1f} MB, in turn\n\n| scored by | bench, kB/s | score step, kB/s | ratio |\n|---|---:|---:|---:|")
    for name in ("small", "entropy model", "stride"):
        place.pipeline(name, "mixed")
        rounds = [(place.bench(size), place.score()[0]) for _ in range(args.rounds)]
        bench, score = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        ratios = ", ".join(f"{s / b:.3f}" for b, s in rounds)
        print(f"| {name} | {bench / 1e3:,.1f} | {score / 1e3:,.1f} | {ratios} |", flush=True)


def reader(place, args):
    """Pipelines that hardly compute, beside the reader alone."""
    import pyarrow.parquet as pq
    size = corpus(place.path / "long.parquet", 100_000, MEAN)
    started = time.perf_counter()
    for batch in pq.ParquetFile(place.path / "long.parquet").iter_batches(columns=["text"]):
        pass
    print(f"\n100,000 documents, {size / 1e6:.0f} MB (pyarrow reads the column alone at {size / 1e6 / (time.perf_counter() - started):.0f} MB/s)\n")
    print("| score step | MB/s | memory, MB |\n|---|---:|---:|")
    for name, extra in (("stride", ""), ("stride", ", keep: 'n_bytes < 0'")):
        place.pipeline(name, "long", extra)
        got, memory = place.score()
        print(f"| {name}{', nothing written' if extra else ''} | {got / 1e6:.0f} | {memory / 1e6:.0f} |", flush=True)


def memory(place, args):
    """The peak of memory by the number of documents."""
    print("\n| scored by | documents | mean bytes | longest | MB in all | peak, MB | kB/s |\n|---|---:|---:|---:|---:|---:|---:|")
    # Of 100,000 documents with the small model: short ones, which take minutes and not hours.
    short = [("small", documents, 60, LONGEST) for documents in (1000, 10_000, 100_000)]
    mixed = [("small", 1000, 300, LONGEST), ("small", 10_000, 300, LONGEST), ("tiny", 1000, MEAN, LONGEST), ("tiny", 10_000, MEAN, LONGEST)]
    stride = [("stride", documents, MEAN, LONGEST) for documents in (1000, 10_000, 100_000)]
    for name, documents, mean, longest in short + mixed + stride:
        size = corpus(place.path / "many.parquet", documents, mean, longest)
        place.pipeline(name, "many")
        got, peak = place.score()
        print(f"| {name} | {documents:,} | {mean} | {longest:,} | {size / 1e6:.1f} | {peak / 1e6:.1f} | {got / 1e3:,.1f} |", flush=True)


def large(place, args):
    """The peak of memory by the largest document, of repeated text."""
    import pyarrow as pa, pyarrow.parquet as pq
    print("\n| scored by | largest document, MB | peak, MB | kB/s |\n|---|---:|---:|---:|")
    for name, emit, most in (("stride", "", 100), ("tiny", "", 10), ("tiny entropy model", ", emit: [log_probs, entropies]", 100)):
        for size in (1, 10, 100):
            if size > most:
                continue
            text = (b"a document of some length, and then a little more; " * (size * 20000))[:size * 1_000_000]
            pq.write_table(pa.table({"text": pa.array([b"short", text, b"short"], pa.binary())}), place.path / "large.parquet")
            place.pipeline(name, "large", emit)
            got, peak = place.score()
            print(f"| {name}{' with log_probs and entropies' if emit else ''} | {size} | {peak / 1e6:.0f} | {got / 1e3:,.0f} |", flush=True)


RAY = """
import json, sys, time, ray, blt.ray
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
started = time.perf_counter()
blt.ray.score("score.yaml", runs=sys.argv[1])
print("SECONDS", time.perf_counter() - started)
"""


def cluster(place, args):
    """Ray with two workers of one thread against one process with two, in turn; start-up is cancelled by two sizes. Units are small beside the
    whole, so that both workers are busy to the end."""
    seconds = {"blt-run": [], "ray": []}
    sizes = []
    for documents in args.ray_documents:
        sizes.append(corpus(place.path / "both.parquet", documents, MEAN, 30_000, group=10))
        place.pipeline("small", "both", ", part_bytes: 30000")
        place.runs += 1
        started = time.perf_counter()
        run([place.binary, "score.yaml", "--runs", f"runs{place.runs}"], place.path)
        seconds["blt-run"].append(time.perf_counter() - started)
        place.runs += 1
        out, _ = run([args.python, "-c", RAY, f"runs{place.runs}"], place.path)
        seconds["ray"].append(float(re.search(r"SECONDS (\S+)", out)[1]))
    print(f"\n| | {sizes[0] / 1e6:.1f} MB, s | {sizes[1] / 1e6:.1f} MB, s | kB/s of the difference |\n|---|---:|---:|---:|")
    for name, (a, b) in seconds.items():
        print(f"| {name} | {a:.1f} | {b:.1f} | {(sizes[1] - sizes[0]) / 1e3 / (b - a):.1f} |", flush=True)


TABLES = {"rate": rate, "reader": reader, "memory": memory, "large": large, "ray": cluster}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/blt-run"))
    parser.add_argument("--table", action="append", choices=list(TABLES), help="may be given again; all but ray where left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate-documents", type=int, default=1000, help="of the table of rates")
    parser.add_argument("--ray-documents", type=int, nargs=2, default=(400, 1600), help="of the table of Ray")
    parser.add_argument("--python", default=sys.executable, help="for ray: one that has blt-python[ray]")
    args = parser.parse_args()
    # Commands run in a folder of their own.
    absolute = lambda program: str(Path(program).absolute()) if "/" in program else program
    args.binary, args.python = absolute(args.binary), absolute(args.python)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder, args.binary)
        for name in args.table or [t for t in TABLES if t != "ray"]:
            TABLES[name](place, args)


if __name__ == "__main__":
    main()
