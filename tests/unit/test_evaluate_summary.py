"""Numbers of an evaluation: failures in every average, intervals, changes, limits. Rows are made by hand."""

import json
import math
from pathlib import Path

import pytest

from llasa.errors import ConfigError
from llasa.evaluate.columns import columns
from llasa.evaluate.compare import differences
from llasa.evaluate.results import Row, read_evaluation
from llasa.evaluate.summary import change, estimate, numbers, table, tables
from llasa.evaluate.tables import conclusions, markdown, plain_rows

EAR = "ear"


def row(system: str, line: int, wer: float | None = 0.0, failure: str = "", **rest: object) -> Row:
    tokens = 4 + line % 3
    measures: dict[str, float] = {f"tokens.wer:{EAR}": tokens, "units": 10.0 * tokens}
    if wer is not None:
        measures |= {f"wer:{EAR}": wer, f"seed:{EAR}": wer, "sim_o": 0.8, "mos": 3.0, "rate": 12.0}
    return {
        "system": system, "set": "set", "line": f"line-{line}", "take": 0, "text": f"text {line}",
        "failure": failure, "reason": "", "tokens": 50, "total_s": 1.0, "first_s": 0.2, "duration_s": 2.0,
        "sound": None, "measures": measures, "words": {EAR: [["text", "text", "said"]]}, "missing": {},
    } | rest  # fmt: skip


