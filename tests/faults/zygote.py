"""A process that has imported all and forks a child for each piece of work: a kill costs steps, no imports.

`python -m tests.faults.zygote` takes a request a line and gives an answer a line; `Zygote` talks to it.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.watch import Point, Watch

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    code: 0, 1 for an error, a command's own, or minus the signal that ended it. error, said: type and text of
    its error; of a command, the last lines. told: what the work returned. count, calls: of the points.
    grace_s: from the fault to the end. mib: its peak.
    """

    code: int
    error: str = ""
    said: str = ""
    told: Any = None
    count: int = 0
    calls: int = 0
    grace_s: float = 0.0
    mib: float = 0.0


class Zygote:
    """The process, from the test's side."""

    def __init__(self) -> None:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        environment = os.environ | {
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, work: str, folder: Path, point: Point | None = None, *options: Any, timeout_s: float = 120.0
    ) -> Ended:
        """Return how `works.WORK(*options)` ended in a child whose folder is `folder`, made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        request = {"work": work, "folder": str(folder), "options": options, "timeout_s": timeout_s}
        request |= {"point": asdict(point) if point else None}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def _main() -> None:
    import torch
    from transformers import LlamaForCausalLM, Trainer

    assert LlamaForCausalLM and Trainer  # half of all imports
    torch.set_num_threads(1)  # no thread of the parent is missed in a child
    answers, known = os.fdopen(os.dup(1), "w"), set[str]()
    os.dup2(2, 1)
    for line in sys.stdin:
        answer = _forked(json.loads(line), answers.fileno())
        # Imported here once, so that the next child need not.
        for name in (name for name in answer.pop("modules", ()) if name not in known):
            known.add(name)
            with suppress(Exception):  # one that only works where it was loaded stays the child's
                importlib.import_module(name)
        print(json.dumps(answer), file=answers, flush=True)


def _forked(request: Mapping[str, Any], answers: int) -> dict[str, Any]:
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.close(reads)
        os.close(answers)
        _child(request, writes)
    os.close(writes)
    told = _until_closed(reads, child, request["timeout_s"])
    _, status, used = os.wait4(child, 0)
    return {"mib": used.ru_maxrss / 1024} | told | {"code": os.waitstatus_to_exitcode(status)}


def _until_closed(reads: int, child: int, timeout_s: float) -> dict[str, Any]:
    """Return what a child tells until its end, which comes in time."""
    data, until = b"", time.monotonic() + timeout_s
    while select.select([reads], [], [], max(until - time.monotonic(), 0.0))[0]:
        piece = os.read(reads, 1 << 16)
        if not piece:
            break
        data += piece
    else:
        os.kill(child, signal.SIGKILL)
        data += json.dumps({"error": "Late", "said": f"it was not over after {timeout_s} s"}).encode() + b"\n"
    os.close(reads)
    told: dict[str, Any] = {}
    for line in data.splitlines():
        told |= json.loads(line)
    return told


def _child(request: Mapping[str, Any], writes: int) -> None:
    """Do the work and end the process."""

    def tell(**facts: Any) -> None:
        os.write(writes, json.dumps(facts).encode() + b"\n")

    log = os.open(os.path.join(request["folder"], "said"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    point = Point(**request["point"]) if request["point"] else None
    watch, code, before = (
        Watch(point or Point(), lambda n, calls: tell(count=n, calls=calls)),
        1,
        {*sys.modules},
    )
    try:
        from tests.faults import works

        work = getattr(works, request["work"])
        if point is None:
            tell(told=work(*request["options"]))
        else:
            with watch:
                tell(told=work(*request["options"]))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        tell(said=Path("said").read_text(encoding="utf-8", errors="replace")[-2000:])
    except BaseException as error:  # the child's edge: all of it is the answer
        traceback.print_exc()
        tell(error=type(error).__name__, said=str(error))
    finally:
        asked = time.monotonic() - watch.asked if watch.asked is not None else 0.0
        tell(grace_s=asked)
        if point is None or not point.at:
            tell(count=watch.count, calls=watch.calls)
            tell(modules=[name for name in sys.modules if name not in before and _is_its_own(name)])
        os._exit(code)


def _is_its_own(name: str) -> bool:
    return getattr(getattr(sys.modules[name], "__spec__", None), "name", None) == name


if __name__ == "__main__":
    _main()
