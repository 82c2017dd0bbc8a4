"""Voices: made from a recording and its transcript, kept as one file each, and looked up by name.

A voice file is `NAME.safetensors`: the tensor `codes` int32 [N], perhaps `reference` int16 [T], and strings.
Knows codecs by their protocol only, no language model and no prompt.
"""

import difflib
import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from llasa.audio import SILENCE_PEAK, loudness, replace_file, resample, to_int16, trim_silence
from llasa.codec.base import Codec
from llasa.core import Audio, Codes, Voice
from llasa.errors import BundleError, ConfigError, InputError

MIN_S, MAX_S = 1.0, 30.0
VERSION = "1"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SUFFIX = ".safetensors"
_TENSORS = {"codes": "I32", "reference": "I16"}
_STRINGS = ("name", "text", "codec", "sample_rate", "source", "consent", "version")


def create(
    name: str,
    audio: Audio,
    text: str,
    codec: Codec,
    source: str = "",
    consent: str = "",
    keep_reference: bool = True,
) -> Voice:
    """Return a voice made from a recording: ends trimmed, brought to -23 LUFS, resampled and encoded.

    Args:
        name: lower-case letters, digits, `-` and `_`, 64 at most.
        audio: 1 to 30 s of one speaker.
        text: what is said in it.
        codec: the codec of the bundle that will use the voice.
        source: where the recording came from.
        consent: the speaker's consent statement.
        keep_reference: keep the recording in the voice, for similarity scores and for making it again.

    Raises:
        ConfigError: bad name.
        InputError: empty text, or a recording too short, too long, silent or not finite.
    """
    _check_name(name)
    if not text.strip():
        raise InputError(f"Making voice '{name}': the transcript is empty. Give the words of the recording.")
    _check_recording(name, audio)
    speech = trim_silence(audio)
    if speech.duration_s < MIN_S:
        raise _too_short(name, f"only {speech.duration_s:.2f} s of it are not silence")
    speech = loudness(speech)
    codes = codec.encode([speech])[0]  # a codec may hear at another rate than it speaks
    reference = resample(speech, codec.sample_rate) if keep_reference else None
    return Voice(name, text.strip(), codes, codec.name, reference, source, consent)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        rule = "Use 1 to 64 of a-z, 0-9, '-' and '_', starting with a letter or digit"
        raise ConfigError(f"Naming a voice: {name[:80]!r} is not a valid name. {rule}.")


def _check_recording(name: str, audio: Audio) -> None:
    if audio.duration_s < MIN_S:
        raise _too_short(name, f"the recording lasts {audio.duration_s:.2f} s")
    if audio.duration_s > MAX_S:
        found = f"the recording lasts {audio.duration_s:.1f} s"
        raise InputError(f"Making voice '{name}': {found}. Cut it to at most {MAX_S:g} s.")
    peak = np.abs(audio.samples).max()
    if not np.isfinite(peak):
        raise InputError(f"Making voice '{name}': samples are not finite numbers. Save the recording again.")
    if peak < SILENCE_PEAK:
        raise InputError(f"Making voice '{name}': the recording is silent. Check the microphone.")


def _too_short(name: str, found: str) -> InputError:
    return InputError(f"Making voice '{name}': {found}. Give {MIN_S:g} to {MAX_S:g} s of speech.")


def check_codec(voice: Voice, codec: Codec) -> None:
    """Raise BundleError unless the voice's codes were made by this very codec and lie in its codebook."""
    again = f"Make it again for this --bundle: llasa voice add {voice.name} RECORDING --text '...'"
    if voice.codec != codec.name:
        found = f"was made with codec '{voice.codec}', this bundle uses '{codec.name}'"
        raise BundleError(f"Voice '{voice.name}' {found}. {again}")
    if max(voice.codes) >= codec.codebook_size:
        found = f"has code {max(voice.codes)}, codec '{codec.name}' has {codec.codebook_size}"
        raise BundleError(f"Voice '{voice.name}' {found}. {again}")


def save(voice: Voice, path: str | os.PathLike[str]) -> None:
    """Write a voice file, whole or not at all; a file already there is replaced.

    Raises:
        ConfigError: bad voice name, or the file cannot be written.
    """
    _check_name(voice.name)
    tensors: dict[str, np.ndarray] = {"codes": np.asarray(voice.codes, np.int32)}
    strings = {key: getattr(voice, key) for key in ("name", "text", "codec", "source", "consent")}
    strings |= {"version": VERSION, "sample_rate": "", "language": voice.language}
    if voice.reference:
        tensors["reference"] = to_int16(voice.reference.samples)
        strings["sample_rate"] = str(voice.reference.sample_rate)
    replace_file(Path(path), serialize(tensors, strings))


