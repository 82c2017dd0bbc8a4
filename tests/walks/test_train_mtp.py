"""`llasa train mtp`: the command from prepared folders to a bundle that speaks with drafts."""

import json
from collections.abc import Callable
from pathlib import Path

from llasa.bundle import load_bundle
from llasa.data.shards import Header, save
from tests.conftest import Ran
from tests.unit.test_sft import said

Run = Callable[..., Ran]
RECIPE = Path("recipes/mtp/starter.toml").absolute()


def test_drafts_are_trained_and_a_text_is_said_with_them(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    header = Header(bundle.codec_name, 25.0, bundle.codec.codebook_size)
    save(tmp_path / "prepared", {"train": said("ada", 20), "heldout": said("ada", 4)}, header)
    settings = (
        f"model={str(tiny_bundle)!r}",
        f"data={str(tmp_path / 'prepared')!r}",
        "steps=3",
        "rows.tokens=300",
    )
    words = ("train", "mtp", RECIPE, *(part for one in settings for part in ("--set", one)))
    ran = run(*words, "--out", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert 0 < told["held_accepted_1"] <= 1 and Path(told["output"]) == tmp_path / "run" / "bundle"
    again = run(*words, "--out", tmp_path / "run")
    assert again.code == 0 and "accepted on held-out rows" in again.err
    assert again.out.strip() == str(tmp_path / "run" / "bundle")
    say = ("say", "Hello.", "--bundle", told["output"], "-o", tmp_path / "out.wav", "--json")
    said_by = json.loads(run(*say, "--engine", "drafted:top-k=9", "--set", "max_tokens=20").out)
    assert said_by["drafts"] == "top-k=9" and said_by["segments"][0]["stats"]["drafts_guessed"] > 0
    assert json.loads(run(*say, "--set", "max_tokens=20").out)["drafts"] is None
    refused = run(*say, "--engine", "drafted:often")
    assert refused.code == 2 and "exact, top-k or top-k=100" in refused.err
