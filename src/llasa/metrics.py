"""Measures of many sentences at once, with intervals: error rates, trends over length, paired changes.

Needs numpy only. Must not know: scorers, recognisers, how anything was spoken.
Shapes: S sentences said, K columns of what was measured of each; a statistic turns [S, K] into a number.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike

from llasa.errors import InputError

Statistic = Callable[[np.ndarray], float]
Groups = Sequence[Hashable]

CONFIDENCE = 0.95
DRAWS = 1000
SHORT, LONG = 5, 95  # percentiles of length that a trend is told between


@dataclass(frozen=True)
class Estimate:
    """A measure of a sample, and the interval in which that of all such sentences likely lies."""

    value: float
    low: float
    high: float


def error_rate(errors: ArrayLike, tokens: ArrayLike, most: float = math.inf) -> float:
    """Return all errors over all tokens to be said: a long sentence counts for more than a short one.

    Args:
        errors: [S], changed, missing and added tokens of each sentence. NaN: nothing was said that could be
            heard, and all its tokens count as wrong.
        tokens: [S], to be said, above 0.
        most: errors a token that one sentence counts for at most. Infinite is the usual rate; with 1, a
            sentence that goes round in circles is as bad as one that was not said, and no worse.

    Raises:
        InputError: there is no sentence, one without tokens, or the two differ in length.
    """
    wrong, wanted = _columns("Counting errors", errors, tokens)
    if (wanted <= 0).any():
        raise InputError("Counting errors: found a sentence without tokens. Leave it out.")
    return float(np.minimum(np.where(np.isnan(wrong), wanted, wrong), most * wanted).sum() / wanted.sum())


def trend(lengths: ArrayLike, rates: ArrayLike, ends: tuple[float, float] | None = None) -> float:
    """Return by what share a rate changes from short texts to long ones: 0.05 is 5 % faster.

    A line through the logarithms of the rates, which no few outliers can turn; what is no number is left
    out. NaN where fewer than two lengths are left.

    Args:
        lengths, rates: [S], rates above 0.
        ends: the two lengths; the 5th and the 95th percentile of those given if None.

    Source: the line is of H. Theil (1950) and P. K. Sen (1968), the median slope of all pairs.
    """
    along, said = _columns("Finding a trend", lengths, rates)
    known = _known(along, said)
    short, long = ends or span(along)
    along, logs = along[known], np.log(said[known])
    first, second = np.triu_indices(len(along), 1)
    run = along[second] - along[first]
    apart = run != 0
    if not apart.any():
        return math.nan
    slope = np.median((logs[second] - logs[first])[apart] / run[apart])
    return float(np.expm1(slope * (long - short)))


def _known(lengths: np.ndarray, rates: np.ndarray) -> np.ndarray:
    return np.isfinite(lengths) & np.isfinite(rates) & (rates > 0)


def span(lengths: ArrayLike) -> tuple[float, float]:
    """Return the 5th and the 95th percentile of lengths [S]."""
    short, long = np.percentile(np.asarray(lengths, float), (SHORT, LONG))
    return float(short), float(long)


def trend_estimate(
    lengths: ArrayLike, rates: ArrayLike, groups: Groups | None = None, confidence: float = CONFIDENCE
) -> Estimate:
    """Return `trend` with its interval; of the ratio of two rates it tells how the one's trend differs."""
    along, said = _columns("Finding a trend", lengths, rates)
    ends = span(along)
    rows = np.stack([along, said], axis=1)
    return bootstrap(lambda some: trend(some[:, 0], some[:, 1], ends), rows, groups, confidence)


def trend_test(
    lengths: ArrayLike, rates: ArrayLike, groups: Groups | None = None, draws: int = DRAWS, seed: int = 0
) -> float:
    """Return how likely a trend this strong is, either way, if rates do not depend on length: a p-value.

    Counted are the pairs that rise less those that fall; lengths are dealt out anew, one a group, in every
    way there is, if these are no more than `draws`, else at random. What is no number is left out.

    Source: M. G. Kendall, *A new measure of rank correlation* (1938), the test that belongs to Sen's line.
    """
    along, said = _columns("Finding a trend", lengths, rates)
    known = _known(along, said)
    groups_of = _owners(along, groups)[known]
    _, firsts, owners = np.unique(groups_of, return_index=True, return_inverse=True)
    own, rises = along[known][firsts], _signs(said[known])

    def strength(order: Sequence[int] | np.ndarray) -> float:
        return abs(float(np.vdot(_signs(own[order][owners]), rises)))

    seen = strength(range(len(own)))
    return float(np.mean([strength(order) >= seen for order in _orders(len(own), draws, seed)]))


def _orders(count: int, draws: int, seed: int) -> Iterator[Sequence[int] | np.ndarray]:
    """Yield the orders of so many things: all, or that as it is and others at random."""
    if math.factorial(count) <= draws:
        yield from map(list, permutations(range(count)))
        return
    random = np.random.default_rng(seed)
    yield range(count)
    yield from (random.permutation(count) for _ in range(draws))


