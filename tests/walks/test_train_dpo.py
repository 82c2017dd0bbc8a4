"""`llasa train dpo`: from texts by way of pairs and votes to a bundle that speaks."""

import json
from pathlib import Path

import pytest

RECIPE = Path("recipes/preference/starter.toml").absolute()
FEW = [
    "trainer.max_steps=2", "trainer.eval_steps=2", "trainer.logging_steps=1", 'trainer.report_to="none"',
    'samples.texts=["The cat sat."]', "samples.every=2", "held_out=0.4",
]  # fmt: skip
JUDGE = """
[judge]
truncated = 0.0
[[judge.scorers]]
name = "repetition"
"""


@pytest.fixture
def pairs(run):
    """Run `llasa evaluate ab`."""
    return lambda *arguments: run("evaluate", "ab", *arguments)


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def test_from_texts_to_votes_to_a_bundle(run, pairs, tiny_bundle, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"The {word} sat.\n" for word in ("cat", "hat", "mat", "rat", "man")))
    made = pairs(texts, "-o", "listen", "--bundle", tiny_bundle, "--json")
    assert made.code == 0, made.err
    assert json.loads(made.out)["pairs"] == 5 and Path("listen/index.html").is_file()
    rows = [json.loads(line) for line in Path("listen/pairs.jsonl").read_text().splitlines()]
    assert all((tmp_path / "listen" / f"{row['id']}-{side}.wav").is_file() for row in rows for side in "ab")
    choices = ["a", "b", "a", "b", "same"]
    votes = [{"id": row["id"], "choice": c, "seconds": 2.5} for row, c in zip(rows, choices, strict=True)]
    Path("votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    told = pairs("listen", "--read", "votes.jsonl")
    assert told.code == 0 and "same 1, both bad 0, open 0" in told.out and "won 2 of 4" in told.out
    given = settings(*FEW, f"model={str(tiny_bundle)!r}", 'pairs="listen"', 'votes=["votes.jsonl"]')
    looked = run("train", "dpo", RECIPE, *given, "--out", "run", "--dry-run")
    assert looked.code == 0 and "2 pairs to learn from, 2 held out" in looked.err and "1 same" in looked.err
    trained = run("train", "dpo", RECIPE, *given, "--out", "run", "--json")
    assert trained.code == 0, trained.err
    assert "eval_rewards/accuracies" in Path("run/metrics.jsonl").read_text()
    assert "sample_failures" in Path("run/metrics.jsonl").read_text()
    spoken = run("say", "The cat sat.", "--bundle", json.loads(trained.out)["output"], "-o", "out.wav")
    assert spoken.code == 0 and Path("out.wav").is_file(), spoken.err


def test_what_is_wrong_is_told_in_a_line(run, pairs, tiny_bundle, tmp_path):
    Path("texts.txt").write_text("The cat sat.\n\n")
    Path("judge.toml").write_text(JUDGE)
    Path("full").mkdir()
    Path("full/x").touch()
    named = ("--bundle", tiny_bundle)
    for given, told in (
        (("texts.txt", *named), "Name one with -o"),
        (("texts.txt", "-o", "full", *named), "Name a new folder"),
        (("texts.txt", "-o", "new1", *named), "line 2: it is empty"),
        (("texts.txt", "-o", "new2", *named, *named, *named), "at most two"),
        (("texts.txt", "-o", "new3", *named, *named, "--judge", "judge.toml"), "from one"),
        (("texts.txt", "--read", "votes.jsonl"), "Name what"),
    ):
        found = pairs(*given)
        assert found.code == 2 and told in found.err and "Traceback" not in found.err, (given, found.err)
    found = run("train", "dpo", RECIPE, "--set", f"model={str(tiny_bundle)!r}", "--out", "run")
    assert found.code == 2 and "listen" in found.err and "Traceback" not in found.err, found.err


def test_a_judge_votes(pairs, bundle_folder):
    Path("texts.txt").write_text("Good morning to you all.\n")
    given = ("texts.txt", "-o", "judged", "--bundle", bundle_folder, "--judge", "own", "--effort", "4")
    made = pairs(*given, "--margin", "0.001", "--temperature", "1.0", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert (told["pairs"], told["votes"]) == (1, 1)
    read = pairs("judged", "--read", "judged/votes.jsonl", "--json")
    counts = json.loads(read.out)["counts"]
    assert counts["a"] + counts["b"] == 1 and counts["open"] == 0


def test_another_judge_in_the_same_file_does_not_go_on(pairs, tiny_bundle):
    Path("texts.txt").write_text("The cat sat.\n")
    Path("judge.toml").write_text(JUDGE)
    given = ("texts.txt", "-o", "judged", "--bundle", tiny_bundle, "--judge", "judge.toml", "--effort", "2")
    pairs(*given)
    Path("judge.toml").write_text(f"{JUDGE}weight = 0.5\n")
    found = pairs(*given)
    assert found.code == 2 and "judge.judge.scorers.0.weight" in found.err, found.err
