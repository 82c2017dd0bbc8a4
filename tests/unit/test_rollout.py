"""Candidates of a step: drawn with the weights in training, judged while others are being drawn."""

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llasa.bundle import load_bundle
from llasa.core import Candidate, Judged, Score
from llasa.engines.native import NativeEngine
from llasa.engines.weights import load_model
from llasa.errors import ScorerError
from llasa.train import reward
from llasa.train.prompts import Prompts, Text
from llasa.train.rollout import Place, Roller, resting
from llasa.train.scoring import Scoring

PROMPTS = ["ada: the cat"] * 3 + ["ada: a hat on a mat"] * 3
PLACE = Place(step=1, call=1, first=0, group=3, longest=40)


class Counting:
    """A judge that likes many different codes, and remembers what it was asked together."""

    def __init__(self, concurrency: int = 1, wait_s: float = 0.0, broken: bool = False) -> None:
        self.concurrency, self.wait_s, self.broken = concurrency, wait_s, broken
        self.calls: list[list[Candidate]] = []
        self.busy, self.most = 0, 0
        self.lock = threading.Lock()

    def judge(self, candidates: Sequence[Candidate], held_out: bool = False) -> list[Judged]:
        with self.lock:
            self.calls.append(list(candidates))
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(self.wait_s)
        with self.lock:
            self.busy -= 1
        if self.broken:
            raise ScorerError("out of order")
        return [
            Judged(one, Score(len(set(one.codes)) / 100, {"codes": len(one.codes)})) for one in candidates
        ]


class Policy:
    """A tiny model in training with what draws from it."""

    def __init__(self, folder: Any, judge: Any) -> None:
        bundle = load_bundle(folder)
        self.prompt = bundle.prompt
        self.model = load_model(bundle.folder / "lm", torch.float32)
        self.engine = NativeEngine(self.model, max_length=1024)
        speaking = bundle.with_engine(self.engine)
        texts = [Text("1", "the cat"), Text("2", "a hat on a mat")]
        self.prompts = Prompts(speaking, texts, None, {"temperature": 1.0, "top_p": 1.0, "loop_guard": False})
        self.roller = Roller(
            self.engine, self.prompt.codes, self.prompt.end_id, judge, self.prompts.job, seed=7
        )


@pytest.fixture
def policy(tiny_bundle):
    made: list[Policy] = []

    def make(judge: Any) -> Policy:
        made.append(Policy(tiny_bundle, judge))
        return made[-1]

    yield make
    for one in made:
        one.engine.close()


def trainer(model: Any, step: int = 0, process: int = 0) -> Any:
    """What the roller asks of TRL's trainer."""
    return SimpleNamespace(
        model=model, state=SimpleNamespace(global_step=step), num_generations=3, max_completion_length=40,
        accelerator=SimpleNamespace(process_index=process), use_vllm=False,
    )  # fmt: skip


def test_a_rollout_is_in_trls_form_and_in_order(policy):
    made = policy(Counting())
    made.model.train()
    found = made.roller(PROMPTS, trainer(made.model))
    assert made.model.training
    assert found["prompt_ids"] == [made.prompts.job(name).prompt for name in PROMPTS]
    assert found["logprobs"] is None and len(found["completion_ids"]) == 6
    for ids, one, number in zip(found["completion_ids"], found["rolled"], range(6), strict=True):
        made_here = one.judged.candidate
        assert (one.group, one.candidate) == divmod(number, 3) and one.ids == ids
        ended = ids[-1] == made.prompt.end_id
        assert ended == (made_here.finish == "stop")
        assert made.prompt.codes(ids[:-1] if ended else ids) == made_here.codes
        assert 0 < len(made_here.codes) <= 40 and one.reward == len(set(made_here.codes)) / 100
        assert made_here.utterance.text == PROMPTS[number].split(": ")[1]
    assert len({tuple(ids) for ids in found["completion_ids"]}) == 6


def test_what_is_drawn_depends_on_seed_step_call_and_place_alone(policy):
    made = policy(Counting())
    together, _ = made.roller.roll(PROMPTS, PLACE)
    again, _ = made.roller.roll(PROMPTS, PLACE)
    assert [one.ids for one in again] == [one.ids for one in together]
    # Two processes, whose halves cut no group, and three, one of which has parts of two groups.
    parts = [made.roller.roll(PROMPTS[at : at + 2], Place(1, 1, at, 3, 40))[0] for at in (0, 2, 4)]
    assert [(one.group, one.candidate) for part in parts for one in part] == [divmod(i, 3) for i in range(6)]
    assert [one.ids[:10] for part in parts for one in part] == [one.ids[:10] for one in together]
    for other in (Place(2, 1, 0, 3, 40), Place(1, 2, 0, 3, 40)):
        assert [one.ids for one in made.roller.roll(PROMPTS, other)[0]] != [one.ids for one in together]


