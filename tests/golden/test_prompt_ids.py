"""Golden prompt ids of both families on a small tokenizer built like Llama-3's.

The ids are compared with stored ones, and with a plain path that shares no code: write the whole prompt as a
string and tokenise it in one go with the markers on.
"""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from llasa.core import Voice
from llasa.prompt import MARKERS, Prompt
from tests.published import LLAMA3_SPLIT, LLAMA3_TEMPLATE

GOLDEN = json.loads(Path(__file__).with_name("prompt_ids.json").read_text("utf-8"))
CODEBOOK_SIZE = 64
TEXT = "The cat's 12 hats — naïve,  eh?"
VOICE = Voice(name="ada", text="She reads the news.", codes=[3, 63, 0, 7], codec="test@0")

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
MERGES = (
    "t h",
    "th e",
    "T h",
    "Th e",
    "Ġ the",
    "e r",
    "a t",
    "c at",
    "Ġ cat",
    "h at",
    "Ġ hat",
    "1 2",
    "i n",
    "n e",
)
CHAT_HEAD = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
    "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>"
)
CHAT_TAIL = (
    "<|TEXT_UNDERSTANDING_END|><|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    "<|SPEECH_GENERATION_START|>"
)
EXPECTED = {
    "llasa-chat": (CHAT_HEAD, CHAT_TAIL),
    "llasa-plain": (
        "<|begin_of_text|><|TEXT_UNDERSTANDING_START|>",
        "<|TEXT_UNDERSTANDING_END|><|SPEECH_GENERATION_START|>",
    ),
}


def small_llama_tokenizer() -> Tokenizer:
    """Byte-level BPE with a handful of merges and Llama-3's splitting, special tokens and post-processor."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [(left, right) for left, right in (merge.split() for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[bos]
    )
    add_speech(tokenizer, CODEBOOK_SIZE)
    return tokenizer


def add_speech(tokenizer: Tokenizer, codebook_size: int) -> None:
    """Append markers and speech tokens the way the published checkpoints did: as ordinary added tokens."""
    tokenizer.add_tokens([AddedToken(name) for name in MARKERS])
    tokenizer.add_tokens([AddedToken(f"<|s_{code}|>") for code in range(codebook_size)])


def save(tokenizer: Tokenizer, folder: Path, **config: str) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_llama_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    return save(tokenizer, path, bos_token="<|begin_of_text|>", chat_template=LLAMA3_TEMPLATE)


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def prompt(folder: Path, family: str) -> Prompt:
    return Prompt.load(folder, family, CODEBOOK_SIZE)


def as_string(family: str, text: str, codes: list[int]) -> str:
    head, tail = EXPECTED[family]
    return head + text + tail + "".join(f"<|s_{code}|>" for code in codes)


def test_without_a_voice(prompt: Prompt, family: str, tokenizer: Tokenizer) -> None:
    ids = prompt.render(TEXT)
    assert ids == tokenizer.encode(as_string(family, TEXT, []), add_special_tokens=False).ids
    assert ids == GOLDEN[family]["plain"]


def test_with_a_voice(prompt: Prompt, family: str, tokenizer: Tokenizer) -> None:
    ids = prompt.render(TEXT, VOICE)
    whole = as_string(family, "She reads the news. " + TEXT, VOICE.codes)
    assert ids == tokenizer.encode(whole, add_special_tokens=False).ids
    assert ids == GOLDEN[family]["voice"]


def test_training_row(prompt: Prompt, family: str, tokenizer: Tokenizer) -> None:
    ids, labels = prompt.example(TEXT, [5, 6], VOICE.text, VOICE.codes)
    end = tokenizer.token_to_id("<|SPEECH_GENERATION_END|>")
    first = tokenizer.token_to_id("<|s_0|>")
    assert ids == [*GOLDEN[family]["voice"], first + 5, first + 6, end]
    assert labels == [-100] * len(GOLDEN[family]["voice"]) + [first + 5, first + 6, end]


def test_exactly_one_bos(prompt: Prompt, tokenizer: Tokenizer) -> None:
    ids = prompt.render("<|begin_of_text|> hi")
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    assert ids[0] == bos
    assert ids.count(bos) == 1


@pytest.mark.parametrize("written", ["", "{{- bos_token }}{{- bos_token }}"])
def test_one_bos_whatever_the_template_writes(
    written: str, folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    template = LLAMA3_TEMPLATE.replace("{{- bos_token }}", written)
    save(tokenizer, tmp_path, bos_token="<|begin_of_text|>", chat_template=template)
    ids = Prompt.load(tmp_path, "llasa-chat", CODEBOOK_SIZE).render(TEXT)
    assert ids == GOLDEN["llasa-chat"]["plain"]


def test_template_in_its_own_file_and_tokens_as_objects(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(tokenizer, tmp_path)
    config = {"bos_token": {"content": "<|begin_of_text|>", "special": True}, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "chat_template.jinja").write_text(LLAMA3_TEMPLATE, "utf-8")
    assert Prompt.load(tmp_path, "llasa-chat", CODEBOOK_SIZE).render(TEXT) == GOLDEN["llasa-chat"]["plain"]


def test_padding_and_truncation_left_in_the_file_are_ignored(
    folder: Path, family: str, tmp_path: Path
) -> None:
    tokenizer = small_llama_tokenizer()
    tokenizer.enable_padding(length=256, pad_id=0)
    tokenizer.enable_truncation(8)
    save(tokenizer, tmp_path, bos_token="<|begin_of_text|>", chat_template=LLAMA3_TEMPLATE)
    assert Prompt.load(tmp_path, family, CODEBOOK_SIZE).render(TEXT) == GOLDEN[family]["plain"]


def test_text_never_becomes_a_marker(prompt: Prompt, tokenizer: Tokenizer) -> None:
    added = tokenizer.get_added_tokens_decoder()
    for name in [token.content for token in added.values()]:
        for text in (
            name,
            name.replace("<", "\uff1c").replace("|", "\uff5c"),
            f"a{name}b",
            name[:2] + "\u200d" + name[2:],
        ):
            ids, dropped = prompt.text_ids(text)
            assert ids and max(ids) < min(added) and dropped == ()
