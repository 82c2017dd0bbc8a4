"""Best of N on a bundle against the obvious loops: how much faster, and whether the same candidate wins.

Every contender draws N candidates of a text, hears them and takes the one with the fewest phone errors.

ours: `search.BestOfN`: one request, one decoding, one transcription, all batched.
generate: for each candidate `transformers.generate`, decode, transcribe; its own random stream.
singly: the same loop over our engine, candidate by candidate: the same random streams, so its winner must be
    ours. Rounding depends on the batch, so in bfloat16 a candidate may turn out otherwise.

Contenders alternate within one run, in turned order from text to text; the engine keeps nothing from one to
the next. Ratios are medians over texts; those of CPU time hold on a machine that does other work besides.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

import llasa
from llasa.core import Candidate, Ids, Judged
from llasa.engines.native import NativeEngine
from llasa.judge import Judge
from llasa.scorers.wer import ErrorRate
from llasa.search import BestOfN, Job, Ranking
from llasa.synthesizer import Synthesizer

TEXTS = Path(__file__).parents[1] / "tests" / "data" / "heldout.txt"
Draw = Callable[[Job, int], tuple[Ids, bool]]


@dataclass(frozen=True)
class Won:
    """Whom a contender chose for a text, and how long it took: seconds gone by, and of all threads."""

    best: Judged
    seconds: float
    cpu_s: float


class Bench:
    """The contenders over one bundle, in one dtype, with judges that are alike."""

    def __init__(self, bundle: str, recognizer: str, dtype: str, n: int, temperature: float) -> None:
        self.n, self.temperature = n, temperature
        self.synthesizer: Synthesizer = llasa.load(bundle, dtype=dtype)
        parts = self.synthesizer.bundle
        self.engine = cast(NativeEngine, parts.engine)
        folder = parts.folder / parts.manifest.lm.path
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        allowed = set(parts.prompt.allowed_token_ids)
        self.suppressed = [i for i in range(self.model.config.vocab_size) if i not in allowed]
        self.contenders = {"ours": self.ours, "generate": self.generate, "singly": self.singly}
        # A recogniser each, since it remembers what it heard.
        ears = {name: replace(parts).recognizer(recognizer) for name in self.contenders}
        self.judges = {
            name: Judge(parts.codec, ErrorRate(heard_by, parts.reader, unit="phones"))
            for name, heard_by in ears.items()
        }

    def run(self, text: str, turned: bool) -> dict[str, Won]:
        """Return what each contender makes of a text."""
        job = self.synthesizer.job(text, temperature=self.temperature)
        found: dict[str, Won] = {}
        for name in sorted(self.contenders, reverse=turned):
            self.engine.forget()
            began, cpu_began = time.perf_counter(), time.process_time()
            best = self.contenders[name](job)
            found[name] = Won(best, time.perf_counter() - began, time.process_time() - cpu_began)
        return found

    def ours(self, job: Job) -> Judged:
        """Draw and judge all at once."""
        *_, ranking = BestOfN(self.n).run(job, self.synthesizer.means(self.judges["ours"]))
        return cast(Ranking, ranking).judged[0]

    def generate(self, job: Job) -> Judged:
        """Loop over `transformers.generate`."""
        return self._loop(job, self._generated, self.judges["generate"])

    def singly(self, job: Job) -> Judged:
        """Loop over our engine."""
        return self._loop(job, self._submitted, self.judges["singly"])

    def _loop(self, job: Job, draw: Draw, judge: Judge) -> Judged:
        judged: list[Judged] = []
        for number in range(self.n):
            ids, ended = draw(job, number)
            codes = self.synthesizer.bundle.prompt.codes(ids)
            candidate = Candidate(job.utterance, codes, "stop" if ended else "length")
            judged += judge.judge([candidate])
        return max(judged, key=_value)

    @torch.inference_mode()
    def _generated(self, job: Job, number: int) -> tuple[Ids, bool]:
        params = job.params
        torch.manual_seed(number)
        made = self.model.generate(
            torch.tensor([job.prompt]),
            attention_mask=torch.ones(1, len(job.prompt), dtype=torch.long),
            do_sample=True,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_new_tokens=params.min_tokens,
            max_new_tokens=params.max_tokens,
            eos_token_id=list(params.stop_token_ids),
            pad_token_id=params.stop_token_ids[0],
            suppress_tokens=self.suppressed,
        )
        ids = made[0, len(job.prompt) :].tolist()
        ended = ids[-1] in params.stop_token_ids
        return ids[:-1] if ended else ids, ended

    def _submitted(self, job: Job, number: int) -> tuple[Ids, bool]:
        made = self.engine.submit(job.prompt, replace(job.params, n=1, first=number)).result()[0]
        return made.ids, made.finish == "stop"


def _value(judged: Judged) -> tuple[bool, float]:
    return judged.status == "scored", judged.score.value if judged.score else 0.0


def summary(rows: list[dict[str, Won]]) -> dict[str, float]:
    """Return ratios, the share of equal winners, and what each contender took and got wrong."""
    found: dict[str, float] = {}
    for name in ("generate", "singly"):
        pairs = [(row[name], row["ours"]) for row in rows]
        found[f"times_faster_than_{name}"] = statistics.median(a.seconds / b.seconds for a, b in pairs)
        found[f"times_less_cpu_than_{name}"] = statistics.median(a.cpu_s / b.cpu_s for a, b in pairs)
    chosen = [{name: won.best.candidate.codes for name, won in row.items()} for row in rows]
    found["same_winner"] = statistics.mean(row["ours"] == row["singly"] for row in chosen)
    for name in rows[0]:
        found[f"seconds_{name}"] = statistics.median(row[name].seconds for row in rows)
        scores = [row[name].best.score for row in rows]
        found[f"phone_error_rate_{name}"] = statistics.mean(s.measures.get("per", 1.0) for s in scores if s)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", default="starter")
    parser.add_argument("--recognizer", default="bundle")
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = TEXTS.read_text(encoding="utf-8").splitlines()[: args.texts]
    results: dict[str, dict[str, float]] = {}
    for dtype in args.dtypes:
        bench = Bench(args.bundle, args.recognizer, dtype, args.n, args.temperature)
        bench.run(texts[0], turned=False)  # warm-up
        results[dtype] = summary([bench.run(text, turned=bool(i % 2)) for i, text in enumerate(texts)])
    machine = platform.processor() or platform.machine()
    found = {**results, "n": args.n, "texts": len(texts), "machine": machine, "threads": args.threads}
    if args.json:
        return print(json.dumps(found))
    for dtype, values in results.items():
        print(dtype, *(f"  {key:28} {value:.3f}" for key, value in values.items()), sep="\n")
    print(f"{len(texts)} texts, n={args.n}, {machine}, {args.threads} threads")


if __name__ == "__main__":
    main()
