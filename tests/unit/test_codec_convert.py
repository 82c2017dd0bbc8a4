"""Converting older checkpoints: every scheme of names, strictly, without running what a pickle says."""

import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import NeuCodecConfig, NeuCodecModel, Wav2Vec2BertConfig, Xcodec2Config, Xcodec2Model

from llasa.codec import unpickle
from llasa.codec.convert import _put, convert, known_clip
from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio
from llasa.errors import BundleError, ConfigError
from tests.golden import codec_package

Tensors = dict[str, Tensor]

# Native names -> those of the training checkpoint, written from the modules of zhenye234/X-Codec-2.0.
BACK: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
    (r"^semantic_encoder", "semantic_model"),
    (r"^semantic_adapter\.conv1", "SemanticEncoder_module.initial_conv"),
    (r"^semantic_adapter\.conv2", "SemanticEncoder_module.residual_blocks.1"),
    (r"^semantic_adapter\.conv3", "SemanticEncoder_module.residual_blocks.3"),
    (r"^semantic_adapter\.conv4", "SemanticEncoder_module.final_conv"),
    (r"^fc_encoder", "fc_prior"),
    (r"^quantizer", "generator.quantizer"),
    (r"^acoustic_encoder\.conv1", "CodecEnc.conv_blocks.0"),
    (r"^acoustic_encoder\.snake1", "CodecEnc.conv_final_block.0"),
    (r"^acoustic_encoder\.conv2", "CodecEnc.conv_final_block.1"),
    (r"^acoustic_encoder\.block\.(\d+)", lambda m: f"CodecEnc.conv_blocks.{int(m[1]) + 1}.block"),
    (r"\.res_unit(\d)", lambda m: f".{int(m[1]) - 1}.block"),
    (r"(?<=\d\.block)\.snake1", ".0"),
    (r"(?<=\d\.block)\.conv1", ".1"),
    (r"(?<=\d\.block)\.snake2", ".2"),
    (r"(?<=\d\.block)\.conv2", ".3"),
    (r"^(CodecEnc\.conv_blocks\.\d+\.block)\.0(?=\.act)", r"\1.3"),  # the snake and convolution of a block
    (r"^(CodecEnc\.conv_blocks\.\d+\.block)\.1(?=\.\w+$)", r"\1.4"),  # come after its three units
    (r"^acoustic_decoder\.fc", "fc_post_a"),
    (r"^acoustic_decoder\.head\.linear", "generator.head.out"),
    (r"^acoustic_decoder\.norm", "generator.backbone.final_layer_norm"),
    (r"^acoustic_decoder\.layers", "generator.backbone.transformers"),
    (r"^acoustic_decoder", "generator.backbone"),
    (r"\.input_layernorm", ".att_norm"),
    (r"\.post_attention_layernorm", ".ffn_norm"),
    (r"\.self_attn\.o_proj(?=.*$)", ".att.c_proj"),
)
SCHEMES = ("training", "hub", "pip")
EMBED = "generator.backbone.embed.weight"
BETA = "CodecEnc.conv_blocks.1.block.0.block.0.act.beta"


