"""The sampler against exact distributions, its random stream, and the loop guard against its definition."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from llasa.core import SamplingParams
from llasa.engines.drawing import Settings, _near_the_top, _Rows, _thresholds, draw, penalise
from llasa.engines.sampling import LoopGuard, LoopWatch, check, check_prompt, stream_key, uniforms
from llasa.errors import ConfigError, EngineError, InputError

CPU = torch.device("cpu")
LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.1, 0.0, 1.4, -3.0, 0.9])
DRAWS = 20_000


def drawn(logits: torch.Tensor, params: SamplingParams, uniform: np.ndarray) -> np.ndarray:
    """Return one draw for each uniform number, all from the same logits."""
    rows = logits.expand(len(uniform), -1)
    return draw(rows, Settings.of([params] * len(uniform), CPU), torch.from_numpy(uniform)).numpy()


def along_positions(seed: int) -> np.ndarray:
    return uniforms(np.full(DRAWS, stream_key(seed, 0), np.uint64), np.arange(DRAWS))


def exact(params: SamplingParams) -> np.ndarray:
    """Return the distribution by its textbook definition, one id after the other."""
    probs = torch.softmax(LOGITS.double() / params.temperature, -1).numpy()
    order = np.argsort(-probs)
    keep = list(order[: params.top_k or len(order)])
    mass, nucleus = probs[keep].sum(), []
    for token_id in keep:
        nucleus.append(token_id)
        if probs[nucleus].sum() >= params.top_p * mass:
            break
    support = np.zeros_like(probs)
    support[nucleus] = probs[nucleus]
    return support / support.sum()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=1.7, top_k=3),
        SamplingParams(temperature=1.0, top_p=0.7),
        SamplingParams(temperature=1.0, top_k=5, top_p=0.9),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_follow_the_exact_distribution(params: SamplingParams, seed: int) -> None:
    counts = np.bincount(drawn(LOGITS, params, along_positions(seed)), minlength=8)
    expected = exact(params) * DRAWS
    assert counts[expected == 0].sum() == 0
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_candidates_and_seeds_follow_the_exact_distribution() -> None:
    for keys in ([stream_key(3, i) for i in range(4000)], [stream_key(i, 2) for i in range(4000)]):
        uniform = uniforms(np.array(keys, np.uint64), np.full(4000, 17))
        counts = np.bincount(drawn(LOGITS, SamplingParams(temperature=1.0), uniform), minlength=8)
        assert chisquare(counts, exact(SamplingParams(temperature=1.0)) * 4000).pvalue > 1e-3


def test_neighbouring_streams_are_not_correlated() -> None:
    streams = [
        uniforms(np.full(5000, stream_key(seed, candidate), np.uint64), np.arange(5000))
        for seed in (0, 1)
        for candidate in (0, 1)
    ]
    correlation = np.corrcoef([*streams, np.roll(streams[0], 1)]) - np.eye(5)
    assert np.abs(correlation).max() < 0.06
    assert np.min(streams) >= 0 and np.max(streams) < 1


def test_stream_is_a_function_of_seed_candidate_and_position() -> None:
    keys = np.array([stream_key(-5, 1), stream_key(2**70 + 3, 0)], np.uint64)
    both = uniforms(keys, np.array([9, 4]))
    assert both[1] == uniforms(keys[1:], np.array([4]))[0]
    assert len({stream_key(seed, i) for seed in range(50) for i in range(50)}) == 2500


@pytest.mark.parametrize("width", [8, 4000])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 0.5), (0, 0.01), (3, 0.99), (0.5, 1.0), (0.9, 0.9), (0, 1.0)]
)
def test_supports_of_top_k_and_top_p_within_and_beyond_the_head_of_the_ranking(
    width: int, top_k: float, top_p: float
) -> None:
    torch.manual_seed(0)
    probs = torch.softmax(torch.randn(width) * 0.1, -1)
    limit = int(top_k * width) if top_k < 1 else int(top_k)
    row = SamplingParams(top_k=limit, top_p=top_p)
    threshold = _thresholds(probs[None], Settings.of([row], CPU))
    ranked = probs.double().sort(descending=True).values[: limit or width]
    nucleus = int((ranked.cumsum(0) < top_p * ranked.sum()).sum()) + 1
    assert int((probs >= threshold).sum()) == min(nucleus, limit or width)


def plainly(logits: torch.Tensor, row: SamplingParams, uniform: float) -> int:
    """Return the column drawn by the definition: everything sorted, everything summed."""
    weights = ((logits - logits.max()) / row.temperature).exp()
    ranked = weights.double().sort(descending=True).values[: row.top_k or len(weights)]
    count = int((ranked.cumsum(0) < row.top_p * ranked.sum()).sum()) + 1 if row.top_p < 1 else len(ranked)
    kept = torch.where(weights >= ranked[count - 1], weights.double(), 0.0).cumsum(0)
    return int(torch.searchsorted(kept, uniform * kept[-1], right=True))


WIDE = 65_537
PUBLISHED = [
    SamplingParams(temperature=0.8),
    SamplingParams(temperature=0.8, top_k=50),
    SamplingParams(temperature=1.0, top_k=300, top_p=0.9),
    SamplingParams(temperature=0.8, top_p=0.95),
]


@pytest.mark.parametrize("shape", ["peaked", "flat", "tied", "sloping"])
@pytest.mark.parametrize("params", PUBLISHED)
def test_over_a_published_vocabulary_draws_equal_the_definition(params: SamplingParams, shape: str) -> None:
    noise = torch.randn(6, WIDE, generator=torch.Generator().manual_seed(4))
    logits = {
        "peaked": 6 * noise, "flat": 0.1 * noise, "tied": (2 * noise).round(),
        "sloping": noise + torch.arange(WIDE) / 2000,  # the likeliest side by side, and at the end
    }[shape]  # fmt: skip
    uniform = torch.linspace(0, 1 - 2.0**-52, 6, dtype=torch.float64)
    found = draw(logits, Settings.of([params] * 6, CPU), uniform).tolist()
    assert found == [plainly(row, params, u) for row, u in zip(logits, uniform.tolist(), strict=True)]


def test_the_few_blocks_looked_into_hold_all_that_truncation_leaves() -> None:
    noise = torch.randn(8, WIDE, generator=torch.Generator().manual_seed(5))
    rows = _Rows(8 * noise, 8 * noise.amax(-1, keepdim=True), torch.ones(8, 1))
    weights = rows.all()
    proved = 0
    for params in PUBLISHED[1:]:
        settings_ = Settings.of([params] * 8, CPU)
        if (near := _near_the_top(rows, weights, settings_)) is not None:
            kept, columns = near
            expected = weights.masked_fill(weights < _thresholds(weights, settings_)[:, None], 0)
            assert torch.equal(torch.zeros_like(weights).scatter(-1, columns, kept), expected)
            proved += 1
    assert proved == 3


def test_a_wide_vocabulary_is_drawn_from_as_its_distribution_says() -> None:
    # Forty ids at the edges of blocks have nearly all the mass.
    at = [*range(0, 64 * 30, 64), *range(63, 64 * 10, 64)]
    logits = torch.full((WIDE,), -30.0)
    logits[at] = torch.linspace(0, 2, 40)
    for params in (SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_k=40)):
        rows = [drawn(logits, params, part) for part in np.split(along_positions(6)[:4000], 40)]
        found, counts = np.unique(np.concatenate(rows), return_counts=True)
        assert set(found) == set(at)
        expected = torch.softmax(logits[sorted(at)].double(), -1).numpy() * 4000
        assert chisquare(counts, expected).pvalue > 1e-3


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=2, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_row_does_not_depend_on_its_neighbours(values: list[float], data: st.DataObject) -> None:
    some = st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.3, 1.0]),
        top_k=st.integers(0, 7),
        top_p=st.sampled_from([1.0, 0.9, 0.2]),
    )
    rows = data.draw(st.lists(some, min_size=2, max_size=5))
    logits = torch.tensor(values).expand(len(rows), -1)
    uniform = torch.linspace(0, 0.99, len(rows), dtype=torch.float64)
    together = draw(logits, Settings.of(rows, CPU), uniform).tolist()
    alone = [
        draw(logits[i : i + 1], Settings.of([row], CPU), uniform[i : i + 1]).item()
        for i, row in enumerate(rows)
    ]
    assert together == alone


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [5.0, -torch.inf, 0.0]])
    params = [SamplingParams(temperature=0), SamplingParams(temperature=0)]
    assert draw(logits, Settings.of(params, CPU), torch.tensor([0.9, 0.9])).tolist() == [1, 0]


def test_forbidden_ids_are_never_drawn_at_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    ends = np.array([0.0, 0.5, 1 - 2.0**-52])
    assert drawn(logits, SamplingParams(temperature=1e-6), ends).tolist() == [1, 3, 3]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        drawn(torch.tensor([0.0, bad]), SamplingParams(temperature=temperature), np.array([0.5]))


def test_penalty_lowers_seen_ids_of_either_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0], [2.0, -2.0, 2.0]])
    seen = torch.tensor([[True, True, False], [True, False, False]])
    found = penalise(logits, seen, torch.tensor([2.0, 1.0]))
    assert found.tolist() == [[1.0, -4.0, 2.0], [2.0, -2.0, 2.0]]


def test_refusal_names_field_value_and_range() -> None:
    with pytest.raises(ConfigError, match=r"top_p is 1\.5\. Set it to a number in \(0, 1\]"):
        check(SamplingParams(top_p=1.5), 10)
    with pytest.raises(ConfigError, match="every allowed id is a stop id"):
        check(SamplingParams(allowed_token_ids=(3, 3), stop_token_ids=(3,)), 10)
    with pytest.raises(ConfigError, match=r"adapter is 'c'\. Set it to None or one of: a, b"):
        check(SamplingParams(adapter="c"), 10, ["b", "a"])
    with pytest.raises(ConfigError, match="this engine has no adapters"):
        check(SamplingParams(adapter="c"), 10)
    check(SamplingParams(adapter="b"), 10, ["b", "a"])
    with pytest.raises(ConfigError, match="min_repeats"):
        LoopGuard(min_repeats=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 2**31}, {"top_k": 2.5}, {"seed": 1.5}, {"seed": np.int64(3)}, {"n": 2.5}, {"first": 0.5},
        {"max_tokens": 9.5}, {"min_tokens": 0.5}, {"temperature": 1e39}, {"temperature": 1e-46},
        {"temperature": float("nan")}, {"repetition_penalty": 1e39}, {"repetition_penalty": 1e-46},
        {"stop_token_ids": (3.0,)}, {"allowed_token_ids": (True, 2)},
    ],
)  # fmt: skip
def test_what_the_step_loop_could_not_compute_with_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is "):
        check(SamplingParams(**wrong), 10)


def test_no_id_to_draw_but_stop_ids_is_refused_also_without_allowed_ids() -> None:
    with pytest.raises(ConfigError, match="every allowed id is a stop id"):
        check(SamplingParams(stop_token_ids=(0, 1, 2)), 3)


def test_extremes_that_are_taken_draw_something() -> None:
    for temperature in (1e-30, 1e30):
        check(params := SamplingParams(temperature=temperature), 8)
        assert set(drawn(LOGITS, params, np.array([0.0, 0.5]))) <= set(range(8))
    for penalty in (1e-30, 1e30):
        check(SamplingParams(repetition_penalty=penalty), 8)
        penalised = penalise(1e8 * LOGITS[None], torch.ones(1, 8, dtype=torch.bool), torch.tensor([penalty]))
        assert penalised.isfinite().all()


@pytest.mark.parametrize("prompt", [[], [1] * 9, [10], [-1], [1.0], [True], ["a"]])
def test_prompts_that_an_engine_cannot_go_on_from_are_refused(prompt: list) -> None:
    with pytest.raises(InputError, match="Starting a generation: the prompt"):
        check_prompt(prompt, 10, 9)
    check_prompt([1, np.int64(9)], 10, 9)


def surplus(guard: LoopGuard, ids: Sequence[int]) -> int:
    """Return what `LoopWatch.push` should say after all ids, straight from the definition."""
    for period in range(1, guard.max_period + 1):
        span = period
        while span < len(ids) and ids[-1 - span + period] == ids[-1 - span]:
            span += 1
        if span > period and span >= max(guard.min_span, guard.min_repeats * period):
            return span - period
    return 0


@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_loop_guard_equals_its_definition(head: list[int], cycle: list[int], turns: int) -> None:
    guard = LoopGuard(min_repeats=3, min_span=8, max_period=4)
    watch, ids = LoopWatch(guard), head + cycle * turns
    for count, token_id in enumerate(ids, start=1):
        assert watch.push(token_id) == surplus(guard, ids[:count])


@pytest.mark.parametrize(("period", "drawn_before"), [(1, 64), (5, 64), (16, 64), (32, 128)])
def test_default_guard_leaves_a_second_of_one_code_alone(period: int, drawn_before: int) -> None:
    watch = LoopWatch(LoopGuard())
    hits = [watch.push(position % period) for position in range(200)]
    first = next(i for i, hit in enumerate(hits) if hit)
    assert first + 1 == drawn_before
    assert hits[first] == drawn_before - period
