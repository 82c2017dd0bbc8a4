"""`llasa train sft`: the command from prepared folders to a bundle that speaks."""

import json
from pathlib import Path

import pytest

from llasa.bundle import load_bundle
from llasa.data.shards import Header, Row, save

RECIPE = Path("recipes/sft/finetune.toml").absolute()
FEW = [
    "trainer.max_steps=4", "trainer.save_steps=2", "trainer.eval_steps=2", "trainer.logging_steps=1",
    "rows.tokens=600", "samples.every=4", 'samples.texts=["Good morning."]',
]  # fmt: skip


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The voices of the starter bundle, each a few times, as if they were a data set."""
    bundle = load_bundle("starter")
    folder = tmp_path_factory.mktemp("data") / "prepared"
    voices = [bundle.voices.get(name) for name in bundle.voices.names()]
    rows = [
        Row(f"{voice.name}-{i}", voice.text, voice.name, "en", len(voice.codes) / 25, voice.codes[i:])
        for voice in voices for i in range(8)
    ]  # fmt: skip
    header = Header(bundle.codec_name, 25.0, bundle.codec.codebook_size)
    save(folder, {"train": rows, "heldout": rows[::8] + rows[1::8]}, header)
    return folder


def test_the_starter_is_tuned_and_speaks(run, prepared, tmp_path):
    given = ("train", "sft", RECIPE, *settings(f"data={str(prepared)!r}", *FEW), "--out", tmp_path / "run")
    looked = run(*given, "--dry-run")
    assert looked.code == 0 and "First loss" in looked.err, looked.err
    assert Path(looked.out.strip()).name == "preflight" and not (tmp_path / "run" / "run.json").exists()
    made = run(*given, "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert told["problems"] == [] and told["rejected"] == 0
    assert (tmp_path / "run" / "samples" / "step-4-0.wav").is_file()
    measured = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("sample_wer" in row for row in measured) and any("eval_held_loss" in row for row in measured)
    spoken = run("say", "Good morning.", "--bundle", told["output"], "-o", tmp_path / "out.wav")
    assert spoken.code == 0 and (tmp_path / "out.wav").stat().st_size > 8000, spoken.err


def test_what_is_wrong_is_told_in_a_line(run, prepared, tmp_path):
    for given, told in (
        (("rows.voice_promt=1.0",), "Did you mean 'voice_prompt'?"),
        ((f"data={str(tmp_path / 'none')!r}",), "there is no index.jsonl"),
        ((f"data={str(prepared)!r}", "rows.max_length=5"), "none left to train on"),
    ):
        found = run("train", "sft", RECIPE, *settings(*given), "--out", tmp_path / "run")
        assert found.code == 2 and told in found.err and "Traceback" not in found.err, found.err
