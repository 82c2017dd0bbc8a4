"""`llasa codec`: sound to codes and back, without the language model."""

import json as json_format
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note
from llasa.errors import ConfigError, InputError

if TYPE_CHECKING:
    from llasa.codec.base import Codec
    from llasa.core import Codes

Item = TypeVar("Item")

app = typer.Typer(name="codec", help="Sound to codes and back.", no_args_is_help=True, rich_markup_mode=None)

MAX_S = 600.0  # the codecs take a sound whole, so its length is memory
SUFFIXES = (".safetensors", ".json")

Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]


@app.command(epilog=examples("llasa codec encode speech.wav -o speech.json"))
def encode(
    audio: Annotated[Path, typer.Argument(help="wav, flac, ogg or mp3, up to 10 minutes.")],
    output: Output,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    json: JsonOption = False,
) -> None:
    """Turn a sound file into codes: a .safetensors or .json file."""
    from llasa.audio import read, replace_file
    from llasa.bundle import load_bundle

    _check_codes_file(output)
    sound = read(audio, max_s=MAX_S)
    coder = load_bundle(bundle, codec=codec).codec
    began = time.perf_counter()
    codes = coder.encode([sound])[0]
    elapsed_s = time.perf_counter() - began
    replace_file(output, _packed(codes, coder.name, output.suffix))
    _tell(output, coder.name, len(codes), sound.duration_s, elapsed_s, json)


@app.command(epilog=examples("llasa codec decode speech.json -o copy.wav"))
def decode(
    codes: Annotated[Path, typer.Argument(help="A file that 'llasa codec encode' wrote.")],
    output: Output,
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    json: JsonOption = False,
) -> None:
    """Turn codes back into a sound file: wav, flac, mp3, opus, aac or pcm."""
    from llasa.audio import check_output, write
    from llasa.bundle import load_bundle

    format = check_output(output)
    row, maker = _unpacked(codes)
    coder = load_bundle(bundle, codec=codec).codec
    if maker != coder.name:
        raise ConfigError(
            f"Decoding '{codes}': it was made with codec '{maker}', this bundle uses '{coder.name}'. "
            "Name its bundle with --bundle."
        )
    began = time.perf_counter()
    sound = coder.decode([row])[0]
    elapsed_s = time.perf_counter() - began
    write(output, sound, format)
    _tell(output, coder.name, len(row), sound.duration_s, elapsed_s, json)


@app.command(epilog=examples("llasa codec convert 'epoch=4-step=1400000.ckpt' -o xcodec2"))
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A .ckpt, .bin, .pt, .pth or .safetensors file, or a folder that holds one."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier result.")] = False,
    json: JsonOption = False,
) -> None:
    """Turn an older checkpoint of X-Codec2 or NeuCodec into a folder that loads.

    Reads the training checkpoint, the Hub's HKUSTAudio/xcodec2 and what the pip packages save; a pickle in a
    process of its own. Writes config.json and model.safetensors, 2.5 GB, as transformers names the tensors.
    A missing, unknown or misshapen tensor stops it. The result is loaded and encodes a known sound.
    """
    from dataclasses import asdict

    from llasa.codec.convert import convert

    report = convert(source, output, force)
    if json:
        return emit(asdict(report))
    groups = Counter(name.partition(".")[0] for name in report.dropped)
    left_out = ", ".join(f"{count} of {group}" for group, count in sorted(groups.items())) or "none"
    note(f"{report.codec}: {report.tensors} tensors. Left out: {left_out}.")
    note(f"The codes of the known clip have SHA-256 {report.codes_sha256}.")
    print(output)


