"""Engines by name: what is passed on, and what is refused because the engine would ignore it."""

from pathlib import Path

import pytest

import llasa
from llasa.engines import Model, load_engine
from llasa.engines.alone import Alone
from llasa.engines.native import NativeEngine
from llasa.errors import BundleError, ConfigError, EngineError
from tests.conftest import STARTER

MODEL = Model(STARTER / "lm", 5000, 640)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nativ", "unknown engine 'nativ'. Did you mean 'native'"),
        ("native:x", "found 'x'. Write it as native"),
        ("gguf", "found ''. Write it as gguf:FILE"),
        ("remote", "Write it as remote:URL#MODEL"),
        ("vllm:x", "unknown engine 'vllm:x'"),
    ],
)
def test_an_unknown_engine_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine(spec, MODEL)


@pytest.mark.parametrize("spec", ["gguf:model.gguf", "remote:http://127.0.0.1:9/v1#m"])
@pytest.mark.parametrize("setting", ["dtype", "device", "adapters"])
def test_what_an_engine_would_ignore_is_refused(spec: str, setting: str) -> None:
    value: object = {"a": Path("a")} if setting == "adapters" else "cpu"
    model = Model(**{**vars(MODEL), setting: value})
    with pytest.raises(ConfigError, match=f"found {setting}"):
        load_engine(spec, model)


def test_the_reference_takes_each_row_alone_in_float32() -> None:
    engine = load_engine("reference", MODEL)
    try:
        assert isinstance(engine, NativeEngine) and isinstance(engine._runner, Alone)
        assert engine.dtype == "float32"
    finally:
        engine.close()


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9"):
        load_engine("remote:http://127.0.0.1:9/v1#m", MODEL)


def test_the_starter_speaks_the_same_through_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from llasa.export.gguf import export_gguf

    file = export_gguf(STARTER / "lm", tmp_path / "starter.gguf", "f32")
    text = "Two engines."
    there = llasa.load(engine=f"gguf:{file}")
    here = llasa.load(dtype="float32")
    assert there.bundle.engine.max_length == 640
    spoken = [next(iter(one.speak(text, temperature=0.0))).candidate.codes for one in (there, here)]
    assert spoken[0] == spoken[1] and len(spoken[0]) > 10


def test_a_file_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from llasa.export.gguf import export_gguf

    file = export_gguf(STARTER / "lm", tmp_path / "starter.gguf", "f16")
    with pytest.raises(BundleError, match=r"expected a model of 99999 ids.*llasa export gguf"):
        load_engine(f"gguf:{file}", Model(STARTER / "lm", 99_999, 640))


def test_a_file_of_another_model_is_told_by_its_tokens(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from llasa.export.gguf import export_gguf
    from tests.published import build_llasa

    other = build_llasa(tmp_path / "other", vocab="small")
    file = export_gguf(other, tmp_path / "other.gguf", "f16")
    with pytest.raises(BundleError, match="SPEECH_GENERATION_END"):
        _ = llasa.load(engine=f"gguf:{file}").bundle.engine
