"""What the studio page is made of: heard words, drawings, what was tried, parts of texts, takes, the gate."""

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("PIL")

from PIL import Image

from llasa.core import Audio, Candidate, Judged, Score, Utterance, Word
from llasa.errors import InputError
from llasa.receipt import as_drawn
from llasa.search import Ranking
from llasa.serve.asked import SpeechRequest
from llasa.serve.studio import takes as takes_module
from llasa.serve.studio import telling
from llasa.serve.studio.attempts import Attempt, Best, Graded, best_after, why
from llasa.serve.studio.gate import Gate
from llasa.serve.studio.sketch import COLUMNS, ROWS, outline, spectrogram
from llasa.serve.studio.takes import Take, Takes
from llasa.serve.studio.texts import parts_of
from llasa.serve.studio.words import error_rate, marks
from llasa.spoken import Spoken
from llasa.text.segment import Segment
from tests.conftest import clip

TEXT = "The <b>fox</b>, now."
WORDS = (
    Word("The", 0, 3, "The", "said", 0.1, 0.3),
    Word("fox", 7, 10, "focks", "changed", 0.3, 0.6),
    Word("", 10, 10, "um well", "added", 0.6, 0.9),
    Word("now", 16, 19, "", "missed"),
)


def test_marks_keep_the_text_and_tell_what_was_heard() -> None:
    found = marks(TEXT, WORDS)
    assert "".join(mark.text for mark in found) == TEXT
    assert [mark.kind for mark in found if mark.kind != "between"] == ["said", "changed", "added", "missed"]
    assert [mark.heard for mark in found if mark.kind in ("changed", "added")] == ["focks", "um well"]
    assert (found[0].start_s, found[0].end_s) == (0.1, 0.3)
    assert marks(TEXT, ()) == [replace(found[1], text=TEXT)] and marks("", ()) == []


def test_errors_count_each_added_word() -> None:
    assert error_rate(WORDS) == pytest.approx(4 / 3)
    assert error_rate(WORDS[:1]) == 0 and error_rate(()) is None


def test_the_outline_is_as_high_as_the_sound_is_loud() -> None:
    quiet_then_loud = np.concatenate([np.full(8000, 0.1), np.full(8000, 0.4)]).astype(np.float32)
    path = outline(Audio(quiet_then_loud, 16_000))
    points = [tuple(map(float, one.split())) for one in path[1:-1].split("L")]
    assert len(points) == 2 * COLUMNS
    assert points[10][1] == pytest.approx(50 - 12, abs=0.2) and points[-600][1] != points[10][1]
    assert points[COLUMNS - 10][1] == pytest.approx(50 - 48, abs=0.2)
    assert outline(Audio(np.zeros(5, np.float32), 16_000)).startswith("M")


def test_a_tone_stands_at_its_place_in_the_spectrogram() -> None:
    tone = Audio(np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32), 16_000)
    picture = np.asarray(Image.open(io.BytesIO(spectrogram(tone))))[..., 1]
    assert picture.shape == (ROWS, 16_000 // 64)
    row = picture[:, 100].astype(float).argmax()
    share = np.log10(1 + 1000 / 700) / np.log10(1 + 8000 / 700)  # of the way up, in mel
    assert abs((ROWS - 1 - row) - share * (ROWS - 1)) < 3
    silent = np.asarray(Image.open(io.BytesIO(spectrogram(Audio(np.zeros(10, np.float32), 16_000)))))
    assert silent[..., 1].max() == 0


def attempt(
    number: int, value: float | None, won: bool = False, errors: float = 0.0, **parts: float
) -> Attempt:
    graded = tuple(Graded(name, one, "") for name, one in parts.items())
    status = "bad" if value is None else "scored"
    candidate = Candidate(Utterance("0", "a"), [1], "stop")
    return Attempt(number, candidate, status, "ruled out by silence", value, graded, (), errors, won)


def test_why_names_the_next_best_and_where_they_differ() -> None:
    rows = [
        attempt(1, 0.5, Words=0.4, Length=0.9),
        attempt(2, 0.8, True, Words=0.9, Length=0.7),
        attempt(3, None),
    ]
    told = why(rows)
    assert told.startswith("Candidate 2 won with 0.80; next is candidate 1 with 0.50.")
    assert (
        "ahead most in words (0.90 against 0.40)" in told and "better in length (0.70 against 0.90)" in told
    )
    assert "the other 1 were ruled out" in why([attempt(1, 0.5, True), attempt(2, None)])
    assert "no candidate passed: ruled out by silence" in why([attempt(1, None, True)])
    close = why([attempt(1, 0.9512, True), attempt(2, 0.9508)])
    assert "0.9512" in close and "0.9508" in close


def test_the_best_only_rises_and_segments_are_averaged() -> None:
    one = [attempt(1, None), attempt(2, 0.6, errors=0.5), attempt(3, 0.4, errors=0.0), attempt(4, 0.8)]
    two = [attempt(1, 0.2, errors=0.1), attempt(2, 0.4, errors=0.3)]
    assert [best.value for best in best_after([one])] == [None, 0.6, 0.6, 0.8]
    assert [best.own for best in best_after([one])] == [None, 0.6, 0.4, 0.8]
    both = best_after([one, two])
    assert [best.value for best in both[1:]] == [pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.6)]
    assert both[1].errors == pytest.approx(0.4) and both[2].own is None
    assert best_after([]) == [] and best_after([[]]) == []