def load(path: str | os.PathLike[str]) -> Voice:
    """Return the voice kept in a file.

    Raises:
        BundleError: the file is missing, damaged, or no voice file; says what was expected and found.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            strings = file.metadata() or {}
            keys = list(file.keys())
            _check_layout(path, {key: file.get_slice(key) for key in keys}, strings)
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "a safetensors file", str(error)) from error
    codes: Codes = tensors["codes"].tolist()
    if min(codes) < 0:
        raise _damaged(path, "codes from 0 up", str(min(codes)))
    reference = None
    if "reference" in tensors:
        samples = tensors["reference"].astype(np.float32) / 32768
        reference = Audio(samples, int(strings["sample_rate"]))
    texts = {key: strings[key] for key in ("name", "text", "codec", "source", "consent")}
    # Files of earlier releases have no language.
    return Voice(codes=codes, reference=reference, language=strings.get("language", ""), **texts)


def _damaged(path: str | os.PathLike[str], expected: str, found: str) -> BundleError:
    todo = "Copy it again, or make the voice again with: llasa voice add"
    return BundleError(f"Reading voice file '{path}': expected {expected}, found {found}. {todo}")


def _check_layout(path: str | os.PathLike[str], slices: dict, strings: dict[str, str]) -> None:
    for key in _STRINGS:
        if key not in strings:
            raise _damaged(path, f"the strings {', '.join(_STRINGS)}", f"no '{key}'")
    if strings["version"] != VERSION:
        raise _damaged(path, f"version {VERSION}", f"version {strings['version'][:20]!r}")
    found = {key: (part.get_dtype(), len(part.get_shape())) for key, part in slices.items()}
    expected = {key: (_TENSORS.get(key), 1) for key in {"codes"} | slices.keys()}
    if found != expected or 0 in slices["codes"].get_shape():
        raise _damaged(path, "codes I32 [N > 0], reference I16 [T] or none", f"(type, dimensions) {found}")
    if "reference" in slices and not re.fullmatch(r"[1-9]\d{3,5}", strings["sample_rate"]):
        raise _damaged(path, "a sample rate in Hz", repr(strings["sample_rate"][:20]))


def default_voice_folder() -> Path:
    """Return the folder of the user's own voices."""
    return home() / "voices"


def home() -> Path:
    """Return the folder of what is the user's own: `$LLASA_HOME`, or one in the user's data."""
    if chosen := os.environ.get("LLASA_HOME"):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(data or Path.home() / ".local" / "share") / "llasa"


class VoiceStore:
    """Voices by name, from a bundle's folders and the user's own.

    Args:
        folders: searched from the last to the first. The last is the user's: voices are added and removed
            there, it need not exist yet, and symbolic links in it are not followed. Links in the others are:
            the Hub's cache is made of them.
    """

    def __init__(self, *folders: str | os.PathLike[str]) -> None:
        if not folders:
            raise ConfigError("Opening a voice store: no folder was given. Give at least the user's own.")
        self._folders = [Path(folder) for folder in folders]
        self._own = self._folders[-1]

    def names(self) -> list[str]:
        """Return the names of all voices, sorted."""
        paths = (path for folder in self._folders for path in folder.glob(f"*{_SUFFIX}"))
        return sorted({path.stem for path in paths if _NAME.fullmatch(path.stem) and self._is_voice(path)})

    def get(self, name: str) -> Voice:
        """Return a voice.

        Raises:
            ConfigError: bad name, or no such voice; lists those that exist.
            BundleError: its file is damaged.
        """
        path = self.path(name)
        voice = load(path)
        if voice.name != name:
            raise _damaged(path, f"the voice '{name}'", f"the voice '{voice.name[:64]}'")
        return voice

    def path(self, name: str) -> Path:
        """Return the file of a voice, whole or damaged: the user's own hides a bundle's.

        Raises:
            ConfigError: bad name, or no such voice; lists those that exist.
        """
        path = self._find(name)
        if path is None:
            raise self._missing(name)
        return path

    def add(self, voice: Voice, overwrite: bool = False) -> Path:
        """Keep a voice in the user's folder and return its file.

        Raises:
            ConfigError: bad name, the folder cannot be written, or the voice exists (without `overwrite`).
        """
        if self._find(voice.name) and not overwrite:
            todo = "Choose another name, or overwrite it"
            raise ConfigError(f"Adding voice '{voice.name}': there is one of that name. {todo}.")
        try:
            self._own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            found = f"the system says: {error.strerror}"
            raise ConfigError(f"Making the voice folder '{self._own}': {found}. Set LLASA_HOME.") from error
        path = self._own / f"{voice.name}{_SUFFIX}"
        save(voice, path)
        return path

    def remove(self, name: str) -> None:
        """Delete one of the user's voices.

        Raises:
            ConfigError: bad name, no such voice, or a voice that belongs to the bundle.
        """
        path = self.path(name)
        if path.parent != self._own:
            found = "it belongs to the bundle"
            raise ConfigError(f"Removing voice '{name}': {found}. Only voices you added can be removed.")
        path.unlink()

    def _find(self, name: str) -> Path | None:
        _check_name(name)
        paths = [folder / f"{name}{_SUFFIX}" for folder in reversed(self._folders)]
        return next((path for path in paths if self._is_voice(path)), None)

    def _is_voice(self, path: Path) -> bool:
        return path.is_file() and not (path.parent == self._own and path.is_symlink())

    def _missing(self, name: str) -> ConfigError:
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1)
        todo = f"Did you mean '{near[0]}'? " if near else ""
        return ConfigError(
            f"Looking for voice '{name}': there is none. {todo}Voices here: {', '.join(names) or 'none'}."
        )
