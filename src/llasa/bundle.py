"""A bundle: one folder with all that speaking needs, described and sealed by its `bundle.toml`.

Each part is loaded when it is first asked for: what needs the codec only never loads the language model.
Must not know how the parts work together.
"""

import json
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import resources
from os import PathLike, fspath
from pathlib import Path, PurePath
from typing import TypedDict, Unpack

from llasa import config
from llasa.audio import replace_file
from llasa.checkpoint import CODECS, check_weights, codebook_size, inferred
from llasa.codec.base import Codec
from llasa.engines import Model, load_engine
from llasa.engines.base import Engine
from llasa.errors import ConfigError
from llasa.hub import Access, check, fetched, located
from llasa.manifest import (
    FORMAT,
    MANIFEST,
    CodecChoice,
    Manifest,
    Sampling,
    as_toml,
    check_default_voice,
    damaged,
    hashes,
    read_manifest,
    verify,
)
from llasa.prompt import Prompt
from llasa.recognizers import load_recognizer
from llasa.recognizers.base import Recognizer
from llasa.scorers.base import Parts
from llasa.stream import behind
from llasa.text.normalize import language_code, normalize
from llasa.text.phones import Phonemizer
from llasa.text.reading import Reader
from llasa.text.spelling import spell
from llasa.text.written import Written, likely_language, tidy, weight
from llasa.voice import VoiceStore, default_voice_folder

