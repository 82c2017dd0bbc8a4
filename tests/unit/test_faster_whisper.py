"""faster-whisper: the transcripts of transformers' Whisper of the same weights, and files."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llasa.core import Audio
from llasa.errors import BundleError, ConfigError, MissingExtra
from llasa.recognizers import load_recognizer
from llasa.recognizers.faster_whisper import FasterWhisperRecognizer
from llasa.recognizers.whisper import WhisperRecognizer
from tests.unit.test_whisper import clip, published_tokenizer, save_published_whisper

KINDS = {"small": (80, 99), "large-v3": (128, 100), "small.en": (80, 1)}


def save_faster_whisper(folder: Path, n_mels: int = 80, n_languages: int = 99) -> Path:
    """Write a small random Whisper in transformers' layout, and in CTranslate2's inside of it; return that.

    It never writes what faster-whisper never writes.
    """
    pytest.importorskip("faster_whisper", reason="needs faster-whisper")
    from ctranslate2.converters import TransformersConverter
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import get_suppressed_tokens

    words: Any = published_tokenizer(n_languages).backend_tokenizer
    unsaid = get_suppressed_tokens(Tokenizer(words, n_languages > 1, "transcribe", "en"), (-1,))
    save_published_whisper(folder, n_mels, n_languages, unsaid or (), 448)
    files = ["tokenizer.json", "preprocessor_config.json"]
    return Path(TransformersConverter(str(folder), copy_files=files).convert(str(folder / "converted")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_faster_whisper(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> FasterWhisperRecognizer:
    return FasterWhisperRecognizer.load(folder, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_transcripts_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    converted = save_faster_whisper(tmp_path, *KINDS[kind])
    clips = [clip(seconds, seed) for seed, seconds in enumerate((1.0, 0.1, 30.0))]
    clips.append(Audio(np.zeros(16000, np.float32), 16000))
    heard = FasterWhisperRecognizer.load(converted, "cpu").transcribe(clips)
    wanted = WhisperRecognizer.load(tmp_path, "cpu").transcribe(clips)
    for one, other in zip(heard, wanted, strict=True):  # transformers was told to stop after 60 tokens
        assert one.text.startswith(other.text) and len(other.text) > 100
    assert len({one.text for one in wanted}) == len(clips)


def test_a_clip_beyond_the_window_is_heard_to_its_end(recognizer: FasterWhisperRecognizer) -> None:
    first, second = clip(30.0, 1), clip(4.0, 2)
    both = Audio(np.concatenate((first.samples, second.samples)), 16000)
    assert recognizer.transcribe([both])[0] != recognizer.transcribe([first])[0]


def test_the_language_is_asked_for_and_must_be_known(folder: Path) -> None:
    german = load_recognizer(f"faster-whisper:{folder}#de", {})
    english = load_recognizer(f"faster-whisper:{folder}", {})
    assert german.name == english.name and german.name.startswith("faster-whisper@")
    assert german.transcribe([clip(1.0)]) != english.transcribe([clip(1.0)])
    with pytest.raises(ConfigError, match=r"'klingon'.*en"):
        load_recognizer(f"faster-whisper:{folder}#klingon", {})


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_incomplete_and_damaged_folders_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / name).write_bytes((copied / name).read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"Loading faster-whisper.*again"):
        FasterWhisperRecognizer.load(copied, "cpu")
    (copied / name).unlink()
    with pytest.raises(BundleError, match=rf"no {name}.*ct2-transformers-converter"):
        FasterWhisperRecognizer.load(copied, "cpu")


def test_features_of_another_model_are_refused(tmp_path: Path) -> None:
    converted = save_faster_whisper(tmp_path, 128, 100)
    (converted / "preprocessor_config.json").unlink()
    with pytest.raises(BundleError, match=r"80 bands for a model of 128.*preprocessor_config\.json"):
        FasterWhisperRecognizer.load(converted, "cpu")


def test_an_unknown_dtype_is_no_damage(folder: Path) -> None:
    with pytest.raises(ConfigError, match="int3"):
        FasterWhisperRecognizer.load(folder, "cpu", dtype="int3")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(MissingExtra, match=r"faster_whisper.*llasa\[whisper\]"):
        load_recognizer(f"faster-whisper:{tmp_path}", {})