def _signs(values: np.ndarray) -> np.ndarray:
    """Return of each pair whether it rises (1), falls (-1) or neither [S, S]."""
    return np.sign(values[:, None] - values, dtype=np.float32)


def bootstrap(
    statistic: Statistic,
    rows: ArrayLike,
    groups: Groups | None = None,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return a statistic with the interval of it over samples drawn from the sample.

    Args:
        statistic: of rows [S, K]; where it is NaN of a drawn sample, that sample is left out.
        rows: [S, K].
        groups: [S]; rows of one group, such as takes of one text, are drawn together. Each its own if None.
        confidence: share of the drawn samples that the interval holds.

    Raises:
        InputError: there is no row, or not one group a row.

    Source: B. Efron, *Bootstrap methods* (1979), the percentile interval.
    """
    table = _table(rows)
    found = [statistic(table[places]) for places in _drawn(table, groups, draws, seed)]
    return _estimate(statistic(table), found, confidence)


def paired(
    statistic: Statistic,
    before: ArrayLike,
    after: ArrayLike,
    groups: Groups | None = None,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Return by how much a statistic grew, with its interval; both sides are drawn together.

    Args:
        before, after: [S, K], the same sentences in the same order. For the rest see `bootstrap`.

    Raises:
        InputError: as `bootstrap`, or the two differ in shape.
    """
    old, new = _alike(before, after)
    found = [statistic(new[places]) - statistic(old[places]) for places in _drawn(old, groups, draws, seed)]
    return _estimate(statistic(new) - statistic(old), found, confidence)


def permutation_test(
    statistic: Statistic,
    before: ArrayLike,
    after: ArrayLike,
    groups: Groups | None = None,
    draws: int = 10 * DRAWS,
    seed: int = 0,
) -> float:
    """Return how likely a change this large is, either way, if the two sides do not differ: a p-value.

    Each sentence's two sides are swapped or not: in every way there is, if these are no more than `draws`,
    else at random. Arguments and errors as for `paired`.

    Source: R. A. Fisher, *The design of experiments* (1935); E. W. Noreen (1989) for error rates.
    """
    old, new = _alike(before, after)
    owners = _owners(old, groups)
    least = abs(statistic(new) - statistic(old)) - 1e-12

    def as_large(swaps: np.ndarray) -> bool:
        swapped = swaps[owners][:, None]
        change = statistic(np.where(swapped, old, new)) - statistic(np.where(swapped, new, old))
        return abs(change) >= least

    return float(np.mean([as_large(swaps) for swaps in _swaps(int(owners.max()) + 1, draws, seed)]))


def _swaps(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield which groups are swapped; that none is, as it was found, is one of the ways."""
    if 2**count <= draws:
        yield from (np.array(swaps) for swaps in product((False, True), repeat=count))
        return
    random = np.random.default_rng(seed)
    yield np.zeros(count, bool)
    yield from (random.random(count) < 0.5 for _ in range(draws))


def _drawn(table: np.ndarray, groups: Groups | None, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the places of the rows of each drawn sample."""
    owners = _owners(table, groups)
    members = np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners))[:-1])
    random, alone = np.random.default_rng(seed), len(members) == len(table)
    for _ in range(draws):
        chosen = random.integers(0, len(members), len(members))
        yield chosen if alone else np.concatenate([members[number] for number in chosen])


def _owners(table: np.ndarray, groups: Groups | None) -> np.ndarray:
    """Return the number of each row's group [S], from 0."""
    if groups is None:
        return np.arange(len(table))
    if len(groups) != len(table):
        found = f"{len(groups)} groups for {len(table)} rows"
        raise InputError(f"Drawing samples: found {found}. Name one group a row.")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups])


def _estimate(value: float, found: Sequence[float], confidence: float) -> Estimate:
    known = np.array([one for one in found if math.isfinite(one)])
    if not len(known):
        return Estimate(value, math.nan, math.nan)
    low, high = np.percentile(known, (50 - 50 * confidence, 50 + 50 * confidence))
    return Estimate(float(value), float(low), float(high))


def _table(rows: ArrayLike) -> np.ndarray:
    table = np.asarray(rows, float)
    table = table[:, None] if table.ndim == 1 else table
    if not len(table):
        raise InputError("Drawing samples: found no row. Give at least one.")
    return table


def _alike(before: ArrayLike, after: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    old, new = _table(before), _table(after)
    if old.shape != new.shape:
        found = f"{old.shape} and {new.shape}"
        raise InputError(f"Comparing pairs: found tables of {found}. Give the same sentences on both sides.")
    return old, new


def _columns(doing: str, first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise InputError(f"{doing}: found columns of {one.shape} and {other.shape}. Give two of one length.")
    return one, other
