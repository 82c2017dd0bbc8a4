"""The look at a first batch: what is written, and what stops a run."""

import math
from dataclasses import replace

import pytest
import torch

from llasa import audio
from llasa.codec.compact import CompactCodec
from llasa.data.shards import Row
from llasa.engines.weights import load_model
from llasa.errors import ConfigError
from llasa.prompt import IGNORED
from llasa.train import preflight
from llasa.train.rows import Batches, Corpus, Rows, RowsBlock
from llasa.train.start import Scratch, Start, starting_bundle


class Listed(list[Row]):
    """Rows in memory, as `Shards` gives them."""

    @property
    def speakers(self) -> list[str]:
        return [row.speaker for row in self]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    CompactCodec.random().save(folder / "codec")
    scratch = Scratch(text="characters", hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    return starting_bundle(Start(scratch=scratch, codec=str(folder / "codec")), folder / "start")


@pytest.fixture
def batches(bundle) -> Batches:
    said = Listed(
        Row(f"r{i}", "hello there", "ada", "en", 1, [(i + j) % 64 for j in range(25)]) for i in range(30)
    )
    block = RowsBlock(tokens=300, voice_prompt=0.5)
    rows = Rows(Corpus([(said, 1.0)], block), bundle.prompt, lambda text, _: text, block, 200)
    return Batches(rows, rows.order(0), 10)


@pytest.fixture
def model(bundle):
    return load_model(bundle.folder / "lm", torch.float32)


def test_a_fresh_model_passes_and_the_batch_can_be_read_and_heard(model, batches, bundle, tmp_path):
    report = preflight.preflight(model, batches, bundle, tmp_path)
    assert report.problems == () and report.loss == pytest.approx(math.log(128), abs=0.5)
    preflight.check(report, tmp_path)
    text = (tmp_path / "preflight.txt").read_text()
    assert "<|TEXT_UNDERSTANDING_START|>" in text and "hello there" in text.replace(" ", "").replace(
        "hellothere", "hello there"
    )
    sound = audio.read(tmp_path / "0.wav", min_s=0.0)
    assert sound.duration_s >= 25 * bundle.codec.hop_length / bundle.codec.sample_rate


def spoilt(batches: Batches, change) -> Batches:
    build = batches.rows.build
    batches.rows.build = lambda *a: [change(list(ids), list(labels)) for ids, labels in build(*a)]
    return batches


def without_end(ids, labels):
    return ids[:-1], labels[:-1]


def with_text_learnt(ids, labels):
    return ids, ids[:]


def shifted(ids, labels):
    return ids, [*labels[1:-1], IGNORED, labels[-1]]


def out_of_order(ids, labels):
    start = next(i for i, label in enumerate(labels) if label != IGNORED)
    return [*reversed(ids[:start]), *ids[start:]], labels


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without_end, "does not end with the end marker"),
        (with_text_learnt, "labels stand on other ids"),
        (shifted, "labels differ from their ids"),
        (out_of_order, "markers are out of order"),
    ],
)
def test_wrong_rows_stop_a_run(model, batches, bundle, tmp_path, change, problem):
    report = preflight.preflight(model, spoilt(batches, change), bundle, tmp_path)
    assert any(problem in one for one in report.problems)
    with pytest.raises(ConfigError, match="check_first_batch"):
        preflight.check(report, tmp_path)


def test_a_loss_far_above_guessing_stops_a_run(model, batches, bundle, tmp_path):
    with torch.no_grad():
        model.lm_head.weight.mul_(400)
    report = preflight.preflight(model, batches, bundle, tmp_path)
    assert "another codec's" in report.problems[0]


def test_a_loss_too_good_to_be_true_stops_a_run(model, batches, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "_losses", lambda *_: (0.4, (0.4, 0.4)))
    report = preflight.preflight(model, batches, bundle, tmp_path)
    assert "too good to be true" in report.problems[0]


def test_a_loss_unlike_the_library_s_stops_a_run(model, batches, bundle, tmp_path):
    model.loss_function = lambda **_: torch.tensor(9.0)
    report = preflight.preflight(model, batches, bundle, tmp_path)
    assert "transformers' own is 9.0" in report.problems[0]


@pytest.mark.fault("R13")
def test_weights_that_are_no_numbers_stop_a_run(model, batches, bundle, tmp_path):
    with torch.no_grad():
        model.lm_head.weight[3] = math.nan
    report = preflight.preflight(model, batches, bundle, tmp_path)
    assert "no number" in report.problems[0]
    assert replace(report, problems=()).lines()[0].startswith("First batch")
