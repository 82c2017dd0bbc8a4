"""`llasa doctor`: what is installed here, what it can run and how fast, and whether the bundle is whole."""

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llasa.cli.terminal import BundleOption, CodecOption, JsonOption, emit, examples
from llasa.errors import LlasaError

if TYPE_CHECKING:
    from llasa.bundle import Bundle

EPILOG = examples(
    "llasa doctor", "llasa doctor --bundle my-bundle", "llasa doctor --no-probe", "llasa doctor --json"
)
PACKAGES = (
    "llasa",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "av",
    "soxr",
)
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "sve")  # what speed depends on
EXTRAS = {
    "train": "training: SFT and GRPO with TRL, LoRA adapters with peft, and the recipes",
    "eval": "recognisers and measures that judges and the recipes use",
    "gguf": "the llama.cpp engine, and export to GGUF",
    "whisper": "faster-whisper, a quicker Whisper for judges",
    "serve": "llasa serve: OpenAI's speech API, Home Assistant, judges as a service",
    "studio": "the page of llasa serve",
    "ray": "llasa prepare --ray: on a cluster",
    "languages": "numbers, dates and money beside English, Chinese by pinyin",
    "docs": "make docs: these pages as a site",
    "dev": "what the tests and checks of this package need",
}
ENGINES = {  # name -> what it is, the package it needs and the extra that brings it
    "native": ("PyTorch and transformers, in this process", None, None),
    "gguf:FILE": ("llama.cpp, in this process", "llama_cpp", "gguf"),
    "remote:URL#MODEL": ("a server for completions: vLLM or llama.cpp's", None, None),
}
GIB = 2**30
Rows = Sequence[Sequence[object]]
Section = tuple[str, Sequence[str], Rows]  # heading, columns if they have names, rows


def doctor(
    bundle: BundleOption = "starter",
    codec: CodecOption = None,
    probe: Annotated[bool, typer.Option(help="Measure speed, for about four seconds.")] = True,
    json: JsonOption = False,
) -> None:
    """Show what is installed and where, check the bundle's files, and measure what this machine can run."""
    whole, report, problem = _bundle(bundle, codec)
    found: dict[str, Any] = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "engines": _engines(),
        "extras": _extras(),
        "files": _files(report),
        "bundle": report,
    }
    if probe:
        found["speed"], failed = _speed(whole) if whole else (None, None)
        found["published"] = _published()
        problem = problem or failed
    emit(found) if json else _print(list(_sections(found)))
    if problem:
        raise problem


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, object]]:
    import torch

    from llasa.device import fastest_dtype
    from llasa.probe import free_memory

    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    devices = [torch.device(name) for name in names]
    return [
        {
            "device": str(device),
            "name": _device_name(device),
            "dtype": str(fastest_dtype(device))[6:],
            "free_bytes": free_memory(device),
        }
        for device in devices
    ]


def _device_name(device: Any) -> str:
    import torch

    if device.type != "cpu":
        return torch.cuda.get_device_properties(device).name
    capabilities = torch.cpu.get_capabilities()
    features = [key for key in FEATURES if capabilities.get(key)]
    return f"{torch.get_num_threads()} threads, {platform.machine()}, {' '.join(features)}"


def _engines() -> dict[str, dict[str, object]]:
    return {
        name: {"is": what, "here": package is None or find_spec(package) is not None, "extra": extra}
        for name, (what, package, extra) in ENGINES.items()
    }


