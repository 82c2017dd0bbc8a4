"""llama.cpp in this process keeps every engine's promises, and draws what transformers would."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from llasa.core import Ids, SamplingParams
from llasa.engines.base import Engine
from llasa.engines.native import NativeEngine
from llasa.errors import BundleError, ConfigError, EngineError, MissingExtra
from tests.contracts.test_engine import PARAMS, PROMPTS, STOP, EngineContract
from tests.published import build_llasa
from tests.servers import VOCAB, Fields, Handler, serving, vllm

pytest.importorskip("gguf", reason="the extra 'gguf' is not installed")
pytest.importorskip("llama_cpp", reason="the extra 'gguf' is not installed")
from llasa.engines.gguf import GgufEngine
from llasa.export.gguf import export_gguf

GREEDY = replace(PARAMS, temperature=0, max_tokens=40, logprobs=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights with scaled rotary frequencies, 584 ids wide."""
    path = tmp_path_factory.mktemp("llasa")
    return build_llasa(path, dtype=torch.float32, vocab="small", codebook_size=64)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return export_gguf(folder, folder / "tiny.gguf", "f32")


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[GgufEngine]:
    engine = GgufEngine.load(file, max_length=1000, concurrency=16, threads=1, kv="f32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def native(folder: Path) -> Iterator[NativeEngine]:
    engine = NativeEngine.load(folder, "cpu", "float32")
    yield engine
    engine.close()


class TestGgufEngine(EngineContract):
    """In float32 rounding stays far below what a draw turns on."""


def test_greedy_ids_are_those_of_transformers(engine: Engine, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt in PROMPTS:
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=40,
            eos_token_id=STOP,
            pad_token_id=0,
            prefix_allowed_tokens_fn=lambda *_: list(PARAMS.allowed_token_ids or ()),
        )[0, len(prompt) :].tolist()
        found = engine.submit(prompt, GREEDY).result()[0].ids
        same = agreeing(found, [token_id for token_id in expected if token_id != STOP])
        if same < max(len(found), len(expected) - 1):
            logits = model(torch.tensor([prompt + found[:same]])).logits[0, -1]
            first, second = logits[list(PARAMS.allowed_token_ids or ())].topk(2).values.tolist()
            assert first - second < 1e-3


def agreeing(first: Ids, second: Ids) -> int:
    """Return how many ids two lists begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


@pytest.mark.parametrize(
    "params", [GREEDY, replace(PARAMS, n=8, max_tokens=60, min_tokens=60, logprobs=True)]
)
def test_draws_and_logprobs_are_those_of_the_native_engine(
    engine: Engine, native: NativeEngine, params: SamplingParams
) -> None:
    for prompt in PROMPTS:
        expected = native.submit(prompt, params).result()
        for mine, other in zip(engine.submit(prompt, params).result(), expected, strict=True):
            assert (mine.ids, mine.finish) == (other.ids, other.finish)
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_known_beginning_is_not_read_again(file: Path) -> None:
    engine = GgufEngine.load(file, max_length=200, concurrency=4, threads=1)
    prompt = list(range(1, 41))

    def read(prompt: Ids) -> tuple[float, float]:
        stats = engine.submit(prompt, replace(PARAMS, n=2)).result()[0].stats
        return stats["prefill_tokens"], stats["reused_tokens"]

    assert read(prompt) == (39, 0)
    assert read(prompt) == (0, 39)
    assert read([*prompt, 7, 8, 9]) == (3, 39)  # a beam goes on
    assert read([*prompt[:20], 7, 8, 9]) == (2, 20)  # another text after the same voice
    assert read(prompt) == (0, 39)
    engine.forget()
    assert read(prompt) == (39, 0)
    engine.close()


def test_many_long_prompts_and_full_rows_never_run_out_of_room(file: Path, native: NativeEngine) -> None:
    engine = GgufEngine.load(file, max_length=160, concurrency=3, threads=1, kv="f32")
    params = replace(PARAMS, n=2, min_tokens=30, max_tokens=30)
    prompts = [[(7 * number + place) % 50 for place in range(130)] for number in range(24)]
    requests = [engine.submit(prompt, params) for prompt in prompts]
    found = [[generation.ids for generation in request.result()] for request in requests]
    engine.close()
    expected = [[g.ids for g in native.submit(prompt, params).result()] for prompt in prompts]
    assert found == expected


def test_a_failed_step_is_an_engine_error_and_the_next_request_works(file: Path) -> None:
    engine = GgufEngine.load(file, max_length=64, concurrency=1, threads=1)
    before = engine.submit(PROMPTS[0], PARAMS).result()
    engine.max_length = 900  # more than it made room for
    with pytest.raises(EngineError, match=r"llama\.cpp could not run 1 ids: code 1") as caught:
        engine.submit(PROMPTS[0], replace(PARAMS, max_tokens=890, min_tokens=890)).result()
    assert caught.value.retryable
    assert engine.submit(PROMPTS[0], PARAMS).result()[0].ids == before[0].ids
    engine.close()


def test_default_length_is_the_models_up_to_what_was_trained(file: Path) -> None:
    engine = GgufEngine.load(file, concurrency=1, threads=1)
    assert (engine.max_length, engine.concurrency, engine.name) == (2048, 1, "tiny")
    engine.close()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"max_length": 0}, "max_length is 0. Set it to 1 to 131072"),
        ({"max_length": 131_073}, "max_length is 131073"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": 1000}, "concurrency is 1000"),
        ({"threads": 0}, "threads is 0"),
        ({"kv": "q4_0"}, "kv is 'q4_0'"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(file: Path, wrong: dict[str, int], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        GgufEngine.load(file, **wrong)  # pyright: ignore[reportArgumentType]


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    whole, damaged = file.read_bytes(), tmp_path / "damaged.gguf"
    for content, found in (
        (whole[: len(whole) // 2], "llama.cpp refuses it .*tensor"),
        (whole[:200], "llama.cpp refuses it"),
        (b"", "it is no GGUF file"),
        (b"PK\x03\x04" + whole, "it is no GGUF file"),
    ):
        damaged.write_bytes(content)
        with pytest.raises(BundleError, match=found):
            GgufEngine.load(damaged)
    with pytest.raises(BundleError, match="No such file"):
        GgufEngine.load(tmp_path / "nowhere.gguf")
    with pytest.raises(BundleError, match="Is a directory"):
        GgufEngine.load(tmp_path)


def test_a_file_of_another_model_is_told_by_names(folder: Path, file: Path) -> None:
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = {token_id: own.id_to_token(token_id) for token_id in (0, 255, 300, 583)}
    GgufEngine.load(file, concurrency=1, threads=1, names=names).close()
    for token_id, found in ((300, f"expected 'other' as id 300, found '{re.escape(names[300])}'"),
                            (584, "expected 'other' as id 584, found a vocabulary of 584 ids")):  # fmt: skip
        with pytest.raises(BundleError, match=f"tiny.gguf: {found}"):
            GgufEngine.load(file, concurrency=1, threads=1, names=names | {token_id: "other"})


def test_no_room_names_the_file(file: Path) -> None:
    with pytest.raises(EngineError, match=r"Loading .*tiny\.gguf: llama\.cpp made no room"):
        GgufEngine.load(file, max_length=131_072, concurrency=200, threads=1)


def test_missing_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtra, match=r"tiny.gguf needs .* 'llama_cpp'.* 'llasa\[gguf\]'"):
        GgufEngine.load(file)


IN_FLIGHT = "next(iter(engine.submit([1], P(max_tokens=900))))"


@pytest.mark.parametrize(
    ("kind", "end"),
    [("gguf", "engine.close()"), ("gguf", "pass"), ("gguf", IN_FLIGHT), ("native", IN_FLIGHT)],
)
def test_a_program_ends_without_a_word(kind: str, end: str, file: Path) -> None:
    program = f"""
from llasa.core import SamplingParams as P
from llasa.engines.{kind} import {kind.title()}Engine
engine = {kind.title()}Engine.load({str(file if kind == "gguf" else file.parent)!r})
print(len(engine.submit([1, 2], P(max_tokens=3, min_tokens=3)).result()[0].ids))
{end}
"""
    quiet = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=quiet)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def stalling(handler: Handler, fields: Fields | None) -> None:
    if fields is None or fields["stop_token_ids"]:
        vllm(handler, fields)
    else:
        handler.begin()
        handler.event({"choices": [{"index": 0, "token_ids": [20]}]})
        time.sleep(20)


def test_a_program_ends_at_once_with_a_request_at_a_server() -> None:
    with serving(stalling) as served:
        program = f"""
from llasa.core import SamplingParams as P
from llasa.engines.remote import RemoteEngine
engine = RemoteEngine({served.url!r}, "tiny", vocab_size={VOCAB})
{IN_FLIGHT}
import time
print(time.time())
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "") and time.time() - float(done.stdout) < 5
