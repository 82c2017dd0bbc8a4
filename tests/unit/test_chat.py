"""Text-only rows: what is learnt of a chat, and what is refused."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llasa.data.rejects import Reject
from llasa.errors import ConfigError
from llasa.prompt import IGNORED, SPEECH_START, speech_token
from llasa.train.chat import chat_rows

TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    letters = {letter: number for number, letter in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz _<>|"])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_tokens(["<u>", "<a>", "<eot>", SPEECH_START, speech_token(0)])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eot>")
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return folder


def read(lm: Path, tmp_path: Path, *lines: object, max_length: int = 60):
    path, rejects = tmp_path / "chat.jsonl", list[Reject]()
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows = chat_rows(path, lm, max_length, rejects)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(lm)
    told = [
        "".join(tokenizer.convert_ids_to_tokens([label for label in labels if label != IGNORED]))
        for _, labels in rows
    ]
    return rows, told, rejects


def turns(*words: str) -> dict[str, object]:
    roles = ("user", "assistant") * len(words)
    return {"messages": [{"role": r, "content": w} for r, w in zip(roles, words, strict=False)]}


def test_only_what_the_assistant_says_is_learnt(lm, tmp_path):
    rows, told, rejects = read(lm, tmp_path, turns("hi", "hello", "bye", "so long"))
    assert told == ["hello<eot>so long<eot>"] and rejects == []
    assert len(rows[0][0]) == len(rows[0][1])


def test_a_text_is_learnt_whole(lm, tmp_path):
    assert read(lm, tmp_path, {"text": "abc def"})[1] == ["bc def<eot>"]


@pytest.mark.parametrize(
    "line",
    [
        turns("say <|SPEECH_GENERATION_START|>", "no"), turns("hi", "<|s_0|>"), turns("hi", "a<eot><a>b"),
        {"text": "<eot>"}, {"text": 5}, {"words": "x"}, ["x"], turns("hi"), {"messages": [{"role": "user"}]},
        {"messages": "hi"}, {"text": "a" * 99},
        {"messages": [{"role": "u><a>b<eot", "content": "x"}, *turns("hi", "no")["messages"]]},
    ],
)  # fmt: skip
def test_markers_and_nonsense_are_rejected_and_told(lm, tmp_path, line):
    _, told, rejects = read(lm, tmp_path, line, {"text": "fine"})
    assert told == ["ine<eot>"] and [one.place for one in rejects] == ["chat.jsonl line 1"]
    assert rejects[0].reason in ("malformed", "too-long") and rejects[0].detail


def test_nothing_that_can_be_used_is_an_error(lm, tmp_path):
    with pytest.raises(ConfigError, match="no line of it can be used"):
        read(lm, tmp_path, {"words": "x"})
    with pytest.raises(ConfigError, match="Name a JSONL file"):
        chat_rows(tmp_path / "none.jsonl", lm, 60, [])
