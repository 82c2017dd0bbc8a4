"""A judge's service that starts in a second: a judge of codes only, in a thread here or a process of its own.

`python -m tests.judging PORT [SECONDS]` serves it; each candidate takes SECONDS to judge.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread

import numpy as np
import uvicorn

from llasa.core import Audio, Candidate, Codes, Finish, Judged, Score, Utterance, Voice
from llasa.errors import ScorerError
from llasa.judge import Judge, JudgeBlock, Part, PartBlock, Rubric
from llasa.recognizers.base import TextForm, Transcript
from llasa.scorers.base import CODES, SOUND
from llasa.serve.connections import listening, server
from llasa.serve.guard import Rules
from llasa.serve.judge_api import make_app
from llasa.serve.judging import Service

CODEC = "plain@0"
BLOCK = JudgeBlock(scorers=[PartBlock(name="first"), PartBlock(name="loud")])


class PlainCodec:
    """Sound that repeats the codes."""

    name, sample_rate, codebook_size, hop_length = CODEC, 8000, 1000, 40

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[round(float(value) * 1000) for value in one.samples[::40]] for one in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        return [Audio(np.repeat(np.array(row, np.float32) / 1000, 40), 8000) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // 40


@dataclass
class First:
    """The first code / 1000 is the value. Code 13 cannot be judged, code 14 is a bug. seen: of each call."""

    name: str = "first"
    partial: bool = True
    cost: int = CODES
    took_s: float = 0.0
    seen: list[list[str]] = field(default_factory=list)

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.seen.append([one.utterance.text for one in candidates])
        time.sleep(self.took_s * len(candidates))
        return [self._score(one) for one in candidates]

    def _score(self, candidate: Candidate) -> Score:
        if candidate.codes[0] == 13:
            raise ScorerError("Judging by 'first': found thirteen. Say another number.")
        if candidate.codes[0] == 14:
            raise RuntimeError(f"a bug at {candidate.utterance.text}")
        return Score(candidate.codes[0] / 1000, {"code": candidate.codes[0], "never": float("inf")})


class Loud:
    """The largest sample, next to the voice's reference recording, if it has one."""

    name, partial, cost = "loud", True, SOUND

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(min(1.0, self._peak(one)), {"peak": self._peak(one)}) for one in candidates]

    def _peak(self, candidate: Candidate) -> float:
        assert candidate.audio is not None
        voice = candidate.utterance.voice
        beside = float(np.abs(voice.reference.samples).max()) if voice and voice.reference else 1.0
        return float(np.abs(candidate.audio.samples).max()) / beside


class Ears:
    """Hears a word for each tenth of a second."""

    name, text_form = "ears@0", "written"
    text_form: TextForm

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [self._heard(round(one.duration_s * 10)) for one in audio]

    def _heard(self, n: int) -> Transcript:
        words = tuple(f"word{i}" for i in range(n))
        return Transcript(" ".join(words), words, tuple((i / 10, (i + 1) / 10) for i in range(n)))


def candidate(
    code: int, text: str = "hello", voice: Voice | None = None, finish: Finish = "stop"
) -> Candidate:
    return Candidate(Utterance("0", text, voice), [code] * 50 if code >= 0 else [], finish)


def local_judge(first: First | None = None) -> Judge:
    return Judge(PlainCodec(), Rubric([Part(first or First()), Part(Loud())], "mean"), truncated=0.1)


def service(first: First | None = None) -> Service:
    return Service(local_judge(first), BLOCK, "tiny", {"ears": Ears})


@contextmanager
def served(app) -> Iterator[str]:
    """The URL of an application, for as long as the block runs."""
    listener = listening("127.0.0.1", 0)
    here = server(app, "critical")
    thread = Thread(target=here.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        here.should_exit = here.force_exit = True
        thread.join(5)
        listener.close()


@contextmanager
def judging(first: First | None = None, rules: Rules | None = None, **limits: int) -> Iterator[str]:
    """The URL of the tiny judge's service."""
    with served(make_app(service(first), rules or Rules(), **limits)) as url:
        yield url


def verdicts(judged: Sequence[Judged]) -> list[tuple[str, float | None, dict[str, float]]]:
    """Return what can be compared; what is not finite does not travel."""
    return [
        (
            one.status,
            one.score.value if one.score else None,
            {k: v for k, v in one.score.measures.items() if np.isfinite(v)} if one.score else {},
        )
        for one in judged
    ]


ROWS = [*(candidate(n) for n in (100, 500, -1, 13, 999)), candidate(5, finish="length")]


if __name__ == "__main__":
    slow = make_app(service(First(took_s=float(sys.argv[2]))), Rules())
    uvicorn.run(slow, port=int(sys.argv[1]), log_level="critical", lifespan="off")
