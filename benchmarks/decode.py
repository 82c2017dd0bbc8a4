"""P1: decoding here against `transformers.generate`, with the same random weights and the same limits.

Seconds of decoding alone, reading the prompt left out, with one candidate and with N: N candidates here are
one request, there N calls, since that is the loop that everybody writes. `batched` is there one call with
`num_return_sequences`. Both sample at temperature 0.8 without truncation; fixed lengths.

Equal: what is drawn greedily here is held against one forward pass there over all of it. Every id must be as
likely there as the likeliest allowed one, and log-probabilities must agree, each within `--near` nats (the
rounding of bfloat16; in float32 1e-3 holds).

    python benchmarks/decode.py --shape 1b --n 1 4 16        # about 25 minutes, 6 GB
    python benchmarks/decode.py --shape tiny --rounds 3 --steps 12
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from drawn import (
    PROMPT,
    SHAPES,
    Seconds,
    compared,
    decoded,
    fixed,
    now,
    prompt_of,
    random_llama,
    since,
    speech,
)
from paired import finish, flags
from transformers.generation.streamers import BaseStreamer

from llasa.core import Ids
from llasa.engines.interface import widen_attention
from llasa.engines.native import NativeEngine

BARS = {1: 1.25, 16: 9.0}  # of the 1B shape in bfloat16
NEAR = {"float32": 1e-3, "bfloat16": 0.15}


class FromFirst(BaseStreamer):
    """Notes when the first ids came; the prompt comes before them."""

    def __init__(self) -> None:
        self.calls, self.began = 0, (0.0, 0.0)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then ids."""
        self.calls += 1
        if self.calls == 2:
            self.began = now()

    def end(self) -> None:
        """Nothing more comes."""


class FirstLogits:
    """The same for calls whose candidates no streamer takes: notes when logits were first to be changed."""

    def __init__(self) -> None:
        self.began = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores as they are."""
        self.began = self.began or now()
        return scores


def generated(model: Any, prompt: Ids, steps: int, n: int) -> Seconds:
    """Return the seconds of n calls of `generate`."""
    ids = torch.tensor([prompt])
    wall_s, cpu_s = 0.0, 0.0
    for _ in range(n):
        first = FromFirst()
        model.generate(ids, attention_mask=torch.ones_like(ids), streamer=first, **_options(steps))
        took = since(first.began)
        wall_s, cpu_s = wall_s + took[0], cpu_s + took[1]
    return wall_s, cpu_s


def batched(model: Any, prompt: Ids, steps: int, n: int) -> Seconds:
    """Return the seconds of one call for n candidates."""
    ids, first = torch.tensor([prompt]), FirstLogits()
    model.generate(
        ids, attention_mask=torch.ones_like(ids), logits_processor=[first], num_return_sequences=n,
        **_options(steps),
    )  # fmt: skip
    assert first.began is not None
    return since(first.began)


def _options(steps: int) -> dict[str, Any]:
    return {
        "do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 1.0, "max_new_tokens": steps,
        "min_new_tokens": steps, "pad_token_id": 0,
    }  # fmt: skip


@torch.inference_mode()
def worst(engine: NativeEngine, theirs: Any, shape: str, steps: int, n: int, seed: int) -> float:
    """Return the largest difference in nats between n greedy candidates here and a forward pass there."""
    prompt = prompt_of(shape, seed)
    params = replace(fixed(shape, steps, n, temperature=0.0), logprobs=True)
    allowed, found = torch.tensor(speech(shape)), 0.0
    for made in engine.submit(prompt, params).result():
        hidden = theirs.model(torch.tensor([prompt + made.ids[:-1]])).last_hidden_state[0, len(prompt) - 1 :]
        told = torch.nn.functional.linear(hidden, theirs.lm_head.weight[allowed]).float()
        at = torch.searchsorted(allowed, torch.tensor(made.ids))[:, None]
        logprobs = told.log_softmax(-1)
        mine = logprobs.gather(-1, at)[:, 0]
        likeliest = logprobs[:, :-1].amax(-1)  # the end marker counts, but may not be drawn so soon
        found = max(found, float((likeliest - mine).max()))
        found = max(found, float((mine - torch.tensor(made.logprobs)).abs().max()))
    return found


def main() -> None:
    """Compare, time, print."""
    parser = flags(__doc__ or "")
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--dtype", choices=NEAR, default="bfloat16")
    parser.add_argument("--n", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=24, help="codes of a candidate (default: %(default)s)")
    parser.add_argument("--near", type=float, help="nats; by dtype if not given")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    near = args.near or NEAR[args.dtype]
    theirs = random_llama(args.shape, "cpu", getattr(torch, args.dtype), args.seed)
    ours = copy.deepcopy(theirs, {id(weight): weight for weight in theirs.parameters()})
    if args.dtype == "bfloat16":
        widen_attention(ours)
    engine = NativeEngine(ours, max_length=2048, concurrency=max(args.n))
    prompt, last = prompt_of(args.shape, args.seed), args.steps - 1
    rows, failed = list[dict[str, Any]](), list[str]()
    try:
        for n in args.n:
            apart = worst(engine, theirs, args.shape, args.steps, n, args.seed)
            if not apart <= near:
                failed.append(f"N={n}: {apart:.3g} nats apart, {near} allowed")
            for name, other in (("calls", generated), ("batched", batched))[: 1 + (n > 1)]:
                ratio = compared(
                    lambda n=n: decoded(engine, prompt, fixed(args.shape, args.steps, n))[0],
                    lambda n=n, other=other: other(theirs, prompt, args.steps, n),
                    args.rounds,
                )
                bar = BARS.get(n) if (args.shape, args.dtype, name) == ("1b", "bfloat16", "calls") else None
                rows.append({"n": n, "against": name, "apart": apart, "bar": bar, **ratio.as_dict()})
                if not args.json:
                    _tell(rows[-1], n, last, len(rows) == 1)
    finally:
        engine.close()
    report = {"shape": args.shape, "dtype": args.dtype, "steps": args.steps, "prompt": PROMPT, "rows": rows}
    finish(report, failed, args.json)


def _tell(row: dict[str, Any], n: int, last: int, first: bool) -> None:
    if first:
        print(f"{'':12} {'ms a step':>10} {'a candidate':>12} {'theirs':>10} {'ratio, wall [95 %]':>24} "
              f"{'processor [95 %]':>24} {'nats':>8}  bar")  # fmt: skip
    ours, theirs = 1e3 * row["a_s"] / last, 1e3 * row["b_s"] / last / n
    wall = f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    cpu = f"{row['cpu_median']:.2f} [{row['cpu_low']:.2f}, {row['cpu_high']:.2f}]"
    bar = "" if row["bar"] is None else f">= {row['bar']}: {'met' if row['low'] >= row['bar'] else 'MISSED'}"
    print(f"N={n:<3} {row['against']:7} {ours:10.2f} {ours / n:12.2f} {theirs:10.2f} {wall:>24} {cpu:>24} "
          f"{row['apart']:8.1g}  {bar}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
