#!/usr/bin/env python3
"""Both sides in turn on the same weights and text: Hugging Face BltForCausalLM on PyTorch, and blt-run.

  python tests/peer/bench.py --preset small --preset base --rounds 3 --out ratios.json

Each phase of each side is a process of its own; a round runs the peer and then blt-run, phase by phase, so that a slow minute of the
machine meets both. A ratio is one round's; printed are the median and the extremes over rounds. Run it on an idle machine.

  scoring        forward and mean next-byte cross-entropy, the entropy model inside on both sides, one threshold
  scoring given  the same with patch lengths given
  training       forward, backward, AdamW, patch lengths given (the peer: the faster of AdamW's two implementations)
  entropy model  entropies and patch starts alone
  memory         of training, resident at the peak beyond the idle process, parameters and moments

The share of the machine is of the best f32 products that either side was seen to reach beside the phase.

Both sides print the mean nats a byte of the text before any training; they must agree to 1e-4.
Needs tests/peer/requirements.txt and a release build.
"""
import argparse, json, os, platform, re, statistics, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ffn = lambda dim: (8 * dim // 3 + 63) // 64 * 64
PRESETS = {
    "small": dict(byte=128, byte_heads=4, encoder=1, decoder=4, latent=256, latent_heads=8, latent_layers=6, table=30000,
                  ids=1024, rows=4, lm=128, lm_layers=2, lm_heads=4),
    "base": dict(byte=256, byte_heads=8, encoder=1, decoder=6, latent=512, latent_heads=8, latent_layers=8, table=100000,
                 ids=2048, rows=2, lm=256, lm_layers=4, lm_heads=8),
}
WINDOW, K, PATCH = 512, 2, 4.5
PHASES = ["scoring", "scoring given", "training", "entropy model"]


def status(field):
    text = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\s+(\d+)", text)[1]) * 1024


# The peer ------------------------------------------------------------------------------------------------------------------

def model_of(preset, patcher):
    import torch
    from transformers import BltConfig, BltForCausalLM
    p = PRESETS[preset]
    local = lambda layers, everywhere: dict(
        hidden_size=p["byte"], num_attention_heads=p["byte_heads"], num_hidden_layers=layers, cross_attn_all_layers=everywhere,
        cross_attn_k=K, hidden_size_global=p["latent"], intermediate_size=ffn(p["byte"]))
    torch.manual_seed(0)
    config = BltConfig(
        cross_attn_k=K, encoder_hash_byte_group_size=[3, 4, 5, 6, 7, 8], encoder_hash_byte_group_vocab=p["table"],
        local_attention_window_len=WINDOW, patch_in_forward=patcher, use_cache=False,
        encoder_config=local(p["encoder"], False), decoder_config=local(p["decoder"], True),
        global_config=dict(hidden_size=p["latent"], num_attention_heads=p["latent_heads"], num_hidden_layers=p["latent_layers"],
                           intermediate_size=ffn(p["latent"])),
        patcher_config=dict(hidden_size=p["lm"], num_attention_heads=p["lm_heads"], num_hidden_layers=p["lm_layers"],
                            intermediate_size=ffn(p["lm"]), sliding_window=WINDOW))
    model = BltForCausalLM(config).eval()
    model.set_attn_implementation("sdpa")
    return model


def threshold(model, ids):
    """The entropy that gives a mean patch of PATCH ids on this text."""
    import torch
    with torch.no_grad():
        entropies = model.model.patcher(ids, patch_size=4, threshold=1e9)[0]
    entropies = entropies[:, 1:].flatten().sort().values
    at = int(len(entropies) * (1 - 1 / PATCH))
    return float((entropies[at] + entropies[at + 1]) / 2)


def prepare(preset, place):
    """The text, patch lengths, the model as both sides read it, and blt-run's pipelines."""
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq, torch
    p = PRESETS[preset]
    rows, ids = p["rows"], p["ids"]
    texts = pq.read_table(ROOT / "pipelines/corpus/sample.parquet", columns=["text"]).column("text").to_pylist()
    text = "\n\n".join(texts[::97]).encode()
    assert len(text) >= rows * (ids - 1)
    documents = [text[r * (ids - 1):(r + 1) * (ids - 1)] for r in range(rows)]
    random, lengths = np.random.RandomState(0), []
    for _ in range(rows):
        row = [1]
        while sum(row) < ids + 1:
            row.append(min(int(random.randint(1, int(2 * PATCH))), ids + 1 - sum(row)))
        lengths.append(row)
    table = pa.table({"text": pa.array(documents, pa.binary()), "patch_lengths": pa.array(lengths, pa.list_(pa.int32()))})
    pq.write_table(table, place / "rows.parquet")
    model = model_of(preset, True)
    model.config.patching_threshold = threshold(model, ids_of(place))
    model.save_pretrained(place / "model")
    docs = "  docs: {node: ParquetBytes, path: rows.parquet, column: text, span_bytes: 65536}\n"
    given = "  patches: {node: ColumnPatch, in: docs, column: patch_lengths}\n  blt: {node: Blt, in: {bytes: docs, patches: patches}, checkpoint: model}\n"
    inside = "  blt: {node: Blt, in: docs, checkpoint: model}\n"
    size = rows * ids
    for name, graph, step in [
        ("scoring", inside, f"evaluate: {{goal: blt.loss, batch_bytes: {size}}}"),
        ("scoring given", given, f"evaluate: {{goal: blt.loss, batch_bytes: {size}}}"),
        ("training", given, f"train: {{goal: blt.loss, steps: 1, batch_bytes: {size}, lr: 3e-4}}"),
        ("entropy model", inside, f"evaluate: {{goal: blt.patches, batch_bytes: {size}}}"),
    ]:
        (place / f"{name}.yaml").write_text(f"name: peer\ngraph:\n{docs}{graph}run:\n  - {step}\n")


def ids_of(place):
    import numpy as np, pyarrow.parquet as pq, torch
    documents = pq.read_table(place / "rows.parquet").column("text").to_pylist()
    ids = np.stack([np.concatenate([[1], np.frombuffer(d, np.uint8).astype(np.int64) + 4]) for d in documents])
    return torch.from_numpy(ids)


def peer(preset, phase, place, threads, repeats, warmup):
    import numpy as np, pyarrow.parquet as pq, torch, transformers
    import torch.nn.functional as F
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    idle = status("VmRSS")
    ids = ids_of(place)
    rows = pq.read_table(place / "rows.parquet").column("patch_lengths").to_pylist()
    lengths = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    from transformers import BltForCausalLM
    inside = phase in ("scoring", "entropy model")
    model = BltForCausalLM.from_pretrained(place / "model", dtype=torch.float32, attn_implementation="sdpa").eval()
    if not inside:
        # A model without the entropy model, so that its parameters count on neither side.
        model.config.patch_in_forward = False
        model.model.patcher = None
    given = {} if inside else {"patch_lengths": lengths}

    def loss():
        logits = model(input_ids=ids, use_cache=False, **given).logits
        return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    def timed(run):
        seconds = []
        for i in range(warmup + repeats):
            if i == warmup:
                Path("/proc/self/clear_refs").write_text("5")
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        return ids.numel() / statistics.median(seconds[warmup:])

    out = {}
    with torch.no_grad():
        if phase != "entropy model":
            out["nats_per_byte"] = loss().item()
    if phase == "training":
        parameters = [p for p in model.parameters()]
        size = 3 * 4 * sum(p.numel() for p in parameters)
        rates = []
        for fused in (False, True):
            optimiser = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)

            def step():
                optimiser.zero_grad(set_to_none=True)
                loss().backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
            rates.append(timed(step))
            if not fused:
                out["memory_beyond"] = status("VmHWM") - idle - size
            del optimiser
        out["bytes_per_second"] = max(rates)
        out["adamw"] = dict(zip(("default", "fused"), rates))
    else:
        with torch.no_grad():
            if phase == "entropy model":
                limit = model.config.patching_threshold
                out["bytes_per_second"] = timed(lambda: model.model.patcher(ids, patch_size=4, threshold=limit)[1])
            else:
                out["bytes_per_second"] = timed(lambda: loss().item())
    out["sgemm_gflops"] = max(sgemm(n) for n in (1024, 2048))
    return out


