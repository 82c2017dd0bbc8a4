"""What a bundle does with languages it knows, with those it does not, and with voices of another."""

# ruff: noqa: RUF001 (full-width signs are what is tested)

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llasa.bundle import Bundle, load_bundle, seal
from llasa.core import Voice
from llasa.errors import BundleError, ConfigError
from llasa.synthesizer import Synthesizer
from llasa.text.spelling import SYMBOLS
from llasa.train.tokenizer import extend_tokenizer
from llasa.voice import load, save
from tests.published import build_llasa, build_xcodec2

LM = {"family": "llasa-plain", "text": "phones", "separator": " | ", "max_length": 1024}


@pytest.fixture(scope="module")
def polyglot(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, grown to four languages."""
    from transformers import LlamaForCausalLM

    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bundles") / "polyglot"))
    symbols = [symbol for code in SYMBOLS for symbol in SYMBOLS[code]]
    extend_tokenizer(folder / "lm", symbols, folder / "lm")
    rows = load_bundle(tiny_bundle).prompt.vocab_size + len(set(symbols))
    model = LlamaForCausalLM.from_pretrained(folder / "lm")
    model.resize_token_embeddings(rows)
    model.save_pretrained(folder / "lm")
    lm = {**LM, "languages": ["en", "it", "de", "zh"]}
    seal(folder, {"name": "polyglot", "default_voice": "ada", "lm": lm, "codec": {"kind": "compact"}})
    return load_bundle(folder)


def test_each_language_has_its_form(polyglot: Bundle) -> None:
    assert polyglot.form("2 cats").text == "T UW | K AE T S"
    assert polyglot.form("2 gatti", "it").text == "d u e | g a t t i"
    assert polyglot.form("2 Äpfel", "de-CH").text == "z w e i | ä p f e l"
    assert polyglot.form("2个cat", "zh").text == "l i a n g 3 | g e 4 | K AE T"
    assert polyglot.form("你好", "zh").weight > polyglot.form("no", "it").weight
    for text, language in (("due è", "it"), ("größe", "de"), ("绿", "zh")):
        assert polyglot.prompt.text_ids(polyglot.form(text, language).text)[1] == ()


def test_letters_tell_the_language_where_they_can(polyglot: Bundle) -> None:
    assert [polyglot.language(text) for text in ("Ciao", "我用iPhone拍照", "αβγ")] == ["en", "zh", "en"]


@pytest.mark.parametrize(("text", "language"), [("Ciao", "it"), ("你好", None), ("x", "tlh")])
def test_a_language_it_does_not_know_is_refused_by_name(
    tiny_bundle: Path, text: str, language: str | None
) -> None:
    bundle = load_bundle(tiny_bundle)
    code = language or bundle.language(text)
    with pytest.raises(ConfigError, match=f"bundle 'tiny' does not know '{code}'. It knows en: choose one"):
        bundle.form(text, code)


def test_the_starter_refuses_what_it_would_mumble(bundle_folder: Path) -> None:
    speaker = Synthesizer(load_bundle(bundle_folder))
    with pytest.raises(ConfigError, match="does not know 'zh'"):
        speaker.speak("你好，世界。")


def test_a_manifest_names_languages_that_can_be_read(broken_bundle: Path) -> None:
    path = broken_bundle / "bundle.toml"
    text = path.read_text("utf-8")
    assert 'languages = ["en"]' in text
    for wrong in ("[]", '["fr"]', '"en"'):
        path.write_text(text.replace('languages = ["en"]', f"languages = {wrong}"), "utf-8")
        with pytest.raises(BundleError, match="languages"):
            load_bundle(broken_bundle)
    path.write_text(text.replace('languages = ["en"]\n', ""), "utf-8")
    assert load_bundle(broken_bundle).manifest.lm.languages == ["en"]


def test_a_voice_of_another_language_is_formed_in_its_own(polyglot: Bundle) -> None:
    speaker = Synthesizer(polyglot)
    ada = polyglot.voices.get("ada")
    maria = replace(ada, text="Ho 2 gatti.", language="it")
    job = speaker.job("Hello cats.", maria, language="en")
    said = "o | d u e | g a t t i . | HH AH L OW | K AE T S ."
    assert job.prompt == polyglot.prompt.render(f"h {said}") + polyglot.prompt.ids(ada.codes)
    job = speaker.job("你好", ada)
    said = "DH AH | K AE T | S AE T | AA N | DH AH | M AE T | n i 3 | h a o 3"
    assert job.prompt == polyglot.prompt.render(said) + polyglot.prompt.ids(ada.codes)
    mei = replace(ada, text="你好。")
    job = speaker.job("2 gatti", mei, language="it")
    assert job.prompt == polyglot.prompt.render(
        "n i 3 | h a o 3 . | d u e | g a t t i"
    ) + polyglot.prompt.ids(ada.codes)


@pytest.mark.fault("S14")
def test_a_voice_file_keeps_its_language_and_old_files_have_none(tmp_path: Path) -> None:
    voice = Voice("maria", "Ho due gatti.", [1, 2], "compact@0", language="it")
    save(voice, tmp_path / "maria.safetensors")
    assert load(tmp_path / "maria.safetensors") == voice
    strings = {key: "x" for key in ("name", "text", "codec", "source", "consent")}
    old = strings | {"sample_rate": "", "version": "1"}
    save_file({"codes": np.array([1], np.int32)}, tmp_path / "old.safetensors", old)
    assert load(tmp_path / "old.safetensors").language == ""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("published")
    build_llasa(folder / "lm", vocab="small")
    build_xcodec2(folder / "codec")
    return load_bundle(folder / "lm", codec=folder / "codec")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我用iPhone 12拍照，然后 upload。", "zh"),
        ("Ich sage “hello” zu 3 Leuten, größer als 我们.", "de"),
        ("Perché dici «cheese» a Zürich?", "it"),
        ("Hello, 你好 and ciao!", "en"),
    ],
)
def test_published_models_read_mixed_scripts_as_they_are_written(
    published: Bundle, text: str, language: str
) -> None:
    form = published.form(text, language)
    assert form == published.form(text, "en") and form.dropped == ()
    ids, dropped = published.prompt.text_ids(form.text)
    assert ids and dropped == () and set(ids).isdisjoint(published.prompt.allowed_token_ids)


def test_published_models_speak_with_a_voice_of_another_language(published: Bundle) -> None:
    voice = Voice("mei", "你好，2024年。", [1, 2, 3], published.codec.name, language="zh")
    job = Synthesizer(published).job("Good morning.", voice, language="en")
    text = published.prompt.text_ids("你好，2024年。 Good morning.")[0]
    joined = ",".join(map(str, job.prompt))
    assert ",".join(map(str, text)) in joined and job.prompt[-3:] == published.prompt.ids([1, 2, 3])
