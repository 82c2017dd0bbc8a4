"""What may be asked of a sampler, random numbers, and noticing when a candidate runs in circles.

Knows no model, cache or threads. Shapes: B rows (live candidates).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from textwrap import shorten

import numpy as np

from llasa.core import Ids, SamplingParams
from llasa.errors import ConfigError, InputError

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF
_LEAST, _MOST = 1e-30, 1e30  # logits times or over these stay finite in float32


def check(params: SamplingParams, vocab_size: int, adapters: Collection[str] = ()) -> None:
    """Refuse parameters that an engine cannot obey.

    Args:
        params: what the caller asked for.
        vocab_size: ids lie in [0, vocab_size).
        adapters: names of those that the engine has.

    Raises:
        ConfigError: names the field, what it held and what it may hold.
    """
    ids = f"ids in [0, {vocab_size})"
    known = (
        f"None or one of: {', '.join(sorted(adapters))}" if adapters else "None: this engine has no adapters"
    )
    allowed, stops = params.allowed_token_ids, params.stop_token_ids
    rules = (
        (
            "temperature",
            params.temperature == 0 or _LEAST <= params.temperature <= _MOST,
            f"0 (greedy) or a number in [{_LEAST}, {_MOST}]",
        ),
        ("top_p", 0 < params.top_p <= 1, "a number in (0, 1]"),
        ("top_k", _whole(params.top_k, 0, 2**31 - 1), "0 (no limit) or a count below 2^31"),
        (
            "repetition_penalty",
            _LEAST <= params.repetition_penalty <= _MOST,
            f"a number in [{_LEAST}, {_MOST}] (1 is off)",
        ),
        ("seed", _whole(params.seed, -math.inf), "a whole number"),
        ("n", _whole(params.n, 1), "a count of at least 1"),
        ("first", _whole(params.first, 0), "the number of a candidate, from 0 on"),
        ("max_tokens", _whole(params.max_tokens, 1), "a count of at least 1"),
        (
            "min_tokens",
            _whole(params.min_tokens, 0, params.max_tokens),
            f"a count in [0, {params.max_tokens}]",
        ),
        ("stop_token_ids", _inside(stops, vocab_size), ids),
        ("allowed_token_ids", allowed is None or (len(allowed) > 0 and _known(allowed, vocab_size)), ids),
        ("adapter", params.adapter is None or params.adapter in adapters, known),
    )
    for field, holds, expected in rules:
        if not holds:
            found = shorten(repr(getattr(params, field)), 80)
            raise ConfigError(f"Sampling: {field} is {found}. Set it to {expected}.")
    ends = set(stops)
    if params.min_tokens and all(i in ends for i in (range(vocab_size) if allowed is None else allowed)):
        raise ConfigError(
            f"Sampling: min_tokens is {params.min_tokens}, yet every allowed id is a stop id. "
            "Allow at least one id that is not in stop_token_ids."
        )


def check_prompt(prompt: Ids, vocab_size: int, max_length: int) -> None:
    """Refuse a prompt that an engine cannot go on from.

    Args:
        prompt: what the caller gave.
        vocab_size: ids lie in [0, vocab_size).
        max_length: prompt and generated ids together.

    Raises:
        InputError: it is empty, leaves no room, or holds something else than such ids.
    """
    if not 0 < len(prompt) < max_length:
        raise InputError(
            f"Starting a generation: the prompt has {len(prompt)} ids, the engine holds {max_length} with "
            f"what it generates. Give 1 to {max_length - 1} ids."
        )
    if not _inside(prompt, vocab_size):
        odd = next(i for i in prompt if not _inside([i], vocab_size))
        raise InputError(
            f"Starting a generation: the prompt holds {shorten(repr(odd), 80)}, the model knows ids in "
            f"[0, {vocab_size}). Use the tokenizer of this model."
        )


def _whole(value: object, least: float, most: float = math.inf) -> bool:
    # Not the integers of other packages, whose arithmetic would overflow in the step loop.
    return isinstance(value, int) and least <= value <= most


@lru_cache(maxsize=8)
def _known(allowed: tuple[int, ...], vocab_size: int) -> bool:
    # The same 65,537 ids come with every request: looking at them takes 2 ms, knowing them again 0.2.
    return _inside(allowed, vocab_size)


def _inside(ids: Sequence[int], vocab_size: int) -> bool:
    kinds = set(map(type, ids))
    return all(issubclass(kind, Integral) and kind is not bool for kind in kinds) and (
        not ids or (min(ids) >= 0 and max(ids) < vocab_size)
    )


def stream_key(seed: int, candidate: int) -> int:
    """Return the 64-bit key of one candidate's random stream; a function of its arguments only."""
    outer = _mix(np.array([seed & _WORD], np.uint64) + np.uint64(_GOLDEN))
    return int(_mix(outer + np.array([candidate * _GOLDEN & _WORD], np.uint64))[0])


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return one random number for each row, the same whenever key and position are the same.

    Args:
        keys: uint64 [B], from `stream_key`.
        positions: integers [B], index of the id to be drawn, counted from the start of the whole prompt.

    Returns:
        float64 [B] in [0, 1), multiples of 2^-52.

    Source: Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, 2014 (SplitMix64, entered at
        any step).
    """
    steps = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    return (_mix(keys + steps) >> np.uint64(12)).astype(np.float64) * 2.0**-52


def branched(keys: np.ndarray, number: int) -> np.ndarray:
    """Return keys of other streams of the same rows, uint64 [B]; number: which, from 1 on."""
    return _mix(_mix(keys) + np.uint64(number))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class LoopGuard:
    """When ids count as a loop: a cycle of at most `max_period` ids, turned `min_repeats` times or more, that
    covers `min_span` ids or more.

    The defaults leave a held vowel or a second of silence alone at 25 and at 50 codes a second.
    """

    min_repeats: int = 4
    min_span: int = 64
    max_period: int = 32

    def __post_init__(self) -> None:
        for field, least in (("min_repeats", 2), ("min_span", 2), ("max_period", 1)):
            if getattr(self, field) < least:
                raise ConfigError(
                    f"Loop guard: {field} is {getattr(self, field)}. Set it to {least} or more."
                )


class LoopWatch:
    """Follows the ids of one candidate, at a cost of O(max_period) an id."""

    def __init__(self, guard: LoopGuard) -> None:
        self._recent = np.full(guard.max_period, -1, np.int64)
        self._matches = np.zeros(guard.max_period, np.int64)
        self._periods = np.arange(1, guard.max_period + 1)
        self._enough = np.maximum(self._periods * guard.min_repeats, guard.min_span) - self._periods

    def push(self, token_id: int) -> int:
        """Take the next id; return how many of the last ids repeat a loop's first turn, 0 without a loop."""
        self._matches += 1
        self._matches *= self._recent == token_id
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token_id
        looping = self._matches >= self._enough
        return int(self._matches[looping.argmax()]) if looping.any() else 0
