"""`llasa evaluate report`: a run's page and numbers from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Ran
from tests.runs import write_grpo, write_sft

Run = Callable[..., Ran]


def test_a_page_and_what_to_think_of_the_run(run: Run, tmp_path: Path) -> None:
    folder = write_sft(tmp_path / "sft")
    ran = run("evaluate", "report", folder)
    assert (ran.code, ran.out.strip()) == (0, str(folder / "report.html"))
    assert "Not finished at step 40." in ran.err
    assert (folder / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_numbers_alone_write_no_page(run: Run, tmp_path: Path) -> None:
    folder = write_grpo(tmp_path / "grpo", hurry=0.3)
    ran = run("evaluate", "report", folder, "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and found["verdict"] == "bad" and found["output"] is None
    assert found["signs"]["rate_trend"]["suspect"] and found["panel"][-1]["stopped"] == ["rate_change"]
    assert not list(tmp_path.rglob("*.html"))


def test_what_cannot_be_done_is_refused(run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", "report", tmp_path)
    assert ran.code == 2 and "no run.json nor metrics.jsonl" in ran.err
    ran = run("evaluate", "report", write_sft(tmp_path / "sft"), "-o", tmp_path / "none" / "page.html")
    assert ran.code == 2 and "none" in ran.err


def test_help_teaches(run: Run) -> None:
    ran = run("evaluate", "report", "--help")
    assert ran.code == 0 and "llasa evaluate report run" in ran.out and "--json" in ran.out
