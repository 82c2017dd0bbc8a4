"""What is kept of prompts: the right past, no more ids than agreed, and those used last."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.core import Ids
from llasa.engines.prefixes import Past, Prefixes

BLOCK = 4


def past(ids: Ids) -> Past:
    """Return a past of two layers in which each id tells all ids up to it, as in a model."""
    told = torch.tensor([hash(tuple(ids[: i + 1])) % 2**20 for i in range(len(ids))])
    keys = told[None, None, :, None].expand(1, 3, len(ids), 2)
    return [(keys, -keys), (keys + 1, -keys - 1)]


def equal(one: Past, other: Past) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), max_size=12), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_what_is_found_is_the_past_of_the_first_ids(prompts: list[Ids], limit: int) -> None:
    prefixes = Prefixes(BLOCK, limit)
    for ids in prompts:
        found, length = prefixes.find(ids)
        assert length == len(ids) or length % BLOCK == 0
        assert equal(found, past(ids[:length]) if length else [])
        prefixes.keep(ids, past(ids))
        assert prefixes.size <= limit
        assert prefixes.find(ids)[1] == len(ids) or len(ids) > limit


@given(st.integers(0, 40), st.integers(0, 5))
def test_blocks_end_at_fixed_places_wherever_reading_starts(length: int, read: int) -> None:
    prefixes = Prefixes(BLOCK, 0)
    whole = prefixes.blocks(length)
    start = min(read * BLOCK, length)
    assert prefixes.blocks(length, start) == [block for block in whole if block[0] >= start]
    assert [end - start for start, end in whole[:-1]] == [BLOCK] * max(0, len(whole) - 1)
    assert [i for start, end in whole for i in range(start, end)] == list(range(length))


def test_blocks_are_shared_and_the_longest_unused_goes_first() -> None:
    prefixes = Prefixes(BLOCK, 16)
    shared, one, two, three = [1] * 8, [2] * 4, [3] * 4, [4] * 4
    for end in (one, two):
        prefixes.keep(shared + end, past(shared + end))
    assert prefixes.size == 16
    prefixes.keep(shared + one, past(shared + one))
    prefixes.keep(shared + three, past(shared + three))
    assert [prefixes.find(shared + end)[1] for end in (one, two, three)] == [12, 8, 12]
    assert prefixes.find(shared[:5])[1] == 4


def test_nothing_is_left_after_clearing() -> None:
    prefixes = Prefixes(BLOCK, 16)
    prefixes.keep([1, 2, 3], past([1, 2, 3]))
    prefixes.clear()
    assert (prefixes.find([1, 2, 3]), prefixes.size) == (([], 0), 0)


def test_readers_do_not_share() -> None:
    prefixes = Prefixes(BLOCK, 16)
    ids = [1, 2, 3, 4, 5]
    prefixes.keep(ids, past(ids), reader=1)
    assert [prefixes.find(ids, reader)[1] for reader in (None, 0, 1)] == [0, 0, 5]
    prefixes.keep(ids, past([9, *ids[1:]]))
    assert equal(prefixes.find(ids, 1)[0], past(ids))
    assert prefixes.size == 10
