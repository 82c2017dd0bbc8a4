"""Normalised words -> ARPAbet phones: user overrides, then the lexicon, then a learnt letter-to-sound model.

Must not know: how text is normalised, which bundle or language model reads the phones. Needs numpy only.
"""

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from safetensors import SafetensorError, safe_open

from llasa.errors import BundleError, ConfigError, InputError

_ARPABET = (
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
)
PHONES = tuple(_ARPABET.split(" "))
PUNCTUATION = (",", ".", "?", "!")
WORD_BREAK = "|"
LETTERS = "abcdefghijklmnopqrstuvwxyz'"

Source = Literal["override", "lexicon", "letters"]

_WORD = re.compile(r"[a-z']*[a-z][a-z']*")
_TOKEN = re.compile(r"([a-z']*)([,.?!]*)")
_SIBILANTS = {"S", "Z", "SH", "ZH", "CH", "JH"}
_VOICELESS = {"P", "T", "K", "F", "TH"}
_ENDINGS = {"'ll": "AH L", "'ve": "AH V", "'re": "ER", "'d": "D", "n't": "AH N T"}


@dataclass(frozen=True)
class LetterModel:
    """A small network that reads a word right to left and gives each letter no, one or two phones.

    embed: float32 [window * letters + history * outputs, H], rows added up. hidden [H, K], out [K, outputs].
    outputs: the phones each class stands for, such as "", "K" or "K S".
    reach: letters seen on each side. history: earlier outputs seen.

    Source: T. J. Sejnowski and C. R. Rosenberg, *Parallel networks that learn to pronounce English text*
    (1987); here with the network's own earlier outputs among its inputs, and right to left, for endings
    place the stress.
    """

    embed: np.ndarray
    embed_bias: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray
    outputs: list[str]
    reach: int
    history: int

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the model of a safetensors file.

        Raises:
            BundleError: the file is damaged or is not a letter model.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                sizes = json.loads(file.metadata()["letters"])
                tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
            return cls(**tensors, **sizes)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"Reading the letter-to-sound model '{path}': {error}. Install the bundle again."
            ) from error

    def __call__(self, word: str) -> str:
        """Return the phones of a word of letters and apostrophes, separated by spaces; may be empty."""
        windows = windows_of(word, self.reach)
        past = [len(self.outputs)] * self.history
        base = (2 * self.reach + 1) * (len(LETTERS) + 1)
        chosen = []
        for window in windows[::-1]:
            rows = [*window, *(base + k * (len(self.outputs) + 1) + p for k, p in enumerate(past))]
            past = [self._best(rows), *past][: self.history] if self.history else past
            chosen.append(past[0])
        return " ".join(self.outputs[c] for c in reversed(chosen) if self.outputs[c])

    def _best(self, rows: list[int]) -> int:
        first = np.maximum(self.embed[rows].sum(0) + self.embed_bias, 0)
        second = np.maximum(first @ self.hidden + self.hidden_bias, 0)
        return int(np.argmax(second @ self.out + self.out_bias))


def windows_of(word: str, reach: int) -> np.ndarray:
    """Return the rows that stand for each letter and its neighbours, int [letters, 2 * reach + 1]."""
    ids = [0] * reach + [LETTERS.index(c) + 1 for c in word] + [0] * reach
    width = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids), width)
    return windows + np.arange(width) * (len(LETTERS) + 1)


