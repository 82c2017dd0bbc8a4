"""The judge: decode once, cheap first, rule out, combine, check."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from llasa.core import Audio, Candidate, Codes, Score, Utterance, Voice
from llasa.errors import ConfigError, InputError, ScorerError
from llasa.judge import Judge, JudgeBlock, Part, Rubric, build_judge, combined
from llasa.recognizers.base import Transcript
from llasa.scorers.base import CODES, LARGE_MODEL, SOUND, Parts, load_scorer
from llasa.text.reading import Reader


class Codec:
    """Sound that repeats the codes; counts what it decodes."""

    name, sample_rate, codebook_size, hop_length = "plain@0", 100, 1000, 4

    def __init__(self) -> None:
        self.batches: list[tuple[int, Codes | None]] = []

    def encode(self, audio: Sequence[Audio]) -> list[Codes]:
        return [[0] * (len(one.samples) // 4) for one in audio]

    def decode(self, codes: Sequence[Codes], context: Codes | None = None) -> list[Audio]:
        self.batches.append((len(codes), context))
        return [Audio(np.repeat(np.array(row, np.float32) / 1000, 4), 100) for row in codes]

    def code_count(self, n_samples: int) -> int:
        return n_samples // 4


class First:
    """The first code / 100 is the value; notes whom it saw."""

    def __init__(self, name: str = "first", cost: int = SOUND, partial: bool = True, at: int = 0) -> None:
        self.name, self.cost, self.partial, self.at = name, cost, partial, at
        self.seen: list[Candidate] = []

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.seen += candidates
        return [Score(one.codes[self.at] / 100, {"code": one.codes[self.at]}) for one in candidates]


class Says:
    """Always gives, or raises, one thing."""

    name, cost, partial = "says", SOUND, True

    def __init__(self, answer: list[Score] | Exception | float) -> None:
        self.answer = answer

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, list):
            return self.answer
        return [Score(self.answer)] * len(candidates)


def candidate(*codes: int, finish: str = "stop", voice: Voice | None = None) -> Candidate:
    return Candidate(Utterance("0", "hello", voice), list(codes), finish)  # pyright: ignore[reportArgumentType]


def values(judged) -> list[float | None]:
    return [one.score.value if one.score else None for one in judged]


def test_order_and_one_decode_a_voice() -> None:
    ada, bob = (Voice(name, "hi", [i], "plain@0") for i, name in enumerate(("ada", "bob")))
    codec = Codec()
    rows = [candidate(30, voice=ada), candidate(10, voice=bob), candidate(20, voice=ada)]
    judged = Judge(codec, First()).judge(rows)
    assert values(judged) == [0.3, 0.1, 0.2]
    assert [one.candidate.codes for one in judged] == [[30], [10], [20]]
    assert codec.batches == [(2, [0]), (1, [1])]
    assert all(one.candidate.audio is not None for one in judged)


def test_sound_that_is_there_is_not_made_again() -> None:
    codec = Codec()
    sound = Audio(np.ones(8, np.float32), 100)
    judged = Judge(codec, First()).judge([replace(candidate(50), audio=sound)])
    assert judged[0].candidate.audio is sound
    assert codec.batches == []


def test_batch_equals_one_by_one() -> None:
    judge = Judge(Codec(), Rubric([Part(First("a"), 2), Part(First("b", at=1), gate=True)]))
    rows = [candidate(30, 90), candidate(99, 10), candidate(), candidate(5, 5, finish="loop")]
    alone = [judge.judge([row])[0] for row in rows]
    assert [(one.status, one.score) for one in judge.judge(rows)] == [(o.status, o.score) for o in alone]


@pytest.mark.parametrize(
    ("row", "value", "status"),
    [(candidate(), 0.1, "bad"), (candidate(50, finish="length"), 0.2, "bad"),
     (candidate(50, finish="loop"), 0.2, "bad"), (candidate(50, finish="partial"), 0.5, "scored")],
)  # fmt: skip
def test_unspeakable_candidates_have_their_declared_value(row, value, status) -> None:
    scorer = First()
    judged = Judge(Codec(), scorer, empty=0.1, truncated=0.2).judge([row])[0]
    assert (values([judged]), judged.status) == ([value], status)
    assert bool(judged.reason) == (status == "bad")
    assert len(scorer.seen) == (status == "scored")


def test_one_part_is_that_part() -> None:
    rows = [candidate(30), candidate(70)]
    for combine in ("harmonic", "mean", "min"):
        rubric = Rubric([Part(First(), weight=3)], combine)  # pyright: ignore[reportArgumentType]
        assert values(Judge(Codec(), rubric).judge(rows)) == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("mean", (3 * 0.8 + 0.2) / 4), ("harmonic", 4 / (3 / 0.8 + 1 / 0.2)), ("min", 0.2)],
)
def test_combination(combine, expected) -> None:
    assert combined([(0.8, 3), (0.2, 1)], combine) == pytest.approx(expected)
    assert combined([(0.8, 3), (0.0, 1)], "harmonic") == 0


def test_gates_multiply_what_the_graded_parts_give() -> None:
    rubric = Rubric([Part(First("a")), Part(First("g", at=1), gate=True), Part(First("h", at=2), gate=True)])
    assert values(Judge(Codec(), rubric).judge([candidate(80, 50, 50)])) == pytest.approx([0.2])


def test_only_gates() -> None:
    assert values(Judge(Codec(), Rubric([Part(First(), gate=True)])).judge([candidate(40)])) == [0.4]


def test_cheap_part_rules_out_before_decoding_and_dear_parts() -> None:
    cheap, dear, codec = First("cheap", CODES), First("dear", LARGE_MODEL, at=1), Codec()
    judge = Judge(codec, Rubric([Part(dear), Part(cheap, floor=0.3)]))
    out, kept = judge.judge([candidate(29, 90), candidate(30, 90)])
    assert (out.status, out.score.value, kept.status) == ("bad", 0, "scored")  # pyright: ignore[reportOptionalMemberAccess]
    assert "cheap" in out.reason and "0.29" in out.reason
    assert codec.batches == [(1, None)] and len(dear.seen) == 1
    assert out.score.measures["cheap.value"] == pytest.approx(0.29)  # pyright: ignore[reportOptionalMemberAccess]


def test_held_out_parts_report_and_never_steer() -> None:
    other = First("other", LARGE_MODEL, at=1)
    judge = Judge(Codec(), Rubric([Part(First()), Part(other, held_out=True, label="second", floor=0.9)]))
    quiet = judge.judge([candidate(50, 10)])[0]
    told = judge.judge([candidate(50, 10)], held_out=True)[0]
    assert values([quiet, told]) == [0.5, 0.5] and told.status == "scored"
    assert "second.value" not in quiet.score.measures  # pyright: ignore[reportOptionalMemberAccess]
    assert told.score.measures["second.value"] == 0.1  # pyright: ignore[reportOptionalMemberAccess]
    assert told.score.measures["second.code"] == 10  # pyright: ignore[reportOptionalMemberAccess]


def test_a_held_out_part_that_fails_is_told_and_costs_nothing() -> None:
    judge = Judge(Codec(), Rubric([Part(First()), Part(Says(ScorerError("down")), held_out=True)]))
    told = judge.judge([candidate(50)], held_out=True)[0]
    assert told.status == "scored" and told.score is not None and "down" in told.score.note


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.1, 1.1, ScorerError("down"), [Score(0.5)] * 3])
def test_a_failing_scorer_gives_no_verdict(answer) -> None:
    judge = Judge(Codec(), Rubric([Part(First("fine")), Part(Says(answer))]))
    judged = judge.judge([candidate(50), candidate(60)])
    assert [one.status for one in judged] == ["unjudged", "unjudged"]
    assert values(judged) == [None, None] and all(one.reason for one in judged)


def test_one_unjudgeable_candidate_does_not_cost_the_others() -> None:
    class Picky(First):
        def score(self, candidates: Sequence[Candidate]) -> list[Score]:
            if any(one.codes[0] == 13 for one in candidates):
                raise InputError("unlucky")
            return super().score(candidates)

    judged = Judge(Codec(), Picky()).judge([candidate(50), candidate(13), candidate(60)])
    assert [one.status for one in judged] == ["scored", "unjudged", "scored"]
    assert values(judged) == [0.5, None, 0.6]


class Service(First):
    """Fails for a batch with a code of 13 or above 200; counts how often it was asked."""

    asked = 0

    def score(self, candidates: Sequence[Candidate]) -> list[Score]:
        self.asked += 1
        if any(one.codes[0] == 14 for one in candidates):
            raise InputError("unlucky")
        if any(one.codes[0] == 13 or one.codes[0] > 200 for one in candidates):
            raise ScorerError("HTTP 503")
        return super().score(candidates)


def test_one_failed_request_does_not_cost_the_others() -> None:
    judged = Judge(Codec(), Service()).judge([candidate(code) for code in (50, 13, 60, 70)])
    assert values(judged) == [0.5, None, 0.6, 0.7] and "503" in judged[1].reason


@pytest.mark.parametrize("others", [(), (14,), (50,)])
def test_a_dead_service_is_not_waited_for_again_and_again(others) -> None:
    service = Service()
    judged = Judge(Codec(), service).judge([candidate(code) for code in (*others, *range(201, 217))])
    assert {one.status for one in judged[len(others) :]} == {"unjudged"}
    assert all("503" in one.reason for one in judged[len(others) :])
    assert service.asked == 3 + len(others)


@pytest.mark.parametrize(
    "answer",
    [None, 0.5, [None, None], [0.5, 0.5], [Score(None)] * 2, [Score("0.5")] * 2,  # pyright: ignore
     [Score(0.5, {"x": None})] * 2, [Score(0.5, {"x": math.nan})] * 2],  # pyright: ignore
)  # fmt: skip
def test_what_is_no_score_is_no_verdict(answer) -> None:
    class Odd(Says):
        def score(self, candidates: Sequence[Candidate]) -> list[Score]:
            return answer

    judged = Judge(Codec(), Odd(0)).judge([candidate(50), candidate(60)])
    assert [one.status for one in judged] == ["unjudged", "unjudged"]
    assert "Judging by 'says'" in judged[0].reason


def test_numbers_of_numpy_become_plain() -> None:
    given = Score(np.float32(0.5), {"n": np.int64(3), "far": -math.inf})  # pyright: ignore[reportArgumentType]
    score = Judge(Codec(), Says([given])).judge([candidate(50)])[0].score
    assert score is not None and type(score.value) is float
    assert {key: type(number) for key, number in score.measures.items()} == dict.fromkeys(
        score.measures, float
    )
    assert (score.measures["n"], score.measures["far"]) == (3, -math.inf)


@pytest.mark.parametrize("lacking", ["name", "partial", "cost", "score"])
def test_what_is_no_scorer_is_refused(lacking) -> None:
    has = {"name": "x", "partial": True, "cost": 0, "score": First.score}
    made = type("Half", (), {key: value for key, value in has.items() if key != lacking})()
    with pytest.raises(ConfigError, match=f"no '{lacking}' in a Half"):
        Judge(Codec(), made)


class Ears:
    """Hears nothing."""

    text_form = "characters"

    def __init__(self, name: str) -> None:
        self.name = name

    def transcribe(self, audio: Sequence[Audio]) -> list[Transcript]:
        return [Transcript("")] * len(audio)


def test_a_recogniser_that_steers_cannot_be_held_out_as_well() -> None:
    def block(second: str) -> JudgeBlock:
        wer = {"name": "wer", "recognizer": "bundle"}
        return JudgeBlock.model_validate(
            {"scorers": [wer, wer | {"label": "second", "recognizer": second, "held_out": True}]}
        )

    given = Parts(Codec(), Reader(), Ears)
    assert build_judge(block("other"), given)
    with pytest.raises(ConfigError, match=r"'second' is held out.*'bundle'.*another one"):
        build_judge(block("bundle"), given)


def test_a_bug_in_a_scorer_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Judge(Codec(), Says(ZeroDivisionError())).judge([candidate(50)])


def test_partial_only_if_all_steering_parts_are() -> None:
    whole = Part(First("whole", partial=False))
    assert not Judge(Codec(), Rubric([Part(First()), whole])).partial
    assert Judge(Codec(), Rubric([Part(First()), replace(whole, held_out=True)])).partial


@pytest.mark.parametrize(
    "parts",
    [[], [Part(First(), held_out=True)], [Part(First()), Part(First())], [Part(First(), weight=0)],
     [Part(First(), weight=math.nan)], [Part(First(), floor=1.5)]],
)  # fmt: skip
def test_impossible_rubrics_are_refused(parts) -> None:
    with pytest.raises(ConfigError):
        Rubric(parts)


def test_a_rubric_is_a_scorer() -> None:
    rubric = Rubric([Part(First("a")), Part(First("b", at=1))], "mean")
    nested = Rubric([Part(rubric), Part(First("c", at=2))], "mean")
    assert nested.score([candidate(20, 40, 90)])[0].value == pytest.approx(0.6)


def parts() -> Parts:
    return Parts(Codec(), Reader(), lambda name: pytest.fail(f"asked for {name}"))


def test_built_from_a_table_with_anyones_class() -> None:
    block = JudgeBlock.model_validate({
        "combine": "mean",
        "scorers": [{"name": f"{__name__}:First", "label": "x", "weight": 2.0, "at": 1, "cost": 0}],
    })  # fmt: skip
    judged = build_judge(block, parts()).judge([candidate(10, 40)])
    assert values(judged) == [0.4]


@pytest.mark.parametrize(
    ("entry", "hint"),
    [({"name": "repetitoin"}, "repetition"), ({"name": f"{__name__}:Second"}, "Second"),
     ({"name": f"{__name__}:First", "cots": 1}, "cost"), ({"name": "no.module:First"}, "no"),
     ({"name": "os:path"}, "no class"), ({"name": "math:pi"}, "no class"), ({"name": ":X"}, "module:Class"),
     ({"name": "..:X"}, "module:Class"), ({"name": f"{__name__}:Unread"}, "Nowhere"),
     ({"name": f"{__name__}:Ears"}, "name")],
)  # fmt: skip
def test_unknown_names_and_options_are_refused_with_the_nearest(entry, hint) -> None:
    with pytest.raises(ConfigError, match=hint):
        build_judge(JudgeBlock.model_validate({"scorers": [entry]}), parts())


class Open(First):
    """Takes whatever it is given."""

    def __init__(self, **options: float) -> None:
        super().__init__("open")
        self.options = options


class Unread(First):
    def __init__(self, place: "Nowhere" = None) -> None:  # noqa: F821 # pyright: ignore
        super().__init__("unread")


def test_a_class_of_any_options_is_given_them() -> None:
    made = load_scorer(f"{__name__}:Open", {"speed": 2.0}, parts())
    assert isinstance(made, Open) and made.options == {"speed": 2.0}
    assert load_scorer(f"{__name__}:Open", {}, parts()).name == "open"


@pytest.mark.parametrize(
    ("name", "options"),
    [("similarity", {"low": 1.0}), ("duration", {"tolerance": 0.0}), ("duration", {"tolerance": math.inf}),
     ("ending", {"unended": 5.0}), ("wer", {"cost": -7}), ("wer", {"cost": CODES}), ("nll", {"cost": 4}),
     ("wer", {"scale": 0.0}), ("lm", {"scale": math.inf})],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, options) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        load_scorer(name, options, parts())
