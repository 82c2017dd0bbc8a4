"""Checkpoints of the Trainer with cuts and turned bits: all are seen before any of it is used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa.train import resume
from tests.faults.rows import again, drawn, trials
from tests.faults.runs import Runs

Reached = Callable[[int, int], None]


@pytest.mark.fault("R5")
def test_no_bit_of_a_checkpoint_may_turn(runs: Runs, tmp_path: Path, reached: Reached) -> None:
    runs.whole("sft")
    newest = resume.newest_complete(runs.folder / "sft" / "whole" / "run" / "checkpoints")
    assert newest is not None
    path = shutil.copytree(newest, tmp_path / newest.name)
    files = [file for file in sorted(path.iterdir()) if file.name != resume.INDEX]
    cuts = [(file, size) for file in files for size in range(0, file.stat().st_size, 4096)]
    assert resume.damage(path) is None
    for file, size in cuts:
        seen(path, file, file.read_bytes()[:size], f"{file.name} cut at {size}")
    for number in (made := trials(60, 1000)):
        draw = drawn("bits", number)
        file = draw.choice(files)
        data = bytearray(file.read_bytes())
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        data[place] ^= 1 << bit
        seen(path, file, bytes(data), f"{again(number)}: bit {bit} of byte {place} of {file.name}")
    reached(len(cuts) + len(made), len(cuts) + len(made))


def seen(path: Path, file: Path, data: bytes, what: str) -> None:
    whole = file.read_bytes()
    file.write_bytes(data)
    assert file.name in (resume.damage(path) or ""), what
    file.write_bytes(whole)
