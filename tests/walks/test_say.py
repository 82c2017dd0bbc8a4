"""`llasa say`, by the real command: what it writes, and what it refuses before it writes anything."""

import inspect
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llasa import audio
from llasa.cli.effort import Wanted
from llasa.cli.model import Chosen
from llasa.cli.player import Watched
from llasa.cli.say import say
from llasa.manifest import Sampling
from tests.conftest import STARTER, Ran, clip

Run = Callable[..., Ran]
SOURCE = Path(__file__).parents[2] / "src"


def real(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "llasa.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, capture_output=True, env=environment, check=False, **options)


def left(folder: Path) -> set[str]:
    """Return the names of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def test_says_to_a_file_and_tells_where(run: Run, bundle_folder: Path, tmp_path: Path):
    ran = run("say", "Hello there.", "--bundle", bundle_folder)
    assert (ran.code, ran.out) == (0, "llasa.wav\n")
    assert "s of speech in" in ran.err
    sound = audio.read(tmp_path / "llasa.wav")
    assert sound.sample_rate == 16000 and sound.duration_s > 0.3


def test_json_tells_all(run: Run, bundle_folder: Path, tmp_path: Path):
    text = "One cat sat 😀. Two dogs ran."
    ran = run(
        "say", text, "--bundle", bundle_folder, "-o", "x.flac", "--seed", 3, "--json", "--set", "top_k=20"
    )
    told = json.loads(ran.out)
    assert told["output"] == "x.flac" and told["seed"] == 3 and told["sampling"]["top_k"] == 20
    assert all(text[one["start"] : one["end"]] == one["text"] for one in told["segments"])
    assert [one["dropped"] for one in told["segments"]] == [[], ["😀"]]
    assert any("😀" in warning for warning in told["warnings"])
    assert told["real_time_factor"] > 0 and told["voice"]
    assert soundfile.info(tmp_path / "x.flac").duration == pytest.approx(told["duration_s"], abs=1e-3)


def test_a_pipe_in_and_out(tiny_bundle: Path, tmp_path: Path):
    ran = real("say", "-", "-o", "-", "--bundle", tiny_bundle, input="Hello, wörld.".encode(), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr.decode()
    samples, rate = soundfile.read(io.BytesIO(ran.stdout))
    assert rate == 16000 and len(samples) > 0
    assert left(tmp_path) == set()
    assert b"%|" not in ran.stderr  # no progress bars of libraries


def test_reads_a_file(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "story.txt").write_text("A short story.\n\nThe end.", encoding="utf-8")
    ran = run("say", "-f", "story.txt", "--bundle", tiny_bundle, "-o", "story.mp3")
    assert ran.code == 0 and (tmp_path / "story.mp3").stat().st_size > 1000


def test_clones_a_recording(run: Run, tiny_bundle: Path, tmp_path: Path):
    audio.write(tmp_path / "me.wav", clip(2.5, 22050))
    words = ("say", "Hello.", "--bundle", tiny_bundle, "--ref-text", "some words I said", "--json")
    ran = run(*words, "--ref-audio", "me.wav", "-o", "mine.wav")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["voice"] == "reference"


@pytest.mark.parametrize("text", ["<|s_12|>", "<|SPEECH_GENERATION_END|>"])
def test_markers_are_spoken_as_text(run: Run, tiny_bundle: Path, text: str):
    ran = run("say", text, "--bundle", tiny_bundle, "--set", "max_tokens=20", "--json")
    [segment] = json.loads(ran.out)["segments"]
    assert (segment["text"], segment["dropped"]) == (text, ["<", "|", "_", ">"])


@pytest.fixture
def words(own_home: Path) -> Iterator[Path]:
    """The user's own pronunciations, not there at the start and at the end."""
    path = own_home / "words.toml"
    yield path
    path.unlink(missing_ok=True)


def test_own_pronunciations_are_read(run: Run, tiny_bundle: Path, tmp_path: Path, words: Path):
    def said(name: str) -> bytes:
        assert run("say", "The cat sat.", "--bundle", tiny_bundle, "-o", name).code == 0
        return (tmp_path / name).read_bytes()

    plain = said("plain.wav")
    words.write_text('cat = "D AO G Z AH"', encoding="utf-8")
    assert said("own.wav") != plain
    words.unlink()
    assert said("again.wav") == plain


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('cat = "K QQ"', "'cat': found ['QQ']"),
        ("cat = 3", "found cat = 3"),
        ('Cat = "K"', "'Cat'"),
        ("cat", "no TOML"),
    ],
)
def test_wrong_pronunciations_are_named(run: Run, words: Path, content: str, said: str):
    words.write_text(content, encoding="utf-8")
    ran = run("say", "Hi.", "--bundle", "no-such-bundle")
    assert ran.code == 2 and f"Reading '{words}'" in ran.err and said in ran.err