def _extras() -> dict[str, dict[str, object]]:
    """Return each extra of the installed package, what it adds, and which of its packages are missing."""
    needed: dict[str, list[str]] = {}
    for line in (metadata.requires("llasa") or []) if _version("llasa") else []:
        match = re.match(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if match:
            needed.setdefault(match[2], []).append(match[1])
    return {
        extra: {"adds": EXTRAS.get(extra, ""), "missing": [name for name in names if _version(name) is None]}
        for extra, names in needed.items()
    }


def _bundle(name: str, codec: str | None) -> "tuple[Bundle | None, dict[str, Any], LlasaError | None]":
    """Return the bundle, what is known of it, and what is wrong with it."""
    from llasa.bundle import load_bundle

    try:
        bundle = load_bundle(name, codec=codec)
        report = _described(bundle)
    except LlasaError as error:
        return None, {"name": name, "whole": False, "problem": str(error)}, error
    return bundle, report, None


def _described(bundle: "Bundle") -> dict[str, Any]:
    from llasa.hub import check

    manifest = bundle.manifest
    sealed = [bundle.folder / path for path in manifest.files]
    files = sealed or [path for path in bundle.folder.rglob("*") if path.is_file()]
    hashes = "bundle.toml" if sealed else "the Hub" if check(bundle.folder) else None
    return {
        "name": bundle.name,
        "whole": True,
        "compared_with": hashes,
        "folder": str(bundle.folder),
        "files": len(files),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "prompt": manifest.lm.family,
        "reads": manifest.lm.text,
        "codec": manifest.codec.name or manifest.codec.kind,
        "codec_from": manifest.codec.source,
        "voices": bundle.voices.names(),
    }


def _files(report: dict[str, Any]) -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from llasa.voice import default_voice_folder

    voices = default_voice_folder()
    own = {"voices": voices, "words": voices.parent / "words.toml", "hub": HF_HUB_CACHE}
    return {"bundle": report.get("folder", ""), **{key: str(path) for key, path in own.items()}}


def _speed(bundle: "Bundle") -> tuple[dict[str, Any], LlasaError | None]:
    """Return how fast the bundle spoke, and what kept it from that."""
    from llasa.probe import memory, speak

    needed, free = memory(bundle)
    if free is not None and needed > free:
        found = f"its weights take {_gib(needed)}, {_gib(free)} of memory are free"
        return {"problem": f"Not tried: {found}. Close other programs, or use a smaller model."}, None
    try:
        spoken = speak(bundle)
    except LlasaError as error:
        return {"problem": str(error)}, error
    return (asdict(spoken) if spoken else {"problem": "No speech came."}), None


def _published() -> dict[str, Any]:
    from llasa.device import chosen_device, chosen_dtype
    from llasa.probe import estimate

    device = chosen_device(None)
    models = {
        one.shape.name: {
            "bytes": one.bytes,
            "free_bytes": one.free,
            "fits": one.fits,
            "step_s": one.step_s,
            "real_time_factor": one.real_time_factor,
        }
        for one in estimate()
    }
    return {"device": str(device), "dtype": str(chosen_dtype(None, device))[6:], "models": models}


def _sections(found: dict[str, Any]) -> Iterable[Section]:
    packages = found["packages"]
    yield (
        "Packages",
        (),
        [("python", found["python"]), *((k, v or "not installed") for k, v in packages.items())],
    )
    devices = [
        (one["device"], one["dtype"], _gib(one["free_bytes"]), one["name"]) for one in found["devices"]
    ]
    yield "Devices", ("device", "dtype", "free memory", ""), devices
    engines = found["engines"].items()
    yield "Engines (--engine)", (), [(name, _here(one), one["is"]) for name, one in engines]
    extras = [(name, _extra(one), one["adds"]) for name, one in found["extras"].items()]
    yield (
        "Extras: pip install 'llasa[NAME]'",
        (),
        extras or [("none are listed: install the package with pip",)],
    )
    yield "Files", (), [(FILES[key], path or "not found") for key, path in found["files"].items()]
    yield f"Bundle '{found['bundle']['name']}'", (), list(_bundle_rows(found["bundle"]))
    if found.get("speed"):
        yield f"Speed of this bundle, measured{_busy()}", (), list(_speed_rows(found["speed"]))
    if found.get("published"):
        yield _published_section(found["published"])


FILES = {
    "bundle": "bundle",
    "voices": "your voices",
    "words": "your pronunciations",
    "hub": "models from the Hub",
}


def _busy() -> str:
    """Return a warning where other programs keep the processor busy: they slow what is measured."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return (
        f" (load {load:.1f} on {os.cpu_count()} cores: slower than alone)"
        if load > (os.cpu_count() or 1)
        else ""
    )


def _here(engine: dict[str, Any]) -> str:
    return "yes" if engine["here"] else f"no: pip install 'llasa[{engine['extra']}]'"


def _extra(extra: dict[str, Any]) -> str:
    return f"lacks {', '.join(extra['missing'])}" if extra["missing"] else "installed"


def _bundle_rows(bundle: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if not bundle["whole"]:
        yield "problem", bundle["problem"]
        return
    against = bundle["compared_with"]
    state = f"whole: as {against} says" if against else "loadable; there are no hashes to compare with"
    yield "files", f"{bundle['files']}, {bundle['megabytes']:,} MB, {state}"
    yield "language model", f"prompt {bundle['prompt']}, reads text as {bundle['reads']}"
    yield "codec", bundle["codec"] + (f" from {bundle['codec_from']}" if bundle["codec_from"] else "")
    yield "voices", " ".join(bundle["voices"]) or "none"


def _speed_rows(speed: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if "problem" in speed:
        yield "problem", speed["problem"]
        return
    yield "real-time factor", f"{_factor(speed['real_time_factor'])}, codec included"
    yield "language model", f"{speed['codes_per_s']:,.0f} codes a second, one candidate"
    first = speed["first_audio_s"]
    yield "first sentence", f"heard after {first:.2f} s" if first else "not done within the time of the probe"
    yield "loading", f"{speed['load_s']:.1f} s"


def _published_section(published: dict[str, Any]) -> Section:
    rows = [
        (name, _gib(one["bytes"]), _fits(one), _factor(one["real_time_factor"]))
        for name, one in published["models"].items()
    ]
    where = f"{published['device']} in {published['dtype']}"
    how = "estimated from one layer and the head, timed; the codec's time comes on top"
    return f"Published Llasa on {where}: {how}", ("model", "memory", "fits now", "real-time factor"), rows


def _fits(one: dict[str, Any]) -> str:
    return {True: "yes", False: "no", None: "not known"}[one["fits"]]


def _factor(factor: float | None) -> str:
    if factor is None:
        return "not measured"
    ratio = f"{1 / factor:.3g} times as fast as speech" if factor < 1 else "slower than speech"
    return f"{factor:.3g} ({ratio})"


def _gib(size: int | None) -> str:
    return "not known" if size is None else f"{size / GIB:.1f} GiB"


def _print(sections: list[Section]) -> None:
    """Print tables: for a terminal with its width and colours, else plain text in columns."""
    from rich.console import Console

    console = Console()
    for heading, columns, rows in sections:
        if console.is_terminal:
            _print_table(console, heading, columns, rows)
        else:
            print("\n".join([heading, *_lines([columns, *rows] if columns else rows)]))


def _print_table(console: Any, heading: str, columns: Sequence[str], rows: Rows) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns or ("",) * len(rows[0]):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(Text(f"\n{heading}", style="bold"))
    console.print(table)


def _lines(rows: Rows) -> list[str]:
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    return [("  " + "  ".join(f"{cell!s:{width}}" for cell, width in row)).rstrip() for row in padded]
