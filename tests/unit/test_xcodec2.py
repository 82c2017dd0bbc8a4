"""X-Codec2 and NeuCodec: parity with the native models, strict loading, length laws, arithmetic of codes."""

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Xcodec2Config, Xcodec2Model

from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Codes
from llasa.errors import BundleError
from tests.contracts.test_codec import tiny_neucodec, tiny_xcodec2
from tests.golden.codec_features import FILE as REFERENCE
from tests.golden.codec_features import noise_of, sounds

BETA = "acoustic_encoder.block.0.snake1.act.beta"


@pytest.fixture(scope="module")
def model() -> Xcodec2Model:
    return tiny_xcodec2()


@pytest.fixture(scope="module")
def codec(model: Xcodec2Model) -> Xcodec2Codec:
    return Xcodec2Codec(model, "xcodec2@random")


@pytest.fixture(scope="module")
def saved(model: Xcodec2Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "xcodec2"))


def noise(n_samples: int) -> Audio:
    samples = 0.2 * np.random.default_rng(1).standard_normal(n_samples)
    return Audio(samples.astype(np.float32), 16_000)


def rewrite_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder: Path, **fields: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | fields))


def padded(kind: str, name: str) -> Tensor:
    """A golden sound as transformers' own feature extractor pads it."""
    sound = torch.from_numpy(sounds()[name])
    length = int(np.load(REFERENCE)[f"{kind} {name}, samples"])
    return torch.nn.functional.pad(sound, (0, length - len(sound)))[None, None]


def assert_same_codes(found: Codes, wanted: Codes) -> None:
    """Equal, but for one code in twenty that stands on a threshold: processors round batches differently."""
    assert len(found) == len(wanted)
    steps = [abs(a - b) for a, b in zip(found, wanted, strict=True) if a != b]
    assert len(steps) <= len(wanted) / 20 and all(step in {4**digit for digit in range(8)} for step in steps)


@pytest.mark.parametrize("kind", ["xcodec2", "neucodec"])
@torch.inference_mode()
def test_codes_and_sound_are_the_native_models(kind: str) -> None:
    model = tiny_xcodec2() if kind == "xcodec2" else tiny_neucodec()
    codec, features = Xcodec2Codec(model, f"{kind}@random", torch.float32), np.load(REFERENCE)
    names = ["noise 640", "noise 960", "noise 5000", "chirp"]
    found = codec.encode([Audio(sounds()[name], 16_000) for name in names])
    for name, row in zip(names, found, strict=True):
        given = torch.from_numpy(features[f"{kind} {name}"])[None]
        codes = model.encode(padded(kind, name), given).audio_codes
        wanted = codes[0, 0].tolist()
        assert_same_codes(row, wanted)
        sound = model.decode(codes).audio_values[0, 0].clamp(-1, 1)
        assert len(sound) == len(row) * codec.hop_length
        np.testing.assert_allclose(codec.decode([wanted])[0].samples, sound, atol=1e-5)


