"""What is said in reinforcement learning: texts and voices, in an order that a seed decides.

Each is a `Job` of the synthesizer: the ids, limits and stop ids are those that speaking would use. Must not
know: trainers, rewards.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from llasa.bundle import Bundle
from llasa.data.index import NAME as INDEX
from llasa.data.shards import Row, Shards
from llasa.errors import ConfigError, InputError
from llasa.search import Job
from llasa.synthesizer import Synthesizer
from llasa.text.segment import segment

SHOWN = 10  # rows that an error names
_BETWEEN = ": "  # voice and text of a name; names of voices have no colon
_KEPT = 4096  # jobs, about 10 kB each
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Text:
    """A row of prompts. name: what errors call it. language: a code, or None as for any text."""

    name: str
    text: str
    language: str | None = None


def read_texts(place: Path, language: str | None = None) -> list[Text]:
    """Return the lines of a file, or the distinct texts of a prepared folder that are said in one go.

    Args:
        language: of the lines; those rows say it themselves.

    Raises:
        ConfigError: there is no such file, it is not UTF-8, or it is empty.
        BundleError: a shard is damaged.
    """
    doing = f"Reading the prompts '{place}'"
    if (place / INDEX).is_file():
        texts = list(_short_enough(Shards(place)))
    else:
        try:
            lines = place.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            what = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigError(
                f"{doing}: {what}. Name a file of one text a line, or a prepared folder."
            ) from error
        texts = [Text(f"line {number}", line, language) for number, line in enumerate(lines, 1)]
    if not texts:
        raise ConfigError(f"{doing}: found no text. Give one a line.")
    return texts


def _short_enough(rows: Iterable[Row]) -> Iterator[Text]:
    """Yield the distinct texts that are said in one go; what was recorded may well be longer."""
    found = {row.text: Text(f"row '{row.id}'", row.text, row.language) for row in rows}
    kept = [one for one in found.values() if len(segment(one.text, language=one.language or "en")) == 1]
    if left := len(found) - len(kept):
        _log.warning("%d of %d texts are too long for one go and left out.", left, len(found))
    yield from kept


class Prompts:
    """Texts with voices, as jobs known by name."""

    def __init__(
        self,
        bundle: Bundle,
        texts: Sequence[Text],
        voices: Sequence[str] | None,
        sampling: Mapping[str, object],
    ) -> None:
        """Take what is combined.

        Args:
            voices: names; the bundle's default voice if None, prompts without a voice if empty.
            sampling: see `Synthesizer.job`.

        Raises:
            ConfigError: no such voice. BundleError: it belongs to another codec.
        """
        if voices is not None and not voices:  # the default voice would step in
            bundle = bundle.without_default_voice()
        self._synthesizer, self._sampling = Synthesizer(bundle), sampling
        found = [self._synthesizer.voice(name) for name in voices or [None]]
        # One object a voice: candidates of the same one are decoded together.
        self.voices = {voice.name if voice else "": voice for voice in found}
        self.texts = {text.text: text for text in texts}
        self.job = lru_cache(_KEPT)(self._job)

    def order(self, count: int, seed: int) -> list[str]:
        """Return the names of `count` jobs: all texts in turn, each turn in another order."""
        random, texts, voices = np.random.default_rng(seed), list(self.texts), list(self.voices)
        turns = [random.permutation(len(texts)) for _ in range(-(-count // len(texts)))]
        said = [texts[place] for turn in turns for place in turn][:count]
        return [_name(voices[random.integers(len(voices))], text) for text in said]

    def _job(self, name: str) -> Job:
        voice, _, text = name.partition(_BETWEEN)
        told = self.texts[text]
        return self._synthesizer.job(text, self.voices[voice], 0, told.language, **self._sampling)

    def check(self, names: Iterable[str] | None = None) -> None:
        """Look at the jobs of these names, or at every text after the longest voice.

        Raises:
            ConfigError: a text is empty, too long for one go, or cannot be read: names the first rows.
        """
        longest = max(self.voices, key=lambda name: len(voice.codes) if (voice := self.voices[name]) else 0)
        chosen = [_name(longest, text) for text in self.texts] if names is None else dict.fromkeys(names)
        problems = [(name, problem) for name in chosen if (problem := self._problem(name))]
        if problems:
            shown = [
                f"  {self.texts[name.partition(_BETWEEN)[2]].name}: {why}" for name, why in problems[:SHOWN]
            ]
            more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
            found = f"{len(problems)} of {len(chosen)} texts cannot be used."
            raise ConfigError(
                "\n".join([f"Reading the prompts: {found}", *shown, *more, "Correct or remove them."])
            )

    def _problem(self, name: str) -> str | None:
        """Return why a prompt cannot be used, None if it can."""
        text = self.texts[name.partition(_BETWEEN)[2]]
        if not text.text.strip():
            return "it is empty"
        try:
            language = text.language or self._synthesizer.bundle.language(text.text)
            if (parts := len(segment(text.text, language=language))) > 1:
                return f"it is too long to be said in one go: speaking would cut it into {parts}"
            self.job(name)
        except (InputError, ConfigError) as error:
            return str(error)
        return None


def _name(voice: str, text: str) -> str:
    return f"{voice}{_BETWEEN}{text}"
