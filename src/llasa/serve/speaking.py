"""A request's speech: what is made for it, and how it is cut off. Must not know: routes, encodings."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakSet

from llasa.audio.apart import read_apart
from llasa.audio.tempo import Tempo
from llasa.beams import Hybrid
from llasa.core import Audio, Candidate, Ids, Judged, SamplingParams, Voice
from llasa.engines.base import Engine, Request
from llasa.errors import ConfigError, EngineError, InputError
from llasa.judge import Judge
from llasa.provenance import Provenance, provenance
from llasa.receipt import Receipt
from llasa.recipe import Effort
from llasa.serve.asked import SpeechRequest
from llasa.spoken import Spoken
from llasa.synthesizer import Synthesizer
from llasa.voice import MAX_S, MIN_S, create


class Line:
    """An engine as one client has it: what is in flight for him ends when he hangs up."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.max_length, self.concurrency = engine.name, engine.max_length, engine.concurrency
        self._engine, self._requests, self._cut = engine, WeakSet[Any](), False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, prompt: Ids, params: SamplingParams) -> Request:
        """See `Engine.submit`; EngineError once it was cut."""
        if self._cut:
            raise EngineError("Speaking: the client is gone.")
        request = self._engine.submit(prompt, params)
        self._requests.add(request)
        if self._cut:
            request.cancel()
        return request

    @property
    def is_cut(self) -> bool:
        """Whether it was: what is drawn then may be half of what it should be."""
        return self._cut

    def cut(self) -> None:
        """End all that is in flight; any thread may call this."""
        self._cut = True
        for request in list(self._requests):
            request.cancel()


class OneAtATime:
    """A judge that requests share: scorers were not made for several threads.

    spares: see `Judge.choose`; false judges all by all.
    """

    def __init__(self, judge: Judge, lock: AbstractContextManager[Any], spares: bool = True) -> None:
        self._judge, self._lock, self._spares = judge, lock, spares

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def of_beginnings(self) -> "OneAtATime":
        """See `Judge.of_beginnings`: as one at a time."""
        return OneAtATime(self._judge.of_beginnings(), self._lock, self._spares)

    def judge(self, candidates: list[Candidate], held_out: bool = False) -> list[Judged]:
        """See `Judge.judge`."""
        with self._lock:
            return self._judge.judge(candidates, held_out)

    def choose(self, candidates: list[Candidate], above: float = 0.0) -> list[Judged]:
        """See `Judge.choose`."""
        if not self._spares:
            return self.judge(candidates)
        with self._lock:
            return self._judge.choose(candidates, above)


def _in_turn(search: Any, lock: AbstractContextManager[Any]) -> Any:
    """Return a search whose judge of beginnings, if it has one of its own, works one at a time too."""
    if isinstance(search, Hybrid):
        return replace(search, first=_in_turn(search.first, lock))
    process = getattr(search, "process", None)
    if process is None or isinstance(process, OneAtATime):
        return search
    return replace(search, process=OneAtATime(process, lock))


@dataclass
class Speech:
    """One request being followed. `sounds` may be iterated once, by one thread; `cut` by any.

    effort: how it is searched for, or, where one candidate is all, judged afterwards; None: not judged.
    codes: drawn ids of the candidates that are heard.
    """

    asked: SpeechRequest
    speaker: Synthesizer
    line: Line
    effort: Effort | None
    voice: Voice | None
    spoken: list[Spoken] = field(default_factory=list[Spoken])

    def sounds(self) -> Iterator[Audio]:
        """Return the sound, piece by piece; what can be refused is refused before this returns."""
        asked = self.asked
        searched = self.effort if asked.effort > 1 and self.effort else 1
        made = self.speaker.stream(
            asked.input,
            self.voice,
            asked.seed,
            searched,
            asked.language,
            self.spoken.append,
            **asked.sampling,
        )
        return map(self.provenance.mark, made if asked.speed == 1 else _at(asked.speed, made))

    def cut(self) -> None:
        """End it: nobody listens any more."""
        self.line.cut()

    @cached_property
    def provenance(self) -> Provenance:
        """Where the sound comes from, as its file is to say."""
        bundle = self.speaker.bundle
        return provenance(bundle.name, self.voice.name if self.voice else bundle.default_voice)

    @property
    def codes(self) -> int:
        """How many codes are heard."""
        return sum(len(one.candidate.codes) for one in self.spoken)

    def told(self) -> Receipt | None:
        """Return what was heard of the text, once all is said; None if it was not judged."""
        if self.effort is None or not self.spoken:
            return None
        return self.speaker.receipt(self.asked.input, self.spoken, self.effort)

    def receipt(self) -> dict[str, object] | None:
        """Return `told` as plain values."""
        receipt = self.told()
        return receipt.to_json() if receipt else None


