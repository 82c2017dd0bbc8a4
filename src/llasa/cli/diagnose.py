"""`llasa diagnose`: which word of a recording went wrong, and whose fault it most likely is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.terminal import BundleOption, JsonOption, emit, examples, note

if TYPE_CHECKING:
    from llasa.diagnose import Diagnosis, Finding

EPILOG = examples(
    'llasa diagnose llasa.wav --text "What it should say."',
    'llasa diagnose llasa.wav --text "What it should say." --clean me.wav --second pocketsphinx',
)
MAX_S = 120.0  # recognisers take a sound whole


def diagnose(
    audio: Annotated[Path, typer.Argument(help="wav, flac, ogg or mp3, up to 2 minutes.")],
    text: Annotated[str, typer.Option(help="What it should say.")],
    clean: Annotated[
        Path | None, typer.Option(help="The same text by a person or another synthesiser: tests the codec.")
    ] = None,
    second: Annotated[
        str, typer.Option(help="A recogniser to check the bundle's by: 'held-out', 'pocketsphinx', ...")
    ] = "held-out",
    bundle: BundleOption = "starter",
    json: JsonOption = False,
) -> None:
    """Tell which words of a recording went wrong, and whose fault it is: model, codec or recogniser."""
    from llasa.audio import read
    from llasa.bundle import load_bundle
    from llasa.diagnose import diagnose as examine

    sound = read(audio, max_s=MAX_S)
    reference = read(clean, max_s=MAX_S) if clean else None
    found = examine(sound, text, load_bundle(bundle), reference, second)
    if json:
        return emit(found.to_json())
    _print(found)
    _tell(found)


def _print(found: "Diagnosis") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("word", "from s", "to s", "first heard", "second heard", "fault", box=None)
    for one in found.findings:
        cells = (one.word.text or "(added)", _time(one.word.start_s), _time(one.word.end_s))
        told = (_heard(one, "first"), _heard(one, "second"), one.fault or "")
        table.add_row(*(Text(cell) for cell in (*cells, *told)), style="bold" if one.fault else None)
    Console(width=None if Console().is_terminal else 100, highlight=False).print(table)


def _tell(found: "Diagnosis") -> None:
    """Tell the evidence, then the sum of it."""
    for one in found.wrong:
        note(f"{one.word.text or '(added)'}: {one.fault}")
        for sentence in one.evidence:
            note(f"  {sentence}")
    listened = ", ".join(f"{name} is {who}" for name, who in found.recognizers.items())
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in found.errors.items())
    note(f"{len(found.wrong)} of {len(found.findings)} words went wrong; {listened}; errors: {rates}")


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _heard(finding: "Finding", name: str) -> str:
    hearing = finding.hearings.get(name)
    if hearing is None:
        return ""
    return hearing.heard or "(nothing)"