@pytest.mark.parametrize("text", ["", "   ", "😀 🎉", "..."])
def test_nothing_to_say(run: Run, tiny_bundle: Path, tmp_path: Path, text: str):
    ran = run("say", text, "--bundle", tiny_bundle)
    assert ran.code == 2 and "nothing that can be said" in ran.err
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "found no text"),
        (("Hi.", "--file", "x.txt"), "both a TEXT and --file"),
        (("--file", "none.txt"), "No such file"),
        (("--file", "binary.txt"), "not UTF-8"),
        (("Hi.", "-o", "nowhere/x.wav"), "there is no folder 'nowhere'"),
        (("Hi.", "-o", "."), "it is a folder"),
        (("Hi.", "-o", "x.xyz"), "no format is called 'xyz'"),
        (("Hi.", "-o", "-", "--json"), "--json prints there too"),
        (("Hi.", "--set", "temprature=1"), "Did you mean 'temperature'?"),
        (("Hi.", "--set", "temperature"), "field=value"),
        (("Hi.", "--set", "top_k=many"), "should be a valid integer"),
        (("Hi.", "--top-p", "1.5"), "less than or equal to 1"),
        (("Hi.", "--temperature", "nan"), "finite number"),
        (("Hi.", "--ref-audio", "me.wav"), "--ref-text is missing"),
        (("Hi.", "--ref-text", "Hi."), "--ref-audio is missing"),
        (("Hi.", "--seed", "x"), "--seed"),
        (("Hi.", "--effrt", "8"), "--effrt"),
    ],
)
def test_flags_are_checked_before_anything_is_loaded(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    ran = run("say", *arguments, "--bundle", "no-such-bundle")
    assert ran.code == 2 and said in ran.err
    assert left(tmp_path) == {"binary.txt"}


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Return a 16-bit WAV file with any header rate."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVE"
        + form
        + struct.pack("<4sI", b"data", len(data))
        + data
    )


def noise(seconds: float, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3000, round(seconds * rate))


def nan_wav() -> bytes:
    file, samples = io.BytesIO(), np.full(32000, 0.1, np.float32)
    samples[100] = np.nan
    soundfile.write(file, samples, 16000, "FLOAT", format="WAV")
    return file.getvalue()


RECORDINGS = {
    "silent": lambda: wav(np.zeros(32000), 16000),
    "a tenth of a second": lambda: wav(noise(0.1), 16000),
    "ten minutes": lambda: wav(noise(600, 8000), 8000),
    "no sound file": lambda: b"RIFF but no more",
    "cut off": lambda: wav(noise(3), 16000)[:500],
    "empty": lambda: b"",
    "1 Hz": lambda: wav(noise(0.01), 1),
    "not a number": nan_wav,
}


@pytest.mark.parametrize("make", RECORDINGS.values(), ids=RECORDINGS.keys())
def test_bad_recordings_are_refused(run: Run, tiny_bundle: Path, tmp_path: Path, make: Callable[[], bytes]):
    (tmp_path / "bad.wav").write_bytes(make())
    given = ("--ref-audio", "bad.wav", "--ref-text", "some words", "--bundle", tiny_bundle)
    ran = run("say", "Hello.", *given)
    assert ran.code == 2 and ran.err.startswith("llasa: Reading audio from 'bad.wav'")
    assert left(tmp_path) == {"bad.wav"}


def test_missing_voice_lists_those_there_are(run: Run, bundle_folder: Path, tmp_path: Path):
    ran = run("say", "Hello.", "--voice", "nobody", "--bundle", bundle_folder)
    assert ran.code == 2 and "Voices here: " in ran.err
    assert left(tmp_path) == set()


@pytest.mark.parametrize("name", ["codec/config.json", "lm/tokenizer.json", "phones/lexicon.txt.gz"])
def test_damaged_bundles_are_refused(run: Run, broken_bundle: Path, tmp_path: Path, name: str):
    with open(broken_bundle / name, "ab") as file:
        file.write(b" ")
    ran = run("say", "Hello.", "--bundle", broken_bundle)
    assert ran.code == 2 and f"expected {name} with SHA-256" in ran.err
    (broken_bundle / name).unlink()
    ran = run("say", "Hello.", "--bundle", broken_bundle)
    assert ran.code == 2 and f"expected the file {name}, found none" in ran.err
    assert left(tmp_path) == {"broken"}


