"""Training checkpoints: whole or not there, verified before use, newest complete one wins.
safetensors and JSON only.

A checkpoint is a folder `step-N` with one safetensors file a part and a `manifest.json` of SHA-256 sums,
written under a temporary name and renamed last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Parts = dict[str, dict[str, Tensor]]


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
    """
    final, draft = folder / f"step-{step:09d}", folder / f".step-{step:09d}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    sums = {}
    for name, tensors in parts.items():
        path = draft / f"{name}.safetensors"
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)
        sums[name] = _sync_and_hash(path)
    manifest = draft / "manifest.json"
    manifest.write_text(json.dumps({"step": step, "sha256": sums, "meta": dict(meta)}), encoding="utf-8")
    _sync_and_hash(manifest)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(draft, final)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def load_latest(folder: Path) -> tuple[int, Parts, dict[str, Any]] | None:
    """Return (step, parts, meta) of the newest complete checkpoint, or None where there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        found = _load(path)
        if found is not None:
            return found
    return None


def _load(path: Path) -> tuple[int, Parts, dict[str, Any]] | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name, expected in manifest["sha256"].items():
            if hashlib.sha256((path / f"{name}.safetensors").read_bytes()).hexdigest() != expected:
                return None
    except (OSError, ValueError, KeyError):
        return None
    parts = {name: load_file(path / f"{name}.safetensors") for name in manifest["sha256"]}
    return manifest["step"], parts, manifest["meta"]


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.sha256(file.read()).hexdigest()


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
