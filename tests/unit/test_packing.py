"""Batches: what is drawn when, how rows are put together, and that rows do not see each other."""

import numpy as np
import pytest

from llasa.data.packing import Order, cut, padded, waste
from llasa.errors import ConfigError

LENGTHS = np.random.default_rng(0).integers(340, 560, 5000)  # 6-10 s at 50 codes a second, with their text


def order(lengths=LENGTHS, tokens=8192, weights=None, seed=3) -> Order:
    return Order(lengths, tokens, np.ones(len(lengths)) if weights is None else weights, seed)


def test_every_row_is_in_an_epoch_once():
    made = order()
    rows = np.concatenate([made.rows(0, window) for window in range(made.windows)])
    assert sorted(rows) == list(range(len(LENGTHS)))


def test_epochs_differ_and_repeat_exactly():
    assert not np.array_equal(order().rows(0, 1), order().rows(1, 1))
    assert np.array_equal(order().rows(1, 1), order().rows(1, 1))
    assert not np.array_equal(order().rows(1, 1), order(seed=4).rows(1, 1))


def test_weights_say_how_often_a_row_is_drawn():
    weights = np.repeat([0.0, 0.5, 2.0], 1000)
    made = order(LENGTHS[:3000], weights=weights)
    counts = np.bincount(np.concatenate([made.rows(0, w) for w in range(made.windows)]), minlength=3000)
    assert counts[:1000].sum() == 0 and 400 < counts[1000:2000].sum() < 600
    assert set(counts[1000:2000]) == {0, 1} and set(counts[2000:]) == {2}


def test_a_place_leads_to_its_window_and_back():
    made = order()
    places = [made.place(i) for i in range(2 * made.epoch)]
    assert places[0] == (0, 0, 0) and places[made.epoch] == (1, 0, 0)
    assert places[made.epoch - 1] == (0, made.windows - 1, made.batches - 1)


def test_padding_is_below_three_percent_and_batches_are_of_the_budget():
    made, random = order(), np.random.default_rng(0)
    lengths = [
        [[int(LENGTHS[rows[i]]) for i in batch] for batch in cut(LENGTHS[rows], made.batches, random)]
        for rows in (made.rows(0, window) for window in range(made.windows))
    ]
    batches = [batch for window in lengths for batch in window]
    assert waste(batches) < 0.03
    assert all(0.8 * 8192 < max(b) * len(b) < 1.25 * 8192 for b in batches)


@pytest.mark.parametrize("lengths", [[5], [900, 1, 1], [1, 900, 1, 1], [3] * 40, [1, 1, 1, 900, 900, 2]])
@pytest.mark.parametrize("batches", [1, 2, 3, 8])
def test_every_row_is_in_a_batch_and_no_batch_is_empty(lengths, batches):
    parts = cut(lengths, batches, np.random.default_rng(0))
    assert len(parts) == batches and all(parts)
    used = [row for part in parts for row in part]
    assert set(used) == set(range(len(lengths))) and len(used) == max(len(lengths), batches)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ConfigError, match="none left"):
        order(np.array([], int))
    with pytest.raises(ConfigError, match="none left"):
        order(np.array([5, 6]), weights=np.zeros(2))


def test_rows_are_padded_on_the_right():
    assert padded([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]
