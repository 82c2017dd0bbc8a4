"""The recogniser's training: rows, held-out texts, copies through a codec, the task, and whole runs."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from llasa.codec.compact import CompactCodec
from llasa.core import Audio, Codes
from llasa.errors import ConfigError, InputError
from llasa.recognizers import load_recognizer
from llasa.text.reading import Reader
from llasa.train.recognizer.copies import chosen, copied, place
from llasa.train.recognizer.corpus import Corpus, Line, gather, is_held_out
from llasa.train.recognizer.recipe import Recipe, read
from llasa.train.recognizer.run import train
from llasa.train.recognizer.task import disturbed, masked

RATE = 16000
SMALL = {"blocks": ["convnext", "gated"], "width": 32, "stride": 2, "n_fft": 400, "n_mels": 40}
TEXTS = ["".join(said) for said in itertools.product("abcd", repeat=3)]


def spell(text: str, letter_s: float = 0.15) -> np.ndarray:
    """Return a sound in which each letter is a tone of its own."""
    pitches_hz = np.repeat([400.0 * (ord(letter) % 32) for letter in text], int(letter_s * RATE))
    return 0.2 * np.sin(2 * np.pi * pitches_hz * np.arange(len(pitches_hz)) / RATE)


def write_source(folder: Path, rows: Sequence[Mapping[str, object]], sounds: Sequence[np.ndarray]) -> Path:
    """Write one sound file with all rows in it, as Lhotse cuts."""
    folder.mkdir(parents=True)
    soundfile.write(folder / "all.flac", np.concatenate(sounds), RATE)
    source = {"type": "file", "channels": [0], "source": "all.flac"}
    recording = {"id": "all", "sources": [source], "sampling_rate": RATE}
    start, cuts = 0.0, []
    for number, (row, sound) in enumerate(zip(rows, sounds, strict=True)):
        length = len(sound) / RATE
        said = {"id": f"{folder.name}-{number:03d}", "start": 0.0, "duration": length} | dict(row)
        cuts.append({"id": said["id"], "start": start, "duration": length, "supervisions": [said]})
        start += length
    lines = [json.dumps(cut | {"recording": recording, "type": "MonoCut"}) + "\n" for cut in cuts]
    (folder / "cuts.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two voices that say the texts, and five rows of no use."""
    rows = [{"text": text, "speaker": "ann"} for text in TEXTS]
    rows += [{"text": text, "speaker": "bob"} for text in TEXTS[::2]]
    sounds = [spell(str(row["text"])) for row in rows]
    rows += [{"text": text} for text in ("", "?!", "ab", "abc" * 60, "abc")]
    lengths_s = (1.0, 1.0, 0.1, 1.0, 1.0)
    sounds += [0.2 * np.sin(np.arange(int(length_s * RATE)) * 0.3) for length_s in lengths_s]
    sounds[-1] = np.zeros(RATE)
    return write_source(tmp_path_factory.mktemp("speech") / "tones", rows, sounds)


def recipe(speech: Path, out: Path, **changes: object) -> Recipe:
    fields = {"out": str(out), "data": [{"path": str(speech)}], "steps": 8, "model": SMALL, "batch_s": 4.0}
    return Recipe.model_validate(fields | {"held_out": 0.1, "validate_every": 4} | changes)


def test_rows_of_no_use_are_named_with_their_reasons(speech: Path, tmp_path: Path) -> None:
    told = recipe(speech, tmp_path)
    found = gather(told, Reader(), 0.02)
    assert [(reject.id, reject.reason) for reject in found.rejects] == [
        ("tones-096", "no-text"), ("tones-097", "bad-text"), ("tones-098", "too-short"),
        ("tones-099", "text-too-long"),
    ]  # fmt: skip
    assert len(found.train) + len(found.held) == 97
    corpus = Corpus(found.train, found.held, "characters", RATE)
    [silent] = [line for line in (*found.train, *found.held) if line.clip.id == "tones-100"]
    assert corpus.spoken(silent) is None and corpus.bad["tones-100"].reason == "silent"


def test_a_text_is_held_out_whoever_says_it(speech: Path, tmp_path: Path) -> None:
    found = gather(recipe(speech, tmp_path), Reader(), 0.02)
    held = {line.said for line in found.held}
    assert held == {text for text in TEXTS if is_held_out(text, 0.1)} and 0 < len(held) < 20
    assert not held & {line.said for line in found.train}
    assert {line.clip.speaker for line in found.held} == {"ann", "bob"}


