"""`llasa prepare`: recordings with texts, as people have them, to shards that training reads."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note
from llasa.errors import ConfigError

if TYPE_CHECKING:
    from llasa.codec.base import Codec
    from llasa.data.prepare import Prepared, Progress, Watch
    from llasa.data.sources import Source

EPILOG = examples(
    "llasa prepare LJSpeech-1.1 check.html --check",
    "llasa prepare LJSpeech-1.1 out/ljspeech",
    "llasa prepare cv-corpus/it out/italian --kind common-voice --held-out speakers",
    "llasa prepare manifest.jsonl out/xcodec2 --bundle HKUSTAudio/Llasa-1B --ray",
    "llasa prepare recordings out/recordings --set max_s=20 --set lufs=-20 --max-rejects 0.5",
)
PAGE = "check.html"
LOG_EVERY_S = 60.0


def prepare(
    source: Annotated[Path, typer.Argument(help="A data set: its folder, manifest, table or archive.")],
    out: Annotated[
        Path | None, typer.Argument(help="Folder of the shards; with --check the page to write.")
    ] = None,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    kind: Annotated[str | None, typer.Option(help="What SOURCE is, where that is not plain.")] = None,
    language: Annotated[str, typer.Option(help="Of rows that do not say, such as de.")] = "en",
    tokenizer: Annotated[Path | None, typer.Option(help="Its folder, for rows that are token ids.")] = None,
    held_out: Annotated[
        str | None, typer.Option(help="source, text, speakers or none; the first two by themselves.")
    ] = None,
    max_rejects: Annotated[
        float, typer.Option(min=0, max=1, help="Stop at a greater share of bad rows.")
    ] = 0.2,
    ray: Annotated[bool, typer.Option("--ray", help="Encode on all cores, GPUs or machines of Ray.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the options.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read, and report what is wrong.")] = False,
    recognizer: Annotated[
        str | None, typer.Option(help="With --check: compare texts with what it hears.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Turn a data set into shards of codes; bad rows are put aside with a reason, in OUT/rejects.jsonl.

    Stopped or killed, the same command goes on where it was.
    """
    from llasa.data.sources import open_source

    _refuse_idle(check, set_, held_out, ray, recognizer)
    opened = open_source(source, kind, language=language, tokenizer=tokenizer)
    if check:
        return _check(opened, (bundle, codec), recognizer, out or Path(PAGE), json)
    if out is None:
        raise ConfigError("Preparing: found no folder for the shards. Give SOURCE and OUT, or --check.")
    changes = [*(set_ or []), *([f"held_out={held_out}"] if held_out else [])]
    done = _prepared(opened, out, partial(load_codec, bundle, codec), changes, max_rejects, ray)
    _tell(done, json)


def _refuse_idle(
    check: bool, set_: list[str] | None, held_out: str | None, ray: bool, recognizer: str | None
) -> None:
    """Raise ConfigError for options that would change nothing."""
    given = {"--set": set_, "--held-out": held_out, "--ray": ray} if check else {"--recognizer": recognizer}
    if idle := ", ".join(name for name, value in given.items() if value):
        todo = "Leave it out with --check" if check else "Add --check, or leave it out"
        raise ConfigError(f"Preparing: found {idle}, which would change nothing. {todo}.")


def load_codec(bundle: str, codec: str | None) -> "Codec":
    """Return the codec of a bundle, or of a codec's own folder: what each worker calls."""
    if codec is not None and Path(codec).is_dir():
        from llasa import codec as codecs

        return codecs.load_codec(codec)
    from llasa.bundle import load_bundle

    return load_bundle(bundle, codec=codec).codec


def _prepared(
    source: "Source", out: Path, load: "partial[Codec]", changes: Sequence[str], max_rejects: float, ray: bool
) -> "Prepared":
    from llasa import config
    from llasa.data.cluster import on_ray
    from llasa.data.encode import Options
    from llasa.data.prepare import prepare as run

    options = config.build(Options, config.assignments(changes), "Reading the options of prepare")
    drive = on_ray(load, options) if ray else None
    with _shown() as watch:
        return run(source, out, load(), options, max_rejects=max_rejects, drive=drive, watch=watch)


@contextmanager
def _shown() -> "Iterator[Watch]":
    """Give what shows progress on standard error: a bar for a person, a line a minute for a log."""
    if not sys.stderr.isatty():
        yield logged(time.monotonic)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        "{task.fields[told]}",
    )
    bar = Progress(
        *(TextColumn(one) if isinstance(one, str) else one for one in columns),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("Preparing", total=None, told="")
        yield lambda step: bar.update(task, completed=step.rows, total=step.total, told=_rate(step))


def logged(clock: Callable[[], float]) -> "Watch":
    """Return what writes a line a minute on standard error; `clock` gives seconds."""
    due = clock() + LOG_EVERY_S

    def watch(step: "Progress") -> None:
        nonlocal due
        if clock() < due:
            return
        due = clock() + LOG_EVERY_S
        left_s = step.elapsed_s * (step.total - step.rows) / max(1, step.rows - step.before)
        note(f"Preparing: {step.rows} of {step.total} rows, {left_s / 60:.0f} min left, {_rate(step)}")

    return watch


def _rate(step: "Progress") -> str:
    factor = step.elapsed_s / step.speech_s if step.speech_s else 0.0
    return f"{step.speech_s / 3600:.2f} h, real-time factor {factor:.3f}, {step.rejected} rejects"


def _check(
    source: "Source", model: tuple[str, str | None], recognizer: str | None, page: Path, json: bool
) -> None:
    from llasa.bundle import load_bundle
    from llasa.data import report
    from llasa.data.doctor import check

    report.check_ready(page)
    bundle: Any = load_bundle(
        model[0], codec=model[1]
    )  # its parts are cached properties, which fit no protocol
    findings = check(source, bundle=bundle, recognizer=recognizer)
    report.write(findings, page)
    if json:
        return emit({"report": page} | findings.report())
    odd = "; ".join(one.title for one in findings.checks if one.verdict != "good") or "nothing"
    note(f"{findings.clips} of {findings.rows} rows are usable, {findings.hours:.2f} h. To look at: {odd}.")
    print(page)


def _tell(done: "Prepared", json: bool) -> None:
    facts: dict[str, Any] = asdict(done)
    if json:
        return emit(facts)
    rejected = ", ".join(f"{count} {reason}" for reason, count in done.rejects.items()) or "none"
    note(
        f"{done.kept} of {done.rows} rows, {done.speech_s / 3600:.2f} h in {done.shards} shards "
        f"({done.shards_before} were there), {done.held_out} held out. Rejects: {rejected}."
    )
    print(done.folder)
