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
    "error: share of the word that was heard otherwise. confidence: of the recogniser in what it heard. fit: "
    "how much better the word fits the sound than its absence, nats; below 0 it is hardly there.",
)
MAX_S = 120.0  # recognisers take a sound whole
ADDED = "(added)"
_FAULTS = {
    "model": "the model said it wrong",
    "codec": "the codec spoils it",
    "recogniser": "the recogniser misheard it",
    "unclear": "not clear whose fault it is",
}


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

    table = Table(
        "word", "start s", "end s", "heard first", "heard second", "fault", box=None, pad_edge=False
    )
    for one in found.findings:
        cells = (one.word.text or ADDED, _time(one.word.start_s), _time(one.word.end_s))
        told = (_heard(one, "first"), _heard(one, "second"), one.fault or "")
        table.add_row(*(Text(cell) for cell in (*cells, *told)), style="bold" if one.fault else None)
    Console(width=None if Console().is_terminal else 100, highlight=False).print(table)


def _tell(found: "Diagnosis") -> None:
    """Tell the evidence, then the sum of it."""
    for one in found.wrong:
        note(f"{one.word.text or ADDED}: {_FAULTS[one.fault or 'unclear']}")
        for sentence in one.evidence:
            note(f"  {sentence}")
    for ear, who in found.recognizers.items():
        own = {name[len(ear) + 2 :]: rate for name, rate in found.errors.items() if name.startswith(ear)}
        told = ", ".join(f"{sound or 'recording'} {rate:.0%}" for sound, rate in own.items())
        note(f"{ear} recogniser ({who}), share heard otherwise: {told}")
    added = sum(not one.word.text for one in found.findings)
    wrong, words = len(found.wrong) - added, len(found.findings) - added
    note(f"{wrong} of {words} words went wrong" + (f", added: {added}" if added else ""))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _heard(finding: "Finding", name: str) -> str:
    """Return what was heard, a dash if that was nothing."""
    hearing = finding.hearings.get(name)
    return hearing.heard or "-" if hearing else "-"
