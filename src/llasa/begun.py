"""What a run is made of, written beside what it makes: `run.json`, which a later start has to agree with.

One process at a time works in a folder; the system lets its lock go when it ends, however it ends.
"""

import fcntl
import json
import logging
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from llasa import config
from llasa.audio import drop_drafts, replace_file
from llasa.errors import ConfigError
from llasa.shortage import of_room

_PACKAGES = ("llasa", "torch", "transformers", "tokenizers", "accelerate", "trl", "peft", "datasets", "numpy")
_STATES = ("checkpoint-*", "checkpoints", "step-*", "stages", "results.jsonl")
_log = logging.getLogger(__name__)


def start(
    folder: Path, facts: Mapping[str, Any], changed_ok: bool | None = False, doing: str = "Training"
) -> None:
    """Begin a run in `folder`, or go on with it: lock the folder and write or compare `run.json`.

    Under torchrun the first process does it for all. The lock is held until the process ends.

    Args:
        folder: made if missing.
        facts: JSON-able; all that decides what comes out, such as recipe, seed, and the hashes of data,
            bundle, codec and tokenizer.
        changed_ok: go on although facts have changed; `run.json` then tells which. None: never.
        doing: what is done in the folder; opens the message of an error.

    Raises:
        ConfigError: another process is at work there, it cannot be written, facts have changed, or it holds
            training states of something else.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return
    now, doing = json.loads(json.dumps(facts, default=str)), f"{doing} in '{folder}'"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, doing)
        drop_drafts(folder)
    except OSError as error:
        todo = "Free 4096 bytes there and run the same command again." if of_room(error) else _NAME
        raise ConfigError(f"{doing}: the system says: {error.strerror}. {todo}") from error
    path = folder / "run.json"
    before = _read(folder, path, doing)
    changes = config.differences(before["facts"], now) if before else []
    if changes and not changed_ok:
        raise ConfigError(
            f"{doing}: it was begun with other settings or data.\n"
            + "\n".join(f"  {line}" for line in changes)
            + "\nGo back to what it was, or name another folder"
            + ("." if changed_ok is None else "; or allow the change (--changed-ok).")
        )
    _write(path, before, now, changes)


_NAME = "Name another folder."


def _read(folder: Path, path: Path, doing: str) -> dict[str, Any] | None:
    """Return the run of a folder, or None if it is to begin."""
    if not path.exists():
        if any(entry for pattern in _STATES for entry in folder.glob(pattern)):
            raise ConfigError(f"{doing}: states of a run are there, but no run.json says of what. {_NAME}")
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {"facts": body["facts"], "versions": body["versions"], **body}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{doing}: its run.json is damaged. {_NAME}") from error


def _write(
    path: Path, before: Mapping[str, Any] | None, facts: Mapping[str, Any], changes: list[str]
) -> None:
    versions = _versions()
    if before and (other := config.differences(before.get("versions", {}), versions)):
        _log.warning("'%s' goes on with other versions: %s.", path.parent, "; ".join(other))
    elif before and not changes:
        return
    told = [*(before or {}).get("changes", []), *([{"at": _now(), "lines": changes}] if changes else [])]
    began = (before or {}).get("began", _now())
    body = {"began": began, "facts": facts, "versions": versions, "commit": _commit(), "changes": told}
    replace_file(path, json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Return the git commit of this package's source, with + if files have changed; None if it has none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _lock(folder: Path, doing: str) -> None:
    """Take the folder's lock, and keep it as long as this process lives."""
    # Never closed on purpose: closing any descriptor of the file would let the lock go. A record lock is not
    # inherited by children, so workers that outlive a killed run do not keep the folder.
    descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"{doing}: another process is at work there ({owner}). Wait for it, or end it."
        ) from None
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)
