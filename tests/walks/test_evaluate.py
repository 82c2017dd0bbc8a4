"""`llasa evaluate`: bundles and a server in one table, its page, its diff; and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("pocketsphinx")

from tests.conftest import Ran
from tests.speaking import speaking
from tests.unit.test_evaluate_summary import row, write

Run = Callable[..., Ran]
RECIPE = """
recognizers = ["pocketsphinx", "bundle"]
scorers = [{{ name = "repetition" }}]
sets = [{{ lines = 2 }}]

[[systems]]
bundle = "{bundle}"
price_per_hour = 1.0

[[systems]]
name = "served"
url = "{url}/v1"
voice = "{voice}"
"""


def test_two_systems_a_page_and_a_comparison(run: Run, bundle_folder: Path, tmp_path: Path) -> None:
    with speaking(bundle_folder) as (url, speakers):
        [speaker] = speakers.speakers.values()
        recipe = RECIPE.format(bundle=bundle_folder, url=url, voice=speaker.bundle.default_voice)
        (tmp_path / "recipe.toml").write_text(recipe)
        ran = run("evaluate", "recipe.toml", "--out", "first")
    assert ran.code == 0 and "served" in ran.out and "WER, pocketsphinx" in ran.out, ran.err
    assert "Not measured" not in ran.err
    found = json.loads((tmp_path / "first/summary.json").read_text("utf-8"))["sets"]["built-in"]
    assert list(found) == ["starter, effort 1", "served"]
    own, served = (one["measures"] for one in found.values())
    # The service streams the same codes at another rate: the same words are heard, or nearly.
    assert abs(own["per:bundle"]["value"] - served["per:bundle"]["value"]) < 0.2
    assert "against_first" in served["wer:pocketsphinx"] and own["sim_o"]["n"] == 2
    assert own["cost"]["value"] == pytest.approx(own["rtf"]["value"]) and "cost" not in served
    assert "tokens" in own and "sim_o" not in served and "repetition.value" not in served

    ran = run("evaluate", "report", "first")
    page = (tmp_path / "first" / "report.html").read_text("utf-8")
    assert ran.code == 0 and page.startswith("<!DOCTYPE html>") and page.count("data:audio/mpeg;base64,") == 4
    assert all(place.startswith(("data:", "#")) for place in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert run("evaluate", "report", "first", "-o", "table.md").code == 0
    assert "| served | 2 |" in (tmp_path / "table.md").read_text("utf-8")

    told = json.loads(
        run("evaluate", "diff", "first", "first", "--measure", "wer:pocketsphinx", "--json").out
    )
    assert [(one["value"], one["verdict"]) for one in told["differences"]] == [(0.0, "")] * 2
    worse = tmp_path / "worse"
    worse.mkdir()
    rows = [json.loads(line) for line in (tmp_path / "first/results.jsonl").read_text("utf-8").splitlines()]
    lines = [json.dumps(row | {"failure": "loop"}) + "\n" for row in rows]
    (worse / "results.jsonl").write_text("".join(lines), "utf-8")
    (worse / "run.json").write_bytes((tmp_path / "first/run.json").read_bytes())
    ran = run("evaluate", "diff", "first", "worse", "--limit", "failures=0.1")
    assert ran.code == 5 and "Worse than allowed: failures of 'served'" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["evaluate", "none.toml"], 2, "system says"),
        (["evaluate", "bad.toml"], 2, "Did you mean 'bundle'"),
        (["evaluate", "gone.toml"], 3, "nobody answers"),
        (["evaluate", "empty.toml"], 2, "found no text"),
        (["evaluate", "diff", ".", "."], 2, "Name the folder that 'llasa evaluate' wrote"),
        (["evaluate", "diff", ".", ".", "--limit", "failures=-1"], 2, "at least 0"),
    ],
)
def test_what_cannot_be_done_is_refused(
    run: Run, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "bad.toml").write_text('[[systems]]\nbundel = "starter"\n')
    (tmp_path / "gone.toml").write_text('recognizers = []\n[[systems]]\nurl = "http://127.0.0.1:9/v1"\n')
    (tmp_path / "empty.toml").write_text('[[systems]]\nbundle = "starter"\n[[sets]]\nsource = "lines.txt"\n')
    (tmp_path / "lines.txt").write_text("\n\n")
    ran = run(*arguments)
    assert ran.code == code and told in ran.err and not (tmp_path / "results").exists()


def test_names_are_no_markup(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "first", [row("odd [/b] :smile:", line) for line in range(2)])
    ran = run("evaluate", "diff", "first", "first")
    assert ran.code == 0 and "odd [/b] :smile:" in ran.out, ran.err


def test_help_teaches(run: Run) -> None:
    assert "llasa evaluate recipes/evaluate/starter.toml" in run("evaluate", "run", "--help").out
    assert "report" in (ran := run("evaluate", "--help")).out and "diff" in ran.out
