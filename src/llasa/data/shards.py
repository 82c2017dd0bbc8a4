"""Shards of codes: utterances of one speaker as text, codes and the code at which each word ends.
Knows no model.

One safetensors file a shard, ragged rows end to end with their offsets;
text ids are not stored, so any tokenizer fits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llasa.errors import BundleError


@dataclass(frozen=True)
class Row:
    """One utterance. text: normalised words; codes: [N];
    word_ends: code index after each word, one a word, or empty.
    """

    text: str
    codes: Sequence[int]
    word_ends: Sequence[int] = ()


@dataclass(frozen=True)
class Shard:
    """Rows of one speaker, made with one codec (`kind@weights-hash`) at `frame_rate` codes a second."""

    speaker: str
    codec: str
    frame_rate: float
    rows: list[Row]


def write(shard: Shard, path: Path) -> str:
    """Write a shard and return its SHA-256. Codes must fit 16 bits, which 65,536 entries do exactly."""
    texts = [row.text.encode() for row in shard.rows]
    tensors = {
        "codes": np.concatenate([np.asarray(r.codes, np.uint16) for r in shard.rows]),
        "code_offsets": _offsets([len(r.codes) for r in shard.rows]),
        "text": np.frombuffer(b"".join(texts), np.uint8),
        "text_offsets": _offsets([len(t) for t in texts]),
        "word_ends": np.concatenate([np.asarray(r.word_ends, np.uint16) for r in shard.rows]),
        "word_offsets": _offsets([len(r.word_ends) for r in shard.rows]),
    }
    draft = path.with_suffix(".part")
    facts = {"speaker": shard.speaker, "codec": shard.codec, "frame_rate": repr(shard.frame_rate)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, draft, facts)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    draft.replace(path)
    return digest


def read(path: Path, codec: str | None = None) -> Shard:
    """Return a shard.

    Args:
        path: of the file.
        codec: the codec its codes must belong to; any if None.

    Raises:
        BundleError: the file is missing or damaged, or its codes belong to another codec.
    """
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata()
            t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise BundleError(f"Reading the shard '{path}': {error}. Make it again.") from error
    if codec is not None and facts["codec"] != codec:
        raise BundleError(
            f"Reading the shard '{path}': it is of codec '{facts['codec']}', not '{codec}'. Make it again."
        )
    text, codes, ends = t["text"].tobytes(), t["codes"].astype(np.int32), t["word_ends"].astype(np.int32)
    spans = zip(
        *(zip(t[n], t[n][1:], strict=False) for n in ("text_offsets", "code_offsets", "word_offsets")),
        strict=True,
    )
    rows = [Row(text[a:b].decode(), codes[c:d], ends[e:f]) for (a, b), (c, d), (e, f) in spans]
    return Shard(facts["speaker"], facts["codec"], float(facts["frame_rate"]), rows)


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
