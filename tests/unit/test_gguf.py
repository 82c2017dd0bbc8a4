"""GGUF files hold what their folder holds: settings, tokenizer, weights, and with them the same speech."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import llasa
from llasa.core import Ids, SamplingParams
from llasa.engines.base import Engine
from llasa.engines.native import NativeEngine
from llasa.errors import BundleError, ConfigError, MissingExtra
from llasa.prompt import MARKERS
from tests.conftest import STARTER
from tests.published import BASES, BaseName, build_llasa

pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
pytest.importorskip("llama_cpp", reason="the extra 'gguf' is not installed")
import gguf

from llasa.engines.gguf import GgufEngine, llama_library
from llasa.export.gguf import QUANTS, export_gguf

TEXTS = ("The cat's 12 hats — naïve,  eh?\n\n  I'VE 1234567 of them!", "don't", "   x = [1, 2];\tπ≈3.14")
SMALL = {
    "vocab_size": 584,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
PARAMS = SamplingParams(
    temperature=0,
    max_tokens=24,
    min_tokens=24,
    stop_token_ids=(517,),
    loop_guard=False,
    logprobs=True,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random bfloat16 weights, 584 ids wide."""
    return build_llasa(tmp_path_factory.mktemp("llasa"), vocab="small", codebook_size=64)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same folder, to be spoilt."""
    for file in folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def settings(file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(file)
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def weights(file: Path) -> dict[str, np.ndarray]:
    return {
        str(tensor.name): gguf.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


def test_settings_and_tokenizer_are_read_back(folder: Path, tmp_path: Path) -> None:
    found = settings(export_gguf(folder, tmp_path / "a.gguf", "f32"))
    assert {name.removeprefix("llama."): found[name] for name in found if name.startswith("llama.")} == {
        "vocab_size": 584,
        "context_length": 131_072,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "block_count": 2,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "rope.dimension_count": 8,
        "rope.freq_base": 500_000.0,
    }
    names, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert names == [own.id_to_token(token_id) for token_id in range(584)]
    assert set(kinds[:256]) == {gguf.TokenType.NORMAL} and set(kinds[256:]) == {gguf.TokenType.CONTROL}
    assert found["general.architecture"] == "llama" and found["general.file_type"] == 0
    assert found["tokenizer.ggml.eos_token_id"] == names.index("<|SPEECH_GENERATION_END|>")
    assert found["tokenizer.ggml.bos_token_id"] == names.index("<|begin_of_text|>")
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == BASES["llama3"].template


def test_llama3_frequencies_become_factors(folder: Path, tmp_path: Path) -> None:
    factors = weights(export_gguf(folder, tmp_path / "a.gguf", "f32"))["rope_freqs.weight"]
    wavelengths = 2 * np.pi * 500_000 ** (np.arange(4) / 4)
    assert factors[wavelengths < 2048].tolist() == [1, 1]
    assert factors[wavelengths > 8192] == pytest.approx([32])
    assert 1 < factors[2] < 32


def test_types_of_weights(folder: Path, tmp_path: Path) -> None:
    embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].float().numpy()
    worst = {"f32": 0, "bf16": 0, "f16": 1e-3, "q8_0": 0.01}
    for quant, error in worst.items():
        found = weights(export_gguf(folder, tmp_path / f"{quant}.gguf", quant))
        assert np.abs(found["token_embd.weight"] - embeddings).max() <= error * np.abs(embeddings).max()
        assert found["blk.0.attn_norm.weight"].tolist() == [1] * 32
        assert "output.weight" not in found  # shared with the embeddings


def test_shards_give_the_same_file(folder: Path, copy: Path) -> None:
    whole = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    places = {name: f"model-{number % 2 + 1:05}-of-00002.safetensors" for number, name in enumerate(whole)}
    for file in set(places.values()):
        save_file({name: whole[name] for name in whole if places[name] == file}, copy / file)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
    expected = weights(export_gguf(folder, copy / "whole.gguf", "bf16"))
    found = weights(export_gguf(copy, copy / "shards.gguf", "bf16"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_copy_of_the_embeddings_and_old_frequencies_are_left_out(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, copy / "model.safetensors")
    assert "output.weight" not in weights(export_gguf(copy, copy / "a.gguf", "f16"))


def test_progress_ends_with_all_bytes(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    file = export_gguf(folder, tmp_path / "a.gguf", "q8_0", on_progress=lambda *news: told.append(news))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1] and len(set(totals)) == 1
    assert 0.5 < totals[0] / file.stat().st_size < 1


@pytest.mark.parametrize("base", sorted(BASES))
def test_llama_cpp_reads_text_as_the_tokenizer_does(base: BaseName, tmp_path: Path) -> None:
    folder = build_llasa(tmp_path / base, base=base, vocab="small", codebook_size=8)
    edit(folder / "tokenizer.json", lambda table: join(table["model"], ["h e", "Ġ t", "Ġt he"]))
    file = export_gguf(folder, tmp_path / "a.gguf", "f16")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert in_llama_cpp(file, text) == own.encode(text, add_special_tokens=False).ids
    marker = MARKERS[2]
    assert len(in_llama_cpp(file, marker, special=True)) == 1 < len(in_llama_cpp(file, marker))


def join(model: dict[str, Any], merges: list[str]) -> None:
    """Give a tokenizer of bytes some merges, and their words the ids of its last bytes."""
    words = model["vocab"]
    last = sorted(words, key=words.__getitem__)[-len(merges) :]
    for old, merge in zip(last, merges, strict=True):
        words[merge.replace(" ", "")] = words.pop(old)
    model["merges"] = merges


def in_llama_cpp(file: Path, text: str, special: bool = False) -> Ids:
    llama = llama_library("Testing")
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(file).encode(), params)
    ids, data = (llama.llama_token * 200)(), text.encode()
    vocabulary = llama.llama_model_get_vocab(model)
    count = llama.llama_tokenize(vocabulary, data, len(data), ids, 200, False, special)
    llama.llama_model_free(model)
    return list(ids[:count])


def architectures() -> Iterator[Any]:
    biased = LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=False, head_dim=32)
    yield pytest.param(LlamaForCausalLM(biased), id="llama with biases")
    yield pytest.param(Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=32)), id="qwen3")


@pytest.mark.parametrize("model", list(architectures()))
def test_other_shapes_draw_the_same(model: torch.nn.Module, folder: Path, tmp_path: Path) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.2 + (1 if weight.dim() == 1 else 0))
    model.save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    same_as_native(tmp_path)


@pytest.mark.parametrize("base", sorted(BASES))
def test_other_bases_draw_the_same(base: BaseName, tmp_path: Path) -> None:
    folder = build_llasa(tmp_path / base, base=base, dtype=torch.float32, vocab="small", codebook_size=300)
    same_as_native(folder)


def same_as_native(folder: Path) -> None:
    engine = GgufEngine.load(
        export_gguf(folder, folder / "a.gguf", "f32"), kv="f32", concurrency=2, threads=1
    )
    native = NativeEngine.load(folder, "cpu", "float32")
    prompt = list(range(2, 60, 3))
    mine, other = (each.submit(prompt, PARAMS).result()[0] for each in (engine, native))
    engine.close()
    native.close()
    assert mine.ids == other.ids
    assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.fixture(scope="module")
def spoken() -> Iterator[tuple[NativeEngine, list[tuple[Ids, Ids]], SamplingParams]]:
    """The starter's engine in float32, and what it says greedily: prompts and ids."""
    native = NativeEngine.load(STARTER / "lm", "cpu", "float32")
    synthesizer = llasa.load()
    jobs = [synthesizer.job(text, temperature=0) for text in ("Good morning to you.", "We sell 3 hats.")]
    params = replace(jobs[0].params, max_tokens=150)
    said = [(job.prompt, native.submit(job.prompt, params).result()[0].ids) for job in jobs]
    yield native, said, params
    native.close()


