"""Searching for speech, by the real command on the starter: candidates, receipt, deadline, refusals."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llasa import audio, load
from llasa.errors import ConfigError
from llasa.recipe import read_recipe
from llasa.synthesizer import Synthesizer
from tests.conftest import STARTER, Ran

Run = Callable[..., Ran]
TEXT = "The cat sat on the mat. It cost $12.50!"


@pytest.fixture(scope="module")
def starter() -> Synthesizer:
    return load()


def test_effort_keeps_candidates_and_writes_a_receipt(run: Run, tmp_path: Path) -> None:
    ran = run("say", TEXT, "--effort", 3, "--candidates", "tries", "--receipt", "-o", "x.wav", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    receipt = json.loads((tmp_path / "x.wav.receipt.json").read_text())
    assert receipt == told["receipt"] and told["receipt_file"] == "x.wav.receipt.json"
    assert receipt["text"] == TEXT and receipt["recognizer"] != receipt["held_out"] is not None
    for part in receipt["segments"]:
        assert part["drawn"] == 3 and part["heard"] and "second.value" in part["measures"]
        assert all(TEXT[word["start"] : word["end"]] == word["text"] for word in part["words"])
    words = [word["text"] for part in receipt["segments"] for word in part["words"] if word["text"]]
    assert words[:2] == ["The", "cat"] and any("12.50" in word for word in words)
    rows = json.loads((tmp_path / "tries" / "candidates.json").read_text())
    assert [(row["segment"], row["rank"]) for row in rows] == [(s, r) for s in (1, 2) for r in (1, 2, 3)]
    values = [row["value"] for row in rows if row["segment"] == 1]
    assert values == sorted(values, reverse=True) and values[0] > 0
    assert audio.read(tmp_path / "tries" / "01-01.wav").duration_s > 0.5
    assert (tmp_path / "tries" / "contact-sheet.png").stat().st_size > 10_000


def test_a_person_is_told_what_was_heard(run: Run, tmp_path: Path) -> None:
    ran = run("say", "Good morning.", "--receipt")
    assert ran.code == 0 and ran.out == "llasa.wav\n"
    assert "heard: " in ran.err and "1 drawn" in ran.err
    assert (tmp_path / "llasa.wav.receipt.json").is_file()


def test_effort_one_of_a_search_is_the_plain_first_try(starter: Synthesizer) -> None:
    plain = next(starter.speak("Good morning.", seed=5))
    judged = next(starter.speak("Good morning.", seed=5, effort=starter.effort(1)))
    assert plain.ranking is None and judged.ranking is not None
    assert judged.candidate.codes == plain.candidate.codes


def test_the_best_candidate_is_spoken_and_the_order_is_the_judges(starter: Synthesizer) -> None:
    spoken = next(starter.speak("Good morning, everybody.", seed=1, effort=4))
    assert spoken.ranking is not None
    judged = spoken.ranking.judged
    # Of those that could not win the value is of some parts only: they come after all others.
    values = [(one.status == "scored", one.score.value) for one in judged if one.score]
    scored = [row for row in values if row[0]]
    assert len(values) == 4 and scored == sorted(scored, reverse=True) == values[: len(scored)]
    assert spoken.candidate.codes == spoken.ranking.judged[0].candidate.codes


def test_a_target_and_a_deadline_end_it_early(starter: Synthesizer) -> None:
    easy = next(starter.speak("Good morning.", effort=starter.effort(12, target=0.0)))
    late = next(starter.speak("Good morning.", effort=starter.effort(12, deadline_s=1e-6)))
    for spoken, why in ((easy, "target"), (late, "deadline")):
        assert spoken.ranking is not None and len(spoken.ranking.judged) == 4
        assert why in spoken.ranking.stop


def test_beams_by_recipe(starter: Synthesizer, tmp_path: Path) -> None:
    judge = '[judge]\n[[judge.scorers]]\nname = "wer"\n'
    process = '[process]\n[[process.scorers]]\nname = "timbre"\n'
    shape = "width = 2\nbranch = 2\n"
    for strategy in ("beam", "hybrid", "committed"):
        (tmp_path / "r.toml").write_text(
            f'{judge}{process}[search]\nstrategy = "{strategy}"\n{shape}n = 3\nuntil_s = 0.5\n[x]\ny = 1\n'
        )
        effort = starter.effort(None, read_recipe(tmp_path / "r.toml"))
        ranking = next(starter.speak("Good morning.", effort=effort)).ranking
        assert ranking is not None and ranking.judged[0].status == "scored"


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (["--effort", "0"], "--effort"),
        (["--target", "1.5"], "--target"),
        (["--deadline", "soon"], "10s"),
        (["--style", "rtae=1.1"], "rate"),
        (["--style", "emotion=happy"], "classifier"),
        (["--judge", "none.toml"], "none.toml"),
    ],
)
def test_refused_before_anything_is_written(run: Run, tmp_path: Path, flags: list[str], hint: str) -> None:
    ran = run("say", "Hello.", *flags)
    assert ran.code == 2 and hint in ran.err and ran.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "hint"),
    [
        ('[judge]\n[[judge.scorers]]\nname = "repetitoin"\n', "repetition"),
        ('[judge]\n[[judge.scorers]]\nname = "wer"\nrecogniser = "bundle"\n', "recognizer"),
        ('[judge]\n[[judge.scorers]]\nname = "wer"\nrecognizer = "bundel"\n', "bundle"),
        ('[judge]\nscorers = []\n', "scorers"),
        ('[data]\nn = 2\n', "judge"),
        ('[judge]\n[[judge.scorers]]\nname = "nll"\n[search]\nstrategy = "beam"\n', "nll"),
    ],
)  # fmt: skip
def test_bad_recipes_are_refused(run: Run, tmp_path: Path, recipe: str, hint: str) -> None:
    (tmp_path / "r.toml").write_text(recipe)
    ran = run("say", "Hello.", "--judge", "r.toml")
    assert ran.code == 2 and hint in ran.err and ran.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]


@pytest.mark.parametrize("text", ["", "   ", "?!", "\N{GRINNING FACE}"])
def test_text_without_words_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    ran = run("say", text, "--effort", 4)
    assert ran.code == 2 and not list(tmp_path.iterdir())


def test_a_recogniser_that_is_down_is_told_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[judge]\n[[judge.scorers]]\nname = "wer"\nrecognizer = "endpoint:http://127.0.0.1:9/v1#m"\n'
    )
    ran = run("say", "Hello.", "--judge", "r.toml", "--effort", 2)
    assert ran.code == 3 and "127.0.0.1:9" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]


def test_a_folder_that_is_taken_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tries").mkdir()
    (tmp_path / "tries" / "mine.txt").write_text("keep")
    ran = run("say", "Hello.", "--effort", 2, "--candidates", "tries")
    assert ran.code == 2 and "tries" in ran.err and not (tmp_path / "llasa.wav").exists()


def test_a_bundle_without_a_judge_says_so(run: Run, tiny_bundle: Path) -> None:
    ran = run("say", "Hello.", "--bundle", tiny_bundle, "--effort", 2)
    assert ran.code == 2 and "[judge]" in ran.err


def test_the_starters_recipe_needs_no_extra_and_holds_one_recogniser_out() -> None:
    parts = read_recipe(STARTER / "judge.toml").judge.scorers
    assert any(part.held_out for part in parts)
    assert not {"similarity", "naturalness", "emotion"} & {part.name for part in parts}


def test_a_recipe_with_a_search_only_is_judged_by_the_bundles_own(
    starter: Synthesizer, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text('[search]\nstrategy = "fallback"\ntarget = 0.0\n')
    recipe = starter.recipe(tmp_path / "r.toml")
    assert recipe.judge == starter.recipe().judge and recipe.search.strategy == "fallback"
    with pytest.raises(ConfigError, match="judge"):
        read_recipe(tmp_path / "r.toml")


def test_word_times_are_those_of_the_written_sound(run: Run, tmp_path: Path) -> None:
    text = "Good morning. The boats came home."
    ran = run("say", text, "--effort", 2, "-o", "x.wav", "--json")
    told = json.loads(ran.out)
    words = [word for part in told["receipt"]["segments"] for word in part["words"] if word["end_s"]]
    times = [time for word in words for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times) and times[-1] <= told["duration_s"] + 0.05
    # The first word of the second sentence comes after the speech and the pause of the first.
    first = told["segments"][0]["duration_s"]
    boats = next(word for word in words if word["text"] == "boats")
    assert boats["start_s"] > first - 0.5


def test_a_winner_that_was_ruled_out_is_heard_all_the_same(run: Run, tmp_path: Path) -> None:
    text = "Hello there my dear friends."
    ran = run("say", text, "--effort", 2, "--set", "max_tokens=20", "--candidates", "tries", "--json")
    told = json.loads(ran.out)
    part = told["receipt"]["segments"][0]
    assert part["status"] == "bad" and part["ruled_out"] == 2 and told["warnings"]
    assert part["heard"] and any(word["status"] == "missed" for word in part["words"])
    assert (tmp_path / "tries" / "01-01.wav").is_file()


@pytest.mark.parametrize("flags", [["--target", "0.0"], ["--deadline", "0.001s"]])
def test_a_wish_without_an_effort_searches(run: Run, flags: list[str]) -> None:
    told = json.loads(run("say", "Hi there.", *flags, "--json").out)
    assert told["receipt"]["segments"][0]["drawn"] == 4


def test_a_witness_that_is_down_costs_only_its_word(run: Run, tmp_path: Path) -> None:
    class Gone:
        """Accepts connections and hangs up."""

        def __init__(self) -> None:
            self.socket = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=self.serve, daemon=True).start()

        def serve(self) -> None:
            while True:
                self.socket.accept()[0].close()

    url = f"http://127.0.0.1:{Gone().socket.getsockname()[1]}/v1#m"
    (tmp_path / "r.toml").write_text(
        '[judge]\n[[judge.scorers]]\nname = "wer"\n'
        f'[[judge.scorers]]\nname = "wer"\nlabel = "far"\nheld_out = true\nrecognizer = "endpoint:{url}"\n'
    )
    ran = run("say", "Hello there.", "--judge", "r.toml", "--effort", 2, "-o", "x.wav", "--json")
    part = json.loads(ran.out)["receipt"]["segments"][0]
    assert ran.code == 0 and (tmp_path / "x.wav").is_file()
    assert part["heard"] and part["second_heard"] is None and "127.0.0.1" in part["note"]


def test_the_receipt_says_how_to_make_it_again(starter: Synthesizer, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[search]\nn = 2\ntemperature = 1.1\n")
    effort = starter.effort(None, starter.recipe(tmp_path / "r.toml"))
    spoken = list(starter.speak("Good morning.", seed=9, effort=effort))
    made = starter.receipt("Good morning.", spoken, effort).made
    assert made["sampling"]["seed"] == 9 and made["sampling"]["temperature"] == 1.1
    assert made["search"] == "BestOfN" and made["recipe"]["search"]["n"] == 2 and made["voice"] == "rufus"


def test_a_judge_without_a_witness_gets_the_bundles(starter: Synthesizer, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[judge]\n[[judge.scorers]]\nname = "wer"\n')
    effort = starter.effort(1, starter.recipe(tmp_path / "r.toml"))
    assert [part.held_out for part in effort.judge.rubric.parts] == [False, True]


def test_a_folder_that_cannot_be_made_is_refused(run: Run, tmp_path: Path) -> None:
    ran = run("say", "Hello.", "--effort", 2, "--candidates", "/proc/none/tries")
    assert ran.code == 2 and "tries" in ran.err and not list(tmp_path.iterdir())


def test_repair_reports_what_it_tried(run: Run, tmp_path: Path) -> None:
    told = json.loads(run("say", TEXT, "--effort", 2, "--repair", "-o", "x.wav", "--json").out)
    assert len(told["repairs"]) == len(told["segments"]) == 2
    for outcome, part in zip(told["repairs"], told["receipt"]["segments"], strict=True):
        assert all(one["after"] > one["before"] for one in outcome["attempts"] if one["kept"])
        assert outcome["attempts"] or outcome["note"]
        assert part["drawn"] >= 2