def write(folder: Path, rows: list[Row], prices: dict[str, float] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    systems = list(dict.fromkeys(one["system"] for one in rows))
    facts = {
        "verb": "evaluate", "recognizers": {EAR: "ear@1"}, "missing": {"mos": "no model"},
        "texts": {one["set"]: {"lines": len(rows)} for one in rows},
        "recipe": {"takes": 1, "systems": [{"bundle": name, **(prices or {})} for name in systems]},
        "systems": {name: {"steered_by": ["ear@1"] if name == "b" else []} for name in systems},
    }  # fmt: skip
    body = {"facts": facts, "began": "2026-01-01", "versions": {"llasa": "1"}, "commit": "abc"}
    (folder / "run.json").write_text(json.dumps(body))
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def value(folder: Path, key: str) -> float:
    found = read_evaluation(folder)
    [column] = [column for column in columns(found) if column.key == key]
    told = estimate(column, found.rows)
    assert told is not None
    return told.value


def test_a_failure_is_in_every_average(tmp_path: Path) -> None:
    """Half of the lines failed: one went round in circles and was heard, one has no sound at all."""
    silent = row("a", 3, None, "empty", duration_s=0.0)
    rows = [row("a", 0, 0.0), row("a", 1, 0.2), row("a", 2, 3.0, "loop"), silent]
    folder = write(tmp_path / "run", rows)
    assert value(folder, f"wer:{EAR}") == pytest.approx((0 + 0.2 + 1 + 1) / 4)
    assert value(folder, f"corpus.wer:{EAR}") == pytest.approx((0 + 0.2 * 5 + 6 + 4) / (4 + 5 + 6 + 4))
    assert value(folder, "failures") == 0.5
    assert value(folder, "sim_o") == pytest.approx((0.8 * 3 + 0) / 4)  # the worst likeness there is
    assert value(folder, "mos") == pytest.approx((3.0 * 3 + 1) / 4)
    assert value(folder, f"seed:{EAR}") == pytest.approx((0 + 0.2 + 3) / 3)  # as the tool does
    found = table(read_evaluation(folder), "set")
    assert found.cells[f"wer:{EAR}", "a"].n == 4 and found.cells[f"seed:{EAR}", "a"].n == 3
    assert found.failures["a"] == {"loop": 1, "empty": 1}


def test_what_a_recogniser_could_not_hear_is_no_failure_of_the_system(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [row("a", 0, 0.0), row("a", 1, 0.2), row("a", 2, None)])
    cell = table(read_evaluation(folder), "set").cells
    assert cell[f"wer:{EAR}", "a"].found.value == pytest.approx(0.1) and cell[f"wer:{EAR}", "a"].n == 2
    assert cell[f"corpus.wer:{EAR}", "a"].found.value == pytest.approx(1 / 9)


def test_what_a_system_never_has_is_not_made_up_for_its_failures(tmp_path: Path) -> None:
    """A server without a reference has no likeness; its failures must not bring one."""
    served = row("served", 0) | {"measures": {f"tokens.wer:{EAR}": 4, f"wer:{EAR}": 0.0}}
    gone = row("served", 1, None, "error")
    found = table(read_evaluation(write(tmp_path / "run", [row("a", 0), row("a", 1), served, gone])), "set")
    assert ("sim_o", "a") in found.cells and ("sim_o", "served") not in found.cells
    assert found.cells[f"wer:{EAR}", "served"].found.value == 0.5


def test_costs(tmp_path: Path) -> None:
    rows = [row("a", 0), row("a", 1)]
    assert value(write(tmp_path / "hour", rows, {"price_per_hour": 2.0}), "cost") == pytest.approx(1.0)
    of_text = 6 * 10.0 / 1e6 * 3600 / 2
    assert value(write(tmp_path / "text", rows, {"price_per_million": 10.0}), "cost") == pytest.approx(
        of_text
    )
    assert value(write(tmp_path / "none", rows), "rtf") == 0.5
    with pytest.raises(ValueError):
        value(write(tmp_path / "none", rows), "cost")


def two(tmp_path: Path, better: float = 0.2, count: int = 30) -> Path:
    worse = [row("a", line, 0.4 + 0.05 * (line % 4)) for line in range(count)]
    return write(tmp_path, worse + [row("b", line, better + 0.05 * (line % 3)) for line in range(count)])


def test_changes_are_pair_by_pair(tmp_path: Path) -> None:
    found = read_evaluation(two(tmp_path / "run"))
    one = table(found, "set")
    moved = one.cells[f"wer:{EAR}", "b"].against
    assert moved is not None and moved.found.high < -0.15 and moved.p < 0.01 and moved.n == 30
    assert moved.verdict(-1) == "better" and moved.verdict(1) == "worse"
    assert one.cells["sim_o", "b"].against.verdict(1) == ""  # pyright: ignore[reportOptionalMemberAccess]
    [(name, better, worse)] = conclusions(found, one)
    assert name == "b" and "WER, ear†" in better and not worse


def test_few_lines_make_no_sure_difference(tmp_path: Path) -> None:
    found = read_evaluation(two(tmp_path / "run", count=4))
    moved = change(columns(found)[0], found.of("set", "a"), found.of("set", "b"))
    assert moved is not None and moved.found.high < 0 and moved.verdict(-1) == ""


def test_only_shared_utterances_are_compared(tmp_path: Path) -> None:
    before, after = [row("a", 0, 0.5), row("a", 1, 0.5)], [row("a", 1, 0.1), row("a", 2, 0.0)]
    [column, *_] = columns(read_evaluation(write(tmp_path / "run", before)))
    moved = change(column, before, after)
    assert moved is not None and moved.n == 1 and moved.found.value == pytest.approx(-0.4)
    other = after[0] | {"text": "another text of that name"}
    assert change(column, before, [other]) is None


def test_limits(tmp_path: Path) -> None:
    key = f"wer:{EAR}"

    def of(name: str, shift: float) -> Path:
        return write(tmp_path / name, [row("a", line, 0.1 + shift + 0.02 * (line % 5)) for line in range(20)])

    old, slightly, much = (
        read_evaluation(of(name, shift)) for name, shift in (("a", 0), ("b", 0.01), ("c", 0.3))
    )
    assert not [one for one in differences(old, slightly, {key: 0.05}, [key]) if one.broken]
    [broken] = [one for one in differences(old, much, {key: 0.05}, [key]) if one.broken]
    assert broken.row()["measure"] == key and broken.change.found.value == pytest.approx(0.3)
    assert not [one for one in differences(much, old, {key: 0.0}, [key]) if one.broken]
    assert {one.column.key for one in differences(old, much, {}, ["sim_o"])} == {"sim_o"}


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    old = read_evaluation(write(tmp_path / "a", [row("a", 0)]))
    with pytest.raises(ConfigError, match="no measure 'wre:ear'"):
        differences(old, old, {"wre:ear": 0.1})
    several = read_evaluation(write(tmp_path / "b", [row("x", 0), row("y", 0)]))
    with pytest.raises(ConfigError, match="no system has one name"):
        differences(old, several, {})
    elsewhere = read_evaluation(write(tmp_path / "c", [row("a", 9)]))
    with pytest.raises(ConfigError, match="share no utterance"):
        differences(old, elsewhere, {})
    [first, *_] = differences(old, read_evaluation(write(tmp_path / "d", [row("z", 0)])), {})
    assert first.system == "a → z"


def test_tables_say_what_was_not_measured_and_what_flatters(tmp_path: Path) -> None:
    found = read_evaluation(two(tmp_path / "run"))
    some = tables(found)
    text = markdown(found, some)
    assert "| a | 30 | 47.2% [" in text and "Not measured: mos: no model" in text
    assert "'ear' chose what 'b' said" in text
    told = numbers(found, some)
    json.dumps(told, allow_nan=False)
    assert told["sets"]["set"]["b"]["measures"][f"wer:{EAR}"]["against_first"]["verdict"] == "better"
    assert plain_rows(some[0])[0] == ["", "a", "b"]


def test_a_trend_needs_two_lengths(tmp_path: Path) -> None:
    found = read_evaluation(write(tmp_path / "run", [row("a", 0), row("a", 3)]))
    slope = next(column for column in columns(found) if column.key == "rate_change")
    assert estimate(slope, found.rows) is None
    whole = estimate(slope, [*found.rows, row("a", 1)])
    assert whole is not None and math.isclose(whole.value, 0.0, abs_tol=1e-9)


def test_a_set_of_an_earlier_recipe_is_not_told_of(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [row("a", 0)])
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(row("a", 1) | {"set": "gone"}) + "\n")
    assert read_evaluation(folder).sets == ["set"]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name the folder"):
        read_evaluation(tmp_path)
    folder = write(tmp_path / "run", [])
    with pytest.raises(ConfigError, match="no row yet"):
        read_evaluation(folder)
    (folder / "run.json").write_text('{"facts": {"verb": "prepare"}}')
    with pytest.raises(ConfigError, match="damaged or of something else"):
        read_evaluation(folder)


