"""Prompts on the small tokenizers that the package builds itself: text reading, labels, limits and errors."""

import json
import logging
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from llasa.core import SamplingParams, Voice
from llasa.errors import BundleError, ConfigError, InputError
from llasa.prompt import MARKERS, PLAIN, Prompt, speech_token
from llasa.train.tokenizer import PAD, UNKNOWN, build_character_tokenizer, build_phone_tokenizer
from tests.faults.rows import trials

CODEBOOK_SIZE = 32
ADDED = [PAD, *MARKERS, *(speech_token(code) for code in range(CODEBOOK_SIZE))]
LOOK_ALIKES = str.maketrans({"<": "\uff1c", "|": "\uff5c", ">": "\uff1e", "_": "\uff3f"})


@pytest.fixture(scope="module")
def phone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phones")
    build_phone_tokenizer(folder, CODEBOOK_SIZE)
    return folder


@pytest.fixture(scope="module")
def character_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("characters")
    build_character_tokenizer(folder, CODEBOOK_SIZE)
    return folder


@pytest.fixture(scope="module")
def phones(phone_folder: Path) -> Prompt:
    return Prompt.load(phone_folder, "llasa-plain", CODEBOOK_SIZE, separator=" | ")


@pytest.fixture(scope="module")
def characters(character_folder: Path) -> Prompt:
    return Prompt.load(character_folder, "llasa-plain", CODEBOOK_SIZE)


