"""`llasa diagnose`, by the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa import audio
from llasa.bundle import seal
from llasa.core import Audio
from llasa.manifest import read_manifest
from llasa.recognizers.ctc import CtcRecognizer
from tests.conftest import STARTER, Ran, build_tiny_bundle, clip

Run = Callable[..., Ran]
TEXT = ("--text", "The cat sat on the mat.")


@pytest.fixture(scope="module")
def hearing_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with two untrained recognisers."""
    folder = build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "hearing")
    CtcRecognizer.random(0).save(folder / "recognizer")
    CtcRecognizer.random(1, "characters").save(folder / "recognizer-b")
    known = read_manifest(folder).model_dump(exclude={"format", "files"}, exclude_none=True)
    recognizers = {"bundle": "ctc:recognizer", "held-out": "ctc:recognizer-b"}
    seal(folder, {**known, "codec": {"kind": "compact"}, "recognizers": recognizers})
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    audio.write(tmp_path / "sound.wav", clip(1.0))
    return tmp_path / "sound.wav"


def test_words_are_told_for_programs(run: Run, hearing_bundle: Path, sound: Path):
    told = run("diagnose", sound, *TEXT, "--bundle", hearing_bundle, "--clean", sound, "--json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    words = [one["word"]["text"] for one in found["findings"] if one["word"]["status"] != "added"]
    assert words == ["The", "cat", "sat", "on", "the", "mat"]
    assert set(found["errors"]) == {
        f"{who}{what}" for who in ("first", "second") for what in ("", ", clean", ", clean round trip")
    }
    # Untrained ears hear no word of it, in the clean recording neither.
    assert {one["fault"] for one in found["findings"] if one["word"]["text"]} == {"recogniser"}
    assert found["recognizers"]["second"].startswith("ctc-characters@")


def test_words_are_told_to_people(run: Run, hearing_bundle: Path, sound: Path):
    told = run("diagnose", sound, *TEXT, "--bundle", hearing_bundle)
    assert told.code == 0
    assert "heard second" in told.out and "mat" in told.out
    assert "first recogniser (ctc-phones@" in told.err and "share heard otherwise: recording " in told.err
    assert "words went wrong" in told.err and "Hint: " in told.err and "fit " in told.err


def test_what_cannot_be_diagnosed_ends_with_2(run: Run, hearing_bundle: Path, tiny_bundle: Path, sound: Path):
    silent = sound.with_name("silent.wav")
    audio.write(silent, Audio(clip(1.0).samples * 0, 16000))
    for arguments, said in (
        ((sound, "--text", "", "--bundle", hearing_bundle), "nothing that can be said"),
        ((silent, *TEXT, "--bundle", hearing_bundle), "silent"),
        ((sound, *TEXT, "--bundle", tiny_bundle), "has no recogniser 'bundle'"),
        ((sound, *TEXT, "--bundle", hearing_bundle, "--second", "nobody"), "nobody"),
        (("none.wav", *TEXT, "--bundle", "no-such-bundle"), "there is no such file"),
    ):
        ran = run("diagnose", *arguments)
        assert ran.code == 2 and said in ran.err


def test_the_starter_hears_itself(run: Run, tmp_path: Path):
    if "held-out" not in read_manifest(STARTER).recognizers:
        pytest.skip("this starter has no second recogniser")
    text = "The weather will be fine tomorrow."
    assert run("say", text, "-o", tmp_path / "fine.wav").code == 0
    found = json.loads(run("diagnose", tmp_path / "fine.wav", "--text", text, "--json").out)
    said = [one for one in found["findings"] if one["fault"] is None]
    assert len(said) >= 4 and all(one["word"]["start_s"] is not None for one in said)
    wrong = text.replace("weather", "elephant")
    found = json.loads(run("diagnose", tmp_path / "fine.wav", "--text", wrong, "--json").out)
    [elephant] = [one for one in found["findings"] if one["word"]["text"] == "elephant"]
    assert elephant["fault"] in ("model", "unclear")  # not said, and nobody misheard it
