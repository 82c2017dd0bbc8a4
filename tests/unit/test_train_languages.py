"""A bundle that gets more languages speaks what it spoke, and has rows for what it will learn."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llasa import load
from llasa.bundle import load_bundle
from llasa.engines.weights import load_model
from llasa.errors import ConfigError
from llasa.text.spelling import SYMBOLS
from llasa.train.languages import LIKE, add_languages
from tests.published import build_llasa, build_xcodec2


@pytest.fixture(scope="module")
def grown(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grown") / "bundle"
    assert add_languages(tiny_bundle, ["it"], folder) == list(SYMBOLS["it"])
    return folder


def tables(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    model: Any = load_model(folder / "lm", torch.float32)
    return model.get_input_embeddings().weight.detach(), model.get_output_embeddings().weight.detach()


def test_it_speaks_what_it_spoke(tiny_bundle: Path, grown: Path) -> None:
    before, after = load(tiny_bundle), load(grown)
    said = [speaker.say("The cat sat.", max_tokens=20).samples for speaker in (before, after)]
    assert (said[0] == said[1]).all()
    known = before.bundle.prompt.vocab_size
    old, new = (tables(folder) for folder in (tiny_bundle, grown))
    assert all(torch.equal(b[:known], a[:known]) for a, b in zip(old, new, strict=True))


def test_letters_begin_near_the_phones_they_are_like_and_apart(grown: Path) -> None:
    bundle = load_bundle(grown)
    weight, _ = tables(grown)
    rows = {
        name: weight[bundle.prompt.text_ids(name)[0][0]] for name in (*SYMBOLS["it"], "B", "K", "S", "UW")
    }
    nearest = {name: min("BKS", key=lambda phone: float((rows[name] - rows[phone]).norm())) for name in "bqs"}
    assert nearest == {"b": "B", "q": "K", "s": "S"}
    assert not torch.equal(rows["q"], rows["k"])


def test_the_bundle_says_what_it_reads(grown: Path) -> None:
    bundle = load_bundle(grown)
    assert (bundle.name, bundle.manifest.lm.languages) == ("tiny-it", ["en", "it"])
    assert bundle.prompt.text_ids(bundle.form("Perché?", "it").text)[1] == ()
    assert bundle.form("Perché?", "it").text == "p e r c h é ?"


def test_one_language_can_follow_another(grown: Path, tmp_path: Path) -> None:
    assert add_languages(grown, ["de", "zh"], tmp_path / "more") == [*"äöüß", *"12345"]
    bundle = load_bundle(tmp_path / "more")
    assert bundle.manifest.lm.languages == ["en", "it", "de", "zh"]
    assert bundle.prompt.text_ids(bundle.form("Öl", "de").text)[1] == ()


def test_every_letter_is_like_something() -> None:
    letters = {symbol for symbols in SYMBOLS.values() for symbol in symbols if not symbol.isdigit()}
    assert letters == set(LIKE)


def test_what_cannot_be_added_is_refused(grown: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found language 'fr'\. Use de, it, zh"):
        add_languages(grown, ["fr"], tmp_path / "out")
    with pytest.raises(ConfigError, match="is there already"):
        add_languages(grown, ["de"], grown)
    build_llasa(tmp_path / "lm", vocab="small")
    build_xcodec2(tmp_path / "lm" / "codec")
    with pytest.raises(ConfigError, match="found a model that reads written"):
        add_languages(tmp_path / "lm", ["de"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
