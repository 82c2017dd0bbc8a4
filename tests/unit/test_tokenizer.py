"""Tokenizers that learn more symbols keep every id they had, and read no text as a marker."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from llasa.errors import BundleError, ConfigError
from llasa.prompt import MARKERS, Prompt, speech_token
from llasa.text.spelling import SYMBOLS
from llasa.train.tokenizer import build_phone_tokenizer, extend_tokenizer

SIZE = 64


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("before")
    build_phone_tokenizer(folder, SIZE)
    return folder


def prompt(folder: Path) -> Prompt:
    return Prompt.load(folder, "llasa-plain", SIZE, " | ")


def test_no_id_moves(before: Path, tmp_path: Path) -> None:
    new = extend_tokenizer(before, [*SYMBOLS["it"], "AH", "."], tmp_path)
    assert new == list(SYMBOLS["it"])
    old, grown = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (before, tmp_path))
    names = old.get_vocab(with_added_tokens=True)
    assert {name: grown.token_to_id(name) for name in names} == names
    size = len(names)
    assert [grown.token_to_id(symbol) for symbol in new] == list(range(size, size + len(new)))
    assert prompt(before).vocab_size == size and prompt(tmp_path).vocab_size == size + len(new)
    row = ("DH AH | K AE T .", [1, 2, 3], "HH AY", [4])
    assert prompt(tmp_path).example(*row) == prompt(before).example(*row)


def test_new_symbols_are_read_and_markers_are_not(before: Path, tmp_path: Path) -> None:
    extend_tokenizer(before, SYMBOLS["it"], tmp_path)
    assert prompt(before).text_ids("c à")[1] == ("c", "à")
    ids, dropped = prompt(tmp_path).text_ids(f"c à | DH {MARKERS[3]} {speech_token(0)} <pad> <unk>")
    assert len(ids) == 4 and dropped == (MARKERS[3], speech_token(0), "<pad>", "<unk>")


def test_it_can_be_extended_again_and_in_place(before: Path, tmp_path: Path) -> None:
    extend_tokenizer(before, SYMBOLS["it"], tmp_path)
    first = prompt(tmp_path).text_ids("c à")[0]
    assert extend_tokenizer(tmp_path, [*SYMBOLS["it"], *SYMBOLS["de"]], tmp_path) == ["ä", "ö", "ü", "ß"]
    assert prompt(tmp_path).text_ids("c à")[0] == first
    assert extend_tokenizer(tmp_path, SYMBOLS["de"], tmp_path) == []


def test_transformers_reads_it_alike(before: Path, tmp_path: Path) -> None:
    extend_tokenizer(before, SYMBOLS["it"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("c à DH", add_special_tokens=False) == prompt(tmp_path).text_ids("c à DH")[0]
    assert tokenizer.convert_tokens_to_ids(speech_token(5)) == prompt(before).first_code_id + 5


@pytest.mark.parametrize("symbol", ["", "a b", "<x>", "|", "<|s_0|>"])
def test_what_is_no_symbol_is_refused(before: Path, tmp_path: Path, symbol: str) -> None:
    with pytest.raises(ConfigError, match="Use signs without spaces"):
        extend_tokenizer(before, ["x", symbol], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_tokenizers_are_refused(before: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="Adding symbols to the tokenizer"):
        extend_tokenizer(tmp_path / "nothing", ["x"], tmp_path)
    content = json.loads((before / "tokenizer.json").read_text("utf-8"))
    content["model"]["type"] = "BPE"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{}", "utf-8")
    with pytest.raises(BundleError, match="kind 'BPE', which reads any text already"):
        extend_tokenizer(tmp_path, ["x"], tmp_path)
