"""Data sets as people have them, read row by row. `open_source` finds out what one is, of KINDS.

A clip without a text has the text ""; whoever needs words rejects it. A split is `train`, `dev`, `test`, "".
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from llasa.config import unknown
from llasa.core import Clip
from llasa.data.rejects import Reject
from llasa.data.sources import commonvoice, folders, jsonl, lhotse, lists, llasa_memmap, tables, tars
from llasa.data.sources.coded import Coded
from llasa.data.sources.fields import Asked, code
from llasa.data.sources.look import Look
from llasa.errors import ConfigError


class Kind(NamedTuple):
    """A format. find: the files it would read, [] if it does not fit. coded: its rows are `Coded`."""

    wants: str
    find: Callable[[Look], list[Path]]
    read: Callable[[Asked], Iterator[Any]]
    coded: bool = False


def _json(kind: str, wants: str, absolute: bool) -> Kind:
    return Kind(wants, partial(jsonl.find, kind), partial(jsonl.read, absolute))


SOUNDS_ALONE = "audio"
_SAYING_MORE = (".csv", ".tsv", ".jsonl", ".jsonl.gz", ".list", ".parquet", ".arrow", ".tar")
KINDS: dict[str, Kind] = {
    "ljspeech": Kind("metadata.csv of id|text beside wavs/", lists.find_ljspeech, lists.read_ljspeech),
    "piper": Kind("lists of file|text or file|speaker|text", lists.find_piper, lists.read_piper),
    "f5": Kind("lists under audio_file|text", lists.find_f5, lists.read_f5),
    "hf-folder": Kind("metadata.csv or .jsonl with file_name", folders.find_tables, folders.read_tables),
    "parquet": Kind("*.parquet or *.arrow with a column of sound", tables.find, tables.read),
    "common-voice": Kind("*.tsv with path and sentence beside clips/", commonvoice.find, commonvoice.read),
    "nemo": _json("nemo", "JSON lines with audio_filepath", absolute=True),
    "lhotse": Kind("JSON lines of cuts, or of recordings and supervisions", lhotse.find, lhotse.read),
    "webdataset": Kind("*.tar, not compressed", tars.find, tars.read),
    "emilia": _json("emilia", "JSON lines with id and wav", absolute=False),
    "fish": Kind("texts in .lab or .txt beside sounds", folders.find_lab, folders.read_lab),
    "jsonl": _json("jsonl", "JSON lines with audio, wav_path, audio_path or path", absolute=True),
    "llasa-memmap": Kind("*_input_ids.memmap and its shape", llasa_memmap.find, llasa_memmap.read, True),
    "llasa-jsonl": Kind(
        "JSON lines with text and code", partial(jsonl.find, "llasa-jsonl"), jsonl.read_codes, True
    ),
    SOUNDS_ALONE: Kind("sounds without texts", folders.find_sounds, folders.read_sounds),
}


@dataclass(frozen=True)
class Source:
    """A data set whose kind is known. coded: its rows are `Coded`, not `Clip`."""

    kind: str
    path: Path
    asked: Asked
    coded: bool = False

    def rows(self) -> Iterator[Clip | Coded | Reject]:
        """Yield the rows, always in the same order; what cannot be read of one is its reject.

        Raises:
            InputError: a file cannot be opened at all. ConfigError: token ids without their tokenizer.
        """
        return KINDS[self.kind].read(self.asked)


def open_source(
    path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    language: str = "en",
    tokenizer: str | os.PathLike[str] | None = None,
) -> Source:
    """Return the data set at a path; its rows are not read yet.

    Args:
        path: a folder, or one manifest, archive or sound.
        kind: one of `KINDS`; found out by names and first lines if None.
        language: of rows that do not say, a code such as "de".
        tokenizer: the folder of the tokenizer that made the ids of a `llasa-memmap`; its own if None.

    Raises:
        ConfigError: no such path or kind, it is not of that kind, or nothing or several kinds fit.
        MissingExtra: it holds tables, and pyarrow is not installed.
    """
    look = Look.at(path)
    if kind is not None and kind not in KINDS:
        what = unknown(kind, list(KINDS)).replace("key", "kind", 1).replace("Keys", "Kinds", 1)
        raise ConfigError(f"Opening the data set '{path}': {what}")
    name, files = (kind, KINDS[kind].find(look)) if kind else _detected(look)
    if not files:
        found = f"it is not of kind '{name}', which is {KINDS[name].wants}; {_seen(look)}"
        raise ConfigError(f"Opening the data set '{path}': {found}. Check the path, or name another --kind.")
    asked = Asked(look.root, files, code(language), Path(tokenizer) if tokenizer else None)
    return Source(name, look.path, asked, KINDS[name].coded)


def _detected(look: Look) -> tuple[str, Sequence[Path]]:
    fitting = {name: files for name, one in KINDS.items() if (files := one.find(look))}
    if len(fitting) > 1:
        fitting.pop(SOUNDS_ALONE, None)  # says less of the same sounds
    # A manifest that nobody knows says more than its sounds, which are not taken without their texts unasked.
    known = len(fitting) == 1 and not (SOUNDS_ALONE in fitting and look.ending(*_SAYING_MORE))
    if known:
        return next(iter(fitting.items()))
    if len(fitting) > 1:
        several = ", ".join(f"{name} ({look.named(files[0])})" for name, files in fitting.items())
        raise ConfigError(f"Opening the data set '{look.path}': it may be {several}. Say which with --kind.")
    looked = "; ".join(f"{name}: {one.wants}" for name, one in KINDS.items())
    raise ConfigError(
        f"Opening the data set '{look.path}': no kind fits, {_seen(look)}. Looked for {looked}. "
        "Check the path, or say what it is with --kind."
    )


def _seen(look: Look) -> str:
    names = [look.named(path) for path in look.files[:5]]
    more = f" and {len(look.files) - len(names)} more files" if len(look.files) > len(names) else ""
    return f"found {', '.join(names) or 'no files'}{more}"