@pytest.mark.slow
@torch.inference_mode()
def test_a_model_of_full_size_agrees_with_the_native_one(tmp_path: Path) -> None:
    """2.5 GB on disk, 6 GB in memory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Xcodec2Model(Xcodec2Config()).eval()
    model.quantizer.project_in.weight.mul_(300)
    assert sum(weight.numel() for weight in model.parameters()) > 600e6
    model.save_pretrained(tmp_path)
    given = torch.from_numpy(np.load(REFERENCE)["xcodec2 noise 5000"])[None]
    codes = model.encode(padded("xcodec2", "noise 5000"), given).audio_codes
    sound = model.decode(codes).audio_values[0, 0].clamp(-1, 1)
    del model
    began = time.perf_counter()
    codec = Xcodec2Codec.load(tmp_path, device="cpu", decode_dtype=torch.float32)
    loaded = time.perf_counter()
    (row,) = codec.encode([Audio(sounds()["noise 5000"], 16_000)])
    wanted = codes[0, 0].tolist()
    assert_same_codes(row, wanted)
    assert len(set(row)) > 10
    np.testing.assert_allclose(codec.decode([wanted])[0].samples, sound, atol=1e-5)
    clip = Audio(np.tile(noise_of(6000), 27)[:160_000].astype(np.float32), 16_000)
    times = [time.perf_counter()]
    (row,) = codec.encode([clip])
    times.append(time.perf_counter())
    codec.decode([row])
    times.append(time.perf_counter())
    took = f"encode 10 s in {times[1] - times[0]:.1f} s, decode in {times[2] - times[1]:.1f} s"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"load {loaded - began:.1f} s, {took}, peak {peak:.1f} GB")


def test_neucodec_loads_by_its_model_type(tmp_path: Path) -> None:
    model = tiny_neucodec()
    model.save_pretrained(tmp_path)
    codec = Xcodec2Codec.load(tmp_path, device="cpu")
    assert codec.name.startswith("neucodec@") and codec.codebook_size == 65_536
    assert (codec.input_rate, codec.sample_rate, codec.hop_length) == (16_000, 24_000, 480)
    assert codec.encode([noise(5000)]) == Xcodec2Codec(model, "neucodec@random").encode([noise(5000)])


@pytest.mark.parametrize("n_samples, count", [(1, 0), (319, 0), (320, 1), (639, 1), (640, 2), (16_000, 50)])
def test_the_length_law_of_neucodec_drops_the_rest(n_samples: int, count: int) -> None:
    codec = Xcodec2Codec(tiny_neucodec(), "neucodec@random")
    (row,) = codec.encode([noise(n_samples)])
    assert len(row) == count
    at_24_khz = n_samples * 3 // 2  # a whole number of samples at 16 kHz rounds up to the same
    assert codec.code_count(at_24_khz) == count


def test_a_saved_codec_loads_as_it_was(saved: Path, codec: Xcodec2Codec) -> None:
    loaded = Xcodec2Codec.load(saved, device="cpu")
    weights = (saved / "model.safetensors").read_bytes()
    assert loaded.name == "xcodec2@" + hashlib.sha256(weights).hexdigest()[:12]
    assert (loaded.sample_rate, loaded.hop_length, loaded.codebook_size) == (16_000, 320, 65_536)
    (row,) = loaded.encode([noise(5000)])
    assert [row] == codec.encode([noise(5000)])
    np.testing.assert_array_equal(loaded.decode([row])[0].samples, codec.decode([row])[0].samples)


def test_sharded_weights_load(model: Xcodec2Model, codec: Xcodec2Codec, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    loaded = Xcodec2Codec.load(tmp_path, device="cpu")
    assert (
        loaded.name == "xcodec2@" + hashlib.sha256(b"".join(f.read_bytes() for f in shards)).hexdigest()[:12]
    )
    assert loaded.encode([noise(5000)]) == codec.encode([noise(5000)])


def test_half_precision_weights_run_in_float32(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    rewrite_config(folder, dtype="float16")
    assert Xcodec2Codec.load(folder, device="cpu").decode([[0, 1]])[0].samples.dtype == np.float32


CHANGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "missing": lambda tensors: tensors.pop(BETA),
    "renamed": lambda tensors: tensors.update({BETA.replace("beta", "bias"): tensors.pop(BETA)}),
    "unexpected": lambda tensors: tensors.update({BETA + ".more": torch.zeros(3)}),
    "of another shape": lambda tensors: tensors.update({BETA: torch.zeros(3)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_weights_that_do_not_fit_exactly_are_refused(folder: Path, change: Callable) -> None:
    rewrite_weights(folder, change)
    with pytest.raises(BundleError, match=r"acoustic_encoder\.block\.0\.snake1\.act\.b"):
        Xcodec2Codec.load(folder, device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "xcodec2.pt", "epoch=4-step=1400000.ckpt"])
def test_pickled_weights_are_refused_unopened(folder: Path, model: Xcodec2Model, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / name)
    for path in (folder, folder / name):
        with pytest.raises(BundleError, match=f"{name}.*llasa codec convert '{folder / name}' -o FOLDER"):
            Xcodec2Codec.load(path, device="cpu")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match="no weights"):
            Xcodec2Codec.load(folder, device="cpu")


def test_cut_off_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BundleError, match="again"):
        Xcodec2Codec.load(folder, device="cpu")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    rewrite_weights(folder, lambda tensors: tensors[BETA].__setitem__(1, value))
    with pytest.raises(BundleError, match=f"NaN or infinity in {BETA}"):
        Xcodec2Codec.load(folder, device="cpu")


def test_weights_whose_sum_overflows_are_finite(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors["acoustic_encoder.conv1.bias"].fill_(3e38))
    assert Xcodec2Codec.load(folder, device="cpu").name.startswith("xcodec2@")


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(folder: Path, model: Xcodec2Model) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for seed in range(14):
        rng = np.random.default_rng(seed)
        place = int(rng.integers(8)) if seed < 4 else int(rng.integers(8, header))
        flip = 1 << int(rng.integers(8))
        content[place] ^= flip
        weights.write_bytes(content)
        content[place] ^= flip
        try:
            loaded = Xcodec2Codec.load(folder, device="cpu")
        except BundleError:
            refused += 1
        else:
            assert loaded.encode([noise(2000)]) == Xcodec2Codec(model, "a@b").encode([noise(2000)])
    assert refused > 9


def test_weights_for_another_codebook_are_refused(folder: Path) -> None:
    rewrite_config(folder, quantization_levels=[4] * 7)
    with pytest.raises(BundleError, match=r"project_in\.weight of shape \[8, 96\], expected \[7, 96\]"):
        Xcodec2Codec.load(folder, device="cpu")


def test_a_configuration_of_the_sister_codec_is_refused(folder: Path) -> None:
    rewrite_config(folder, model_type="neucodec")
    with pytest.raises(BundleError, match=r"head\.linear\.weight of shape \[1282, 64\], expected \[1922"):
        Xcodec2Codec.load(folder, device="cpu")


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"model_type": "xcodec"}', '{"model_type": "xcodec2", "head_dim": "a"}']
)
def test_another_or_a_damaged_config_is_refused(folder: Path, text: str | None) -> None:
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(BundleError, match=r"(?s)config\.json.*Expected model_type 'xcodec2' or 'neucodec'"):
        Xcodec2Codec.load(folder, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "x"}, {"hidden_size": -128}, {"num_attention_heads": 0}, {"num_attention_heads": 3},
        {"downsampling_ratios": None}, {"hidden_act": "zzz"}, {"quantization_levels": [-4] * 8},
        {"quantization_levels": []}, {"quantization_levels": [64] * 5}, {"model_type": ["xcodec2"]},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_configurations_are_refused(folder: Path, change: dict[str, object]) -> None:
    rewrite_config(folder, **change)
    with pytest.raises(BundleError, match=f"'{folder}': found"):
        Xcodec2Codec.load(folder, device="cpu")


def test_a_hop_that_the_semantic_features_cannot_follow_is_refused(folder: Path) -> None:
    rewrite_config(folder, downsampling_ratios=[2, 2, 4, 4, 4])
    with pytest.raises(BundleError, match="hop 256"):
        Xcodec2Codec.load(folder, device="cpu")


def test_code_beside_the_weights_never_runs(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    rewrite_config(folder, auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    Xcodec2Codec.load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("n_samples, count", [(1, 1), (319, 1), (320, 2), (321, 2), (6400, 21), (16_000, 51)])
def test_the_length_law_adds_a_code_to_aligned_clips(codec: Xcodec2Codec, n_samples: int, count: int) -> None:
    assert codec.code_count(n_samples) == count
    assert [len(row) for row in codec.encode([noise(n_samples)])] == [count]


def test_a_clip_is_padded_with_zeros_to_its_last_code(codec: Xcodec2Codec) -> None:
    clip = noise(1600)
    padded = Audio(np.pad(clip.samples, (0, 319)), 16_000)
    assert codec.encode([clip]) == codec.encode([padded])


def test_a_code_depends_on_what_comes_after(codec: Xcodec2Codec) -> None:
    clip = noise(16_000)
    cut, whole = codec.encode([Audio(clip.samples[:8000], 16_000), clip])
    assert len(set(whole)) > 40
    assert cut != whole[: len(cut)]


def quantize(model: Xcodec2Model, latents: Tensor) -> Tensor:
    """Codes of latents [N, 8] as they leave the projection, through the model's own double bound."""
    fsq = model.quantizer.quantizer
    return fsq(fsq.bound(latents))[1]