def test_a_recogniser_that_came_later_is_not_made_up_for_failures_before_it(tmp_path: Path) -> None:
    """A run went on with one more recogniser: nobody knows what that one would have heard."""
    early = row("a", 0, None, "empty") | {"measures": {"units": 40.0}}
    found = read_evaluation(write(tmp_path / "run", [early, row("a", 1, 0.0)]))
    assert table(found, "set").cells[f"wer:{EAR}", "a"].n == 1


def test_only_what_both_sides_measured_is_compared(tmp_path: Path) -> None:
    """Failures have the worst likeness, but not of a run that measured no likeness at all."""
    after = [row("a", line) for line in range(3)]
    before = [after[0] | {"measures": {"units": 40.0}}, row("a", 1, None, "empty"), after[2]]
    for one in before:
        one["measures"].pop("sim_o", None)
    sides = [read_evaluation(write(tmp_path / name, some)) for name, some in (("a", before), ("b", after))]
    assert "sim_o" not in {one.column.key for one in differences(sides[0], sides[1], {})}
    with pytest.raises(ConfigError, match="'sim_o' was not measured on both sides"):
        differences(sides[0], sides[1], {"sim_o": 0.1})


def test_what_one_system_measured_is_not_made_up_for_another(tmp_path: Path) -> None:
    """`a` had a reference before and has none now, `b` has one always: the failure of `a` has no likeness."""
    before = [row(name, line) for name in "ab" for line in range(3)]
    after = [row("a", 0), row("a", 1, None, "empty"), row("a", 2), *(row("b", line) for line in range(3))]
    for one in after[:3]:
        one["measures"].pop("sim_o", None)
    sides = [read_evaluation(write(tmp_path / name, some)) for name, some in (("1", before), ("2", after))]
    told = {one.system for one in differences(sides[0], sides[1], {}) if one.column.key == "sim_o"}
    assert told == {"b"}


def test_what_only_fails_breaks_every_limit(tmp_path: Path) -> None:
    before, after = [[row("a", line, *how) for line in range(8)] for how in ((), (None, "empty"))]
    sides = [read_evaluation(write(tmp_path / name, some)) for name, some in (("1", before), ("2", after))]
    found = differences(sides[0], sides[1], {"sim_o": 0.1, f"wer:{EAR}": 0.1}, ["sim_o"])
    assert {one.column.key for one in found if one.broken} == {"sim_o", f"wer:{EAR}"}


def test_speed_is_of_what_has_sound(tmp_path: Path) -> None:
    silent = [row("b", line, None, "empty", duration_s=0.0) for line in range(2)]
    rows = [row("a", 0), row("a", 1, None, "empty", total_s=9.0, duration_s=0.0), *silent]
    found = table(read_evaluation(write(tmp_path / "run", rows, {"price_per_million": 1.0})), "set")
    assert found.cells["rtf", "a"].found.value == 0.5 and found.cells["rtf", "a"].n == 1
    assert ("rtf", "b") not in found.cells and ("cost", "b") not in found.cells


def test_few_lines_make_no_sure_trend(tmp_path: Path) -> None:
    def systems(count: int) -> list[Row]:
        some = [row(name, line) for name in "ab" for line in range(count)]
        for one in some:
            length = 10.0 + int(one["line"].removeprefix("line-"))
            one["measures"] |= {"units": length, "rate": 12.0 + (length / 5 if one["system"] == "b" else 0)}
        return some

    for count, verdict in ((4, ""), (12, "other")):
        found = read_evaluation(write(tmp_path / str(count), systems(count)))
        moved = table(found, "set").cells["rate_change", "b"].against
        assert moved is not None and moved.found.low > 0 and moved.verdict(0) == verdict
    same = [one | {"measures": one["measures"] | {"rate": 12.0}} for one in systems(5)]
    moved = table(read_evaluation(write(tmp_path / "same", same)), "set").cells["rate_change", "b"].against
    assert moved is not None and (moved.found.value, moved.p) == (0.0, 1.0)
