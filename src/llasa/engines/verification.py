"""Which guesses of draft modules hold, and what is drawn where one does not. Knows no model and no requests.

Shapes: B rows, K guesses of each, S = K + 1 places that the model looked at, A allowed ids.

Sources: Leviathan et al., *Fast Inference from Transformers via Speculative Decoding*, arXiv 2211.17192,
    algorithm 1; Chen et al., arXiv 2302.01318, theorem 1 (exact). Tian et al., *Llasa+*, arXiv 2508.06262
    (top-k): there the end marker too is looked for among likely ids, here it is verified exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llasa.engines.drawing import pick
from llasa.errors import ConfigError

# As in ASLP-lab/LLaSA_Plus; the paper's tables have 100 and 500 of 65,537 ids.
TOP_K = 50
# Live rows up to which a pass is hardly dearer than for one. Measured, one core, 1B in bfloat16: a pass takes
# 1.33 times as long as a plain step with 1 row, 1.29 with 2 and with 4, 1.48 with 8 (docs/acceleration.md).
ROWS = 4


@dataclass(frozen=True)
class Verification:
    """How guesses are held against the model.

    top_k: None is exact: rejection sampling, and what is drawn has the distribution of plain sampling.
    Otherwise a guess holds if it is among so many likeliest ids: published, and another distribution.
    rows: with more live rows there is no guessing.
    """

    top_k: int | None = None
    rows: int = ROWS

    @property
    def name(self) -> str:
        """How `rule_of` is told of it."""
        return "exact" if self.top_k is None else f"top-k={self.top_k}"


def rule_of(how: str) -> Verification:
    """Return what is written as `exact`, `top-k`, which takes `TOP_K`, or `top-k=100`.

    Raises:
        ConfigError: it is none of them.
    """
    name, equals, number = how.partition("=")
    if name == "top-k" and (not equals or (number.isascii() and number.isdigit() and 0 < len(number) < 10)):
        top_k = int(number) if equals else TOP_K
        if top_k:
            return Verification(top_k)
    elif how == "exact":
        return Verification()
    raise ConfigError(f"Choosing how guesses are verified: found '{how}'. Use exact, top-k or top-k=100.")


@dataclass(frozen=True)
class Guess:
    """What is guessed of a row: K ids, their columns, and what they were drawn from: distributions [K, A]."""

    ids: list[int]
    columns: list[int]
    shares: Tensor


def verified(
    logits: Tensor, true: Tensor, guess: tuple[Tensor, Tensor], stops: Tensor, coins: Tensor, uniform: Tensor,
    top_k: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return how many guesses of each row hold, and the column drawn after them, both [B].

    Args:
        logits: [B, S, A]. true: the distributions that plain sampling would draw from, [B, S, A].
        guess: columns [B, K], and the distributions they were drawn from, [B, K, A]; all zeros guess nothing.
        stops: which columns are stop ids, bool [B, A].
        coins, uniform: float64 [B, K] and [B, S] in [0, 1), of no one place twice.
    """
    columns, shares = guess[0][..., None], guess[1]
    count = columns.shape[1]
    odds = shares.gather(-1, columns)[..., 0]
    made = odds > 0
    holds = (coins * odds < true[:, :count].gather(-1, columns)[..., 0]) & made
    guessed, ends = shares, torch.zeros_like(holds)
    if top_k is not None:
        told = logits[:, :count]
        likely = (told > told.gather(-1, columns)).sum(-1) < top_k
        # Whether it ends is drawn exactly, as of a coin with two sides; which code it is, is not.
        own = stops.gather(-1, guess[0])
        sides = [(one * stops[:, None]).sum(-1) for one in (shares, true[:, :count])]
        guessed_odds, true_odds = (torch.where(own, one, 1 - one) for one in sides)
        fair = coins * guessed_odds < true_odds
        holds, ends = fair & (own | likely) & made, own == fair
        guessed = torch.zeros_like(shares)
    held = holds.long().cumprod(-1).sum(-1)
    rows = torch.arange(len(held), device=held.device)
    # Behind the last guess nothing was guessed: nothing is subtracted.
    guessed = torch.cat([guessed, shares.new_zeros(len(held), 1, shares.shape[-1])], 1)
    there = true[rows, held]
    left = (there - guessed[rows, held]).clamp(min=0)
    if top_k is not None:
        none = made.new_zeros(len(held), 1)
        failed, over = (torch.cat([one, none], 1)[rows, held, None] for one in (made, ends))
        left = torch.where(failed & (stops != over), 0, left)
    # Rounding can reject where nothing is left: then both distributions are one.
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, there)
    return held, pick(left, uniform.gather(-1, held[:, None])[:, 0])
