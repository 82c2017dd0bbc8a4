"""Voices: made from fit recordings only, kept in files that tell when damaged, found by safe names only."""

import contextlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save as serialize

from llasa.audio import loudness, resample
from llasa.core import Audio, Codes, Voice
from llasa.errors import BundleError, ConfigError, InputError
from llasa.voice import VoiceStore, check_codec, create, default_voice_folder, load, save

RATE = 16_000


class LevelCodec:
    """Codes a frame's power: enough to see what was encoded."""

    name = "level@1"
    sample_rate = 8000
    codebook_size = 100
    hop_length = 80

    def encode(self, audio: list[Audio]) -> list[Codes]:
        self.heard = audio
        return [[int(99 * min(np.abs(frame).max(), 1)) for frame in self._frames(clip)] for clip in audio]

    def decode(self, codes: list[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio(np.repeat(np.array(row, np.float32) / 99, self.hop_length), 8000) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // self.hop_length

    def _frames(self, clip: Audio) -> np.ndarray:
        return clip.samples[: len(clip.samples) // 80 * 80].reshape(-1, 80)


def tone(duration_s: float = 2.0, level: float = 0.5) -> Audio:
    t = np.arange(round(duration_s * RATE)) / RATE
    return Audio((level * np.sin(2 * np.pi * 220 * t)).astype(np.float32), RATE)


def made(name: str = "ada", **options: object) -> Voice:
    return create(name, tone(), "Hello there.", LevelCodec(), **options)


# making


def test_create_trims_levels_resamples_and_encodes():
    codec, gap = LevelCodec(), np.zeros(RATE, np.float32)
    sound = Audio(np.concatenate([gap, tone(2.0, 0.9).samples, gap]), RATE)
    voice = create("ada", sound, "  Hello there.\n", codec, source="me", consent="yes")
    assert (voice.name, voice.text, voice.codec, voice.source, voice.consent) == (
        "ada",
        "Hello there.",
        "level@1",
        "me",
        "yes",
    )
    [heard] = codec.heard
    assert heard.sample_rate == RATE  # the codec resamples, in one step
    assert voice.reference is not None and voice.reference.sample_rate == codec.sample_rate == 8000
    assert heard.duration_s == pytest.approx(2.2, abs=0.03)
    assert np.abs(heard.samples - loudness(heard).samples).max() < 0.01
    assert voice.codes == codec.encode([heard])[0]
    np.testing.assert_array_equal(voice.reference.samples, resample(heard, 8000).samples)
    assert made(keep_reference=False).reference is None


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (tone(0.9), "lasts 0.90 s"),
        (tone(30.1), "lasts 30.1 s.*at most 30 s"),
        (Audio(np.zeros(2 * RATE, np.float32), RATE), "silent"),
        (Audio(np.zeros(0, np.float32), RATE), "lasts 0.00 s"),
        (Audio(np.full(2 * RATE, np.nan, np.float32), RATE), "not finite"),
        (Audio(np.append(tone(0.5).samples, np.zeros(2 * RATE, np.float32)), RATE), "only 0.60 s of it"),
    ],
)
def test_create_refuses_unfit_recordings(audio, words):
    with pytest.raises(InputError, match=f"Making voice 'ada': .*{words}"):
        create("ada", audio, "Hello.", LevelCodec())


def test_create_refuses_an_empty_transcript():
    with pytest.raises(InputError, match="transcript is empty"):
        create("ada", tone(), " \n", LevelCodec())


HOSTILE = [
    "",
    "A",
    "-a",
    "_a",
    "a b",
    "a.b",
    "..",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\n",
    "a\0",
    "ä",
    "a" * 65,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_names_are_refused_everywhere(name, tmp_path):
    store = VoiceStore(tmp_path)
    voice = Voice(name, "Hello.", [1], "level@1")
    for attempt in (
        lambda: create(name, tone(), "Hello.", LevelCodec()),
        lambda: save(voice, tmp_path / "x.safetensors"),
        lambda: store.get(name),
        lambda: store.add(voice),
        lambda: store.remove(name),
    ):
        with pytest.raises(ConfigError, match="not a valid name"):
            attempt()
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=70))
def test_a_name_never_reaches_beyond_the_folder(name):
    store = VoiceStore("no-such-folder")
    with pytest.raises(ConfigError):
        store.get(name)


