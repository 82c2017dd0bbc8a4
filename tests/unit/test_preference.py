"""Pairs and votes: written, read, decided, and made into rows that a model can learn from."""

import json
from dataclasses import replace

import pytest

from llasa.bundle import load_bundle
from llasa.errors import ConfigError
from llasa.pairs import Side, Vote, decide, paired, read_pairs, read_votes, write_pairs, write_votes
from llasa.synthesizer import Synthesizer
from llasa.train.preference import Preference, preferences, split


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return load_bundle(tiny_bundle)


def side(*codes: int, codec: str = "c@0", finish: str = "stop", bundle: str = "one") -> Side:
    return Side(bundle, codec, 0, 0, list(codes), finish)  # pyright: ignore[reportArgumentType]


def pair(text: str = "the cat sat", voice: str | None = "ada", language: str = "en", **sides: Side):
    return paired(text, voice, language, sides.get("a", side(1, 2)), sides.get("b", side(3)))


def voted(folder, name: str, *votes: Vote):
    write_votes(folder / name, votes)
    return folder / name


def test_pairs_come_back_and_changed_ones_are_refused(tmp_path):
    made = [pair(), pair("the hat", None, a=side(5, finish="length"))]
    write_pairs(tmp_path, made)
    assert read_pairs(tmp_path) == made and made[0].id != made[1].id
    lines = (tmp_path / "pairs.jsonl").read_text()
    (tmp_path / "pairs.jsonl").write_text(lines.replace("the hat", "the cat"))
    with pytest.raises(ConfigError, match="line 2 has been changed"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(lines[:-30])
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        read_pairs(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        read_pairs(tmp_path / "none")


def test_odd_lines_of_votes_are_named(tmp_path):
    path = tmp_path / "votes.jsonl"
    good = json.dumps({"id": "x", "choice": "a", "seconds": 2, "mood": "merry"})
    path.write_text(f'{good}\nno json\n{{"id": "x"}}\n\n{{"id": "x", "choice": "c"}}\n[1]\n{good[:20]}\n')
    with path.open("a") as file:
        file.write("[" * 100_000 + "\n" + good.replace("2", "NaN") + "\n" + good.replace("2", "-1"))
    votes, odd = read_votes(path)
    assert votes == [Vote("x", "a", 2.0)]
    assert [one.place.rpartition("line ")[2] for one in odd] == [str(n) for n in (2, 3, 5, 6, 7, 8, 9, 10)]
    assert {one.reason for one in odd} == {"malformed"}


def test_most_voters_decide_and_clashes_are_counted(tmp_path):
    one, two, three, four = (pair(text) for text in ("one", "two", "three", "four"))
    files = [
        voted(
            tmp_path, "ann", Vote(one.id, "b"), Vote(one.id, "a", 3.0), Vote(two.id, "a"), Vote("odd", "a")
        ),
        voted(tmp_path, "ben", Vote(one.id, "a"), Vote(two.id, "b"), Vote(three.id, "bad")),
        voted(tmp_path, "cem", Vote(one.id, "same"), Vote(one.id, "same")),
        voted(tmp_path, "dov"),
    ]
    found = decide([one, two, three, four], files)
    assert found.choices == {one.id: "a", three.id: "bad"}
    assert found.clashes == {"tied": 1, "changed": 1, "unknown": 1, "malformed": 0}
    assert found.voters == 3 and len(found.votes) == 6
    assert {one.id for one in found.problems} == {one.id, two.id, "odd"}


def test_rows_are_what_speaking_would_have_drawn(bundle):
    codec, prompt = bundle.codec_name, bundle.prompt
    made = pair(a=side(1, 2, codec=codec), b=side(7, 8, 9, codec=codec, finish="length"))
    found = preferences([made], {made.id: "b"}, bundle)
    job = Synthesizer(bundle).job("the cat sat", "ada", 0, "en")
    assert found.rows == [
        Preference(
            made.id, made.text, job.prompt, prompt.ids([7, 8, 9]), [*prompt.ids([1, 2]), prompt.end_id]
        )
    ]
    assert not found.rejects and set(found.left_out.values()) == {0}


def test_a_pair_without_a_voice_is_learnt_without_one(bundle):
    codec = bundle.codec_name
    made = [pair(voice=None, a=side(1, codec=codec), b=side(2, codec=codec)),
            pair(a=side(1, codec=codec), b=side(2, codec=codec))]  # fmt: skip
    without, ada = preferences(made, {one.id: "a" for one in made}, bundle).rows
    default = Synthesizer(bundle).job("the cat sat", None, 0, "en").prompt
    assert ada.prompt == default and len(without.prompt) < len(default)
    assert not set(bundle.prompt.ids(range(bundle.codec.codebook_size))) & set(without.prompt)


def test_pairs_without_a_better_side_are_counted(bundle):
    made = [pair(text) for text in ("one", "two", "three", "four")]
    found = preferences(made, {made[0].id: "same", made[1].id: "bad", made[2].id: "bad"}, bundle)
    assert found.left_out == {"same": 1, "bad": 2, "open": 1} and not found.rows and not found.rejects


def test_pairs_that_cannot_be_learnt_are_named(bundle):
    codec, size = bundle.codec_name, bundle.codec.codebook_size
    fine = pair("fine", a=side(1, codec=codec), b=side(2, codec=codec))
    odd = {
        "made with codec 'c@0'": pair(),
        "no codes": replace(fine, id="empty", b=side(codec=codec)),
        "trained for 1024": replace(fine, id="long", a=side(*[1] * 1024, codec=codec)),
        "nobody": replace(fine, id="voice", voice="nobody"),
        "codebook has": replace(fine, id="codes", a=side(size, codec=codec)),
        "does not know 'zz'": replace(fine, id="language", language="zz"),
    }
    made = [fine, *odd.values()]
    found = preferences(made, {one.id: "a" for one in made}, bundle)
    assert [row.id for row in found.rows] == [fine.id]
    assert [one.id for one in found.rejects] == [one.id for one in odd.values()]
    for reason, reject in zip(odd, found.rejects, strict=True):
        assert reason in reject.detail


def test_the_split_keeps_texts_together_and_stays(bundle):
    rows = [Preference(f"{i}", f"text {i % 10}", [1], [2], [3]) for i in range(40)]
    train, held = split(rows, 0.2, 0)
    assert {row.text for row in train}.isdisjoint(row.text for row in held)
    assert len({row.text for row in held}) == 2 and len(train) + len(held) == 40
    assert split(rows[::-1], 0.2, 0)[1] == [row for row in rows[::-1] if row in held]
    assert len({tuple(row.id for row in split(rows, 0.2, seed)[1]) for seed in range(8)}) > 1
    assert split(rows, 0.0, 0) == (rows, [])