def sgemm(n):
    """The best of some products of n x n matrices, GFLOP/s."""
    import torch
    a, b, c, seconds = torch.ones(n, n), torch.ones(n, n), torch.empty(n, n), []
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b, out=c)
        seconds.append(time.perf_counter() - started)
    return 2 * n ** 3 / min(seconds) / 1e9


# blt-run -------------------------------------------------------------------------------------------------------------------

def ours(binary, phase, place, threads, repeats, warmup):
    command = [binary, "bench", place / f"{phase}.yaml", "--format", "json", "--batches", "1", "--threads", str(threads),
               "--repeats", str(repeats), "--warmup", str(warmup)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    m = json.loads(done.stdout)["goals"][0]["measured"]
    rate = m["training"] if phase == "training" else m["evaluation"]
    out = {"bytes_per_second": rate["bytes_per_second"], "share": rate["share_of_machine"], "flops_per_byte": rate["flops_per_byte"],
           "machine_gflops": m["machine_flops_per_second"] / 1e9, "nats_per_byte": rate["first_nats_per_byte"]}
    if phase == "training":
        out["memory_beyond"] = m["training_memory"]["beyond_bytes"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(PRESETS), help="may be given again; both where left out")
    parser.add_argument("--phase", action="append", choices=PHASES, help="may be given again; all where left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of a phase; the median counts")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--binary", default=str(ROOT / "target/release/blt-run"))
    parser.add_argument("--machine", default=platform.processor() or platform.machine(), help="what chart.py calls this machine")
    parser.add_argument("--out", help="write all numbers here, as JSON")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        place, phase = args.side
        found = peer(args.preset[0], phase, Path(place), args.threads, args.repeats, args.warmup)
        return print("RESULT " + json.dumps(found))
    import importlib.metadata as metadata
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    result = {"machine": args.machine, "versions": versions, "python": platform.python_version(), "threads": args.threads, "rounds": args.rounds,
              "repeats": args.repeats, "presets": {}}
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1")
    for preset in args.preset or list(PRESETS):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            prepare(preset, place)
            phases = {phase: [] for phase in args.phase or PHASES}
            for _ in range(args.rounds):
                for phase, rounds in phases.items():
                    command = [sys.executable, __file__, "--preset", preset, "--side", place, phase, "--threads", str(args.threads),
                               "--repeats", str(args.repeats), "--warmup", str(args.warmup)]
                    done = subprocess.run(command, capture_output=True, text=True, env=environment)
                    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                    if not lines:
                        sys.exit(f"the peer failed in {phase}:\n{done.stderr[-3000:]}")
                    theirs, mine = json.loads(lines[0][7:]), ours(args.binary, phase, place, args.threads, args.repeats, args.warmup)
                    best = max(mine["machine_gflops"], theirs["sgemm_gflops"])
                    mine.update(share=mine["share"] * mine["machine_gflops"] / best, machine_gflops=best)
                    rounds.append({"peer": theirs, "blt": mine})
                    print(".", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        result["presets"][preset] = phases
        report(preset, phases)
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


def report(preset, phases):
    print(f"\n{preset}: {'bytes/s':<17} {'peer':>10} {'blt':>10}   ratio (of each round)          share of machine")
    middle = lambda rounds, side, key: statistics.median(r[side][key] for r in rounds)
    for phase, rounds in phases.items():
        ratios = [r["blt"]["bytes_per_second"] / r["peer"]["bytes_per_second"] for r in rounds]
        share = middle(rounds, "blt", "share")
        print(f"  {phase:<22} {middle(rounds, 'peer', 'bytes_per_second'):10.0f} {middle(rounds, 'blt', 'bytes_per_second'):10.0f}"
              f"   {statistics.median(ratios):5.2f} ({', '.join(f'{r:.2f}' for r in ratios)})"
              f"   {100 * share:5.0f} % of {middle(rounds, 'blt', 'machine_gflops'):.0f} GFLOP/s")
        if phase == "training":
            memory = {side: middle(rounds, side, "memory_beyond") for side in ("peer", "blt")}
            print(f"  {'memory of training, MB':<22} {memory['peer'] / 1e6:10.0f} {memory['blt'] / 1e6:10.0f}"
                  f"   1/{memory['peer'] / max(1, memory['blt']):.1f}")
        if phase != "entropy model":
            nats = [r[side]["nats_per_byte"] for r in rounds for side in ("peer", "blt")]
            if max(nats) - min(nats) > 1e-4:
                sys.exit(f"{preset} {phase}: nats a byte differ, {nats}")
            print(f"  {'':<22} {nats[0]:10.5f} {nats[1]:10.5f}   nats a byte, both sides")


if __name__ == "__main__":
    main()
