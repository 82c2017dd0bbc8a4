"""`llasa say`: a text to a sound file. Everything that can be refused is refused before a model is loaded."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.effort import (
    CandidatesOption,
    DeadlineOption,
    EffortOption,
    JudgeOption,
    ReceiptOption,
    RepairOption,
    StyleOption,
    TargetOption,
    Wanted,
    repaired,
    shown,
    tell_receipt,
)
from llasa.cli.model import AdapterOption, Chosen, DtypeOption, EngineOption, LanguageOption
from llasa.cli.player import Output, Player, Sink, Watched, handed
from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note, tracked
from llasa.errors import ConfigError, InputError

if TYPE_CHECKING:
    from llasa.core import Audio, Voice
    from llasa.provenance import Provenance
    from llasa.receipt import Receipt
    from llasa.recipe import Effort
    from llasa.spoken import Spoken
    from llasa.synthesizer import Synthesizer

EPILOG = examples(
    'llasa say "Hello there."',
    "llasa say --file story.txt -o story.mp3 --seed 7",
    "llasa say --file story.txt --stream",
    'echo "Hello." | llasa say - -o - --stream | aplay',
    'llasa say "In my voice." --ref-audio me.wav --ref-text "What I say in it."',
    'llasa say "Calmly." --temperature 0.5 --set top_k=50',
    'llasa say "Every word counts." --effort 8 --receipt',
    'llasa say "Chosen block by block, while it plays." --stream --effort 4',
    'llasa say "Good enough is enough." --effort 16 --target 0.85 --deadline 2x',
    'llasa say "Let me choose." --effort 8 --candidates tries',
    'llasa say "A bit livelier." --style rate=1.1,pitch_range=wide',
    'llasa say "The published model." --bundle HKUSTAudio/Llasa-1B --ref-audio me.wav --ref-text "..."',
    """Your own pronunciations: lines like  ada = "EY D AH"  in words.toml, beside your folder of voices.""",
)
STDIO = "-"


def say(
    text: Annotated[str | None, typer.Argument(help="What to say; '-' reads standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="wav, flac, mp3, opus, aac or pcm file; '-' is stdout.")
    ] = "llasa.wav",
    voice: Annotated[str | None, typer.Option(help="A name of 'llasa voice list', or a voice file.")] = None,
    ref_audio: Annotated[Path | None, typer.Option(help="Speak like this recording, 1 to 30 s.")] = None,
    ref_text: Annotated[str | None, typer.Option(help="What is said in it.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same speech.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="Lower is steadier, higher livelier.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of the likeliest codes drawn from.")] = None,
    language: LanguageOption = None,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    adapter: AdapterOption = None,
    engine: EngineOption = "native",
    dtype: DtypeOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any other sampling field.")
    ] = None,
    play: Annotated[
        bool, typer.Option("--play", "--stream", help="Play it while it is made; with -o -, give it then.")
    ] = False,
    effort: EffortOption = None,
    judge: JudgeOption = None,
    target: TargetOption = None,
    deadline: DeadlineOption = None,
    style: StyleOption = None,
    repair: RepairOption = False,
    candidates: CandidatesOption = None,
    receipt: ReceiptOption = False,
    json: JsonOption = False,
) -> None:
    """Say a text and write the sound to a file."""
    from llasa.audio import write

    words = _text(text, file)
    wanted = Wanted(effort, judge, target, deadline, style, candidates, receipt, repair)
    wanted.check(output != STDIO)
    chosen = Chosen(bundle, engine, dtype, codec, adapter)
    sampling = _sampling(temperature, top_p, set_ or []) | chosen.sampling
    format = _check_output(output, json)
    if play and output != STDIO:
        Player.check()
    recording = _recording(ref_audio, ref_text, voice)
    synthesizer = chosen.opened()
    speaker = (
        _cloned(synthesizer, recording, ref_text or "", language) if recording else synthesizer.voice(voice)
    )
    search = wanted.effort_of(synthesizer) if wanted.judged else None
    began, saying = (
        time.perf_counter(),
        _Saying(synthesizer, words, speaker, seed, search, language, sampling),
    )
    with _sinks(output, play, saying.tags) as sinks:
        sounds = Watched(saying.streamed() if play and not repair else saying.whole(repair))
        audio = handed(sounds, sinks)
        if output != STDIO:
            write(output, audio, format, saying.tags)
        report = _report(synthesizer, saying.spoken, audio, output, time.perf_counter() - began)
        report |= {"first_audio_s": round(sounds.first_s, 3), "underruns": sounds.underruns} if play else {}
        told = synthesizer.receipt(words, saying.spoken, search) if search else None
        if told:
            kept = wanted.keep(saying.spoken, told, output)
            report |= {"receipt": told.to_json(), "repairs": saying.repairs} | kept
        _tell(report, told, json)


@dataclass
class _Saying:
    """A text being said; `spoken` and `repairs` fill up with what became of it."""

    synthesizer: "Synthesizer"
    words: str
    voice: "Voice | None"
    seed: int
    search: "Effort | None"
    language: str | None
    sampling: dict[str, Any]
    spoken: "list[Spoken]" = field(default_factory=list)
    repairs: list[dict[str, object]] = field(default_factory=list)

    @cached_property
    def _made(self) -> "Provenance":
        from llasa.provenance import provenance

        return provenance(self.synthesizer.bundle.name, self.voice.name if self.voice else None)

    @property
    def tags(self) -> dict[str, str]:
        """What the file says of itself."""
        return self._made.tags

    def streamed(self) -> "Iterator[Audio]":
        """Yield the sound while it is made."""
        with nullcontext(1) if self.search is None else shown(self.search) as effort:
            how = (self.words, self.voice, self.seed, effort, self.language, self._told)
            yield from map(self._made.mark, self.synthesizer.stream(*how, **self.sampling))

    def _told(self, one: "Spoken") -> None:
        self.spoken.append(one)
        for warning in one.warnings:
            note(warning)

    def whole(self, repair: bool) -> "Iterator[Audio]":
        """Yield the sound once it is made, repaired if that is asked for."""
        from llasa.spoken import concatenated, voiced

        with nullcontext(1) if self.search is None else shown(self.search) as effort:
            how = (self.words, self.voice, self.seed, effort, self.language)
            said = self.synthesizer.speak(*how, **self.sampling)
            self.spoken += tracked(said, "Speaking") if self.search is None else said
        if repair and self.search:
            found = repaired(self.synthesizer, self.spoken, self.search, self.seed, self.sampling)
            self.spoken[:], self.repairs[:] = found
        yield self._made.mark(concatenated(voiced(self.spoken)))


@contextmanager
def _sinks(output: str, play: bool, tags: dict[str, str]) -> "Iterator[list[Sink]]":
    """Give what takes the sound besides a file, and close it."""
    sinks: list[Sink] = [Output(tags, whole=not play)] if output == STDIO else [Player()] if play else []
    yield sinks
    for sink in sinks:
        sink.close()


def _text(text: str | None, file: Path | None) -> str:
    if (text is None) == (file is None):
        found = "both a TEXT and --file" if file else "no text"
        todo = "Give TEXT, or --file FILE, or '-' for standard input"
        raise ConfigError(f"Reading the text: found {found}. {todo}.")
    try:
        if text == STDIO:
            return sys.stdin.buffer.read().decode("utf-8")
        return file.read_text(encoding="utf-8") if file else text or ""
    except OSError as error:
        found = f"the system says: {error.strerror}"
        raise InputError(f"Reading the text from '{file}': {found}. Check the path.") from error
    except UnicodeDecodeError as error:
        place = file or "standard input"
        raise InputError(f"Reading the text from '{place}': it is not UTF-8. Save it as UTF-8.") from error


def _sampling(temperature: float | None, top_p: float | None, words: list[str]) -> dict[str, object]:
    from llasa import config
    from llasa.manifest import Sampling

    named = {"temperature": temperature, "top_p": top_p}
    chosen = {key: value for key, value in named.items() if value is not None} | config.assignments(words)
    config.build(Sampling, chosen, "Reading the flags")
    return chosen


def _check_output(output: str, json: bool) -> str:
    from llasa.audio import check_output

    if output != STDIO:
        return check_output(output)
    if json or sys.stdout.isatty():
        found = "--json prints there too" if json else "it is a terminal"
        raise ConfigError(f"Writing sound to standard output: {found}. Name a file with -o, or use a pipe.")
    return "wav"


def _recording(ref_audio: Path | None, ref_text: str | None, voice: str | None) -> "Audio | None":
    if (ref_audio is None) != (ref_text is None):
        missing = "--ref-text" if ref_audio else "--ref-audio"
        todo = "Give both the recording and its words"
        raise ConfigError(f"Reading the reference: {missing} is missing. {todo}.")
    if ref_audio is None:
        return None
    if voice is not None:
        raise ConfigError("Choosing a voice: found both --voice and --ref-audio. Give one of them.")
    from llasa.audio import read
    from llasa.voice import MAX_S, MIN_S

    return read(ref_audio, min_s=MIN_S, max_s=MAX_S)


def _cloned(synthesizer: "Synthesizer", recording: "Audio", text: str, language: str | None) -> "Voice":
    from llasa.voice import create

    made = create("reference", recording, text, synthesizer.bundle.codec, keep_reference=False)
    return replace(made, language=language or "")


def _report(
    synthesizer: "Synthesizer", spoken: "list[Spoken]", audio: "Audio", output: str, elapsed_s: float
) -> dict[str, object]:
    from llasa.manifest import Sampling

    bundle, first = synthesizer.bundle, spoken[0]
    voice, drawn = first.candidate.utterance.voice, asdict(first.params)
    return {
        "output": output,
        "duration_s": round(audio.duration_s, 3),
        "sample_rate": audio.sample_rate,
        "elapsed_s": round(elapsed_s, 3),
        "real_time_factor": round(elapsed_s / audio.duration_s, 4),
        "bundle": bundle.name,
        "codec": bundle.codec.name,
        "engine": bundle.engine.name,
        "dtype": getattr(bundle.engine, "dtype", None),
        "drafts": getattr(bundle.engine, "drafts", None),
        "language": first.candidate.utterance.language,
        "voice": voice.name if voice else None,
        "seed": first.params.seed,
        "sampling": {key: drawn[key] for key in Sampling.model_fields},
        "warnings": [warning for one in spoken for warning in one.warnings],
        "segments": [_segment(one) for one in spoken],
    }


def _segment(spoken: "Spoken") -> dict[str, object]:
    part, candidate = spoken.segment, spoken.candidate
    return {
        "text": part.text,
        "start": part.start,
        "end": part.end,
        "finish": candidate.finish,
        "codes": len(candidate.codes),
        "duration_s": round(candidate.audio.duration_s, 3) if candidate.audio else 0.0,
        "dropped": list(spoken.dropped),
        "stats": {key: round(value, 4) for key, value in spoken.stats.items()},
    }


def _tell(report: dict[str, object], receipt: "Receipt | None", json: bool) -> None:
    if json:
        return emit(report)
    if receipt:
        tell_receipt(receipt)
    voice = f"voice {report['voice']}" if report["voice"] else "a voice of its own"
    note(f"{report['duration_s']} s of speech in {report['elapsed_s']} s, {voice}, seed {report['seed']}")
    if report["output"] != STDIO:
        print(report["output"])
