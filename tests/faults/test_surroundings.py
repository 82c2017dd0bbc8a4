"""Too little memory, a clock that goes back, a folder without rights: the same result, or a clear refusal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.left import left
from tests.faults.rows import again, drawn, trials
from tests.faults.runs import Runs, slow

Reached = Callable[[int, int], None]
# so wide a model that its first steps take more than all before
LARGE = ("scratch.hidden_size=768", "scratch.num_attention_heads=4", "rows.tokens=3000")


@pytest.mark.fault("R14")
def test_too_little_memory_is_told(runs: Runs, material: Path, reached: Reached) -> None:
    told = 0
    for number in (made := trials(1, 8)):
        folder, mib = runs.folder / f"memory-{number}", drawn("memory", number).randint(60, 260)
        ended = runs.zygote.run("little_memory", folder, None, mib, "sft", str(material), *LARGE)
        assert ended.code == 0 or (ended.code == 3 and "memory ran out" in ended.said), (
            f"{again(number)}: {mib} MiB: {ended}"
        )
        told += ended.code == 3
    assert told, "all had enough"
    reached(len(made), len(made))


@pytest.mark.fault("R16")
@pytest.mark.parametrize("work", ["prepare", "loop", slow("sft")])
def test_a_clock_that_goes_back_changes_nothing(runs: Runs, work: str) -> None:
    folder = runs.folder / work / "clock"
    ended = runs.zygote.run("odd_clock", folder, None, work, *runs.given(work))
    assert ended.code == 0, ended
    assert left(work, folder) == runs.whole(work).left


@pytest.mark.fault("R16")
@pytest.mark.parametrize("work", ["prepare", slow("sft")])
def test_a_folder_without_rights_is_refused(runs: Runs, work: str) -> None:
    folder = runs.folder / work / "rights"
    ended = runs.zygote.run("without_rights", folder, None, work, *runs.given(work))
    assert ended.error in ("ConfigError", "PermissionError") and "ermission denied" in ended.said, ended
    assert not (folder / "out").exists() and not (folder / "run").exists()
