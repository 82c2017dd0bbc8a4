"""A run told in one page: the verdict in words, the signs, and a page that holds all it shows."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llasa.errors import ConfigError
from llasa.evaluate.run_folder import read_run
from llasa.evaluate.run_report import numbers, page
from llasa.evaluate.signs import signs, verdict
from tests.runs import write_grpo, write_rows, write_sft


class Page(HTMLParser):
    """Counts tags and remembers what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]


def told(folder: Path) -> tuple[str, str]:
    run = read_run(folder)
    said = verdict(run, signs(run))
    return said.level, " ".join(said.words)


def test_a_run_that_hurries_is_called_out(tmp_path: Path) -> None:
    level, words = told(write_grpo(tmp_path / "run", hurry=0.3, unended=0.4))
    assert level == "bad" and words.startswith("Stopped by the panel at step 30: rate_change moved by")
    assert "do not end" in words and "letters a second" in words and "from short texts to long ones" in words
    assert "Chosen is step 10: error rate 0.275 of characters, at the start 0.300." in words


def test_a_run_that_does_well_is_called_good(tmp_path: Path) -> None:
    level, words = told(write_grpo(tmp_path / "run"))
    assert level == "good" and "No guard tripped in 5 measurements" in words
    assert "Chosen is step 40: error rate 0.200 of characters, at the start 0.300." in words
    assert "Look at this" not in words and "Not finished at step 40 of 40" in words


def test_without_a_panel_no_run_is_good(tmp_path: Path) -> None:
    level, words = told(write_grpo(tmp_path / "run", panel=False))
    assert level == "look" and "No panel was measured" in words


def test_the_numbers_are_plain_json(tmp_path: Path) -> None:
    found = numbers(read_run(write_grpo(tmp_path / "run", hurry=0.3)))
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["signs"]["rate_trend"]["suspect"] and again["rate_trend"]["last"]["low"] > 0.1
    assert again["reward"]["first"]["low"] < again["reward"]["first"]["value"] < 1
    assert again["rollouts"] == 640 and len(again["panel"]) == 4


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that went wrong, with a text that would be markup; drawing it takes seconds."""
    folder = write_grpo(tmp_path_factory.mktemp("runs") / "run", hurry=0.3, unended=0.4)
    evil = {"step": 40, "group": 9, "text": "<script>alert(1)</script>", "finish": "stop", "duration_s": 1.0}
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write(json.dumps(evil | {"reward": -0.1, "status": "scored", "voice": "<b>"}) + "\n")
    return page(read_run(folder))


def test_the_page_holds_all_that_it_shows(drawn: str) -> None:
    found = Page(drawn)
    assert found.tags["svg"] >= 18 and found.tags["audio"] == 10
    assert all(source.startswith(("data:audio/", "#")) for source in found.sources)
    for heading in ("Signs of reward hacking", "The panel", "Rollouts", "Training", "Samples", "Recipe"):
        assert f"<h2>{heading}</h2>" in drawn
    assert "did not end by itself (length)" in drawn and "A rather longer line" in drawn
    assert "default-src 'none'" in drawn


def test_the_worst_come_first(drawn: str) -> None:
    worst, best = drawn.split("Worst of the last rollouts")[1].split("Best of the last rollouts")
    rewards = [
        [float(one) for one in re.findall(r'<td class="number">(-?\d\.\d{3})</td>', part)]
        for part in (worst, best)
    ]
    assert rewards[0] == sorted(rewards[0]) and rewards[1] == sorted(rewards[1], reverse=True)
    assert len(rewards[0]) == len(rewards[1]) == 10 and rewards[0][-1] < rewards[1][-1]


def test_a_text_is_no_markup(drawn: str) -> None:
    assert "<script>" not in drawn and "&lt;script&gt;" in drawn and "&lt;b&gt;" in drawn


def test_a_supervised_run_has_a_page_too(tmp_path: Path) -> None:
    run = read_run(write_sft(tmp_path / "run"))
    text = page(run)
    assert Page(text).tags["svg"] == 3 and "<h2>Rollouts</h2>" not in text
    assert numbers(run)["signs"] == {}


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"facts": {"recipe": {}}}))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rew')
    run = read_run(tmp_path)
    assert run.step == 0 and not run.damaged and "Not finished at step 0." in page(run)
    write_rows(
        tmp_path / "rollouts.jsonl", [{"step": 1, "text": "Hello.", "finish": "stop", "duration_s": 1.0}]
    )
    assert "<h2>Rollouts</h2>" in page(read_run(tmp_path))


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    folder = write_grpo(tmp_path / "run", steps=20)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{nonsense\n[1]\n")
    (folder / "run.json").write_text("{}")
    run = read_run(folder)
    assert run.damaged == {"metrics.jsonl": 2, "run.json": 1}
    assert "Lines that cannot be read: 2 in metrics.jsonl, 1 in run.json." in told(folder)[1]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run\.json nor metrics\.jsonl"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_run(tmp_path / "none")
