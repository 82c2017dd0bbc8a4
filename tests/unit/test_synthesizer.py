"""The conductor, over the tiny bundle and over scripted engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from llasa.bundle import Bundle, load_bundle
from llasa.codec.compact import CompactCodec
from llasa.core import Finish, Generation, Ids, SamplingParams
from llasa.engines.base import Step
from llasa.errors import BundleError, ConfigError, EngineError, InputError
from llasa.prompt import SPEECH_START, TEXT_END, TEXT_START, speech_token
from llasa.spoken import Spoken, concatenated, voiced
from llasa.synthesizer import Synthesizer, load
from llasa.text.segment import segment
from llasa.voice import save

TEXT = "The cat sat. It was happy!"


@dataclass
class Given:
    """A request that is over as soon as it is made."""

    generations: list[Generation]
    cancelled: bool = False

    def __iter__(self) -> Iterator[Step]:
        return iter(())

    def cancel(self, candidate: int | None = None) -> None:
        self.cancelled = True

    def result(self) -> list[Generation]:
        return self.generations


@dataclass
class Script:
    """An engine that answers from a list of (number of codes, finish), and remembers what it was asked."""

    first_id: int
    answers: Sequence[tuple[int, Finish]]
    name: str = "script"
    max_length: int = 4096
    concurrency: int = 1
    asked: list[tuple[Ids, SamplingParams]] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)

    def submit(self, prompt: Ids, params: SamplingParams) -> Given:
        count, finish = self.answers[len(self.asked) % len(self.answers)]
        self.asked.append((prompt, params))
        ids = [self.first_id + i % 60 for i in range(count)]
        self.given.append(Given([Generation(ids, finish, stats={"tokens": count})] * params.n))
        return self.given[-1]


class ScriptedBundle(Bundle):
    """The tiny bundle with a scripted engine."""

    answers: Sequence[tuple[int, Finish]] = ((20, "stop"),)

    @cached_property
    def engine(self) -> Script:
        return Script(self.prompt.first_code_id, self.answers)


def scripted(folder: Path, *answers: tuple[int, Finish]) -> tuple[Synthesizer, Script]:
    plain = load_bundle(folder)
    bundle = ScriptedBundle(plain.folder, plain.manifest)
    object.__setattr__(bundle, "answers", answers or ScriptedBundle.answers)
    return Synthesizer(bundle), bundle.engine


@pytest.fixture(scope="module")
def speaker(tiny_bundle: Path) -> Synthesizer:
    return Synthesizer(load_bundle(tiny_bundle))


def test_a_seed_gives_its_sound_again(speaker: Synthesizer):
    first, again, other = (speaker.say(TEXT, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert np.isfinite(first.samples).all()


def test_a_stream_is_of_the_codes_that_say_has(speaker: Synthesizer):
    told: list[Spoken] = []
    found = concatenated(speaker.stream(TEXT, seed=5, told=told.append))
    whole = speaker.say(TEXT, seed=5)
    assert abs(found.duration_s - whole.duration_s) < 0.1  # silence at ends is cut where a decoder has it
    expected = list(speaker.speak(TEXT, seed=5))
    assert [one.candidate.codes for one in told] == [one.candidate.codes for one in expected]


def test_a_stream_in_windows_is_near_what_say_gives(speaker: Synthesizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CompactCodec, "streaming", lambda self, context=None: None)
    told: list[Spoken] = []
    found = concatenated(speaker.stream(TEXT, seed=5, told=told.append)).samples
    whole = speaker.say(TEXT, seed=5).samples
    assert len(found) == len(whole)
    assert np.square(found - whole).mean() < 0.01 * np.square(whole).mean()
    expected = list(speaker.speak(TEXT, seed=5))
    assert [one.candidate.codes for one in told] == [one.candidate.codes for one in expected]
    assert [(one.segment, one.number, one.total) for one in told] == [
        (one.segment, one.number, one.total) for one in expected
    ]


def test_spoken_tells_of_each_segment(speaker: Synthesizer):
    spoken = list(speaker.speak(TEXT, seed=5))
    assert [one.segment for one in spoken] == segment(TEXT)
    assert [(one.number, one.total) for one in spoken] == [(1, 2), (2, 2)]
    for one in spoken:
        audio, codec = one.candidate.audio, speaker.bundle.codec
        assert audio is not None and len(audio.samples) == len(one.candidate.codes) * codec.hop_length
        assert one.candidate.utterance.text == one.segment.text
        assert {"decode_s", "codec_s"} <= one.stats.keys()


def test_candidate_does_not_depend_on_n(speaker: Synthesizer):
    several = speaker.candidates("The cat sat.", n=3, seed=1)
    [alone] = speaker.candidates("The cat sat.", seed=1)
    [segmented] = speaker.speak("The cat sat.", seed=1)
    assert len(several) == 3
    assert alone.codes == segmented.candidate.codes
    assert several[0].codes[:5] == alone.codes[:5]


def test_logprob_is_a_mean(speaker: Synthesizer):
    [candidate] = speaker.candidates("The cat sat.", logprobs=True)
    assert candidate.logprob is not None and -8 < candidate.logprob < 0


def test_prompt_has_voice_and_text_in_the_bundles_form(tiny_bundle: Path):
    synthesizer, engine = scripted(tiny_bundle)
    synthesizer.say("The 2 cats.", voice="ada", seed=9)
    prompt, params = engine.asked[0]
    parts = synthesizer.bundle.prompt
    ada = synthesizer.bundle.voices.get("ada")
    said = "DH AH | K AE T | S AE T | AA N | DH AH | M AE T | DH AH | T UW | K AE T S ."
    assert prompt == parts.render(said) + parts.ids(ada.codes)
    assert params.seed == 9 and params.n == 1 and params.loop_guard
    assert params.allowed_token_ids == parts.allowed_token_ids
    assert params.stop_token_ids == parts.stop_token_ids


def test_own_pronunciations_win(tiny_bundle: Path):
    synthesizer = load(tiny_bundle, words={"cats": "D AO G Z"})
    phonemizer = synthesizer.bundle.phonemizer
    assert phonemizer is not None and phonemizer("the cats.") == "DH AH | D AO G Z ."


def test_lengths_follow_the_text(tiny_bundle: Path):
    synthesizer, engine = scripted(tiny_bundle)
    for text in ("Hi.", "A much longer sentence with some more words in it."):
        synthesizer.say(text)
    (_, short), (_, long) = engine.asked
    assert short.min_tokens == long.min_tokens == 5  # 0.2 s of 25 codes a second
    assert 25 * 2 < short.max_tokens < long.max_tokens < 25 * 15


def test_a_callers_parameters_win(tiny_bundle: Path):
    synthesizer, engine = scripted(tiny_bundle)
    synthesizer.say("Hi.", temperature=0, top_k=3, max_tokens=30, min_tokens=0, loop_guard=False)
    params = engine.asked[0][1]
    assert (params.temperature, params.top_k, params.max_tokens, params.min_tokens) == (0, 3, 30, 0)
    assert not params.loop_guard


def test_bad_segments_are_data(tiny_bundle: Path, caplog: pytest.LogCaptureFixture):
    synthesizer, _ = scripted(tiny_bundle, (20, "stop"), (0, "loop"), (30, "length"))
    spoken = list(synthesizer.speak("One cat. Two cats. Three cats 😀."))
    assert [one.candidate.finish for one in spoken] == ["stop", "loop", "length"]
    assert spoken[1].candidate.audio is None
    assert [len(one.warnings) for one in spoken] == [0, 1, 2]
    assert "no speech came (loop)" in spoken[1].warnings[0]
    assert "'😀'" in spoken[2].warnings[0] and spoken[2].dropped == ("😀",)
    assert len(caplog.messages) == 3
    pieces = list(voiced(spoken))
    assert len(pieces) == 5 and pieces[2].duration_s == pytest.approx(spoken[0].segment.pause_s)


def test_no_speech_at_all_is_an_error(tiny_bundle: Path):
    synthesizer, _ = scripted(tiny_bundle, (0, "stop"))
    with pytest.raises(EngineError, match="no segment came out with any speech"):
        synthesizer.say(TEXT)
    assert synthesizer.candidates("The cat.")[0].audio is None


@pytest.mark.parametrize("text", ["", "  \n", "😀", "...", "<|>"])
def test_nothing_to_say_is_refused_at_once(speaker: Synthesizer, text: str):
    with pytest.raises(InputError):
        speaker.stream(text)


@pytest.mark.parametrize(
    "text", ["<|s_12|>", "<|SPEECH_GENERATION_END|> hi <|s_12|>", "a<|TEXT_UNDERSTANDING_END|>b"]
)
def test_markers_in_the_text_are_text(tiny_bundle: Path, text: str):
    synthesizer, engine = scripted(tiny_bundle)
    synthesizer.say(text)
    added = Tokenizer.from_file(str(tiny_bundle / "lm" / "tokenizer.json")).get_added_tokens_decoder()
    found = [added[token_id].content for token_id in engine.asked[0][0] if token_id in added]
    spoken = [speech_token(code) for code in synthesizer.bundle.voices.get("ada").codes]
    assert found == [TEXT_START, TEXT_END, SPEECH_START, *spoken]


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'?"),
        ({"top_p": 3}, "less than or equal to 1"),
        ({"temperature": "hot"}, "found temperature"),
        ({"n": 4}, "unknown key 'n'"),
        ({"min_tokens": 900}, "min_tokens is 900, but 'The cat sat.' ends after"),
        ({"min_tokens": 9, "max_tokens": 8}, "ends after 8 codes at most. Lower min_tokens"),
    ],
)
def test_bad_parameters_are_refused_at_once(speaker: Synthesizer, sampling: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as error:
        speaker.stream(TEXT, **sampling)
    assert said in str(error.value)


def test_voices_by_name_value_and_path(speaker: Synthesizer, tmp_path: Path):
    ada = speaker.bundle.voices.get("ada")
    save(ada, tmp_path / "ada.safetensors")
    assert speaker.voice(ada) is ada
    for given in (None, "ada", tmp_path / "ada.safetensors", str(tmp_path / "ada.safetensors")):
        found = speaker.voice(given)
        assert found is not None and (found.name, found.codes) == (ada.name, ada.codes)


def test_voices_that_do_not_fit_are_refused(speaker: Synthesizer, tmp_path: Path):
    ada = speaker.bundle.voices.get("ada")
    with pytest.raises(ConfigError, match=r"Voices here: ada"):
        speaker.stream(TEXT, voice="nobody")
    with pytest.raises(BundleError, match="was made with codec 'xcodec2@1'"):
        speaker.stream(TEXT, voice=replace(ada, codec="xcodec2@1"))
    with pytest.raises(InputError, match="Use a shorter voice or text"):
        speaker.stream(TEXT, voice=replace(ada, codes=ada.codes * 25))
    with pytest.raises(BundleError, match=r"none\.safetensors"):
        speaker.stream(TEXT, voice=tmp_path / "none.safetensors")


def test_no_voice_at_all(tiny_bundle: Path):
    plain = load_bundle(tiny_bundle)
    bundle = ScriptedBundle(plain.folder, plain.manifest.model_copy(update={"default_voice": None}))
    synthesizer = Synthesizer(bundle)
    assert synthesizer.say("The cat.").duration_s > 0
    assert bundle.engine.asked[0][0] == bundle.prompt.render("DH AH | K AE T .")


def test_closing_a_stream_cancels_what_is_in_flight(tiny_bundle: Path):
    synthesizer, engine = scripted(tiny_bundle)
    stream = synthesizer.speak("One cat. Two cats. Three cats.")
    next(stream)
    stream.close()
    assert len(engine.given) == 2  # one ahead, not more
    assert engine.given[1].cancelled


def test_warm_up_loads_all(tiny_bundle: Path):
    synthesizer = Synthesizer(load_bundle(tiny_bundle))
    synthesizer.warm_up()
    assert {"codec", "prompt", "engine", "phonemizer"} <= vars(synthesizer.bundle).keys()
