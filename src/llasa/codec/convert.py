"""Older checkpoints of X-Codec2 and NeuCodec -> a folder in transformers' native layout.

Reads pickles in a child process alone (`unpickle.py`). Must not know: language models, bundles, the Hub.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llasa.codec import unpickle
from llasa.codec.fbank import SAMPLE_RATE
from llasa.codec.xcodec2 import DAMAGED, KINDS, Xcodec2Codec, read_config
from llasa.codec.xcodec2_names import Tensors, config_of, is_dropped, plain, to_native
from llasa.core import Audio
from llasa.errors import BundleError, ConfigError
from llasa.held import scratch
from llasa.weights import PICKLES

WRITTEN = {"config.json", "model.safetensors"}


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    codec: `kind@weights-hash` of the result. tensors: how many it has. dropped: names in the source that the
    codec does not need, sorted. codes_sha256: of what the result makes of `known_clip`, as text with spaces.
    """

    source: Path
    output: Path
    codec: str
    tensors: int
    dropped: tuple[str, ...]
    codes_sha256: str


def convert(source: str | Path, output: str | Path, force: bool = False) -> Report:
    """Write the native folder of an older checkpoint, load it strictly and return what was done.

    The folder appears whole or not at all.

    Args:
        source: a safetensors or pickle file (`.ckpt`, `.bin`, `.pt`, `.pth`), or a folder that holds one.
        output: the folder to write `config.json` and `model.safetensors` to.
        force: replace `output` if it is an earlier result.

    Raises:
        ConfigError: `output` cannot be written or is there already.
        BundleError: the source is missing or damaged, or has not exactly the tensors of such a codec.
    """
    source, output = Path(source), Path(output)
    _check_output(output, force)
    try:
        with scratch(output, f"Converting to '{output}'") as work:
            made = work / "made"
            made.mkdir()
            n_tensors, dropped = _build(source, made, work / "unpickled.safetensors")
            codec = _loaded(source, made)
            codes = codec.encode([known_clip()])[0]
            _put(made, output, work / "before")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"Converting to '{output}': found {error}. Name a folder with room.") from error
    digest = hashlib.sha256(" ".join(map(str, codes)).encode()).hexdigest()
    return Report(source, output, codec.name, n_tensors, dropped, digest)


def known_clip() -> Audio:
    """Return two seconds of a rising, pulsing tone with harmonics in noise, by a formula alone."""
    n = np.arange(2 * SAMPLE_RATE)
    time = n / SAMPLE_RATE
    phase = 2 * np.pi * time * (100 + 40 * time)
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    noise = n * n * 0.3819660112501051 % 1 - 0.5  # without it, rounding errors decide the quiet bands
    return Audio((0.2 * np.sin(3 * np.pi * time) ** 2 * tone + 0.02 * noise).astype(np.float32), SAMPLE_RATE)


def _build(source: Path, folder: Path, plain_file: Path) -> tuple[int, tuple[str, ...]]:
    """Write the native files; return the number of their tensors and the names of those left out."""
    files = _sources(source)
    if files[0].suffix in PICKLES:
        files = [_unpickled(files[0], plain_file)]
    tensors, dropped = _read(source, files)
    try:
        config, tensors = _native(source, tensors)
        _check_exact(source, config, tensors)
    except DAMAGED as error:
        raise BundleError(f"Converting '{source}': found {error!r}. Download it again.") from error
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors hides it from others
    return len(tensors), dropped


def _native(source: Path, tensors: Tensors) -> tuple[Any, Tensors]:
    folder = source if source.is_dir() else source.parent
    settings = _settings(folder)
    if any(name.startswith("generator.") for name in tensors):
        return _older_config(source, settings, tensors), to_native(tensors)
    kind = settings.get("model_type")
    if kind not in tuple(KINDS):
        raise BundleError(
            f"Converting '{source}': found no tensor 'generator.*' of X-Codec2 and model_type {kind!r} in "
            "config.json. Name a checkpoint of X-Codec2 or NeuCodec."
        )
    return read_config(folder), tensors


def _loaded(source: Path, made: Path) -> Xcodec2Codec:
    try:
        return Xcodec2Codec.load(made, device="cpu")
    except BundleError as error:  # the folder is about to go: what is wrong came from the source
        raise BundleError(str(error).replace(str(made), str(source))) from error


