"""The memmaps that Llasa was trained from: rows of token ids. They are codes already (`Source.coded`).

A row is text ids, the speech start marker, ids of codes, the end marker, padding. The tokenizer turns text
ids back into text and says which ids are codes; everything is resolved by name.

Source: zhenye234/LLaSA_training, `{split}_input_ids.memmap` int32 and `{split}_input_ids_shape.npy`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from llasa.data.rejects import BadClip, Reject
from llasa.data.sources.coded import Coded
from llasa.data.sources.fields import Asked
from llasa.data.sources.look import Look, split_of
from llasa.errors import ConfigError, InputError
from llasa.prompt import MARKERS, SPEECH_START, TEXT_END, TEXT_START, Prompt, speech_token

_ENDING = "_input_ids.memmap"


def find(look: Look) -> list[Path]:
    """Return the memmaps that have a file with their shape."""
    return [path for path in look.ending(_ENDING) if _shape_file(path).is_file()]


def _shape_file(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".memmap") + "_shape.npy")


def read(asked: Asked) -> Iterator[Coded | Reject]:
    """Yield the rows; one without its end marker was cut off, and is a reject.

    Raises:
        ConfigError: no tokenizer is at hand. BundleError: it lacks markers or codes.
        InputError: a memmap is not as long as its shape says.
    """
    reader = _Reader(_tokenizer(asked))
    for path in asked.files:
        rows, split = _rows(path), split_of(asked.named(path))
        name = asked.named(path)
        for number, row in enumerate(rows):
            place = f"{name}:{number + 1}"
            try:
                text, codes = reader(np.asarray(row))
                id = f"{path.name.removesuffix(_ENDING)}:{number}"
                yield Coded(id, text, codes, split, place, language=asked.language)
            except BadClip as error:
                yield Reject("", place, error.reason, str(error))


def _tokenizer(asked: Asked) -> Path:
    folder = asked.tokenizer or asked.root
    if not (folder / "tokenizer.json").is_file():
        found = f"there is no tokenizer.json in '{folder}'"
        todo = "Name the folder of the tokenizer that the ids were made with"
        raise ConfigError(f"Importing the token ids of '{asked.root}': {found}. {todo}.")
    return folder


def _rows(path: Path) -> np.ndarray:
    try:
        shape = tuple(int(size) for size in np.load(_shape_file(path), allow_pickle=False).reshape(-1))
        if len(shape) != 2 or 4 * shape[0] * shape[1] != path.stat().st_size or min(shape) < 1:
            raise ValueError(f"{path.stat().st_size} bytes are no int32 of shape {shape}")
        return np.memmap(path, np.int32, "r", shape=(shape[0], shape[1]))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"Importing '{path}': {error}. Copy it and its shape again.") from error


class _Reader:
    """Reads rows of ids back as text and codes."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        size = 0
        while self._tokenizer.token_to_id(speech_token(size)) is not None:
            size += 1
        self._prompt = Prompt.load(folder, "llasa-plain", size)
        self._text_start, self._text_end, self._speech_start = (
            self._tokenizer.token_to_id(name) for name in (TEXT_START, TEXT_END, SPEECH_START)
        )
        names = (self._tokenizer.token_to_id(name) for name in MARKERS)
        special = self._tokenizer.get_added_tokens_decoder()
        self._marks = {*names, *special}

    def __call__(self, row: np.ndarray) -> tuple[str, list[int]]:
        starts = np.flatnonzero(row == self._speech_start)
        if not len(starts):
            raise BadClip("malformed", f"It has no {SPEECH_START}.")
        start = int(starts[0])
        ends = np.flatnonzero(row[start:] == self._prompt.end_id)
        if not len(ends):
            raise BadClip("too-long", f"It has no end marker: it was cut after {len(row)} ids.")
        try:
            codes = self._prompt.codes(row[start + 1 : start + int(ends[0])].tolist())
        except InputError as error:
            raise BadClip("malformed", str(error)) from error
        return self._text(row[:start].tolist()), codes

    def _text(self, ids: list[int]) -> str:
        if self._text_start in ids and self._text_end in ids:
            ids = ids[ids.index(self._text_start) : ids.index(self._text_end)]
        return self._tokenizer.decode([one for one in ids if one not in self._marks]).strip()
