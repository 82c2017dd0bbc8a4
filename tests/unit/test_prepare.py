"""Preparing: nothing is lost, bad rows have a reason, a stopped run ends as if it had not been."""

import hashlib
import json
import os
import signal
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llasa import audio
from llasa.core import Audio, Clip, Codes
from llasa.data import shards
from llasa.data.encode import Options
from llasa.data.prepare import SEEN, Prepared, Progress, prepare
from llasa.data.rejects import Reject
from llasa.data.seen import Seen
from llasa.data.shards import Row, Shards
from llasa.data.sources.coded import Coded
from llasa.errors import BundleError, ConfigError, InputError, Interrupted
from tests.listed import Listed, Plain
from tests.sounds import speechlike

SMALL = Options(shard_rows=4, held_out="none")


CODEC = Plain()


def sound(folder: Path, name: str, level: float = 0.3, duration_s: float = 0.5) -> str:
    path = folder / f"{name}.wav"
    made = speechlike(duration_s, level=level)
    audio.write(path, made)
    return str(path)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [
        Clip(
            f"clip-{n}",
            sound(tmp_path, f"clip-{n}", 0.1 + n / 50),
            f"This is number {n}.",
            f"speaker {n % 3}",
        )
        for n in range(10)
    ]


def run(out: Path, rows: Sequence[Clip | Coded | Reject], options: Options = SMALL, **more: Any) -> Prepared:
    more = {"max_rejects": 1.0} | more
    return prepare(Listed(rows), out, CODEC, options, **more)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


