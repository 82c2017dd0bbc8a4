"""Systems say test sets and are listened to: one row an utterance, in a folder that survives being killed.

A row and its sound are written once both are known, the row last; what has no row is said again. Must not
know what the numbers come to.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from llasa import begun, journal, shortage
from llasa.audio import encode, replace_file
from llasa.bundle import load_bundle
from llasa.data.cluster import in_order
from llasa.data.prepare import stoppable
from llasa.evaluate.ears import Ears
from llasa.evaluate.plan import Plan, SystemBlock, told
from llasa.evaluate.results import RESULTS, SOUNDS, Row
from llasa.evaluate.sets import Line, digest, lines_of, problems_of, refuse
from llasa.evaluate.systems import System, synthesizer_of, system_of
from llasa.synthesizer import Synthesizer

_LOADS = ("bundle", "checkpoint", "engine", "device", "dtype", "codec")
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Job:
    """A line to be said by a system."""

    system: str
    line: Line
    take: int

    @property
    def key(self) -> Key:
        """What its row is known by."""
        return self.system, self.line.set, self.line.id, self.take


@dataclass(frozen=True)
class Made:
    """What became of a job. sound: a flac file, None without."""

    job: Job
    row: Row
    sound: bytes | None


@dataclass(frozen=True)
class Done:
    """How far it is: `number` of `total` utterances, `before` of them by earlier runs."""

    number: int
    total: int
    before: int
    row: Row


class Bench:
    """Has lines said and listens: the worker. What it loads it keeps, one language model at a time."""

    def __init__(self, plan: Plan) -> None:
        """Load what listens; see `Ears`."""
        self.plan = plan
        self.ears = Ears(plan, load_bundle(plan.bundle))
        self._blocks = {block.title: block for block in plan.systems}
        self._systems, self._begun, self._loaded = dict[str, System](), set[str](), tuple[object, ...]()
        self._synthesizer: Synthesizer | None = None

    def __call__(self, job: Job) -> Made:
        """Return what becomes of a job.

        Raises:
            EngineError, ScorerError: a system or a recogniser is down.
        """
        seed = self.plan.seed + job.take
        said = self.system(job.system, job.line).say(job.line, seed)
        heard, line, sound = self.ears.listen(job.line, said), job.line, said.audio
        row = {
            "system": job.system, "set": line.set, "line": line.id, "take": job.take, "seed": seed,
            "text": line.text, "language": line.language, "voice": said.voice, "finish": said.finish,
            "failure": said.failure, "reason": said.reason, "tokens": said.tokens, "total_s": said.total_s,
            "first_s": said.first_s, "duration_s": sound.duration_s if sound else 0.0, **vars(heard),
        }  # fmt: skip
        return Made(job, row, encode(sound, "flac") if sound else None)

    def system(self, name: str, line: Line) -> System:
        """Return a system that is ready: before its first line it has said `line` once, unmeasured."""
        system = self._system(name)
        if name not in self._begun:
            system.begin(line)
            self._begun.add(name)
        return system

    def _system(self, name: str) -> System:
        if name not in self._systems:
            made = system_of(self._blocks[name], self._speaker, lambda: self.ears.bundle.codec)
            self._systems[name] = made
        return self._systems[name]

    def _speaker(self, block: SystemBlock) -> Synthesizer:
        """Return what speaks, loaded anew only if the last system's was another."""
        wanted = tuple(getattr(block, key) for key in _LOADS)
        if self._synthesizer is None or wanted != self._loaded:
            self._let_go()
            self._synthesizer, self._loaded = synthesizer_of(block), wanted
        return self._synthesizer

    def _let_go(self) -> None:
        """Free a model before the next one is loaded; an engine holds on to itself until it is closed."""
        close = getattr(self._synthesizer.bundle.engine, "close", None) if self._synthesizer else None
        if close is not None:
            close()
        self._systems, self._begun, self._synthesizer = {}, set(), None

    def check(self, sets: Mapping[str, Sequence[Line]]) -> Mapping[str, object]:
        """Look at everything before the first line is said, and return what `run.json` tells of systems.

        Raises:
            ConfigError: lines that a system cannot say, or sounds that are of no use; names the first rows.
            EngineError: nobody listens at a URL. BundleError, MissingExtra: a part is missing or damaged.
        """
        lines = [line for some in sets.values() for line in some]
        problems = [one for line in lines for one in problems_of(line)]
        problems += [(line.name, why) for line in lines if (why := self.ears.problem(line))]
        refuse("Looking at the test sets", problems, len(lines))
        facts = {}
        for name in self._blocks:
            system = self._system(name)
            problems = [(line.name, why) for line in lines if (why := system.problem(line))]
            refuse(f"Evaluating '{name}'", problems, len(lines))
            facts[name] = dict(self.system(name, lines[0]).facts)
        return facts