def test_what_a_source_keeps_for_testing_is_held_out_everywhere(tmp_path: Path) -> None:
    texts = ["aa", "bb", "cc", "dd"]
    sounds = [spell(text, 0.3) for text in texts]
    for name in ("train", "test"):
        kept = texts[:1] if name == "test" else texts
        write_source(tmp_path / name, [{"text": text} for text in kept], sounds[: len(kept)])
    (tmp_path / "test" / "cuts.jsonl").rename(tmp_path / "test" / "cuts_test.jsonl")
    told = recipe(tmp_path / "train", tmp_path, held_out=1e-9)
    data = [*told.data, told.data[0].model_copy(update={"path": str(tmp_path / "test")})]
    found = gather(told.model_copy(update={"data": data}), Reader(), 0.02)
    assert [line.said for line in found.held] == ["aa", "aa"] and len(found.train) == 3


def test_letters_of_another_language_are_gathered_from_its_texts(tmp_path: Path) -> None:
    texts = ["perché no", "città", "là"]
    rows = [{"text": text, "language": "it"} for text in texts]
    sounds = [spell("abcdefghijkl")] * 3
    source = write_source(tmp_path / "it", rows, sounds)
    found = gather(recipe(source, tmp_path, text="letters", held_out=0.4), Reader(None, ("it",)), 0.02)
    assert found.tokens == (" ", *sorted(set("".join(texts)) - {" "}))
    plain = recipe(source, tmp_path, text="characters", held_out=0.4)
    with pytest.raises(InputError, match=r"0 clips to train on, 0 held out, 3 of no use.*é"):
        gather(plain, Reader(None, ("it",)), 0.02)


def test_speakers_are_drawn_by_the_root_of_what_they_say(speech: Path, tmp_path: Path) -> None:
    found = gather(recipe(speech, tmp_path), Reader(), 0.02)
    lines = [line for line in found.train if line.clip.speaker]
    torch.manual_seed(0)
    corpus = Corpus(lines, found.held, "characters", RATE)
    drawn = [corpus.draw().clip.speaker for _ in range(2000)]
    wanted = 1 / (1 + 2**-0.5)
    assert drawn.count("ann") / len(drawn) == pytest.approx(wanted, abs=0.05)


