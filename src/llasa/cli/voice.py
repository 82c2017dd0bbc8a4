"""`llasa voice`: recordings to voices, kept under a name."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note
from llasa.errors import BundleError

if TYPE_CHECKING:
    from llasa.bundle import Bundle
    from llasa.core import Voice

app = typer.Typer(name="voice", help="Make and keep voices.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Lower-case letters, digits, '-' and '_'.")]


@app.command(
    epilog=examples(
        'llasa voice add ada ada.wav --text "What Ada says in it."',
        'llasa voice add me me.flac --text "..." --source "my microphone" --consent "It is me, and I agree."',
    )
)
def add(
    name: Name,
    audio: Annotated[Path, typer.Argument(help="wav, flac, ogg or mp3; 1 to 30 s of one speaker.")],
    text: Annotated[str, typer.Option(help="What is said in the recording.")],
    language: Annotated[
        str | None, typer.Option(help="Of these words, such as it, if the model reads several.")
    ] = None,
    source: Annotated[str, typer.Option(help="Where the recording comes from.")] = "",
    consent: Annotated[str, typer.Option(help="The speaker's consent, in words.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a voice of that name.")] = False,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    json: JsonOption = False,
) -> None:
    """Make a voice from a recording and what is said in it."""
    from llasa.audio import read
    from llasa.bundle import load_bundle
    from llasa.voice import MAX_S, MIN_S, create

    opened = load_bundle(bundle, codec=codec)
    opened.form(text, language or opened.language(text))  # refuses a transcript without words
    recording = read(audio, min_s=MIN_S, max_s=MAX_S)
    made = create(name, recording, text, opened.codec, source, consent)
    made = replace(made, language=language or "")
    path = opened.voices.add(made, overwrite)
    if json:
        return emit(_described(opened, made))
    model = "" if bundle == "starter" else f" --bundle {shlex.quote(bundle)}"
    seconds = f"{_seconds(opened, made):.1f} s"
    note(f"Added voice '{name}', {seconds}. Try: llasa say \"Hello.\" --voice {name}{model}")
    print(path)


@app.command("list", epilog=examples("llasa voice list", "llasa voice list --json"))
def list_(bundle: BundleOption = "starter", codec: CodecOption = None, json: JsonOption = False) -> None:
    """List the voices of a bundle and your own."""
    from llasa.bundle import load_bundle

    opened = load_bundle(bundle, codec=codec)
    rows = [_listed(opened, name) for name in opened.voices.names()]
    if json:
        return emit({"default": opened.default_voice, "voices": rows})
    for row in rows:
        if row["problem"]:
            print(f"! {row['name']:20} {row['problem']}")
            continue
        state = "  (made for another codec)" if not row["usable"] else ""
        star = "*" if row["name"] == opened.default_voice else " "
        print(f"{star} {row['name']:20} {row['seconds']:5} s  {row['source'] or '-'}  {row['path']}{state}")


@app.command(epilog=examples("llasa voice show ada"))
def show(
    name: Name, bundle: BundleOption = "starter", codec: CodecOption = None, json: JsonOption = False
) -> None:
    """Show all that is known of a voice."""
    from llasa.bundle import load_bundle

    opened = load_bundle(bundle, codec=codec)
    row = _described(opened, opened.voices.get(name))
    if json:
        return emit(row)
    for key, value in row.items():
        print(f"{key:10} {value}")


@app.command(epilog=examples("llasa voice remove ada"))
def remove(name: Name, bundle: BundleOption = "starter") -> None:
    """Delete a voice that you added."""
    from llasa.bundle import load_bundle

    load_bundle(bundle).voices.remove(name)
    note(f"Removed voice '{name}'.")


def _listed(bundle: "Bundle", name: str) -> dict[str, object]:
    """Return a line of the list: one damaged voice must not hide the others."""
    try:
        return {**_described(bundle, bundle.voices.get(name)), "problem": None}
    except BundleError as error:
        path = str(bundle.voices.path(name))
        return {"name": name, "usable": False, "path": path, "problem": str(error)}


def _described(bundle: "Bundle", voice: "Voice") -> dict[str, object]:
    return {
        "name": voice.name,
        "seconds": round(_seconds(bundle, voice), 2),
        "text": voice.text,
        "language": voice.language,
        "source": voice.source,
        "consent": voice.consent,
        "codec": voice.codec,
        "usable": voice.codec == bundle.codec_name,
        "reference": voice.reference is not None,
        "path": str(bundle.voices.path(voice.name)),
    }


def _seconds(bundle: "Bundle", voice: "Voice") -> float:
    if voice.reference:
        return voice.reference.duration_s
    codec = bundle.manifest.codec
    return len(voice.codes) * codec.hop_length / codec.sample_rate
