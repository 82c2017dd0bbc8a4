"""Plots of an evaluation: only what was measured is drawn. Rows are made by hand."""

from pathlib import Path

import pytest

from llasa.evaluate.results import Row, read_evaluation
from llasa.evaluate.summary import table
from tests.unit.test_evaluate_summary import row, write

pytest.importorskip("matplotlib")

from llasa.evaluate.charts import charts


def drawn(folder: Path, rows: list[Row]) -> dict[str, str]:
    found = read_evaluation(write(folder, rows))
    return {one.title: one.drawn for one in charts(found, table(found, "set"))}


def test_without_a_recogniser_nothing_is_told_of_words(tmp_path: Path) -> None:
    heard = [row(name, line) for name in "ab" for line in range(3)]
    whole = drawn(tmp_path / "whole", heard)
    assert {"error rates", "how errors are spread"} < whole.keys()
    assert any("words right" in one for one in whole.values())
    for one in heard:
        one["measures"] = {key: found for key, found in one["measures"].items() if ":" not in key}
    deaf = drawn(tmp_path / "deaf", heard)
    assert whole.keys() - deaf.keys() == {"error rates", "how errors are spread"}
    assert not any("words right" in one for one in deaf.values())


def test_what_has_no_sound_never_begins_to_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two failed: the curve ends at one half."""
    ends: list[float] = []
    monkeypatch.setattr("matplotlib.axes.Axes.step", lambda *curve, **_: ends.append(curve[2][-1]))
    drawn(tmp_path / "run", [row("a", 0), row("a", 1, None, "empty", first_s=None, duration_s=0.0)])
    assert ends == [50.0]