def test_check_codec():
    check_codec(made(), LevelCodec())
    with pytest.raises(
        BundleError, match=r"Voice 'ada' was made with codec 'x@2', this bundle uses 'level@1'. Make it again"
    ):
        check_codec(Voice("ada", "Hello.", [1], "x@2"), LevelCodec())
    with pytest.raises(BundleError, match="has code 100"):
        check_codec(Voice("ada", "Hello.", [1, 100], "level@1"), LevelCodec())


# files


@pytest.mark.parametrize("keep", [True, False])
def test_a_voice_survives_its_file(tmp_path, keep):
    voice = made(source="a book, read by Ada in Köln", consent="I agree.\nAda", keep_reference=keep)
    save(voice, tmp_path / "any.safetensors")
    back = load(tmp_path / "any.safetensors")
    for field in ("name", "text", "codes", "codec", "source", "consent"):
        assert getattr(back, field) == getattr(voice, field)
    assert all(type(code) is int for code in back.codes)
    assert (back.reference is not None) == keep
    if keep:
        assert back.reference.sample_rate == 8000
        assert np.abs(back.reference.samples - voice.reference.samples).max() <= 0.5 / 32768
    assert [path.name for path in tmp_path.iterdir()] == ["any.safetensors"]


def test_a_voice_is_not_written_into_a_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        save(made(), tmp_path / "none" / "ada.safetensors")


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "ada.safetensors"
    save(made(), path)
    whole = path.read_bytes()
    for data in (
        b"",
        b"x",
        whole[:5],
        whole[:50],
        whole[:-1],
        whole + b"x",
        b"\xff" * 8 + whole[8:],
        bytes(len(whole)),
    ):
        path.write_bytes(data)
        with pytest.raises(
            BundleError, match=r"Reading voice file '.*ada.safetensors': expected .*, found .*\. "
        ):
            load(path)
    with pytest.raises(BundleError, match="expected"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(BundleError, match="expected"):
        load(tmp_path)


GOOD = {
    "name": "ada",
    "text": "Hello.",
    "codec": "level@1",
    "sample_rate": "8000",
    "source": "",
    "consent": "",
    "version": "1",
}
CODES, SOUND = np.array([1, 2], np.int32), np.zeros(9, np.int16)


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    ("tensors", "strings", "words"),
    [
        ({"codes": CODES}, {}, "no 'name'"),
        ({"codes": CODES}, {key: GOOD[key] for key in GOOD if key != "codec"}, "no 'codec'"),
        ({"codes": CODES}, GOOD | {"version": "2"}, "version '2'"),
        ({"reference": SOUND}, GOOD, "codes I32"),
        ({"codes": CODES[:0]}, GOOD, "codes I32"),
        ({"codes": CODES.astype(np.int64)}, GOOD, "codes I32"),
        ({"codes": CODES[None]}, GOOD, "codes I32"),
        ({"codes": CODES, "more": CODES}, GOOD, "codes I32"),
        ({"codes": CODES, "reference": SOUND.astype(np.float32)}, GOOD, "reference I16"),
        ({"codes": CODES, "reference": SOUND}, GOOD | {"sample_rate": "0"}, "sample rate"),
        ({"codes": CODES, "reference": SOUND}, GOOD | {"sample_rate": "8e3"}, "sample rate"),
        ({"codes": -CODES}, GOOD, "codes from 0 up"),
    ],
)
def test_files_of_another_content_are_refused(tmp_path, tensors, strings, words):
    path = tmp_path / "ada.safetensors"
    path.write_bytes(serialize(tensors, strings))
    with pytest.raises(BundleError, match=words):
        load(path)


@pytest.mark.fault("R5")
@given(st.data())
def test_a_flipped_byte_gives_a_voice_or_a_bundle_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    save(Voice("ada", "Hello.", [1, 2, 3], "level@1"), path)
    broken = bytearray(path.read_bytes())
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(broken)
    with contextlib.suppress(BundleError):
        assert min(load(path).codes) >= 0


