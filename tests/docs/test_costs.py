"""docs/scaling-out.md shows what benchmarks/cost.py prints, and that reckons with what it is given."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cost():
    spec = importlib.util.spec_from_file_location("cost", ROOT / "benchmarks" / "cost.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["cost"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["cost"]


def test_the_page_has_the_tables_of_the_script(cost):
    page = (ROOT / "docs" / "scaling-out.md").read_text(encoding="utf-8")
    shown = page.split("<!-- python benchmarks/cost.py -->\n")[1].split("<!-- end -->")[0]
    assert shown.strip() == cost.page(*cost.read(cost.INPUTS, [])), "run benchmarks/cost.py and paste"


def test_every_input_says_where_it_is_from_and_counts(cost):
    inputs, models = cost.read(cost.INPUTS, [])
    kinds = ("measured: ", "counted: ", "published: ", "assumed", "the aim")
    assert all(one["from"].startswith(kinds) for one in inputs.values())

    def values(settings):
        tables = cost.results(cost.read(cost.INPUTS, settings)[0], models)
        return [line.values for lines in tables.values() for line in lines]

    whole = values([])
    idle = [name for name, one in inputs.items() if values([f"{name}={2 * one['value']}"]) == whole]
    assert not idle


def test_shapes_are_counted_as_they_are(cost):
    models = cost.read(cost.INPUTS, [])[1]
    # 1B: 16 layers of 2048 with 8 of 32 heads for keys, and a table of 193,800 ids: 1.370e9 without norms.
    one = models["1B"]
    layer = 2048 * 2048 * 2 + 2048 * 512 * 2 + 3 * 2048 * 8192
    assert one.parameters == one.multiplied == 16 * layer + 193_800 * 2048
    assert one.kv_bytes == 32 * 1024 and models["8B"].parameters > models["8B"].multiplied


def test_an_input_that_is_not_there_is_refused(cost):
    for setting, found in (("prepare.hour=1", "no input 'prepare.hour'"), ("gpu.price_per_h=x", "no number")):
        with pytest.raises(SystemExit, match=found):
            cost.read(cost.INPUTS, [setting])
