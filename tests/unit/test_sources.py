"""Every format gives the same clips, is told from the others, and a bad row is one reject and no more."""

import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llasa.audio import encode, write
from llasa.core import Audio, Clip
from llasa.data.rejects import Reject
from llasa.data.sounds import load
from llasa.data.sources import KINDS, open_source
from llasa.data.sources.coded import Coded
from llasa.data.sources.lines import MAX_LINE
from llasa.errors import ConfigError, InputError
from llasa.prompt import PLAIN, Prompt
from llasa.train.tokenizer import build_character_tokenizer
from tests.layouts import (
    LAYOUTS,
    SOUND,
    TEXTS,
    alone,
    common_voice,
    emilia,
    fish,
    hf_folder,
    lhotse,
    lines,
    ljspeech,
    sounds,
    webdataset,
)  # fmt: skip


@pytest.mark.parametrize(("build", "expected"), LAYOUTS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_every_format_is_told_and_read(build, expected, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    build(tmp_path / "set")
    source = open_source(tmp_path / "set")
    assert source.kind == expected[0] and not source.coded
    rows = list(source.rows())
    assert rows == list(source.rows())
    assert all(isinstance(row, Clip) for row in rows), rows
    assert len(rows) == len({row.id for row in rows}) == 2
    assert {row.text for row in rows} == ({""} if build is alone else set(TEXTS.values()))
    assert {key: getattr(rows[0], key) for key in expected[1]} == expected[1]
    for row in rows:
        audio = load(pickle.loads(pickle.dumps(row)))
        assert abs(audio.duration_s - 0.5) < 0.06  # MP3 pads


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_of_a_kind_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(ConfigError, match=f"not of kind '{kind}'.*notes.md"):
        open_source(tmp_path, kind)


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"unknown kind 'ljspech'. Did you mean 'ljspeech'"):
        open_source(tmp_path, "ljspech")
    with pytest.raises(ConfigError, match="no kind fits, found no files"):
        open_source(tmp_path)
    fish(tmp_path)
    emilia(tmp_path)
    with pytest.raises(ConfigError, match=r"emilia \(EN_B0.jsonl\), fish .*--kind"):
        open_source(tmp_path)
    assert open_source(tmp_path, "fish").kind == "fish"


def test_sounds_beside_an_unknown_manifest_are_not_taken_without_their_texts(tmp_path: Path) -> None:
    sounds(tmp_path)
    lines(tmp_path / "texts.csv", "a;Hello there.")
    with pytest.raises(ConfigError, match=r"texts\.csv"):
        open_source(tmp_path)
    assert len(list(open_source(tmp_path, "audio").rows())) == 2


def test_one_manifest_can_be_named(tmp_path: Path) -> None:
    common_voice(tmp_path)
    (row,) = open_source(tmp_path / "en" / "validated.tsv").rows()
    assert (row.text, row.split) == ("unused", "")


def test_the_language_of_rows_that_do_not_say(tmp_path: Path) -> None:
    ljspeech(tmp_path)
    assert {row.language for row in open_source(tmp_path, language="it").rows()} == {"it"}


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    ljspeech(tmp_path / "set")
    write(tmp_path / "secret.wav", SOUND)
    rows = ["a|Hi|Hi", "../../secret|Hi|Hi", f"{tmp_path}/secret|Hi|Hi", "b|Hi|Hi"]
    lines(tmp_path / "set" / "metadata.csv", *rows)
    one, two, three, four = open_source(tmp_path / "set").rows()
    assert isinstance(one, Clip) and isinstance(four, Clip)
    assert (two.reason, two.place) == ("malformed", "metadata.csv:2") and "leads out" in two.detail
    assert (three.reason, three.place) == ("malformed", "metadata.csv:3")


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there")
@pytest.mark.parametrize("tarred", [False, True])
def test_names_that_cannot_be_written_are_rejects(tarred: bool, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "caf\udce9"):
        (folder / f"{name}.wav").write_bytes(encode(SOUND, "wav"))
        (folder / f"{name}.txt").write_text("Hi.")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    good, bad = open_source(tmp_path / "0.tar" if tarred else folder).rows()
    assert isinstance(good, Clip) and good.text == "Hi."
    assert (bad.reason, "cannot be printed" in bad.detail) == ("malformed", True)


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"Permission denied.*readable"):
        open_source(tmp_path)