def test_a_failed_run_leaves_the_old_file(run: Run, tiny_bundle: Path, tmp_path: Path):
    (tmp_path / "llasa.wav").write_bytes(b"old")
    assert run("say", "Hello.", "--voice", "nobody", "--bundle", tiny_bundle).code == 2
    assert (tmp_path / "llasa.wav").read_bytes() == b"old"


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name where it is found, and hide all others of its kind."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))


def test_plays_while_it_is_made(run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program(
        tmp_path,
        "aplay",
        f'echo "$@" > {tmp_path}/asked; {shutil.which("cat")} > {tmp_path}/played',
        monkeypatch,
    )
    ran = run("say", "Hello.", "--stream", "--json", "--bundle", tiny_bundle)
    told = json.loads(ran.out)
    assert ran.code == 0 and told["first_audio_s"] > 0 and told["underruns"] >= 0
    assert f"-r {told['sample_rate']} -" in (tmp_path / "asked").read_text()
    played = np.frombuffer((tmp_path / "played").read_bytes(), "<i2")
    kept, _ = soundfile.read(tmp_path / "llasa.wav", dtype="int16")
    assert np.array_equal(played, kept) and len(kept)


@pytest.mark.skipif(not (STARTER / "bundle.toml").is_file(), reason="the starter is not built here")
def test_what_is_searched_for_plays_meanwhile_and_the_receipt_is_of_what_was_played(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program(tmp_path, "aplay", f"{shutil.which('cat')} > {tmp_path}/played", monkeypatch)
    asked = ("say", "Good morning, everybody.", "--stream", "--effort", 3, "--receipt", "--json")
    told = json.loads(run(*asked).out)
    [part], [stats] = told["receipt"]["segments"], [one["stats"] for one in told["segments"]]
    assert told["receipt"]["made"]["search"] == "Committed" and "committed in" in part["stop"]
    assert part["pace"]["blocks"] == stats["blocks"] > 1 and 0 < told["first_audio_s"] < told["elapsed_s"]
    played = np.frombuffer((tmp_path / "played").read_bytes(), "<i2")
    assert np.array_equal(played, soundfile.read(tmp_path / "llasa.wav", dtype="int16")[0])
    times = [word["end_s"] for word in part["words"] if word["end_s"]]
    assert times and max(times) <= len(played) / told["sample_rate"]


@pytest.mark.parametrize(
    ("script", "said"), [("echo no card >&2; exit 1", "no card"), ("exit 3", "ended with 3")]
)
def test_a_player_that_fails_is_told_and_the_file_is_kept(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
):
    program(tmp_path, "aplay", script, monkeypatch)
    ran = run("say", "Hello.", "--play", "--bundle", tiny_bundle)
    assert ran.code == 2 and said in ran.err
    assert len(soundfile.read(tmp_path / "llasa.wav")[0])


def test_without_a_player_nothing_is_made(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "")
    ran = run("say", "Hello.", "--play", "--bundle", tiny_bundle)
    assert ran.code == 2 and "found none of aplay" in ran.err
    assert not (tmp_path / "llasa.wav").exists()


def test_a_pipe_gets_the_sound_while_it_is_made(tiny_bundle: Path) -> None:
    ran = real("say", "Hello.", "--stream", "-o", "-", "--bundle", tiny_bundle)
    assert ran.returncode == 0 and ran.stdout[4:8] == b"\xff\xff\xff\xff"
    assert ran.stdout.startswith(b"RIFF") and len(ran.stdout) > 2000


def test_pieces_that_come_too_late_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.4, 3.0, 3.1])  # when it is made, and when each piece comes
    monkeypatch.setattr("llasa.cli.player.time.perf_counter", lambda: next(clock))
    watched = Watched(audio.Audio(np.zeros(500, np.float32), 1000) for _ in range(4))
    assert sum(piece.duration_s for piece in watched) == 2.0
    assert (watched.first_s, watched.underruns) == (1.0, 1)


def test_help_comes_quickly_and_teaches(tmp_path: Path):
    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = cpu_s()
    ran = real("--help", cwd=tmp_path)
    assert ran.returncode == 0 and cpu_s() - before < 0.5
    assert b"llasa say" in ran.stdout


def test_flags_are_few_and_named_like_fields():
    names = [name.strip("_") for name in inspect.signature(say).parameters if name != "text"]
    model = {one.name for one in fields(Chosen)}
    assert len(names) <= 12 + len(fields(Wanted)) + len(model)  # speaking, searching, and the model
    assert {one.name for one in fields(Wanted)} | model <= set(names)
    assert {"temperature", "top_p", "adapter"} == set(names) & Sampling.model_fields.keys()
