"""Rows of unlike lengths, in batches of alike ones. Knows no network."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_WASTE = 1.2  # the longest row of a batch against the shortest


def alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield positions of rows that may share a batch, each position once; empty rows in none.

    A row is then padded by little, and a batch stays in the processor's cache.

    Args:
        lengths: of the rows.
        most: rows times longest row in a batch; a row longer than that is alone.
    """
    group: list[int] = []
    for position in sorted((n for n in range(len(lengths)) if lengths[n]), key=lambda n: lengths[n]):
        longest = lengths[position]  # so far, and of the group if it joins
        if group and ((len(group) + 1) * longest > most or longest > _WASTE * lengths[group[0]]):
            yield group
            group = []
        group.append(position)
    if group:
        yield group


def mask_of(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor | None:
    """Return [B, N], 1 where a row is and 0 where it is padded; None if no row is padded."""
    if min(lengths) == max(lengths):
        return None
    places = torch.arange(max(lengths), device=device)
    return (places < torch.tensor(lengths, device=device)[:, None]).float()