CODEC_FACTS = ("name", "sample_rate", "codebook_size", "hop_length")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle folder. For the other fields see `load_bundle`."""

    folder: Path
    manifest: Manifest
    device: str | None = None
    dtype: str | None = None
    words: Mapping[str, str] | None = None
    runs_on: str = "native"
    adapters: Mapping[str, Path] = field(default_factory=dict[str, Path])
    access: Access = field(default_factory=Access)

    @property
    def name(self) -> str:
        """What the bundle is called."""
        return self.manifest.name

    def with_engine(self, engine: Engine) -> "Bundle":
        """Return a bundle that shares the parts that are loaded, but for the engine."""
        other = copy(self)  # `replace` would drop the parts, and load them again
        other.__dict__["engine"] = engine
        return other

    def without_default_voice(self) -> "Bundle":
        """Return a bundle that shares loaded parts, and speaks without a voice unless one is named."""
        other = copy(self)
        other.__dict__["manifest"] = self.manifest.model_copy(update={"default_voice": None})
        return other

    @property
    def default_voice(self) -> str | None:
        """The voice to speak with unless told otherwise; None: the model makes one up."""
        return self.manifest.default_voice

    @property
    def sampling(self) -> Sampling:
        """How codes are drawn unless told otherwise."""
        return self.manifest.sampling

    @property
    def max_length(self) -> int:
        """Prompt and generated ids that the language model was trained for."""
        return self.manifest.lm.max_length

    @cached_property
    def voices(self) -> VoiceStore:
        """The bundle's voices and the user's own."""
        return VoiceStore(self.folder / "voices", default_voice_folder())

    @cached_property
    def phonemizer(self) -> Phonemizer | None:
        """Turns normalised text into phones; None where the language model reads letters.

        Raises:
            BundleError: its files are damaged. ConfigError, InputError: one of `words` is wrong.
        """
        if self.manifest.lm.text != "phones":
            return None
        return Phonemizer.load(self.folder / self.manifest.phones.path, self.words)

    @property
    def judge(self) -> Path | None:
        """The recipe of its own judge, if it has one."""
        return self.folder / self.manifest.judge if self.manifest.judge else None

    def recognizer(self, name: str) -> Recognizer:
        """Return a recogniser, loaded once: `bundle` or `held-out`, or as in `recognizers.load_recognizer`.

        Raises:
            ConfigError: no such recogniser. MissingExtra, BundleError: it needs something, or is damaged.
        """
        if name not in self._recognizers:
            own = {key: partial(self._own_recognizer, key) for key in self.manifest.recognizers}
            self._recognizers[name] = load_recognizer(name, own)
        return self._recognizers[name]

    def _own_recognizer(self, name: str) -> Recognizer:
        kind, _, path = self.manifest.recognizers[name].partition(":")
        return load_recognizer(f"{kind}:{self.folder / path}", {})

    @cached_property
    def _recognizers(self) -> dict[str, Recognizer]:
        return {}

    @cached_property
    def reader(self) -> Reader:
        """Reads texts as what scorers compare."""
        return Reader(self.phonemizer, self.manifest.lm.languages)

    @cached_property
    def parts(self) -> Parts:
        """What scorers are made of."""
        return Parts(self.codec, self.reader, self.recognizer)

    @cached_property
    def codec(self) -> Codec:
        """Sound to codes and back.

        Raises:
            BundleError: its files are damaged, or it is not the codec that `bundle.toml` describes.
        """
        part = self.manifest.codec
        folder = fetched(part.source, self.access) if part.source else self.folder / part.path
        codec = _load_codec(part.kind, folder, self.device)
        for key in CODEC_FACTS:
            if getattr(part, key) is not None and getattr(codec, key) != getattr(part, key):
                expected, found = getattr(part, key), getattr(codec, key)
                raise damaged(self.folder, f"expected a codec of {key} {expected}, found {found}")
        return codec

    @property
    def codec_name(self) -> str:
        """The codec that voices must have been made with, loaded only where the manifest does not tell."""
        return self.manifest.codec.name or self.codec.name

    def language(self, text: str) -> str:
        """Return the language that a text is taken for unless told otherwise."""
        likely, known = likely_language(text), self.manifest.lm.languages
        # Letters tell scripts apart; languages of one script only a caller can.
        return likely if self.manifest.lm.text == "written" or likely in ("zh", "ja") else known[0]

    def form(self, text: str, language: str = "en") -> Written:
        """Return a text in the form that the language model reads.

        Raises:
            InputError: nothing in it can be said. ConfigError: no language, or none that the model reads.
            MissingExtra: reading the language takes a package that is not installed.
        """
        if self.manifest.lm.text == "written":
            if not _LANGUAGE.fullmatch(language):
                todo = "Give a code such as en, zh or pt-BR"
                raise ConfigError(f"Reading a text: found language {language[:40]!r}. {todo}.")
            return tidy(text)
        known, code = self.manifest.lm.languages, language_code(language)
        if code not in known:
            todo = f"It knows {', '.join(known)}: choose one, or a bundle that learnt '{language[:40]}'"
            raise ConfigError(
                f"Reading a text: bundle '{self.name}' does not know '{language[:40]}'. {todo}."
            )
        normal = normalize(text, code)
        form = spell(normal.words, code, self.phonemizer) if self.phonemizer else normal.text
        return Written(form, weight(normal.text), normal.dropped)

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt format.

        Raises:
            BundleError: the tokenizer is damaged or does not fit the codec.
        """
        lm = self.manifest.lm
        folder = self.folder / lm.path
        return Prompt.load(folder, lm.family, self.manifest.codec.codebook_size, lm.separator)

    @cached_property
    def engine(self) -> Engine:
        """The running language model.

        Raises:
            BundleError: the model is damaged, or smaller than the tokenizer.
        """
        folder = self.folder / self.manifest.lm.path
        _check_vocabulary(folder, self.prompt)
        size, length = self.prompt.vocab_size, self.max_length
        names = self.prompt.names()
        model = Model(folder, size, length, names, self.device, self.dtype, self.adapters)
        return load_engine(self.runs_on, model)


class Options(TypedDict, total=False):
    """What `load_bundle` takes by keyword.

    engine: what runs the language model, see `engines.load_engine`. codec: of a model in the published
    layout, a folder or Hub id; if absent the one in its folder `codec`, or else the one published with it.
    adapters: LoRA folders or Hub ids by name; the sampling parameter `adapter` chooses one. revision: of the
    model on the Hub. token, local_files_only: see `hub.Access`.
    """

    engine: str
    codec: str | PathLike[str] | None
    adapters: Mapping[str, str | PathLike[str]]
    revision: str | None
    token: str | None
    local_files_only: bool


