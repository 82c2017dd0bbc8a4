"""Prompts of published checkpoints, id by id: on Llama-3 as published, on Qwen 2.5, and on a SmolLM2-like.

The stored ids come from `make_published_ids.py`, by the path of the published scripts and the true
vocabularies; of those, what these prompts can touch is stored too, and gives the same ids.
"""

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders

from llasa.core import Voice
from llasa.prompt import MARKERS, Prompt, speech_token
from tests.golden.make_published_ids import DATE, FILE, golden
from tests.published import (
    BASES,
    CHATML_TEMPLATE,
    CODEBOOK_SIZE,
    TRUE_TOKENIZER,
    BaseName,
    Json,
    add_llasa,
    invented,
    like,
    save_tokenizer,
    tokenizer_of,
)

GOLDEN: Json = json.loads(FILE.read_text("utf-8"))
CASES = [(base, number) for base in get_args(BaseName) for number in range(len(GOLDEN[base]["cases"]))]
FIRST_CODE = {"llama3": 128_264, "qwen": 151_673, "smollm": 49_160}
LLAMA3_HEAD = [
    *(128_000, 128_006, 9125, 128_007, 271, 38_766, 1303, 33_025, 2696, 25, 6790, 220, 2366, 18, 198),
    *(15_724, 2696, 25, 220, 1627, 10_263, 220, 2366, 19, 271, 128_009, 128_006, 882, 128_007, 271),
    *(12_281, 279, 1495, 311, 8982, 25, 128_258),
]
LLAMA3_TAIL = [128_259, 128_009, 128_006, 78_191, 128_007, 271, 128_260]
LOOK_ALIKES = (
    str.maketrans({"<": "\uff1c", "|": "\uff5c", ">": "\uff1e", "_": "\uff3f"}),
    str.maketrans({"<": "\u2039", "|": "\u01c0", ">": "\u203a", "S": "\u0405"}),
    str.maketrans({"|": "|\u200b", "_": "\u00ad_"}),
    str.maketrans({"|": " | ", "_": " "}),
)


def rebuilt(base: BaseName) -> Json:
    """Return the tokenizer of a base, with entries that no text can reach where none were stored."""
    unreachable = {f" {place}": place for place in range(BASES[base].words)}
    names = dict(enumerate(BASES[base].special if BASES[base].first else ()))
    names |= {place: name for name, place in GOLDEN[base]["vocab"].items()}
    vocab = {names.get(place, name): place for name, place in unreachable.items()}
    return like(base, vocab, [tuple(pair.split()) for pair in GOLDEN[base]["merges"]])


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[BaseName, Prompt]:
    loaded = dict[BaseName, Prompt]()
    for base in get_args(BaseName):
        folder = tmp_path_factory.mktemp(base)
        save_tokenizer(folder, base, add_llasa(rebuilt(base)))
        loaded[base] = Prompt.load(folder, "llasa-chat", CODEBOOK_SIZE)
    return loaded


def voice_of(case: Json) -> Voice | None:
    return Voice(name="v", codec="xcodec2@0", **case["voice"]) if case["voice"] else None


@pytest.mark.parametrize(("base", "number"), CASES)
def test_a_prompt_has_the_ids_of_the_published_scripts(
    base: BaseName, number: int, prompts: dict[BaseName, Prompt]
) -> None:
    case = GOLDEN[base]["cases"][number]
    assert prompts[base].render(case["text"], voice_of(case)) == case["ids"]


def test_stored_prompts_of_llama3_begin_and_end_as_published() -> None:
    for case in GOLDEN["llama3"]["cases"]:
        ids, codes = case["ids"], case["voice"]["codes"] if case["voice"] else []
        text = ids[len(LLAMA3_HEAD) : len(ids) - len(LLAMA3_TAIL) - len(codes)]
        assert ids == [*LLAMA3_HEAD, *text, *LLAMA3_TAIL, *(128_264 + code for code in codes)]
        assert text and max(text) < 128_000
    assert DATE == "26 Jul 2024"


