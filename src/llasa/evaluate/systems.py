"""What says the lines of a test set: a bundle, a speech server, or the recordings themselves.

However a line ends, there is a `Said`: a failure is data. Must not know who listens or what is measured.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from llasa.bundle import MANIFEST, Bundle, load_bundle
from llasa.checkpoint import check_weights
from llasa.codec.base import Codec
from llasa.core import Audio, Codes, Voice
from llasa.data.sounds import load
from llasa.errors import BundleError, EngineError, InputError
from llasa.evaluate.plan import SystemBlock
from llasa.evaluate.sets import Line, reference_of
from llasa.recipe import Effort
from llasa.spoken import Spoken, concatenated
from llasa.synthesizer import Synthesizer
from llasa.voice import create
from llasa.weights import sha256

ENDS = {"length": "no end", "loop": "loop"}  # finish of a segment -> failure
_ADAPTER = "checkpoint"


@dataclass(frozen=True)
class Said:
    """What came of a line.

    failure: `empty`, `no end`, `loop` or `error`, or nothing; reason says more. finish: of the first segment
    that did not end by itself, else of all; `unknown` of a server. codes: all that are in the sound, None if
    not known; codec: whose. tokens: ids drawn, candidates that lost included. reference: recording of the
    voice; decoded: the sound of its codes. total_s, first_s: until all and until the beginning was there.
    """

    audio: Audio | None
    failure: str = ""
    reason: str = ""
    finish: str = "stop"
    codes: Codes | None = None
    codec: str = ""
    tokens: int | None = None
    voice: str | None = None
    reference: Audio | None = None
    decoded: Audio | None = None
    total_s: float | None = None
    first_s: float | None = None


class System(Protocol):
    """Says lines. facts: what decides what it says, for `run.json`. steered_by: recognisers that chose."""

    facts: Mapping[str, Any]
    steered_by: tuple[str, ...]

    def problem(self, line: Line) -> str | None:
        """Return why a line cannot be said, None if it can; nothing is said."""
        ...

    def begin(self, line: Line) -> None:
        """Get ready by saying a line once, so that the first one does not wait; refuse what cannot work.

        Raises:
            ConfigError, EngineError, BundleError: what would fail for every line.
        """
        ...

    def say(self, line: Line, seed: int) -> Said:
        """Say a line.

        Raises:
            EngineError, ScorerError: the machinery failed, not the line: the same may work later.
        """
        ...


class BundleSystem:
    """A bundle at some effort."""

    def __init__(self, block: SystemBlock, synthesizer: Synthesizer) -> None:
        """Take what speaks; see `synthesizer_of`.

        Raises:
            ConfigError: no such voice, or an effort without a judge. MissingExtra, BundleError: a scorer's.
        """
        self._block, self._synthesizer = block, synthesizer
        self._bundle = synthesizer.bundle
        adapter = {"adapter": _ADAPTER} if _ADAPTER in self._bundle.adapters else {}
        self._sampling: dict[str, Any] = adapter | block.sampling
        self._named = synthesizer.voice(block.voice)
        self._effort: int | Effort = 1
        if block.effort > 1 or block.judge:
            effort = synthesizer.effort(block.effort, synthesizer.recipe(block.judge))
            self._effort = replace(effort, streaming=None)  # a busy machine must not change the figures
        steering = self._effort.judge.rubric.parts if isinstance(self._effort, Effort) else ()
        listeners = [getattr(part.scorer, "recognizer", None) for part in steering if not part.held_out]
        self.steered_by = tuple(dict.fromkeys(one.name for one in listeners if one is not None))
        self.facts: Mapping[str, Any] = {
            "weights": _weights(self._bundle),
            "steered_by": list(self.steered_by),
        } | self._judged()
        self._cloned = lru_cache(maxsize=64)(self._clone)
        self._decoded = lru_cache(maxsize=64)(self._decode)

    def _judged(self) -> dict[str, Any]:
        """Return what chooses, as its file says: another judge chooses other speech."""
        recipe = self._effort.recipe if isinstance(self._effort, Effort) else None
        return {"judge": recipe.model_dump(mode="json", exclude_none=True)} if recipe else {}

    def problem(self, line: Line) -> str | None:
        """See `System.problem`."""
        try:
            voice = self._cloned(line.reference, line.reference_text) if self._clones(line) else self._named
            # Segments are made ready at once, and nothing is drawn before the first one is asked for.
            self._synthesizer.speak(line.text, voice, 0, 1, line.language, **self._sampling)
        except (ValueError, BundleError) as error:  # what is wrong with text, voice, language or sampling
            return str(error)
        return None

    def begin(self, line: Line) -> None:
        """See `System.begin`."""
        self._synthesizer.warm_up()
        self.say(line, 0)

    def say(self, line: Line, seed: int) -> Said:
        """See `System.say`."""
        voice = self._cloned(line.reference, line.reference_text) if self._clones(line) else self._named
        spoken, pieces = list[Spoken](), list[Audio]()
        began, first_s, reason = time.perf_counter(), None, ""
        try:
            for piece in self._synthesizer.stream(
                line.text, voice, seed, self._effort, line.language, spoken.append, **self._sampling
            ):
                first_s = first_s or time.perf_counter() - began
                pieces.append(piece)
        except EngineError as error:
            if not spoken or any(one.candidate.audio for one in spoken):
                raise
            reason = str(error)  # every segment ended, and none has any sound
        total_s = time.perf_counter() - began
        said = _ended(spoken, reason, concatenated(pieces) if pieces else None)
        said = replace(said, codec=self._bundle.codec.name, total_s=total_s, first_s=first_s)
        if voice is None:
            return said
        decoded = self._decoded(tuple(voice.codes))
        return replace(said, voice=voice.name, reference=voice.reference, decoded=decoded)

    def _clones(self, line: Line) -> bool:
        return bool(line.reference) and self._block.voice is None

    def _clone(self, path: str, text: str) -> Voice:
        line = Line("", "", "", reference=path)
        return create("reference", reference_of(line), text, self._bundle.codec, source="a test set")

    def _decode(self, codes: tuple[int, ...]) -> Audio:
        return self._bundle.codec.decode([list(codes)])[0]


def _ended(spoken: list[Spoken], reason: str, sound: Audio | None) -> Said:
    finishes = [one.candidate.finish for one in spoken]
    finish = next((one for one in finishes if one != "stop"), "stop")
    silent = [one for one in spoken if one.candidate.audio is None]
    failure = "empty" if silent else ENDS.get(finish, "")
    tokens = sum(one.ranking.tokens if one.ranking else len(one.candidate.codes) for one in spoken)
    codes = [code for one in spoken for code in one.candidate.codes]
    why = reason or " ".join(warning for one in spoken for warning in one.warnings)
    return Said(sound, failure, why, finish, codes, tokens=tokens)


def synthesizer_of(block: SystemBlock) -> Synthesizer:
    """Return what speaks for a system with a bundle.

    Raises:
        BundleError, ConfigError: as `load_bundle`, or the checkpoint is none.
    """
    place = Path(block.checkpoint) if block.checkpoint else None
    adapted = place is not None and (place / "adapter_config.json").is_file()
    adapters = {_ADAPTER: place} if place and adapted else {}
    bundle = load_bundle(
        block.bundle or "starter",
        block.device,
        block.dtype,
        engine=block.engine,
        codec=block.codec,
        adapters=adapters,
    )
    return Synthesizer(bundle if place is None or adapted else _with_weights(bundle, place))


def _with_weights(bundle: Bundle, place: Path) -> Bundle:
    if not (place / "config.json").is_file():
        found = "there is no config.json nor adapter_config.json in it"
        raise BundleError(f"Loading the checkpoint '{place}': {found}. Name a checkpoint-N of a run.")
    check_weights(place)
    lm = bundle.manifest.lm.model_copy(update={"path": str(place.resolve())})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"lm": lm}))


def _weights(bundle: Bundle) -> str:
    """Return what tells these weights from others, without reading those that a seal tells of."""
    lm, sealed = bundle.folder / bundle.manifest.lm.path, bundle.folder / MANIFEST
    files = [sealed] if sealed.is_file() else []
    if not sealed.is_file() or not lm.is_relative_to(bundle.folder):
        files += sorted(lm.glob("*.safetensors"))
    files += [file for place in bundle.adapters.values() for file in sorted(place.glob("*.safetensors"))]
    return sha256(files)[:16]


@dataclass
class RecordingSystem:
    """The recordings of a test set, as they are or through a codec: what a perfect system would reach."""

    block: SystemBlock
    codec: Codec
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    steered_by: tuple[str, ...] = ()

    def problem(self, line: Line) -> str | None:
        """See `System.problem`."""
        return None if line.recording else "there is no recording of it"

    def begin(self, line: Line) -> None:
        """See `System.begin`; there is nothing to do."""

    def say(self, line: Line, seed: int) -> Said:
        """See `System.say`."""
        assert line.recording is not None  # see `problem`
        try:
            sound = load(line.recording, min_s=0.0, max_s=600.0)
            reference = reference_of(line) if line.reference else None
        except InputError as error:
            return Said(None, "error", str(error), "unknown")
        if self.block.recordings == "codec":
            codes = self.codec.encode([sound])[0]
            return Said(
                self.codec.decode([codes])[0],
                finish="recorded",
                codes=codes,
                codec=self.codec.name,
                reference=reference,
            )
        return Said(sound, finish="recorded", reference=reference)


Codecs = Callable[[], Codec]


def system_of(block: SystemBlock, synthesizer: Callable[[SystemBlock], Synthesizer], codec: Codecs) -> System:
    """Return the system of a table.

    Args:
        synthesizer: as `synthesizer_of`, which may remember. codec: gives the one that recordings pass.

    Raises:
        LlasaError: see the systems.
    """
    if block.kind == "bundle":
        return BundleSystem(block, synthesizer(block))
    if block.kind == "url":
        from llasa.evaluate.servers import ServerSystem

        return ServerSystem(block)
    return RecordingSystem(block, codec())