@pytest.fixture(scope="module")
def composing() -> Prompt:
    """A character tokenizer whose own normaliser turns look-alikes into the real thing (NFKC)."""
    alphabet = {
        character: index for index, character in enumerate(" <|>_abcdefghijklmnopqrstuvwxyz0123456789?")
    }
    tokenizer = Tokenizer(models.WordLevel(alphabet, unk_token="?"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.add_tokens([AddedToken(name) for name in ADDED])
    return Prompt(tokenizer, PLAIN, CODEBOOK_SIZE)


def markers(prompt: Prompt) -> tuple[int, int, int, int]:
    """Text start, text end, speech start, speech end."""
    start = prompt.first_code_id - len(MARKERS) + 2
    return start, start + 1, start + 2, start + 3


def test_phone_prompt_is_symbols_between_markers(phones: Prompt) -> None:
    text_start, text_end, speech_start, _ = markers(phones)
    assert phones.render("AA | AE .") == [text_start, 0, 39, 1, 41, text_end, speech_start]


def test_voice_puts_its_text_before_and_its_codes_after(phones: Prompt) -> None:
    text_start, text_end, speech_start, _ = markers(phones)
    first = phones.first_code_id
    voice = Voice(name="v", text="AH", codes=[31, 0], codec="test@0")
    assert phones.render("AA", voice) == [text_start, 2, 39, 0, text_end, speech_start, first + 31, first]


def test_training_row_starts_as_the_inference_prompt_and_ends_with_the_end_marker(phones: Prompt) -> None:
    voice = Voice(name="v", text="AH", codes=[31, 0], codec="test@0")
    prompt = phones.render("AA", voice)
    ids, labels = phones.example("AA", [4, 5], voice.text, voice.codes)
    assert ids[: len(prompt)] == prompt
    assert ids[len(prompt) :] == [*phones.ids([4, 5]), phones.end_id]
    assert labels == [-100] * len(prompt) + ids[len(prompt) :]


def test_plainer_forms_are_tried_before_anything_is_dropped(characters: Prompt) -> None:
    ids, dropped = characters.text_ids("It\u2019s CAF\u00c9\nnow #1 \ud800ok #")
    assert ids == characters.text_ids("it's cafe now  ok ")[0]
    assert dropped == ("\ud800", "#", "1")


def test_dropped_characters_are_logged_once(characters: Prompt, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "llasa"):
        characters.render("plain")
        characters.render("a # b #")
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "'#'" in caplog.text


@pytest.mark.parametrize("text", ["", "  \n", "###", "\ud800", "<|s_1|"[:2]])
@pytest.mark.parametrize("voice", [None, Voice(name="v", text="hello", codes=[1], codec="test@0")])
def test_nothing_to_say_is_refused(characters: Prompt, text: str, voice: Voice | None) -> None:
    with pytest.raises(InputError, match="nothing in the text"):
        characters.render(text, voice)


@pytest.mark.fault("R8")
@pytest.mark.parametrize("folder", ["phone_folder", "character_folder"])
def test_text_never_becomes_an_added_token(folder: str, request: pytest.FixtureRequest) -> None:
    prompt = Prompt.load(request.getfixturevalue(folder), "llasa-plain", CODEBOOK_SIZE)
    first_added = prompt.first_code_id - len(MARKERS) - 1
    for name in [UNKNOWN, *ADDED]:
        for text in (name, f" {name} ", f"a{name}AA", name.translate(LOOK_ALIKES), "\u200d".join(name)):
            assert all(token_id < first_added - 1 for token_id in prompt.text_ids(text)[0])


fragments = st.one_of(
    st.sampled_from([*ADDED, UNKNOWN, *(name.translate(LOOK_ALIKES) for name in ADDED)]),
    st.sampled_from(["<", "|", ">", "\u200b", "\u200d", "\ufeff", "\u202e", "\x00", "\n", "s_", "1", "AA"]),
    st.text(st.characters(), max_size=6),
)


@pytest.mark.fault("R8")
@settings(max_examples=len(trials(300, 10_000)), deadline=None)
@given(st.lists(fragments, max_size=8).map("".join))
def test_no_text_at_all_becomes_an_added_token(
    phones: Prompt, characters: Prompt, composing: Prompt, text: str
) -> None:
    for prompt in (phones, characters, composing):
        ids, _ = prompt.text_ids(text)
        assert all(0 <= token_id < prompt.first_code_id - len(MARKERS) - 1 for token_id in ids)


def test_a_token_that_is_text_and_marker_at_once_is_dropped() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<|im_start|>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.add_tokens([AddedToken(name) for name in ADDED])
    assert Prompt(tokenizer, PLAIN, CODEBOOK_SIZE).text_ids("a <|im_start|> a") == ([2, 2], ("<|im_start|>",))


@pytest.mark.fault("R8")
@pytest.mark.parametrize("unit", ["a", "\u2019", "#", "\ufdfa", "<|s_1|>", "AA | "])
def test_reading_time_grows_linearly(phones: Prompt, characters: Prompt, unit: str) -> None:
    for prompt in (phones, characters):
        times = [min(read_time_s(prompt, unit * n) for _ in range(3)) for n in (2_000, 4_000, 8_000)]
        assert times[2] < 4 * 3 * max(times[0], 1e-4)


def read_time_s(prompt: Prompt, text: str) -> float:
    start = time.process_time()
    prompt.text_ids(text)
    return time.process_time() - start


def test_codes_and_ids_are_inverse(phones: Prompt) -> None:
    codes = list(range(CODEBOOK_SIZE))
    assert phones.codes(phones.ids(codes)) == codes
    assert phones.codes([]) == phones.ids([]) == []


@pytest.mark.parametrize("code", [-1, CODEBOOK_SIZE])
def test_codes_out_of_range_are_refused(phones: Prompt, code: int) -> None:
    with pytest.raises(InputError, match="codebook"):
        phones.ids([0, code])
    with pytest.raises(InputError, match="codebook"):
        phones.render("AA", Voice(name="v", text="AA", codes=[code], codec="test@0"))


def test_ids_that_are_no_speech_are_refused(phones: Prompt) -> None:
    for odd in (0, phones.end_id, phones.vocab_size, -1):
        with pytest.raises(InputError, match=f"found id {odd}"):
            phones.codes([phones.first_code_id, odd])


@pytest.mark.parametrize(
    "row", [{"codes": []}, {"codes": [1], "voice_text": "AA"}, {"codes": [1], "voice_codes": [1]}]
)
def test_incomplete_training_rows_are_refused(phones: Prompt, row: dict) -> None:
    with pytest.raises(InputError, match="training row"):
        phones.example("AA", **row)


def test_sampling_is_limited_to_codes_and_end(phones: Prompt) -> None:
    params = phones.constrain(SamplingParams(temperature=0.5))
    assert params.temperature == 0.5
    assert params.stop_token_ids == (phones.end_id,)
    assert params.allowed_token_ids == (*phones.ids(list(range(CODEBOOK_SIZE))), phones.end_id)
    assert params.allowed_token_ids is phones.constrain(params).allowed_token_ids


def test_bos_only_if_declared(phone_folder: Path, phones: Prompt, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(phone_folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>"}), "utf-8")
    with_bos = Prompt.load(tmp_path, "llasa-plain", CODEBOOK_SIZE)
    assert with_bos.render("AA") == [phones.vocab_size, *phones.render("AA")]
    assert with_bos.vocab_size == phones.vocab_size + 1


def test_unsuitable_bundles_are_refused(phone_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="llasa-plain"):
        Prompt.load(phone_folder, "llasa", CODEBOOK_SIZE)
    with pytest.raises(BundleError, match=r"tokenizer\.json is missing"):
        Prompt.load(tmp_path, "llasa-plain", CODEBOOK_SIZE)
    with pytest.raises(BundleError, match="chat template"):
        Prompt.load(phone_folder, "llasa-chat", CODEBOOK_SIZE)
    for wrong_size in (CODEBOOK_SIZE - 1, CODEBOOK_SIZE + 1):
        with pytest.raises(BundleError, match="codec"):
            Prompt.load(phone_folder, "llasa-plain", wrong_size)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_files_are_named(phone_folder: Path, tmp_path: Path, name: str, content: bytes) -> None:
    for whole in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / whole).write_bytes((phone_folder / whole).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} is damaged \(.+\)\. Fetch"):
        Prompt.load(tmp_path, "llasa-plain", CODEBOOK_SIZE)


def test_a_chat_template_that_loses_the_text_is_refused(phone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((phone_folder / "tokenizer.json").read_bytes())
    template = "{{ messages[-1].content }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    with pytest.raises(BundleError, match="appear once"):
        Prompt.load(tmp_path, "llasa-chat", CODEBOOK_SIZE)


CODES = [speech_token(code) for code in range(CODEBOOK_SIZE)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (MARKERS[:4], r"has no <\|SPEECH_GENERATION_START\|>, <\|SPEECH_GENERATION_END\|>\. Use"),
        (MARKERS[4:], r"has no <\|TEXT_UNDERSTANDING_START\|>, <\|TEXT_UNDERSTANDING_END\|>\. Use"),
        (MARKERS, r"of 32 entries: expected <\|s_0\|>, found no such token"),
        ([*MARKERS, *CODES[:7], *CODES[8:]], r"expected <\|s_7\|> to have id 16, found no such token"),
        ([*MARKERS, *CODES[:7], "x", *CODES[7:]], r"expected <\|s_7\|> to have id 16, found id 17"),
        ([*MARKERS, *CODES[:-2], CODES[-1], CODES[-2]], r"expected <\|s_30\|> to have id 39, found id 40"),
        ([*MARKERS, *CODES, "<|s_32|>"], r"expected <\|s_31\|> to be the last, found more"),
    ],
)
def test_tokenizers_that_do_not_fit_say_what_is_out_of_place(names: list[str], expected: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.add_tokens([AddedToken(name) for name in names])
    with pytest.raises(BundleError, match=expected):
        Prompt(tokenizer, PLAIN, CODEBOOK_SIZE)


@pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('no') }}", "{{ 1 + 'a' }}", "nothing"])
def test_a_chat_template_that_fails_is_refused(template: str, phone_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((phone_folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    with pytest.raises(BundleError, match="Rendering the chat template"):
        Prompt.load(tmp_path, "llasa-chat", CODEBOOK_SIZE)


def test_tokenizer_layout(phone_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(phone_folder / "tokenizer.json"))
    names = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    assert names[:3] == ["AA", "AE", "AH"]
    assert names[39:46] == ["|", ",", ".", "?", "!", UNKNOWN, PAD]
    assert names[46:] == ADDED[1:]


def test_tokenizer_files_are_the_same_each_time(phone_folder: Path, tmp_path: Path) -> None:
    build_phone_tokenizer(tmp_path, CODEBOOK_SIZE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (phone_folder / name).read_bytes()


@pytest.mark.parametrize("folder", ["phone_folder", "character_folder"])
def test_transformers_reads_the_same_ids(folder: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    prompt = Prompt.load(path, "llasa-plain", CODEBOOK_SIZE)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    text = "AA | AE ." if folder == "phone_folder" else "it's on."
    whole = f"{MARKERS[2]}{text}{MARKERS[3]}{MARKERS[4]}<|s_3|>{MARKERS[5]}"
    assert tokenizer.encode(whole) == prompt.example(text, [3])[0]
    assert len(tokenizer) == prompt.vocab_size
    assert tokenizer.eos_token_id == prompt.end_id
    assert tokenizer.pad_token == PAD
    assert tokenizer.bos_token is None
