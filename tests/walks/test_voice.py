"""`llasa voice`: add, list, show, remove, by the real command."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llasa import audio
from llasa.core import Audio
from llasa.voice import load
from tests.conftest import Ran, clip

Run = Callable[..., Ran]


@pytest.fixture
def home(own_home: Path) -> Iterator[Path]:
    """The user's own voices, none at the start and at the end."""
    folder = own_home / "voices"
    yield folder
    for path in folder.glob("*"):
        path.unlink()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    audio.write(tmp_path / "bob.flac", clip(2.0, 44100, seed=1))
    return tmp_path / "bob.flac"


def test_add_list_show_remove(run: Run, home: Path, recording: Path, tiny_bundle: Path):
    bundle = ("--bundle", tiny_bundle)
    given = ("--text", "It's 5 o'clock.", "--source", "a test", "--consent", "I agree")
    ran = run("voice", "add", "bob", recording, *given, *bundle)
    assert (ran.code, ran.out) == (0, f"{home / 'bob.safetensors'}\n")
    kept = load(home / "bob.safetensors")
    assert (kept.text, kept.source, kept.consent) == ("It's 5 o'clock.", "a test", "I agree")

    listed = json.loads(run("voice", "list", "--json", *bundle).out)
    assert listed["default"] == "ada"
    assert [(row["name"], row["usable"]) for row in listed["voices"]] == [("ada", True), ("bob", True)]
    assert listed["voices"][1]["seconds"] == pytest.approx(2.0, abs=0.1)
    assert listed["voices"][1]["path"] == str(home / "bob.safetensors")
    assert listed["voices"][0]["path"] == str(tiny_bundle / "voices" / "ada.safetensors")
    people = run("voice", "list", *bundle).out.splitlines()
    assert people[0].startswith("* ada") and "a formula" in people[0] and "a test" in people[1]

    shown = run("voice", "show", "bob", *bundle)
    assert "It's 5 o'clock." in shown.out and "I agree" in shown.out
    assert run("say", "Hello.", "--voice", "bob", *bundle).code == 0

    assert run("voice", "remove", "bob", *bundle).code == 0
    assert run("voice", "show", "bob", *bundle).code == 2


def test_a_voice_keeps_its_language(run: Run, home: Path, recording: Path, tiny_bundle: Path):
    given = ("voice", "add", "bob", recording, "--text", "Some words.", "--bundle", tiny_bundle)
    refused = run(*given, "--language", "it")
    assert refused.code == 2 and "does not know 'it'" in refused.err and not list(home.glob("*"))
    assert run(*given, "--language", "en-GB").code == 0
    assert load(home / "bob.safetensors").language == "en-GB"
    assert run("say", "Hello.", "--voice", "bob", "--bundle", tiny_bundle).code == 0


def test_a_damaged_voice_does_not_hide_the_others(run: Run, home: Path, tiny_bundle: Path):
    home.mkdir(exist_ok=True)
    (home / "bob.safetensors").write_bytes(b"no voice")
    ran = run("voice", "list", "--json", "--bundle", tiny_bundle)
    ada, bob = json.loads(ran.out)["voices"]
    assert ran.code == 0 and (ada["name"], ada["problem"]) == ("ada", None)
    assert not bob["usable"] and str(home / "bob.safetensors") in bob["problem"]
    ran = run("voice", "list", "--bundle", tiny_bundle)
    assert ran.code == 0 and "a safetensors file" in ran.out.splitlines()[1]


def test_links_of_the_user_are_not_listed_as_places(run: Run, home: Path, tiny_bundle: Path):
    home.mkdir(exist_ok=True)
    (home / "ada.safetensors").symlink_to(tiny_bundle / "voices" / "ada.safetensors")
    shown = json.loads(run("voice", "show", "ada", "--json", "--bundle", tiny_bundle).out)
    assert shown["path"] == str(tiny_bundle / "voices" / "ada.safetensors")


def test_starter_or_tiny_voices_are_listed(run: Run, bundle_folder: Path):
    listed = json.loads(run("voice", "list", "--json", "--bundle", bundle_folder).out)
    assert listed["default"] in [row["name"] for row in listed["voices"]]
    assert all(row["usable"] and row["seconds"] > 0.5 for row in listed["voices"])


def test_add_twice_needs_overwrite(run: Run, home: Path, recording: Path, tiny_bundle: Path):
    words = ("voice", "add", "bob", recording, "--text", "some words", "--bundle", tiny_bundle)
    assert run(*words).code == 0
    again = run(*words)
    assert again.code == 2 and "there is one of that name" in again.err
    assert run(*words, "--overwrite", "--json").code == 0


@pytest.mark.parametrize(
    ("name", "text", "seconds", "said"),
    [
        ("Bob", "some words", 2.0, "not a valid name"),
        ("../bob", "some words", 2.0, "not a valid name"),
        ("bob", "", 2.0, "nothing that can be said"),
        ("bob", "😀", 2.0, "nothing that can be said"),
        ("bob", "some words", 0.5, "lasts only 0.50 s"),
        ("bob", "some words", 31.0, "it lasts 31.0 s"),
    ],
)
def test_bad_voices_are_refused(
    run: Run, home: Path, tmp_path: Path, tiny_bundle: Path, name: str, text: str, seconds: float, said: str
):
    audio.write(tmp_path / "x.wav", clip(seconds))
    ran = run("voice", "add", name, "x.wav", "--text", text, "--bundle", tiny_bundle)
    assert ran.code == 2 and said in ran.err
    assert not list(home.glob("*"))


def test_silence_is_refused(run: Run, home: Path, tmp_path: Path, tiny_bundle: Path):
    audio.write(tmp_path / "x.wav", Audio(np.zeros(32000, np.float32), 16000))
    ran = run("voice", "add", "bob", "x.wav", "--text", "some words", "--bundle", tiny_bundle)
    assert ran.code == 2 and "silent" in ran.err


def test_a_bundles_voice_stays(run: Run, tiny_bundle: Path):
    ran = run("voice", "remove", "ada", "--bundle", tiny_bundle)
    assert ran.code == 2 and "belongs to the bundle" in ran.err
    assert run("voice", "remove", "nobody", "--bundle", tiny_bundle).code == 2
