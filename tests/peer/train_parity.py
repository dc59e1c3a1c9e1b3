#!/usr/bin/env python3
"""What the reference implementation (Hugging Face transformers, torch's AdamW, CPU, float32) makes of training.

  train_parity.py prepare DIR     a small random model and the text that it is trained on (needs pyarrow)
  train_parity.py compute DIR     what training gives; state.safetensors, our checkpoints, must be there by then

Between the two, `BLT_TRAINING_DIR=DIR cargo test --release -p blt-core --test training -- --ignored writes_checkpoints`
trains here and writes the checkpoints of steps 30, 100 and 300; the other tests of that suite read all of DIR,
or of tests/parity_training, where the stored numbers are:

  config.json, model.safetensors   the model at step 0
  text.safetensors                 bytes [301, 4, 156]: documents of batches; patches are 6 bytes each, behind BOS's
  state.safetensors                {step}.param.{name}, .m.{name}, .v.{name} at our checkpoints
  expected.safetensors             {step}.loss, .grad.{name}, .after.{name} (parameters after one step more), at each
                                   checkpoint and at step 0; losses.{lr} [300], each before its step, run from step 0
"""
import argparse
import os

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import BltConfig, BltForCausalLM

from fixtures import set_weights

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

STEPS, ROWS, BYTES, STRIDE = 300, 4, 156, 6
CHECKPOINTS = [0, 30, 100, 300]
RATES = {"3e-4": 3e-4, "4e-3": 4e-3}
CHECKPOINT_RATE = "4e-3"


def prepare(directory):
    import random

    import pyarrow.parquet as pq

    sample = os.path.join(os.path.dirname(__file__), "../../pipelines/corpus/sample.parquet")
    rows = pq.read_table(sample, columns=["domain", "text"]).to_pylist()
    prose = "\n\n".join(row["text"] for row in rows if row["domain"] == "prose").encode()
    count = (STEPS + 1) * ROWS * BYTES
    os.makedirs(directory, exist_ok=True)
    text = np.frombuffer(prose[:count], np.uint8).reshape(STEPS + 1, ROWS, BYTES)
    save_file({"bytes": text}, os.path.join(directory, "text.safetensors"))
    local = dict(
        hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=1, intermediate_size=32,
        cross_attn_k=2, hidden_size_global=32,
    )
    config = BltConfig(
        cross_attn_k=2,
        encoder_hash_byte_group_size=[3, 4, 5],
        encoder_hash_byte_group_vocab=64,
        local_attention_window_len=16,
        patch_in_forward=False,
        use_cache=False,
        encoder_config=dict(local, cross_attn_all_layers=False),
        decoder_config=dict(local, cross_attn_all_layers=True),
        global_config=dict(
            hidden_size=32, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1, intermediate_size=64
        ),
    )
    model = BltForCausalLM(config)
    set_weights(model, 1.0, random.Random(18))
    model.save_pretrained(directory)


def load(directory):
    model = BltForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    return model, parameters, optimiser


def loss_of(model, rows):
    """Mean nats a byte."""
    ids = torch.from_numpy(np.concatenate([np.full((ROWS, 1), 1), rows.astype(np.int64) + 4], 1))
    # The reference must know of a byte after the last one.
    lengths = torch.tensor([[1] + [STRIDE] * (BYTES // STRIDE) + [1]] * ROWS)
    logits = model(ids, patch_lengths=lengths, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def step(model, parameters, optimiser, rows, rate):
    """The loss and the gradients before clipping to a norm of 1; the parameters are updated."""
    optimiser.param_groups[0]["lr"] = rate
    optimiser.zero_grad()
    loss = loss_of(model, rows)
    loss.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in parameters.items() if p.grad is not None}
    torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    optimiser.step()
    return loss.item(), gradients


def compute(directory):
    torch.set_num_threads(1)
    text = load_file(os.path.join(directory, "text.safetensors"))["bytes"]
    state = load_file(os.path.join(directory, "state.safetensors"))
    expected = {}
    for at in CHECKPOINTS:
        model, parameters, optimiser = load(directory)
        for name, p in parameters.items():
            if at:
                p.data = torch.from_numpy(state[f"{at}.param.{name}"]).reshape(p.shape)
                m, v = (torch.from_numpy(state[f"{at}.{part}.{name}"]).reshape(p.shape) for part in "mv")
                optimiser.state[p] = {"step": torch.tensor(float(at)), "exp_avg": m, "exp_avg_sq": v}
        loss, gradients = step(model, parameters, optimiser, text[at], RATES[CHECKPOINT_RATE])
        expected[f"{at}.loss"] = np.array([loss])
        expected.update({f"{at}.grad.{name}": g for name, g in gradients.items()})
        expected.update({f"{at}.after.{name}": p.detach().numpy().copy() for name, p in parameters.items()})
        print(f"step {at}: loss {loss:.6f}", flush=True)
    for name, rate in RATES.items():
        model, parameters, optimiser = load(directory)
        losses = [step(model, parameters, optimiser, rows, rate)[0] for rows in text[:STEPS]]
        expected[f"losses.{name}"] = np.array(losses)
        print(f"lr {name}: means of 50:", *(f"{x:.4f}" for x in np.mean(np.reshape(losses, (-1, 50)), 1)), flush=True)
    save_file(expected, os.path.join(directory, "expected.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["prepare", "compute"])
    parser.add_argument("directory")
    args = parser.parse_args()
    {"prepare": prepare, "compute": compute}[args.command](args.directory)


if __name__ == "__main__":
    main()
