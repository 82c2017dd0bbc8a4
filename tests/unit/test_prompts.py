"""Prompts of reinforcement learning: read, looked at, and in an order."""

import pytest

from llasa.bundle import load_bundle
from llasa.data.shards import Header, Row, save
from llasa.errors import ConfigError
from llasa.synthesizer import Synthesizer
from llasa.train.prompts import Prompts, Text, read_texts

WARM = {"temperature": 0.9, "top_p": 1.0, "loop_guard": False}


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def prompts(bundle, *texts, voices=None) -> Prompts:
    return Prompts(bundle, [Text(f"line {i}", text) for i, text in enumerate(texts, 1)], voices, WARM)


def test_lines_and_rows_are_read(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("One.\n\nTwo.\n", encoding="utf-8")
    assert [(one.name, one.text) for one in read_texts(lines, "en")][1:] == [
        ("line 2", ""),
        ("line 3", "Two."),
    ]
    rows = [Row(f"r{i}", f"text {i % 2}", "ada", "it", 1.0, [1, 2, 3]) for i in range(4)]
    save(tmp_path / "prepared", {"train": rows, "heldout": []}, Header("c@0", 25.0, 8))
    assert {(one.text, one.language) for one in read_texts(tmp_path / "prepared")} == {
        ("text 0", "it"), ("text 1", "it"),
    }  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\xfd"])
def test_files_without_texts_are_refused(tmp_path, content):
    place = tmp_path / "lines.txt"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(ConfigError, match="Reading the prompts"):
        read_texts(place)


def test_every_text_comes_once_a_turn_and_the_order_is_the_seeds(bundle):
    made = prompts(bundle, "one", "two", "three")
    order = made.order(7, 3)
    assert order == made.order(7, 3) and len(order) == 7
    assert {name.split(": ")[1] for name in order[:3]} == {"one", "two", "three"}
    assert {name.split(": ")[1] for name in order[3:6]} == {"one", "two", "three"}
    assert len({tuple(made.order(6, seed)) for seed in range(20)}) > 3
    assert made.order(7, 3)[:4] == made.order(4, 3)


def test_a_job_is_what_speaking_would_use(bundle):
    made, speaking = prompts(bundle, "the cat sat"), Synthesizer(bundle)
    job, own = made.job("ada: the cat sat"), speaking.job("the cat sat", "ada", **WARM)
    assert job.prompt == own.prompt and job.params == own.params
    assert job.params.stop_token_ids == (bundle.prompt.end_id,) and not job.params.loop_guard
    assert job.utterance.voice is made.job("ada: the cat sat").utterance.voice


def test_without_a_voice_there_is_none(bundle):
    engine, made = bundle.engine, prompts(bundle, "the cat sat", voices=[])
    assert made._synthesizer.bundle.engine is engine and bundle.default_voice  # no other is loaded
    [name] = made.order(1, 0)
    assert made.job(name).utterance.voice is None
    assert made.job(name).prompt == bundle.prompt.render(bundle.form("the cat sat").text)


def test_unusable_texts_are_named(bundle):
    long = "and the cat sat on the mat with the hat " * 40
    with pytest.raises(ConfigError) as told:
        prompts(bundle, "fine", "", long, "  ", "...").check()
    said = str(told.value)
    assert (
        "4 of 5" in said
        and all(f"line {number}: " in said for number in (2, 3, 4, 5))
        and "line 1:" not in said
    )
    with pytest.raises(ConfigError, match="and 5 more"):
        prompts(bundle, *(" " * number for number in range(15))).check()
    prompts(bundle, "fine", "").check(["ada: fine"])


def test_an_unknown_voice_is_refused(bundle):
    with pytest.raises(ConfigError, match="nobody"):
        prompts(bundle, "fine", voices=["nobody"])
