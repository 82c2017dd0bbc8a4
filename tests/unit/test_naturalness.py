"""Predicted opinion scores: a tiny random regressor, and DNSMOS where it is installed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Utterance
from llasa.errors import BundleError, ConfigError, MissingExtra, ScorerError
from llasa.scorers.naturalness import Naturalness
from llasa.voice import load as load_voice
from tests.conftest import STARTER, clip


def candidate(audio: Audio) -> Candidate:
    return Candidate(Utterance("0", "hello"), [1], "stop", None, audio)


def regressor(folder: Path, bias: float, outputs: int = 1) -> str:
    """Write a tiny random model whose scores lie near `bias`."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8, 8),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, num_labels=outputs,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wav2Vec2ForSequenceClassification(config)
    model.classifier.bias.data.fill_(bias)
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


def test_the_score_of_a_checkpoint_becomes_a_value(tmp_path: Path) -> None:
    found = Naturalness(regressor(tmp_path, 3.0)).score([candidate(clip(1.0)), candidate(clip(0.6, seed=1))])
    for score in found:
        assert 1 < score.measures["mos"] < 5
        assert score.value == pytest.approx((score.measures["mos"] - 1) / 4)


@pytest.mark.parametrize(("bias", "value"), [(-20.0, 0.0), (30.0, 1.0)])
def test_values_stay_in_range(tmp_path: Path, bias: float, value: float) -> None:
    assert Naturalness(regressor(tmp_path, bias)).score([candidate(clip(1.0))])[0].value == value


def test_what_is_not_finite_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="not finite"):
        Naturalness(regressor(tmp_path, float("nan"))).score([candidate(clip(1.0))])


@pytest.mark.parametrize("damage", ['"hidden_size": "x"', '"hidden_size": -1', '"hidden_size": null'])
def test_a_damaged_configuration_is_refused(tmp_path: Path, damage: str) -> None:
    config = Path(regressor(tmp_path, 3.0)) / "config.json"
    config.write_text(config.read_text("utf-8").replace('"hidden_size": 16', damage), "utf-8")
    with pytest.raises(BundleError, match="Loading the model"):
        Naturalness(str(tmp_path))


def test_more_than_one_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 outputs"):
        Naturalness(regressor(tmp_path, 3.0, outputs=3))


def test_dnsmos_prefers_speech_to_noisy_speech() -> None:
    pytest.importorskip("speechmos")
    voice = load_voice(STARTER / "voices" / "rufus.safetensors")
    assert voice.reference is not None
    noise = np.random.default_rng(0).normal(scale=0.1, size=len(voice.reference.samples))
    noisy = Audio((voice.reference.samples + noise).astype(np.float32), voice.reference.sample_rate)
    clean, spoilt = Naturalness().score([candidate(voice.reference), candidate(noisy)])
    assert set(clean.measures) == {"mos", "mos_signal", "mos_background", "mos_p808"}
    assert clean.value > spoilt.value + 0.1


def test_speechmos_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "speechmos", None)
    with pytest.raises(MissingExtra, match=r"speechmos.*llasa\[eval\]"):
        Naturalness()