def _at(speed: float, sounds: Iterator[Audio]) -> Iterator[Audio]:
    tempo = None
    for piece in sounds:
        tempo = tempo or Tempo(speed, piece.sample_rate)
        yield tempo.push(piece)
    if tempo is not None:
        yield tempo.close()


class Speakers:
    """The loaded bundles, by the name that requests give; a name of OpenAI's stands for the first.

    most_effort, most_characters: what a request may ask for. consent: whether a voice needs its speaker's
    statement.
    """

    ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")

    def __init__(
        self,
        speakers: Mapping[str, Synthesizer],
        most_effort: int,
        most_characters: int,
        consent: bool = True,
    ) -> None:
        self.speakers, self._consent = dict(speakers), consent
        self.most_effort, self.most_characters = most_effort, most_characters
        self._judges: dict[str, tuple[Judge, AbstractContextManager[Any]]] = {}
        self._lock = Lock()

    def name(self, model: str) -> str:
        """Return the name of the bundle that a request means.

        Raises:
            ConfigError: there is none.
        """
        if model in self.speakers:
            return model
        if model in self.ALIASES:
            return next(iter(self.speakers))
        known = ", ".join((*self.speakers, *self.ALIASES))
        raise ConfigError(f"Choosing a model: found {model[:80]!r}. Models here: {known}.")

    def begin(self, asked: SpeechRequest, spares: bool = True) -> Speech:
        """Return a request's speech, begun with nothing yet.

        Args:
            spares: whether the judge spares dear parts what cannot win; not for who looks at all candidates.

        Raises:
            ConfigError: no such model or voice, or more effort than is allowed.
            InputError: the text is too long, or the sound of the voice cannot be used.
        """
        if len(asked.input) > self.most_characters:
            raise InputError(
                f"Speaking: found {len(asked.input)} characters. Send {self.most_characters} at most."
            )
        if asked.effort > self.most_effort:
            raise ConfigError(f"Speaking: found effort {asked.effort}. Ask for {self.most_effort} at most.")
        name = self.name(asked.model)
        whole = self.speakers[name]
        line = Line(whole.bundle.engine)
        own = Synthesizer(whole.bundle.with_engine(line))
        return Speech(asked, own, line, self._effort(asked, name, spares), self._voice(asked, whole))

    def _effort(self, asked: SpeechRequest, name: str, spares: bool) -> Effort | None:
        if asked.effort == 1 and not asked.judge:
            return None
        shared, lock = self._judge(name)
        judge: Any = OneAtATime(shared, lock, spares)
        effort = self.speakers[name].effort(
            asked.effort, target=asked.target, deadline_s=asked.deadline, judge=judge
        )
        effort = replace(
            effort, search=_in_turn(effort.search, lock), streaming=_in_turn(effort.streaming, lock)
        )
        # A whole answer need not be in time, and who looks at all candidates wants them whole.
        return effort if asked.streams and spares else replace(effort, streaming=None)

    def _judge(self, name: str) -> tuple[Judge, AbstractContextManager[Any]]:
        with self._lock:
            if name not in self._judges:
                self._judges[name] = self.speakers[name].effort(1).judge, Lock()
            return self._judges[name]

    def load_judges(self) -> None:
        """Load the bundles' own judges now, so that the first text that is judged does not wait for them."""
        for name, speaker in self.speakers.items():
            if speaker.bundle.judge is not None:
                self._judge(name)

    def _voice(self, asked: SpeechRequest, speaker: Synthesizer) -> Voice | None:
        if asked.ref_audio is None:
            # By the registry: a name is never a path here.
            voice = speaker.bundle.voices.get(asked.voice_id) if asked.voice_id else None
            self._check_consent(voice is None or voice.consent, "Add it again with one")
            return voice
        self._check_consent(asked.consent, "Send the speaker's words in consent")
        if not asked.ref_text:
            raise InputError(
                "Making a voice: found ref_audio without ref_text. Send the words that are said in it."
            )
        sound = read_apart(asked.sound(), MIN_S, MAX_S)
        made = create("request", sound, asked.ref_text, speaker.bundle.codec)
        return replace(made, language=asked.language or "")

    def _check_consent(self, statement: object, todo: str) -> None:
        if self._consent and not statement:
            found = "a voice without its speaker's consent"
            raise InputError(f"Choosing a voice: found {found}. {todo}.")
