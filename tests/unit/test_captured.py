"""Steps of fixed shapes, run without capturing, against steps as they come; and bad captures."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from llasa.engines.backbone import Backbone
from tests.causal import GREEDY, llama, prompts, running
from tests.unit.test_rows import MODELS, coming_and_going


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_padded_steps_equal_steps_as_they_come(name: str) -> None:
    model = MODELS[name]()
    fixed, plain = Backbone(model, fixed=True), Backbone(model, sharing=False, fixed=False)
    assert fixed._captured is not None and plain._captured is None
    near = {"rtol": 0.1, "atol": 0.1} if name == "wide" else {"rtol": 1e-4, "atol": 1e-4}
    for found, expected in zip(coming_and_going(fixed), coming_and_going(plain), strict=True):
        torch.testing.assert_close(found, expected, **near)


@torch.inference_mode()
def test_buffers_keep_their_place_while_columns_move_and_rows_are_reset() -> None:
    model = MODELS["llama"]()
    fixed, plain = Backbone(model, fixed=True), Backbone(model, sharing=False, fixed=False)
    draw, places = np.random.default_rng(1), set[int]()
    for _ in range(2):
        for backbone in (fixed, plain):
            backbone.reset()
            for length in (3, 40):
                prompt = list(range(1, length))
                backbone.add(backbone.prefill(prompt)[0], len(prompt), 1)
        for step in range(300):
            ids = draw.integers(1, 60, 2).tolist()
            if step == 30:  # the longer row leaves and another comes: columns move to the front in the end
                for backbone in (fixed, plain):
                    backbone.drop(1)
                    backbone.add(backbone.prefill([5])[0], 1, 1)
            torch.testing.assert_close(fixed.step(ids), plain.step(ids), rtol=1e-4, atol=1e-4)
            places.add(fixed.rows.layers[0].keys.data_ptr())
    assert fixed.rows.window.columns == 512
    # For one row, for two, and for 512 columns; what came after the reset found them there.
    assert fixed.rows.window.buffers == 3 and len(places) == 2


def test_an_engine_of_fixed_shapes_draws_the_same() -> None:
    model = llama()
    with running(model) as engine:
        expected = [engine.submit(prompt, GREEDY).result()[0].ids for prompt in prompts()]
        engine._runner = Backbone(model, fixed=True)
        requests = [engine.submit(prompt, GREEDY) for prompt in prompts()]
        assert [request.result()[0].ids for request in requests] == expected


class Replayed:
    """Stands for a captured graph: says what it was told to."""

    def __init__(self, states: Tensor) -> None:
        self.states, self.numbers, self.graph = states, torch.zeros(1), self

    def replay(self) -> None:
        """Nothing: the states are there."""


@pytest.mark.parametrize("found", ["wrong", "nan", "raises"])
@torch.inference_mode()
def test_a_capture_that_says_something_else_is_refused_with_a_warning(
    found: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone(MODELS["llama"](), fixed=True)
    backbone.add(backbone.prefill([1, 2])[0], 2, 3)
    captured = backbone._captured
    assert captured is not None
    expected = torch.ones(3, 32)

    def capture(*_: object) -> Replayed:
        if found == "raises":
            raise RuntimeError("operation not permitted when stream is capturing")
        return Replayed(torch.full((4, 32), float("nan")) if found == "nan" else 2 * torch.ones(4, 32))

    monkeypatch.setattr(captured, "_capture", capture)
    with caplog.at_level(logging.WARNING):
        states = captured._first((4, 256), torch.zeros(13, dtype=torch.long), expected)
    assert torch.equal(states, expected) and not captured.trusted
    assert "captured decode step of 4 rows and 256 columns was refused" in caplog.text
    before = backbone.rows.window.cursor
    backbone.step([1, 2, 3])  # goes on without it
    assert backbone.rows.window.cursor == before + 1


@torch.inference_mode()
def test_a_capture_that_says_the_same_is_kept_until_weights_or_buffers_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = Backbone(MODELS["llama"](), fixed=True)
    captured = backbone._captured
    assert captured is not None
    expected = torch.ones(3, 32)
    monkeypatch.setattr(captured, "_capture", lambda *_: Replayed(torch.ones(4, 32)))
    captured._first((4, 256), torch.zeros(13, dtype=torch.long), expected)
    assert captured.trusted and list(captured._graphs) == [(4, 256)]
    captured.follow([1])
    assert not captured._graphs
