#!/usr/bin/env python3
"""How time and memory grow with the input, and with span_bytes: the tables of docs/speed.md.

  python tests/peer/linear.py            # needs nothing but Python and a release build

The model is that of pipelines/ablation_patching.yaml with a stride of 6; the text is the sources of Python's own library, end to end.
"""
import argparse, json, os, subprocess, sys, sysconfig, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRAPH = """name: linear
seed: 1
graph:
  docs:    {{node: TextFiles, path: text.txt, span_bytes: {span}}}
  patches: {{node: StridePatch, in: docs, stride: 6}}
  embed:   {{node: ByteEmbed, in: docs, dim: 64, table: 4096}}
  encoder: {{node: LocalEncoder, in: {{bytes: embed, patches: patches}}, layers: 1, heads: 4, k: 2, window: 128}}
  latent:  {{node: Latent, in: encoder.patches, dim: 128, layers: 4, heads: 4}}
  decoder: {{node: LocalDecoder, in: {{bytes: encoder.bytes, patches: latent}}, layers: 2, heads: 4, window: 128}}
  loss:    {{node: NextByteLoss, in: {{logits: decoder, bytes: docs}}}}
run:
  - train:    {{goal: loss, steps: 1, batch_bytes: {batch}, lr: 1e-3}}
  - evaluate: {{goal: loss, split: all, batch_bytes: {batch}}}
"""


def text(size):
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    blob = b"".join(path.read_bytes() for path in library)
    return (blob * (size // len(blob) + 1))[:size]


def run(command, place):
    """Standard output, and the most bytes that were resident."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, cwd=place)
        _, status, usage = os.wait4(child.pid, 0)
        for file in (out, err):
            file.seek(0)
        if status:
            sys.exit(err.read().decode())
        return out.read().decode(), usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/blt-run"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write = lambda size, span, batch: ((place / "text.txt").write_bytes(text(size)),
                                           (place / "linear.yaml").write_text(GRAPH.format(span=span, batch=batch)))

        def bench(*more):
            out, _ = run([args.binary, "bench", "linear.yaml", "--batches", "1", "--warmup", "2", "--repeats", "3", "--format", "json",
                          *more], place)
            return json.loads(out)["goals"][0]["measured"]

        print("One batch, span_bytes 4096\n\n| bytes | training, s | ns/byte | memory, MB | B/byte | evaluation, s | ns/byte |")
        print("|---:|---:|---:|---:|---:|---:|---:|")
        for kib in (64, 256, 1024):
            size = kib << 10
            write(size, 4096, size + size // 4096 + 1)
            m = bench()
            t, e, beyond = m["training"], m["evaluation"], m["training_memory"]["beyond_bytes"]
            rest = lambda phase: (phase["mean_seconds"], 1e9 * phase["mean_seconds"] / phase["bytes_per_repetition"])
            print("| {} KiB | {:.3f} | {:.0f} | {:.0f} | {:.0f} | {:.3f} | {:.0f} |".format(
                kib, *rest(t), beyond / 1e6, beyond / t["bytes_per_repetition"], *rest(e)), flush=True)
        print("\nA stream, batch_bytes 32768, span_bytes 4096\n\n| bytes | evaluation, s | ns/byte | memory of the process, MB |\n|---:|---:|---:|---:|")
        for kib in (64, 512, 4096, 16384):
            size = kib << 10
            write(size, 4096, 32768)
            yaml = place / "linear.yaml"
            yaml.write_text("\n".join(line for line in yaml.read_text().splitlines() if "train:" not in line) + "\n")
            out, memory = run([args.binary, "linear.yaml", "--runs", "runs"], place)
            results = json.loads((place / out.split()[-1] / "results.json").read_text())
            rate = next(iter(results["variants"].values()))["evaluate_bytes_per_second"]
            print(f"| {kib} KiB | {size / rate:.2f} | {1e9 / rate:.0f} | {memory / 1e6:.0f} |", flush=True)
        print("\nOne batch of 256 KiB, span_bytes growing\n\n| span_bytes | MFLOP/byte | training, ns/byte | evaluation, ns/byte | memory, MB |")
        print("|---:|---:|---:|---:|---:|")
        for span in (512, 2048, 8192, 32768, 131072):
            size = 256 << 10
            write(size, span, size + size // span + 1)
            m = bench()
            rate = lambda phase: 1e9 / m[phase]["bytes_per_second"]
            print(f"| {span} | {m['evaluation']['flops_per_byte'] / 1e6:.2f} | {rate('training'):.0f} | {rate('evaluation'):.0f} |"
                  f" {m['training_memory']['beyond_bytes'] / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
