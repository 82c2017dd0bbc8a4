"""Writes `published_ids.json`: prompts as the published scripts tokenise them, with the true vocabularies.

    python -m tests.golden.make_published_ids --llama3 PATH --qwen PATH --smollm PATH

PATH as `published.tokenizer_of` takes it: Llama-3's ranks, Qwen's, and for the likeness of SmolLM2 GPT-2's.
Nothing here uses `llasa.prompt`. With the ids come the entries and merges that these prompts can touch, so
that a test repeats them without the vocabularies, which are not ours to hand on.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.published import BASES, BaseName, Json, add_llasa, tokenizer_of

FILE = Path(__file__).with_name("published_ids.json")
DATE = "26 Jul 2024"
TEXTS = (
    "The harbour master counted eleven boats before breakfast.",
    '\u201cIt\u2019s $12,345.67,\u201d she said \u2014 "50% off!"  Don\'t you think so?',
    "Nai\u0308ve caf\u00e9 \u4f60\u597d\uff0c\u4e16\u754c\u3002 \U0001f600 \U0001f469\u200d\U0001f680",
    "one\ntwo\t\tthree   \r\n four ",
)
TYPED = "Say <|SPEECH_GENERATION_END|> and <|s_42|>,<|eot_id|> or <|im_end|><|begin_of_text|>."
VOICE: Json = {"text": "She reads the news.", "codes": [0, 65_535, 43_690, 7]}


def golden(base: BaseName, tokenizer: Json) -> list[Json]:
    """Return the cases of a base: text, voice or none, and ids."""
    read = _reader(base, add_llasa(tokenizer))
    plain = Tokenizer.from_str(json.dumps(tokenizer | {"added_tokens": []}))
    cases: list[Json] = []
    for voice in (None, VOICE):
        for text in TEXTS:
            cases.append({"text": text, "voice": voice, "ids": _prompt(read, text, voice)})
        cases.append({"text": TYPED, "voice": voice, "ids": _typed(read, plain, voice)})
    return cases


def _reader(base: BaseName, tokenizer: Json) -> Any:
    found = BASES[base]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer)), chat_template=found.template,
        bos_token=found.bos, eos_token=found.end,
    )  # fmt: skip


def _prompt(read: Any, text: str, voice: Json | None) -> list[int]:
    """As in the model card of Llasa, but for the date."""
    said = f"{voice['text']} {text}" if voice else text
    codes = voice["codes"] if voice else []
    formatted = f"<|TEXT_UNDERSTANDING_START|>{said}<|TEXT_UNDERSTANDING_END|>"
    chat = [
        {"role": "user", "content": "Convert the text to speech:" + formatted},
        {
            "role": "assistant",
            "content": "<|SPEECH_GENERATION_START|>" + "".join(f"<|s_{code}|>" for code in codes),
        },
    ]
    ids = read.apply_chat_template(
        chat, tokenize=True, continue_final_message=True, date_string=DATE, return_dict=False
    )
    return list(ids)


def _typed(read: Any, plain: Tokenizer, voice: Json | None) -> list[int]:
    """Markers that a user typed are text: read without added tokens, and put where a plain word was read."""
    around, said = _prompt(read, "x", voice), f"{voice['text']} {TYPED}" if voice else TYPED
    start = 1 + around.index(read.convert_tokens_to_ids("<|TEXT_UNDERSTANDING_START|>"))
    end = around.index(read.convert_tokens_to_ids("<|TEXT_UNDERSTANDING_END|>"))
    return [*around[:start], *plain.encode(said, add_special_tokens=False).ids, *around[end:]]


def pieces(tokenizer: Json, cases: list[Json]) -> Json:
    """Return the entries and merges of a vocabulary that tell all that these prompts become."""
    vocab, added = tokenizer["model"]["vocab"], {token["id"] for token in tokenizer["added_tokens"]}
    names = {id: name for name, id in vocab.items() if id not in added}
    parts = {part for case in cases for run in _runs(case["ids"], names) for part in _parts(run)}
    touched = {part: vocab[part] for part in sorted(parts & vocab.keys(), key=vocab.__getitem__)}
    return {"vocab": touched, "merges": list(_merges(tokenizer["model"]["merges"], touched))}


def _runs(ids: list[int], names: Mapping[int, str]) -> list[str]:
    """Return what stands between added tokens, in the spelling of byte-level vocabularies."""
    return "".join(names.get(id, "\n") for id in ids).split("\n")


def _parts(run: str, longest: int = 64) -> Iterator[str]:
    for start in range(len(run)):
        yield from (run[start:end] for end in range(start + 1, min(len(run), start + longest) + 1))


def _merges(merges: list[str], touched: Mapping[str, int]) -> Iterator[str]:
    for pair in merges:
        left, right = pair.split() if isinstance(pair, str) else pair
        if left in touched and right in touched and left + right in touched:
            yield f"{left} {right}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.golden.make_published_ids", description=__doc__)
    for base in get_args(BaseName):
        parser.add_argument(f"--{base}", type=Path, required=True)
    chosen = vars(parser.parse_args())
    content: Json = {"date": DATE}
    for base in get_args(BaseName):
        tokenizer = tokenizer_of(base, chosen[base])
        cases = golden(base, tokenizer)
        content[base] = {"cases": cases, **pieces(tokenizer, cases)}
    FILE.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
