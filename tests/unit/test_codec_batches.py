"""Rows that share a batch are alike, and every row that is not empty is in one."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llasa.codec.batches import alike, mask_of


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 1000))
def test_every_row_is_in_one_batch_of_alike_ones_and_no_batch_is_too_large(lengths, most):
    groups = list(alike(lengths, most))
    assert sorted(n for group in groups for n in group) == [n for n, length in enumerate(lengths) if length]
    for group in groups:
        sizes = [lengths[n] for n in group]
        assert len(group) == 1 or (len(sizes) * max(sizes) <= most and max(sizes) <= 1.2 * min(sizes))


def test_alike_rows_share_a_batch_in_order_of_length():
    assert list(alike([100, 10, 95, 0, 11], 1000)) == [[1, 4], [2, 0]]
    assert list(alike([100, 10, 95, 0, 11], 150)) == [[1, 4], [2], [0]]


def test_a_mask_marks_rows_and_is_none_without_padding():
    mask = mask_of([1, 3])
    assert mask is not None and mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert mask_of([2, 2]) is None
    assert mask.dtype == torch.float32