def small(model_class: Any = Xcodec2Model, config_class: Any = Xcodec2Config) -> Any:
    """Return a random codec of 2 M weights whose every tensor is of another value, with diverse codes."""
    semantic = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=16, num_attention_heads=2, intermediate_size=48,
        output_hidden_size=32, conv_depthwise_kernel_size=15,
    )  # fmt: skip
    config = config_class(
        hidden_size=128, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, encoder_hidden_size=4, quantization_dim=160,
        semantic_model_config=semantic,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = model_class(config).eval()
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        model.quantizer.project_in.weight.mul_(5)
    return model


def older_name(name: str) -> str:
    outside = not name.startswith("semantic_encoder")
    for pattern, replacement in BACK if outside else BACK[:1]:
        name = re.sub(pattern, replacement, name)
    return name


def older(model: Any, scheme: str) -> Tensors:
    """Return the tensors of a native model as a checkpoint of a scheme would hold them."""
    native = {name: weight.clone() for name, weight in model.state_dict().items()}
    for name in [name for name in native if name.endswith("self_attn.q_proj.weight")]:
        if name.startswith("acoustic_decoder"):
            rows = [native.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
            native[name.replace("self_attn.q_proj", "att.c_attn")] = torch.cat(rows)
    found: Tensors = {}
    for name, weight in native.items():
        name = older_name(name)
        if name.startswith("CodecEnc") and weight.ndim == 3:
            length = weight.pow(2).sum((1, 2), keepdim=True).sqrt()
            g, v = (("parametrizations.weight.original0", "parametrizations.weight.original1")
                    if scheme == "pip" else ("weight_g", "weight_v"))  # fmt: skip
            found[name.removesuffix("weight") + g] = length
            found[name.removesuffix("weight") + v] = weight * torch.rand_like(length).add(0.5)
        else:
            found[name.replace("act.beta", "act.bias") if scheme == "pip" else name] = weight
    return found | unneeded(found, scheme)


def unneeded(found: Tensors, scheme: str) -> Tensors:
    """Return what a checkpoint holds beside: constants, later semantic layers, parts used in training."""
    layer = "semantic_model.encoder.layers."
    extra = {name.replace(".15.", f".{i}."): weight for name, weight in found.items()
             if name.startswith(f"{layer}15.") for i in (16, 17)}  # fmt: skip
    for name in [name for name in found if name.endswith(".act.alpha")]:
        extra[name.replace("act.alpha", "upsample.filter")] = torch.ones(1, 1, 12)
        extra[name.replace("act.alpha", "downsample.lowpass.filter")] = torch.ones(1, 1, 12)
    extra["generator.head.istft.window"] = torch.ones(1280)
    if scheme == "training":
        for name in ("discriminator.a.weight_g", "spec_discriminator.b", "fc_post_s.weight", "model_spk.c.d",
                     "SemanticDecoder_module.final_conv.weight", "criteria.mel_loss.e"):  # fmt: skip
            extra[name] = torch.ones(2)
    return {name: weight.clone() for name, weight in extra.items()}


@pytest.fixture(scope="module")
def model() -> Xcodec2Model:
    return small()


def same(folder: Path, model: Any) -> None:
    """Check that a folder holds the codec: weights to the last bits, codes exactly, sound nearly."""
    weights, wanted = load_file(folder / "model.safetensors"), model.state_dict()
    assert weights.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-7)
    found, expected = Xcodec2Codec.load(folder, device="cpu"), Xcodec2Codec(model, "random@0")
    (row,) = found.encode([known_clip()])
    assert [row] == expected.encode([known_clip()]) and len(set(row)) > 20
    np.testing.assert_allclose(found.decode([row])[0].samples, expected.decode([row])[0].samples, atol=1e-4)


class Settings:
    """A class that a child process cannot import."""

    def __init__(self) -> None:
        self.path, self.sizes = Path("config"), {"layers": 24}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_converts(model: Xcodec2Model, tmp_path: Path, scheme: str) -> None:
    tensors = older(model, scheme)
    if scheme == "training":
        source = tmp_path / "epoch=4-step=1400000.ckpt"
        torch.save({"epoch": 4, "state_dict": tensors, "hyper_parameters": Settings(),
                    "callbacks": defaultdict(dict, {"best": np.float64(0.5), "draws": np.arange(3)}),
                    "optimizer_states": [{"step": torch.ones(3)}]}, source)  # fmt: skip
    else:
        source = tmp_path / "source"
        source.mkdir()
        save_file(tensors, source / "model.safetensors")
        sizes = {
            "semantic_hidden_size": 32,
            "codec_encoder_hidden_size": 128,
            "codec_decoder_hidden_size": 128,
        }
        (source / "config.json").write_text(json.dumps({"model_type": "xcodec", "use_vocos": True} | sizes))
    report = convert(source, tmp_path / "native")
    same(tmp_path / "native", model)
    assert set(report.dropped) == unneeded(tensors, scheme).keys() and sorted(report.dropped)
    assert report.tensors == len(model.state_dict()) and report.codec.startswith("xcodec2@")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "native"])


