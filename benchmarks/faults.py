"""What data preparation, training and serving withstand: runs the tests that prove it, and prints a table.

Each row of `tests/faults/rows.py` is proved by tests marked with it. The small form takes minutes, the full
one, whose figures docs/reliability.md has, far longer. `--seed` draws other faults.

    python benchmarks/faults.py
    python benchmarks/faults.py --full --json faults.json
    python benchmarks/faults.py --full --row R3 --seed 7

Exit 1 if a row does not hold; what failed says how it is repeated.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the rows are shared with the tests


@dataclass
class Found:
    """What came of a row. tests: that passed. good, of: faults met as they should be, and tried. s: taken."""

    what: str
    bar: str
    tests: int = 0
    good: int = 0
    of: int = 0
    s: float = 0.0
    failed: list[str] = field(default_factory=list[str])
    skipped: list[str] = field(default_factory=list[str])
    told: list[str] = field(default_factory=list[str])
    command: str = ""


class Rows:
    """A plugin that keeps the tests of some rows, and notes what came of them."""

    def __init__(self, found: Mapping[str, Found]) -> None:
        self.found, self._of = found, dict[str, list[str]]()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what is marked with one of the rows."""
        kept = list[pytest.Item]()
        for item in items:
            rows = [mark.args[0] for mark in item.iter_markers("fault") if mark.args[0] in self.found]
            if rows:
                self._of[item.nodeid] = rows
                kept.append(item)
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self._of])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test; one that does not tell how many faults it tried counts for one."""
        for row in (self.found[name] for name in self._of[report.nodeid]):
            row.s += report.duration
            if report.failed:
                row.failed.append(report.nodeid)
                print(f"\n{report.nodeid}\n{report.longreprtext}", flush=True)  # the end may be far
            elif report.skipped:
                row.skipped.append(report.nodeid)
            elif report.when == "call":
                self._count(row, report)
            if report.failed and report.when == "call":
                row.of += 1

    @staticmethod
    def _count(row: Found, report: pytest.TestReport) -> None:
        noted = [one for one in report.user_properties if one[0] in ("reached", "told")] or [
            ("reached", (1, 1))
        ]
        row.tests += 1
        row.told += [value for name, value in noted if name == "told"]
        for good, of in (value for name, value in noted if name == "reached"):
            row.good, row.of = row.good + good, row.of + of


def table(found: Mapping[str, Found]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield f"{'row':9} {'reached':>15} {'tests':>5} {'s':>6}  what, and the bar"
    for name, row in found.items():
        told = f"{row.good} of {row.of}"
        yield f"{name:9} {told:>15} {row.tests:5} {row.s:6.0f}  {row.what}: {row.bar}"
        for kind, ids in (("FAILED", row.failed), ("skipped", row.skipped), ("", row.told)):
            yield from (f"{'':9} {kind} {one}" for one in dict.fromkeys(ids))
        if not row.of:
            yield f"{'':9} nothing was tried"
    yield ""
    yield from (f"{name}: {row.command}" for name, row in found.items())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="As often as the table says, slow tests too.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", action="append", help="Only this one; repeatable.")
    parser.add_argument("--json", type=Path, help="Write the table there.")
    options = parser.parse_args()
    # Read by the tests when they are collected.
    os.environ |= {"SEED": str(options.seed)} | ({"FAULTS": "full"} if options.full else {})
    from tests.faults.rows import ROWS

    found = {name: Found(*ROWS[name]) for name in options.row or ROWS}
    form = f"{' --full' if options.full else ''} --seed {options.seed}"
    for name, row in found.items():
        row.command = f"python benchmarks/faults.py --row {name}{form}"
    slow = "fault and not gpu and not network" + ("" if options.full else " and not slow")
    given = ["-q", "-m", slow, "-p", "no:cacheprovider", f"--hypothesis-seed={options.seed}"]
    code = pytest.main([*given, "--rootdir", str(ROOT), str(ROOT / "tests")], plugins=[Rows(found)])
    print(*table(found), sep="\n")
    if options.json:
        rows = {name: asdict(row) for name, row in found.items()}
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(code != 0 or any(row.good < row.of or not row.of for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