def test_calls_of_a_step_are_counted_and_a_new_step_starts_anew(policy):
    made = policy(Counting())
    first = made.roller(PROMPTS, trainer(made.model, 0))["rolled"]
    second = made.roller(PROMPTS, trainer(made.model, 0))["rolled"]
    assert [one.ids for one in first] != [one.ids for one in second] and len(made.roller.rolled) == 12
    third = made.roller(PROMPTS, trainer(made.model, 1))["rolled"]
    assert made.roller.rolled == third and third[0].step == 2


def test_weights_that_an_optimizer_changed_are_used(policy):
    made = policy(Counting())
    before, _ = made.roller.roll(PROMPTS, PLACE)
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=0.1, fused=True)
    made.model.train()
    made.model(torch.arange(60, 100)[None]).logits.square().mean().backward()
    optimizer.step()
    with resting(made.model):
        after, _ = made.roller.roll(PROMPTS, PLACE)
    assert [one.ids for one in before] != [one.ids for one in after]
    fresh = NativeEngine(made.model, max_length=1024)
    job = made.prompts.job(PROMPTS[0])
    other = Roller(fresh, made.prompt.codes, made.prompt.end_id, Counting(), made.prompts.job, seed=7)
    assert [one.ids for one in other.roll(PROMPTS, PLACE)[0]] == [one.ids for one in after] and job
    fresh.close()


def test_a_judge_of_one_call_is_given_what_waits_and_others_one_each():
    candidates = [Candidate(None, [number], "stop") for number in range(12)]  # pyright: ignore
    for concurrency, sizes in ((1, {1, 11}), (4, {1})):
        judge = Counting(concurrency, wait_s=0.05)
        with Scoring(judge) as scoring:
            scoring.put((0, 0), candidates[0])
            time.sleep(0.02)
            for number in range(1, 12):
                scoring.put((0, number), candidates[number])
            verdicts = scoring.verdicts()
        assert {len(call) for call in judge.calls} == sizes
        assert judge.most == concurrency
        assert [verdicts[0, number].candidate for number in range(12)] == candidates
        assert scoring.judge_s >= 0.05 * len(judge.calls)


def test_verdicts_come_while_others_are_drawn(policy):
    judge = Counting(concurrency=8, wait_s=0.01)
    made = policy(judge)
    many = [name for name in PROMPTS for _ in range(4)]
    rolled, spent = made.roller.roll(many, Place(1, 1, 0, 12, 400))
    lengths = sorted(len(one.ids) for one in rolled)
    assert lengths[0] < lengths[-1]  # or nothing could overlap
    assert len(judge.calls) == 24 and spent.judge_s >= 0.24
    assert spent.exposed_s < spent.judge_s / 2


@pytest.mark.fault("R9")
def test_a_judge_that_fails_as_a_whole_ends_the_step(policy):
    made = policy(Counting(broken=True))
    with pytest.raises(ScorerError, match="out of order"):
        made.roller.roll(PROMPTS, PLACE)
    made.roller._judge = Counting()
    assert len(made.roller.roll(PROMPTS, PLACE)[0]) == 6  # nothing is left behind


def rewarded(rolled: Any, ids: Any = None) -> tuple[Any, dict[str, float]]:
    told: dict[str, float] = {}
    spent = reward.Spent(1.0, 2.0, 0.5)
    given = [one.ids for one in rolled] if ids is None else ids
    found = reward.judge(
        prompts=PROMPTS, completion_ids=given, rolled=rolled, spent=[spent] * len(rolled),
        log_metric=told.__setitem__, completions=[""], trainer_state=None,
    )  # fmt: skip
    return found, told


def test_rewards_are_the_verdicts_and_none_without_one(policy):
    made = policy(Counting())
    rolled, _ = made.roller.roll(PROMPTS, PLACE)
    values, told = rewarded(rolled)
    assert values == [len(set(one.judged.candidate.codes)) / 100 for one in rolled]
    assert told["judge/codes"] == sum(len(one.judged.candidate.codes) for one in rolled) / 6
    assert told["time/judge_s"] == 2.0 and told["rollouts/unjudged"] == 0.0
    lost = Judged(rolled[2].judged.candidate, None, "unjudged", "no answer")
    rolled[2] = type(rolled[2])(1, 0, 2, rolled[2].ids, lost)
    values, told = rewarded(rolled)
    assert values[2] is None and None not in (values[:2] + values[3:])
    assert told["rollouts/unjudged"] == pytest.approx(1 / 6)


@pytest.mark.fault("R11")
def test_verdicts_of_other_completions_are_refused(policy):
    made = policy(Counting())
    rolled, _ = made.roller.roll(PROMPTS, PLACE)
    ids = [one.ids for one in rolled]
    for wrong in ([ids[1], ids[0], *ids[2:]], ids[:-1], [ids[0][:-1], *ids[1:]]):
        with pytest.raises(ScorerError, match="do not belong"):
            rewarded(rolled, wrong)
