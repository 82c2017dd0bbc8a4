"""`llasa codec`: sound to codes and back, by the real command."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from llasa import audio
from llasa.bundle import load_bundle
from tests.conftest import Ran, clip
from tests.unit.test_codec_convert import older, small

Run = Callable[..., Ran]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    audio.write(tmp_path / "sound.wav", clip(1.0))
    return tmp_path / "sound.wav"


@pytest.mark.parametrize("name", ["codes.json", "codes.safetensors"])
def test_there_and_back(run: Run, sound: Path, bundle_folder: Path, tmp_path: Path, name: str):
    bundle = ("--bundle", bundle_folder)
    ran = run("codec", "encode", sound, "-o", name, *bundle)
    assert (ran.code, ran.out) == (0, f"{name}\n") and "real-time factor" in ran.err
    codec = load_bundle(bundle_folder).codec
    [expected] = codec.encode([audio.read(sound)])
    path = tmp_path / name
    found = (
        json.loads(path.read_text())["codes"] if path.suffix == ".json" else load_file(path)["codes"].tolist()
    )
    assert found == expected
    told = json.loads(run("codec", "decode", name, "-o", "back.wav", "--json", *bundle).out)
    assert told["codes"] == len(expected) and told["codec"] == codec.name and told["real_time_factor"] > 0
    assert len(audio.read(tmp_path / "back.wav").samples) == len(expected) * codec.hop_length


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.json", '{"codec": "other@1", "codes": [1]}', "made with codec 'other@1'"),
        ("x.json", '{"codec": "CODEC", "codes": [100000]}', "100000"),
        ("x.json", '{"codec": "CODEC", "codes": []}', "no list of codes"),
        ("x.json", '{"codec": "CODEC", "codes": ["a"]}', "no list of codes"),
        ("x.json", '{"codec": "CODEC", "codes": 3}', "Make it again"),
        ("x.json", '{"codec": "CODEC"}', "KeyError"),
        ("x.json", "[", "Make it again"),
        ("x.safetensors", "not at all", "Make it again"),
        ("x.txt", "1 2 3", "no .safetensors or .json file"),
    ],
)
def test_bad_codes_are_refused(
    run: Run, tiny_bundle: Path, tmp_path: Path, name: str, content: str, said: str
):
    codec = load_bundle(tiny_bundle).manifest.codec.name
    (tmp_path / name).write_text(content.replace("CODEC", codec), encoding="utf-8")
    ran = run("codec", "decode", name, "-o", "x.wav", "--bundle", tiny_bundle)
    assert ran.code == 2 and said in ran.err
    assert not (tmp_path / "x.wav").exists()


def test_bad_outputs_are_refused_first(run: Run, sound: Path):
    for output in ("codes.txt", "nowhere/codes.json", "codes"):
        assert run("codec", "encode", sound, "-o", output, "--bundle", "no-such-bundle").code == 2
    ran = run("codec", "encode", "none.wav", "-o", "x.json", "--bundle", "no-such-bundle")
    assert ran.code == 2 and "there is no such file" in ran.err


def test_a_refused_checkpoint_names_the_command_that_converts_it(run: Run, tmp_path: Path):
    from llasa.codec.xcodec2 import Xcodec2Codec
    from llasa.errors import BundleError

    checkpoint = tmp_path / "epoch=4-step=1400000.ckpt"
    torch.save({"state_dict": older(small(), "training")}, checkpoint)
    with pytest.raises(BundleError) as refusal:
        Xcodec2Codec.load(checkpoint)
    command = shlex.split(str(refusal.value).partition("llasa ")[2].replace("FOLDER", "native"))
    ran = run(*command)
    assert (ran.code, ran.out) == (0, "native\n")
    assert "Left out: " in ran.err and "1 of discriminator" in ran.err and "SHA-256" in ran.err
    codec = Xcodec2Codec.load(tmp_path / "native", device="cpu")
    again = run(*command)
    assert again.code == 2 and "--force" in again.err
    told = json.loads(run(*command, "--force", "--json").out)
    assert told["codec"] == codec.name and "discriminator.a.weight_g" in told["dropped"]
    assert told["codes_sha256"] in ran.err


def test_checkpoints_that_do_not_convert_say_why(run: Run, tmp_path: Path):
    tensors = older(small(), "pip")
    tensors["fc_post_a.more"] = tensors.pop("fc_post_a.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    ran = run("codec", "convert", tmp_path / "model.safetensors", "-o", "native")
    assert ran.code == 2 and not (tmp_path / "native").exists()
    assert "missing acoustic_decoder.fc.bias (128,); unexpected acoustic_decoder.fc.more (128,)" in ran.err
    assert run("codec", "convert", "absent.ckpt", "-o", "native").code == 2