def test_neucodec_converts(tmp_path: Path) -> None:
    model = small(NeuCodecModel, NeuCodecConfig)
    save_file(older(model, "hub"), tmp_path / "a.safetensors")
    assert convert(tmp_path / "a.safetensors", tmp_path / "native").codec.startswith("neucodec@")
    same(tmp_path / "native", model)


def test_native_names_in_a_pickle_convert(model: Xcodec2Model, tmp_path: Path) -> None:
    model.config.save_pretrained(tmp_path / "source")
    torch.save(model.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    assert convert(tmp_path / "source", tmp_path / "native").dropped == ()
    same(tmp_path / "native", model)


def test_the_known_clip_tells_two_codecs_apart(model: Xcodec2Model, tmp_path: Path) -> None:
    tensors = older(model, "hub")
    save_file(tensors, tmp_path / "a.safetensors")
    tensors |= {name: weight + 1 for name, weight in tensors.items() if name.endswith(".beta")}
    save_file(tensors, tmp_path / "b.safetensors")
    first, other = (convert(tmp_path / f"{name}.safetensors", tmp_path / name) for name in "ab")
    assert first.codec != other.codec and first.codes_sha256 != other.codes_sha256
    codes = Xcodec2Codec.load(tmp_path / "a", device="cpu").encode([known_clip()])[0]
    assert first.codes_sha256 == hashlib.sha256(" ".join(map(str, codes)).encode()).hexdigest()


CHANGES: dict[str, tuple[Callable[[Tensors], object], list[str]]] = {
    "missing": (
        lambda t: (t.pop(BETA), t.pop("fc_prior.bias")),
        ["missing acoustic_encoder.block.0.res_unit1.snake1.act.beta (4,); missing fc_encoder.bias (160,)"],
    ),
    "unexpected": (
        lambda t: t.update({"generator.b": torch.ones(2), "adapter.a": torch.ones(3)}),
        ["unexpected adapter.a (3,); unexpected generator.b (2,)"],
    ),
    "of another shape": (
        lambda t: t.update({"fc_prior.bias": torch.ones(7)}),
        ["fc_encoder.bias of shape (7,), expected (160,)"],
    ),
    "half a weight": (
        lambda t: t.pop("CodecEnc.conv_final_block.1.weight_v"),
        ["missing acoustic_encoder.conv2.weight", "unexpected acoustic_encoder.conv2.weight_g"],
    ),
    "too few semantic layers": (
        lambda t: [t.pop(name) for name in list(t) if ".layers.15." in name],
        ["missing semantic_encoder.encoder.layers.15.conv_module"],
    ),
    "no size to read": (lambda t: t.pop("generator.head.out.weight"), ["generator.head.out.weight"]),
    "not finite": (
        lambda t: t["fc_prior.bias"].fill_(torch.nan),
        ["NaN or infinity in fc_encoder.bias"],
    ),
    "a layer that only a name has": (
        lambda t: t.update({"generator.backbone.transformers.99999999999.att_norm.weight": torch.ones(2)}),
        ["numbered up to 99999999999"],
    ),
    "whole numbers": (lambda t: t.update({"fc_prior.bias": torch.ones(160).int()}), ["torch.int32"]),
    "complex numbers": (lambda t: t.update({"fc_prior.bias": torch.ones(160) * 1j}), ["torch.complex64"]),
    "a scalar": (
        lambda t: t.update({"generator.quantizer.project_in.weight": torch.tensor(1.0)}),
        ["Converting"],
    ),
    "a scalar of attention": (
        lambda t: t.update({"generator.backbone.transformers.0.att.c_attn.weight": torch.tensor(1.0)}),
        ["Converting"],
    ),
    "a width without heads": (
        lambda t: t.update({EMBED: t[EMBED][:40].clone()}),
        ["Converting"],
    ),
    "another model": (
        lambda t: (t.clear(), t.update({"lm_head.weight": torch.ones(2)})),
        ["found no tensor 'generator.*'"],
    ),
}


@pytest.mark.parametrize("change, said", CHANGES.values(), ids=CHANGES)
def test_what_does_not_fit_exactly_is_refused_by_name(
    model: Xcodec2Model, tmp_path: Path, change: Callable[[Tensors], object], said: list[str]
) -> None:
    tensors = older(model, "hub")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BundleError) as refusal:
        convert(tmp_path / "model.safetensors", tmp_path / "native")
    assert all(words in str(refusal.value) for words in said)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_config_of_another_checkpoint_is_refused(model: Xcodec2Model, tmp_path: Path) -> None:
    save_file(older(model, "hub"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "xcodec", "semantic_hidden_size": 1024}')
    with pytest.raises(BundleError, match=r"'semantic_hidden_size': 1024.*'semantic_hidden_size': 32"):
        convert(tmp_path, tmp_path.parent / f"{tmp_path.name}-native")


class Runs:
    """A pickled object that calls a function when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, exec, os.mkdir], ids=lambda f: f.__name__)
def test_what_a_pickle_would_run_never_runs(tmp_path: Path, function: Callable, zipped: bool) -> None:
    ran = tmp_path / "ran"
    argument = {os.system: f"touch {ran}", exec: f"open({str(ran)!r}, 'w')", os.mkdir: str(ran)}[function]
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": Runs(function, argument)}
    torch.save(content, tmp_path / "bad.ckpt", _use_new_zipfile_serialization=zipped)
    if zipped and function is exec:  # something inert stands in for it
        assert list(unpickle.tensors(str(tmp_path / "bad.ckpt"))) == ["a"]
    else:
        with pytest.raises(UnpicklingError):
            unpickle.tensors(str(tmp_path / "bad.ckpt"))
    assert not ran.exists()


def test_tensors_of_the_older_file_format_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert unpickle.tensors(str(tmp_path / "old.pt"))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("change", [{"quantization_levels": [-4] * 8}, {"num_attention_heads": 0}], ids=str)
def test_an_impossible_native_configuration_is_refused(
    model: Xcodec2Model, tmp_path: Path, change: dict[str, object]
) -> None:
    model.save_pretrained(tmp_path / "source")
    config = tmp_path / "source" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(BundleError, match=f"'{tmp_path / 'source'}': found"):
        convert(tmp_path / "source", tmp_path / "native")


def repacked(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path) as file:
        content = {record.filename: file.read(record) for record in file.infolist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content.items():
            file.writestr(name, data)


def flipped(path: Path) -> None:
    content, start = bytearray(path.read_bytes()), torch.arange(3.0).numpy().tobytes()
    content[content.index(start) + 5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "change", "said"),
    [
        ({"a": torch.arange(3.0)}, flipped, "it is damaged: "),
        ({"a": torch.arange(3.0)}, lambda path: repacked(path, zipfile.ZIP_DEFLATED), "it is damaged: "),
        ({"a": torch.ones(1).expand(10**12)}, lambda path: None, r"a claims \[1000000000000\], but 4 bytes"),
        ([torch.ones(1)], lambda path: None, "it holds a list, no tensors by name"),
    ],
    ids=["flipped", "compressed", "strides", "list"],
)
def test_what_no_training_run_wrote_is_refused(
    tmp_path: Path, content: object, change: Callable[[Path], None], said: str
) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    change(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=said):
        unpickle.tensors(str(tmp_path / "a.ckpt"))


def test_a_child_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    torch.save({"a": Runs(os.system, "true")}, tmp_path / "a.ckpt")
    with pytest.raises(
        BundleError, match=r"its own failed: it names \w+\.system, which could run\. Download"
    ):
        convert(tmp_path / "a.ckpt", tmp_path / "native")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux tells how much memory is used")
def test_a_child_has_limited_memory(tmp_path: Path) -> None:
    # A row that is stored once and asked for often: each copy is as large as the file.
    row = torch.zeros(1 << 24)
    torch.save({str(i): row for i in range(200)}, tmp_path / "a.ckpt")
    with pytest.raises(BundleError, match=r"(?i)memory"):
        convert(tmp_path / "a.ckpt", tmp_path / "native")


def test_shared_tensors_are_written_apart(tmp_path: Path) -> None:
    row = torch.arange(6.0)
    torch.save({"a": row, "b": row, "c": row[2:4]}, tmp_path / "a.ckpt")
    found = unpickle.tensors(str(tmp_path / "a.ckpt"))
    save_file(found, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["c"].tolist() == [2, 3]


@pytest.mark.parametrize("name", ["text.ckpt", "text.safetensors", "absent.ckpt", "empty"])
def test_damaged_or_missing_sources_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for text in ("text.ckpt", "text.safetensors"):
        (tmp_path / text).write_text("not a checkpoint")
    with pytest.raises(BundleError, match=f"Converting '.*{name}'") as refusal:
        convert(tmp_path / name, tmp_path / "native")
    assert ("there is no such file" in str(refusal.value)) == (name == "absent.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.ckpt", "text.safetensors"]


def test_results_are_replaced_only_when_asked_and_only_results(model: Xcodec2Model, tmp_path: Path) -> None:
    source, output = tmp_path / "a.safetensors", tmp_path / "native"
    save_file(older(model, "hub"), source)
    convert(source, output)
    before = (output / "config.json").stat().st_ino
    with pytest.raises(ConfigError, match="--force"):
        convert(source, output)
    assert (output / "config.json").stat().st_ino == before
    convert(source, output, force=True)
    assert (output / "config.json").stat().st_ino != before
    modes = {path.stat().st_mode for path in output.iterdir()}
    assert modes == {(output / "config.json").stat().st_mode}
    (output / "notes.txt").write_text("mine")
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    link.symlink_to(tmp_path / "nothing")
    for bad in (output, source, tmp_path / "no" / "where", other, link):
        with pytest.raises(ConfigError, match="Converting"):
            convert(source, bad, force=True)
    assert (
        (output / "notes.txt").read_text() == "mine" and link.is_symlink() and len(list(other.iterdir())) == 1
    )
    (other / "config.json").unlink()
    convert(source, other, force=True)


def test_a_swap_that_fails_leaves_the_old(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("old")
    with pytest.raises(OSError):
        _put(tmp_path / "absent", tmp_path / "old", tmp_path / "aside")
    assert (tmp_path / "old" / "config.json").read_text() == "old"


PACKAGE_PYTHON = os.environ.get("LLASA_TEST_XCODEC2_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGE_PYTHON, reason="LLASA_TEST_XCODEC2_PYTHON names no Python that has xcodec2")
@pytest.mark.parametrize("size", ["small", "full"])
def test_the_package_agrees(tmp_path: Path, size: str) -> None:
    """The original code, its weights converted from its own names and from those of training."""
    clip = known_clip().samples
    _, features = Xcodec2Codec(small(), "small@0").inputs(torch.from_numpy(clip))
    np.savez(tmp_path / "inputs.npz", wave=clip, features=features)
    subprocess.run([str(PACKAGE_PYTHON), codec_package.__file__, tmp_path, size], check=True)
    expected = np.load(tmp_path / "outputs.npz")
    for source in ("package.safetensors", "training.ckpt"):
        convert(tmp_path / source, tmp_path / "native", force=True)
        (tmp_path / source).unlink()
        codec = Xcodec2Codec.load(tmp_path / "native", device="cpu")
        (codes,) = codec.encode([Audio(clip, 16_000)])
        assert codes == expected["codes"].tolist() and len(set(codes)) > 50
        assert np.mean(codes == expected["own_codes"]) > 0.9  # its own features differ in the fourth digit
        sound = codec.decode([codes])[0].samples
        difference = np.abs(sound - expected["samples"].clip(-1, 1)).max()
        print(f"{size} {source}: {len(codes)} codes equal, {len(set(codes))} distinct, {difference=:.1e}, "
              f"{np.mean(codes == expected['own_codes']):.1%} equal with its own features")  # fmt: skip
        assert difference < 1e-4 and np.abs(sound).max() > 1e-2
        del codec  # 2.5 GB
