"""Shared fixtures: bundles, a spoken-like clip, and a home folder that is not the user's."""

import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llasa.cli import main
from llasa.core import Audio

STARTER = Path(__file__).parent.parent / "src" / "llasa" / "assets" / "starter"


def clip(seconds: float = 2.0, sample_rate: int = 16000, seed: int = 0) -> Audio:
    """Return a sound with the loudness and the syllables of speech, but no words."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    voiced = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 20))
    noise = np.random.default_rng(seed).normal(size=len(time))
    envelope = 0.15 + np.abs(np.sin(2 * np.pi * 2 * time))
    return Audio((0.08 * envelope * (voiced + 0.3 * noise)).astype(np.float32), sample_rate)


def build_tiny_bundle(folder: Path, seed: int = 0) -> Path:
    """Write a complete bundle of random weights, about 0.5 MB, and return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llasa import bundle, voice
    from llasa.codec.compact import CompactCodec
    from llasa.prompt import Prompt
    from llasa.train.tokenizer import build_phone_tokenizer

    CompactCodec.random(seed).save(folder / "codec")
    codec = CompactCodec.load(folder / "codec")
    build_phone_tokenizer(folder / "lm", codec.codebook_size)
    prompt = Prompt.load(folder / "lm", "llasa-plain", codec.codebook_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=prompt.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024,
                bos_token_id=None, eos_token_id=prompt.end_id,
            )
        ).save_pretrained(folder / "lm")  # fmt: skip
    shutil.copytree(STARTER / "phones", folder / "phones")
    (folder / "voices").mkdir()
    ada = voice.create("ada", clip(), "the cat sat on the mat", codec, "a formula", "not a person")
    voice.save(ada, folder / "voices" / "ada.safetensors")
    lm = {"family": "llasa-plain", "text": "phones", "separator": " | ", "max_length": 1024}
    settings = {"name": "tiny", "default_voice": "ada", "lm": lm, "codec": {"kind": "compact"}}
    bundle.seal(folder, settings)
    return folder


def with_streaming(source: Path, folder: Path) -> Path:
    """Copy a bundle of the compact codec and seal a streaming decoder, not yet trained, beside its own."""
    from llasa import bundle
    from llasa.codec.base import STREAMING
    from llasa.codec.compact import CompactCodec, write

    shutil.copytree(source, folder)
    model = CompactCodec.load(folder / "codec").model.causal((1, 2))
    write(model, folder / "codec" / STREAMING, ("decoder", "vocoder"))
    settings = tomllib.loads((folder / "bundle.toml").read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in ("format", "files")}
    bundle.seal(folder, kept | {"codec": {"kind": "compact"}})
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's own voices out of the tests, and the tests' out of theirs."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLASA_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle of random weights; shared, so read only."""
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def bundle_folder(request: pytest.FixtureRequest) -> Path:
    """The starter where it is built, else the tiny bundle; shared, so read only."""
    built = (STARTER / "bundle.toml").is_file()
    return STARTER if built else request.getfixturevalue("tiny_bundle")


@pytest.fixture
def broken_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "broken"))


@dataclass(frozen=True)
class Ran:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def reached(record_property: Callable[[str, object], None]) -> Callable[[int, int], None]:
    """Tell how many of so many faults were met as they should be; `benchmarks/faults.py` shows it."""
    return lambda good, of: record_property("reached", (good, of))


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run `llasa` with some arguments in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ran(exit.value.code if isinstance(exit.value.code, int) else 1, said.out, said.err)

    return command
