"""Speaker similarity: a tiny random checkpoint, the shipped voices, and what cannot be compared."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Codes, Utterance, Voice
from llasa.errors import BundleError, InputError, MissingExtra
from llasa.scorers.similarity import Similarity
from llasa.voice import load as load_voice
from tests.conftest import STARTER, clip


class NoCodec:
    """Decodes everything to a known clip, and counts."""

    name, sample_rate, codebook_size, hop_length = "none@0", 16000, 8, 640

    def __init__(self) -> None:
        self.decoded = 0

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[0] for _ in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        self.decoded += len(codes)
        return [clip(1.0, seed=7) for _ in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // self.hop_length


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8, 8),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=8, num_buckets=16,
        num_conv_pos_embedding_groups=2, tdnn_dim=(8, 8), tdnn_kernel=(5, 1), tdnn_dilation=(1, 1),
        xvector_output_dim=8,
    )  # fmt: skip
    target = tmp_path_factory.mktemp("xvector")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WavLMForXVector(config).save_pretrained(target)
    Wav2Vec2FeatureExtractor().save_pretrained(target)
    return target


def candidate(audio: Audio, voice: Voice | None) -> Candidate:
    return Candidate(Utterance("0", "hello", voice), [1], "stop", None, audio)


VOICE = Voice("ada", "hello", [1, 2], "none@0", clip(2.0))


def test_the_reference_itself_is_alike(folder: Path) -> None:
    score = Similarity(NoCodec(), str(folder), device="cpu").score([candidate(clip(2.0), VOICE)])[0]
    assert score.measures["sim"] == pytest.approx(1, abs=1e-5)
    assert score.value == pytest.approx(1, abs=1e-5)


def test_low_is_worth_nothing_and_the_way_up_is_straight(folder: Path) -> None:
    other = [candidate(clip(1.3, seed=3), VOICE)]
    sim = Similarity(NoCodec(), str(folder), low=0.0).score(other)[0].measures["sim"]
    assert -1 <= sim < 0.9999
    values = [Similarity(NoCodec(), str(folder), low=low).score(other)[0].value for low in (sim - 0.5, sim)]
    assert values == pytest.approx([0.5 / (1.5 - sim), 0], abs=1e-6)


def test_together_as_alone_whatever_the_lengths(folder: Path) -> None:
    scorer = Similarity(NoCodec(), str(folder), device="cpu")
    many = [candidate(clip(s, seed=i), VOICE) for i, s in enumerate((2.0, 0.7, 2.0, 0.1))]
    together = [score.measures["sim"] for score in scorer.score(many)]
    alone = [scorer.score([one])[0].measures["sim"] for one in many]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scorer.score([]) == []


def test_another_rate_is_resampled(folder: Path) -> None:
    scorer = Similarity(NoCodec(), str(folder), device="cpu")
    at_24k = candidate(clip(2.0, sample_rate=24000), replace(VOICE, reference=clip(2.0, sample_rate=24000)))
    assert scorer.score([at_24k])[0].measures["sim"] == pytest.approx(1, abs=1e-5)


def test_without_a_recording_the_codes_are_decoded_once(folder: Path) -> None:
    codec = NoCodec()
    scorer, bare = Similarity(codec, str(folder), device="cpu"), replace(VOICE, reference=None)
    scores = [scorer.score([candidate(clip(1.0, seed=7), bare)])[0] for _ in range(2)]
    assert codec.decoded == 1
    assert scores[0].measures["sim"] == pytest.approx(1, abs=1e-5)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    scorer = Similarity(NoCodec(), str(folder), device="cpu")
    with pytest.raises(InputError, match="it has none"):
        scorer.score([candidate(clip(), None)])
    with pytest.raises(InputError, match="no audio"):
        scorer.score([replace(candidate(clip(), VOICE), audio=None)])
    with pytest.raises(BundleError, match=r"no config.json"):
        Similarity(NoCodec(), str(tmp_path / "nothing"))


def test_a_checkpoint_with_weights_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BundleError, match=r"Loading the model"):
        Similarity(NoCodec(), str(tmp_path))
    weights = load_file(folder / "model.safetensors")
    del weights["projector.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BundleError, match=r"lack projector.weight"):
        Similarity(NoCodec(), str(tmp_path))


def test_weights_of_half_precision_and_without_those_of_training_are_taken(
    folder: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float16"}), "utf-8")
    weights = load_file(folder / "model.safetensors")
    unused = [name for name in weights if name.startswith("objective.") or "masked_spec_embed" in name]
    half = {name: weights[name].astype(np.float16) for name in weights if name not in unused}
    save_file(half, tmp_path / "model.safetensors", {"format": "pt"})
    one = [candidate(clip(1.0, seed=5), VOICE)]
    found, wanted = (
        Similarity(NoCodec(), str(path), device="cpu").score(one)[0] for path in (tmp_path, folder)
    )
    assert len(unused) == 2
    assert found.measures["sim"] == pytest.approx(wanted.measures["sim"], abs=1e-2)


def test_a_pickle_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        name = "pytorch_model.bin" if path.suffix == ".safetensors" else path.name
        (tmp_path / name).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match=r"only pytorch_model\.bin, a pickle.*save_pretrained"):
        Similarity(NoCodec(), str(tmp_path))


def test_resemblyzer_tells_the_shipped_voices_apart() -> None:
    pytest.importorskip("resemblyzer")
    voices = [load_voice(path) for path in sorted((STARTER / "voices").glob("*.safetensors"))]
    scorer = Similarity(NoCodec())
    halves = [
        voice.reference.samples[: len(voice.reference.samples) // 2] for voice in voices if voice.reference
    ]
    for i, half in enumerate(halves):
        scores = scorer.score([candidate(Audio(half, 16000), voice) for voice in voices])
        values = [score.value for score in scores]
        assert int(np.argmax(values)) == i
        assert values[i] > max(values[:i] + values[i + 1 :]) + 0.15
    silence = Audio(np.zeros(16000, np.float32), 16000)
    quiet, loud = scorer.score([candidate(silence, voices[0]), candidate(Audio(halves[0], 16000), voices[0])])
    assert quiet.value == 0 < loud.value


def test_resemblyzer_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(MissingExtra, match=r"resemblyzer.*llasa\[eval\]"):
        Similarity(NoCodec())