class Phonemizer:
    """Turns normalised text into the phone string that a bundle's language model reads."""

    def __init__(
        self,
        lexicon: Mapping[str, str],
        letters: LetterModel | None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        """Take what `load` reads.

        Args:
            lexicon: lower-case word -> phones separated by spaces.
            letters: for words the lexicon lacks; without it such words are refused.
            overrides: the user's own pronunciations, which win.

        Raises:
            ConfigError: an override has no phones or one that is not in `PHONES`.
        """
        self._lexicon = lexicon
        self._letters = letters
        self._overrides = {_checked_word(w): _checked_phones(w, p) for w, p in (overrides or {}).items()}
        self._learnt: dict[str, str] = {}

    @classmethod
    def load(cls, folder: str | Path, overrides: Mapping[str, str] | None = None) -> Self:
        """Return the phonemizer of a folder with `lexicon.txt.gz` and `letters.safetensors`.

        Raises:
            BundleError: the lexicon is missing or damaged. ConfigError: see the constructor.
        """
        letters = Path(folder) / "letters.safetensors"
        model = LetterModel.load(letters) if letters.exists() else None
        return cls(read_lexicon(Path(folder) / "lexicon.txt.gz"), model, overrides)

    def __call__(self, text: str) -> str:
        """Return the phones of normalised text, e.g. "DH AH | K AE T ." for "the cat.".

        Raises:
            InputError: the text is not normalised, or a word cannot be pronounced.
        """
        tokens = [_split(token) for token in text.split()]
        parts: list[str] = []
        for index, (word, marks) in enumerate(tokens):
            if word:
                parts += [WORD_BREAK] if parts and parts[-1] not in PUNCTUATION else []
                parts.append("EY" if word == "a" and _is_letter_name(tokens, index) else self.say_of(word))
            parts += marks
        return " ".join(parts)

    def say_of(self, word: str) -> str:
        """Return the phones of one normalised word.

        Raises:
            InputError: it is no normalised word, or nothing here can pronounce it.
        """
        known = self._known(_checked_word(word))
        return known[0] if known else self._guess(word)

    def source(self, word: str) -> Source:
        """Return where the phones of a word come from.

        Raises:
            InputError: it is no normalised word.
        """
        known = self._known(_checked_word(word))
        return known[1] if known else "letters"

    def word_of(self, phones: str) -> str | None:
        """Return a word that is said with exactly these phones, the shortest if there are several.

        Single letters come last but for "a" and "i", which are words.
        """
        return self._words.get(phones)

    @cached_property
    def _words(self) -> dict[str, str]:
        """Phones -> word; built when it is first asked for, since only reading what was heard needs it."""
        known = {**self._lexicon, **self._overrides}
        order = sorted(known, key=lambda word: (len(word) == 1 and word not in "ai", len(word), word))
        return {known[word]: word for word in reversed(order)}

    def _known(self, word: str) -> tuple[str, Source] | None:
        bare = word.strip("'")
        for form in dict.fromkeys((word, bare)):
            if form in self._overrides:
                return self._overrides[form], "override"
            if form in self._lexicon:
                return self._lexicon[form], "lexicon"
        return self._inflected(bare)

    def _inflected(self, word: str) -> tuple[str, Source] | None:
        if word.endswith("'s") and (stem := self._known(word[:-2])):
            return f"{stem[0]} {_plural(stem[0])}", stem[1]
        for ending, phones in _ENDINGS.items():
            if word.endswith(ending) and (stem := self._known(word.removesuffix(ending) or "'")):
                return f"{stem[0]} {phones}", stem[1]
        return None

    def _guess(self, word: str) -> str:
        if word not in self._learnt:
            self._learnt[word] = self._from_letters(word)
        return self._learnt[word]

    def _from_letters(self, word: str) -> str:
        if self._letters is None:
            raise InputError(
                f"Pronouncing '{word}': it is not in the lexicon and there is no letter-to-sound model. "
                f"Give its phones as an override, e.g. {{'{word}': 'K AE T'}}."
            )
        stem = word.strip("'").removesuffix("'s")
        phones = self._letters(stem) or self._spelt(stem)
        return f"{phones} {_plural(phones)}" if word.endswith("'s") else phones

    def _spelt(self, word: str) -> str:
        return " ".join(self._lexicon[letter] for letter in word if letter in self._lexicon)


def read_lexicon(path: Path) -> dict[str, str]:
    """Return word -> phones of a gzipped file of lines `word TAB phones`.

    Raises:
        BundleError: the file is missing or damaged.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        return dict(line.split("\t", 1) for line in text.splitlines())
    except (OSError, EOFError, ValueError) as error:
        raise BundleError(f"Reading the lexicon '{path}': {error}. Install the bundle again.") from error


def _plural(phones: str) -> str:
    last = phones.split(" ")[-1]
    return "IH Z" if last in _SIBILANTS else "S" if last in _VOICELESS else "Z"


def _split(token: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InputError(
            f"Turning text into phones: '{token}' is not normalised. Pass it through normalize() first."
        )
    return match.group(1), match.group(2)


def _is_letter_name(tokens: list[tuple[str, str]], index: int) -> bool:
    """An "a" is the letter, not the article, at the end of a clause or beside another single letter."""
    before = tokens[index - 1] if index else ("", "")
    after = tokens[index + 1] if index + 1 < len(tokens) else ("", "")
    return len(tokens) > 1 and (
        bool(tokens[index][1])
        or not after[0]
        or len(after[0]) == 1
        or (len(before[0]) == 1 and not before[1])
    )


def _checked_word(word: str) -> str:
    if not _WORD.fullmatch(word):
        raise InputError(
            f"Pronouncing '{word}': it is not a normalised word. Use lower-case letters a-z and apostrophes."
        )
    return word


def _checked_phones(word: str, phones: str) -> str:
    unknown = [p for p in phones.split() if p not in PHONES]
    if unknown or not phones.split():
        raise ConfigError(
            f"Reading the pronunciation of '{word}': found {unknown or 'no phones'} in '{phones}'. "
            f"Use phones out of: {' '.join(PHONES)}."
        )
    return " ".join(phones.split())
