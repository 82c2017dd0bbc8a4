"""What the benchmarks of decoding share: shapes with random weights, and seconds of decoding alone.

Seconds run from the first drawn id to the last, of all candidates: reading the prompt is not in them. Wall
time and processor time of all threads come side by side.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from paired import Ratio, interval
from transformers import LlamaConfig, LlamaForCausalLM

from llasa.core import Generation, Ids, SamplingParams
from llasa.engines.base import Engine

# width, inner width, layers, heads, key-value heads, words of text and markers, codes
SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 200, 4097),
    "6m": (256, 704, 6, 4, 4, 127, 4097),  # as the starter
    "40m": (512, 1408, 12, 8, 8, 127, 4097),
    "135m": (576, 1536, 30, 9, 3, 49_159, 65_537),
    "1b": (2048, 8192, 16, 32, 8, 128_263, 65_537),
    "3b": (3072, 8192, 28, 24, 8, 128_263, 65_537),
    "8b": (4096, 14_336, 32, 32, 8, 128_263, 65_537),
}
PROMPT = 64
Seconds = tuple[float, float]  # of wall and of processor time


def random_llama(shape: str, device: str, dtype: torch.dtype, seed: int, length: int = 2048) -> Any:
    """Return a Llama of a shape with random weights, made on the device; embedding and head are one."""
    width, inner, layers, heads, kv_heads, words, codes = SHAPES[shape]
    config: Any = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=words + codes, max_position_embeddings=length,
        tie_word_embeddings=shape != "8b",
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    with torch.device(device):
        return LlamaForCausalLM._from_config(config, dtype=dtype).eval()


def speech(shape: str) -> tuple[int, ...]:
    """Return the ids that may be drawn: the codes, and the end marker, which is the last."""
    words, codes = SHAPES[shape][-2:]
    return tuple(range(words, words + codes))


def prompt_of(shape: str, seed: int) -> Ids:
    """Return ids of text."""
    return np.random.default_rng(seed).integers(1, SHAPES[shape][-2], PROMPT).tolist()


def fixed(shape: str, steps: int, n: int = 1, seed: int = 0, temperature: float = 0.8) -> SamplingParams:
    """Return parameters under which each of n candidates has so many codes."""
    return SamplingParams(
        temperature=temperature, max_tokens=steps, min_tokens=steps, n=n, seed=seed, loop_guard=False,
        allowed_token_ids=speech(shape), stop_token_ids=(speech(shape)[-1],),
    )  # fmt: skip


def decoded(engine: Engine, prompt: Ids, params: SamplingParams) -> tuple[Seconds, list[Generation]]:
    """Return seconds from the first id to the last, and what was drawn."""
    request = engine.submit(prompt, params)
    news = iter(request)
    next(news)
    began = now()
    told = request.result()
    return since(began), told


def now() -> Seconds:
    """Return wall and processor time, this process's and all its threads'."""
    return time.perf_counter(), time.process_time()


def since(began: Seconds) -> Seconds:
    """Return how much of both went by."""
    wall, cpu = now()
    return wall - began[0], cpu - began[1]


def compared(a: Callable[[], Seconds], b: Callable[[], Seconds], rounds: int) -> Ratio:
    """Return the ratio of what `b` says it took to what `a` says; turns alternate, after one of each."""
    a(), b()
    took = np.empty((rounds, 2, 2))
    for turn in range(rounds):
        for side in (1, 0) if turn % 2 else (0, 1):
            took[turn, side] = (a, b)[side]()
    wall, cpu = (interval(took[:, 1, kind] / took[:, 0, kind]) for kind in (0, 1))
    (a_s, a_cpu_s), (b_s, b_cpu_s) = np.median(took, 0).tolist()
    return Ratio(*wall, *cpu, a_s, b_s, a_cpu_s, b_cpu_s, rounds)


class Peak:
    """The most memory that this process held while inside, above what it held before, bytes."""

    def __enter__(self) -> "Peak":
        self.before = self.most = resident()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    @property
    def grown(self) -> int:
        """How much it was."""
        return self.most - self.before

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, resident())


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