def test_plots_draw_what_is_known() -> None:
    assert telling.plots([Best(1, 0.5, 0.5, 0.0)]) == []
    value, errors = telling.plots([Best(1, 0.5, 0.5, 0.2), Best(2, 0.9, 0.9, 0.0), Best(3, 0.9, 0.4, 0.0)])
    assert value.words == "1: 0.50; 2: 0.90; 3: 0.90" and errors.words == "1: 20; 2: 0; 3: 0"
    heights = [float(step.split("V")[1]) for step in value.line.removesuffix("h10").split("H")[1:]]
    assert heights[0] == heights[1] < float(value.line.split("H")[0].split()[1])  # up is better
    assert len(value.dots) == 3 and errors.dots == ()


def test_what_was_tried_stands_in_the_order_it_was_drawn() -> None:
    judged = [Judged(Candidate(Utterance("0", "a"), [n], "stop"), Score(n / 10)) for n in (3, 1, 2)]
    spoken = Spoken(
        Segment("a", 0, 1, 0.0), judged[0].candidate, ranking=Ranking(tuple(judged), 3, "", 0, 0, (1, 2, 0))
    )
    assert [(rank, one.candidate.codes) for rank, one in as_drawn(spoken)] == [(2, [2]), (0, [3]), (1, [1])]


def take(owner: str = "me", seconds: float = 1.0) -> Take:
    made = Take(SpeechRequest(model="a", input=TEXT), owner)
    list(made.kept(iter([clip(seconds)])))
    made.close()
    return made


def test_a_take_is_its_owners_and_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, mine = Takes(), take()
    kept.keep(mine)
    assert kept.find(mine.id, "me") is mine and kept.find(mine.id, "you") is None
    monkeypatch.setattr(takes_module, "MOST_SAMPLES", 40_000)
    for _ in range(2):
        kept.keep(last := take(seconds=2))
    assert kept.find(mine.id, "me") is None and kept.find(last.id, "me") is last


def test_what_people_wrote_is_shown_and_never_markup() -> None:
    made = take()
    page = telling.result(made) + telling.player(made) + telling.refused("<script>") + telling.status(made)
    assert "<b>" not in page and "<script" not in page and "The &lt;b&gt;fox&lt;/b&gt;, now." in page


def test_a_live_sound_is_heard_from_its_beginning_until_it_ends() -> None:
    async def listened() -> list[bytes]:
        made = Take(SpeechRequest(model="a", input=TEXT), "me")
        made.live.append(b"a")
        listening = asyncio.create_task(heard(made))
        await asyncio.sleep(0)
        made.live.append(b"b")
        made.stir()
        await asyncio.sleep(0)
        made.close()
        return await listening

    async def heard(made: Take) -> list[bytes]:
        return [piece async for piece in made.heard()]

    assert asyncio.run(listened()) == [b"a", b"b"]


def test_a_book_comes_in_parts_that_fit(tmp_path: Path) -> None:
    book = tmp_path / "b.md"
    book.write_text("# One\n\nShort.\n\n# Two\n\n" + "A sentence of some words. " * 20 + "\n\n" + "x" * 250)
    parts = parts_of(book, 200)
    assert parts[0] == ("One", "One\n\nShort.") and parts[1][0] == "Two (1 of 5)"
    assert all(0 < len(text) <= 200 for _, text in parts)
    said = "".join(text for _, text in parts)
    assert said.count("A sentence of some words.") == 20 and said.count("x") == 250
    with pytest.raises(InputError, match=r"'gone\.txt'"):
        parts_of(tmp_path / "gone.txt", 200)


async def _answered(gate: Gate, path: str, body: bytes = b"") -> int:
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        told.append(message)

    await gate({"type": "http", "path": path, "headers": [], "method": "POST"}, receive, send)
    return told[0]["status"]


async def _lets_through(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})


def test_the_gate_knows_its_own_files_however_they_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"a")
    (folder / "link").symlink_to("/etc/passwd")
    gate, own = Gate(_lets_through, folder), f"{folder}/a.wav"

    def answered(path: str, body: Any = None) -> int:
        return asyncio.run(_answered(gate, path, b"" if body is None else json.dumps(body).encode()))

    assert answered(f"/gradio_api/file={own}") == 200 == answered("/config")
    for other in (
        f"{folder}/link",
        f"{folder}/../x",
        f"{folder}/%2e%2e/x",
        str(folder),
        "a.wav",
        "http://a/b",
    ):
        assert answered(f"/gradio_api/file={other}") == 404, other
    assert answered("/gradio_api/proxy=http://a/") == 404 == answered("/gradio_api/run/x")
    deep: Any = {"path": own}
    for _ in range(20):
        deep = [deep]
    join = "/gradio_api/queue/join"
    assert answered(join, {"data": ["text", {"path": own, "meta": {}}]}) == 200
    for wrong in ({"path": "/etc/passwd"}, {"path": "http://a/b"}, {"path": 3}, {"path": "own/a.wav"}, deep):
        assert answered(join, {"data": [wrong]}) == 400, wrong
    assert asyncio.run(_answered(gate, join, b"no json")) == 400
