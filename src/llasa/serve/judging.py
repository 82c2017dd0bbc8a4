"""The work of a judge's service: candidates to verdicts, sounds to transcripts. Runs in one thread.

Must not know: HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from llasa.core import Audio, Candidate, Judged, Voice
from llasa.errors import InputError, LlasaError
from llasa.judge import Judge, JudgeBlock
from llasa.recognizers.base import Recognizer, Transcript
from llasa.remote_judge.wire import (
    MOST_SOUND_S,
    Asked,
    Health,
    SentCandidate,
    SentVoice,
    digest,
    heard_candidate,
    heard_voice,
)

JUDGE, HEAR = "judge", "hear"
MOST_KEPT = 256 << 20  # bytes of the recordings of voices


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
        self._voices: dict[bytes, Voice] = {}

    def candidates(self, asked: Asked) -> list[Candidate | str]:
        """Return the candidates of a request, or why one cannot be judged."""
        used = {item.voice for item in asked.items if item.voice is not None}
        voices = {key: self._voice(asked.voices[key]) for key in used}
        found, heard_s = list[Candidate | str](), 0.0
        for item in asked.items:
            one = self._candidate(item, voices, heard_s)
            heard_s += one.audio.duration_s if isinstance(one, Candidate) and one.audio else 0.0
            found.append(one)
        return found

    def _candidate(
        self, item: SentCandidate, voices: Mapping[str, Voice | str], heard_s: float
    ) -> Candidate | str:
        voice = voices[item.voice] if item.voice is not None else None
        if isinstance(voice, str):
            return voice
        if item.audio is not None and heard_s >= MOST_SOUND_S:
            return f"Reading audio: found more than {MOST_SOUND_S:g} s in a request. Send it in several."
        try:
            self._check(item.codes)
            return heard_candidate(item, voice)
        except InputError as error:
            return str(error)

    def _voice(self, sent: SentVoice) -> Voice | str:
        """Return a voice, the same object for the same one as long as there is room, or what is wrong."""
        key = sha256(sent.model_dump_json().encode()).digest()
        voice = self._voices.get(key)
        if voice is None:
            try:
                voice = self._read_voice(sent)
            except InputError as error:
                return str(error)
            if sum(map(_size, [*self._voices.values(), voice])) > MOST_KEPT:
                self._voices = {}
            self._voices[key] = voice
        return voice

    def _read_voice(self, sent: SentVoice) -> Voice:
        voice = heard_voice(sent)
        self._check(voice.codes)
        if voice.codec not in ("", self._codec_name):
            found = f"codes of '{voice.codec[:80]}', and the judge's codec is '{self._codec_name}'"
            raise InputError(f"Reading a voice: found {found}. Send a voice of this codec.")
        return replace(voice, codec=self._codec_name)

    def _check(self, codes: Sequence[int]) -> None:
        if codes and max(codes) >= self._codebook_size:
            found = f"code {max(codes)} for a codec of {self._codebook_size}"
            raise InputError(f"Reading codes: found {found}. Send codes, not token ids.")


def _size(voice: Voice) -> int:
    """Return about how many bytes a voice takes."""
    sound = voice.reference.samples.nbytes if voice.reference else 0
    return sound + 64 * (len(voice.codes) + len(voice.text))
