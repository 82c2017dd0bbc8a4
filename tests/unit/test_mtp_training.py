"""Training of draft modules: what they learn, runs that go on, and bundles that speak with them."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llasa.bundle import load_bundle
from llasa.core import SamplingParams
from llasa.data.shards import Header, save
from llasa.engines.mtp import Drafts
from llasa.engines.weights import load_model
from llasa.errors import BundleError, ConfigError, InputError, Interrupted
from llasa.export.hf import Changes, export_hf
from llasa.train import mtp
from llasa.train.mtp import read_recipe, train
from llasa.weights import DRAFTS
from tests.conftest import build_tiny_bundle
from tests.unit.test_sft import said

RECIPE = """
model = "{model}"
data = "{data}"
out = "{out}"
steps = 6
learning_rate = 5e-3
warmup = 2
validate_every = 3
[rows]
tokens = 300
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle and a folder prepared with its codec."""
    folder = tmp_path_factory.mktemp("material")
    bundle = load_bundle(build_tiny_bundle(folder / "model"))
    header = Header(bundle.codec_name, 25.0, bundle.codec.codebook_size)
    rows = {"train": [*said("ada", 40), *said("ben", 40)], "heldout": said("ada", 4) + said("ben", 4)}
    save(folder / "prepared", rows, header)
    save(folder / "unmeasured", {"train": said("ada", 10)}, header)
    return folder


def recipe(material: Path, out: Path, *settings: str, data: str = "prepared") -> mtp.Mtp:
    path = out.with_suffix(".toml")
    text = RECIPE.format(model=material / "model", data=material / data, out=out)
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, settings)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "drafts" / "model.safetensors")


@pytest.mark.fault("R2")
def test_a_stopped_run_ends_where_an_uninterrupted_one_ends(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = train(recipe(material, tmp_path / "whole"))
    assert measures is not None and {"held_loss_1", "held_accepted_2"} <= measures.keys()
    step = mtp.MtpTask.step

    def stopped(self: mtp.MtpTask, index: int):
        if index == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, index)

    monkeypatch.setattr(mtp.MtpTask, "step", stopped)
    with pytest.raises(Interrupted, match="after step 4 of 6"):
        train(recipe(material, tmp_path / "cut"))
    monkeypatch.setattr(mtp.MtpTask, "step", step)
    assert train(recipe(material, tmp_path / "cut")) == measures
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    rows = (tmp_path / "cut" / "state" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [3, 6]
    with pytest.raises(ConfigError, match="begun with other settings"):
        train(recipe(material, tmp_path / "cut", "learning_rate=1e-3"))


def test_the_model_stays_and_its_bundle_speaks_with_what_was_learnt(material: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = load_file(material / "model" / "lm" / "model.safetensors")
    measures = train(recipe(material, out, "steps=40", "validate_every=40"))
    assert measures == json.loads((out / "report.json").read_text("utf-8"))
    first = train(recipe(material, tmp_path / "short", "steps=1"))
    assert measures is not None and first is not None
    assert measures["held_loss_1"] < first["held_loss_1"] and 0 < measures["held_accepted_1"] < 1
    bundle = load_bundle(out / "bundle", engine="drafted:exact")
    after = load_file(bundle.folder / "lm" / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert {f"lm/{DRAFTS}/config.json", f"lm/{DRAFTS}/model.safetensors"} <= bundle.manifest.files.keys()
    params = bundle.prompt.constrain(SamplingParams(max_tokens=20, min_tokens=20, loop_guard=False))
    prompt = bundle.prompt.render(bundle.form("hello").text)
    [made] = bundle.engine.submit(prompt, params).result()
    assert made.stats["drafts_guessed"] > 0 and len(made.ids) == 20
    greedy = replace(params, temperature=0.0)
    [made] = bundle.engine.submit(prompt, greedy).result()
    plain = load_bundle(out / "bundle").engine
    assert plain.submit(prompt, greedy).result()[0].ids == made.ids
    for engine in (plain, bundle.engine):
        engine.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_drafts_go_along_where_the_model_stays_and_are_left_where_it_changes(
    material: Path, tmp_path: Path
) -> None:
    train(recipe(material, tmp_path / "run", "steps=1"))
    bundle = load_bundle(tmp_path / "run" / "bundle")
    kept = export_hf(bundle, tmp_path / "kept")
    assert f"lm/{DRAFTS}/model.safetensors" in kept.files
    changed = export_hf(bundle, tmp_path / "changed", Changes(lm=material / "model" / "lm"))
    assert not any(DRAFTS in name for name in changed.files)
    alone = export_hf(bundle, tmp_path / "alone", parts="lm")
    assert f"{DRAFTS}/model.safetensors" in alone.files
    export_hf(bundle, tmp_path / "alone", parts="lm", force=True)  # what it wrote is its own


def test_training_goes_on_from_the_published_layout(material: Path, tmp_path: Path) -> None:
    train(recipe(material, tmp_path / "first", "modules=3", "steps=2"))
    lm = load_file(material / "model" / "lm" / "model.safetensors")
    whole = weights(tmp_path / "first") | {f"llm.{name}": weight for name, weight in lm.items()}
    save_file(whole, tmp_path / "published.safetensors")
    drafts = f"drafts={str(tmp_path / 'published.safetensors')!r}"
    told = train(recipe(material, tmp_path / "second", drafts, "steps=1"))
    assert told is not None and "held_loss_3" in told
    other = {name: weight for name, weight in whole.items() if "mtp_2_proj" not in name}
    save_file(other, tmp_path / "published.safetensors")
    with pytest.raises(BundleError, match=r"2 weights do not fit, first mtp_2_proj\.bias"):
        train(recipe(material, tmp_path / "third", drafts))


def test_what_cannot_be_trained_on_is_refused(material: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 held-out rows.*--held-out"):
        train(recipe(material, tmp_path / "run", data="unmeasured"))
    for setting in ("modules=0", "modules=9", "steps=0", "learning_rate=inf", "module=2"):
        with pytest.raises(ConfigError):
            recipe(material, tmp_path / "run", setting)
    with pytest.raises(BundleError, match=r"there is no file model\.safetensors.*llasa train mtp"):
        _ = load_bundle(material / "model", engine="drafted:exact").engine
    with pytest.raises(ConfigError, match="Write it as drafted:HOW"):
        _ = load_bundle(material / "model", engine="drafted").engine


def test_new_modules_hand_on_what_they_read(material: Path) -> None:
    model = load_model(material / "model" / "lm", torch.float32)
    drafts = Drafts.fresh(model.model, 2)
    hidden = model.model(input_ids=torch.arange(12)[None]).last_hidden_state
    for read in drafts(hidden, model.model.rotary_emb):
        told, plain = (model.lm_head(x).softmax(-1) for x in (read, hidden))
        assert torch.minimum(told, plain).sum(-1).min() > 0.8


def test_the_recipe_of_the_repository_is_understood() -> None:
    told = read_recipe(Path(__file__).parents[2] / "recipes" / "mtp" / "starter.toml", ["steps=9"])
    assert told.steps == 9 and told.model == "starter" and told.rows.learn_prompt