def test_every_base_has_its_own_ids(prompts: dict[BaseName, Prompt]) -> None:
    for base, prompt in prompts.items():
        first = FIRST_CODE[base]
        assert (prompt.first_code_id, prompt.vocab_size) == (first, first + 65_536)
        assert prompt.stop_token_ids == (first - 3,)
        assert prompt.allowed_token_ids == (*range(first, first + 65_536), first - 3)
        assert prompt.ids([0, 65_535]) == [first, first + 65_535]
        assert prompt.codes(prompt.ids(list(range(65_536)))) == list(range(65_536))
        assert prompt.example("one", [1])[0][-2:] == [first + 1, first - 3]


def test_qwen3_opens_a_turn_with_an_empty_thought_and_so_do_we(tmp_path: Path) -> None:
    thought = '"\\n" + ("<think>\\n\\n</think>\\n\\n" if message["role"] == "assistant" else "")'
    template = CHATML_TEMPLATE.replace('message["role"] + "\\n"', f'message["role"] + {thought}')
    tokenizer = add_llasa(invented("qwen", "small"), 8)
    save_tokenizer(tmp_path, "qwen", tokenizer)
    (tmp_path / "chat_template.jinja").write_text(template, "utf-8")
    read = Tokenizer.from_str(json.dumps(tokenizer))
    wanted = read.encode("<|im_start|>assistant\n<think>\n\n</think>\n\n<|SPEECH_GENERATION_START|>").ids
    ids = Prompt.load(tmp_path, "llasa-chat", 8).render("one")
    assert len(wanted) > 4 and ids[-len(wanted) :] == wanted


@pytest.mark.skipif(TRUE_TOKENIZER not in os.environ, reason=f"{TRUE_TOKENIZER} names no folder")
def test_the_true_vocabulary_gives_the_stored_ids(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("llama3", Path(os.environ[TRUE_TOKENIZER]))
    assert golden("llama3", tokenizer) == GOLDEN["llama3"]["cases"]
    save_tokenizer(tmp_path, "llama3", add_llasa(tokenizer))
    prompt = Prompt.load(tmp_path, "llasa-chat", CODEBOOK_SIZE)
    for case in GOLDEN["llama3"]["cases"]:
        assert prompt.render(case["text"], voice_of(case)) == case["ids"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    """All 193,800 entries, the words of which are the true ones where they are at hand."""
    folder = tmp_path_factory.mktemp("large")
    true = os.environ.get(TRUE_TOKENIZER)
    words = tokenizer_of("llama3", Path(true)) if true else invented("llama3")
    save_tokenizer(folder, "llama3", add_llasa(words))
    return Prompt.load(folder, "llasa-chat", CODEBOOK_SIZE)


NAMES = (*MARKERS, *BASES["llama3"].special, *map(speech_token, range(CODEBOOK_SIZE)))


def said(prompt: Prompt, ids: list[int]) -> str:
    """Return the text of ids, all of which must be words."""
    reader: Any = prompt._text_view
    return decoders.ByteLevel().decode([reader.id_to_token(token_id) for token_id in ids])


def test_no_marker_comes_out_of_text(large: Prompt) -> None:
    text = "".join(NAMES)
    ids, dropped = large.text_ids(text)
    assert max(ids) < 128_000 and dropped == ()
    assert said(large, ids) == text


parts = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(lambda name: name[: len(name) // 2]),
    st.sampled_from(NAMES).map(lambda name: name[len(name) // 2 :]),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(LOOK_ALIKES)).map(lambda two: two[0].translate(two[1])),
    st.sampled_from(["<", "<|", "|>", "s_", "\u200d", "\ufeff", "\u202e", "\x00", "\n", "\u0308", "\u0120"]),
    st.text(st.characters(codec="utf-8"), max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(parts, max_size=10).map("".join))
def test_any_mix_of_markers_and_text_stays_text(large: Prompt, text: str) -> None:
    ids, dropped = large.text_ids(text)
    assert max(ids, default=0) < 128_000 and dropped == ()
    assert said(large, ids) == text
