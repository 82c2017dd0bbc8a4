"""Training X-Codec2: a fresh encoder is spread over the codebook, learns, and loads as a plain model."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.multiprocessing.spawn import spawn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel, Wav2Vec2Config, Wav2Vec2Model, Xcodec2Config
from transformers.models.xcodec2.modeling_xcodec2 import Xcodec2Quantizer

from llasa.codec.xcodec2 import Xcodec2Codec
from llasa.core import Audio, Clip
from llasa.errors import BundleError, ConfigError
from llasa.stream import decode_stream
from llasa.train.codec.crops import Crops, Piece
from llasa.train.codec.recipe import Xcodec2Recipe, read
from llasa.train.codec.rounding import Rounding, wanted_place
from llasa.train.codec.xcodec2 import Perception, Xcodec2Trainee
from tests.contracts.test_codec import tiny_xcodec2

RATE = 16000
RECIPE = """
kind = "xcodec2"
out = "unset"
soft_steps = 10
[[data]]
path = "unset"
[model]
hidden_size = 32
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
head_dim = 16
encoder_hidden_size = 2
quantization_dim = 64
[model.semantic_model_config]
model_type = "wav2vec2-bert"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
[[stages]]
name = "main"
steps = 30
batch = 2
crop_s = 0.32
learning_rate = 2e-3
first_rate = 2e-3
last_rate = 2e-3
warmup = 0
[critics]
periods = [2]
period_channels = 2
period_most = 4
fft_sizes = [334]
channels = 2
most = 4
"""


def recipe(tmp_path: Path, *settings: str) -> Xcodec2Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    found = read(path, settings)
    assert isinstance(found, Xcodec2Recipe)
    return found


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Noise bursts over gliding harmonics: no two codes' worth of it are alike."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * RATE)) / RATE
    glide = np.cumsum(120 + 60 * np.sin(2 * np.pi * (1 + seed % 3) * time)) / RATE
    tones = sum(np.sin(2 * np.pi * n * glide) / n for n in range(1, 8))
    return (0.1 * tones + 0.05 * rng.standard_normal(len(time)) * (np.sin(40 * time) > 0)).astype(np.float32)


@pytest.fixture
def pieces(tmp_path: Path) -> list[Piece]:
    made = []
    for n in range(4):
        soundfile.write(tmp_path / f"{n}.wav", speech_like(1.0, n), RATE)
        made.append(Piece(Clip(str(n), str(tmp_path / f"{n}.wav"), ""), 1.0))
    return made


def crops(trainee: Xcodec2Trainee, pieces: list[Piece]) -> Crops:
    return Crops(pieces, trainee.shape(trainee.recipe.stages[0]), (), "seed")


def test_a_tiny_model_learns_keeps_its_codes_apart_and_loads(tmp_path, pieces):
    torch.manual_seed(0)
    trainee = Xcodec2Trainee(recipe(tmp_path), torch.device("cpu"))
    sound = Audio(speech_like(2.0, 9), RATE)
    assert len(set(trainee.codec().encode([sound])[0])) <= 2  # a fresh encoder falls into one code
    task = trainee.task(trainee.recipe.stages[0], crops(trainee, pieces), crops(trainee, pieces))
    semantic = [p.clone() for p in trainee.model.semantic_encoder.parameters()]
    steps = [task.step(n) for n in range(20)]
    for name in ("multi_mel", "semantic"):
        assert np.mean([s[name] for s in steps[-5:]]) < 0.9 * np.mean([s[name] for s in steps[:5]]), name
    assert steps[-1]["distinct"] > 10  # of 34 codes a batch
    assert all(
        torch.equal(a, b) for a, b in zip(semantic, trainee.model.semantic_encoder.parameters(), strict=True)
    )
    assert task.validate()["held_distinct"] > 10
    saved = trainee.save(tmp_path / "codec")
    codec = Xcodec2Codec.load(tmp_path / "codec")
    codes = codec.encode([sound])[0]
    assert codes == saved.encode([sound])[0] == trainee.codec().encode([sound])[0]
    assert len(set(codes)) > 20  # of 101
    assert len(codec.decode([codes])[0].samples) == 101 * 320


def test_a_model_to_start_from_is_given_rounded_latents_from_the_first_step(tmp_path, pieces):
    torch.manual_seed(0)
    Xcodec2Trainee(recipe(tmp_path), torch.device("cpu")).save(tmp_path / "first")
    path = tmp_path / "more.toml"
    path.write_text(RECIPE[: RECIPE.index("[model]")] + RECIPE[RECIPE.index("[[stages]]") :], "utf-8")
    init = f'init="{tmp_path / "first"}"'
    told = read(path, [init])
    assert isinstance(told, Xcodec2Recipe) and told.soft_steps == 10
    trainee = Xcodec2Trainee(told, torch.device("cpu"))
    drawn = crops(trainee, pieces)
    task, given = trainee.task(told.stages[0], drawn, drawn), []
    trainee.rounding.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
    task.step(0)
    assert given == [1.0]
    with pytest.raises(ConfigError, match="both init and semantic"):
        read(path, [init, "semantic=w2v"])


def test_a_streaming_decoder_learns_beside_a_codec_that_stays(tmp_path, pieces):
    torch.manual_seed(0)
    tiny_xcodec2(128).save_pretrained(tmp_path / "first")  # four channels a norm
    first = Xcodec2Codec.load(tmp_path / "first")
    path = tmp_path / "more.toml"
    path.write_text(RECIPE[: RECIPE.index("[model]")] + RECIPE[RECIPE.index("[[stages]]") :], "utf-8")
    settings = [f'init="{tmp_path / "first"}"', "ahead=2", "window=8"]
    with pytest.raises(ConfigError, match="for codes there are"):
        read(path, settings)
    told = read(path, [*settings, 'stages.main.train=["decoder"]', "stages.main.losses={multi_mel=1.0}"])
    assert isinstance(told, Xcodec2Recipe)
    trainee = Xcodec2Trainee(told, torch.device("cpu"))
    drawn = crops(trainee, pieces)
    task = trainee.task(told.stages[0], drawn, drawn)
    before = task.validate()["held_multi_mel"]
    for step in range(12):
        task.step(step)
    assert task.validate()["held_multi_mel"] < 0.9 * before
    saved = trainee.save(tmp_path / "codec")
    codec, sound = Xcodec2Codec.load(tmp_path / "codec"), Audio(speech_like(1.0, 9), RATE)
    [codes] = codec.encode([sound])
    assert codec.name == first.name and [codes] == first.encode([sound])
    assert np.array_equal(codec.decode([codes])[0].samples, first.decode([codes])[0].samples)
    said = np.concatenate([piece.samples for piece in decode_stream(codec, [[code] for code in codes])])
    np.testing.assert_allclose(
        said, saved.decode([codes])[0].samples, atol=0.02
    )  # bfloat16, where it is fast
    assert np.abs(said - codec.decode([codes])[0].samples).max() > 0.02
    again = Xcodec2Trainee(told, torch.device("cpu"))
    assert again.causal and trainee.causal
    assert not torch.equal(again.causal.native.embed.weight, trainee.causal.native.embed.weight)


def spread_of(rank: int, folder: str) -> None:
    """What one process of two has after its first step."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
    torch.manual_seed(0)
    trainee = Xcodec2Trainee(recipe(Path(folder) / str(rank)), torch.device("cpu"))
    clips = [Piece(Clip(str(n), f"{folder}/{n}.wav", ""), 1.0) for n in range(4)]
    drawn = Crops(clips, trainee.shape(trainee.recipe.stages[0]), (), f"seed {rank}")
    trainee.task(trainee.recipe.stages[0], drawn, drawn).step(0)
    learnt = {name: p.detach().clone() for name, p in trainee.model.named_parameters()}
    torch.save([drawn.one(0)[0], learnt], f"{folder}/{rank}/learnt.pt")


