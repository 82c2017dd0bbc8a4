"""Emotion: a scripted classifier and a tiny random checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from llasa.core import Audio, Candidate, Utterance
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.scorers.emotion import Emotion
from tests.conftest import clip


class Scripted:
    """Hears happiness in length: certain at four seconds."""

    def __call__(self, audio: Sequence[Audio]) -> list[dict[str, float]]:
        return [{"happy": one.duration_s / 4, "sad": 1 - one.duration_s / 4} for one in audio]


def candidate(seconds: float, seed: int = 0) -> Candidate:
    return Candidate(Utterance("0", "hello"), [1], "stop", None, clip(seconds, seed=seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8, 8),
        conv_stride=(5, 8, 8), conv_kernel=(10, 8, 8), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8,
        id2label={0: "angry", 1: "happy", 2: "sad"}, label2id={"angry": 0, "happy": 1, "sad": 2},
    )  # fmt: skip
    target = tmp_path_factory.mktemp("emotion")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Wav2Vec2ForSequenceClassification(config).save_pretrained(target)
    Wav2Vec2FeatureExtractor().save_pretrained(target)
    return target


def test_a_scripted_classifier_is_believed_in_order() -> None:
    scores = Emotion("happy", Scripted()).score([candidate(1.0), candidate(3.0)])
    assert [score.value for score in scores] == [0.25, 0.75]
    assert scores[1].measures == {"emotion.happy": 0.75}
    assert Emotion("happy", Scripted()).score([]) == []


def test_probabilities_of_a_checkpoint_sum_to_one(folder: Path) -> None:
    one = [candidate(1.0)]
    found = {label: Emotion(label, str(folder)).score(one)[0].value for label in ("angry", "happy", "sad")}
    assert sum(found.values()) == pytest.approx(1)
    assert len(set(found.values())) == 3


def test_together_as_alone(folder: Path) -> None:
    scorer = Emotion("sad", str(folder))
    many = [candidate(s, i) for i, s in enumerate((1.0, 0.2, 1.7, 1.0))]
    assert [score.value for score in scorer.score(many)] == pytest.approx(
        [scorer.score([one])[0].value for one in many], abs=1e-6
    )


def test_an_unknown_label_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no label 'glad'. Use one of: angry, happy, sad"):
        Emotion("glad", str(folder))
    with pytest.raises(ConfigError, match=r"no label 'glad'. Use one of: happy, sad"):
        Emotion("glad", Scripted()).score([candidate(1.0)])


def test_nonsense_of_a_classifier_is_no_verdict() -> None:
    with pytest.raises(ScorerError, match=r"probability 1.5"):
        Emotion("happy", Scripted()).score([candidate(6.0)])


def test_no_sound_is_an_error() -> None:
    with pytest.raises(InputError, match="no audio"):
        Emotion("happy", Scripted()).score([Candidate(Utterance("0", "hello"), [1], "stop")])
