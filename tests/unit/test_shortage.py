"""Errors that say that memory or a disk ran out, as those say it who do."""

import errno
import resource
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from llasa.cli import _complain
from llasa.data.encode import _fatal
from llasa.engines.inflight import LocalRequest
from llasa.errors import BundleError, ConfigError, EngineError
from llasa.shortage import of_memory, of_room
from tests.causal import GREEDY


@pytest.mark.fault("R4")
@pytest.mark.parametrize("writer", ["python", "shutil", "safetensors", "torch"])
def test_a_full_disk_is_known(tmp_path: Path, writer: str) -> None:
    many, place, before = torch.zeros(1 << 16), tmp_path / "there", resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "there").write_bytes(bytes(1 << 16))
    write = {
        "python": lambda: place.write_bytes(bytes(1 << 16)),
        "shutil": lambda: shutil.copytree(tmp_path / "from", tmp_path / "to"),
        "safetensors": lambda: save_file({"many": many}, place),
        "torch": lambda: torch.save({"many": many}, place),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(Exception) as caught:
            write[writer]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert of_room(caught.value) and not of_memory(caught.value)


@pytest.mark.fault("R14")
@pytest.mark.parametrize("use", ["numbers", "bytes"])
def test_too_little_memory_is_known(use: str) -> None:
    with pytest.raises(Exception) as caught:
        torch.empty(1 << 60) if use == "numbers" else bytearray(1 << 62)
    assert of_memory(caught.value) and not of_room(caught.value)


@pytest.mark.parametrize("said", ["MPS backend out of memory (MPS: 1 GB)", "CUDA error: out of memory"])
def test_a_gpu_without_memory_is_known_and_may_be_asked_again(said: str) -> None:
    request = LocalRequest([1], GREEDY, cast(Any, None), None)
    request.fail(RuntimeError(said))
    with pytest.raises(EngineError) as caught:
        request.result()
    assert of_memory(caught.value) and caught.value.retryable


def test_a_machine_without_memory_does_not_reject_rows() -> None:
    with pytest.raises(Exception) as caught:
        torch.empty(1 << 60)
    assert _fatal(caught.value) and not _fatal(RuntimeError("shapes differ"))


def test_other_errors_are_not_taken_for_them() -> None:
    for error in (OSError(errno.EACCES, "no"), RuntimeError("shapes differ"), ValueError("28")):
        assert not of_room(error) and not of_memory(error)


def test_what_an_error_comes_from_decides_what_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def told(error: Exception, cause: Exception | None) -> tuple[int, str]:
        error.__cause__ = cause
        return _complain(error), capsys.readouterr().err

    damaged = BundleError("Loading: it is damaged. Fetch it again.")
    code, said = told(damaged, RuntimeError("unable to mmap 5 bytes: Cannot allocate memory (12)"))
    assert code == 3 and "memory ran out" in said
    code, said = told(OSError(errno.ENOSPC, "No space left on device", "there"), None)
    assert code == 2 and "'there'" in said and "bug" not in said
    assert told(ConfigError("Saving: no room. Free it."), OSError(errno.ENOSPC, "full"))[0] == 2
    assert told(OSError(errno.EIO, "broken"), None)[0] == 1
