"""Measures of many sentences: rates, means, trends over length, intervals, paired changes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.errors import InputError
from llasa.metrics import (
    bootstrap,
    error_rate,
    paired,
    permutation_test,
    span,
    trend,
    trend_estimate,
    trend_test,
)

COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1, max_size=30)


def mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def rate(rows: np.ndarray) -> float:
    return error_rate(rows[:, 0], rows[:, 1])


def test_error_rate_is_errors_over_tokens() -> None:
    assert error_rate([1, 0, 3], [2, 8, 10]) == pytest.approx(4 / 20)
    assert error_rate([30, 0], [10, 10]) == 1.5
    assert error_rate([30, 0], [10, 10], most=1.0) == 0.5


@given(COUNTS)
def test_a_bad_sentence_counts_as_all_tokens_wrong(counts: list[tuple[int, int]]) -> None:
    errors, tokens = np.array(counts, float).T
    errors[0] = math.nan
    told = errors.copy()
    told[0] = tokens[0]
    assert error_rate(errors, tokens) == pytest.approx(error_rate(told, tokens))


@given(COUNTS)
def test_error_rate_lies_between_those_of_its_halves(counts: list[tuple[int, int]]) -> None:
    errors, tokens = np.array(counts + counts[::-1], float).T
    halves = [half for half in (slice(0, 3), slice(3, None)) if len(errors[half])]
    parts = [error_rate(errors[half], tokens[half]) for half in halves]
    assert min(parts) - 1e-9 <= error_rate(errors, tokens) <= max(parts) + 1e-9
    assert 0 <= error_rate(errors, tokens, most=1.0) <= min(1.0, error_rate(errors, tokens) + 1e-9)


@pytest.mark.parametrize("errors, tokens", [([], []), ([1], [0]), ([1], [1, 2])])
def test_what_is_no_sentence_is_refused(errors: list[int], tokens: list[int]) -> None:
    with pytest.raises(InputError, match="Counting errors"):
        error_rate(errors, tokens)


@given(st.floats(-0.3, 0.5), st.floats(2, 20))
@settings(max_examples=30)
def test_trend_finds_the_change_from_short_to_long(change: float, at: float) -> None:
    lengths = np.arange(3.0, 43.0)
    short, long = span(lengths)
    rates = at * (1 + change) ** ((lengths - short) / (long - short))
    assert trend(lengths, rates) == pytest.approx(change, abs=1e-6)
    rates[::5] = math.nan  # what could not be measured changes nothing
    rates[1::9] *= 3  # nor do a few outliers turn the line
    assert trend(lengths, rates) == pytest.approx(change, abs=0.08)


def test_trend_of_one_length_is_unknown() -> None:
    assert math.isnan(trend([5, 5, 5], [1, 2, 3]))
    assert math.isnan(trend([5, 6], [1, math.nan]))


def test_trend_of_a_ratio_tells_the_difference() -> None:
    random = np.random.default_rng(0)
    lengths = np.linspace(10, 200, 60)
    before = 12 * np.exp(random.normal(0, 0.1, 60))
    after = before * 1.1 ** (lengths / 190) * np.exp(random.normal(0, 0.03, 60))
    found = trend_estimate(lengths, after / before)
    assert found.low < 0.09 < found.high and found.low > 0.04
    assert trend_estimate(lengths, before).low < 0 < trend_estimate(lengths, before).high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(80):
        rows = np.random.default_rng(seed).normal(1.0, 1.0, 40)
        found = bootstrap(mean, rows, draws=100, seed=seed)
        assert found.low <= found.value <= found.high
        held += found.low <= 1.0 <= found.high
    assert 0.84 <= held / 80 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = np.random.default_rng(1).normal(size=(20, 2)) ** 2 + 0.1
    assert bootstrap(rate, rows) == bootstrap(rate, rows)
    assert bootstrap(rate, rows) != bootstrap(rate, rows, seed=1)


def test_takes_of_one_text_are_drawn_together() -> None:
    texts = np.random.default_rng(2).normal(size=12)
    rows, groups = np.repeat(texts, 4), np.repeat(np.arange(12), 4).tolist()
    alone, together = bootstrap(mean, rows), bootstrap(mean, rows, groups)
    once = bootstrap(mean, texts)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    with pytest.raises(InputError, match="groups"):
        bootstrap(mean, rows, groups[:-1])


def test_pairs_hide_no_small_change_behind_large_differences() -> None:
    random = np.random.default_rng(3)
    before = random.normal(0, 5, 50)
    after = before + 0.5 + random.normal(0, 0.3, 50)
    found = paired(mean, before, after)
    assert found.low > 0.35 and found.high < 0.65
    assert permutation_test(mean, before, after, draws=500) < 0.01
    shuffled = before + random.choice([-1, 1], 50) * 0.5
    assert permutation_test(mean, before, shuffled, draws=500) > 0.05
    with pytest.raises(InputError, match="same sentences"):
        paired(mean, before, after[:-1])


def test_a_test_of_nothing_is_rarely_sure() -> None:
    sure = 0
    for seed in range(40):
        before, after = np.random.default_rng(seed).normal(size=(2, 25))
        sure += permutation_test(mean, before, after, draws=100, seed=seed) < 0.1
    assert sure <= 10  # of 40, 4 expected


def test_a_test_of_few_is_exact() -> None:
    """Chance must not decide whether 4 of 64 ways are below 0.05."""
    change = np.array([5, 4, 3, 3, 2, 1.0])
    assert permutation_test(np.mean, np.zeros(6), change, draws=1000) == 2 / 64
    change[-1] = 0
    assert permutation_test(np.mean, np.zeros(6), change, draws=1000) == 4 / 64
    assert permutation_test(np.mean, np.zeros(99), np.ones(99), draws=99) == 1 / 100  # not all ways of many


def test_a_trend_of_few_or_of_noise_is_rarely_sure() -> None:
    lengths = np.arange(12.0)
    assert trend_test(lengths, np.exp(0.01 * lengths)) < 0.01
    # Of four texts, two of the 24 orders are as strong as a perfect one; that takes repeat them adds nothing.
    assert trend_test([1, 2, 3, 4], [1, 2, 3, 4]) == 2 / 24
    groups = np.repeat(["a", "b", "c", "d"], 3)
    assert trend_test(np.repeat([1, 2, 3, 4], 3), np.repeat([1, 2, 3, 4], 3), groups) == 2 / 24
    # What is no rate is left out, as of the trend.
    odd = trend_test([1, 2, 3, 4, 5, 6], [1, 2, math.nan, 3, 0, 4])
    assert odd == 2 / 24 and trend_test([1, 2], [1, math.nan]) == 1.0
    random = np.random.default_rng(5)
    found = [trend_test(lengths, np.exp(random.normal(size=12)), draws=200) for _ in range(100)]
    assert np.mean(np.array(found) < 0.05) < 0.12


def test_no_rows_are_refused() -> None:
    with pytest.raises(InputError, match="no row"):
        bootstrap(mean, [])
