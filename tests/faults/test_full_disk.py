"""A full disk, at any place: it is told, nothing is damaged, and with room again the run ends the same."""

import os
import re
import shutil
from collections.abc import Callable

import pytest

from tests.faults.left import left
from tests.faults.rows import again, drawn, trials
from tests.faults.runs import Runs, point, slow
from tests.faults.verbs import COMMANDS

Reached = Callable[[int, int], None]
# the name of a file or folder, and the bytes that are missing or are to be freed
FULL = re.compile(r"'[^']+'.*\d+ (more than|bytes)")
# A command's result may have a size that nobody knows yet.
NAMED = re.compile(r"llasa: [^'\n]*'[^'\n]+'.* (no room|with room|No space left|bytes, \d+ more than)")


@pytest.mark.fault("R4")
@pytest.mark.parametrize(("work", "small", "full"), 
    [
        ("prepare", 6, 40), ("loop", 6, 40), slow("sft", 2, 20),
        ("read", 2, 20), ("ab", 2, 20), ("export", 2, 20), ("gguf", 2, 8), ("recognizer", 2, 20),
        *(slow(work, 2, 16) for work in ("evaluate", "mtp", "codec", "dpo", "candidates", "voice")),
    ],
)  # fmt: skip
def test_an_error_at_any_change(runs: Runs, reached: Reached, work: str, small: int, full: int) -> None:
    full_disks = 0
    for number in (made := trials(small, full)):
        at = point(runs, work, "grows", number, max(made) + 1, ())
        folder = runs.folder / work / f"full-{number}"
        ended = runs.start(work, folder, at)
        full_disks += bool(ended.code)
        if ended.code:  # what tells of the run only may be lost
            assert ended.error == "ConfigError" or ended.code == 2, f"{again(number)}: {at} {ended}"
            told = NAMED if work in COMMANDS else FULL
            assert told.search(ended.said), f"{again(number)}: {at} {ended}"
        assert (told := runs.end(work, folder)) == "equal", f"{again(number)}: {told} after {at} {ended}"
    assert full_disks
    reached(len(made), len(made))


@pytest.mark.fault("R4")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk of some size")
@pytest.mark.parametrize(("work", "small", "full"), 
    [
        ("prepare", 3, 30), ("loop", 3, 40), slow("sft", 2, 30), ("read", 1, 16),
        *(slow(work, 1, 10) for work in ("ab", "evaluate", "export", "gguf", "mtp", "recognizer", "dpo")),
    ],
)  # fmt: skip
def test_a_disk_of_any_size(runs: Runs, reached: Reached, work: str, small: int, full: int) -> None:
    whole = runs.whole(work).left
    kib = sum(path.stat().st_blocks for path in (runs.folder / work / "whole").rglob("*")) // 2
    for number in (made := trials(small, full)):
        folder, size = runs.folder / work / f"size-{number}", 4 * drawn("disk", number).randint(4, kib // 4)
        ended = runs.zygote.run("small_disk", folder, None, work, size, *runs.given(work))
        if "Operation not permitted" in ended.said:
            pytest.skip("nobody may mount here")
        assert ended.told is not None, f"{again(number)}: {ended}"
        error, said = ended.told["error"], ended.told["said"]
        told = NAMED if work in COMMANDS else FULL
        assert error in ("", "0") or (error in ("ConfigError", "2") and told.search(said)), (
            f"{again(number)}: {size} KiB: {ended.told}"
        )
        assert left(work, folder / "kept") == whole, f"{again(number)}: {size} KiB"
        shutil.rmtree(folder)
    reached(len(made), len(made))
