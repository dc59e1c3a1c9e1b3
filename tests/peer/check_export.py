#!/usr/bin/env python3
"""Loads an exported directory in transformers and holds its logits against ours.

  check_export.py DIR NUMBERS.safetensors [--tolerance 1e-4]

NUMBERS holds, for i = 0, 1, ...: text{i}.input_ids [S] (BOS first, any integer type), text{i}.logits [S, 260] float32, and,
where the directory has no entropy model, text{i}.patch_lengths [P] (they sum to S, or to S + 1 with the unseen next byte).
Prints the largest deviation of each text; exit status 1 if one exceeds the tolerance. With max_patch_length the last
position is left out: the reference's is wrong there.
"""
import argparse
import sys

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import BltForCausalLM, logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("numbers")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    model, report = BltForCausalLM.from_pretrained(args.directory, dtype=torch.float32, output_loading_info=True)
    model.eval()
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            sys.exit(f"{args.directory}: {problem}: {sorted(report[problem])}")
    numbers = load_file(args.numbers)
    n = len({key.split(".")[0] for key in numbers if key.startswith("text")})
    if n == 0:
        sys.exit(f"{args.numbers}: no text0.input_ids")
    failed = False
    for i in range(n):
        ids = torch.from_numpy(numbers[f"text{i}.input_ids"].astype(np.int64))[None]
        ours = numbers[f"text{i}.logits"]
        given = {}
        if not model.config.patch_in_forward:
            lengths = [int(x) for x in numbers[f"text{i}.patch_lengths"]]
            # The reference must know of a byte after the last one, or the last position reads an empty patch.
            if sum(lengths) == ids.shape[1]:
                lengths.append(1)
            given["patch_lengths"] = torch.tensor([lengths])
        with torch.no_grad():
            theirs = model(ids, use_cache=False, **given).logits[0].numpy()
        if theirs.shape != ours.shape:
            sys.exit(f"text {i}: logits of shape {ours.shape}, theirs {theirs.shape}")
        if model.config.patch_in_forward and model.config.max_patch_length is not None:
            ours, theirs = ours[:-1], theirs[:-1]
        worst = float(np.abs(ours - theirs).max(initial=0))
        ok = worst <= args.tolerance
        failed |= not ok
        print(f"text {i}: {ids.shape[1]} ids, largest deviation {worst:.3g}{'' if ok else '  TOO LARGE'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