def run(plan: Plan, out: Path, ray: bool = False, changed_ok: bool = False) -> Iterator[Done]:
    """Yield what becomes of each line, said by each system in turn; what has a row already is not said again.

    Args:
        out: new, empty, or left by an earlier call. ray: on all cores, GPUs or machines of Ray; the rows are
            the same but for their times.
        changed_ok: go on although recipe, texts or weights have changed.

    Raises:
        ConfigError: what was given cannot be evaluated, or differs from an earlier call's.
        EngineError, ScorerError: a system or recogniser is down. Interrupted: a signal; all rows are kept.
    """
    sets = {block.title: lines_of(block) for block in plan.sets}
    bench = Bench(plan)
    systems = bench.check(sets)
    begun.start(out, _facts(plan, sets, bench.ears, systems), changed_ok, "Evaluating")
    jobs = [
        Job(name, line, take)
        for name in systems for some in sets.values() for line in some for take in range(plan.takes)
    ]  # fmt: skip
    kept = _kept(out, jobs)
    open_jobs = [job for job in jobs if job.key not in kept]
    before = len(jobs) - len(open_jobs)
    work: Callable[[Job], Made] = bench
    made = (
        in_order("Evaluating on Ray", partial(Bench, plan), iter(open_jobs)) if ray else map(work, open_jobs)
    )
    with stoppable(f"Evaluating in '{out}'", "all rows are kept") as check:
        for number, one in enumerate(made, before + 1):
            _write(out, one)
            yield Done(number, len(jobs), before, one.row)
            check()


def _facts(
    plan: Plan, sets: Mapping[str, Sequence[Line]], ears: Ears, systems: Mapping[str, object]
) -> dict[str, object]:
    return {
        "verb": "evaluate",
        "recipe": told(plan),
        "texts": {name: {"lines": len(lines), "digest": digest(lines)} for name, lines in sets.items()},
        "recognizers": ears.listeners,
        "missing": ears.missing,
        "systems": systems,
    }


def _kept(out: Path, jobs: Sequence[Job]) -> set[Key]:
    """Return the keys of whole rows whose sounds are there; forget the others, and those of another text."""
    path = out / RESULTS
    rows = journal.read(path)
    texts = {job.key: job.line.text for job in jobs}
    whole = [
        row
        for row in rows
        if (not row["sound"] or (out / row["sound"]).is_file())
        and row["text"] == texts.get(_key(row), row["text"])
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole).encode()
    if path.is_file() and path.read_bytes() != text:  # also of a line that a killed run only began
        replace_file(path, text)
    return {_key(row) for row in whole}


def _key(row: Row) -> Key:
    return row["system"], row["set"], row["line"], row["take"]


def _write(out: Path, made: Made) -> None:
    place = None
    if made.sound is not None:
        system, name, line, take = map(_safe, map(str, made.job.key))
        place = f"{SOUNDS}/{system}/{name}/{line}/{take}.flac"
        with shortage.told(f"Evaluating in '{out}'", out / place):
            (out / place).parent.mkdir(parents=True, exist_ok=True)
        replace_file(out / place, made.sound)
    journal.append(out / RESULTS, [made.row | {"sound": place}], durable=True)


def _safe(name: str) -> str:
    """Return a name that is a file's, another one for each name."""
    bare = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    return bare if bare == name else f"{bare}-{sha256(name.encode()).hexdigest()[:8]}"
