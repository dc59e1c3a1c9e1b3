#!/usr/bin/env python3
"""What the reference implementation (Hugging Face transformers, BltForCausalLM, CPU, float32) computes.

  fixtures.py check DIR...                       recompute DIR's expected numbers and compare with what is stored
  fixtures.py fuzz --out DIR [--n 200] [--seed 0]  N random settings, a directory each, and a table of what they cover

A directory is what the Rust suite reads: config.json, model.safetensors (or shards and an index), expected.safetensors,
grads_all.safetensors (d loss / d parameter for text 0) and meta.json. Keys of expected.safetensors, for text i of
S = 1 + bytes ids: text{i}.input_ids [S], .entropies [S] (nats), .patch_lengths [P], .logits [S, 260],
.next_logprobs [S - 1] (nats), .loss (absent where nothing is predicted).

What is minded: rows are run singly (rows batched with padding get wrong patch tails); with max_patch_length the
reference's last position is wrong, and the suite leaves it out; use_cache=False (its default crashes).
Every number is computed from the directory as written, loaded anew, so that the configuration's spelling is tested too.
"""
import argparse
import collections
import json
import os
import random
import shutil
import sys

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

import transformers
from transformers import BltConfig, BltForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# A setting whose logits move by more than this when weights move by a rounding is not used.
MAX_NOISE = 1e-5

# Printed by 4.x in every configuration, and without effect.
LEGACY_NOISE = {
    "torch_dtype": "float32", "use_bfloat16": False, "is_decoder": False, "add_cross_attention": False,
    "tie_encoder_decoder": False, "pruned_heads": {}, "torchscript": False, "tf_legacy_loss": False, "top_k": 50,
    "temperature": 1.0, "num_beams": 1, "max_length": 20, "repetition_penalty": 1.0, "finetuning_task": None,
    "cross_attention_hidden_size": None, "sep_token_id": None, "_attn_implementation_autoset": True,
}
PARTS = {"encoder_config": 500000.0, "decoder_config": 500000.0, "global_config": 500000.0, "patcher_config": 10000.0}


def ids_of(text):
    """[1, S]: BOS and the bytes."""
    return torch.tensor([[1] + [b + 4 for b in text]], dtype=torch.long)


def load(directory):
    model = BltForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def run(model, ids, given=None):
    """Everything about one text: a dict of tensors, and the loss with its graph (None where nothing is predicted)."""
    out = {"input_ids": ids[0]}
    config = model.config
    if config.patch_in_forward:
        with torch.no_grad():
            entropies, lengths, _ = model.model.patcher(
                ids, patch_size=config.patch_size, threshold=config.patching_threshold, max_patch_length=config.max_patch_length
            )
        out["entropies"], out["patch_lengths"] = entropies[0], lengths[0]
        logits = model(ids, use_cache=False).logits[0]
    else:
        out["patch_lengths"] = given
        logits = model(ids, patch_lengths=given[None], use_cache=False).logits[0]
    out["logits"] = logits.detach()
    log_probs = torch.log_softmax(logits[:-1], -1)
    picked = log_probs.gather(-1, ids[0, 1:, None])[:, 0]
    out["next_logprobs"] = picked.detach()
    loss = -picked.mean() if len(picked) else None
    if loss is not None:
        out["loss"] = loss.detach()
    return out, loss


def compute(directory, texts, given):
    """expected.safetensors and grads_all.safetensors of a directory, as dicts of numpy arrays."""
    model = load(directory)
    expected, grads = {}, {}
    for i, text in enumerate(texts):
        numbers, loss = run(model, ids_of(text), given[i])
        expected.update({f"text{i}.{key}": value.numpy() for key, value in numbers.items()})
        if i == 0:
            loss.backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    grads[name] = p.grad.numpy()
    return {k: np.array(v, order="C") for k, v in expected.items()}, grads


# --- Random settings ---------------------------------------------------------------------------------------------------


def random_stack(rng, dims, layers):
    """Sizes of one stack. A head's width is hidden // heads and even; hidden need not be a multiple of heads."""
    heads = rng.choice([1, 2, 3, 4, 6])
    head_dim = rng.choice([2, 4, 6, 8, 10, 16])
    while not dims[0] <= heads * head_dim <= dims[1]:
        heads, head_dim = rng.choice([1, 2, 3, 4, 6]), rng.choice([2, 4, 6, 8, 10, 16])
    hidden = heads * head_dim
    if heads > 1 and rng.random() < 0.1:
        hidden += rng.randrange(1, heads)  # floor(hidden / heads) stays head_dim
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([d for d in range(1, heads + 1) if heads % d == 0]),
        "num_hidden_layers": layers,
        "intermediate_size": rng.choice([8, 24, 33, 48, 64]),
        "rms_norm_eps": rng.choice([1e-5, 1e-5, 1e-6, 1e-3]),
        "rope_parameters": {"rope_type": "default", "rope_theta": rng.choice([100.0, 10000.0, 500000.0])},
    }