def _sources(source: Path) -> list[Path]:
    """Return the weight files of a source: one pickle or all safetensors."""
    if not source.exists():
        raise BundleError(f"Converting '{source}': there is no such file or folder. Check its name.")
    inside = [source] if source.is_file() else sorted(source.glob("*"))
    safe = [file for file in inside if file.suffix == ".safetensors"]
    pickles = [file for file in inside if file.suffix in PICKLES]
    if safe or len(pickles) == 1:
        return safe or pickles
    found = ", ".join(file.name for file in pickles) or "no weights"
    raise BundleError(
        f"Converting '{source}': found {found}. Name one .safetensors, {', '.join(PICKLES)} file, or a "
        "folder that holds one."
    )


def _unpickled(source: Path, target: Path) -> Path:
    """Have a child process, isolated from this one's settings, write the tensors of a pickle to `target`."""
    command = [sys.executable, "-I", unpickle.__file__, str(source), str(target)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        said = (child.stderr.strip() or f"it ended with {child.returncode}").splitlines()[-1]
        raise BundleError(
            f"Converting '{source}': reading it in a process of its own failed: {said}. "
            "Download it again; it should hold tensors and settings alone."
        )
    return target


def _read(source: Path, files: list[Path]) -> tuple[Tensors, tuple[str, ...]]:
    """Return the tensors of use by their plain names, and the names of the others."""
    tensors: Tensors = {}
    dropped: list[str] = []
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if is_dropped(plain(name)):
                        dropped.append(name)
                    else:
                        tensors[plain(name)] = file.get_tensor(name)
        wrong = [
            f"{name} of {weight.dtype}" for name, weight in tensors.items() if not weight.is_floating_point()
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}, expected floating-point numbers")
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"Converting '{source}': found {error}. Download it again.") from error
    return tensors, tuple(sorted(dropped))


def _settings(folder: Path) -> dict[str, Any]:
    """Return the content of `config.json` where the folder has one."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise BundleError(f"Converting: reading '{path}' found {error}. Repair or remove it.") from error
    return found if isinstance(found, dict) else {}


def _older_config(source: Path, settings: Mapping[str, Any], tensors: Tensors) -> Any:
    """Return the configuration that the shapes tell, which `config.json` may not contradict."""
    config = config_of(tensors)
    semantic: Any = config.semantic_model_config
    sizes = {"semantic_hidden_size": semantic.hidden_size, "codec_encoder_hidden_size": config.hidden_size,
             "codec_decoder_hidden_size": config.hidden_size, "use_vocos": True}  # fmt: skip
    wrong = {k: settings[k] for k, size in sizes.items() if settings.get(k, size) != size}
    if settings.get("model_type") == "xcodec" and wrong:
        expected = {name: sizes[name] for name in wrong}
        raise BundleError(
            f"Converting '{source}': found {wrong} in config.json, expected {expected} by the weights. "
            "Keep config.json and weights of one checkpoint together."
        )
    return config


def _check_exact(source: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """Compare names and shapes with those of the native model, built without weights."""
    with torch.device("meta"):
        model = KINDS[config.model_type][1](config)
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in tensors.items()}
    differences = [f"missing {name} {wanted[name]}" for name in sorted(wanted.keys() - found.keys())]
    differences += [f"unexpected {name} {found[name]}" for name in sorted(found.keys() - wanted.keys())]
    differences += [
        f"{name} of shape {found[name]}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]
    if differences:
        raise BundleError(
            f"Converting '{source}': found {'; '.join(differences)}. Nothing was written: half a codec gives "
            "wrong codes without a sign. Download the checkpoint again."
        )


def _check_output(output: Path, force: bool) -> None:
    doing = f"Converting to '{output}'"
    if not output.parent.is_dir():
        raise ConfigError(f"{doing}: there is no folder '{output.parent}'. Make it or name another.")
    if not os.access(output.parent, os.W_OK):
        raise ConfigError(f"{doing}: '{output.parent}' may not be written to. Name another folder.")
    if output.is_symlink() and not output.exists():
        raise ConfigError(f"{doing}: it is a link to nothing. Remove it or name another folder.")
    if not output.exists():
        return
    if not force:
        raise ConfigError(f"{doing}: it is there already. Name another folder or replace it with --force.")
    if not _is_result(output):
        raise ConfigError(f"{doing}: it holds other things than an earlier result. Name another folder.")


def _is_result(output: Path) -> bool:
    """Tell whether a folder is empty or holds a conversion alone."""
    names = {path.name for path in output.iterdir()} if output.is_dir() else {""}
    try:
        return not names or (names <= WRITTEN and _settings(output).get("model_type") in tuple(KINDS))
    except BundleError:
        return False


def _put(made: Path, output: Path, aside: Path) -> None:
    """Move a finished folder to its place; what is there goes aside, and back if that fails."""
    if output.exists():
        output.rename(aside)
    try:
        made.rename(output)
    except OSError:
        if aside.exists():
            aside.rename(output)
        raise