@app.command(
    epilog=examples(
        "llasa codec check recordings --limit 50",
        "llasa codec check speech.wav --bundle my-bundle --recognizer whisper:openai/whisper-small",
        "llasa codec check recordings --codec my-codec/codec --recognizer '' --json",
    )
)
def check(
    source: Annotated[str, typer.Argument(help="A sound file, or a source as 'llasa prepare' takes.")],
    bundle: BundleOption = "starter",
    codec: Annotated[
        str | None, typer.Option(help="A codec's folder, instead of the bundle's own codec.")
    ] = None,
    recognizer: Annotated[
        str, typer.Option(help="pocketsphinx, whisper:MODEL, ctc:FOLDER ...; empty for none.")
    ] = "pocketsphinx",
    limit: Annotated[int, typer.Option(min=1, help="Clips to take, evenly over the source.")] = 100,
    kind: Annotated[str | None, typer.Option(help="Kind of the source, if it is not recognised.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .png to draw.")] = None,
    json: JsonOption = False,
) -> None:
    """Measure what a round trip through the codec leaves of speech: encode, decode, compare.

    STOI (0 to 1) and wide-band PESQ (1 to 4.64) compare the sound. CER and WER compare what a recogniser
    hears in the copy with what it hears in the original. Code usage is the share of the codebook that the
    clips use; it needs many clips: a few times as many codes as there are entries.
    """
    from dataclasses import asdict

    from llasa.recognizers import load_recognizer
    from llasa.train.codec.crops import pieces_of, whole
    from llasa.train.codec.panel import draw_report
    from llasa.train.codec.roundtrip import line, measure

    if output:
        _check_picture(output)
    coder = _codec_of(bundle, codec)
    listener = load_recognizer(recognizer, {}) if recognizer else None
    pieces, rejects = pieces_of(source, kind)
    clips = _watched(whole(pieces, limit, rejects=rejects), min(limit, len(pieces)))
    try:
        found, pairs = measure(coder, clips, listener)
    finally:
        for reject in rejects:
            note(f"Not used: {reject.detail}")
    if output:
        draw_report(output, found, {}, pairs[0])
    if json:
        rejected = [asdict(reject) for reject in rejects]
        return emit(found.report() | {"rejected": rejected, "recognizer": recognizer})
    print(f"{found.codec}, {len(found.passages)} clips: {line(found.measures)}")


def _codec_of(bundle: str, folder: str | None) -> "Codec":
    if folder is None:
        from llasa.bundle import load_bundle

        return load_bundle(bundle).codec
    from llasa.codec import load_codec

    return load_codec(folder)


def _watched(clips: Iterable[Item], total: int) -> Iterable[Item]:
    """Show a bar if a person is watching."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(clips, "Measuring", total, console=console, transient=True, disable=not console.is_terminal)


def _check_codes_file(path: Path) -> None:
    from llasa.audio import check_output

    if path.suffix not in SUFFIXES:
        raise ConfigError(f"Writing '{path}': codes go into .safetensors or .json files. Name such a file.")
    check_output(path, "pcm")  # its folder exists and may be written to


def _check_picture(path: Path) -> None:
    from llasa.audio import check_output

    if path.suffix != ".png":
        raise ConfigError(f"Drawing '{path}': pictures are .png files. Name such a file.")
    check_output(path, "pcm")  # its folder exists and may be written to


def _packed(codes: "Codes", codec: str, suffix: str) -> bytes:
    if suffix == ".json":
        return json_format.dumps({"codec": codec, "codes": codes}).encode() + b"\n"
    import numpy as np
    from safetensors.numpy import save

    return save({"codes": np.asarray(codes, np.int32)}, {"codec": codec})


def _unpacked(path: Path) -> tuple["Codes", str]:
    """Return the codes of a file and the codec that made them."""
    from safetensors import SafetensorError

    if path.suffix not in SUFFIXES:
        raise InputError(f"Reading codes from '{path}': it is no .safetensors or .json file. Name one.")
    try:
        codes, codec = (_from_json if path.suffix == ".json" else _from_safetensors)(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        todo = "Make it again with: llasa codec encode"
        raise InputError(f"Reading codes from '{path}': {error!r}. {todo}") from error
    if not codes or not all(type(code) is int for code in codes):
        raise InputError(f"Reading codes from '{path}': it holds no list of codes. Make it again.")
    return codes, codec


def _from_json(path: Path) -> tuple["Codes", str]:
    found = json_format.loads(path.read_text(encoding="utf-8"))
    return list(found["codes"]), str(found["codec"])


def _from_safetensors(path: Path) -> tuple["Codes", str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor("codes").tolist(), (file.metadata() or {})["codec"]


def _tell(output: Path, codec: str, n_codes: int, duration_s: float, elapsed_s: float, json: bool) -> None:
    factor = elapsed_s / duration_s
    if json:
        sizes = {"codes": n_codes, "duration_s": round(duration_s, 3), "elapsed_s": round(elapsed_s, 4)}
        return emit({"output": output, "codec": codec, **sizes, "real_time_factor": round(factor, 5)})
    note(
        f"{n_codes} codes, {duration_s:.2f} s, in {elapsed_s:.2f} s: real-time factor {factor:.3f} ({codec})"
    )
    print(output)
