"""Bundles: whole or refused, and loaded part by part."""

import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from llasa.bundle import load_bundle, seal
from llasa.core import SamplingParams
from llasa.errors import BundleError, ConfigError
from llasa.manifest import Sampling, read_manifest

LM = {"family": "llasa-plain", "text": "phones", "separator": " | ", "max_length": 1024}
SETTINGS = {"name": "tiny", "default_voice": "ada", "lm": LM, "codec": {"kind": "compact"}}


def edit(folder: Path, old: str, new: str) -> None:
    """Change `bundle.toml`, which no hash protects."""
    path = folder / "bundle.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_loads_the_parts_that_are_asked_for(bundle_folder: Path):
    bundle = load_bundle(bundle_folder)
    assert bundle.codec.name == bundle.manifest.codec.name
    assert bundle.prompt.codebook_size == bundle.codec.codebook_size
    assert bundle.default_voice in bundle.voices.names()
    assert "engine" not in vars(bundle)
    assert bundle.engine.max_length >= bundle.max_length
    assert bundle.engine is bundle.engine


def test_missing_file_is_named(broken_bundle: Path):
    (broken_bundle / "lm" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"expected the file lm/model.safetensors, found none\. Install"):
        load_bundle(broken_bundle)


@pytest.mark.fault("R5")
def test_every_flipped_byte_is_noticed(broken_bundle: Path):
    for name in read_manifest(broken_bundle).files:
        path = broken_bundle / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{name} with SHA-256 [0-9a-f]{{12}}, found [0-9a-f]{{12}}"):
            load_bundle(broken_bundle)
        path.write_bytes(whole)
    load_bundle(broken_bundle)


def test_the_model_card_may_be_edited(broken_bundle: Path):
    card = broken_bundle / "README.md"
    card.write_text("a card", encoding="utf-8")
    assert "README.md" not in seal(broken_bundle, SETTINGS).files
    card.write_text("another card", encoding="utf-8")
    load_bundle(broken_bundle)


@pytest.mark.parametrize("name", ["lm/adapter_config.json", "codec/odd/more.safetensors", "phones/README.md"])
def test_files_that_nobody_sealed_are_refused(broken_bundle: Path, name: str):
    path = broken_bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=f"expected only sealed files, found {name}"):
        load_bundle(broken_bundle)


def test_pronunciations_need_a_bundle_that_reads_phones(broken_bundle: Path):
    edit(broken_bundle, 'text = "phones"', 'text = "characters"')
    load_bundle(broken_bundle, words={})
    with pytest.raises(ConfigError, match="pronunciations of 1 words, but it reads letters"):
        load_bundle(broken_bundle, words={"ada": "EY D AH"})


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "found format = 2"),
        ("separator", "seperator", "Did you mean 'separator'?"),
        ('default_voice = "ada"', 'default_voice = "bob"', "voices/bob.safetensors, found none"),
        ('path = "codec"', 'path = "../codec"', "a path inside the bundle"),
        ('"lm/config.json"', '"/etc/hostname"', "a path inside the bundle"),
        ('kind = "compact"', 'kind = "pickle"', "should be 'compact', 'xcodec2' or 'neucodec'"),
        ("top_p = 1.0", "top_p = 3.0", "less than or equal to 1"),
        ("[lm]", "[ lm", "it is no TOML file"),
    ],
)
def test_bad_descriptions_are_refused(broken_bundle: Path, old: str, new: str, said: str):
    edit(broken_bundle, old, new)
    with pytest.raises(BundleError) as error:
        load_bundle(broken_bundle)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_bundle(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"there is no (such folder|bundle.toml nor config.json)"):
        load_bundle(name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hop_length = 640", "hop_length = 320", "expected a codec of hop_length 320, found 640"),
        ('name = "compact@', 'name = "compact@0', "expected a codec of name"),
        ("codebook_size = 64", "codebook_size = 65", "expected a codec of codebook_size 65, found 64"),
    ],
)
def test_codec_must_be_the_described_one(broken_bundle: Path, old: str, new: str, said: str):
    edit(broken_bundle, old, new)
    with pytest.raises(BundleError, match=said):
        _ = load_bundle(broken_bundle).codec


def test_tokenizer_must_fit_the_codec(broken_bundle: Path):
    edit(broken_bundle, "codebook_size = 64", "codebook_size = 65")
    with pytest.raises(BundleError, match=r"s_64\W"):
        _ = load_bundle(broken_bundle).prompt


def test_model_must_hold_the_tokenizer(broken_bundle: Path):
    path = broken_bundle / "lm" / "config.json"
    path.write_text('{"vocab_size": 70}', encoding="utf-8")
    with pytest.raises(BundleError, match=r"expected a model of \d+ ids, as the tokenizer has, found 70"):
        seal(broken_bundle, SETTINGS)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"nam": "x"}, ConfigError, "Did you mean 'name'?"),
        ({"codec": {"kind": "mp3"}}, ConfigError, "should be 'compact', 'xcodec2' or 'neucodec'"),
        ({"codec": "compact"}, ConfigError, "found the table = 'compact'"),
        ({"default_voice": "bob"}, BundleError, "voices/bob.safetensors"),
        ({"lm": LM | {"family": "gpt"}}, ConfigError, "should be 'llasa-plain' or 'llasa-chat'"),
    ],
)
def test_seal_refuses_what_load_would(
    broken_bundle: Path, change: dict[str, object], error: type[Exception], said: str
):
    before = (broken_bundle / "bundle.toml").read_bytes()
    with pytest.raises(error) as raised:
        seal(broken_bundle, SETTINGS | change)
    assert said in str(raised.value)
    assert (broken_bundle / "bundle.toml").read_bytes() == before


@pytest.mark.parametrize("name", ["plain", 'a "quoted" \\ name', "line\nbreak \x7f\x01 tab\t", "straße 😀"])
def test_sealed_is_read_again(broken_bundle: Path, name: str):
    (broken_bundle / "odd name ä.txt").write_text("a file with an odd name", encoding="utf-8")
    sealed = seal(broken_bundle, SETTINGS | {"name": name})
    assert read_manifest(broken_bundle) == sealed
    assert sealed.name == name
    assert "odd name ä.txt" in sealed.files
    assert load_bundle(broken_bundle).name == name


def test_manifest_tells_what_the_codec_is(tiny_bundle: Path):
    described = tomllib.loads((tiny_bundle / "bundle.toml").read_text(encoding="utf-8"))["codec"]
    codec = load_bundle(tiny_bundle).codec
    assert described["hop_length"] == codec.hop_length
    assert described["sample_rate"] == codec.sample_rate


def test_sampling_has_the_names_and_defaults_of_the_params():
    params: dict[str, Callable[[], object] | object] = {
        field.name: field.default for field in fields(SamplingParams)
    }
    ours = Sampling().model_dump()
    assert ours.keys() <= params.keys()
    assert all(value == params[key] for key, value in ours.items() if value is not None)