def load_bundle(
    name_or_path: str | PathLike[str] = "starter",
    device: str | None = None,
    dtype: str | None = None,
    words: Mapping[str, str] | None = None,
    **options: Unpack[Options],
) -> Bundle:
    """Return a bundle whose files all are what they were when it was sealed; nothing heavy is loaded yet.

    Args:
        name_or_path: `starter`, the bundle inside the package, a folder, or a Hub id such as
            `HKUSTAudio/Llasa-1B`. A model in the published layout, without `bundle.toml`, is paired with its
            codec.
        device: torch device; the GPU if there is one, else the CPU, if None. The compact codec stays on the
            CPU whatever it is.
        dtype: of the language model; the fastest of bfloat16 and float32 if None.
        words: the user's own pronunciations, which win, such as `{"ada": "EY D AH"}`.
        options: see `Options`.

    Raises:
        BundleError: no such bundle, or a file is missing, changed or added; says which.
        ConfigError: words for a bundle that reads letters, or a codec for one that has its own.
    """
    starter = Path(str(resources.files("llasa") / "assets" / "starter"))
    # A revision is the model's; the codec and adapters are other repositories.
    access = Access(None, options.get("token"), options.get("local_files_only", False))
    own = replace(access, revision=options.get("revision"))
    engine = options.get("engine", "native")
    folder = located(starter if name_or_path == "starter" else name_or_path, own)
    manifest = _manifest(folder, str(name_or_path), options.get("codec"), access)
    if engine == "native" or engine.startswith("drafted:"):
        check_weights(folder / manifest.lm.path)
    if words and manifest.lm.text != "phones":
        found = f"found pronunciations of {len(words)} words, but it reads letters, not phones"
        raise ConfigError(f"Loading bundle '{folder}': {found}. Leave them out.")
    adapters = {name: fetched(place, access) for name, place in options.get("adapters", {}).items()}
    return Bundle(folder, manifest, device, dtype, words, engine, adapters, access)


def _manifest(folder: Path, name: str, codec: str | PathLike[str] | None, access: Access) -> Manifest:
    """Return the manifest of a sealed bundle, or what can be inferred of a published checkpoint."""
    if (folder / MANIFEST).is_file() or not (folder / "config.json").is_file():
        manifest = read_manifest(folder)
        verify(folder, manifest)  # its seal says more than the Hub's hashes
        if codec is not None:
            raise ConfigError(
                f"Loading bundle '{folder}': found codec '{codec}', yet it has its own. Leave it out."
            )
        return manifest
    check(folder)
    called = PurePath(name).name
    if codec is None and (folder / "codec" / "config.json").is_file():
        return inferred(folder, called, None, folder / "codec")
    size = codebook_size(folder)
    if codec is None and size not in CODECS:
        found = f"no codec of {size} codes is known"
        raise ConfigError(f"Loading the model in '{folder}': {found}. Name one: codec, a folder or a Hub id.")
    source = fspath(codec) if codec is not None else CODECS[size]
    return inferred(folder, called, source, located(source, access))


def seal(folder: str | PathLike[str], settings: Mapping[str, object]) -> Manifest:
    """Write the `bundle.toml` of a folder whose other files are complete, and return its content.

    Args:
        folder: a bundle but for its `bundle.toml`, which is replaced if it is there.
        settings: the content of `bundle.toml` without `format` and `files`; of `codec` only `kind`, and
            `path` or `source` if it is not in `codec`: the rest is read off the codec.

    Raises:
        ConfigError: a setting is unknown, missing or wrong.
        BundleError: a part cannot be loaded, or parts do not fit each other.
    """
    folder = Path(folder)
    doing = f"Sealing bundle '{folder}'"
    choice = config.build(CodecChoice, settings.get("codec", {}), doing)
    place = located(choice.source, Access()) if choice.source else folder / choice.path
    codec = _load_codec(choice.kind, place, None)
    behind(codec)  # loading its streaming decoder is the check
    described = choice.model_dump() | {key: getattr(codec, key) for key in CODEC_FACTS}
    known = {"format": FORMAT, "files": hashes(folder), "codec": described}
    manifest = config.build(Manifest, {**settings, **known}, doing)
    check_default_voice(folder, manifest)
    bundle = Bundle(folder, manifest)
    _ = bundle.phonemizer  # loading it is the check
    _check_vocabulary(folder / manifest.lm.path, bundle.prompt)
    replace_file(folder / MANIFEST, as_toml(manifest).encode())
    return manifest


def _load_codec(kind: str, folder: Path, device: str | None) -> Codec:
    if kind == "compact":
        from llasa.codec.compact import CompactCodec

        return CompactCodec.load(folder)
    from llasa.codec.xcodec2 import Xcodec2Codec

    return Xcodec2Codec.load(folder, device)


def _check_vocabulary(folder: Path, prompt: Prompt) -> None:
    try:
        rows = int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, f"expected config.json with a vocab_size, found {error!r}") from error
    if rows < prompt.vocab_size:
        expected = f"expected a model of {prompt.vocab_size} ids, as the tokenizer has"
        raise damaged(folder, f"{expected}, found {rows}")
