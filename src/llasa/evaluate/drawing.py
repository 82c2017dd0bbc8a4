"""Texts said in two ways: by two bundles or seeds, or the best and the worst of many by a judge.

Sides change places at random, so that neither place tells of anything. Must not know: files, pages.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llasa.core import Audio, Candidate, Judged, Voice
from llasa.errors import ConfigError
from llasa.judge import Judge
from llasa.pairs import Choice, Pair, Side, Vote, paired
from llasa.synthesizer import Synthesizer

_SEEDS = 2**31


@dataclass(frozen=True)
class Speaker:
    """What says one side. name: of the bundle, as its owner calls it. sampling: see `Synthesizer.say`."""

    name: str
    synthesizer: Synthesizer
    sampling: Mapping[str, object]

    def say(
        self, text: str, voice: str | None, language: str | None, seed: int, n: int = 1
    ) -> list[Candidate]:
        """Return `n` candidates, with sound where there are codes."""
        return self.synthesizer.candidates(text, voice, n, seed, language, **self.sampling)

    def side(self, made: Candidate, seed: int, number: int = 0) -> Side:
        """Return what of a candidate belongs to a pair."""
        codec = self.synthesizer.bundle.codec_name
        return Side(self.name, codec, seed, number, list(made.codes), made.finish)


@dataclass(frozen=True)
class Drawn:
    """What came of a text. pair: None if there is none, and `reason` says why. vote: the judge's."""

    text: str
    pair: Pair | None = None
    sounds: Mapping[str, Audio] | None = None
    vote: Vote | None = None
    reason: str = ""


def two_takes(
    speakers: Sequence[Speaker],
    texts: Sequence[tuple[str, str | None]],
    voice: str | None,
    seed: int,
    first: int = 0,
) -> Iterator[Drawn]:
    """Yield each text as two speakers say it, or as one does with two seeds.

    Args:
        speakers: one or two. texts: each with its language, None as for any text.
        voice: a name, for both; the default voice of each if None.
        first: number of the text to begin with.

    Raises:
        ConfigError: their default voices differ, which would tell the sides apart.
        LlasaError: as `Synthesizer.candidates`.
    """
    names = dict.fromkeys(_name(speaker.synthesizer.voice(voice)) or "none" for speaker in speakers)
    if len(names) > 1:
        found = f"the default voices {' and '.join(names)}, which tell the sides apart"
        raise ConfigError(f"Making pairs: found {found}. Name one voice for both (--voice).")
    for place, (text, language) in enumerate(texts[first:], first):
        random = np.random.default_rng((seed, place))
        made: list[tuple[Side, Candidate]] = []
        for speaker in (speakers[0], speakers[-1]):
            own = int(random.integers(_SEEDS))
            [candidate] = speaker.say(text, voice, language, own)
            made.append((speaker.side(candidate, own), candidate))
        yield _drawn(text, voice, made, bool(random.integers(2)))


def best_and_worst(
    speaker: Speaker, texts: Sequence[tuple[str, str | None]], voice: str | None, seed: int,
    judge: Judge, n: int, margin: float, first: int = 0,
) -> Iterator[Drawn]:  # fmt: skip
    """Yield of each text the best and the worst of `n` candidates, with the judge's vote.

    Args:
        n: 2 or more. margin: how far apart their values must be at least, above 0. first: as `two_takes`.

    Raises:
        LlasaError: as `Synthesizer.candidates`.
    """
    for place, (text, language) in enumerate(texts[first:], first):
        random = np.random.default_rng((seed, place))
        own = int(random.integers(_SEEDS))
        judged = judge.judge(speaker.say(text, voice, language, own, n))
        order = sorted((i for i, one in enumerate(judged) if one.score), key=lambda i: -_value(judged[i]))
        if reason := _no_pair([judged[i] for i in order], margin):
            yield Drawn(text, reason=reason)
            continue
        ends = [
            (speaker.side(judged[i].candidate, own, i), judged[i].candidate) for i in (order[0], order[-1])
        ]
        swapped = bool(random.integers(2))
        drawn, choice = _drawn(text, voice, ends, swapped), _choice(swapped)
        yield replace(drawn, vote=Vote(drawn.pair.id, choice)) if drawn.pair else drawn


def _value(judged: Judged) -> float:
    return judged.score.value if judged.score else 0.0


def _no_pair(ranked: Sequence[Judged], margin: float) -> str:
    """Return why the ends of a ranking are no pair, or nothing."""
    if len(ranked) < 2:
        return "fewer than two candidates got a verdict"
    if ranked[0].status != "scored":
        return f"no candidate is any good: {ranked[0].reason}"
    apart = _value(ranked[0]) - _value(ranked[-1])
    return "" if apart >= margin else f"best and worst are only {apart:.3f} apart"


def _choice(swapped: bool) -> Choice:
    return "b" if swapped else "a"


def _drawn(
    text: str, voice: str | None, made: Sequence[tuple[Side, Candidate]], swapped: bool
) -> Drawn:  # fmt: skip
    (a, left), (b, right) = reversed(made) if swapped else made
    if a.codes == b.codes:
        return Drawn(text, reason="both sides are the same")
    if left.audio is None or right.audio is None:
        return Drawn(text, reason="one side is empty: nobody could hear it")
    # The default is named: another bundle that learns from the pair may have another one.
    said = _name(left.utterance.voice) if voice is None else voice
    pair = paired(text, said, left.utterance.language, a, b)
    return Drawn(text, pair, {"a": left.audio, "b": right.audio})


def _name(voice: Voice | None) -> str | None:
    return voice.name if voice else None
