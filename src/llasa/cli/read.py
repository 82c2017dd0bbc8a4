"""`llasa read`: a book to an audiobook with chapters and subtitles. What is said stays said."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.effort import DeadlineOption, JudgeOption, TargetOption, Wanted
from llasa.cli.model import AdapterOption, Chosen, DtypeOption, EngineOption, LanguageOption
from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note, tracked
from llasa.errors import ConfigError, InputError

if TYPE_CHECKING:
    from llasa.longform.book import Book
    from llasa.longform.reading import Read, Reading
    from llasa.longform.script import Line

EPILOG = examples(
    "llasa read book.epub -o book.m4b",
    "llasa read story.md -o story.mp3 --effort 8 --voice kalle",
    "llasa read book.txt -o book.m4b --chapters 1-3 --lines",
    "llasa read book.epub -o book.m4b --redo 17,40-42",
    "Stopped, it goes on where it was: the same command again. Each line is kept in a folder beside the "
    "output (book.m4b.lines); --redo says some of them again, and all else stays as it is.",
    "In the text, [pause:1.5] is a silence of so many seconds, and [voice:kalle] another speaker, until "
    "[voice:].",
    """--say-as words.toml: lines like  Leicester = "Lester".""",
)


def read(
    book: Annotated[Path, typer.Argument(help="epub, md or txt file; headings begin chapters.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="m4b, m4a, mp3, opus, flac or wav file.")
    ] = Path("book.m4b"),
    voice: Annotated[str | None, typer.Option(help="A name of 'llasa voice list', or a voice file.")] = None,
    effort: Annotated[int | None, typer.Option(help="Candidates a line: the judge keeps the best.")] = None,
    judge: JudgeOption = None,
    target: TargetOption = None,
    deadline: DeadlineOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same speech.")] = 0,
    language: LanguageOption = None,
    redo: Annotated[str | None, typer.Option(help="Say these lines again, as 17,40-42.")] = None,
    chapters: Annotated[str | None, typer.Option(help="Only these chapters, as 1,3-5.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="List the lines by number, say nothing.")] = False,
    say_as: Annotated[Path | None, typer.Option(help="TOML of words and how to read them.")] = None,
    loudness: Annotated[float, typer.Option(help="Of each chapter, LUFS.", min=-40, max=-10)] = -20.0,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    adapter: AdapterOption = None,
    engine: EngineOption = "native",
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Read a book aloud: chapters, subtitles with word times, resume, and any line again."""
    from llasa.config import strings
    from llasa.longform.audiobook import check_output
    from llasa.longform.book import read_book

    wanted = Wanted(effort, judge, target, deadline, None, None, False, False)
    wanted.check(True)
    check_output(output)
    text, respell = read_book(book), strings(say_as) if say_as else {}
    chosen = Chosen(bundle, engine, dtype, codec, adapter)
    reading = _reading(chosen, wanted, voice, seed, language or text.language or None, text, output)
    script = _script(text, chapters, reading.language, respell)
    reading.check(script)
    if lines:
        return _list(script, set(reading.kept(script)), json)
    _bound(text, script, reading, redo, output, loudness, json)


def _bound(
    book: "Book", script: "list[Line]", reading: "Reading", redo: str | None, output: Path, lufs: float,
    json: bool,
) -> None:  # fmt: skip
    from llasa.data.prepare import stoppable
    from llasa.longform.audiobook import publish
    from llasa.provenance import provenance

    again = _numbers(redo, script[-1].number, "Reading --redo")
    if missing := again - {line.number for line in script}:
        found = f"line {min(missing)} is not in the chosen chapters"
        raise ConfigError(f"Reading --redo: {found}. See --lines.")
    made = provenance(reading.synthesizer.bundle.name, reading.voice.name if reading.voice else None)
    said: list[Read] = []
    with reading.held(), stoppable(f"Reading to '{output}'", "all lines are kept") as check:
        for one in tracked(reading.lines(script, again), "Reading"):
            said.append(one)
            check()
        report = publish(output, book, said, made, lufs)
    emit(report) if json else _tell(report, said)


def _reading(
    chosen: Chosen, wanted: Wanted, voice: str | None, seed: int, language: str | None, book: "Book",
    output: Path,
) -> "Reading":  # fmt: skip
    from llasa.longform.reading import Reading, not_folder

    folder = output.with_name(f"{output.name}.lines")
    not_folder(folder)
    speaker = chosen.opened()
    first = book.chapters[0]
    tongue = language or speaker.bundle.language(" ".join((first.title, *first.paragraphs)))
    listens = wanted.judged or speaker.bundle.judge is not None
    search = wanted.effort_of(speaker) if listens else None
    return Reading(speaker, folder, speaker.voice(voice), search, seed, tongue, chosen.sampling)


def _script(book: "Book", chapters: str | None, language: str, respell: dict[str, str]) -> "list[Line]":
    from llasa.longform.script import lines_of

    script = lines_of(book, language, respell)
    wanted = _numbers(chapters, len(book.chapters), "Reading --chapters")
    chosen = [line for line in script if not wanted or line.chapter + 1 in wanted]
    if not chosen:
        raise InputError("Reading the book: found nothing that can be said there. Choose other chapters.")
    return chosen


def _numbers(words: str | None, most: int, doing: str) -> set[int]:
    from llasa.longform.reading import numbers_of

    return set() if words is None else set(numbers_of(words, most, doing))


def _list(script: "Sequence[Line]", kept: set[int], json: bool) -> None:
    if json:
        rows = [{"number": one.number, "chapter": one.chapter + 1, "text": one.text, "voice": one.voice,
                 "said": one.number in kept} for one in script]  # fmt: skip
        return emit({"lines": rows})
    for one in script:
        speaker = f" [{one.voice}]" if one.voice else ""
        print(f"{one.number:6} {'*' if one.number in kept else ' '} {one.chapter + 1:3}{speaker} {one.text}")
    note(f"{len(script)} lines, {len(kept)} of them said (*).")


def _tell(report: dict[str, Any], said: "Sequence[Read]") -> None:
    for one in report["doubtful"]:
        why = ", ".join(one["missed"]) or " ".join(one["warnings"])
        note(f"line {one['number']}: {why} -- {one['text']}")
    if doubtful := [str(one["number"]) for one in report["doubtful"]]:
        note(f"{len(doubtful)} of {len(said)} lines were not heard as written. Say them again: "
             f"--redo {','.join(doubtful)}")  # fmt: skip
    note(f"{report['duration_s']} s of speech in {report['lines']} lines")
    print(report["output"])
