"""Log-probabilities for GRPO: prompts read once here, against TRL's fused head over whole rows.

Same weights and rows, in random order: groups of one prompt, ragged on both sides. Processor seconds of a
forward with its backward, and of a forward alone, at 16 and at 64 rows a time; the turns alternate. Values,
entropies and gradients are compared in float32 first.

    python benchmarks/early.py early && python benchmarks/logprobs.py early
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from llasa.bundle import Bundle, load_bundle
from llasa.engines.weights import load_model
from llasa.prompt import IGNORED
from llasa.train.logprobs import share_prompts
from llasa.train.policy import speech_only

GROUPS, EACH, PROMPT, COMPLETION = 8, 8, (150, 170), (60, 91)
TEMPERATURE = 0.8
Rows = tuple[Tensor, Tensor, Tensor]


def rows_of(bundle: Bundle, seed: int) -> Rows:
    """Return ids, attention mask and labels [rows, S] of completions that share prompts, in random order."""
    draw = np.random.default_rng(seed)
    allowed = np.array(bundle.prompt.allowed_token_ids)
    count, middle = GROUPS * EACH, PROMPT[1]
    ids = np.zeros((count, middle + COMPLETION[1]), np.int64)
    seen = np.zeros_like(ids)
    for group in range(GROUPS):
        prompt = draw.integers(0, allowed.min(), draw.integers(*PROMPT))  # ids of text
        for row in range(group * EACH, (group + 1) * EACH):
            codes = draw.choice(allowed, draw.integers(*COMPLETION))
            ids[row, middle - len(prompt) : middle + len(codes)] = [*prompt, *codes]
            seen[row, middle - len(prompt) : middle + len(codes)] = 1
    order = draw.permutation(count)
    labels = np.where(seen, ids, IGNORED)
    labels[:, :middle] = IGNORED
    tensors = [torch.from_numpy(one[order]) for one in (ids, seen, labels)]
    return tensors[0], tensors[1], tensors[2]


def model_of(bundle: Bundle, own: bool) -> Any:
    """Return the bundle's language model with TRL's head, or with what this project puts over it."""
    model = load_model(bundle.folder / bundle.manifest.lm.path, torch.float32)
    speech_only(model, bundle.prompt.allowed_token_ids)
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    if own:
        share_prompts(model, TEMPERATURE)
    return model.train()


def told(model: Any, rows: Rows, at_once: int, backward: bool) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies, and leave gradients of a sum that weighs each place."""
    found = list[tuple[Tensor, Tensor]]()
    for part in zip(*(one.split(at_once) for one in rows), strict=True):
        ids, seen, labels = part
        with torch.set_grad_enabled(backward):
            output = model(input_ids=ids, attention_mask=seen, labels=labels, fused_lm_head=True)
        if backward:
            weights = torch.linspace(-1, 1, output.log_probs.numel()).view_as(output.log_probs)
            (output.log_probs * weights).mean().backward()
        found.append((output.log_probs.detach(), output.entropy.detach()))
    return torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])


def differences(models: list[Any], rows: Rows) -> dict[str, float]:
    """Return the largest differences; that of gradients relative to the largest gradient of its weight."""
    (first, entropy), (second, other) = (told(model, rows, len(rows[0]), True) for model in models)
    pairs = zip(*(model.parameters() for model in models), strict=True)
    relative = [float((a.grad - b.grad).abs().max() / a.grad.abs().max()) for a, b in pairs]
    for model in models:
        model.zero_grad()
    return {
        "log_probs": float((first - second).abs().max()),
        "entropies": float((entropy - other).abs().max()),
        "gradients": max(relative),
    }


def timed(models: list[Any], rows: Rows, at_once: int, backward: bool, turns: int) -> dict[str, Any]:
    """Return processor seconds of TRL's and of ours, medians, and the ratio with its range over the turns."""
    took: list[list[float]] = [[], []]
    for _ in range(turns):
        for model, seconds in zip(models, took, strict=True):
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                told(model, rows, at_once, backward)
            seconds.append(time.process_time() - began)
    trl, own = (np.array(one[1:]) for one in took)  # the first turn is warm-up
    ratios = trl / own
    return {
        "rows_at_once": at_once, "backward": backward,
        "trl_s": float(np.median(trl)), "own_s": float(np.median(own)),
        "ratio": float(np.median(ratios)), "lowest": float(ratios.min()), "highest": float(ratios.max()),
    }  # fmt: skip


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a bundle's folder")
    parser.add_argument("--turns", type=int, default=4, help="the first is warm-up")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(args.model)
    rows = rows_of(bundle, args.seed)
    models = [model_of(bundle, own) for own in (False, True)]
    print(json.dumps({"differences": differences(models, rows)}), flush=True)
    for at_once in (16, GROUPS * EACH):
        for backward in (True, False):
            print(json.dumps(timed(models, rows, at_once, backward, args.turns)), flush=True)


if __name__ == "__main__":
    main()