# looking up


@pytest.fixture
def store(tmp_path) -> VoiceStore:
    """Two shipped voices and a user's folder that does not exist yet."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for name in ("ada", "grace"):
        save(made(name), shipped / f"{name}.safetensors")
    return VoiceStore(shipped, tmp_path / "home" / "voices")


def test_store_lists_gets_adds_and_removes(store, tmp_path):
    assert store.names() == ["ada", "grace"]
    assert store.add(made("mary")) == tmp_path / "home" / "voices" / "mary.safetensors"
    assert store.names() == ["ada", "grace", "mary"]
    assert store.get("mary").codes == made("mary").codes
    assert store.path("mary").parent == tmp_path / "home" / "voices"
    assert store.path("ada").parent == tmp_path / "shipped"
    store.remove("mary")
    assert store.names() == ["ada", "grace"]


def test_a_missing_voice_names_the_nearest_and_all(store):
    for attempt in (store.get, store.path, store.remove):
        with pytest.raises(
            ConfigError, match=r"'adda': there is none. Did you mean 'ada'. Voices here: ada, grace"
        ):
            attempt("adda")
    with pytest.raises(ConfigError, match="Voices here: none"):
        VoiceStore("no-such-folder").get("ada")
    with pytest.raises(ConfigError, match="no folder"):
        VoiceStore()


def test_overwriting_is_asked_for_and_spares_shipped_files(store, tmp_path):
    with pytest.raises(ConfigError, match="one of that name"):
        store.add(made("ada"))
    store.add(made("ada", source="mine"), overwrite=True)
    assert store.get("ada").source == "mine"
    assert store.names() == ["ada", "grace"]
    store.remove("ada")
    assert store.get("ada").source == ""


def test_shipped_voices_stay(store):
    with pytest.raises(ConfigError, match="belongs to the bundle"):
        store.remove("ada")
    assert store.get("ada").name == "ada"


def test_a_renamed_file_is_noticed(store, tmp_path):
    os.rename(tmp_path / "shipped" / "ada.safetensors", tmp_path / "shipped" / "eve.safetensors")
    with pytest.raises(BundleError, match="expected the voice 'eve', found the voice 'ada'"):
        store.get("eve")


def test_links_in_the_users_folder_are_not_followed(store, tmp_path):
    own = tmp_path / "home" / "voices"
    own.mkdir(parents=True)
    outside = tmp_path / "outside.safetensors"
    save(made("eve"), outside)
    before = outside.read_bytes()
    (own / "eve.safetensors").symlink_to(outside)
    (own / "dir.safetensors").mkdir()
    (own / "BAD NAME.safetensors").write_bytes(before)
    assert store.names() == ["ada", "grace"]
    for attempt in (store.get, store.remove):
        with pytest.raises(ConfigError, match="there is none"):
            attempt("eve")
    store.add(made("eve", source="new"))
    assert outside.read_bytes() == before
    assert not (own / "eve.safetensors").is_symlink()


def test_links_in_a_bundle_are_followed(store, tmp_path):
    """The Hub's cache keeps each file once and links to it."""
    blob = tmp_path / "blob"
    save(made("hub"), blob)
    (tmp_path / "shipped" / "hub.safetensors").symlink_to(blob)
    assert store.get("hub").name == "hub"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Making the voice folder"):
        VoiceStore(tmp_path / "file" / "voices").add(made())


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LLASA_HOME", str(tmp_path))
    assert default_voice_folder() == tmp_path / "voices"
    monkeypatch.delenv("LLASA_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_voice_folder() == tmp_path / "data" / "llasa" / "voices"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert default_voice_folder().parts[-3:] == ("share", "llasa", "voices")


def test_the_file_is_plain_safetensors(tmp_path):
    save(made(), tmp_path / "ada.safetensors")
    data = (tmp_path / "ada.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["codes"]["dtype"] == "I32"
    assert header["reference"]["dtype"] == "I16"
    assert header["__metadata__"]["version"] == "1"
