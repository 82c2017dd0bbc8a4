"""`llasa doctor`: what is installed here, what it can use, and whether the bundle is whole."""

import platform
import re
from importlib import metadata

from llasa.cli.terminal import BundleOption, JsonOption, emit, examples, note
from llasa.errors import BundleError

EPILOG = examples("llasa doctor", "llasa doctor --bundle my-bundle", "llasa doctor --json")
PACKAGES = ("llasa", "torch", "transformers", "tokenizers", "safetensors", "numpy", "soundfile", "av", "soxr")
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "sve")  # what speed depends on
EXTRAS = {
    "train": "the training code and the recipe in recipes/",
    "serve": "nothing yet: for a server to come",
    "eval": "the recognisers and measures that the recipes use",
    "gguf": "nothing yet: for an engine to come",
    "ray": "nothing yet: for clusters to come",
}


def doctor(bundle: BundleOption = "starter", json: JsonOption = False) -> None:
    """Show versions, devices, extras, and check the files of the bundle."""
    report, problem = _bundle(bundle)
    found = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "extras": _extras(),
        "bundle": report,
    }
    emit(found) if json else _print(found)
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

    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [
        {"device": name, "name": _device_name(name), "dtype": str(fastest_dtype(torch.device(name)))[6:]}
        for name in names
    ]


def _device_name(name: str) -> str:
    import torch

    if name == "cpu":
        capabilities = torch.cpu.get_capabilities()
        features = [key for key in FEATURES if capabilities.get(key)]
        return f"{torch.get_num_threads()} threads, {platform.machine()}, {' '.join(features)}"
    properties = torch.cuda.get_device_properties(name)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


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


def _bundle(name: str) -> tuple[dict[str, object], BundleError | None]:
    """Return what is known of the bundle, and what is wrong with it."""
    from llasa.bundle import load_bundle
    from llasa.voice import default_voice_folder

    try:
        bundle = load_bundle(name)
    except BundleError as error:
        return {"name": name, "whole": False, "problem": str(error)}, error
    size = sum((bundle.folder / path).stat().st_size for path in bundle.manifest.files)
    return {
        "name": bundle.name,
        "whole": True,
        "folder": str(bundle.folder),
        "files": len(bundle.manifest.files),
        "megabytes": round(size / 1e6, 1),
        "codec": bundle.manifest.codec.name,
        "voices": bundle.voices.names(),
        "your_voices": str(default_voice_folder()),
    }, None


def _print(found: dict[str, object]) -> None:
    for title, content in found.items():
        if not content:
            continue
        print(title)
        for line in _lines(content):
            print(f"  {line}")
    if not found["extras"]:
        note("Extras are listed once the package is installed with pip.")


def _lines(content: object) -> list[str]:
    if isinstance(content, dict):
        return [f"{key:14} {_line(value)}" for key, value in content.items()]
    return [_line(value) for value in content] if isinstance(content, list) else [str(content)]


def _line(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_line(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)
