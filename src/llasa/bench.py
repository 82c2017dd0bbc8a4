"""How fast a bundle speaks on this machine, at several efforts: each measured in a process of its own.

`python -m llasa.bench` is that process. A fresh one tells what loading takes and how much memory speaking
needs, and nothing measured before can help it. Must not know: command lines, how figures are shown.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llasa.core import drafts_of
from llasa.errors import ConfigError, EngineError, LlasaError

if TYPE_CHECKING:
    from llasa.codec.base import Codec
    from llasa.core import Audio, Codes
    from llasa.recipe import Effort
    from llasa.synthesizer import Synthesizer

SENTENCES = (
    "the old lighthouse keeper climbed the stairs every evening before dark.",
    "fresh bread was cooling on the wide windowsill of the bakery.",
    "they planted three rows of beans beside the wooden fence last spring.",
    "nobody noticed the small boat until it was close to the shore.",
    "a cold wind from the north carried the smell of snow.",
)
FIRST_REPEATS = 5


@dataclass(frozen=True)
class Setup:
    """What to measure. Fields as of `bundle.load_bundle`; seconds: about how long to speak at each effort."""

    bundle: str = "starter"
    codec: str | None = None
    engine: str = "native"
    dtype: str | None = None
    seconds: float = 5.0


@dataclass(frozen=True)
class Speed:
    """How fast a bundle spoke at an effort.

    load_s: from the start of the process until it could speak, imports included. first_audio_s: from a text
    to the first sound, median: of a stream, or, where candidates are judged, of a whole sentence. audio_s: of
    speech. elapsed_s: for it. codes: drawn, of all candidates. draw_s, decode_s, judge_s: of `elapsed_s`; at
    effort 1 the reading of the text counts as drawing. peak_bytes: of memory, of the process. device_bytes:
    of the GPU's, 0 without one. drafts: how the guesses of draft modules went, see `core.drafts_of`.
    """

    effort: int
    load_s: float
    first_audio_s: float
    audio_s: float
    elapsed_s: float
    codes: int
    draw_s: float
    decode_s: float
    judge_s: float
    peak_bytes: int | None
    device_bytes: int
    drafts: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def real_time_factor(self) -> float:
        """Seconds a second of speech."""
        return self.elapsed_s / self.audio_s

    @property
    def codes_per_s(self) -> float:
        """Codes of all candidates a second of drawing."""
        return self.codes / self.draw_s

    @property
    def held(self) -> list[float]:
        """How often guesses were accepted, by position; nothing without draft modules."""
        guessed = self.drafts.get("drafts_guessed")
        counts = [value for key, value in sorted(self.drafts.items()) if key.startswith("drafts_held_")]
        return [count / guessed for count in counts] if guessed else []

    def to_json(self) -> dict[str, Any]:
        """Return all figures, derived ones too."""
        own = {"real_time_factor": self.real_time_factor, "codes_per_s": self.codes_per_s, "held": self.held}
        return asdict(self) | own


def cost(real_time_factor: float, price_per_hour: float) -> float:
    """Return what an hour of speech costs on a machine that does nothing else."""
    return real_time_factor * price_per_hour


def measure(setup: Setup, effort: int) -> Speed:
    """Return how fast a bundle speaks at an effort, measured in a fresh process.

    Raises:
        ConfigError: it cannot speak, with what the process said. EngineError: the process ended.
    """
    asked = json.dumps({"setup": asdict(setup), "effort": effort, "began": time.time()})
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "llasa.bench", asked], capture_output=True, check=False
    )
    if ended.returncode:
        told = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
        found = told[0] if told else f"it ended with {ended.returncode}"
        todo = "Look for memory that ran out, or lower the effort"
        raise EngineError(f"Measuring effort {effort}: {found}. {todo}.")
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    if problem := answer.get("problem"):
        raise ConfigError(problem)
    return Speed(**answer)


def speed(setup: Setup, effort: int, began: float) -> Speed:
    """Return how fast a bundle speaks, measured here; the process should be fresh.

    Args:
        began: `time.time()` at the start of the process.

    Raises:
        LlasaError: as `Synthesizer.speak` and `Synthesizer.effort`.
    """
    speaker, search = _loaded(setup, effort)
    load_s = time.time() - began
    clock = _Clock(speaker.bundle.codec)
    if search:
        search.judge.codec = clock
    _said(speaker, search, clock, 0)
    runs, until = list[_Run](), time.perf_counter() + setup.seconds
    firsts = [] if search else [_first_audio(speaker, number) for number in range(1, 1 + FIRST_REPEATS)]
    while len(runs) < 2 or time.perf_counter() < until:
        runs.append(_said(speaker, search, clock, len(runs) + 1 + FIRST_REPEATS))
    summed = {key: sum(getattr(run, key) for run in runs) for key in _Run.__annotations__ if key != "drafts"}
    drafts = drafts_of(*(run.drafts for run in runs))
    first_s = statistics.median(firsts or [run.elapsed_s for run in runs])
    return Speed(
        effort, load_s, first_s, **summed, peak_bytes=peak_bytes(), device_bytes=_device_bytes(),
        drafts=drafts,
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    audio_s: float
    elapsed_s: float
    codes: int
    draw_s: float
    decode_s: float
    judge_s: float
    drafts: dict[str, float]


class _Clock:
    """A codec that counts the seconds it decodes."""

    def __init__(self, codec: "Codec") -> None:
        self._codec, self.seconds = codec, 0.0
        self.name, self.sample_rate = codec.name, codec.sample_rate
        self.codebook_size, self.hop_length = codec.codebook_size, codec.hop_length

    def encode(self, audio: "Sequence[Audio]") -> "list[Codes]":
        return self._codec.encode(audio)

    def decode(self, codes: "Sequence[Codes]", context: "Codes | None" = None) -> "list[Audio]":
        began = time.perf_counter()
        try:
            return self._codec.decode(codes, context)
        finally:
            self.seconds += time.perf_counter() - began

    def code_count(self, n_samples: int) -> int:
        return self._codec.code_count(n_samples)


def _loaded(setup: Setup, effort: int) -> "tuple[Synthesizer, Effort | None]":
    from llasa.bundle import load_bundle
    from llasa.synthesizer import Synthesizer

    bundle = load_bundle(setup.bundle, dtype=setup.dtype, engine=setup.engine, codec=setup.codec)
    speaker = Synthesizer(bundle)
    speaker.warm_up()
    return speaker, speaker.effort(effort) if effort != 1 else None


def _text(number: int) -> str:
    """Return a text that was not said before: an engine may remember prompts."""
    return f"Line {number}, {SENTENCES[number % len(SENTENCES)]}"


def _said(speaker: "Synthesizer", search: "Effort | None", clock: _Clock, number: int) -> _Run:
    began, before_s = time.perf_counter(), clock.seconds
    spoken = list(speaker.speak(_text(number), seed=number, effort=search or 1))
    elapsed_s = time.perf_counter() - began
    drafts = drafts_of(*(one.stats for one in spoken))
    audio_s = sum(one.candidate.audio.duration_s for one in spoken if one.candidate.audio)
    if not audio_s:
        raise EngineError("Measuring: no speech came. Try another bundle, voice or dtype.")
    if search:
        decode_s = clock.seconds - before_s
        codes, draw_s = (int(_summed(spoken, "tokens")), _summed(spoken, "generate_s"))
        return _Run(
            audio_s, elapsed_s, codes, draw_s, decode_s, _summed(spoken, "judge_s") - decode_s, drafts
        )
    decode_s = _summed(spoken, "codec_s")
    codes = sum(len(one.candidate.codes) for one in spoken)
    return _Run(audio_s, elapsed_s, codes, elapsed_s - decode_s, decode_s, 0.0, drafts)


def _summed(spoken: Sequence[Any], key: str) -> float:
    return sum(one.stats[key] for one in spoken)


def _first_audio(speaker: "Synthesizer", number: int) -> float:
    """Return the seconds from a text to the first piece of its stream."""
    began = time.perf_counter()
    stream = speaker.stream(_text(number), seed=number)
    next(stream)
    elapsed_s = time.perf_counter() - began
    del stream  # cancels what is still drawn
    return elapsed_s


def peak_bytes() -> int | None:
    """Return the most memory that this process has held at once; None where the system does not tell."""
    known = Path("/proc/self/status")
    if known.is_file():  # what getrusage says there begins with the parent's
        lines = dict(line.split(":", 1) for line in known.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    if os.name != "posix":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _device_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _answer(asked: str) -> dict[str, object]:
    told = json.loads(asked)
    try:
        return asdict(speed(Setup(**told["setup"]), told["effort"], told["began"]))
    except LlasaError as error:
        return {"problem": str(error)}


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1])))
