"""Checkpoints in the published layout, of random weights: found, paired with a codec, spoken with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import llasa
from llasa.errors import BundleError, ConfigError
from tests.conftest import Ran, clip
from tests.contracts.test_codec import tiny_neucodec
from tests.hub import Hub, serving
from tests.published import build_llasa, build_xcodec2
from tests.unit.test_hub import redirect

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_xcodec2(tmp_path_factory.mktemp("codec") / "xcodec2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llasa(tmp_path_factory.mktemp("model") / "Llasa-tiny", vocab="small")


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "broken"))


@pytest.mark.parametrize("base", ["llama3", "qwen", "smollm"])
def test_a_bare_checkpoint_speaks_with_the_codec_it_is_paired_with(
    base: str, codec: Path, tmp_path: Path
) -> None:
    model = build_llasa(tmp_path / base, base=base, vocab="small")
    speaker = llasa.load(model, codec=codec, dtype="float32")
    manifest = speaker.bundle.manifest
    assert (manifest.name, manifest.lm.family, manifest.lm.text) == (base, "llasa-chat", "written")
    assert (manifest.lm.max_length, manifest.codec.kind, manifest.codec.codebook_size) == (
        2048,
        "xcodec2",
        65536,
    )
    # The card's, not those of generation_config.json, which the base model brought along.
    assert (manifest.sampling.temperature, manifest.sampling.top_p) == (0.8, 1.0)
    sound = speaker.say('In 1999, Dr. Lee said: "Hello!"', max_tokens=25)
    assert sound.sample_rate == 16000 and len(sound.samples) == 25 * 320
    np.testing.assert_array_equal(
        sound.samples, speaker.say('In 1999, Dr. Lee said: "Hello!"', max_tokens=25).samples
    )


def test_a_neucodec_speaks_at_its_own_rate(model: Path, tmp_path: Path) -> None:
    tiny_neucodec().save_pretrained(tmp_path)
    speaker = llasa.load(model, codec=tmp_path)
    part = speaker.bundle.manifest.codec
    assert (part.kind, part.sample_rate, part.hop_length) == ("neucodec", 24000, 480)
    sound = speaker.say("Hello.", max_tokens=10)
    assert (sound.sample_rate, len(sound.samples)) == (24000, 10 * 480)


def test_other_languages_are_read_as_written(model: Path, codec: Path) -> None:
    speaker = llasa.load(model, codec=codec)
    text = "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002"
    spoken = list(speaker.speak(text, language="zh", max_tokens=10))
    assert [one.segment.text for one in spoken] == [text[:6], text[6:]]
    assert not any(one.dropped for one in spoken)
    with pytest.raises(ConfigError, match="'zh' is not supported"):
        llasa.load().say(text, language="zh")


def test_a_voice_is_cloned_and_belongs_to_its_codec(model: Path, codec: Path, tmp_path: Path) -> None:
    from llasa import voice

    speaker = llasa.load(model, codec=codec)
    ada = voice.create("ada", clip(1.5), "What she says.", speaker.bundle.codec)
    assert speaker.say("Hello.", ada, max_tokens=10).duration_s == pytest.approx(0.2)
    foreign = llasa.load().voice("rufus")
    with pytest.raises(BundleError, match=r"compact@.*xcodec2@"):
        speaker.say("Hello.", foreign)


def test_a_hub_id_is_fetched_with_its_codec(
    model: Path, codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with serving(Hub({"HKUSTAudio/Llasa-1B": model, "HKUSTAudio/xcodec2-hf": codec})) as hub:
        redirect(monkeypatch, hub.url)
        speaker = llasa.load("HKUSTAudio/Llasa-1B")
        assert speaker.say("Hello.", max_tokens=10).duration_s == pytest.approx(0.2)
        assert speaker.bundle.manifest.codec.source == "HKUSTAudio/xcodec2-hf"
    again = llasa.load("HKUSTAudio/Llasa-1B", local_files_only=True)
    assert again.say("Hello.", max_tokens=10).duration_s == pytest.approx(0.2)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def without(token: str) -> Callable[[dict], object]:
    def change(content: dict) -> None:
        content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != token]

    return change


def swapped(content: dict) -> None:
    by_name = {one["content"]: one for one in content["added_tokens"]}
    by_name["<|s_7|>"]["content"], by_name["<|s_9|>"]["content"] = "<|s_9|>", "<|s_7|>"


BROKEN: dict[str, tuple[str, Callable[[dict], object], str]] = {
    "too few rows": (
        "config.json",
        lambda c: c.update(vocab_size=1000),
        "expected a model of .* ids.*found 1000",
    ),
    "a marker is missing": ("tokenizer.json", without("<|SPEECH_GENERATION_END|>"), "SPEECH_GENERATION_END"),
    "a code is missing": ("tokenizer.json", without("<|s_65535|>"), "65535 codes.*found 65536"),
    "a code in the middle": ("tokenizer.json", without("<|s_700|>"), "65535 codes.*found 65536"),
    "codes out of order": ("tokenizer.json", swapped, "contiguous|s_7"),
    "no speech tokens": ("tokenizer.json", lambda c: c.update(added_tokens=[]), "no speech tokens"),
}


@pytest.mark.parametrize(("name", "change", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    broken: Path, codec: Path, name: str, change: Callable[[dict], object], message: str
) -> None:
    rewrite(broken / name, change)
    (broken / "model.safetensors").write_bytes(b"not looked at")
    with pytest.raises(BundleError, match=message):
        llasa.load(broken, codec=codec).say("Hello.")


def test_a_codec_of_other_codes_is_refused(model: Path, codec: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(codec, tmp_path / "other"))
    rewrite(other / "config.json", lambda content: content.update(quantization_levels=[4] * 6))
    with pytest.raises(BundleError, match=r"expected a codec of 65536 codes.*found 4096"):
        llasa.load(model, codec=other)


@pytest.mark.parametrize("damage", ["cut", "flipped header"])
def test_damaged_weights_are_refused(broken: Path, codec: Path, damage: str) -> None:
    path = broken / "model.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-100:]
    else:
        content[12] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"broken.*again"):
        llasa.load(broken, codec=codec).say("Hello.")


def test_pickled_weights_are_refused_unopened(broken: Path, codec: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"only pytorch_model.bin, which can run code"):
        llasa.load(broken, codec=codec).say("Hello.")


def test_a_bundle_with_a_codec_takes_no_other(bundle_folder: Path, codec: Path) -> None:
    with pytest.raises(ConfigError, match="has its own"):
        llasa.load(bundle_folder, codec=codec)


def test_from_the_shell(run: Run, model: Path, codec: Path, tmp_path: Path) -> None:
    output = tmp_path / "hello.wav"
    said = run(
        "say", "Hello.", "--bundle", str(model), "--codec", str(codec), "--set", "max_tokens=10",
        "--json", "-o", str(output),
    )  # fmt: skip
    assert said.code == 0 and output.stat().st_size > 1000
    assert json.loads(said.out)["codec"].startswith("xcodec2@")
