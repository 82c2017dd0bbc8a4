"""Training checkpoints of our own loops: whole or not there, verified before use, newest whole one wins.
safetensors and JSON only.

A checkpoint is a folder `step-N` with one safetensors file a part and a `manifest.json` of SHA-256 sums,
written under a temporary name, through to the disk, and renamed last.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llasa import shortage
from llasa.train import durable
from llasa.weights import sha256

Parts = dict[str, dict[str, Tensor]]

_INDEX = "manifest.json"
_HEADER = 4096  # bytes that a file takes beside its numbers, more or less
_log = logging.getLogger(__name__)


def save(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write checkpoint `step` and remove all but the newest `keep`.

    Args:
        folder: of the run; made if missing.
        parts: name -> tensors, one file each.
        meta: JSON-able facts returned by `load_latest`.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: the disk or a quota is full. Names the file and the bytes missing; what was saved before
            stays, nothing half-written does.
    """
    final, draft = folder / f"step-{step:09d}", folder / f".step-{step:09d}.part"
    doing = f"Saving step {step} in '{folder}'"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    needed = {f"{name}.safetensors": _bytes(tensors) for name, tensors in parts.items()} | {_INDEX: _HEADER}
    shortage.check_room(folder, sum(needed.values()), doing)
    try:
        _write(draft, {"step": step, "meta": dict(meta)}, parts)
    except Exception as error:
        full = _full(draft, needed, doing) if shortage.of_room(error) else None
        shutil.rmtree(draft, ignore_errors=True)
        raise (full or error) from error
    with shortage.told(doing, folder):
        _put(draft, final)
        _prune(folder, final, keep)
    return final


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return _HEADER + sum(tensor.nbytes for tensor in tensors.values())


def _write(draft: Path, facts: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    draft.mkdir()
    sums = {}
    for name, tensors in parts.items():
        path = draft / f"{name}.safetensors"
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
        durable.sync(path)
        sums[name] = sha256([path])
    durable.write_index(draft / _INDEX, {**facts, "sha256": sums})


def _full(draft: Path, needed: Mapping[str, int], doing: str) -> Exception:
    """Return the error of the file being written: the first that is not there, or not in full."""
    written = {path.name: path.stat().st_size for path in draft.glob("*")}
    file = next((name for name, size in needed.items() if written.get(name, 0) < size - _HEADER), _INDEX)
    return shortage.full(doing, draft / file, needed[file], sum(needed.values()) - sum(written.values()))


def _put(draft: Path, final: Path) -> None:
    aside = final.with_name(f".{final.name}.old")  # the same step again; a folder cannot replace another
    if final.exists():
        final.replace(aside)
    durable.move(draft, final)
    shutil.rmtree(aside, ignore_errors=True)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    # One with a later step was passed over when the run went on from an earlier one: it is damaged.
    known = sorted(folder.glob("step-*"))
    older = known[: known.index(newest) + 1]
    for path in {*known} - {*older[-keep:]}:
        gone = path.with_name(f".{path.name}.gone")  # so that no half of it is ever met
        path.replace(gone)
        shutil.rmtree(gone)


def load_latest(folder: Path) -> tuple[int, Parts, dict[str, Any]] | None:
    """Return (step, parts, meta) of the newest whole checkpoint, or None where there is none.

    Says in the log which newer ones it passes over, and why.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        index = _whole(path)
        if index is not None:
            parts = {name: load_file(path / f"{name}.safetensors") for name in index["sha256"]}
            return index["step"], parts, index["meta"]
    return None


def _whole(path: Path) -> dict[str, Any] | None:
    index = durable.read_index(path / _INDEX)
    if index is None or not {"step", "sha256", "meta"} <= index.keys():
        _log.warning("Checkpoint '%s' is passed over: its %s is missing or damaged.", path, _INDEX)
        return None
    for name, expected in index["sha256"].items():
        file = path / f"{name}.safetensors"
        if not file.is_file() or sha256([file]) != expected:
            _log.warning("Checkpoint '%s' is passed over: %s is missing or damaged.", path, file.name)
            return None
    return index


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's per-parameter state as named tensors; hyper-parameters are not part of it."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, slots in state.items()
        for key, value in slots.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; groups and their settings stay as they are now."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
