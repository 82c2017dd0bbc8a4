"""The held-out panel: what is said and heard, which limits trip, what is kept, what goes on after a kill."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from llasa.bundle import Bundle, load_bundle
from llasa.core import Audio, Generation, Ids, SamplingParams
from llasa.errors import ConfigError, ScorerError
from llasa.judge import Part, Rubric
from llasa.metrics import error_rate
from llasa.recognizers.base import Transcript
from llasa.scorers.wer import ErrorRate
from llasa.synthesizer import Synthesizer
from llasa.train import guards
from llasa.train.guards import GuardBlock, Guards
from llasa.train.limits import MEASURES, LimitsBlock, changes, measured
from llasa.train.resume import Done
from llasa.train.witness import Line, Witness, WitnessBlock, read_texts

EARS = "tests.unit.test_guards:Ears"
HELD_OUT = Path(__file__).parent.parent / "data" / "heldout.txt"


class Ears:
    """Hears the same words in every clip."""

    name, text_form = "ears@0", "characters"

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript("bring two lemons") for _ in audio]


class Deaf(Ears):
    """Fails."""

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        raise ScorerError("Listening: nobody answers.")


@dataclass
class Answer:
    """What was drawn."""

    generation: Generation

    def result(self) -> list[Generation]:
        return [self.generation]


class Babble:
    """An engine that draws as many random codes as the prompt is long, and then ends or not."""

    name, max_length, concurrency = "babble", 1024, 8

    def __init__(self, finish: Any = "stop") -> None:
        self.finish, self.waiting, self.begin_together = finish, 0, False

    @contextmanager
    def together(self) -> Iterator[None]:
        self.begin_together = True
        yield
        self.begin_together = False

    def submit(self, prompt: Ids, params: SamplingParams) -> Answer:
        assert self.begin_together  # else who shares a step, and so rounding, is left to chance
        self.waiting += 1
        ids = np.random.default_rng(len(prompt) + params.seed).choice(params.allowed_token_ids or (), 20)
        kept = [int(one) for one in ids if int(one) not in params.stop_token_ids]
        return Answer(Generation(kept, self.finish))


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    loaded = load_bundle(tiny_bundle, device="cpu")
    loaded.__dict__["engine"] = Babble()
    return loaded


def block(**changes: Any) -> WitnessBlock:
    return WitnessBlock(**{"recognizer": EARS, "lines": 4, "similarity": "timbre", "mos": "noise"} | changes)


def lines(seed: int = 0, count: int = 40, **moved: Any) -> list[Line]:
    """Return a panel as it may sound: `moved` factors and differences, and how many lines failed."""
    random = np.random.default_rng(seed)
    units = np.linspace(10, 150, count)
    long = (units - units[0]) / (units[-1] - units[0])
    rate = 13 * np.exp(random.normal(0, 0.03, count)) * moved.get("rate", 1.0)
    rate *= (1 + moved.get("rate_change", 0.0)) ** long
    return [
        Line(
            i, 0, f"text {i}", "ada", "stop", "bad" if i < moved.get("failures", 0) else "scored", "", 50.0,
            units[i], math.nan if i < moved.get("failures", 0) else 5.0 + moved.get("wer", 0.0) + (i % 3),
            rate[i], 0.8 + random.normal(0, 0.02) + moved.get("similarity", 0.0),
            3.0 + random.normal(0, 0.05) + moved.get("mos", 0.0),
            4.0 * np.exp(random.normal(0, 0.1)) * moved.get("pitch_range", 1.0), 3.0,
        )
        for i in range(count)
    ]  # fmt: skip


def test_the_built_in_lines_are_of_all_lengths_and_in_no_test_set() -> None:
    texts = read_texts(WitnessBlock())
    words = [len(text.split()) for text in texts]
    assert len(texts) == 40 and (min(words), max(words)) == (3, 16)
    assert max(b - a for a, b in zip(sorted(words)[:-1], sorted(words)[1:], strict=True)) <= 1
    assert not set(texts) & set(HELD_OUT.read_text("utf-8").splitlines())
    few = read_texts(WitnessBlock(lines=5))
    assert len(few) == 5 and few[0] == texts[0] and few[-1] == texts[-1]


def test_texts_of_ones_own(tmp_path: Path) -> None:
    place = tmp_path / "texts.txt"
    place.write_text("One more line.\n\nShort.\nShort.\n")
    assert read_texts(WitnessBlock(texts=str(place))) == ["Short.", "One more line."]
    place.write_text("Only one.\n")
    with pytest.raises(ConfigError, match="two or more"):
        read_texts(WitnessBlock(texts=str(place)))
    place.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_texts(WitnessBlock(texts=str(place)))
    with pytest.raises(ConfigError, match="Check the path"):
        read_texts(WitnessBlock(texts=str(tmp_path / "none")))


def test_all_lines_are_asked_for_at_once_and_measured(bundle: Bundle) -> None:
    witness = Witness(block(takes=2), bundle, None)
    found = witness.listen(Synthesizer(bundle))
    assert [(line.take, line.line) for line in found] == [(take, i) for take in (0, 1) for i in range(4)]
    assert {line.status for line in found} == {"scored"} and {line.voice for line in found} == {"ada"}
    assert all(math.isfinite(one) for line in found for one in (line.errors, line.similarity, line.mos))
    assert found[0].tokens == len("mindthestep") and 0 < found[0].errors <= len("bringtwolemons")
    assert found == witness.listen(Synthesizer(bundle))
    assert witness.by == {"wer": "ears@0", "unit": "characters", "similarity": "timbre", "mos": "noise"}


def test_a_few_lines_are_asked_for_an_opinion(bundle: Bundle) -> None:
    found = Witness(block(opinions=2), bundle, None).listen(Synthesizer(bundle))
    assert [math.isfinite(line.mos) for line in found] == [True, False, False, True]


def test_what_does_not_end_has_failed(bundle: Bundle) -> None:
    bundle.__dict__["engine"] = Babble("length")
    found = Witness(block(), bundle, None).listen(Synthesizer(bundle))
    assert all(line.failed and line.finish == "length" and math.isnan(line.rate) for line in found)
    stands = measured(found)
    assert stands["wer"].value == 1.0 and stands["failures"].value == 1.0
    assert math.isnan(stands["rate"].value)


def test_a_panel_that_nobody_hears_says_so(bundle: Bundle) -> None:
    witness = Witness(block(recognizer="tests.unit.test_guards:Deaf"), bundle, None)
    with pytest.raises(ScorerError, match="4 of 4 lines got no verdict"):
        witness.listen(Synthesizer(bundle))


def test_what_steers_does_not_guard(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    from llasa.scorers.base import load_scorer

    steering = ErrorRate(bundle.recognizer(EARS), bundle.reader)
    with pytest.raises(ConfigError, match="steers"):
        Witness(block(), bundle, Rubric([Part(steering)]))
    other = Part(load_scorer("silence", {}, bundle.parts))
    assert Witness(block(), bundle, Rubric([other, Part(steering, held_out=True)])).by["wer"] == "ears@0"
    timbre = Rubric([Part(load_scorer("timbre", {}, bundle.parts))])
    with pytest.raises(ConfigError, match=r"'timbre': it steers.*guard\.similarity"):
        Witness(block(), bundle, timbre)
    assert not caplog.records
    noise = Rubric(
        [Part(load_scorer("noise", {}, bundle.parts)), Part(load_scorer("naturalness", {}, bundle.parts))]
    )
    Witness(block(mos=None), bundle, noise)
    assert "steers too" in caplog.text


def test_lines_that_speaking_would_cut_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "texts.txt"
    place.write_text("Short enough.\n" + "one and another, " * 12 + "that is all.\n")
    with pytest.raises(ConfigError, match="1 are too long to be said in one go"):
        Witness(block(texts=str(place)), bundle, None)


def test_a_bundle_without_a_second_recogniser_needs_one_named(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"guard\.recognizer, such as pocketsphinx"):
        Witness(WitnessBlock(), bundle, None)


def test_noise_trips_nothing() -> None:
    start = lines(0)
    for seed in range(1, 5):
        found = changes(start, lines(seed), LimitsBlock())
        assert set(found) == set(MEASURES)
        assert not [name for name, change in found.items() if change.tripped]


@pytest.mark.parametrize(
    "moved, tripped",
    [
        ({"rate": 1.08}, "rate"), ({"rate": 0.92}, "rate"), ({"rate_change": 0.12}, "rate_change"),
        ({"similarity": -0.05}, "similarity"), ({"mos": -0.2}, "mos"), ({"pitch_range": 0.7}, "pitch_range"),
        ({"pitch_range": 0.0}, "pitch_range"), ({"failures": 5}, "failures"), ({"wer": 2.0}, "wer"),
    ],
)  # fmt: skip
def test_a_measure_that_moved_too_far_trips(moved: dict[str, float], tripped: str) -> None:
    found = changes(lines(0), lines(1, **moved), LimitsBlock())
    assert tripped in [name for name, change in found.items() if change.tripped]
    better = {"similarity": 0.1, "mos": 0.3, "wer": -2.0, "pitch_range": 1.2, "rate_change": -0.1}
    gained = changes(lines(0), lines(1, **better), LimitsBlock(rate=1.0))
    assert not [name for name, change in gained.items() if change.tripped]


def test_lines_without_a_verdict_are_in_no_measure() -> None:
    some = lines()
    lost = [replace(line, status="unjudged", errors=50.0) if line.line % 4 == 0 else line for line in some]
    kept = [line for line in some if line.line % 4]
    wanted = error_rate([line.errors for line in kept], [line.tokens for line in kept])
    assert measured(lost)["wer"].value == pytest.approx(wanted)
    assert not changes(some, lost, LimitsBlock())["wer"].tripped


class Panel:
    """A witness that tells what it was given, panel by panel."""

    def __init__(self, panels: Sequence[list[Line]]) -> None:
        self.panels, self.by = list(panels), {"wer": "ears@0", "unit": "characters"}

    def listen(self, synthesizer: object) -> list[Line]:
        return self.panels.pop(0)


def guarded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, panels: Sequence[list[Line]], **options: Any
) -> Guards:
    monkeypatch.setattr(guards, "Witness", lambda *_: Panel(panels))
    return Guards(GuardBlock(every=10, **options), folder, lambda: SimpleNamespace(bundle=None))  # pyright: ignore


def go(guard: Guards, folder: Path, first: int, last: int) -> tuple[Any, list[int]]:
    """Take steps as a trainer does, and return its state and which steps it saved."""
    state = SimpleNamespace(global_step=first, max_steps=50, best_model_checkpoint=None)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    args, model, saved = SimpleNamespace(output_dir=str(folder / "checkpoints")), torch.nn.Linear(1, 1), []
    guard.on_train_begin(args, state, control, model=model)
    while state.global_step < last and not control.should_training_stop:
        state.global_step, control.should_save = state.global_step + 1, False
        guard.on_step_end(args, state, control, model=model)
        saved += [state.global_step] if control.should_save else []
    assert model.training
    return state, saved


def test_the_start_is_measured_first_and_the_fewest_errors_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = [lines(0), lines(1, wer=-1), lines(2, wer=-0.5), lines(3, wer=-3)]
    guard = guarded(tmp_path, monkeypatch, panels)
    state, saved = go(guard, tmp_path, 0, 30)
    assert [row["step"] for row in guard.rows] == [0, 10, 20, 30]
    assert [row["chosen"] for row in guard.rows] == [True, True, False, True] and saved == [10, 30]
    assert guard.chosen == state.best_global_step == 30
    assert state.best_model_checkpoint == str(tmp_path / "checkpoints" / "checkpoint-30")
    stored = [json.loads(line) for line in (tmp_path / "panel.jsonl").read_text().splitlines()]
    assert stored == guard.rows and not guard.stopped
    assert all(f"{name}_low" in stored[1] and name in stored[1]["changes"] for name in MEASURES)
    assert len((tmp_path / "panel-lines.jsonl").read_text().splitlines()) == 160


def test_a_guard_that_trips_twice_running_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quick = [lines(seed, wer=-3, rate=1.15) for seed in (2, 3)]
    flat = lines(1, wer=-1)
    guard = guarded(tmp_path, monkeypatch, [lines(0), flat, *quick])
    state, saved = go(guard, tmp_path, 0, 50)
    assert state.global_step == 30 and guard.stopped == ["rate"] and saved == [10, 30]
    assert guard.chosen == 10 and state.best_model_checkpoint.endswith("checkpoint-10")
    assert "rate moved by +0.1" in caplog.text and "Training stops: rate" in caplog.text
    again = guarded(tmp_path, monkeypatch, [])  # started once more, it takes no step
    with pytest.raises(Done):
        go(again, tmp_path, 30, 50)
    assert again.chosen == 10


def test_other_guards_one_after_another_do_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = [lines(0), lines(1, rate=1.15), lines(2, pitch_range=0.6), lines(3, rate=1.15), lines(4)]
    guard = guarded(tmp_path, monkeypatch, panels)
    state, _ = go(guard, tmp_path, 0, 40)
    assert state.global_step == 40 and not guard.stopped
    assert [bool(row["tripped"]) for row in guard.rows] == [False, True, True, True, False]


def test_patience_of_one_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(tmp_path, monkeypatch, [lines(0), lines(1, rate=1.15)], patience=1)
    assert go(guard, tmp_path, 0, 50)[0].global_step == 10 and guard.chosen == 0


def test_the_last_step_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(tmp_path, monkeypatch, [lines(0), lines(1)], texts=None)
    guard.block = GuardBlock(every=100)
    go(guard, tmp_path, 0, 50)
    assert [row["step"] for row in guard.rows] == [0, 50]


@pytest.mark.fault("R2")
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = [lines(0), lines(1, wer=-1), lines(2, rate=1.15), lines(3, rate=1.15)]
    whole = guarded(tmp_path / "a", monkeypatch, panels)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected, _ = go(whole, tmp_path / "a", 0, 50)
    go(guarded(tmp_path / "b", monkeypatch, panels), tmp_path / "b", 0, 20)
    with (tmp_path / "b" / "panel.jsonl").open("a") as file:
        file.write('{"step": 30, "we')  # killed while it wrote
    again = guarded(tmp_path / "b", monkeypatch, panels[2:])
    assert again.rows[-1]["step"] == 20
    found, _ = go(again, tmp_path / "b", 15, 50)  # the newest checkpoint is older than the last row
    assert [strip(row) for row in again.rows] == [strip(row) for row in whole.rows]
    assert again.stopped == ["rate"] and found.best_model_checkpoint.endswith("checkpoint-10")
    assert expected.global_step == found.global_step == 30
    told = [
        json.loads(line)["step"] for line in (tmp_path / "b" / "panel-lines.jsonl").read_text().splitlines()
    ]
    assert sorted(set(told)) == [0, 10, 20, 30] and len(told) == 160


def strip(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "seconds"}


def test_a_start_that_was_not_measured_alike_is_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no measurement of its start"):
        go(guarded(tmp_path, monkeypatch, []), tmp_path, 20, 30)
    go(guarded(tmp_path, monkeypatch, [lines(0), lines(1)]), tmp_path, 0, 10)
    other = guarded(tmp_path, monkeypatch, [])
    other.witness.by = {"wer": "others@1", "unit": "characters"}
    with pytest.raises(ConfigError, match="Install or name the same again"):
        go(other, tmp_path, 10, 20)
    (tmp_path / "panel-lines.jsonl").unlink()
    with pytest.raises(ConfigError, match="tells nothing of its start"):
        go(guarded(tmp_path, monkeypatch, []), tmp_path, 10, 20)
