"""The work of a judge's service: candidates to verdicts, sounds to transcripts. Runs in one thread.

Must not know: HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llasa.core import Audio, Candidate, Judged, Voice
from llasa.errors import InputError, LlasaError
from llasa.judge import Judge, JudgeBlock
from llasa.recognizers.base import Recognizer, Transcript
from llasa.remote_judge.wire import (
    Asked,
    Health,
    SentCandidate,
    SentVoice,
    digest,
    heard_candidate,
    heard_voice,
)

JUDGE, HEAR = "judge", "hear"


@dataclass(frozen=True)
class Service:
    """What a judge's service is made of.

    block: what the judge was made from. bundle: its name. recognizers: that may be asked to transcribe, by
    name.
    """

    judge: Judge
    block: JudgeBlock
    bundle: str
    recognizers: Mapping[str, Callable[[], Recognizer]]

    def health(self) -> Health:
        """Return what it is."""
        return Health(
            ready=True,
            bundle=self.bundle,
            codec=self.judge.codec.name,
            digest=digest(self.block),
            judge=self.block.model_dump(mode="json"),
            recognizers=sorted(self.recognizers),
        )

    def run(self, kind: Any, items: list[Any]) -> list[Any]:
        """Do the work of a `Worker`: kind is (JUDGE, held_out) or (HEAR, recogniser)."""
        what, how = kind
        return self._judge(items, how) if what == JUDGE else self._hear(items, how)

    def _judge(self, items: Sequence[Candidate], held_out: bool) -> list[Judged]:
        try:
            return self.judge.judge([self._coded(item) for item in items], held_out)
        except LlasaError as error:
            if len(items) == 1:
                return [Judged(items[0], None, "unjudged", str(error))]
        # One that cannot be judged must not cost the others their verdict.
        return [self._judge([item], held_out)[0] for item in items]

    def _coded(self, candidate: Candidate) -> Candidate:
        """Return a candidate with codes: a sound that came without is encoded."""
        if candidate.audio is None or candidate.codes:
            return candidate
        return replace(candidate, codes=self.judge.codec.encode([candidate.audio])[0])

    def _hear(self, sounds: list[Audio], name: str) -> list[Transcript]:
        return self.recognizers[name]().transcribe(sounds)


class Reader:
    """Requests to candidates, with all that can be wrong in them seen to before anybody works on them."""

    def __init__(self, codec_name: str, codebook_size: int) -> None:
        self._codec_name, self._codebook_size = codec_name, codebook_size
        # One object a voice, so that a judge decodes candidates of one voice together.
        self._voice = lru_cache(maxsize=256)(self._read_voice)

    def candidates(self, asked: Asked) -> list[Candidate | str]:
        """Return the candidates of a request, or why one cannot be judged."""
        return [self._candidate(item, asked.voices) for item in asked.items]

    def _candidate(self, item: SentCandidate, voices: Mapping[str, SentVoice]) -> Candidate | str:
        try:
            self._check(item.codes)
            voice = None if item.voice is None else self._voice(voices[item.voice].model_dump_json())
            return heard_candidate(item, voice)
        except InputError as error:
            return str(error)

    def _read_voice(self, sent: str) -> Voice:
        voice = heard_voice(SentVoice.model_validate_json(sent))
        self._check(voice.codes)
        if voice.codec not in ("", self._codec_name):
            found = f"codes of '{voice.codec[:80]}', and the judge's codec is '{self._codec_name}'"
            raise InputError(f"Reading a voice: found {found}. Send a voice of this codec.")
        return replace(voice, codec=self._codec_name)

    def _check(self, codes: Sequence[int]) -> None:
        if codes and max(codes) >= self._codebook_size:
            found = f"code {max(codes)} for a codec of {self._codebook_size}"
            raise InputError(f"Reading codes: found {found}. Send codes, not token ids.")
