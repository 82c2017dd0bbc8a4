"""Names of models on the Hugging Face Hub to local folders, fetched once and compared with what the Hub said.

Only files that a bundle may hold are fetched: no pickles, no code. Must not know: what is in the files.
"""

import hashlib
import re
import sys
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path

from llasa.errors import BundleError, ConfigError
from llasa.weights import sha256

FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.toml", "*.txt", "*.txt.gz", "*.md")
VARIANTS = ("*.fp32*", "*.fp16*", "*.non_ema*")  # the same weights again, which nothing here opens
_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Access:
    """How the Hub may be used.

    revision: a branch, tag or commit; the main branch if None. token: for gated and private models; that of
    `hf auth login` or `HF_TOKEN` if None. local_files_only: use what was fetched before, ask nobody.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    local_files_only: bool = False


def located(name_or_path: str | PathLike[str], access: Access) -> Path:
    """Return the folder of a path or of a Hub id such as `owner/name` or `owner/name@revision`.

    A folder of that name comes first. Files are kept where `HF_HOME` says.

    Raises:
        BundleError: the Hub has no such model, does not let us in or cannot be reached.
        ConfigError: a revision of a folder.
    """
    match = _ID.fullmatch(fspath(name_or_path)) if isinstance(name_or_path, str) else None
    if match is None or Path(name_or_path).exists():
        if access.revision:
            found = f"found revision '{access.revision}', but it is a folder"
            raise ConfigError(f"Loading '{name_or_path}': {found}. Leave the revision out, or name a Hub id.")
        return Path(name_or_path)
    return _snapshot(match["id"], match["revision"] or access.revision, access)


def fetched(name_or_path: str | PathLike[str], access: Access | None = None) -> Path:
    """Return the folder of a path or Hub id, its files checked; raises as `located` and `check`."""
    folder = located(name_or_path, access or Access())
    check(folder)
    return folder


def check(folder: Path) -> int:
    """Compare the files of a snapshot with the hashes that the Hub named them by; other folders pass.

    It reads every byte: some 2 s for 3 GB.

    Returns:
        How many files were compared; 0 if the folder is no snapshot.

    Raises:
        BundleError: a file differs; names it.
    """
    links = [path for path in sorted(folder.rglob("*")) if path.is_symlink()]
    known = [(path, path.resolve().name) for path in links if _BLOB.fullmatch(path.resolve().name)]
    for path, blob in known:
        if _digest(path, blob) != blob:
            raise BundleError(
                f"Checking '{folder}': {path.relative_to(folder)} is not what the Hub sent, its content "
                f"changed on this disk. Delete {path.resolve()} and load the model again."
            )
    return len(known)


def _digest(path: Path, like: str) -> str:
    """Return SHA-256 of a large file, or git's hash of a small one: the Hub names blobs by either."""
    if len(like) == 64:
        return sha256([path])
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _snapshot(name: str, revision: str | None, access: Access) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # pyright: ignore[reportPrivateImportUsage]
    from tqdm.auto import tqdm

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=access.token,
                local_files_only=access.local_files_only,
                allow_patterns=list(FETCHED),
                ignore_patterns=list(VARIANTS),
                # A class of its own, because the command switches the library's bars off for everything else.
                tqdm_class=tqdm if sys.stderr.isatty() else None,  # pyright: ignore[reportArgumentType]
            )
        )
    except (OSError, HTTPError, HFValidationError) as error:  # most of the Hub's are OSErrors
        raise BundleError(f"Loading '{name}': {_advice(name, revision, error)}") from error


def _advice(name: str, revision: str | None, error: Exception) -> str:
    """Return what was found and what to do, for an error of the Hub."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page, login = f"https://huggingface.co/{name}", "log in with: hf auth login (or set HF_TOKEN)"
    if isinstance(error, GatedRepoError):
        return f"its owner lets in only who asked. Accept the conditions on {page}, then {login}."
    if isinstance(error, RepositoryNotFoundError):
        found = "there is no such folder, and no such model on the Hub, or it is private"
        return f"{found}. Check the name, or {login}."
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision '{revision}'. Choose one of {page}/commits/main, or leave it out."
    if isinstance(error, LocalEntryNotFoundError):
        found = (
            f"there is no such folder, nor was it fetched yet, and the Hub gave no answer ({_cause(error)})"
        )
        return f"{found}. Check the name, or once online run: hf download {name}"
    if isinstance(error, HFValidationError):
        return f"there is no such folder, and no model has such a name ({_first_line(error)}). Check it."
    return f"{_first_line(error)}. Check the connection, the free space and the name."


def _cause(error: Exception) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {_first_line(cause)}" if isinstance(cause, Exception) else "offline mode"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
