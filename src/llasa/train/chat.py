"""Text-only rows mixed in, so that a chat model stays one while it learns to speak; loss on assistant turns.

Source: the Preserve-TextChat variants of the published Llasa models.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from llasa import config
from llasa.core import Ids
from llasa.data.rejects import Reject
from llasa.errors import ConfigError, InputError
from llasa.prompt import DATE, IGNORED


class ChatBlock(BaseModel):
    """Chat to mix in.

    data: JSONL; a line has `messages` (role, content) or `text`. share: of a batch's ids.
    """

    model_config = config.STRICT
    data: str
    share: float = Field(default=0.1, gt=0, lt=1)


def chat_rows(path: Path, lm: Path, max_length: int, rejects: list[Reject]) -> list[tuple[Ids, Ids]]:
    """Return the rows of a file as ids and labels; the loss covers what an assistant says, or a whole text.

    Args:
        lm: folder of the tokenizer and its chat template. max_length: longer rows are rejected, not cut.
        rejects: gets those that cannot be used.

    Raises:
        ConfigError: the file cannot be read, or nothing in it can be used.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(lm, local_files_only=True, trust_remote_code=False)
    rows: list[tuple[Ids, Ids]] = []
    for number, line in _lines(path):
        try:
            ids, labels = _row(line, tokenizer)
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            rejects.append(Reject("", f"{path.name} line {number}", "malformed", str(error)))
            continue
        if len(ids) > max_length:
            found = f"it makes {len(ids)} ids, more than max_length, {max_length}"
            rejects.append(Reject("", f"{path.name} line {number}", "too-long", found))
        else:
            rows.append((ids, labels))
    if not rows:
        found = "no line of it can be used; rejects.jsonl says why"
        raise ConfigError(
            f"Reading chat from '{path}': {found}. Write messages or text, a JSON object a line."
        )
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"Reading chat from '{path}': {error}. Name a JSONL file in UTF-8.") from error
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _row(line: str, tokenizer: Any) -> tuple[Ids, Ids]:
    content = json.loads(line)
    if "messages" not in content:
        end = tokenizer.eos_token_id
        if end is None:
            raise InputError("a text is to end, and the tokenizer has no eos_token: use messages")
        ids = [*_plain_ids(content["text"], tokenizer), end]
        return ids, [IGNORED, *ids[1:]]
    # What else a line has, a template might write too.
    messages = [{key: one[key] for key in ("role", "content")} for one in content["messages"]]
    for message in messages:
        for text in message.values():
            _plain_ids(text, tokenizer)
    ids, labels = [], []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _rendered(messages[:place], tokenizer, True)
        said = _rendered(messages[: place + 1], tokenizer, False)
        if said[: len(asked)] != asked or asked[: len(ids)] != ids:
            raise InputError("the chat template writes turns differently as the chat goes on")
        labels += [IGNORED] * (len(asked) - len(ids)) + said[len(asked) :]
        ids = said
    if not ids:
        raise InputError("no assistant speaks in it")
    return ids, labels


def _rendered(messages: list[Any], tokenizer: Any, open_turn: bool) -> Ids:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=open_turn, date_string=DATE
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _plain_ids(text: str, tokenizer: Any) -> Ids:
    """Return the ids of a text that has no markers, of speech or of turns, in it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if odd := set(ids) & set(tokenizer.added_tokens_decoder):
        raise InputError(
            f"the text {text[:40]!r} holds the marker {tokenizer.convert_ids_to_tokens(min(odd))}"
        )
    return ids
