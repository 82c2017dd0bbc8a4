"""Evaluations as runs: resumed after anything, refused if changed, the same on Ray; a tiny bundle says it."""

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from llasa.audio import read, write
from llasa.core import Audio
from llasa.errors import BundleError, ConfigError, EngineError
from llasa.evaluate.plan import Plan, checked
from llasa.evaluate.results import Row
from llasa.evaluate.run import Bench, run
from llasa.evaluate.sets import lines_of
from tests.conftest import build_tiny_bundle, clip
from tests.unit.test_cluster import Remote

TIMES = {"total_s", "first_s"}


def plan(bundle: Path, **changes: Any) -> Plan:
    """Two systems over three lines that nobody but arithmetic listens to."""
    sampling = {"max_tokens": 40}
    systems = [
        {"name": name, "bundle": str(bundle), "sampling": sampling | {"temperature": hot}}
        for name, hot in (("calm", 0.5), ("wild", 1.0))
    ]
    known: dict[str, Any] = {"systems": systems, "sets": [{"lines": 3}], "bundle": str(bundle)}
    known |= {
        "recognizers": [],
        "similarity": None,
        "scorers": [{"name": "repetition"}],
        "seed_tts_eval": False,
    }
    return checked(Plan.model_validate(known | changes))


def rows(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").splitlines()]


def bare(folder: Path) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows(folder)]


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation; read only."""
    folder = tmp_path_factory.mktemp("whole")
    done = list(run(plan(tiny_bundle), folder))
    assert [(one.number, one.total, one.before) for one in done] == [(n, 6, 0) for n in range(1, 7)]
    return folder


def test_a_row_tells_all_of_an_utterance(whole: Path) -> None:
    first = rows(whole)[0]
    assert tuple(first[key] for key in ("system", "set", "line", "take")) == ("calm", "built-in", "line-1", 0)
    assert first["voice"] == "ada" and first["text"] == "Bring two lemons." and first["tokens"] == 40
    assert first["failure"] == "no end" and first["finish"] == "length"  # it is cut after 40 codes
    assert first["measures"]["units"] == 12 and "repetition.value" in first["measures"]
    assert 0 < first["first_s"] <= first["total_s"]
    sound = read(whole / first["sound"], min_s=0.0)
    assert sound.duration_s == pytest.approx(first["duration_s"])
    facts = json.loads((whole / "run.json").read_text())["facts"]
    assert facts["verb"] == "evaluate" and facts["texts"]["built-in"]["lines"] == 3


def test_stopped_anywhere_it_goes_on(whole: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert len(list(islice(run(plan(tiny_bundle), out), 2))) == 2
    with (out / "results.jsonl").open("a") as file:
        file.write('{"system": "calm", "se')  # a kill in the middle of a line
    (out / rows_before(out)[0]["sound"]).unlink()  # and a sound that never came to the disk
    done = list(run(plan(tiny_bundle), out))
    assert [one.before for one in done] == [1] * 5

    def order(some: list[Row]) -> list[Row]:
        return sorted(some, key=lambda row: (row["system"], row["line"]))

    assert order(bare(out)) == order(bare(whole))
    assert not list(run(plan(tiny_bundle), out))


def rows_before(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("utf-8").split("\n")[:-1]]


def test_a_changed_recipe_is_refused_with_what_changed(whole: Path, tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.takes: was 1, is 2"):
        next(run(plan(tiny_bundle, takes=2), whole))
    with pytest.raises(ConfigError, match=r"texts\.built-in\.digest"):
        next(run(plan(tiny_bundle, sets=[{"lines": 3, "language": "en"}]), whole))


def test_a_changed_text_is_said_again(tiny_bundle: Path, tmp_path: Path) -> None:
    lines, out = tmp_path / "lines.txt", tmp_path / "out"
    lines.write_text("Bring two lemons.\nBring salt.\n")
    known = {"sets": [{"source": str(lines)}]}
    list(run(plan(tiny_bundle, **known), out))
    lines.write_text("Bring two lemons.\nBring sugar.\n")
    list(run(plan(tiny_bundle, **known), out, changed_ok=True))
    assert [row["text"] for row in rows(out)] == ["Bring two lemons."] * 2 + ["Bring sugar."] * 2


def test_another_judge_in_the_same_file_is_a_change(tiny_bundle: Path, tmp_path: Path) -> None:
    judge, written = tmp_path / "judge.toml", '[judge]\n[[judge.scorers]]\nname = "repetition"\n'
    judge.write_text(written)
    system = {"bundle": str(tiny_bundle), "effort": 2, "judge": str(judge), "sampling": {"max_tokens": 20}}
    known = {"systems": [system], "sets": [{"lines": 1}]}
    list(run(plan(tiny_bundle, **known), tmp_path / "out"))
    judge.write_text(f"{written}weight = 0.5\n")
    with pytest.raises(ConfigError, match=r"judge\.judge\.scorers\.0\.weight"):
        next(run(plan(tiny_bundle, **known), tmp_path / "out"))


def sounds_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.flac")}


def test_ray_gives_the_same_rows(
    whole: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Remote(cores=1))  # pyright: ignore[reportArgumentType]
    list(run(plan(tiny_bundle), tmp_path / "ray", ray=True))
    assert bare(tmp_path / "ray") == bare(whole)
    sounds = sounds_in(tmp_path / "ray")
    assert sounds == sounds_in(whole) and len(sounds) == 6


def test_takes_have_other_seeds(tiny_bundle: Path, tmp_path: Path) -> None:
    systems = [{"name": "one", "bundle": str(tiny_bundle), "sampling": {"max_tokens": 40}}]
    list(run(plan(tiny_bundle, systems=systems, sets=[{"lines": 1}], takes=2, seed=5), tmp_path / "out"))
    first, second = rows(tmp_path / "out")
    assert (first["seed"], second["seed"]) == (5, 6) and first["sound"] != second["sound"]
    assert (tmp_path / "out" / first["sound"]).read_bytes() != (
        tmp_path / "out" / second["sound"]
    ).read_bytes()


def test_a_reference_is_cloned_and_recordings_are_systems(tiny_bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "me.wav", clip(2.0))
    write(tmp_path / "wavs-x.wav", clip(1.5, seed=1))
    (tmp_path / "meta.lst").write_text("x|The cat sat.|me.wav|The dog ran.|wavs-x.wav\n")
    systems = [
        {"bundle": str(tiny_bundle), "sampling": {"max_tokens": 40}},
        {"bundle": str(tiny_bundle), "sampling": {"max_tokens": 40}, "voice": "ada", "name": "named"},
        {"recordings": "original"}, {"recordings": "codec"},
    ]  # fmt: skip
    list(
        run(
            plan(tiny_bundle, systems=systems, sets=[{"source": str(tmp_path / "meta.lst")}]),
            tmp_path / "out",
        )
    )
    cloned, named, original, codec = rows(tmp_path / "out")
    assert (cloned["voice"], named["voice"]) == ("reference", "ada")
    assert original["finish"] == "recorded" and original["total_s"] is None and not original["failure"]
    assert original["duration_s"] == pytest.approx(1.5) and codec["duration_s"] == pytest.approx(
        1.5, abs=0.05
    )
    assert codec["measures"]["repetition.value"] > 0 and "repetition" in original["missing"]


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"scorers": [{"name": "naturalnes"}]}, ConfigError, "Did you mean 'naturalness'"),
        ({"scorers": [{"name": "duration", "tolerence": 1.0}]}, ConfigError, "Did you mean 'tolerance'"),
        ({"recognizers": ["pocketsphynx"]}, ConfigError, "pocketsphinx"),
        ({"systems": [{"url": "http://127.0.0.1:9/v1"}]}, EngineError, "nobody answers"),
        ({"systems": [{"recordings": "original"}]}, ConfigError, "built-in, line-1: there is no recording"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_line(
    tiny_bundle: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        next(run(plan(tiny_bundle, **changes), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_lines_that_cannot_be_said_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("Fine.\n...\n!!!\n")
    with pytest.raises(ConfigError, match=r"(?s)2 of 3 rows cannot be used\..*line-2: .*line-3: "):
        next(run(plan(tiny_bundle, sets=[{"source": str(tmp_path / "lines.txt")}]), tmp_path / "out"))
    (tmp_path / "meta.lst").write_text("x|W.|none.wav|Text.\n")
    with pytest.raises(ConfigError, match=r"(?s)1 of 1 rows.*, x: .*none\.wav"):
        next(run(plan(tiny_bundle, sets=[{"source": str(tmp_path / "meta.lst")}]), tmp_path / "out"))


def test_a_checkpoint_speaks_in_place_of_the_bundles_own_weights(tiny_bundle: Path, tmp_path: Path) -> None:
    other = build_tiny_bundle(tmp_path / "other", seed=1)
    systems = [
        {"name": name, "bundle": str(folder), "checkpoint": checkpoint, "sampling": {"max_tokens": 40}}
        for name, folder, checkpoint in (
            ("own", tiny_bundle, None),
            ("same", tiny_bundle, str(tiny_bundle / "lm")),
            ("other", tiny_bundle, str(other / "lm")),
        )
    ]
    list(run(plan(tiny_bundle, systems=systems, sets=[{"lines": 1}]), tmp_path / "out"))
    own, same, another = ((tmp_path / "out" / row["sound"]).read_bytes() for row in rows(tmp_path / "out"))
    assert own == same != another
    facts = json.loads((tmp_path / "out/run.json").read_text())["facts"]["systems"]
    assert facts["own"] == facts["same"] != facts["other"]  # the bundle's own seal tells of its weights
    systems[0]["checkpoint"] = str(tmp_path)
    with pytest.raises(BundleError, match="Name a checkpoint-N of a run"):
        next(run(plan(tiny_bundle, systems=systems), tmp_path / "none"))


def test_an_adapter_is_a_checkpoint_too(tiny_bundle: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_bundle / "lm")
    kind = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(model, kind).save_pretrained(tmp_path / "checkpoint-5")
    systems = [
        {"bundle": str(tiny_bundle), "checkpoint": checkpoint, "sampling": {"max_tokens": 40}}
        for checkpoint in (None, str(tmp_path / "checkpoint-5"))
    ]
    list(run(plan(tiny_bundle, systems=systems, sets=[{"lines": 1}]), tmp_path / "out"))
    own, adapted = ((tmp_path / "out" / row["sound"]).read_bytes() for row in rows(tmp_path / "out"))
    assert own != adapted and rows(tmp_path / "out")[1]["system"] == "tiny checkpoint-5, effort 1"


class Ears:
    """Anyone's recogniser."""

    name, text_form = "ears@1", "written"

    def transcribe(self, audio: list[Audio]) -> list[Any]:
        from llasa.recognizers.base import Transcript

        return [Transcript("bring too lemons") for _ in audio]


