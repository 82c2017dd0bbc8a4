"""The nouns of the package: frozen values that pass between layers. Needs numpy only.

Shapes: T samples, N codes. `Codes` and `Ids` are plain lists of int: they compare, print and serialise, and
no device or dtype crosses a boundary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np

Codes = list[int]
Ids = list[int]

Finish = Literal["stop", "length", "loop", "cancelled", "pruned", "partial"]


@dataclass(frozen=True)
class Audio:
    """Mono sound.

    samples: float32 [T] in [-1, 1].
    sample_rate: Hz.
    """

    samples: np.ndarray
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Voice:
    """How speech should sound: the codes of a reference recording and its transcript.

    codes: [N] of the reference.
    codec: `name@weights-hash` of the codec the codes belong to.
    reference: the recording itself, if kept.
    source: where the recording came from. consent: the speaker's consent statement.
    language: of `text`, a code such as "it"; empty: the bundle's, as for a text of no named language.
    """

    name: str
    text: str
    codes: Codes
    codec: str
    reference: Audio | None = None
    source: str = ""
    consent: str = ""
    language: str = ""


@dataclass(frozen=True)
class Utterance:
    """One thing to say, in one go."""

    id: str
    text: str
    voice: Voice | None = None
    language: str = "en"


@dataclass(frozen=True)
class Clip:
    """One recorded thing: a row of a manifest. Small and picklable; the sound stays where it is.

    audio: a file, or a place inside one (data/sounds.py). `start_s` and `end_s` cut the clip out of it.
    split: what the source says it is for, such as `train` or `test`; empty if it says nothing.
    words, phones: (label, end in seconds from the start of the clip) in order; empty if unknown.
    """

    id: str
    audio: str
    text: str
    speaker: str = ""
    language: str = "en"
    start_s: float = 0.0
    end_s: float | None = None
    split: str = ""
    words: tuple[tuple[str, float], ...] = ()
    phones: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class SamplingParams:
    """How an engine draws ids; names as in vLLM.

    The engine knows no markers: `prompt.py` supplies `allowed_token_ids` and `stop_token_ids`.
    Random numbers are a function of (seed, candidate, absolute position), so candidate i does not depend on
    `n`. temperature 0 is greedy. top_k 0 means no limit. min_tokens: ids before any stop id may be drawn.
    first: number of the first of the `n` candidates, so that a later wave goes on where an earlier one ended.
    repetition_penalty acts on generated ids only. loop_guard: end a candidate that cycles, rolled back to the
    first turn of the cycle, with finish `loop`.
    """

    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    min_tokens: int = 1
    max_tokens: int = 1024
    n: int = 1
    first: int = 0
    seed: int = 0
    allowed_token_ids: tuple[int, ...] | None = None
    stop_token_ids: tuple[int, ...] = ()
    logprobs: bool = False
    loop_guard: bool = True
    adapter: str | None = None


@dataclass(frozen=True)
class Generation:
    """What an engine returns for one candidate.

    ids: generated ids, without the prompt and without the stop id. logprobs: nats, one per id, if asked for
    (of the distribution over the allowed ids at temperature 1).
    stats: seconds and counts measured by the engine; for those of draft modules see `drafts_of`.
    """

    ids: Ids
    finish: Finish
    logprobs: list[float] | None = None
    stats: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Candidate:
    """One attempt at an utterance. `codes` never include the voice's;
    `logprob` is the mean in nats a code.
    """

    utterance: Utterance
    codes: Codes
    finish: Finish
    logprob: float | None = None
    audio: Audio | None = None


@dataclass(frozen=True)
class Score:
    """What a scorer says of one candidate.

    value: in [0, 1], higher is better, never NaN: it steers search and training. measures: the same in
    natural units, such as `wer=0.08`, for reports. note: one sentence for people, or empty.
    """

    value: float
    measures: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str = ""


def drafts_of(*stats: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of what engines tell of draft modules, nothing where none guessed.

    drafts_passes: of the model. drafts_guessed: those that had guesses to verify. drafts_held_1, _2, ...: how
    often the first held, the first two, and so on.
    """
    sums = dict[str, float]()
    for key, value in (pair for one in stats for pair in one.items()):
        if key.startswith("drafts_"):
            sums[key] = sums.get(key, 0) + value
    return sums


def plain(value: object) -> object:
    """Return nested dicts and lists as JSON can hold them: a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in cast(Mapping[object, object], value).items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in cast(Sequence[object], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Status = Literal["scored", "outdone", "bad", "unjudged"]


@dataclass(frozen=True)
class Judged:
    """A candidate and its verdict.

    status: `scored`; `outdone`: it cannot be the best of its search, not all was measured, and `score` is the
    most it could have had; `bad`: unspeakable or ruled out, `score` is the declared value; `unjudged`: a
    scorer failed, `score` is None and the candidate leaves every average. reason: why it is not `scored`.
    """

    candidate: Candidate
    score: Score | None
    status: Status = "scored"
    reason: str = ""


WordStatus = Literal["said", "changed", "missed", "added"]


@dataclass(frozen=True)
class Word:
    """A word of the text as given, and what became of it.

    text: as given, empty for a word that was added. start, end: its place in the text, characters.
    heard: in its place, empty if missed. start_s, end_s: where in the sound, None if missed or not known.
    """

    text: str
    start: int
    end: int
    heard: str
    status: WordStatus
    start_s: float | None = None
    end_s: float | None = None