def random_config(rng):
    """Keyword arguments of BltConfig."""
    k = rng.choice([1, 2, 3, 4])
    encoder = random_stack(rng, (8, 40), rng.choice([1, 1, 2, 3]))
    byte_dim = encoder["hidden_size"]
    decoder = random_stack(rng, (8, 40), rng.choice([1, 2, 3]))
    # One width for both; heads of the decoder are its own where they fit.
    fits = [h for h in (1, 2, 3, 4, 6) if byte_dim // h >= 2 and (byte_dim // h) % 2 == 0]
    heads = rng.choice(fits)
    decoder.update(hidden_size=byte_dim, num_attention_heads=heads)
    decoder["num_key_value_heads"] = rng.choice([d for d in range(1, heads + 1) if heads % d == 0])
    latent = random_stack(rng, (8, 64), rng.choice([1, 1, 2, 3]))
    if rng.random() < 0.5:  # no projection: the latent is as wide as k byte states
        width = k * byte_dim
        heads = rng.choice([h for h in (1, 2, 3, 4, 6) if width // h >= 2 and (width // h) % 2 == 0] or [1])
        latent.update(hidden_size=width, num_attention_heads=heads, num_key_value_heads=rng.choice([1, heads]))
        if (width // heads) % 2:
            return random_config(rng)
    for part, default in ((encoder, False), (decoder, True)):
        part["cross_attn_k"] = k
        part["cross_attn_all_layers"] = default if rng.random() < 0.5 else not default
        part["hidden_size_global"] = latent["hidden_size"]
    patcher = random_stack(rng, (8, 32), rng.choice([1, 2]))
    patcher["sliding_window"] = rng.choice([None, 1, 3, 8, 20, 512])
    return dict(
        cross_attn_k=k,
        encoder_config=encoder,
        decoder_config=decoder,
        global_config=latent,
        patcher_config=patcher,
        local_attention_window_len=rng.choice([None, 1, 2, 5, 16, 40, 512]),
        encoder_hash_byte_group_size=rng.choice([[3, 4, 5, 6, 7, 8], [3], [2, 5], [1, 3], [4, 3, 20], [3, 4, 5]]),
        encoder_hash_byte_group_nb_functions=rng.choice([0, 1, 1, 1, 1, 2, 3, 5, 11]),
        encoder_hash_byte_group_vocab=rng.choice([7, 50, 101, 211]),
        max_patch_length=rng.choice([None, None, None, 1, 2, 3, 4, 7]),
        patch_in_forward=rng.random() < 0.92,
        use_cache=False,
    )


ENGLISH = "The quick brown fox jumps over the lazy dog; meanwhile, 42 engineers argued about bytes, patches and tokens in 2025."
KOREAN = "바이트 단위 언어 모델은 토큰 없이 글을 읽습니다 🙂🚀. 한국어와 이모지 👩‍💻도 잘 처리될까요?"
RUST = "fn fib(n: u64) -> u64 {\n    match n {\n        0 | 1 => n,\n        _ => fib(n - 1) + fib(n - 2), // slow\n    }\n}\n"


def random_texts(rng):
    """Text 0 is long; one of one byte and an empty one are always there."""
    source = rng.choice([ENGLISH, KOREAN, RUST]).encode()
    repeat = rng.choice([1] * 16 + [5] * 3 + [25])
    long = (source * repeat)[: rng.randrange(40, 1 + len(source) * repeat)]
    noise = bytes(rng.randrange(256) for _ in range(rng.randrange(2, 60)))
    return [long, noise, bytes([rng.randrange(256)]), b""]


def set_weights(model, scale, rng):
    """A cut normal as the library's own initialisation, times a scale that makes logits and entropies vary; norms off one."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("norm.weight"):
            p.data = 1 + 0.2 * noise
        else:
            p.data = scale * noise.clamp(-3, 3) * p.shape[-1] ** -0.5


def noise(model, texts, given):
    """How far logits move when every weight moves by about half a unit in its last place: below this no two
    implementations can be told apart."""
    generator = torch.Generator().manual_seed(0)
    kept = [p.data for p in model.parameters()]
    largest = 0.0
    for text, lengths in zip(texts, given):
        ids, base = ids_of(text), None
        for repeat in range(5):
            for p, data in zip(model.parameters(), kept):
                p.data = data * (1 + 6e-8 * torch.randn(data.shape, generator=generator)) if repeat else data
            with torch.no_grad():
                logits = model(ids, patch_lengths=lengths[None], use_cache=False).logits
            base = logits if base is None else base
            largest = max(largest, float((logits - base).abs().max()))
    for p, data in zip(model.parameters(), kept):
        p.data = data
    return largest


def threshold_between(values, rng):
    """A threshold in the widest gap near a random quantile of the entropies, so that no near-tie decides a patch."""
    values = np.sort(np.concatenate(values).astype(np.float64))
    at = rng.uniform(0.1, 0.95) * (len(values) - 2)
    reach = 4 + len(values) // 20
    near = range(max(0, int(at) - reach), min(len(values) - 1, int(at) + reach + 1))
    best = max(near, key=lambda i: values[i + 1] - values[i])
    return round(float((values[best] + values[best + 1]) / 2), 6)


def given_lengths(rng, n):
    """Patch lengths from outside, summing to n + 1 (the unseen next byte is in the last), the first of one byte."""
    lengths = [1]
    while sum(lengths) < n + 1:
        lengths.append(min(rng.randrange(1, 9), n + 1 - sum(lengths)))
    return torch.tensor(lengths)


def spell_as_4x(config, rng):
    """Rewrites a 5.x configuration with rope_theta and rope_scaling, and with what 4.x printed besides."""
    for part in [config] + [config[p] for p in PARTS if p in config]:
        rope = part.pop("rope_parameters", None)
        if rope is not None:
            part["rope_theta"] = rope["rope_theta"]
            part["rope_scaling"] = rng.choice([None, {"rope_type": "default"}, {"type": "default"}])
        part.pop("dtype", None)
        part.update({key: value for key, value in LEGACY_NOISE.items() if rng.random() < 0.5})
    config["transformers_version"] = "4.57.1"


def strip_defaults(config):
    """Drops every field that says what the library's default says."""
    default = BltConfig().to_dict()

    def strip(mine, theirs):
        for key in list(mine):
            if key in ("model_type", "architectures"):
                continue
            if isinstance(mine[key], dict) and isinstance(theirs.get(key), dict) and key in PARTS:
                strip(mine[key], theirs[key])
            elif key in theirs and mine[key] == theirs[key]:
                del mine[key]

    strip(config, default)
    for part in PARTS:
        # The library derives these two; an absent one means the derived value, not the default configuration's.
        for key in ("head_dim", "encoder_cross_output_size"):
            config.get(part, {}).pop(key, None)


def save_shards(path, tensors, rng):
    names = sorted(tensors)
    rng.shuffle(names)
    n = rng.choice([2, 3])
    weight_map = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        mine = names[i::n]
        save_torch({name: tensors[name] for name in mine}, os.path.join(path, file), metadata={"format": "pt"})
        weight_map.update({name: file for name in mine})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    with open(os.path.join(path, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, f, indent=1)


def make_setting(path, seed):
    """Writes one random setting; returns what it covers."""
    rng = random.Random(seed)
    arguments = random_config(rng)
    torch.manual_seed(seed)
    model = BltForCausalLM(BltConfig(**arguments)).eval()
    texts = random_texts(rng)
    storage = rng.choice(["float32"] * 5 + ["bfloat16", "float16"])
    # Some models amplify rounding until a comparison at 1e-4 says nothing; such a one is drawn again, and scaled down.
    scale, redrawn = rng.choice([0.7, 1.0, 1.5]), 0
    while True:
        set_weights(model, scale, rng)
        # The numbers are those of the stored weights, and so is the threshold.
        for p in model.parameters():
            p.data = p.data.to(getattr(torch, storage)).to(torch.float32)
        margin = None
        given = [given_lengths(rng, len(t) + 1) for t in texts]
        if model.config.patch_in_forward:
            with torch.no_grad():
                entropies = [model.model.patcher(ids_of(t), patch_size=4, threshold=1e9)[0][0].numpy() for t in texts]
                threshold = threshold_between(entropies, rng)
                given = [
                    model.model.patcher(
                        ids_of(t), patch_size=4, threshold=threshold, max_patch_length=model.config.max_patch_length
                    )[1][0]
                    for t in texts
                ]
            model.config.patching_threshold = threshold
            margin = min(float(np.abs(e - threshold).min()) for e in entropies)
        if noise(model, texts, given) < MAX_NOISE:
            break
        scale, redrawn = scale * 0.8, redrawn + 1

    os.makedirs(path)
    model.config.save_pretrained(path)
    file = os.path.join(path, "config.json")
    with open(file) as f:
        config = json.load(f)
    config["architectures"] = ["BltForCausalLM"]
    spelling = rng.choice(["5.x", "5.x stripped", "4.x", "4.x stripped"])
    if "stripped" in spelling:
        strip_defaults(config)
    if "4.x" in spelling:
        spell_as_4x(config, rng)
    with open(file, "w") as f:
        json.dump(config, f, indent=1)
    tensors = {name: p.data.to(getattr(torch, storage)).contiguous() for name, p in model.named_parameters()}
    sharded = rng.random() < 0.2
    if sharded:
        save_shards(path, tensors, rng)
    else:
        save_torch(tensors, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})

    expected, grads = compute(path, texts, given)
    save_file(expected, os.path.join(path, "expected.safetensors"))
    save_file(grads, os.path.join(path, "grads_all.safetensors"))
    resolved = BltConfig.from_pretrained(path)
    local = resolved.local_attention_window_len
    stacks = [getattr(resolved, p) for p in PARTS]
    longest = max(len(t) for t in texts) + 1
    covers = {
        f"k = {resolved.cross_attn_k}": True,
        "latent projection": resolved.global_config.encoder_cross_output_size is not None,
        "no latent projection": resolved.global_config.encoder_cross_output_size is None,
        "grouped heads": any(s.num_key_value_heads != s.num_attention_heads for s in stacks),
        "heads that do not divide the width": any(s.hidden_size % s.num_attention_heads for s in stacks),
        "text longer than the local window": local is not None and longest > local,
        "text longer than the patcher's window": (resolved.patcher_config.sliding_window or longest) < longest,
        "no local window": local is None,
        "max_patch_length": resolved.max_patch_length is not None and resolved.patch_in_forward,
        "patches from outside": not resolved.patch_in_forward,
        "several hash functions": resolved.encoder_hash_byte_group_nb_functions > 1,
        "no hash tables": resolved.encoder_hash_byte_group_nb_functions == 0,
        "one-layer stack": any(s.num_hidden_layers == 1 for s in stacks),
        "encoder cross-attention in all layers": resolved.encoder_config.cross_attn_all_layers,
        "decoder cross-attention in the first layer": not resolved.decoder_config.cross_attn_all_layers,
        "one-byte text": any(len(t) == 1 for t in texts),
        "empty text": any(not t for t in texts),
        f"config {spelling}": True,
        f"weights {storage}": True,
        "sharded weights": sharded,
        "weights drawn again (rounding amplified)": redrawn > 0,
    }
    covered = [name for name, yes in covers.items() if yes]
    meta = {
        "seed": seed, "transformers": transformers.__version__, "torch": torch.__version__, "covers": covered,
        "bytes": [len(t) for t in texts], "min_abs_entropy_minus_threshold": margin,
        "patches": [int((expected[f"text{i}.patch_lengths"] > 0).sum()) for i in range(len(texts))],
    }
    with open(os.path.join(path, "meta.json"), "w") as f:
        json.dump(meta, f, indent=1)
    return covered


def fuzz(args):
    torch.set_num_threads(args.threads)
    counts = collections.Counter()
    for i in range(args.n):
        path = os.path.join(args.out, f"{args.seed:04}-{i:04}")
        if os.path.exists(path):
            shutil.rmtree(path)
        counts.update(make_setting(path, args.seed * 1_000_003 + i))
        if (i + 1) % 20 == 0:
            print(f"{i + 1} of {args.n}", file=sys.stderr, flush=True)
    width = max(map(len, counts))
    for name, n in sorted(counts.items()):
        print(f"{name:{width}}  {n}")


# --- Checking stored numbers -------------------------------------------------------------------------------------------


def check(args):
    worst = 0.0
    for directory in args.directories:
        stored = load_file(os.path.join(directory, "expected.safetensors"))
        n = len({key.split(".")[0] for key in stored if key.startswith("text")})
        texts = [bytes(int(t) - 4 for t in stored[f"text{i}.input_ids"][1:]) for i in range(n)]
        given = [torch.from_numpy(stored[f"text{i}.patch_lengths"]) for i in range(n)]
        expected, grads = compute(directory, texts, given)
        stored.update({f"grad.{k}": v for k, v in load_file(os.path.join(directory, "grads_all.safetensors")).items()})
        expected.update({f"grad.{k}": v for k, v in grads.items()})
        for key, value in expected.items():
            if value.shape != stored[key].shape:
                sys.exit(f"{directory}: {key}: stored {stored[key].shape}, computed {value.shape}")
            difference = float(np.abs(value.astype(np.float64) - stored[key]).max(initial=0))
            worst = max(worst, difference)
            if not difference <= args.tolerance:
                sys.exit(f"{directory}: {key}: stored and computed differ by {difference:.3g}")
        print(f"{directory}: {len(expected)} tensors agree; largest difference so far {worst:.3g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("check")
    p.add_argument("directories", nargs="+")
    p.add_argument("--tolerance", type=float, default=2e-5)
    p.set_defaults(run=check)
    p = commands.add_parser("fuzz")
    p.add_argument("--out", required=True)
    p.add_argument("--n", type=int, default=200)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    p.set_defaults(run=fuzz)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
