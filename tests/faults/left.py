"""What a child's run left, which must not depend on kills: hashes, and rows without their clocks."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llasa.train import checkpoint, resume
from tests.faults import verbs

_CLOCK = re.compile(r"(_s|_per_second|_runtime|^step_time)$|^time/")
# Of a checkpoint of the Trainer; its arguments and its clocks are not what was learnt.
_STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def left(work: str, folder: Path) -> dict[str, Any]:
    """Return what a whole run of a work left."""
    if work in verbs.COMMANDS:
        return verbs.left(folder)
    if work == "prepare":
        return {path.name: _hash(path) for path in sorted((folder / "out").glob("[!.]*"))}
    run = folder / "run"
    if work == "loop":
        found = checkpoint.load_latest(run)
        assert found is not None
        return {"step": found[0], "rows": _rows(run)} | {
            path.name: _hash(path) for path in sorted((run / f"step-{found[0]:09}").glob("*.safetensors"))
        }
    lm = {"lm": _hash(run / "lm" / "model.safetensors")}
    if work == "stock":
        return lm
    newest = resume.newest_complete(run / "checkpoints")
    assert newest is not None
    return {"newest": newest.name, "rows": _rows(run)} | lm | {name: _hash(newest / name) for name in _STATE}


def newest_step(work: str, folder: Path) -> int:
    """Return the step that a killed run goes on from; sets aside what is not whole, as going on does."""
    if work == "loop":
        found = checkpoint.load_latest(folder / "run")
        return found[0] if found else 0
    newest = resume.newest_complete(folder / "run" / "checkpoints")
    return int(newest.name.split("-")[1]) if newest else 0


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(run: Path) -> list[Any]:
    return [
        {key: value for key, value in row.items() if not _CLOCK.search(key)}
        for name in ("metrics.jsonl", "rollouts.jsonl")
        for row in _lines(run / name)
    ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return map(json.loads, text.splitlines())
