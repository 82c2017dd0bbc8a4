"""Whether a server computes a bundle's language model as this package does, and how fast.

Greedy ids and log-probabilities of a server (vLLM, llama.cpp's llama-server) against the same weights in
float32 here: `python benchmarks/remote_check.py http://127.0.0.1:8000/v1#MODEL --bundle FOLDER`.

match: ids alike before the first that differs, of all ids, over all texts. agreement: ids of the server that
are the likeliest here too, after the same ids. gap: between the two likeliest ids where the first differs, in
nats, at most; small where rounding decides. logprob: difference to the log-softmax over
all ids and over the allowed ids; one of them is small and tells which the server means. Speeds are of ids of
all candidates of one text; `here` is the engine in this process, in float32.
"""

import argparse
import json
import math
import os
import statistics
import time
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import llasa
from llasa.core import Generation, SamplingParams
from llasa.engines import KEY_VARIABLE
from llasa.engines.base import Engine
from llasa.engines.native import NativeEngine
from llasa.engines.remote import RemoteEngine
from llasa.search import Job

TEXTS = Path(__file__).parents[1] / "tests" / "data" / "heldout.txt"


class Check:
    """A server beside the same model here."""

    def __init__(self, place: str, bundle: str, texts: list[str], max_tokens: int) -> None:
        synthesizer = llasa.load(bundle, dtype="float32")
        parts = synthesizer.bundle
        folder = parts.folder / parts.manifest.lm.path
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        self.here = NativeEngine(self.model, max_length=parts.max_length)
        url, _, name = place.partition("#")
        size = self.model.config.vocab_size
        self.server = RemoteEngine(url, name, vocab_size=size, key=os.environ.get(KEY_VARIABLE) or None)
        room = min(self.server.max_length, parts.max_length)
        self.jobs = [self._short(synthesizer.job(text), room, max_tokens) for text in texts]

    def _short(self, job: Job, room: int, max_tokens: int) -> Job:
        most = min(max_tokens, room - len(job.prompt))
        return replace(job, params=replace(job.params, max_tokens=most, loop_guard=False))

    def greedy(self) -> dict[str, float]:
        """Return how far greedy ids and their log-probabilities are from those here."""
        matched, agreed, total, gaps = 0, 0, 0, [0.0]
        apart: dict[str, list[float]] = {"all": [0.0], "allowed": [0.0]}
        for job in self.jobs:
            params = replace(job.params, temperature=0, logprobs=True)
            expected, found = (
                engine.submit(job.prompt, params).result()[0] for engine in (self.here, self.server)
            )
            pairs = zip(expected.ids, found.ids, strict=False)
            alike = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            matched, total = matched + alike, total + len(found.ids)
            scores = self._scores(job, found, params)
            if (expected.ids, expected.finish) != (found.ids, found.finish):
                best = scores["allowed"][alike].topk(2).values
                gaps.append(float(best[0] - best[1]))
            ids = torch.tensor(found.ids)
            agreed += int((scores["allowed"][:-1].argmax(-1) == ids).sum())
            for kind, values in scores.items():
                here = values[:-1].gather(-1, ids[:, None])[:, 0]
                apart[kind] += (here - torch.tensor(found.logprobs)).abs().tolist()
        return {
            "greedy ids": total,
            "match": matched / max(total, 1),
            "agreement": agreed / max(total, 1),
            "gap": max(gaps),
            **{f"logprob of {kind} ids, most": max(values) for kind, values in apart.items()},
            **{f"logprob of {kind} ids, median": statistics.median(values) for kind, values in apart.items()},
        }

    @torch.inference_mode()
    def _scores(self, job: Job, drawn: Generation, params: SamplingParams) -> dict[str, torch.Tensor]:
        """Return log-probabilities [N + 1, V] at each id, among all ids and among the allowed."""
        ids = torch.tensor([job.prompt + drawn.ids])
        logits = self.model(ids, logits_to_keep=len(drawn.ids) + 1).logits[0].float()
        allowed = torch.full_like(logits, -math.inf)
        columns = list(params.allowed_token_ids or range(logits.shape[-1]))
        allowed[:, columns] = logits[:, columns]
        return {"all": logits.log_softmax(-1), "allowed": allowed.log_softmax(-1)}

    def seeds(self) -> dict[str, float]:
        """Return how often a seed repeats, alone and as one of eight, and how many candidates differ."""
        once, again, eight = [], [], []
        for job in self.jobs:
            params = replace(job.params, temperature=1.0)
            once += self._ids(job, replace(params, n=2))
            again += self._ids(job, replace(params, n=2))
            eight.append(self._ids(job, replace(params, n=8)))
        first = [ids for row in eight for ids in row[:2]]
        return {
            "seed repeats": statistics.mean(a == b for a, b in zip(once, again, strict=True)),
            "seed repeats among 8": statistics.mean(a == b for a, b in zip(once, first, strict=True)),
            "different of 8": statistics.mean(len({tuple(ids) for ids in row}) for row in eight),
        }

    def _ids(self, job: Job, params: SamplingParams) -> list[list[int]]:
        return [generation.ids for generation in self.server.submit(job.prompt, params).result()]

    def speeds(self) -> dict[str, float]:
        """Return ids a second, and the delay of the first."""
        found: dict[str, float] = {}
        engines: dict[str, Engine] = {"server": self.server, "here": self.here}
        for name, engine in engines.items():
            for n in (1, 16):
                began, tokens, waits = time.perf_counter(), 0, []
                for seed, job in enumerate(self.jobs[:4]):
                    asked = time.perf_counter()
                    request = engine.submit(job.prompt, replace(job.params, n=n, seed=seed))
                    next(iter(request))
                    waits.append(time.perf_counter() - asked)
                    tokens += sum(len(generation.ids) for generation in request.result())
                found[f"{name}: ids/s, n={n}"] = tokens / (time.perf_counter() - began)
                found[f"{name}: first id, n={n}, s"] = statistics.median(waits)
        return found

    def close(self) -> None:
        self.here.close()
        self.server.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("place", help="URL#MODEL")
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    texts = TEXTS.read_text(encoding="utf-8").splitlines()[: args.texts]
    check = Check(args.place, args.bundle, texts, args.max_tokens)
    found: dict[str, float] = {**check.greedy(), **check.seeds(), **check.speeds()}
    check.close()
    if args.json:
        return print(json.dumps({"server": check.server.name, "texts": len(texts), **found}))
    print(f"{check.server.name}, {len(texts)} texts, at most {args.max_tokens} ids")
    for key, value in found.items():
        print(f"  {key:32} {value:.6g}")


if __name__ == "__main__":
    main()