def test_the_starter_says_the_same(spoken: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, said, params = spoken
    engine = GgufEngine.load(export_gguf(STARTER / "lm", tmp_path / "a.gguf", "f32"), kv="f32", threads=1)
    assert "reads ids well, but not text" in caplog.text
    for prompt, ids in said:
        assert len(ids) > 20 and engine.submit(prompt, params).result()[0].ids == ids
    engine.close()


@pytest.mark.parametrize(("quant", "least"), [("bf16", 0.97), ("q8_0", 0.95), ("q4_k_m", 0.6)])
def test_how_often_a_quantised_starter_agrees(spoken: Any, quant: str, least: float, tmp_path: Path) -> None:
    _, said, params = spoken
    file = export_gguf(STARTER / "lm", tmp_path / "a.gguf", quant)
    engine = GgufEngine.load(file, concurrency=2, threads=1)
    matches = [match for prompt, ids in said for match in agreements(engine, prompt, ids, params)]
    engine.close()
    print(f"{quant}: {np.mean(matches):.3f} of {len(matches)} ids are the likeliest")
    assert np.mean(matches) >= least


def agreements(engine: Engine, prompt: Ids, ids: Ids, params: SamplingParams) -> list[bool]:
    """Tell of each id whether it is the likeliest after those before it."""
    one = replace(params, max_tokens=1, min_tokens=1, loop_guard=False)
    prompts = [prompt + ids[:place] for place in range(len(ids))]
    return [engine.submit(p, one).result()[0].ids == [i] for p, i in zip(prompts, ids, strict=True)]


@pytest.mark.parametrize("quant", QUANTS)
def test_every_quantisation_loads(quant: str, folder: Path, tmp_path: Path) -> None:
    engine = GgufEngine.load(
        export_gguf(folder, tmp_path / "a.gguf", quant.upper()), threads=1, concurrency=1
    )
    assert len(engine.submit([1, 2, 3], PARAMS).result()[0].ids) == 24
    engine.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_narrow_rows_are_told_of(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_gguf(folder, tmp_path / "a.gguf", "q6_k")
    assert "not all rows are multiples of 256" in caplog.text


@pytest.mark.parametrize(
    ("quant", "todo"), [("q8", "Did you mean 'q8_0'"), ("q4_k_n", "'q4_k_"), ("~", "Choose")]
)
def test_unknown_quantisations_name_the_nearest(quant: str, todo: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=todo):
        export_gguf(folder, tmp_path / "a.gguf", quant)


def rope(kind: str) -> Callable[[Path], None]:
    return lambda path: edit(
        path / "config.json", lambda c: c.update(rope_scaling={"type": kind, "factor": 2})
    )


def config(**changes: object) -> Callable[[Path], None]:
    return lambda path: edit(path / "config.json", lambda content: content.update(changes))


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        found = load_file(path / "model.safetensors")
        change(found)
        save_file(found, path / "model.safetensors")

    return spoil


def wrote(name: str, content: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_text(content, "utf-8") and None


def drop_end(table: dict[str, Any]) -> None:
    table["added_tokens"] = [t for t in table["added_tokens"] if t["content"] != "<|SPEECH_GENERATION_END|>"]


NORM, EXTRA = "model.norm.weight", "model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (config(model_type="gpt2"), r"holds a model of type 'gpt2'. Give it one of llama, qwen2, qwen3"),
        (config(hidden_act="gelu"), "has hidden_act gelu"),
        (config(hidden_size="wide"), "config.json of .* is damaged"),
        (rope("linear"), "has rope_type linear"),
        (wrote("config.json", "{"), "config.json is missing or damaged"),
        (wrote("tokenizer.json", "[]"), "tokenizer.json is missing or damaged"),
        (wrote("tokenizer.json", "{}"), "the tokenizer in .* is damaged"),
        (wrote("tokenizer_config.json", "{"), "the tokenizer in .* is damaged"),
        (lambda path: edit(path / "tokenizer.json", drop_end), "no '<.SPEECH_GENERATION_END.>'"),
        (config(vocab_size=500), "ids up to 583, the model 500 rows"),
        (config(vocab_size=600), "1 weights .* are of another shape .*model.embed_tokens.weight"),
        (tensors(lambda found: found.pop(NORM)), f"1 weights .* are missing: {NORM}"),
        (tensors(lambda found: found.update({EXTRA: torch.ones(1)})), f"1 weights .* unexpected: {EXTRA}"),
        (config(tie_word_embeddings=False), "are missing: lm_head.weight"),
        (wrote("model.safetensors", "{"), "model.safetensors is missing or damaged"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing or damaged"),
        (wrote("model.safetensors.index.json", "1"), "index.json is missing or damaged"),
    ],
)
def test_folders_that_cannot_be_exported(spoil: Callable[[Path], None], found: str, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(BundleError, match=found):
        export_gguf(copy, copy / "a.gguf")
    assert not [path for path in copy.iterdir() if path.suffix in (".gguf", ".part")]


def test_a_failure_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("old")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_gguf(folder, tmp_path / "a.gguf", on_progress=stop)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.gguf", "old")]
    with pytest.raises(ConfigError, match="the system says: No such file or directory"):
        export_gguf(folder, tmp_path / "nowhere" / "a.gguf")


def test_missing_packages(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    export_gguf(folder, tmp_path / "a.gguf", "q8_0")
    with pytest.raises(MissingExtra, match=r"Exporting to GGUF as q6_k needs .*'llama_cpp'"):
        export_gguf(folder, tmp_path / "a.gguf", "q6_k")
    monkeypatch.setitem(sys.modules, "gguf", None)
    for name in ("llasa.export.gguf", "llasa.export.gguf_tokens"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"Exporting to GGUF needs .*'gguf'"):
        import llasa.export.gguf  # noqa: F401
