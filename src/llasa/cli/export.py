"""`llasa export`: bundles for the Hugging Face Hub, language models for llama.cpp. Uploads nothing."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples, note
from llasa.errors import ConfigError

app = typer.Typer(
    name="export",
    help="Models for publishing and for other programs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Parts = Literal["lm", "codec", "all"]
GGUF_EPILOG = "\n\n".join(
    (
        "Which --quant: q8_0 is nearest to the original at about half the size of bf16. q6_k and q5_k_m are "
        "smaller and faster, and still advised for Llasa speech. Below that it suffers: plain q4_0 is "
        "clearly worse. bf16, f16 and f32 are as large as a model's own files. Listen before you choose.",
        examples(
            "llasa export gguf --bundle my-bundle -o model.gguf",
            "llasa export gguf --bundle HKUSTAudio/Llasa-1B -o 1b.gguf --quant q5_k_m",
            'llasa say "Hello." --bundle my-bundle --engine gguf:model.gguf',
        ),
    )
)


@app.command(
    epilog=examples(
        "llasa export hf --bundle my-bundle -o upload --repo me/my-voice --license apache-2.0",
        "llasa export hf --bundle starter --lm out/grpo -o upload --name starter-2",
        "llasa export hf --bundle HKUSTAudio/Llasa-1B --adapter out/lora -o upload --parts lm",
    )
)
def hf(
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    repo: Annotated[
        str | None, typer.Option(help="Its id on the Hub, OWNER/NAME, for card and upload.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the bundle shall be called; as it is.")] = None,
    lm: Annotated[
        Path | None, typer.Option(help="A trainer's output (SFT, GRPO), as the language model.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A LoRA folder, merged into the language model.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="As the Hub writes it: apache-2.0, cc-by-nc-4.0.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="The Hub id of what it was trained from.")] = None,
    parts: Annotated[Parts, typer.Option(help="The bundle, or one part of it alone.")] = "all",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a bundle as a folder for the Hugging Face Hub, with a model card; then upload it yourself."""
    from llasa import shortage
    from llasa.bundle import load_bundle
    from llasa.export.hf import Changes, export_hf

    changes = Changes(repo, name, lm, adapter, license, base_model)
    opened = load_bundle(bundle, codec=codec)
    size = sum(path.stat().st_size for path in opened.folder.rglob("*.safetensors"))
    with shortage.told(f"Exporting to '{output}'", output, size):
        made = export_hf(opened, output, changes, parts, force)
    upload = shlex.join(("hf", "upload", made.repo, str(made.folder)))
    if json:
        return emit({"folder": made.folder, "files": made.files, "bytes": made.size, "upload": upload})
    note(f"{len(made.files)} files, {_size(made.size)}. Read the card, README.md, before you publish.")
    if made.license is None:
        note("The card states no licence. Give --license, such as apache-2.0.")
    if repo is None:
        note(f"The card calls it {made.repo}. Give --repo with your own name on the Hub.")
    note(f"To upload it: {upload}")
    print(made.folder)


@app.command(epilog=GGUF_EPILOG)
def gguf(
    output: Annotated[Path, typer.Option("--output", "-o", help="The .gguf file to write.")],
    bundle: BundleOption = "starter",
    quant: Annotated[
        str, typer.Option(help="How weights are stored: f32 bf16 f16 q8_0 q6_k q5_k_m ...")
    ] = "q8_0",
    json: JsonOption = False,
) -> None:
    """Write a language model, a bundle's or a trainer's, as one GGUF file for llama.cpp."""
    if output.suffix != ".gguf":
        raise ConfigError(f"Exporting to '{output}': expected a name that ends in .gguf. Choose one.")
    from llasa.audio import check_output
    from llasa.export.gguf import export_gguf

    check_output(output, "pcm")  # its folder exists and may be written to
    with _progress(f"Writing {quant}") as watched:
        export_gguf(_language_model(bundle), output, quant, on_progress=watched)
    size = output.stat().st_size
    if json:
        return emit({"file": output, "quant": quant, "bytes": size})
    note(f"{_size(size)}, {quant}. Speak with it: {shlex.join(_speaking(bundle, output))}")
    print(output)


def _language_model(bundle: str) -> Path:
    """Return the folder of a bundle's language model, or of one that stands alone: no codec is needed."""
    from llasa.bundle import MANIFEST, load_bundle
    from llasa.hub import fetched

    if bundle != "starter":
        folder = fetched(bundle)
        if (folder / "config.json").is_file() and not (folder / MANIFEST).is_file():
            return folder
    found = load_bundle(bundle)
    return found.folder / found.manifest.lm.path


def _speaking(bundle: str, file: Path) -> tuple[str, ...]:
    return ("llasa", "say", "Hello.", "--bundle", bundle, "--engine", f"gguf:{file}")


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield what to tell bytes done and their total, or None where nobody is watching."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _size(bytes: int) -> str:
    return f"{bytes / 1e9:.2f} GB" if bytes >= 1e9 else f"{bytes / 1e6:.1f} MB"
