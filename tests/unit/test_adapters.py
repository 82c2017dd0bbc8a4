"""LoRA adapters: rows of one loop wear different ones, each as if merged alone; folders that do not fit."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llasa.core import Generation, SamplingParams
from llasa.engines.adapters import Adapter, fitted, merged, read_adapter
from llasa.engines.backbone import Backbone
from llasa.engines.base import SupportsAdapters, generate
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.errors import BundleError, ConfigError, EngineError
from tests.causal import GREEDY, llama, prompts, running

SETTINGS = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
}
TOP, ZEROS = "base_model.model", torch.zeros
LAYERS = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (32, 48)}  # outputs, inputs
SAMPLED = replace(GREEDY, temperature=1.0, min_tokens=24, logprobs=True)


def tensors(seed: int, rank: int = 4) -> dict[str, Tensor]:
    """Return what peft writes for the two layers of the small model."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number in range(2):
        for name, (outputs, inputs) in LAYERS.items():
            key = f"base_model.model.model.layers.{number}.{name}"
            found[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.3
            found[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.3
    return found


def write_settings(folder: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(SETTINGS | settings))
    return folder


def write(folder: Path, weights: dict[str, Tensor], **settings: Any) -> Path:
    write_settings(folder, **settings)
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model, two adapters, and the model with each added to its weights by hand."""
    root = tmp_path_factory.mktemp("adapters")
    llama(tie_word_embeddings=True).save_pretrained(root / "base")
    for seed, name in enumerate("ab"):
        added = tensors(seed)
        write(root / name, added)
        model = llama(tie_word_embeddings=True)
        for number in range(2):
            for layer in LAYERS:
                inner = f"model.layers.{number}.{layer}"
                down, up = (added[f"base_model.model.{inner}.lora_{side}.weight"] for side in "AB")
                model.get_submodule(inner).weight.data += 2.0 * up @ down
        model.save_pretrained(root / f"with-{name}")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def engine(folders: dict[str, Path]) -> Iterator[NativeEngine]:
    adapters = {name: folders[name] for name in "ab"}
    engine = NativeEngine.load(folders["base"], "cpu", "float32", adapters=adapters)
    yield engine
    engine.close()


def loaded(folder: Path) -> NativeEngine:
    return NativeEngine.load(folder, "cpu", "float32")


def near(one: Generation, other: Generation) -> bool:
    """Equal ids and, but for rounding, log-probabilities."""
    return one.ids == other.ids and np.allclose(one.logprobs or [], other.logprobs or [], atol=1e-4)


def test_rows_of_one_loop_are_each_as_if_their_adapter_was_merged(
    engine: NativeEngine, folders: dict[str, Path]
) -> None:
    names = [None, "a", "b"]
    params = [replace(SAMPLED, adapter=names[k % 3]) for k in range(8)]
    requests = [engine.submit(prompt, given) for prompt, given in zip(prompts(), params, strict=True)]
    together = [request.result()[0] for request in requests]
    for k, folder in enumerate(("base", "with-a", "with-b")):
        alone = loaded(folders[folder])
        for number in range(k, 8, 3):
            assert near(together[number], alone.submit(prompts()[number], SAMPLED).result()[0])
        alone.close()
    assert isinstance(engine, SupportsAdapters)
    assert engine.adapters == ("a", "b")


@torch.inference_mode()
def test_rows_without_an_adapter_do_not_feel_those_of_others(folders: dict[str, Path]) -> None:
    """In batches of one size, it makes no difference what the other rows wear, but for rounding."""
    model = llama(tie_word_embeddings=True)
    worn = fitted(read_adapter(folders["a"]), model, folders["a"])

    def states(others: Adapter | None) -> list[Tensor]:
        backbone = Backbone(model)
        for adapter in (None, others, None, others):
            backbone.add(backbone.prefill(prompts()[4], adapter)[0], len(prompts()[4]), 2)
        backbone.drop(2)
        found = [backbone.step([k] * 7) for k in range(5)]
        backbone.close()
        return found

    bare = [0, 1, 4, 5]
    for plain, mixed in zip(states(None), states(worn), strict=True):
        same = [torch.allclose(a, b, 1e-4, 1e-5) for a, b in zip(plain, mixed, strict=True)]
        assert [row for row in range(7) if same[row]] == bare


def test_what_was_read_with_one_adapter_is_not_used_with_another(
    engine: NativeEngine, folders: dict[str, Path]
) -> None:
    prompt = prompts()[7] * 3
    reads = [
        engine.submit(prompt, replace(SAMPLED, adapter=name)).result()[0] for name in (None, "a", "a", "b")
    ]
    assert [read.stats["reused_tokens"] for read in reads] == [0, 0, len(prompt) - 1, 0]
    assert reads[1].ids == reads[2].ids
    for read, folder in zip(reads[1:], ("with-a", "with-a", "with-b"), strict=True):
        alone = loaded(folders[folder])
        assert near(read, alone.submit(prompt, SAMPLED).result()[0])
        alone.close()


def test_adapters_come_and_go_while_others_are_in_flight(
    engine: NativeEngine, folders: dict[str, Path]
) -> None:
    long = replace(SAMPLED, max_tokens=200, min_tokens=200)
    alone = {
        name: engine.submit(prompts()[3], replace(long, adapter=name)).result()[0]
        for name in (None, "a", "b")
    }
    flying = {name: engine.submit(prompts()[3], replace(long, adapter=name)) for name in (None, "a")}
    steps = [iter(request) for request in flying.values()]
    for told in steps:
        next(told)
    engine.unload_adapter("a")
    with pytest.raises(ConfigError, match=r"adapter is 'a'\. Set it to None or one of: b"):
        engine.submit(prompts()[3], replace(long, adapter="a"))
    engine.load_adapter("a", folders["b"])
    swapped = engine.submit(prompts()[3], replace(long, adapter="a")).result()[0]
    assert near(swapped, alone["b"])
    assert not near(swapped, alone["a"])
    for name, request in flying.items():
        assert near(request.result()[0], alone[name])


def test_candidates_beyond_the_free_slots_and_seeds_repeat(folders: dict[str, Path]) -> None:
    engine = NativeEngine.load(folders["base"], "cpu", "float32", 3, {"a": folders["a"], "b": folders["b"]})
    many = [replace(SAMPLED, n=6, adapter=name, seed=seed) for name in (None, "a", "b") for seed in (0, 1)]
    requests = [engine.submit(prompts()[5], params) for params in many]
    first = [[one.ids for one in request.result()] for request in requests]
    again = [[one.ids for one in engine.submit(prompts()[5], params).result()] for params in many]
    assert first == again
    assert len({tuple(ids) for row in first for ids in row}) == 36
    last = engine.submit(prompts()[5], replace(many[3], n=1, first=5)).result()[0]
    assert last.ids == first[3][5]
    engine.close()


def test_a_closed_engine_leaves_the_model_as_it_was(folders: dict[str, Path]) -> None:
    model = llama(tie_word_embeddings=True)
    with running(model) as engine:
        engine.load_adapter("a", folders["a"])
        generate(engine, prompts()[:2], replace(GREEDY, adapter="a"))
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_adapters_work_on_8_bit_layers(folders: dict[str, Path]) -> None:
    engine = NativeEngine.load(folders["base"], "cpu", "int8", adapters={"a": folders["a"]})
    params = replace(GREEDY, logprobs=True, max_tokens=1, min_tokens=1)
    wide = {name: loaded(folders[name]) for name in ("base", "with-a")}
    for prompt in prompts()[2:]:
        worn = engine.submit(prompt, replace(params, adapter="a")).result()[0].logprobs
        bare = engine.submit(prompt, params).result()[0].logprobs
        for mine, folder in ((worn, "with-a"), (bare, "base")):
            assert np.allclose(mine, wide[folder].submit(prompt, params).result()[0].logprobs, atol=0.4)
    for one in (engine, *wide.values()):
        one.close()


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 1}}, 0.25),
        ({"rank_pattern": {"q_proj": 4, "down_proj": 4}, "r": 64}, 2.0),
    ],
)
def test_what_is_added_is_scaled(tmp_path: Path, settings: dict[str, Any], scale: float) -> None:
    adapter = read_adapter(write(tmp_path, weights := tensors(9), **settings))
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(adapter.pairs[name][0], weights[f"{TOP}.{name}.lora_A.weight"])
    assert torch.equal(adapter.pairs[name][1], weights[f"{TOP}.{name}.lora_B.weight"] * scale)


BAD = {
    "lm_head": (
        {f"{TOP}.lm_head.lora_A.weight": ZEROS(4, 32), f"{TOP}.lm_head.lora_B.weight": ZEROS(64, 4)},
        {},
        "the output head",
    ),
    "embedding": ({f"{TOP}.model.embed_tokens.lora_embedding_A": ZEROS(4, 64)}, {}, "lora_embedding_A"),
    "saved": ({f"{TOP}.model.norm.weight": ZEROS(32)}, {}, r"model\.norm\.weight"),
    "modules_to_save": ({}, {"modules_to_save": ["lm_head"]}, r"modules_to_save \[\"lm_head\"\].*export hf"),
    "dora": ({}, {"use_dora": True}, "use_dora true"),
    "pissa": ({}, {"init_lora_weights": "pissa"}, 'init_lora_weights "pissa"'),
    "bias": ({}, {"bias": "all"}, 'bias "all"'),
    "conv": ({}, {"fan_in_fan_out": True}, "fan_in_fan_out true"),
    "not lora": ({}, {"peft_type": "IA3"}, 'peft_type "IA3"'),
    "invented": ({}, {"use_tomorrow": 3}, "use_tomorrow 3"),
    "rank": ({}, {"r": 8}, r"down_proj\.lora_A\.weight' has rank 4, expected 8"),
    "alpha": ({}, {"lora_alpha": "eight"}, "alpha_pattern or lora_alpha is damaged"),
    "pattern": ({}, {"rank_pattern": {r"([\w.]+)+!": 4}}, r"found '\(\[.*in rank_pattern.*export hf"),
    "patterns": ({}, {"rank_pattern": "x"}, "rank_pattern or r is damaged"),
    "not finite": (
        {f"{TOP}.model.layers.0.self_attn.q_proj.lora_A.weight": torch.full((4, 32), torch.nan)},
        {},
        r"q_proj\.lora_A\.weight.*not finite",
    ),
    "alpha not finite": ({}, {"lora_alpha": float("inf")}, r"lora_B\.weight.*lora_alpha inf.*not finite"),
    "half": ({f"{TOP}.model.norm.lora_A.weight": ZEROS(4, 32)}, {}, r"lora_B\.weight' is missing"),
    "target": ({}, {"target_modules": ["q_proj", "v_proj"]}, "target_modules names 'v_proj'"),
    "other layer": (
        {f"{TOP}.model.layers.7.mlp.up_proj.lora_{side}.weight": ZEROS(*shape)
         for side, shape in (("A", (4, 32)), ("B", (48, 4)))},
        {},
        r"model\.layers\.7.*is missing",
    ),
    "other shape": (
        {f"{TOP}.model.layers.0.self_attn.q_proj.lora_A.weight": ZEROS(4, 64)},
        {},
        r"lora_A\.weight' is \[4, 64\], expected \[4, 32\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_adapters_that_rows_cannot_wear_are_refused(
    folders: dict[str, Path], tmp_path: Path, case: str
) -> None:
    more, settings, message = BAD[case]
    adapter = write(tmp_path / "adapter", tensors(0) | more, **settings)
    engine = loaded(folders["base"])
    with pytest.raises(BundleError, match=message):
        engine.load_adapter("x", adapter)
    assert engine.adapters == ()
    engine.close()


def test_an_engine_whose_adapter_is_refused_does_not_go_on(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected adapter_model"):
        adapters = {"a": folders["a"], "x": write_settings(tmp_path)}
        NativeEngine.load(folders["base"], "cpu", "float32", adapters=adapters)
    assert f"llasa-{folders['base'].name}" not in {thread.name for thread in threading.enumerate()}


def test_an_engine_does_not_go_on_after_any_failure(folders: dict[str, Path]) -> None:
    with pytest.raises(TypeError):
        NativeEngine.load(folders["base"], "cpu", "float32", adapters={"a": None})  # pyright: ignore
    assert f"llasa-{folders['base'].name}" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_engine_takes_no_adapter(folders: dict[str, Path]) -> None:
    engine = loaded(folders["base"])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.load_adapter("a", folders["a"])


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter", tensors(0))
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors is damaged"):
        read_adapter(adapter)
    save_file({}, weights)
    with pytest.raises(BundleError, match="holds no tensors"):
        read_adapter(adapter)
    weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(whole)
    with pytest.raises(BundleError, match=r"found only adapter_model\.bin"):
        read_adapter(adapter)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(BundleError, match=r"adapter_config\.json is missing or damaged"):
        read_adapter(adapter)


def test_names_are_checked(engine: NativeEngine, folders: dict[str, Path]) -> None:
    for name, message in (("a", "loaded already"), ("", "an empty name")):
        with pytest.raises(ConfigError, match=message):
            engine.load_adapter(name, folders["a"])
    with pytest.raises(ConfigError, match="'c': found a, b"):
        engine.unload_adapter("c")
    with pytest.raises(ConfigError, match=r"adapter is 'c'\. Set it to None or one of: a, b"):
        engine.submit([1], SamplingParams(adapter="c"))


def peft() -> Any:
    return pytest.importorskip("peft", reason="peft is not installed: pip install 'llasa[train]'")


def test_equals_peft(folders: dict[str, Path], tmp_path: Path) -> None:
    """What peft writes is read, and its model gives the same log-probabilities."""
    config = peft().LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "up_proj"], use_rslora=True,
        alpha_pattern={"layers.0.self_attn.v_proj": 3}, rank_pattern={"up_proj": 6}, init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(3)
    model = peft().get_peft_model(llama(tie_word_embeddings=True), config).eval()
    model.save_pretrained(tmp_path)
    engine = loaded(folders["base"])
    engine.load_adapter("p", tmp_path)
    for prompt in prompts():
        found = engine.submit(prompt, replace(SAMPLED, adapter="p", allowed_token_ids=None)).result()[0]
        logits = model(torch.tensor([prompt + found.ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(found.ids)[:, None])[:, 0]
        assert np.allclose(found.logprobs or [], expected.detach().numpy(), atol=1e-4)
    engine.close()


def test_merging_writes_the_sum(folders: dict[str, Path], tmp_path: Path) -> None:
    peft()
    (folders["base"] / "tokenizer.json").write_text("{}")
    output = merged(folders["base"], folders["a"], tmp_path / "deep" / "out")
    found, expected = (load_file(path / "model.safetensors") for path in (output, folders["with-a"]))
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[key], expected[key], atol=1e-6) for key in found)
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in output.iterdir()} == names
    with pytest.raises(ConfigError, match="is there already"):
        merged(folders["base"], folders["a"], output)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    ],
    ids=["head", "saved head", "dora", "pissa"],
)
def test_what_rows_cannot_wear_can_be_merged(
    folders: dict[str, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = peft().LoraConfig(**{"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"} | settings)
    model = peft().get_peft_model(llama(tie_word_embeddings=False), config).eval()
    torch.manual_seed(4)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    llama(tie_word_embeddings=False).save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    engine = loaded(tmp_path / "base")
    with pytest.raises(BundleError, match="llasa export hf --adapter"):
        engine.load_adapter("x", tmp_path / "adapter")
    engine.close()
    found = load_model(merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "out"), "auto")
    ids = torch.arange(9)[None]
    assert torch.allclose(found(ids).logits, model(ids).logits, atol=1e-3)


def test_a_head_that_is_the_embedding_becomes_its_own(folders: dict[str, Path], tmp_path: Path) -> None:
    peft()
    adapter = write(tmp_path / "adapter", BAD["lm_head"][0], target_modules=["lm_head"])
    for tensor in (weights := load_file(adapter / "adapter_model.safetensors")).values():
        tensor.fill_(0.1)
    save_file(weights, adapter / "adapter_model.safetensors")
    found: Any = load_model(merged(folders["base"], adapter, tmp_path / "out"), "auto")
    before: Any = llama(tie_word_embeddings=True)
    assert torch.equal(found.model.embed_tokens.weight, before.model.embed_tokens.weight)
    assert torch.allclose(found.lm_head.weight, before.lm_head.weight + 2 * 4 * 0.01, atol=1e-6)


def test_merging_keeps_the_dtype_and_joins_files(tmp_path: Path) -> None:
    peft()
    llama().bfloat16().save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    output = merged(tmp_path / "base", write(tmp_path / "adapter", tensors(0)), tmp_path / "out")
    assert load_model(output, "auto").dtype == torch.bfloat16
    assert not (output / "model.safetensors.index.json").exists()


def test_merging_refuses_what_does_not_fit_and_leaves_nothing(tmp_path: Path) -> None:
    peft()
    llama(num_hidden_layers=1).save_pretrained(tmp_path / "short")
    llama(hidden_size=64).save_pretrained(tmp_path / "wide")
    llama(num_hidden_layers=3).save_pretrained(tmp_path / "long")
    adapter = write(tmp_path / "adapter", tensors(0))
    for name, message in (("short", "left over, first"), ("wide", "size mismatch"), ("long", "missing")):
        with pytest.raises(BundleError, match=message):
            merged(tmp_path / name, adapter, tmp_path / "out")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(BundleError, match="can run code"):
        merged(tmp_path / "short", adapter, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"short", "wide", "long", "adapter"}
