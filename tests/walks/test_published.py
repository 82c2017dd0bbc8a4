"""Checkpoints in the published layout, of random weights: found, paired with a codec, spoken with."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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
from tests.unit.test_whisper import save_tiny_whisper

Run = Callable[..., Ran]
ROOT = Path(__file__).parents[2]


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
    with pytest.raises(ConfigError, match="does not know 'zh'"):
        llasa.load().say(text, language="zh")


def test_a_voice_is_cloned_and_belongs_to_its_codec(model: Path, codec: Path, tmp_path: Path) -> None:
    from llasa import voice

    speaker = llasa.load(model, codec=codec)
    ada = voice.create("ada", clip(1.5), "What she says.", speaker.bundle.codec)
    assert speaker.say("Hello.", ada, max_tokens=10).duration_s == pytest.approx(0.2)
    foreign = llasa.load().voice("rufus")
    with pytest.raises(BundleError, match=r"compact@.*xcodec2@"):
        speaker.say("Hello.", foreign)


def test_a_judge_with_whisper_searches_and_hears_back(model: Path, codec: Path, tmp_path: Path) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra 'eval' is not installed")
    save_tiny_whisper(tmp_path / "whisper")
    recipe = tmp_path / "judge.toml"
    text = (ROOT / "recipes" / "search" / "whisper.toml").read_text(encoding="utf-8")
    recipe.write_text(text.replace("openai/whisper-base.en", str(tmp_path / "whisper")), encoding="utf-8")
    speaker = llasa.load(model, codec=codec)
    with pytest.raises(ConfigError, match="no judge of its own"):
        speaker.say("Hello there.", effort=2)
    effort = speaker.effort(3, speaker.recipe(recipe))
    spoken = list(speaker.speak("Hello there.", effort=effort, min_tokens=20, max_tokens=20))
    assert spoken[0].ranking is not None and len(spoken[0].ranking.judged) == 3
    # Noise never ends by itself, so nothing was heard; as if it had:
    ended = replace(spoken[0].candidate, finish="stop")
    [judged] = effort.judge.judge([ended], held_out=True)
    assert judged.status == "scored" and judged.score is not None
    assert {"wer.value", "nll.value", "second.value"} <= judged.score.measures.keys()


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
    "no chat template": (
        "tokenizer_config.json",
        lambda c: c.pop("chat_template"),
        "chat template.*has none",
    ),
    "no length": ("config.json", lambda c: c.update(max_position_embeddings=None), "found None"),
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
    with pytest.raises(
        BundleError, match=r"Loading the language model in .*(header|incomplete|Header|fully)"
    ):
        llasa.load(broken, codec=codec).say("Hello.")


def test_weights_left_over_are_refused(broken: Path, codec: Path) -> None:
    rewrite(broken / "config.json", lambda content: content.update(num_hidden_layers=1))
    with pytest.raises(BundleError, match=r"unexpected model\.layers\.1"):
        llasa.load(broken, codec=codec).say("Hello.")


def test_an_adapter_beside_the_weights_is_refused(broken: Path, codec: Path) -> None:
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(BundleError, match="a LoRA adapter in it"):
        llasa.load(broken, codec=codec).say("Hello.")


def test_an_index_that_points_elsewhere_is_refused(broken: Path, codec: Path) -> None:
    index = broken / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"lm_head.weight": "../other/model.safetensors"}}')
    with pytest.raises(BundleError, match=r"names \.\./other/model\.safetensors, which is not in the folder"):
        llasa.load(broken, codec=codec)


def test_pickled_weights_are_refused_unopened(broken: Path, codec: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"only pytorch_model.bin, which can run code"):
        llasa.load(broken, codec=codec).say("Hello.")


def test_a_bundle_with_a_codec_takes_no_other(bundle_folder: Path, codec: Path) -> None:
    with pytest.raises(ConfigError, match="has its own"):
        llasa.load(bundle_folder, codec=codec)


def test_an_export_with_a_codec_on_this_disk_is_one_sealed_bundle(
    run: Run, model: Path, codec: Path, tmp_path: Path
) -> None:
    made = run("export", "hf", "--bundle", model, "--codec", codec, "-o", tmp_path / "whole", "--json")
    assert made.code == 0, made.err
    speaker, before = llasa.load(tmp_path / "whole"), llasa.load(model, codec=codec)
    assert speaker.bundle.manifest.codec.name == before.bundle.codec.name
    assert {"codec/model.safetensors", "model.safetensors"} <= speaker.bundle.manifest.files.keys()
    sounds = [one.say("Hello.", max_tokens=10).samples for one in (speaker, before)]
    np.testing.assert_array_equal(*sounds)
    again = run("export", "hf", "--bundle", tmp_path / "whole", "-o", tmp_path / "again")
    assert again.code == 0 and (tmp_path / "again" / "codec" / "config.json").is_file()


def test_from_the_shell(run: Run, model: Path, codec: Path, tmp_path: Path) -> None:
    output = tmp_path / "hello.wav"
    said = run(
        "say", "Hello.", "--bundle", str(model), "--codec", str(codec), "--set", "max_tokens=10",
        "--json", "-o", str(output),
    )  # fmt: skip
    assert said.code == 0 and output.stat().st_size > 1000
    assert json.loads(said.out)["codec"].startswith("xcodec2@")