class CountingCodec:
    """Halves the sound's amplitude."""

    name, sample_rate, codebook_size, hop_length = "half@1", RATE, 200, 1
    encoded = 0

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        self.encoded += len(audio)
        return [((sound.samples.clip(-1, 1) + 1) * 99).astype(int).tolist() for sound in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio((np.array(row, np.float32) / 99 - 1) / 2, RATE) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples


@pytest.fixture
def lines(speech: Path, tmp_path: Path) -> list[Line]:
    found = gather(recipe(speech, tmp_path), Reader(), 0.02)
    return chosen([*found.train, *found.held], 100.0)


def test_copies_are_cut_where_they_lie_and_keep_their_texts(lines: list[Line], tmp_path: Path) -> None:
    made, rejects = copied(CountingCodec(), lines, tmp_path / "copies")
    assert [reject.reason for reject in rejects] == ["silent"] and len(made) == len(lines) - 1
    corpus, originals = Corpus(made, [], "characters", RATE), Corpus(lines, [], "characters", RATE)
    for copy in made[:: len(made) // 6]:
        [line] = [line for line in lines if line.clip.id == copy.clip.id]
        heard, said = corpus.spoken(copy), originals.spoken(line)
        assert heard and said and copy.said == line.said and len(heard.samples) == len(said.samples)
        likeness = np.corrcoef(heard.samples, said.samples)[0, 1]
        assert likeness > 0.99 and np.abs(heard.samples).max() < 0.6


def test_copies_are_made_once_and_what_is_missing_is_made_again(lines: list[Line], tmp_path: Path) -> None:
    first = copied(CountingCodec(), lines, tmp_path / "copies")
    files = {path.name: path.read_bytes() for path in (tmp_path / "copies").iterdir()}
    assert set(files) == {"00000.flac", "00000.json", "00001.flac", "00001.json"}
    (tmp_path / "copies" / "00001.json").unlink()
    codec = CountingCodec()
    assert copied(codec, lines, tmp_path / "copies", seed=5) == first
    assert codec.encoded == len(lines) - 64 - 1  # the silent one is not
    assert {path.name: path.read_bytes() for path in (tmp_path / "copies").iterdir()} == files


def test_copies_of_other_weights_or_lines_lie_elsewhere(lines: list[Line], tmp_path: Path) -> None:
    folders = {place(tmp_path, "a", lines), place(tmp_path, "b", lines), place(tmp_path, "a", lines[1:])}
    assert len(folders) == 3 and place(tmp_path, "a", lines) in folders


def test_chosen_lines_fill_the_hours_for_every_speaker(lines: list[Line]) -> None:
    few = chosen(lines, 0.005)
    assert 18 <= sum(line.length_s for line in few) <= 20
    assert few == chosen(lines, 0.005) and {"ann", "bob"} <= {line.clip.speaker for line in few}
    assert [line.length_s for line in few] == sorted(line.length_s for line in few)


def test_sound_of_no_use_alone_is_told(tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    source = write_source(tmp_path / "silence", rows, [np.zeros(RATE)] * len(rows))
    with pytest.raises(InputError, match=r"no clip of use.*silent"):
        train(recipe(source, tmp_path / "run"))


def test_other_weights_of_the_codec_are_another_run(speech: Path, tmp_path: Path) -> None:
    CompactCodec.random(0).save(tmp_path / "codec")
    told = recipe(
        speech, tmp_path / "run", steps=1, copies={"codec": str(tmp_path / "codec"), "hours": 0.003}
    )
    train(told)
    CompactCodec.random(1).save(tmp_path / "codec")
    with pytest.raises(ConfigError, match="codec: was"):
        train(told)


def test_masking_silences_some_places_and_changes_no_others() -> None:
    torch.manual_seed(0)
    mel = torch.rand(4, 40, 200) + 1
    out = masked(mel, share=0.2)
    assert 0.02 < float((out == 0).float().mean()) < 0.7
    assert torch.equal(out[out != 0], mel[out != 0])


def test_disturbed_speech_repeats_with_the_seed() -> None:
    samples, made = spell("abc").astype(np.float32), []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(disturbed(samples, RATE))
    np.testing.assert_array_equal(*made)
    assert len(samples) <= len(made[0]) <= len(samples) + RATE // 2 and made[0].dtype == np.float32


def rows_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "state" / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_a_run_learns_goes_on_and_leaves_a_recogniser(speech: Path, tmp_path: Path) -> None:
    CompactCodec.random().save(tmp_path / "codec")
    copies = {"codec": str(tmp_path / "codec"), "hours": 0.01}
    told = recipe(speech, tmp_path / "run", steps=40, validate_every=10, copies=copies)
    measures = train(told)
    assert measures is not None and set(measures) == {
        "held_original_tokens", "held_original_words", "held_copy_tokens", "held_copy_words"
    }  # fmt: skip
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [10, 20, 30, 40] and rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    made = tmp_path / "run" / "recognizer"
    heard = load_recognizer(f"ctc:{made}", {}).transcribe([Audio(spell("abc").astype(np.float32), RATE)])
    assert set(heard[0].text) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert json.loads((tmp_path / "run" / "report.json").read_text("utf-8")) == measures
    weights = (made / "model.safetensors").read_bytes()
    assert train(told) == measures and (made / "model.safetensors").read_bytes() == weights
    with pytest.raises(ConfigError, match="learning_rate"):
        train(told.model_copy(update={"learning_rate": 1e-3}))


@pytest.mark.fault("R2")
def test_a_stopped_run_ends_where_a_whole_one_does(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(speech, tmp_path / "whole"))

    from llasa.train.recognizer import task

    step: Callable[..., object] = task.CtcTask.step

    def stopping(self: task.CtcTask, index: int) -> object:
        if index == 5:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr("llasa.train.recognizer.run.SAVE_EVERY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(task.CtcTask, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(speech, tmp_path / "stopped"))
    train(recipe(speech, tmp_path / "stopped"))
    ends = [
        (tmp_path / name / "recognizer" / "model.safetensors").read_bytes() for name in ("whole", "stopped")
    ]
    assert ends[0] == ends[1]


def test_recipes_are_read_with_settings_over_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('out = "a"\nsteps = 5\nlayout = "A"\n[[data]]\npath = "x"\n', "utf-8")
    told = read(path, ["data.0.path=y", "copies.hours=3.0", "text=letters"])
    assert (told.data[0].path, told.text_form, told.copies and told.copies.hours) == ("y", "characters", 3.0)
    assert told.network((" ", "ö")).vocabulary == (" ", "ö") and told.network(()).width == 192
    for settings, found in {
        ("stepz=1",): "Did you mean 'steps'",
        ("data.3.path=y",): "found no item .3.",
        ("layout.x=1",): "'x' is to be in a table",
        ("steps=0",): "steps = 0",
        ("model.width=3",): "blocks' is missing",
    }.items():
        with pytest.raises(ConfigError, match=found):
            read(path, settings)
    path.write_text('out = "a"\nsteps = 5\n[[data]]\npath = "x"\n', "utf-8")
    with pytest.raises(ConfigError, match=r"neither layout nor \[model\]"):
        read(path)
