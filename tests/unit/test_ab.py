"""Pairs that people hear: drawn, shown on a page, and what their votes say."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from llasa.bundle import load_bundle
from llasa.codec.compact import CompactCodec
from llasa.core import Audio, Candidate, Finish, Score, Utterance
from llasa.errors import ConfigError, ScorerError
from llasa.evaluate.ab import keep, kept, share, tally, write_page, write_sounds
from llasa.evaluate.drawing import Speaker, best_and_worst, two_takes
from llasa.judge import Judge
from llasa.pairs import Decided, Vote
from llasa.synthesizer import Synthesizer
from tests.conftest import clip
from tests.unit.test_preference import pair, side

TEXTS = [(f"the {word} sat", "en") for word in ("cat", "hat", "mat", "rat", "bat", "fat")]


@pytest.fixture(scope="module")
def speaker(tiny_bundle):
    short = {"max_tokens": 12, "min_tokens": 4}
    return Speaker("tiny", Synthesizer(load_bundle(tiny_bundle)), short)


def test_takes_differ_repeat_and_change_places(speaker):
    other = Speaker("other", speaker.synthesizer, speaker.sampling)
    drawn = list(two_takes([speaker, other], TEXTS, None, 3))
    pairs = [one.pair for one in drawn if one.pair]
    assert len(pairs) == 6 and all(set(one.sounds or {}) == {"a", "b"} for one in drawn)
    assert {one.a.bundle for one in pairs} == {"tiny", "other"}
    assert all({one.a.bundle, one.b.bundle} == {"tiny", "other"} for one in pairs)
    assert [one.pair for one in two_takes([speaker, other], TEXTS, None, 3)] == pairs
    again = [one.pair for one in two_takes([speaker], TEXTS[:2], None, 4)]
    assert again[0] and again[0].a.codes != pairs[0].a.codes and again[0].a.seed != again[0].b.seed
    [first] = speaker.say(TEXTS[0][0], None, "en", pairs[0].a.seed)
    assert first.codes == pairs[0].a.codes  # a pair tells how to make it again


def test_pairs_name_the_voice_that_spoke(speaker, tiny_bundle):
    [default, named] = [next(two_takes([speaker], TEXTS[:1], voice, 3)).pair for voice in (None, "ada")]
    assert default and default.voice == "ada" and default == named
    manifest = load_bundle(tiny_bundle).manifest.model_copy(update={"default_voice": None})
    voiceless = Speaker("other", Synthesizer(replace(load_bundle(tiny_bundle), manifest=manifest)), {})
    found = next(two_takes([voiceless], TEXTS[:1], None, 3)).pair
    assert found and found.voice is None
    with pytest.raises(ConfigError, match="ada and none, which tell the sides apart"):
        next(two_takes([speaker, voiceless], TEXTS, None, 3))
    assert next(two_takes([speaker, replace(voiceless, sampling=speaker.sampling)], TEXTS, "ada", 3)).pair


class Takes:
    """Says every text by candidates of one code each."""

    bundle = SimpleNamespace(codec_name="c@0")

    def __init__(self, *codes: int, finish: Finish = "stop") -> None:
        self.codes = codes
        self.finish: Finish = finish

    def candidates(self, text, voice, n, seed, language):
        said = Utterance("0", text, None, language)
        return [Candidate(said, [code], self.finish, None, clip(0.1)) for code in self.codes[:n]]


class First:
    """Likes candidates by their first code; 13 it cannot judge."""

    name, partial, cost = "first", True, 0

    def score(self, candidates):
        if any(one.codes[0] == 13 for one in candidates):
            raise ScorerError("thirteen")
        return [Score(one.codes[0] / 100) for one in candidates]


def judged(margin: float, *codes: int, finish: Finish = "stop"):
    takes: Any = Takes(*codes, finish=finish)
    judge = Judge(CompactCodec.random(), First())
    return list(best_and_worst(Speaker("tiny", takes, {}), TEXTS, None, 0, judge, len(codes), margin))


def test_a_judge_takes_the_ends_of_a_ranking():
    found = judged(0.1, 50, 13, 20, 80, 30)
    for one in found:
        assert one.pair and one.vote and one.vote.id == one.pair.id
        best, worst = one.pair.sides[one.vote.choice], one.pair.sides["b" if one.vote.choice == "a" else "a"]
        assert (best.codes, best.candidate, worst.codes, worst.candidate) == ([80], 3, [20], 2)
    assert {one.vote.choice for one in found if one.vote} == {"a", "b"}


@pytest.mark.parametrize(
    ("margin", "codes", "finish", "reason"),
    [
        (0.5, (50, 60), "stop", "only 0.100 apart"),
        (0.1, (13, 13, 60), "stop", "fewer than two"),
        (0.1, (20, 60), "length", "no candidate is any good"),
    ],
)
def test_what_is_no_pair_says_why(margin, codes, finish, reason):
    found = judged(margin, *codes, finish=finish)
    assert len(found) == len(TEXTS) and all(one.pair is None and reason in one.reason for one in found)


def decided(**choices: str) -> Decided:
    votes = [Vote(id, choice, 2.0) for id, choice in choices.items()]  # pyright: ignore[reportArgumentType]
    return Decided(dict(choices), {}, [], 1, votes)  # pyright: ignore[reportArgumentType]


def test_votes_are_counted_by_bundle_and_by_place():
    one, two = side(1, bundle="one"), side(2, bundle="two")
    pairs = [pair(f"text {i}", a=one if i % 2 else two, b=two if i % 2 else one) for i in range(8)]
    choices = dict(zip((one.id for one in pairs), ("b", "a", "b", "a", "b", "b", "same"), strict=False))
    found = tally(pairs, decided(**choices))
    assert found.counts == {"a": 2, "b": 4, "same": 1, "bad": 0, "open": 1}
    assert (found.bundles["one"].wins, found.bundles["one"].of) == (5, 6)
    assert found.bundles["two"].wins == 1 and found.left.wins == 2 and found.seconds == 2.0
    same = [pair("one"), pair("two")]
    assert tally(same, decided(**{same[0].id: "a"})).bundles == {}
    assert tally(same, decided()).left == share(0, 0)


def test_the_interval_is_the_exact_one():
    found = share(8, 10)
    assert (found.low, found.high) == pytest.approx(
        (0.4439, 0.9748), abs=1e-4
    )  # Clopper and Pearson's tables
    none = share(0, 20)
    assert none.low == 0.0 and none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert share(60, 100).low > 0.49 and math.isclose(share(0, 0).value, 0.5)


def page(folder, pairs) -> str:
    for one in pairs:
        write_sounds(folder, one, {"a": clip(0.2), "b": clip(0.3)})
    write_page(folder, pairs)
    return (folder / "index.html").read_text()


def test_the_page_is_blind_alone_and_safe(tmp_path):
    nasty = '</script><script>alert(1)</script> <|SPEECH_GENERATION_END|> & "quotes"'
    pairs = [pair(nasty, a=side(1, bundle="secret-a"), b=side(2, bundle="secret-b")), pair("fine", None)]
    html = page(tmp_path, pairs)
    assert "secret" not in html and "alert(1)</script>" not in html
    assert not re.search(r"(?:https?:)?//[a-z]", html)  # nothing is loaded from elsewhere
    [data] = re.findall(r'type="application/json" id="pairs">(.*?)</script>', html, re.S)
    rows = json.loads(data)
    assert [row["text"] for row in rows] == [nasty, "fine"]
    assert all((tmp_path / row["sounds"][name]).is_file() for row in rows for name in ("a", "b"))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_a_person_votes_by_keys(tmp_path):
    """The page's own script, on a document that holds just what it touches."""
    pairs = [pair(text) for text in ("one", "two", "three")]
    html = page(tmp_path, pairs)
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    data = re.findall(r'id="pairs">(.*?)</script>', html, re.S)[0]
    (tmp_path / "drive.js").write_text(DRIVE.replace("DATA", data).replace("SCRIPT", json.dumps(script)))
    ran = subprocess.run(["node", tmp_path / "drive.js"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["early"] == {} and told["half"] == 1
    assert told["count"] == "pair 3, 3 of 3 done" and told["progress"] == 3
    votes = [json.loads(line) for line in told["saved"]]
    assert [(vote["id"], vote["choice"]) for vote in votes] == [
        (pairs[0].id, "b"), (pairs[1].id, "bad"), (pairs[2].id, "same"),
    ]  # fmt: skip
    assert all(vote["seconds"] >= 0 for vote in votes)
    assert told["played"] == [f"{pairs[0].id}-a.wav", f"{pairs[0].id}-b.wav"]
    assert told["again"] == "pair 1, 3 of 3 done"  # after a reload all is remembered


DRIVE = """
const stored = {}, played = [];
global.localStorage = { getItem: k => stored[k] ?? null, setItem: (k, v) => { stored[k] = v; } };
let saved = null, keys = null, parts = {};
global.Blob = class { constructor(rows) { saved = rows; } };
global.URL = { createObjectURL: () => "blob:", revokeObjectURL: () => {} };
function element() {
  return { classList: { toggle() {} }, addEventListener() {}, paused: true, click() {},
    pause() { this.paused = true; },
    play() { this.paused = false; played.push(this.src); return Promise.resolve(); } };
}
global.document = {
  getElementById: id => parts[id] ??= Object.assign(element(), id === "pairs" ? { textContent: `DATA` } : {}),
  createElement: element, addEventListener: (name, act) => { keys = act; },
};
const press = key => keys({ key, preventDefault() {} });
const wait = () => new Promise(done => setTimeout(done, 5));
(async () => {
  (0, eval)("{" + SCRIPT + "}");
  press("b"); const early = JSON.parse(Object.values(stored)[0] || "{}");
  press("1"); press("2"); await wait(); press("b");
  const first = [...played];
  press("1"); press("ArrowRight"); press("ArrowLeft"); press("2"); await wait(); press("s");
  const half = Object.keys(JSON.parse(Object.values(stored)[0])).length;  // only one side of it was heard
  press("1"); press("2"); await wait(); press("a");
  press("ArrowLeft"); press("x");
  press("1"); press("2"); await wait(); press("s");
  const count = parts.count.textContent, progress = parts.progress.value;
  parts.save.onclick();
  parts = {}; (0, eval)("{" + SCRIPT + "}");
  const again = parts.count.textContent;
  console.log(JSON.stringify({ early, half, count, progress, saved, played: first, again }));
})();
"""


def test_sounds_are_those_of_their_side(tmp_path):
    from llasa.audio import read

    made = pair()
    write_sounds(tmp_path, made, {"a": clip(0.5), "b": Audio(clip(0.7).samples, 16000)})
    assert read(tmp_path / f"{made.id}-a.wav", min_s=0.1).duration_s == pytest.approx(0.5)
    assert read(tmp_path / f"{made.id}-b.wav", min_s=0.1).duration_s == pytest.approx(0.7)


@pytest.mark.fault("R3")
def test_pairs_go_on_where_they_were_stopped(speaker, tmp_path):
    drawn = list(two_takes([speaker], TEXTS[:3], None, 3))
    for one in drawn[:2]:
        keep(tmp_path, one)
    rows = tmp_path / "drawn.jsonl"
    rows.write_bytes(rows.read_bytes() + b'{"text": "the mat s')  # of a run that was killed
    before = kept(tmp_path)
    assert [(one.pair, one.vote) for one in before] == [(one.pair, None) for one in drawn[:2]]
    [last] = two_takes([speaker], TEXTS[:3], None, 3, len(before))
    assert last.pair == drawn[2].pair
    keep(tmp_path, replace(last, pair=None, vote=None, reason="none"))
    assert [one.reason for one in kept(tmp_path)] == ["", "", "none"]