def rejects(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rows_become_codes(tmp_path: Path, clips: list[Clip]):
    steps = list[Progress]()
    done = run(tmp_path / "out", clips, watch=steps.append)
    found = Shards(tmp_path / "out", codec=CODEC.name)
    assert [row.id for row in found] == [clip.id for clip in clips]
    assert (
        found[3].text == "This is number 3." and found[3].speaker == "speaker 0" and found[3].language == "en"
    )
    assert [row.duration_s for row in found] == [len(row.codes) / found.header.frame_rate for row in found]
    assert (done.rows, done.kept, done.shards, done.rejects) == (10, 10, 3, {})
    assert done.speech_s == pytest.approx(sum(row.duration_s for row in found))
    assert steps[-1].rows == steps[-1].total == 10 and len(steps) >= 10
    assert sorted(hashes(tmp_path / "out")) == [
        "index.jsonl", "rejects.jsonl", "run.json", *(f"train-0000{n}.parquet" for n in range(3)),
    ]  # fmt: skip


def test_codes_are_those_of_the_clip_alone(tmp_path: Path, clips: list[Clip]):
    run(tmp_path / "out", clips)
    alone = audio.loudness(audio.trim_silence(audio.read(clips[4].audio)))
    assert Shards(tmp_path / "out")[4].codes == CODEC.encode([alone])[0]


def test_word_ends_count_from_what_was_trimmed(tmp_path: Path):
    made = speechlike(1.0)
    padded = Audio(
        np.concatenate([np.zeros(16_000, np.float32), made.samples, np.zeros(8000, np.float32)]), 16_000
    )
    audio.write(tmp_path / "a.wav", padded)
    words = (("one", 1.4), ("two", 1.96), ("three", 2.4))
    run(tmp_path / "out", [Clip("a", str(tmp_path / "a.wav"), "one two three", words=words)])
    row, rate = Shards(tmp_path / "out")[0], CODEC.sample_rate / CODEC.hop_length
    assert row.duration_s == pytest.approx(1.2, abs=0.05)  # 0.1 s of silence is left at each end
    assert row.word_ends == [round(0.5 * rate), round(1.06 * rate), len(row.codes)]


PLANTED = {
    "no-text": "...", "bad-text": "a\x00b", "text-too-long": "a " * 3000, "half": "\ud800 of", "empty": "",
}  # fmt: skip


@pytest.mark.fault("R6")
def test_bad_rows_have_a_reason_and_nothing_is_lost(tmp_path: Path, clips: list[Clip]):
    silent, short = tmp_path / "silent.wav", sound(tmp_path, "short", duration_s=0.1)
    audio.write(silent, Audio(np.zeros(8000, np.float32), 16_000))
    clips[2] = replace(clips[2], audio=str(silent))
    clips[3] = replace(clips[3], audio=str(tmp_path / "gone.wav"))
    clips[4] = replace(clips[4], audio=short)
    bad = [replace(clips[0], id=name, text=text) for name, text in PLANTED.items()]
    row = Reject("", "metadata-\udce9.csv:7", "malformed", "It has one column.")
    rows = [*clips[:6], row, *clips[6:], *bad]
    done = run(tmp_path / "out", rows)
    reasons = {one["id"] or one["place"]: one["reason"] for one in rejects(tmp_path / "out")}
    assert reasons == {
        "clip-2": "silent", "clip-3": "missing", "clip-4": "too-short", "metadata-\udce9.csv:7": "malformed",
        "no-text": "no-text", "bad-text": "bad-text", "text-too-long": "text-too-long", "half": "bad-text",
        "empty": "no-text",
    }  # fmt: skip
    assert done.kept + sum(done.rejects.values()) == done.rows == len(rows)
    assert all(one["detail"] and one["place"] for one in rejects(tmp_path / "out"))


@pytest.mark.fault("R7")
def test_what_comes_twice_is_kept_once(tmp_path: Path, clips: list[Clip]):
    composed, again = unicodedata.normalize("NFC", "clip-é"), unicodedata.normalize("NFD", "clip-é")
    rows = [
        replace(clips[0], id=composed), clips[1], replace(clips[2], id="clip-1"), replace(clips[3], id=again),
        clips[4], replace(clips[5], id="CLIP-4"), clips[6], replace(clips[6], id="copy"),
        replace(clips[7], audio="gone"), clips[7],
    ]  # fmt: skip
    run(tmp_path / "out", rows)  # the last of each pair is in another shard
    assert [row.id for row in Shards(tmp_path / "out")] == [composed, "clip-1", "clip-4", "clip-6", "clip-7"]
    told = {(one["id"], one["reason"]) for one in rejects(tmp_path / "out")}
    assert told == {
        ("clip-1", "duplicate-id"), (again, "duplicate-id"), ("CLIP-4", "duplicate-id"),
        ("copy", "duplicate-audio"), ("clip-7", "missing"),
    }  # fmt: skip
    assert "Unicode" in next(one["detail"] for one in rejects(tmp_path / "out") if one["id"] == "CLIP-4")


class Stubborn(Plain):
    """Cannot encode sounds of one length, nor batches that hold one."""

    def __init__(self, error: Exception) -> None:
        super().__init__("stubborn@0")
        self.error = error

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        if any(len(one.samples) > 10_000 for one in audio):
            raise self.error
        return super().encode(audio)


def test_a_clip_that_cannot_be_encoded_does_not_take_others_along(tmp_path: Path, clips: list[Clip]):
    clips[1] = replace(clips[1], audio=sound(tmp_path, "long", duration_s=0.8))
    prepare(Listed(clips), tmp_path / "out", Stubborn(RuntimeError("no")), SMALL, max_rejects=1)
    assert [(one["id"], one["reason"]) for one in rejects(tmp_path / "out")] == [("clip-1", "failed")]
    with pytest.raises(MemoryError):  # is no row's fault
        prepare(Listed(clips), tmp_path / "other", Stubborn(MemoryError()), SMALL)


def test_too_many_rejects_stop_it_and_it_goes_on_when_allowed(tmp_path: Path, clips: list[Clip]):
    rows = [replace(clips[0], id=f"bad-{n}", audio="gone") for n in range(250)] + clips
    with pytest.raises(InputError, match=r"200 of 200 rows are rejects \(100%\).*200 missing.*--max-rejects"):
        run(tmp_path / "out", rows, max_rejects=0.9)
    with pytest.raises(InputError, match="200 of 200"):  # the same again is no way round it
        run(tmp_path / "out", rows, max_rejects=0.9)
    done = run(tmp_path / "out", rows, max_rejects=1.0)
    assert (done.kept, done.rejects, done.shards_before) == (10, {"missing": 250}, 50)
    with pytest.raises(InputError, match=r"no row is left.*5 missing"):
        run(tmp_path / "none", rows[:5])
    with pytest.raises(InputError, match="no rows"):
        run(tmp_path / "empty", [])


def test_codes_are_imported(tmp_path: Path):
    rows = [
        Coded("a", "Hello.", [1, 2, 3], "train", "x:0", "ada", "de"),
        Coded("b", "You.", [5000], "val", "x:1"),
    ]
    done = prepare(Listed([*rows, Coded("c", "Me.", [4])]), tmp_path, CODEC, max_rejects=1)
    rate = CODEC.sample_rate / CODEC.hop_length
    assert Shards(tmp_path)[0] == Row("a", "Hello.", "ada", "de", 3 / rate, [1, 2, 3], [])
    assert done.rejects == {"malformed": 1} and rejects(tmp_path)[0]["place"] == "x:1"


@pytest.mark.fault("R1")
def test_the_same_again_does_nothing(tmp_path: Path, clips: list[Clip]):
    run(tmp_path / "out", clips)
    before = hashes(tmp_path / "out")
    done = run(tmp_path / "out", clips, watch=lambda step: pytest.fail("it worked"))
    assert hashes(tmp_path / "out") == before and (done.shards, done.shards_before) == (3, 3)


class Killed(BaseException):
    """Stands for what no handler sees."""


def killed_at(monkeypatch: pytest.MonkeyPatch, place: int) -> list[str]:
    """Let the process die at the n-th change of the disk, or after it; returns what was done."""
    done = list[str]()

    def dying(name: str):
        real = getattr(os, name)

        def call(*given, **named):
            if len(done) == place:
                raise Killed
            result = real(*given, **named)
            done.append(name)
            if len(done) == place:
                raise Killed
            return result

        return call

    for name in ("fsync", "replace", "truncate"):
        monkeypatch.setattr(os, name, dying(name))
    return done


@pytest.mark.fault("R1")
def test_killed_at_every_write_it_ends_the_same(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
):
    rows = [
        *clips[:5],
        replace(clips[0], id="again"),
        *clips[5:],
        replace(clips[9], id="CLIP-1", audio="gone"),
    ]
    run(tmp_path / "whole", rows)
    whole, place, alive = hashes(tmp_path / "whole"), 0, False
    while not alive:
        place += 1
        out = tmp_path / f"out-{place}"
        with monkeypatch.context() as patch:
            done = killed_at(patch, place)
            try:
                run(out, rows)
                alive = True
            except Killed:
                assert len(done) == place
        run(out, rows)
        assert hashes(out) == whole, f"killed at write {place}"
    assert place > 15


@pytest.mark.fault("R1")
def test_torn_lines_are_forgotten(tmp_path: Path, clips: list[Clip]):
    run(tmp_path / "whole", [*clips, Reject("x", "y:1", "malformed", "z")])
    stop = Interrupted("enough")

    def watch(step: Progress) -> None:
        if step.rows > 8:
            raise stop

    with pytest.raises(Interrupted):
        run(tmp_path / "out", [*clips, Reject("x", "y:1", "malformed", "z")], watch=watch)
    for name in ("index.jsonl", "rejects.jsonl"):
        with (tmp_path / "out" / name).open("ab") as file:
            file.write(b'{"torn": "li')
    (tmp_path / "out" / ".0123.part").write_bytes(b"half a shard")
    done = run(tmp_path / "out", [*clips, Reject("x", "y:1", "malformed", "z")])
    assert done.shards_before == 2 and hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    assert not (tmp_path / "out" / ".0123.part").exists()


@pytest.mark.fault("R15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_at_once(tmp_path: Path, clips: list[Clip], number: int):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="Run the same command again"):
        run(
            tmp_path / "out",
            clips,
            watch=lambda step: os.kill(os.getpid(), number) if step.rows == 6 else None,
        )
    assert signal.getsignal(number) is before
    assert run(tmp_path / "out", clips).shards_before == 1


class Deaf(Plain):
    """Swallows what a signal raises while it works, as callbacks of C libraries do."""

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        with suppress(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().encode(audio)


@pytest.mark.fault("R15")
def test_a_signal_is_not_lost_in_a_library(tmp_path: Path, clips: list[Clip]):
    with pytest.raises(Interrupted, match="SIGTERM"):
        prepare(Listed(clips), tmp_path / "out", Deaf(), SMALL)
    assert not (tmp_path / "out" / "index.jsonl").exists()


@pytest.mark.fault("R17")
@pytest.mark.parametrize("change", ["options", "codec", "rows", "text"])
def test_what_was_begun_otherwise_is_refused(tmp_path: Path, clips: list[Clip], change: str):
    run(tmp_path / "out", clips)
    rows = {"rows": clips[1:], "text": [replace(clips[0], text="No."), *clips[1:]]}.get(change, clips)
    options = SMALL.model_copy(update={"lufs": -20.0}) if change == "options" else SMALL
    other = Plain("other@1") if change == "codec" else CODEC
    said = {"options": "lufs: was -23.0, is -20.0", "codec": 'is "other@1"', "rows": "rows: was 10, is 9"}
    with pytest.raises(ConfigError, match=said.get(change, "source.digest: was")):
        prepare(Listed(rows), tmp_path / "out", other, options, max_rejects=1)


@pytest.mark.fault("R17")
def test_the_data_set_may_move(tmp_path: Path, clips: list[Clip]):
    run(tmp_path / "out", clips)
    (tmp_path / "elsewhere").mkdir()
    moved = [replace(clip, audio=str(tmp_path / "elsewhere" / Path(clip.audio).name)) for clip in clips]
    assert run(tmp_path / "out", moved).shards_before == 3


def test_other_folders_are_left_alone(tmp_path: Path, clips: list[Clip]):
    with pytest.raises(ConfigError, match="holds other things"):
        run(tmp_path, clips)
    assert not list(tmp_path.glob(".*"))
    run(tmp_path / "out", clips)
    (tmp_path / "out" / "train-00001.parquet").unlink()
    with pytest.raises(BundleError, match="train-00001"):
        run(tmp_path / "out", clips)


@pytest.mark.fault("R16")
def test_one_writer_at_a_time(tmp_path: Path, clips: list[Clip]):
    def second(step: Progress) -> None:
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* is writing there"):
            run(tmp_path / "out", clips)

    run(tmp_path / "out", clips, watch=second)


@pytest.mark.fault("R4")
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
):
    run(tmp_path / "whole", clips)
    real, calls = os.fsync, list[int]()

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    with (
        monkeypatch.context() as patch,
        pytest.raises(ConfigError, match=r"Writing '.*': .*No space.*Free \d+ bytes"),
    ):
        patch.setattr(os, "fsync", full)
        run(tmp_path / "out", clips)
    left = [json.loads(line) for line in (tmp_path / "out/index.jsonl").read_text().splitlines()]
    assert len(left) == 1 and len(shards.read(tmp_path / "out/train-00000.parquet")) == 4
    assert run(tmp_path / "out", clips).shards_before == 1 and hashes(tmp_path / "out") == hashes(
        tmp_path / "whole"
    )


@pytest.mark.fault("R4")
def test_a_disk_too_full_for_a_new_file_is_said(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
):
    real = Path.open

    def full(self: Path, *given: Any, **named: Any) -> Any:
        if self.name == "rejects.jsonl":
            raise OSError(28, "No space left on device")
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ConfigError, match=r"rejects.jsonl': .*No space.*Free 4096 bytes"):
        run(tmp_path / "out", clips)


@pytest.mark.fault("R4")
def test_a_disk_too_full_to_begin_does_not_call_what_is_there_damaged(tmp_path: Path):
    (tmp_path / SEEN).mkdir()  # sqlite cannot open it
    with pytest.raises(ConfigError, match=r"Free .* run the same command again"):
        Seen(tmp_path / SEEN, 3)
