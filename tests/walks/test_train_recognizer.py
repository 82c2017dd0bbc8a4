"""`llasa train recognizer` and `llasa train letters` as commands."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llasa.codec.compact import CompactCodec
from llasa.recognizers import load_recognizer
from tests.conftest import Ran

Run = Callable[..., Ran]
RECIPE = """
out = "ears"
steps = 4
batch_s = 3.0
held_out = 0.3
validate_every = 2
[model]
blocks = ["gated"]
width = 16
stride = 2
n_fft = 400
n_mels = 40
[[data]]
path = "speech"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe, and twenty sounds with texts in the current folder."""
    (tmp_path / "speech").mkdir()
    rows = []
    for number in range(20):
        sound = 0.2 * np.sin(np.arange(16000) * (0.1 + 0.01 * number))
        soundfile.write(tmp_path / "speech" / f"{number}.wav", sound, 16000)
        rows.append({"audio": f"{number}.wav", "text": f"number {number}" if number else ""})
    (tmp_path / "speech" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, "utf-8")
    return tmp_path / "recipe.toml"


def test_a_recogniser_is_trained_and_can_be_named(run: Run, recipe: Path, tmp_path: Path) -> None:
    CompactCodec.random().save(tmp_path / "codec")
    settings = ("--set", "copies.codec=codec", "--set", "copies.hours=0.003", "--out", 'my "ears"')
    ran = run("train", "recognizer", recipe, *settings, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["output"] == 'my "ears"/recognizer' and {"held_original_words", "held_copy_tokens"} <= set(
        told
    )
    assert load_recognizer('ctc:my "ears"/recognizer', {}).text_form == "characters"
    [reject] = (tmp_path / 'my "ears"' / "rejects.jsonl").read_text("utf-8").splitlines()
    assert json.loads(reject)["reason"] == "no-text"
    again = run("train", "recognizer", recipe, *settings)
    assert again.code == 0 and again.out.strip() == 'my "ears"/recognizer' and "original words" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "stepz=3"), "Did you mean 'steps'"),
        (("--set", "data.0.path=elsewhere"), "elsewhere"),
        (("--set", "text=phones", "--set", "phones=nowhere"), "nowhere"),
        (("--set", "held_out=1e-9"), "0 held out"),
    ],
)
def test_what_cannot_be_is_refused(run: Run, recipe: Path, words: tuple[str, ...], said: str) -> None:
    ran = run("train", "recognizer", recipe, *words)
    assert ran.code == 2 and said in ran.err


def test_letters_of_ones_own_lexicon(run: Run, tmp_path: Path) -> None:
    sounds = dict(zip("bdfgklmnpstvz", list("BDFGKLMNPSTVZ"), strict=True))
    words = {a + "a" + b: f"{sounds[a]} AE {sounds[b]}" for a in sounds for b in sounds}
    (tmp_path / "words.txt").write_text("".join(f"{k} {v}\n" for k, v in words.items()), "utf-8")
    ran = run("train", "letters", "phones", "--lexicon", "words.txt", "--epochs", "4", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["lexicon_words"] == len(words)
    assert {path.name for path in (tmp_path / "phones").iterdir()} == {
        "lexicon.txt.gz",
        "letters.safetensors",
    }
    assert run("train", "letters", "phones", "--lexicon", "missing.txt").code == 2
    for few in ("hello HH AH L OW", "hello HH AH L OW\nworld W ER L D"):
        (tmp_path / "few.txt").write_text(few, "utf-8")
        ran = run("train", "letters", "few", "--lexicon", "few.txt")
        assert ran.code == 2 and "thousands of words" in ran.err
