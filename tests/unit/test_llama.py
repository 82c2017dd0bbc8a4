"""The Llama that is loaded to speak is transformers', number for number, and leaves what it is not to it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicCache

from llasa.core import SamplingParams
from llasa.engines.llama import Llama, read_llama
from llasa.engines.native import NativeEngine
from llasa.engines.quantized import quantize
from llasa.errors import BundleError
from tests.unit.test_lean import SCALED
from tests.unit.test_rows import SIZES

IDS = torch.arange(24).view(2, 12) % 40
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "grouped": {"num_key_value_heads": 1},
    "published": {"rope_parameters": SCALED, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
}


def saved(folder: Path, kind: str = "plain", **kwargs: Any) -> LlamaForCausalLM:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | KINDS[kind]))).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_()
    model.save_pretrained(folder, **kwargs)
    return model


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def loaded(folder: Path) -> Llama:
    found = read_llama(folder, torch.float32)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_its_logits_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    theirs = saved(tmp_path, kind)
    ours = loaded(tmp_path)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-5)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape for name, p in theirs.named_parameters()
    }


@torch.inference_mode()
def test_a_past_is_read_in_pieces(tmp_path: Path) -> None:
    saved(tmp_path)
    trunk, cache = loaded(tmp_path).model, DynamicCache()
    pieces = [trunk(IDS[:, a:b], past_key_values=cache)[0] for a, b in ((0, 5), (5, 6), (6, 12))]
    torch.testing.assert_close(torch.cat(pieces, 1), trunk(IDS)[0], rtol=1e-5, atol=1e-5)


def test_a_model_in_pieces_and_one_with_old_names_of_its_config_load(tmp_path: Path) -> None:
    expected = saved(tmp_path / "whole", "published")(IDS).logits
    saved(tmp_path / "shards", "published", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    rope = {"type" if key == "rope_type" else key: value for key, value in SCALED.items()}
    changed(tmp_path / "whole", rope_parameters=None, rope_theta=rope.pop("rope_theta"), rope_scaling=rope)
    for folder in ("whole", "shards"):
        torch.testing.assert_close(loaded(tmp_path / folder)(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_hooks_and_eight_bits_count(tmp_path: Path) -> None:
    saved(tmp_path)
    model = loaded(tmp_path)
    before = model(IDS).logits
    handle = model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(
        lambda *given: given[2] * 2
    )
    assert not torch.allclose(model(IDS).logits, before)
    handle.remove()
    quantize(model)
    after = model(IDS).logits
    assert not torch.equal(after, before)
    assert nn.functional.cosine_similarity(after, before, dim=-1).min() > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral"},
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "fp8"}},
        {"num_hidden_layers": 0},
        {"num_attention_heads": "many"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"rope_parameters": "none"},
        {"vocab_size": 41},
        {"num_key_value_heads": 1},
    ],
    ids=str,
)
def test_what_it_is_not_is_left_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    saved(tmp_path)
    changed(tmp_path, **changes)
    assert read_llama(tmp_path, torch.float32) is None


def test_an_adapter_in_the_folder_other_weights_and_none_are_left_to_transformers(tmp_path: Path) -> None:
    assert read_llama(tmp_path, torch.float32) is None
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    for damaged in (
        {name: w for name, w in weights.items() if "up_proj" not in name},
        weights | {"further": torch.ones(1)},
        {name: w.to(torch.float8_e4m3fn) for name, w in weights.items()},
        weights | {"model.norm.weight": torch.full_like(weights["model.norm.weight"], torch.nan)},
    ):
        save_file(damaged, file)
        assert read_llama(tmp_path, torch.float32) is None
    with pytest.raises(BundleError):
        NativeEngine.load(tmp_path)
    save_file(weights, file)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert read_llama(tmp_path, torch.float32) is None
    file.write_bytes(file.read_bytes()[:100])
    assert read_llama(tmp_path, torch.float32) is None


def test_a_head_that_differs_from_what_it_is_said_to_be_is_left_to_transformers(tmp_path: Path) -> None:
    saved(tmp_path, "tied")
    weights = load_file(tmp_path / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    for head, taken in ((embedding.clone(), True), (embedding + 1, False)):
        save_file(weights | {"lm_head.weight": head}, tmp_path / "model.safetensors")
        assert (read_llama(tmp_path, torch.float32) is not None) is taken


def test_shards_outside_the_folder_are_not_opened(tmp_path: Path) -> None:
    saved(tmp_path / "model", max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    first = places["weight_map"]["model.norm.weight"]
    (tmp_path / "model" / first).rename(tmp_path / first)
    places["weight_map"] = {
        name: f"../{place}" if place == first else place for name, place in places["weight_map"].items()
    }
    index.write_text(json.dumps(places))
    assert read_llama(tmp_path / "model", torch.float32) is None


def test_other_models_still_speak(tmp_path: Path) -> None:
    torch.manual_seed(3)
    MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2)).save_pretrained(tmp_path)
    engine = NativeEngine.load(tmp_path, dtype="float32")
    [made] = engine.submit([1, 2, 3], SamplingParams(max_tokens=5)).result()
    engine.close()
    assert made.ids


def test_the_engine_draws_what_it_draws_over_transformers(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "published")
    params, drawn = SamplingParams(n=6, max_tokens=30, temperature=1.0), []
    for engine in (NativeEngine(theirs, max_length=128), NativeEngine.load(tmp_path, dtype="float32")):
        drawn.append([one.ids for one in engine.submit(list(range(1, 30)), params).result()])
        engine.close()
    assert drawn[0] == drawn[1]


def test_a_first_sentence_does_not_wait_for_transformers_models(tmp_path: Path) -> None:
    saved(tmp_path)
    code = (
        "import sys; from llasa.engines.native import NativeEngine; from llasa.core import SamplingParams\n"
        "engine = NativeEngine.load(sys.argv[1], dtype='bfloat16')\n"
        "engine.submit([1, 2], SamplingParams(max_tokens=3)).result(); engine.close()\n"
        "slow = {'transformers.modeling_utils', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