@pytest.mark.parametrize(
    "code, levels", [(0, [0] * 8), (65_535, [3] * 8), (43_690, [2] * 8), (1, [1] + [0] * 7)]
)
def test_codes_stand_for_levels(model: Xcodec2Model, code: int, levels: list[int]) -> None:
    expected = [(level - 2) / 2 for level in levels]
    assert model.quantizer.quantizer.codebook[code].tolist() == expected


def test_the_zero_latent_is_code_43690(model: Xcodec2Model) -> None:
    assert quantize(model, torch.zeros(1, 8)).tolist() == [43_690]


def test_level_thresholds_are_those_of_the_double_bound(model: Xcodec2Model) -> None:
    for level, threshold in enumerate((-0.80943, -0.24341, 0.40788)):
        below, above = quantize(
            model, torch.tensor([[threshold - 1e-4] * 8, [threshold + 1e-4] * 8])
        ).tolist()
        assert below == level * (4**8 - 1) // 3 and above == (level + 1) * (4**8 - 1) // 3


def test_all_codes_survive_the_round_trip_through_the_quantizer(model: Xcodec2Model) -> None:
    fsq = model.quantizer.quantizer
    codes = torch.arange(65_536)
    levels = (fsq.codebook[codes] * 2 + 2).long()
    assert torch.equal((levels * 4 ** torch.arange(8)).sum(-1), codes)
    latents = torch.tensor([-2.0, -0.5, 0.1, 2.0])[levels]  # one between each two thresholds
    points, back = fsq(fsq.bound(latents))
    assert torch.equal(back.long(), codes)
    torch.testing.assert_close(points, fsq.codebook[codes])