BAD = {
    "no JSON": b"{oops",
    "not an object": b"[1, 2]",
    "no sound": b'{"text": "x"}',
    "NUL in the name": b'{"audio_filepath": "a\\u0000.wav", "text": "x"}',
    "no UTF-8": b'{"audio_filepath": "a.wav", "text": "\xe9t\xe9"}',
    "text is a list": b'{"audio_filepath": "a.wav", "text": ["x"]}',
    "a time that is none": b'{"audio_filepath": "a.wav", "offset": NaN, "duration": 1, "text": "x"}',
    "a time before the start": b'{"audio_filepath": "a.wav", "offset": -1, "duration": 1, "text": "x"}',
    "deep": b"[" * 100_000,
    "a number of a million digits": b"1" * 1_000_000,
    "half a character in a name": b'{"audio_filepath": "a.wav", "id": "\\ud800", "text": "x"}',
    "a very long id": b'{"audio_filepath": "a.wav", "id": "' + b"x" * 5000 + b'", "text": "x"}',
    "outside": b'{"audio_filepath": "../../a.wav", "text": "x"}',
    "a line without end": b'{"audio_filepath": "' + b"x" * (MAX_LINE + 10),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_row_is_one_reject_and_the_next_goes_on(bad: bytes, tmp_path: Path) -> None:
    sounds(tmp_path)
    good = b'{"audio_filepath": "a.wav", "text": "x"}\n'
    (tmp_path / "rows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + good + bad + b"\n" + good.replace(b"a.wav", b"b.wav")
    )
    first, middle, last = open_source(tmp_path).rows()
    assert (first.id, last.id) == ("a", "b")
    assert isinstance(middle, Reject) and middle.place == "rows.jsonl:2"
    assert middle.reason == ("text-too-long" if len(bad) > MAX_LINE else "malformed")


def test_bad_rows_of_lists_and_tables(tmp_path: Path) -> None:
    hf_folder(tmp_path)
    path = tmp_path / "train" / "metadata.csv"
    path.write_text(path.read_text() + 'a.wav,"not closed\na.wav,one,two,three\n,x\n', encoding="utf-8")
    rows = list(open_source(tmp_path).rows())
    assert [row.place for row in rows[2:]] == [f"train/metadata.csv:{line}" for line in (4, 5, 6)]
    assert {row.reason for row in rows[2:]} == {"malformed"}


def test_utf16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    sounds(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"audio": "a.wav", "text": "x"}', encoding="utf-16")
    with pytest.raises(ConfigError):
        open_source(tmp_path)
    (tmp_path / "rows.tsv").write_text("path\tsentence\n", encoding="utf-8")
    source = open_source(tmp_path / "rows.tsv", "common-voice")
    (tmp_path / "rows.tsv").write_text("path\tsentence\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"UTF-16\. Save it as UTF-8"):
        list(source.rows())


def test_damaged_archives_give_what_is_whole_and_a_reject(tmp_path: Path) -> None:
    webdataset(tmp_path)
    path = tmp_path / "shard-0.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"./b.mp3") + 600])
    *clips, reject = sorted(open_source(tmp_path).rows(), key=lambda row: isinstance(row, Reject))
    assert clips[0].text == TEXTS["a"] and load(clips[0])
    assert (reject.place, reject.reason) == ("shard-0.tar", "unreadable")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write(b'{"audio": "a.wav", "text": "x"}\n' * 10_000)
    packed = (tmp_path / "rows.jsonl.gz").read_bytes()
    source = open_source(tmp_path / "rows.jsonl.gz")
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[:-20])
    *_, last = source.rows()
    assert last.reason == "unreadable"


def test_a_group_without_sound_is_a_reject(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in (("a.json", b'{"text": 1}'), ("b.wav", encode(SOUND, "wav")), ("b.txt", b"Hi.")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    reject, clip = open_source(tmp_path).rows()
    assert (reject.reason, reject.place) == ("malformed", "x.tar:a")
    assert (clip.id, clip.text) == ("x/b", "Hi.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recording_id": "gone"}, "missing"),
        ({"channel": 1}, "channels"),
        ({"duration": None}, "malformed"),
        ({"alignment": {"word": [["late", 5.0, 1.0]]}}, "malformed"),
        ({"alignment": {"word": "one"}}, "malformed"),
    ],
)
def test_bad_supervisions(change: dict, reason: str, tmp_path: Path) -> None:
    lhotse(tmp_path)
    with gzip.open(tmp_path / "supervisions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    lines(tmp_path / "supervisions.jsonl", {**rows[0], **change}, rows[1])
    (tmp_path / "supervisions.jsonl.gz").unlink()
    reject, clip = open_source(tmp_path).rows()
    assert (reject.reason, reject.place) == (reason, "supervisions.jsonl:1")
    assert isinstance(clip, Clip)


# rows that are codes already


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_character_tokenizer(folder, 32)
    return folder


def memmap(root: Path, rows: list[list[int]], width: int = 64) -> None:
    table = np.zeros((len(rows), width), np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row[:width]
    table.tofile(root / "val_input_ids.memmap")
    np.save(root / "val_input_ids_shape.npy", np.array(table.shape))


def test_the_memmap_gives_texts_and_codes(tokenizer: Path, tmp_path: Path) -> None:
    prompt = Prompt.load(tokenizer, "llasa-plain", 32)
    good, _ = prompt.example("hello there", [3, 1, 31])
    cut, _ = prompt.example("too long", [5] * 100)
    odd = [*good[:-2], 0, good[-1]]
    memmap(tmp_path, [good, cut, odd, [1, 2, 3]])
    with pytest.raises(ConfigError, match=r"no tokenizer.json"):
        list(open_source(tmp_path).rows())
    source = open_source(tmp_path, tokenizer=tokenizer)
    assert source.coded and source.kind == "llasa-memmap"
    one, *rejects = source.rows()
    assert one == Coded("val:0", "hello there", [3, 1, 31], "dev", "val_input_ids.memmap:1", language="en")
    assert [row.reason for row in rejects] == ["too-long", "malformed", "malformed"]
    assert "no end marker" in rejects[0].detail
    assert PLAIN.head not in one.text


def test_a_memmap_that_is_not_its_shape(tokenizer: Path, tmp_path: Path) -> None:
    memmap(tmp_path, [[1, 2, 3]])
    (tmp_path / "val_input_ids.memmap").write_bytes(b"123")
    with pytest.raises(InputError, match="3 bytes are no int32 of shape"):
        list(open_source(tmp_path, tokenizer=tokenizer).rows())


def test_shapes_are_never_unpickled(tokenizer: Path, tmp_path: Path) -> None:
    memmap(tmp_path, [[1, 2, 3]])
    np.save(tmp_path / "val_input_ids_shape.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="pickle"):
        list(open_source(tmp_path, tokenizer=tokenizer).rows())


def test_codes_in_json_lines(tmp_path: Path) -> None:
    lines(
        tmp_path / "train.jsonl",
        {"text": "hi", "code": [1, 2]},
        {"text": "hi", "code": [[3]]},
        {"text": "x", "code": ["a"]},
        {"text": "ja", "code": [4], "speaker": "ada", "language": "german", "split": "test"},
    )
    one, two, reject, last = open_source(tmp_path, language="it_IT").rows()
    assert (one.codes, two.codes, one.split, one.id) == ([1, 2], [3], "train", "train:1")
    assert (reject.reason, reject.place) == ("malformed", "train.jsonl:3")
    assert (one.speaker, one.language) == ("", "it")
    assert (last.speaker, last.language, last.split) == ("ada", "de", "test")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_rejects(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    heads = {
        "rows.jsonl": b'{"audio": "a.wav"}\n',
        "list.txt": b"a.wav|x\n" * 20,  # more than are looked at, so that it stays a list
        "t.tsv": b"path\tsentence\n",
    }
    filled = [line for line in data.split(b"\n") if line.strip()]
    for name, head in heads.items():
        (folder / name).write_bytes(head + data)
        rows = list(open_source(folder / name).rows())
        assert all(isinstance(row, Clip | Reject) for row in rows)
        good = head.count(b"\n") - (name == "t.tsv")
        assert len(rows) <= good + len(filled)
        assert len({row.place for row in rows if isinstance(row, Reject)}) == len(rows) - sum(
            isinstance(row, Clip) for row in rows
        )


def test_samples_in_a_table(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as tables

    cells = [{"array": SOUND.samples.tolist(), "sampling_rate": rate} for rate in (16000, 1)]
    cells.append({"array": None, "sampling_rate": 16000})
    tables.write_table(pyarrow.table({"audio": cells, "text": ["x"] * 3}), tmp_path / "a.parquet")
    one, two, three = open_source(tmp_path).rows()
    assert np.allclose(load(one).samples, SOUND.samples)
    for row, reason in ((two, "bad-rate"), (three, "missing")):
        with pytest.raises(InputError) as error:
            load(row)
        assert error.value.reason == reason


def test_rows_of_a_table_in_any_order(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as tables

    made = [Audio(SOUND.samples[: 5000 + 10 * i], 16000) for i in range(40)]
    cells = [{"bytes": encode(one, "wav"), "path": None} for one in made]
    tables.write_table(pyarrow.table({"audio": cells}), tmp_path / "a.parquet", row_group_size=30)
    rows = list(open_source(tmp_path).rows())
    for index in (0, 39, 5, 29, 4, 35, 17):
        assert len(load(rows[index]).samples) == 5000 + 10 * index