def test_what_is_heard_is_compared_in_every_way(tiny_bundle: Path) -> None:
    bench = Bench(plan(tiny_bundle, recognizers=["tests.unit.test_evaluate_run:Ears"], seed_tts_eval=True))
    line = lines_of(bench.plan.sets[0])[0]
    said = bench.system("calm", line).say(line, 0)
    heard = bench.ears.listen(line, said)
    assert heard.heard == {"Ears": "bring too lemons"}
    assert heard.measures["wer:Ears"] == pytest.approx(1 / 3) == heard.measures["seed:Ears"]
    assert heard.measures["cer:Ears"] == pytest.approx(1 / 14) and heard.measures["tokens.wer:Ears"] == 3
    assert heard.words["Ears"][1] == ["two", "too", "changed"]


def test_texts_that_nothing_could_be_compared_with_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    """Also where only a server would say them, which nobody asks before."""
    (tmp_path / "lines.txt").write_text("Fine.\n...\n")
    wanted = {
        "systems": [{"url": "http://127.0.0.1:9/v1"}],
        "sets": [{"source": str(tmp_path / "lines.txt")}],
    }
    with pytest.raises(ConfigError, match=r"line-2: .*nothing that can be said"):
        next(run(plan(tiny_bundle, **wanted), tmp_path / "out"))


def test_what_is_not_there_is_not_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    wanted = {"recognizers": ["whisper:" + str(tmp_path / "none")], "similarity": str(tmp_path / "nobody")}
    bench = Bench(plan(tiny_bundle, **wanted, emotion=str(tmp_path / "nothing")))
    assert set(bench.ears.missing) == {"none", "similarity", "emotion"} and not bench.ears.listeners
