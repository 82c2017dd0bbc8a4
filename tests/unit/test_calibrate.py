"""Calibration: which scorer tells good from bad, what is written, and what files of pairs may hold."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from llasa import audio
from llasa.bundle import load_bundle
from llasa.calibrate import fit, judged, to_toml
from llasa.core import Audio, Candidate, Codes, Score, Utterance
from llasa.defects import DEFECTS
from llasa.errors import InputError, ScorerError
from llasa.judge import Judge, JudgeBlock, Part, Rubric, combined
from llasa.ladders import Ladder, labelled, planted
from llasa.recipe import read_recipe
from llasa.scorers.base import CODES
from llasa.synthesizer import Synthesizer
from tests.conftest import clip


class Codec:
    """A code a sample."""

    name, sample_rate, codebook_size, hop_length = "plain@0", 16000, 1001, 1600

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[0] * max(1, len(one.samples) // 1600) for one in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio(np.zeros(1600 * len(row), np.float32), 16000) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // 1600


class Reads:
    """The value is a code / 1000."""

    partial, cost = True, CODES

    def __init__(self, name: str, at: int) -> None:
        self.name, self.at = name, at

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(one.codes[self.at] / 1000) for one in candidates]


class Exponential(Reads):
    """The value is exp(-code / 100 / scale)."""

    def __init__(self, name: str, at: int, scale: float) -> None:
        super().__init__(name, at)
        self.scale = scale

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(float(np.exp(-one.codes[self.at] / 100 / self.scale))) for one in candidates]


class Fails(Reads):
    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        raise ScorerError("Listening: the endpoint is down. Start it.")


def block(*names: str, combine: str = "harmonic", **options: object) -> JudgeBlock:
    return JudgeBlock.model_validate({"combine": combine, "scorers": [{"name": n, **options} for n in names]})


def judge(*scorers: Reads, combine: str = "harmonic") -> Judge:
    return Judge(Codec(), Rubric([Part(one) for one in scorers], combine))  # pyright: ignore[reportArgumentType]


def ladder(text: str, *rows: Codes, ranks: Sequence[float] | None = None) -> Ladder:
    candidates = tuple(Candidate(Utterance(text, text), row, "stop") for row in rows)
    return Ladder("told", candidates, tuple(ranks or range(len(rows))))


def made(seed: int = 0, n: int = 40) -> list[Ladder]:
    """Ladders down which the first code falls and the second is chance."""
    rng = np.random.default_rng(seed)
    return [
        ladder(str(i), *([900 - 60 * step, int(rng.integers(300, 1000))] for step in range(4)))
        for i in range(n)
    ]


@pytest.mark.parametrize("combine", ["harmonic", "mean"])
def test_the_informative_scorer_wins(combine: str) -> None:
    start, by = (
        block("useful", "noise", combine=combine),
        judge(Reads("useful", 0), Reads("noise", 1), combine=combine),
    )
    found = fit(start, by, list(judged(by, made())), pull=0.001)
    useful, noise = found.block.scorers
    assert useful.weight > 5 * noise.weight > 0
    before, after = found.ordered["all"]
    assert before < 0.8 < 0.95 < after and found.ordered["told"] == (before, after)
    assert found.pairs == (180, 60) and found.block.combine == combine


def test_a_part_that_only_harms_is_named_but_kept() -> None:
    rng = np.random.default_rng(1)
    ladders = [ladder(str(i), *([500 - s, int(rng.integers(1, 1000))] for s in range(4))) for i in range(40)]
    by = judge(Reads("useful", 0), Reads("noise", 1))
    found = fit(block("useful", "noise"), by, list(judged(by, ladders)), pull=1e-4)
    assert found.removable == ("noise",) and found.block.scorers[1].weight > 0


def test_scales_are_fitted_only_where_there_is_one() -> None:
    # The second code carries the order, but at this scale its values are all about 1.
    by = judge(Reads("noise", 0), Exponential("wer", 1, 100.0))
    rng = np.random.default_rng(0)
    rows = [ladder(str(i), *([int(rng.integers(700, 1000)), 30 * s] for s in range(4))) for i in range(20)]
    found = fit(block("noise", "wer", scale=100.0), by, list(judged(by, rows)), pull=1e-3)
    noise, wer = found.block.scorers
    assert (wer.model_extra or {})["scale"] < 50 and (noise.model_extra or {})["scale"] == 100.0
    assert found.ordered["all"][1] > found.ordered["all"][0]


def test_the_better_way_of_combining_is_chosen() -> None:
    # Only one code is low in the worse candidate, and a high one hides it from the mean.
    rows = [ladder(str(i), [500, 500], [1000, 100] if i % 2 else [100, 1000]) for i in range(20)]
    by = judge(Reads("a", 0), Reads("b", 1), combine="mean")
    found = fit(block("a", "b", combine="mean"), by, list(judged(by, rows)), ["harmonic", "mean", "min"])
    assert found.block.combine in ("harmonic", "min") and found.ordered["all"] == (0.0, 1.0)


def test_totals_are_those_of_the_judge() -> None:
    from llasa.calibrate import _combined

    values = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.01
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for combine in ("harmonic", "mean", "min"):
        expected = [
            combined(list(zip(row, weights.tolist(), strict=True)), combine) for row in values.tolist()
        ]
        assert _combined(values, weights, combine).tolist() == pytest.approx(expected)


def test_ruled_out_and_unjudged_candidates() -> None:
    rubric = Rubric([Part(Reads("a", 0)), Part(Reads("b", 1), floor=0.2), Part(Reads("gate", 2), gate=True)])
    by = Judge(Codec(), rubric)
    one = next(judged(by, [ladder("x", [800, 900, 500], [900, 100, 1000], [])]))
    assert one.values.tolist() == [[0.8, 0.9], [1.0, 1.0], [1.0, 1.0]] and one.gates.tolist() == [
        0.5,
        0.0,
        0.0,
    ]
    assert one.pairs == [(0, 1), (0, 2), (1, 2)] and one.unjudged == ()
    failing = judge(Reads("a", 0), Fails("b", 1))
    rows = list(judged(failing, [ladder(str(i), [800, 1], [700, 1]) for i in range(4)]))
    assert rows[0].pairs == [] and len(rows[0].unjudged) == 2
    with pytest.raises(ScorerError, match="the endpoint is down"):
        fit(block("a", "b"), failing, rows)


def test_one_text_is_too_few() -> None:
    by = judge(Reads("a", 0))
    with pytest.raises(InputError, match="found 1 texts"):
        fit(block("a"), by, list(judged(by, [ladder("x", [800], [700])])))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    start = JudgeBlock.model_validate(
        {"combine": "mean", "empty": 0.1, "scorers": [
            {"name": "my.module:Naïve", "weight": 1e-5, "gate": True, "floor": 0.25, "label": 'a "b" \\'},
            {"name": "prosody", "targets": {"rate": 1.1, "a b": "\x7f"}, "held_out": True, "list": [1, 2.5]},
            {"name": "x", "rows": [{"of": [True, float("inf")]}, {}]},
        ]}
    )  # fmt: skip
    path = tmp_path / "judge.toml"
    path.write_text(to_toml(start, ["one", "", "three"]), encoding="utf-8")
    assert read_recipe(path).judge == start
    assert path.read_text(encoding="utf-8").startswith("# one\n#\n# three\n[judge]\n")


def test_planted_ladders_go_from_the_sound_itself_to_the_worst() -> None:
    clean = Candidate(Utterance("0", "hello"), [1, 2], "stop", audio=clip(1.0))
    silent = Candidate(Utterance("1", "hello"), [], "stop")
    found = list(planted(Codec(), [clean, silent]))
    assert [one.kind for one in found] == list(DEFECTS)
    assert [one.number for one in found] == list(range(1, len(DEFECTS) + 1))
    for one in found:
        assert one.candidates[0] is clean and one.total == len(DEFECTS)
        assert len(one.ranks) == len(DEFECTS[one.kind].severities) + 1 == len(one.candidates)
        assert all(row.codes and row.audio is not clean.audio for row in one.candidates[1:])


def test_equal_ranks_are_no_pair() -> None:
    assert ladder("x", [1], [2], [3], ranks=(1, 0, 1)).pairs == [(1, 0), (1, 2)]


@pytest.fixture(scope="module")
def synthesizer(tiny_bundle: Path) -> Synthesizer:
    return Synthesizer(load_bundle(tiny_bundle))


def test_files_of_pairs_and_labels(tmp_path: Path, synthesizer: Synthesizer) -> None:
    for name in ("a", "b"):
        audio.write(tmp_path / f"{name}.wav", clip(1.0, seed=ord(name)))
    rows = [
        {"text": "one", "better": "a.wav", "worse": "b.wav", "voice": "ada"},
        {"text": "two", "codes": [1, 2, 3], "score": 3},
        {"text": "two", "audio": "a.wav", "score": 4.5},
        {"text": "two", "codes": [3], "score": 3.0},
        {"text": "three", "codes": [1], "rank": 1},
        {"text": "alone", "codes": [1], "rank": 1},
        {"text": "three", "codes": [2], "rank": 2},
        {"text": "one", "better": "b.wav", "worse": "a.wav"},
    ]
    path = tmp_path / "told.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = labelled(path, synthesizer)
    assert [one.candidates[0].utterance.text for one in found] == ["one", "two", "three", "one"]
    assert [one.pairs for one in found] == [[(0, 1)], [(1, 0), (1, 2)], [(0, 1)], [(0, 1)]]
    assert [(one.number, one.total) for one in found] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first = found[0].candidates[0]
    assert first.utterance.voice and first.utterance.voice.name == "ada"
    assert first.codes and first.audio and first.audio.duration_s == 1.0
    assert found[1].candidates[0].audio is None and found[1].kind == "told.jsonl"


def test_who_speaks_in_a_line_without_a_voice(tmp_path: Path, synthesizer: Synthesizer) -> None:
    default = synthesizer.bundle.default_voice
    rows = [
        {"text": "one", "codes": [1], "score": 1},
        {"text": "one", "codes": [2], "score": 2, "voice": default},
    ]
    path = tmp_path / "told.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    [found] = labelled(path, synthesizer)
    assert default and found.pairs == [(1, 0)]
    assert [one.utterance.voice and one.utterance.voice.name for one in found.candidates] == [default] * 2


GOOD = '{"text": "x", "codes": [1], "score": 1}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Invalid JSON"),
        ('{"text": "x", "better": "a.wav"}', "found better beside the text"),
        ('{"text": "x", "codes": [1]}', "found codes beside the text"),
        ('{"text": "x", "codes": [1], "rank": 1, "score": 1}', "found codes, rank, score beside"),
        ('{"text": "x"}', "found nothing beside the text"),
        ('{"codes": [1], "score": 1}', "text: Field required"),
        ('{"text": "x", "codes": [1], "scores": 1}', "scores: Extra inputs"),
        ('{"text": "x", "codes": [], "score": 1}', "at least 1 item"),
        ('{"text": "x", "codes": [99999], "score": 1}', "outside 0 to"),
        ('{"text": "x", "audio": "none.wav", "score": 1}', "none.wav"),
        ('{"text": "x", "voice": "eve", "codes": [1], "score": 1}', "eve"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, synthesizer: Synthesizer, line: str, said: str) -> None:
    path = tmp_path / "told.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"told\.jsonl', line 2: ") as error:
        labelled(path, synthesizer)
    assert said in str(error.value)


def test_files_without_pairs_are_refused(tmp_path: Path, synthesizer: Synthesizer) -> None:
    path = tmp_path / "told.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(InputError, match="no text has two candidates"):
        labelled(path, synthesizer)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        labelled(tmp_path / "none.jsonl", synthesizer)
