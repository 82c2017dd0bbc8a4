"""Whose fault a wrong word is, by recognisers that hear what the test says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from llasa.bundle import Bundle, load_bundle
from llasa.core import Audio, Codes
from llasa.diagnose import Diagnosis, Hearing, diagnose
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.recognizers.base import Recognizer, TextForm, Transcript

TEXT = "The cat sat on the mat."
SAID = "the cat sat on the mat"
WRONG = "the cat sat on the dog"
GIVEN, AGAIN, CLEAN, CLEAN_AGAIN = (Audio(np.full(1600, level, np.float32), 16000) for level in (1, 2, 3, 4))


@dataclass
class Script:
    """A recogniser that knows the sounds of the test by their first sample: 1 to 4."""

    heard: Sequence[str]
    name: str = "script"
    text_form: TextForm = "characters"

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        texts = [self.heard[round(float(clip.samples[0])) - 1] for clip in audio]
        return [_timed(text) for text in texts]


@dataclass
class Knowing(Script):
    """One that can also tell how likely a text is: `found` nats a token with "mat", else -1."""

    found: float = -1.0

    def log_likelihood(self, audio: Sequence[Audio], texts: Sequence[str]) -> list[float]:
        return [self.found if "mat" in text else -1.0 for text in texts]


@dataclass
class Failing(Script):
    """One that is out of order."""

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        raise ScorerError("Recognising: no answer.")


@dataclass
class Shift:
    """A codec whose round trip of the given sound is 2 and of the clean one 4."""

    name: str = "shift@0"
    sample_rate: int = 16000
    codebook_size: int = 8
    hop_length: int = 1600

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[round(float(clip.samples[0])) + 1] for clip in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio(np.full(1600, row[0], np.float32), 16000) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // 1600


def _timed(text: str) -> Transcript:
    spans = tuple((0.05 * i, 0.05 * i + 0.02) for i in range(len(text)))
    return Transcript(text, tuple(text), spans, (-0.1,) * len(text))


class Listening(Bundle):
    """The tiny bundle with scripted recognisers and codec."""

    listeners: dict[str, Recognizer]

    def recognizer(self, name: str) -> Recognizer:
        return self.listeners[name]

    @cached_property
    def codec(self) -> Shift:
        return Shift()


def listening(folder: Path, first: Recognizer, second: Recognizer) -> Listening:
    plain = load_bundle(folder)
    named = {"bundle": "ctc:a", "held-out": "ctc:b"}
    bundle = Listening(plain.folder, plain.manifest.model_copy(update={"recognizers": named}))
    object.__setattr__(bundle, "listeners", {"bundle": first, "held-out": second})
    return bundle


def found(
    folder: Path, first: Recognizer, second: Recognizer, clean: bool = False, text: str = TEXT
) -> Diagnosis:
    return diagnose(GIVEN, text, listening(folder, first, second), CLEAN if clean else None)


RIGHT = Script([SAID] * 4)
DEAF = Script([WRONG] * 4)


def test_a_good_recording_has_no_fault(tiny_bundle: Path):
    result = found(tiny_bundle, RIGHT, RIGHT)
    assert result.wrong == () and [one.word.text for one in result.findings][-1] == "mat"
    assert result.errors == {name: 0.0 for name in result.errors} and len(result.errors) == 4


@pytest.mark.parametrize(
    ("first", "second", "clean", "fault", "reason"),
    [
        (DEAF, RIGHT, False, "recogniser", "Another recogniser hears the word"),
        (DEAF, DEAF, False, "model", "Neither recogniser hears the word."),
        (DEAF, DEAF, True, "recogniser", "in the clean recording either"),
        (Script([WRONG, SAID, SAID, SAID]),) * 2 + (True, "model", "also after the codec, but not here"),
        (Script([WRONG, SAID, SAID, WRONG]),) * 2 + (True, "codec", "not after the codec's round trip"),
        (
            Script([WRONG, SAID, SAID, WRONG]),
            Script([WRONG, SAID, SAID, SAID]),
            True,
            "unclear",
            "one recogniser hears",
        ),
        # Who cannot hear the clean word is no witness: the other one's verdict counts.
        (DEAF, Script([WRONG, SAID, SAID, WRONG]), True, "codec", "not after the codec's round trip"),
        (DEAF, Script([SAID, SAID, SAID, SAID]), True, "recogniser", "Another recogniser hears the word"),
        (Knowing([WRONG] * 4, found=-3.0), DEAF, False, "model", "nor does it fit"),
        (Knowing([WRONG] * 4, found=-0.1), DEAF, False, "unclear", "yet it fits"),
        (Knowing([WRONG] * 4, found=-3.0), RIGHT, False, "unclear", "does not fit the sound"),
        (Knowing([WRONG] * 4, found=-0.1), RIGHT, False, "recogniser", "hears the word as it should"),
    ],
)
def test_whose_fault(tiny_bundle: Path, first: Script, second: Script, clean: bool, fault: str, reason: str):
    [wrong] = found(tiny_bundle, first, second, clean).wrong
    assert (wrong.word.text, wrong.word.heard, wrong.fault) == ("mat", "dog", fault)
    assert reason in wrong.evidence[0]


def test_evidence_has_the_numbers(tiny_bundle: Path):
    [wrong] = found(tiny_bundle, Knowing([WRONG, SAID, "", ""], found=-3.0), DEAF).wrong
    first, again = wrong.hearings["first"], wrong.hearings["first, round trip"]
    assert first.error == 1 and again.error == 0
    assert first.confidence == pytest.approx(np.exp(-0.1)) and again.status == "said"
    # -3 nats a token of 22 with the word, -1 of 18 without it, over its 4 tokens with the space
    assert first.fit == pytest.approx((-3 * 22 + 1 * 18) / 4) and again.fit is None
    told = "first: changed, heard 'dog', error 1.00, confidence 0.90, fit -12.00."
    assert told in wrong.evidence
    assert wrong.evidence[-1] == "Hint: once more through the codec it is heard differently."
    assert wrong.word.start_s is not None and wrong.word.start_s > 0.8


def test_a_missed_and_an_added_word(tiny_bundle: Path):
    heard = Script(["the sat on the mat over there"] * 2)
    result = found(tiny_bundle, heard, heard)
    told = [(one.word.text, one.word.status, one.fault) for one in result.wrong]
    assert told == [("cat", "missed", "model"), ("", "added", "model")]
    assert result.wrong[0].hearings["first"].confidence is None
    # The second one hears what was added as a part of the word before it.
    joined = found(
        tiny_bundle, Script(["the cat zebra sat on the mat"] * 2), Script(["the ca zebra sat on the mat"] * 2)
    )
    assert [(one.word.status, one.fault) for one in joined.wrong] == [("added", "model")]
    assert "second: no added word, but a word beside it was heard otherwise." in joined.wrong[0].evidence
    alone = found(tiny_bundle, heard, RIGHT)
    assert [one.fault for one in alone.wrong] == ["recogniser"] * 2
    assert "second: no added word." in alone.wrong[1].evidence


def test_one_recogniser_alone_is_unsure(tiny_bundle: Path):
    bundle = listening(tiny_bundle, DEAF, RIGHT)
    result = diagnose(GIVEN, TEXT, bundle, second=None)
    assert [one.fault for one in result.wrong] == ["unclear"] and result.recognizers == {"first": "script"}


def test_the_only_word_of_a_text(tiny_bundle: Path):
    [wrong] = found(tiny_bundle, Knowing(["dog"] * 2), Script(["dog"] * 2), text="Mat!").wrong
    assert wrong.fault == "model" and wrong.hearings["first"].fit is None


def test_numbers_for_programs_are_finite(tiny_bundle: Path):
    result = found(tiny_bundle, Knowing([WRONG] * 2, found=-3.0), DEAF)
    [place] = [i for i, one in enumerate(result.findings) if one.fault]
    hearings = {"first": Hearing("dog", "changed", 1.0, float("nan"), -float("inf"))}
    findings = [replace(one, hearings=hearings) for one in result.findings]
    told = json.dumps(replace(result, findings=tuple(findings)).to_json(), allow_nan=False)
    heard = json.loads(told)["findings"][place]["hearings"]["first"]
    assert heard == {"heard": "dog", "status": "changed", "error": 1.0, "confidence": None, "fit": None}
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["findings"][place]["fault"] == "model"


def test_what_cannot_be_diagnosed_is_refused(tiny_bundle: Path):
    bundle = listening(tiny_bundle, RIGHT, RIGHT)
    for text in ("", " ... "):
        with pytest.raises(InputError, match="nothing that can be said"):
            diagnose(GIVEN, text, bundle)
    for samples in (np.zeros(1600, np.float32), np.zeros(0, np.float32)):
        silent = Audio(samples, 16000)
        for sounds in ((silent, None), (GIVEN, silent)):
            with pytest.raises(InputError, match="which is silence"):
                diagnose(sounds[0], TEXT, bundle, sounds[1])
    with pytest.raises(ConfigError, match="has no recogniser 'bundle'"):
        diagnose(GIVEN, TEXT, load_bundle(tiny_bundle))
    less = replace(bundle, manifest=bundle.manifest.model_copy(update={"recognizers": {"bundle": "ctc:a"}}))
    object.__setattr__(less, "listeners", bundle.listeners)
    with pytest.raises(ConfigError, match="has no recogniser 'held-out'"):
        diagnose(GIVEN, TEXT, less)
    with pytest.raises(ScorerError):
        found(tiny_bundle, Failing([]), RIGHT)
