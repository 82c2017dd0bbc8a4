"""Before and after `llasa train dpo`: held-out pairs, and errors on held-out lines by a second recogniser."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from llasa.bundle import Bundle, load_bundle
from llasa.core import Ids
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.metrics import error_rate, paired
from llasa.pairs import VOTES, decide, read_pairs
from llasa.scorers.wer import ErrorRate
from llasa.synthesizer import Synthesizer
from llasa.train.policy import speech_only
from llasa.train.preference import Preference, preferences, split


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--lines", type=Path, default=Path("tests/data/heldout.txt"))
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--voice")
    args = parser.parse_args()
    bundles = [load_bundle(args.before), load_bundle(args.after)]
    rows = held_out(bundles[0], args.pairs, args.held_out)
    logps = [[(logp(model, r.prompt, r.chosen), logp(model, r.prompt, r.rejected)) for r in rows]
             for model in map(model_of, bundles)]  # fmt: skip
    told: dict[str, Any] = {"held_out_pairs": len(rows)}
    for name, found in zip(("before", "after"), logps, strict=True):
        told[f"likelier_{name}"] = fmean(a > b for a, b in found)
    grown = [(a1 - a0) - (b1 - b0) for (a0, b0), (a1, b1) in zip(*logps, strict=True)]
    told |= {"reward_accuracy": fmean(one > 0 for one in grown), "margin_nats": fmean(grown)}
    lines = args.lines.read_text(encoding="utf-8").splitlines()[: args.count]
    columns = [errors(bundle, lines, args.voice, args.seeds) for bundle in bundles]
    for name, column in zip(("before", "after"), columns, strict=True):
        told[f"errors_{name}"], told[f"unended_{name}"] = rate(column), float(column[:, 2].mean())
        told[f"seconds_{name}"] = float(column[:, 3].mean())
    groups = [line for line in lines for _ in range(args.seeds)]
    change = paired(rate, columns[0], columns[1], groups)
    print(json.dumps(told | {"change": [change.value, change.low, change.high]}, indent=1))


def held_out(bundle: Bundle, folder: Path, share: float) -> list[Preference]:
    """Return the rows that a recipe with seed 0 holds out."""
    pairs = read_pairs(folder)
    engine = NativeEngine(model_of(bundle), max_length=bundle.max_length)
    found = preferences(pairs, decide(pairs, [folder / VOTES]).choices, bundle.with_engine(engine))
    engine.close()
    return split(found.rows, share, 0)[1]


def model_of(bundle: Bundle) -> Any:
    """Return a bundle's model, which can say nothing but speech."""
    model: Any = load_model(bundle.folder / bundle.manifest.lm.path, torch.float32)
    speech_only(model, bundle.prompt.allowed_token_ids)
    return model.eval()


@torch.inference_mode()
def logp(model: Any, prompt: Ids, said: Ids) -> float:
    """Return the log-probability of ids after a prompt, nats."""
    ids = torch.tensor([[*prompt, *said]])
    logs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logs.gather(1, ids[0, len(prompt) :, None]).sum())


def errors(bundle: Bundle, lines: Sequence[str], voice: str | None, seeds: int) -> np.ndarray:
    """Return errors, tokens, whether it did not end, and seconds, of each line and seed, effort 1."""
    speaker, scorer = Synthesizer(bundle), ErrorRate(bundle.recognizer("held-out"), bundle.reader)
    found = []
    for line in lines:
        for seed in range(seeds):
            [one] = speaker.candidates(line, voice, 1, seed)
            measures = scorer.score([one])[0].measures if one.audio else {}
            tokens = len(line.split())
            wrong = next((measures[name] for name in ("per", "cer", "wer") if name in measures), 1.0)
            seconds = one.audio.duration_s if one.audio else 0.0
            found.append((wrong * tokens, tokens, one.finish != "stop", seconds))
    return np.array(found, float)


def rate(rows: np.ndarray) -> float:
    """Return all errors over all tokens."""
    return error_rate(rows[:, 0], rows[:, 1])


if __name__ == "__main__":
    main()