@pytest.mark.slow
def test_two_processes_hear_other_crops_and_learn_one_model(tmp_path, pieces):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    spawn(spread_of, (str(tmp_path),), nprocs=2)
    (heard, one), (other_heard, other) = (torch.load(tmp_path / str(n) / "learnt.pt") for n in range(2))
    assert not torch.equal(heard, other_heard)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_folding_changes_no_code():
    torch.manual_seed(1)
    quantizer = Xcodec2Quantizer(Xcodec2Config(quantization_dim=64))
    rounding = Rounding(quantizer, whiten=True)
    hidden = torch.randn(4, 200, 64) * 0.01 + 0.3
    rounding.spread_out(hidden)
    for _ in range(60):
        rounding(hidden, 1.0)
    rounding.eval()
    latents, codes = rounding(hidden, 1.0)
    quantizer.project_in = rounding.folded()
    plain, plain_codes = quantizer(hidden)
    assert (plain_codes[..., 0] == codes).float().mean() > 0.999  # a latent may lie on a threshold
    same = plain_codes[..., 0] == codes
    torch.testing.assert_close(plain[same], latents[same], atol=1e-4, rtol=1e-4)


def test_latents_are_spread_over_the_codebook_and_levels_are_used_alike():
    torch.manual_seed(2)
    rounding = Rounding(Xcodec2Quantizer(Xcodec2Config(quantization_dim=64)), whiten=True)
    hidden = torch.randn(4, 1000, 64) * 1e-3
    assert len(rounding.quantizer(hidden)[1].unique()) == 1
    rounding.spread_out(hidden)
    codes = rounding(hidden, 1.0)[1]
    assert len(codes.unique()) > 3500  # of 4,000
    for dimension in range(8):
        share = (codes // 4**dimension % 4).flatten().bincount(minlength=4) / codes.numel()
        assert share.min() > 0.2 and share.max() < 0.3


def test_a_released_model_rounds_as_it_did():
    torch.manual_seed(3)
    quantizer = Xcodec2Quantizer(Xcodec2Config(quantization_dim=64))
    hidden = torch.randn(2, 50, 64)
    latents, codes = Rounding(quantizer, whiten=False)(hidden, 1.0)
    expected, expected_codes = quantizer(hidden)
    torch.testing.assert_close(latents, expected)
    assert torch.equal(codes, expected_codes[..., 0].long())


def test_rounding_hardens_and_lets_the_gradient_through():
    torch.manual_seed(4)
    quantizer = Xcodec2Quantizer(Xcodec2Config(quantization_dim=64))
    rounding, hidden = Rounding(quantizer, whiten=True), torch.randn(2, 50, 64, requires_grad=True)
    soft, half, hard = (rounding(hidden, hardness)[0] for hardness in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (soft + hard) / 2)
    assert not torch.allclose(soft, hard)
    hard.square().sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("levels", [3, 4, 5, 8])
def test_the_wanted_place_of_latents_uses_all_levels(levels):
    config = Xcodec2Config(quantization_dim=64, quantization_levels=[levels, levels])
    fsq = Xcodec2Quantizer(config).quantizer
    mean, spread = wanted_place(levels)
    drawn = torch.randn(20000, 2, generator=torch.Generator().manual_seed(0)) * spread + mean
    places = fsq.bound(fsq.bound(drawn)).round()[:, 0] + levels // 2
    share = places.long().bincount(minlength=levels) / len(places)
    assert len(share) == levels and share.min() > 0.4 / levels


def test_a_frozen_encoder_keeps_its_codes(tmp_path, pieces):
    torch.manual_seed(0)
    trainee = Xcodec2Trainee(recipe(tmp_path, 'stages.main.train=["decoder"]'), torch.device("cpu"))
    stage = trainee.recipe.stages[0].model_copy(update={"name": "later"})
    sound, first = Audio(speech_like(1.0, 5), RATE), trainee.codec()
    before = first.encode([sound])[0]
    task = trainee.task(stage, crops(trainee, pieces), crops(trainee, pieces))
    task.first = False
    for n in range(2):
        task.step(n)
    assert trainee.codec().encode([sound])[0] == before


def test_the_semantic_model_of_a_folder_is_taken_over(tmp_path):
    config = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=18, num_attention_heads=2, intermediate_size=32
    )
    whole = Wav2Vec2BertModel(config)
    whole.save_pretrained(tmp_path / "semantic")
    told = recipe(tmp_path, f'semantic="{tmp_path / "semantic"}"')
    model = Xcodec2Trainee(told, torch.device("cpu")).model
    assert len(model.semantic_encoder.encoder.layers) == 16
    name = "encoder.layers.15.ffn1.output_dense.weight"
    assert torch.equal(model.semantic_encoder.get_parameter(name), whole.get_parameter(name))
    with pytest.raises(BundleError, match="nothing-here"):
        Xcodec2Trainee(recipe(tmp_path, 'semantic="nothing-here"'), torch.device("cpu"))


def test_perception_is_zero_for_equal_sound_and_trains_what_made_it():
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(10, 8), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    perception = Perception(Wav2Vec2Model(config), (1, 2))
    sound = torch.from_numpy(speech_like(0.5, 0))[None]
    assert perception(sound, sound) == 0
    other = torch.from_numpy(speech_like(0.5, 1))[None].requires_grad_(True)
    found = perception(other, sound)
    found.backward()
    assert found > 0 and other.grad is not None and other.grad.abs().sum() > 0
    assert all(p.grad is None for p in perception.parameters())


def test_sizes_that_no_model_has_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'hidden_size'"):
        Xcodec2Trainee(recipe(tmp_path, "model.hiden_size=32"), torch.device("cpu"))
    with pytest.raises(ConfigError, match="fit no model"):
        Xcodec2Trainee(recipe(tmp_path, "model.num_attention_heads=5"), torch.device("cpu"))
    with pytest.raises(ConfigError, match="three at least"):
        Xcodec2Trainee(recipe(tmp_path, "model.quantization_levels=[2, 4]"), torch.device("cpu"))
