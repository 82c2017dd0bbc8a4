"""A tokenizer as a GGUF file holds it: names and kinds of ids, merges, how text is split.

Must not know weights.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llasa.errors import BundleError, MissingExtra

DOING = "Exporting to GGUF"
AGAIN = "Fetch or build the folder again."
try:
    import gguf
except ImportError as error:
    raise MissingExtra(DOING, "gguf", "gguf") from error

_log = logging.getLogger(__name__)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_SPLIT % "{1,3}": "llama-bpe", _SPLIT % "": "qwen2"}


@dataclass(frozen=True)
class Tokens:
    """A folder's tokenizer. rows: how many ids the model has. names: of those that have one.

    added: ids that are no part of the vocabulary itself, and whether the tokenizer calls them special.
    splits: llama.cpp's name for how a byte-level BPE tokenizer splits text; None if it has none.
    extras: merges, ids with a task, such as the end of sequence, and the chat template.
    """

    rows: int
    names: dict[int, str]
    added: dict[int, bool]
    splits: str | None
    extras: gguf.SpecialVocab

    @classmethod
    def read(cls, folder: Path, rows: int, end_token: str) -> "Tokens":
        """Read the tokenizer of a folder whose model has so many rows.

        Raises:
            BundleError: it is missing or damaged, has ids beyond the rows, or lacks the end token.
        """
        table = read_json(folder / "tokenizer.json")
        try:
            added = {token["content"]: token["id"] for token in table["added_tokens"]}
            special = {token["id"]: token["special"] for token in table["added_tokens"]}
            ids, splits = _vocabulary(table["model"]) | added, _splits(table)
            names = {token_id: name for name, token_id in ids.items()}
            highest = max(names)
            if min(names) < 0 or len(special) < len(table["added_tokens"]):
                raise ValueError("an added token has a negative id or that of another")
            # It warns of how text begins and ends, which is set below.
            logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
            extras = gguf.SpecialVocab(folder, splits is not None, n_vocab=rows)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BundleError(
                f"{DOING}: the tokenizer in {folder} is damaged ({error!r}). {AGAIN}"
            ) from error
        found = f"the tokenizer in {folder} has"
        if highest >= rows:
            todo = "Put tokenizer and weights that belong together into one folder."
            raise BundleError(f"{DOING}: {found} ids up to {highest}, the model {rows} rows. {todo}")
        if end_token not in ids:
            raise BundleError(f"{DOING}: {found} no '{end_token}'. Name the token that ends speech.")
        extras.special_token_ids["eos"] = ids[end_token]
        extras.add_special_token = {"bos": False, "eos": False}  # our prompts carry their own
        # llama.cpp reads no file without merges; this one joins nothing.
        extras.merges = extras.merges or [" "]
        return cls(rows, names, special, splits, extras)

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add all to a file that is begun."""
        if self.splits is None:
            _log.warning("llama.cpp has no tokenizer like this one: the file reads ids well, but not text")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.splits or "default")
        names = [self.names.get(token_id) for token_id in range(self.rows)]
        writer.add_token_list([name or f"[PAD{token_id}]" for token_id, name in enumerate(names)])
        writer.add_token_types([self._kind(token_id, name) for token_id, name in enumerate(names)])
        self.extras.add_to_gguf(writer, quiet=True)

    def _kind(self, token_id: int, name: str | None) -> gguf.TokenType:
        if name is None:
            return gguf.TokenType.UNUSED
        if token_id not in self.added:
            return gguf.TokenType.NORMAL
        # As llama.cpp's own converter does: text in a prompt never becomes one of these.
        marker = self.added[token_id] or (name.startswith("<|") and name.endswith("|>"))
        return gguf.TokenType.CONTROL if marker else gguf.TokenType.USER_DEFINED


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a file holds.

    Raises:
        BundleError: there is no such file, or no object in it.
    """
    try:
        return dict(json.loads(path.read_text("utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:  # no file; no text or no JSON; no object
        raise BundleError(f"{DOING}: {path} is missing or damaged ({error}). {AGAIN}") from error


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    words = model["vocab"]
    # a unigram model's are pairs of word and score
    return words if isinstance(words, dict) else {word: token_id for token_id, (word, _) in enumerate(words)}


def _splits(table: dict[str, Any]) -> str | None:
    if table["model"]["type"] != "BPE" or not table.get("pre_tokenizer"):
        return None
    steps = table["pre_tokenizer"].get("pretokenizers", [table["pre_tokenizer"]])
    match [step["type"] for step in steps]:
        case ["Split", "ByteLevel"]:
            return _SPLITS.get(steps[0]["pattern"].get("Regex"))
        case ["Digits", "ByteLevel"] if steps[0]["individual_digits"]:
            return "smollm"
        case ["ByteLevel"]:
            return "gpt-2"
    return None
